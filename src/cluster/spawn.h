/*
 * A process on this host, a child of the driver. It dies with the driver (PR_SET_PDEATHSIG), has its own
 * process group (so that a terminal's Ctrl-C reaches the driver alone, which then stops it), and writes to a pipe
 * whose lines go on to the driver's stderr; the last ones are kept.
 *
 * cluster_spawn_start: only from the main thread, because the death signal is tied to the thread that forks.
 */
#ifndef CLUSTER_SPAWN_H
#define CLUSTER_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cluster/backend.h"

struct cluster_spawn;

/* What a child runs. Everything is borrowed. */
struct cluster_spawn_command {
    const char *what;    /* how messages call it: "worker process"; static */
    const char *program; /* path, or a name to look for on PATH */
    char *const *argv;
    const struct net_secret *env_secret; /* SHOAL_LAUNCH_SECRET in its environment; NULL: not there */
    const char *input;                   /* its standard input, at most 4 KiB; NULL: nothing */
    bool is_quiet;                       /* its lines are kept, but do not go on to stderr */
};

int cluster_spawn_run(const struct cluster_spawn_command *command, struct cluster_spawn **ret, struct err *err);
/* Runs this program again with the arguments of node's worker. */
int cluster_spawn_start(const struct cluster *cluster, int node, const char *interface, struct cluster_spawn **ret, struct err *err);
int64_t cluster_spawn_pid(const struct cluster_spawn *spawn);
/* 0 while it runs; -1 when it has ended: err says how, with its last lines. Does not block for long. */
int cluster_spawn_poll(struct cluster_spawn *spawn, struct err *err);
/* Gives it half the time to leave by itself, then SIGTERM, then SIGKILL at the end of it. Frees. Accepts NULL. */
void cluster_spawn_stop(struct cluster_spawn *spawn, int grace_ms);

#endif
