/*
 * Backend `hand`: this host is node 0, with the driver and a worker process of its own; the users start the workers of
 * the other nodes themselves. Ranks are split evenly in node order. See backend.h.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "cluster/backend.h"
#include "cluster/spawn.h"

enum { SECRET_FILE_LIMIT_BYTES = 4096 };

static int default_secret_path(char *ret_path, size_t size_bytes, struct err *err) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const struct passwd *user = NULL;
    if (cache != NULL && cache[0] == '/') {
        snprintf(ret_path, size_bytes, "%s/shoal/launch-secret", cache);
        return 0;
    }
    if (home == NULL || home[0] == '\0') {
        user = getpwuid(getuid());
        home = user == NULL ? NULL : user->pw_dir;
    }
    if (home == NULL)
        return err_set(err, ERR_NOT_FOUND, "no home directory for the launch's secret; set SHOAL_LAUNCH_SECRET");
    snprintf(ret_path, size_bytes, "%s/.cache/shoal/launch-secret", home);
    return 0;
}

static int make_secret_file(const char *path, struct net_secret *ret, struct err *err) {
    char folder[4096], text[2 * NET_SECRET_BYTES + 2];
    struct net_secret secret;
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = '\0';
    if (net_secret_make(&secret, err) != 0 || file_make_dirs(folder, err) != 0)
        return -1;
    hash_hex(secret.bytes, NET_SECRET_BYTES, text);
    text[2 * NET_SECRET_BYTES] = '\n';
    if (file_write_atomic(path, text, 2 * NET_SECRET_BYTES + 1, 0600, err) != 0)
        return -1;
    log_info("Made the launch secret %s: copy it to the other nodes", path);
    *ret = secret;
    return 0;
}

/* Like ssh's keys: a file that others can read is no secret. */
static int read_secret_file(const char *path, struct net_secret *ret, struct err *err) {
    struct stat st;
    if (stat(path, &st) != 0)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    if ((st.st_mode & 077) != 0)
        return err_set(err, ERR_INVALID, "the launch secret %s can be used by others (mode %03o); run chmod 600 on it", path,
                       (unsigned)st.st_mode & 0777);
    struct buf text;
    buf_init(&text, SECRET_FILE_LIMIT_BYTES);
    int result = file_read(path, &text, err);
    if (result == 0) {
        while (text.len_bytes > 0 && strchr(" \t\r\n", text.data[text.len_bytes - 1]) != NULL)
            text.data[--text.len_bytes] = '\0';
        result = net_secret_parse(buf_str(&text), ret, err);
        if (result != 0)
            err_wrap(err, "%s", path);
    }
    buf_finish(&text);
    return result;
}

int cluster_hand_secret(struct net_secret *ret, struct err *err) {
    char path[4096];
    const char *text = getenv("SHOAL_LAUNCH_SECRET");
    if (text != NULL && text[0] != '\0')
        return net_secret_parse(text, ret, err) == 0 ? 0 : err_wrap(err, "SHOAL_LAUNCH_SECRET");
    if (default_secret_path(path, sizeof path, err) != 0)
        return -1;
    return file_exists(path) ? read_secret_file(path, ret, err) : make_secret_file(path, ret, err);
}

/* The numeric address of master_addr, which must be one of this host's. */
static int find_master(struct cluster *cluster, struct err *err) {
    const char *master = cluster->opts.master_addr;
    if (master == NULL || master[0] == '\0') {
        if (cluster->n_nodes > 1)
            return err_set(err, ERR_INVALID, "--nnodes %d needs --master-addr: the address of this host that the other nodes can reach",
                           cluster->n_nodes);
        master = "127.0.0.1";
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
    int rc = getaddrinfo(master, NULL, &hints, &list);
    if (rc != 0)
        return err_set(err, ERR_NOT_FOUND, "--master-addr %s: %s", master, gai_strerror(rc));
    int result = -1;
    for (const struct addrinfo *at = list; at != NULL && result != 0; at = at->ai_next) {
        char host[NET_ADDR_BYTES];
        if (getnameinfo(at->ai_addr, at->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) == 0)
            result = net_iface_choose(host, NULL, &cluster->iface, err);
    }
    freeaddrinfo(list);
    if (result != 0)
        return err_wrap(err, "--node-rank 0 is the driver, so --master-addr %s must be an address of this host", master);
    snprintf(cluster->iface_why, sizeof cluster->iface_why, "by --master-addr");
    return 0;
}

static int hand_place(struct cluster *cluster, struct err *err) {
    const struct cluster_opts *opts = &cluster->opts;
    int n_ranks = opts->tp_size * opts->pp_size;
    cluster->n_nodes = opts->n_nodes > 0 ? opts->n_nodes : 1;
    if (n_ranks % cluster->n_nodes != 0)
        return err_set(err, ERR_INVALID, "%d ranks (tensor parallel %d, pipeline parallel %d) do not divide evenly over --nnodes %d",
                       n_ranks, opts->tp_size, opts->pp_size, cluster->n_nodes);
    if (find_master(cluster, err) != 0 || cluster_hand_secret(&cluster->secret, err) != 0)
        return -1;
    cluster->bound.port = opts->master_port > 0 ? opts->master_port : CLUSTER_HAND_PORT;
    for (int i = 0; i < cluster->n_nodes; i++) {
        cluster->nodes[i].n_ranks = n_ranks / cluster->n_nodes;
        cluster->nodes[i].first_rank = i * cluster->nodes[i].n_ranks;
    }
    snprintf(cluster->nodes[0].host, sizeof cluster->nodes[0].host, "%s", cluster->iface.host);
    return 0;
}

static int hand_start(struct cluster *cluster, struct err *err) {
    struct cluster_spawn *spawn;
    if (cluster_spawn_start(cluster, 0, cluster->iface.host, &spawn, err) != 0)
        return -1;
    cluster->backend = spawn;
    if (cluster->n_nodes > 1)
        log_info("Waiting for %d further node(s): start 'shoal serve … --nnodes %d --node-rank R --master-addr %s --master-port %u "
                 "--headless' on each",
                 cluster->n_nodes - 1, cluster->n_nodes, cluster->iface.host, cluster->bound.port);
    return 0;
}

static int hand_poll(struct cluster *cluster, struct err *err) {
    return cluster_spawn_poll(cluster->backend, err) == 0 ? 0 : err_wrap(err, "node 0 (%s)", cluster->nodes[0].host);
}

static void hand_describe(const struct cluster *cluster, int node, int waited_s, char *ret_text, size_t size_bytes) {
    char at[NET_ADDR_BYTES + 8];
    launch_addr_text(&cluster->bound, at, sizeof at);
    if (node == 0)
        snprintf(ret_text, size_bytes, "worker process %lld runs, but has not connected to %s after %d s",
                 (long long)cluster_spawn_pid(cluster->backend), at, waited_s);
    else
        snprintf(ret_text, size_bytes,
                 "nobody with --node-rank %d has connected to %s after %d s: is it started there, and can it reach that port?", node, at,
                 waited_s);
}

/* Other nodes' workers are not ours to kill: the half-closed connection tells them to leave, and their end of it says when they have. */
static void wait_remote(struct cluster *cluster, int64_t deadline_ms) {
    for (int i = 1; i < cluster->n_nodes; i++) {
        char scrap[4096];
        struct pollfd fd = {.fd = cluster->nodes[i].fd, .events = POLLIN};
        while (fd.fd >= 0 && poll(&fd, 1, clock_left_ms(deadline_ms)) > 0)
            if (recv(fd.fd, scrap, sizeof scrap, MSG_DONTWAIT) <= 0 && errno != EAGAIN)
                break;
    }
}

static void hand_stop(struct cluster *cluster, int grace_ms) {
    int64_t deadline_ms = clock_mono_ms() + grace_ms;
    cluster_spawn_stop(cluster->backend, grace_ms);
    wait_remote(cluster, deadline_ms);
}

const struct launch_ops launch_hand_ops = {
    .place = hand_place, .start = hand_start, .poll = hand_poll, .describe = hand_describe, .stop = hand_stop};
