/*
 * A launch from start to end; see cluster.h. Owns struct cluster; the backends (launch_*.c) do the placing and starting,
 * rendezvous.c the joining. Main thread, then watch thread.
 */
#include "cluster/cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/rand.h"
#include "cluster/backend.h"
#include "cluster/rendezvous.h"

enum { TIMEOUT_DEFAULT_MS = 120000, ROLL_BACK_GRACE_MS = 2000 };

int launch_timeout_ms(const struct cluster *cluster) {
    return cluster->opts.timeout_ms > 0 ? cluster->opts.timeout_ms : TIMEOUT_DEFAULT_MS;
}

bool launch_is_cancelled(const struct cluster *cluster) {
    return cluster->opts.is_cancelled != NULL && cluster->opts.is_cancelled(cluster->opts.cancel_ctx);
}

void launch_addr_text(const struct net_addr *addr, char *ret_text, size_t size_bytes) {
    bool is_v6 = strchr(addr->host, ':') != NULL;
    snprintf(ret_text, size_bytes, "%s%s%s:%u", is_v6 ? "[" : "", addr->host, is_v6 ? "]" : "", addr->port);
}

static int add_arg(struct launch_args *args, const char *text, struct err *err) {
    if (args->n == LAUNCH_MAX_ARGS || strlen(text) >= LAUNCH_ARG_BYTES)
        return err_set(err, ERR_LIMIT, "the worker's argument '%.40s' is too long", text);
    snprintf(args->items[args->n++], LAUNCH_ARG_BYTES, "%s", text);
    return 0;
}

static int add_option(struct launch_args *args, const char *name, const char *value, struct err *err) {
    return value == NULL ? 0 : add_arg(args, name, err) != 0 || add_arg(args, value, err) != 0 ? -1 : 0;
}

int launch_args_make(const struct cluster *cluster, int node, const char *interface, struct launch_args *ret, struct err *err) {
    char driver[LAUNCH_ARG_BYTES], slot[16];
    launch_addr_text(&cluster->bound, driver, sizeof driver);
    snprintf(slot, sizeof slot, "%d", node);
    ret->n = 0;
    if (add_arg(ret, cluster->opts.role != NULL ? cluster->opts.role : "worker", err) != 0 ||
        add_option(ret, "--driver", driver, err) != 0 || add_option(ret, "--slot", slot, err) != 0 ||
        add_option(ret, "--interface", interface, err) != 0 || add_option(ret, "--cpu-max", cluster->opts.cpu_max, err) != 0 ||
        add_option(ret, "--log-level", cluster->opts.log_level, err) != 0)
        return -1;
    return 0;
}

int launch_iface_choose(struct cluster *cluster, const char *toward, struct err *err) {
    if (net_iface_choose(cluster->opts.interface, toward, &cluster->iface, err) != 0)
        return -1;
    const char *variables[] = {"SHOAL_IFNAME", "GLOO_SOCKET_IFNAME"}, *by = NULL;
    if (cluster->opts.interface != NULL)
        by = "--interface";
    for (size_t i = 0; i < sizeof variables / sizeof variables[0] && by == NULL; i++)
        if (getenv(variables[i]) != NULL && getenv(variables[i])[0] != '\0')
            by = variables[i];
    if (by != NULL)
        snprintf(cluster->iface_why, sizeof cluster->iface_why, "by %s", by);
    else if (toward != NULL)
        snprintf(cluster->iface_why, sizeof cluster->iface_why, "route to %s", toward);
    else
        snprintf(cluster->iface_why, sizeof cluster->iface_why, "this host alone");
    return 0;
}

void launch_node_miss(struct cluster *cluster, int node, const char *why) {
    struct cluster_node *missed = &cluster->nodes[node];
    snprintf(missed->missing, sizeof missed->missing, "%s", why);
    if (missed->fd >= 0)
        close(missed->fd);
    missed->fd = -1;
}

int launch_own_program(char *ret_path, size_t size_bytes, struct err *err) {
    ssize_t n = readlink("/proc/self/exe", ret_path, size_bytes - 1);
    if (n < 0)
        return err_set(err, ERR_IO, "/proc/self/exe: %s", strerror(errno));
    ret_path[n] = '\0';
    return 0;
}

void launch_add_quoted(struct buf *out, const char *text) {
    buf_append_char(out, '\'');
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            buf_append_str(out, "'\\''");
        else
            buf_append_char(out, *text);
    }
    buf_append_char(out, '\'');
}

static bool is_address(const char *text) {
    struct in6_addr room;
    return inet_pton(AF_INET, text, &room) == 1 || inet_pton(AF_INET6, text, &room) == 1;
}

const char *launch_iface_for_all(const char *interface) {
    return interface == NULL || interface[0] == '\0' || is_address(interface) ? NULL : interface;
}

static int make_id(struct cluster *cluster, struct err *err) {
    uint8_t id[(LAUNCH_ID_BYTES - 1) / 2];
    if (rand_secret(id, sizeof id, err) != 0)
        return -1;
    hash_hex(id, sizeof id, cluster->id);
    return 0;
}

/* Every rank of a node gets as many threads as its share of the CPUs that are reserved for it and that it really has. */
static void share_threads(struct cluster *cluster) {
    for (int i = 0; i < cluster->n_nodes; i++) {
        struct cluster_node *node = &cluster->nodes[i];
        int share = node->n_cpus / node->n_ranks;
        share = share < 1 ? 1 : share;
        if (cluster->opts.threads_per_rank > 0)
            node->n_threads = cluster->opts.threads_per_rank;
        else if (node->n_threads == 0 || node->n_threads > share)
            node->n_threads = share;
    }
}

static int check_opts(const struct cluster_opts *opts, struct err *err) {
    if (opts->tp_size < 1 || opts->pp_size < 1 || opts->build == NULL)
        return err_set(err, ERR_INTERNAL, "a launch needs sizes of at least 1 and a build");
    if (opts->n_nodes > CLUSTER_MAX_NODES)
        return err_set(err, ERR_LIMIT, "--nnodes %d is more than the %d nodes that shoal supports", opts->n_nodes, CLUSTER_MAX_NODES);
    if (opts->backend == CLUSTER_SSH && (!opts->is_survey || opts->n_hosts < 1))
        return err_set(err, ERR_INTERNAL, "ssh is for surveys of at least one host");
    return 0;
}

static int run_start(struct cluster *cluster, struct err *err) {
    int64_t start_ms = clock_mono_ms(), deadline_ms = start_ms + launch_timeout_ms(cluster);
    if (make_id(cluster, err) != 0 || net_secret_make(&cluster->secret, err) != 0 || cluster->ops->place(cluster, err) != 0 ||
        cluster_rendezvous_open(cluster, err) != 0 || cluster->ops->start(cluster, err) != 0 ||
        cluster_rendezvous_wait(cluster, start_ms, deadline_ms, err) != 0)
        return -1;
    share_threads(cluster);
    return 0;
}

int cluster_start(const struct cluster_opts *opts, struct cluster **ret, struct err *err) {
    static const struct launch_ops *const backends[] = {
        [CLUSTER_MP] = &launch_mp_ops, [CLUSTER_RAY] = &launch_ray_ops, [CLUSTER_HAND] = &launch_hand_ops, [CLUSTER_SSH] = &launch_ssh_ops};
    if (check_opts(opts, err) != 0)
        return -1;
    struct cluster *cluster = calloc(1, sizeof *cluster);
    if (cluster == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a launch");
    cluster->opts = *opts;
    cluster->ops = backends[opts->backend];
    for (int i = 0; i < CLUSTER_MAX_NODES; i++)
        cluster->nodes[i].fd = -1;
    if (run_start(cluster, err) != 0) {
        cluster_stop(cluster, ROLL_BACK_GRACE_MS);
        return -1;
    }
    *ret = cluster;
    return 0;
}

const struct cluster_node *cluster_nodes(const struct cluster *cluster, int *ret_n) {
    *ret_n = cluster->n_nodes;
    return cluster->nodes;
}

const struct net_secret *cluster_secret(const struct cluster *cluster) { return &cluster->secret; }

uint64_t cluster_dropped(const struct cluster *cluster) {
    return cluster->n_garbled + (cluster->door == NULL ? 0 : net_door_dropped(cluster->door));
}

int cluster_poll(struct cluster *cluster, struct err *err) { return cluster->ops->poll(cluster, err); }

void cluster_stop(struct cluster *cluster, int grace_ms) {
    if (cluster == NULL)
        return;
    if (cluster->door != NULL)
        net_door_shut(cluster->door);
    /* Half-closed first: a worker reads what was sent before (STOP) and then the end, whatever it was doing. */
    for (int i = 0; i < cluster->n_nodes; i++)
        if (cluster->nodes[i].fd >= 0)
            shutdown(cluster->nodes[i].fd, SHUT_WR);
    cluster->ops->stop(cluster, grace_ms);
    for (int i = 0; i < cluster->n_nodes; i++)
        if (cluster->nodes[i].fd >= 0)
            close(cluster->nodes[i].fd);
    net_door_close(cluster->door);
    free(cluster);
}
