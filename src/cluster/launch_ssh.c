/*
 * Backend `ssh`, for surveys: one process on each given host, started through ssh (or what takes its place). The secret goes in
 * by standard input, where no other user of the host sees it. Whatever stands in the way of one host is that host's. See backend.h.
 */
#include <limits.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "cluster/backend.h"
#include "cluster/spawn.h"

enum { COMMAND_MAX_WORDS = 32, COMMAND_BYTES = 4096, LINE_BYTES = PATH_MAX + LAUNCH_MAX_ARGS * (LAUNCH_ARG_BYTES + 4) };

struct ssh_launch {
    struct cluster_spawn *spawns[CLUSTER_MAX_NODES];
};

/* "user@host" without the user. */
static const char *host_of(const char *given) {
    const char *at = strrchr(given, '@');
    return at == NULL ? given : at + 1;
}

/* The rendezvous must be where the hosts reach it: on the way to the first one that is not this host. */
static int choose_iface(struct cluster *cluster, struct err *err) {
    for (int i = 0; i < cluster->n_nodes; i++) {
        if (launch_iface_choose(cluster, host_of(cluster->opts.hosts[i]), err) != 0)
            return -1;
        if (cluster->opts.interface != NULL || !cluster->iface.is_loopback)
            return 0;
    }
    if (cluster->n_nodes == 1)
        return 0;
    return err_set(err, ERR_NOT_FOUND, "no way from this host to %s was found (does ssh know it by another name?); give --interface",
                   cluster->opts.hosts[0]);
}

static int ssh_place(struct cluster *cluster, struct err *err) {
    cluster->backend = calloc(1, sizeof(struct ssh_launch));
    if (cluster->backend == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a launch over ssh");
    if (cluster->opts.n_hosts > CLUSTER_MAX_NODES)
        return err_set(err, ERR_LIMIT, "%d hosts; at most %d are possible", cluster->opts.n_hosts, CLUSTER_MAX_NODES);
    cluster->n_nodes = cluster->opts.n_hosts;
    for (int i = 0; i < cluster->n_nodes; i++) {
        struct cluster_node *node = &cluster->nodes[i];
        const char *given = cluster->opts.hosts[i];
        if (given[0] == '-' || strlen(given) >= sizeof node->name)
            return err_set(err, ERR_INVALID, "'%.80s' is no host's name", given);
        node->first_rank = i;
        node->n_ranks = 1;
        snprintf(node->name, sizeof node->name, "%s", given);
        snprintf(node->host, sizeof node->host, "%s", host_of(given));
    }
    return choose_iface(cluster, err);
}

/* "exec 'PROGRAM' 'verify-agent' … '--secret-stdin'", for the host's shell. */
static int make_line(const struct cluster *cluster, int node, struct buf *out, struct err *err) {
    char own[PATH_MAX];
    const char *program = getenv("SHOAL_BINARY");
    struct launch_args args;
    if (launch_own_program(own, sizeof own, err) != 0 ||
        launch_args_make(cluster, node, launch_iface_for_all(cluster->opts.interface), &args, err) != 0)
        return -1;
    buf_append_str(out, "exec ");
    launch_add_quoted(out, program != NULL && program[0] != '\0' ? program : own);
    for (int i = 0; i < args.n; i++) {
        buf_append_char(out, ' ');
        launch_add_quoted(out, args.items[i]);
    }
    buf_append_str(out, " --secret-stdin");
    return out->failed ? err_set(err, ERR_LIMIT, "the command line for ssh is longer than %zu bytes", out->limit_bytes) : 0;
}

static int start_one(struct cluster *cluster, int node, struct err *err) {
    struct ssh_launch *launch = cluster->backend;
    char words[COMMAND_BYTES], secret[2 * NET_SECRET_BYTES + 2], *argv[COMMAND_MAX_WORDS + 8], *rest = NULL;
    int n = 0;
    snprintf(words, sizeof words, "%s", cluster->opts.ssh_command != NULL ? cluster->opts.ssh_command : "ssh");
    for (char *word = strtok_r(words, " ", &rest); word != NULL && n < COMMAND_MAX_WORDS; word = strtok_r(NULL, " ", &rest))
        argv[n++] = word;
    if (n == 0)
        return err_set(err, ERR_INVALID, "--ssh-command is empty");
    static const char *const options[] = {"-o", "BatchMode=yes", "-o", "ConnectTimeout=5"};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        argv[n++] = (char *)options[i];
    struct buf line;
    buf_init(&line, LINE_BYTES);
    int result = make_line(cluster, node, &line, err);
    argv[n++] = (char *)cluster->opts.hosts[node];
    argv[n++] = line.data;
    argv[n] = NULL;
    hash_hex(cluster->secret.bytes, NET_SECRET_BYTES, secret);
    strcat(secret, "\n");
    struct cluster_spawn_command command = {.what = "its process", .program = argv[0], .argv = argv, .input = secret, .is_quiet = true};
    if (result == 0)
        result = cluster_spawn_run(&command, &launch->spawns[node], err);
    buf_finish(&line);
    return result;
}

static int ssh_start(struct cluster *cluster, struct err *err) {
    (void)err;
    for (int i = 0; i < cluster->n_nodes; i++) {
        struct err why;
        if (start_one(cluster, i, &why) != 0)
            launch_node_miss(cluster, i, why.msg);
    }
    return 0;
}

static int ssh_poll(struct cluster *cluster, struct err *err) {
    (void)err;
    struct ssh_launch *launch = cluster->backend;
    for (int i = 0; i < cluster->n_nodes; i++) {
        struct err why;
        if (cluster->nodes[i].missing[0] == '\0' && launch->spawns[i] != NULL && cluster_spawn_poll(launch->spawns[i], &why) != 0) {
            err_wrap(&why, "ssh to %s", cluster->opts.hosts[i]);
            launch_node_miss(cluster, i, why.msg);
        }
    }
    return 0;
}

static void ssh_describe(const struct cluster *cluster, int node, int waited_s, char *ret_text, size_t size_bytes) {
    char at[NET_ADDR_BYTES + 8];
    launch_addr_text(&cluster->bound, at, sizeof at);
    snprintf(ret_text, size_bytes, "ssh to %s runs, but its agent has not connected to %s after %d s: is that port reachable from it?",
             cluster->opts.hosts[node], at, waited_s);
}

static void ssh_stop(struct cluster *cluster, int grace_ms) {
    struct ssh_launch *launch = cluster->backend;
    /* Together they get the grace once: the first stops take it, for the later ones most have ended meanwhile. */
    for (int i = 0; launch != NULL && i < CLUSTER_MAX_NODES; i++) {
        cluster_spawn_stop(launch->spawns[i], grace_ms);
        if (launch->spawns[i] != NULL && grace_ms > 200)
            grace_ms /= 2;
    }
    free(launch);
}

const struct launch_ops launch_ssh_ops = {
    .place = ssh_place, .start = ssh_start, .poll = ssh_poll, .describe = ssh_describe, .stop = ssh_stop};
