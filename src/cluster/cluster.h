/*
 * A launch: the worker processes of all nodes, from placement to the last one's end. Backends: `mp` (one local
 * worker process), `ray` (one job per node over Ray's REST interface), `hand` (workers that users start with
 * --node-rank on other machines) and `ssh` (one process per host, for surveys). However they start, workers connect back, prove that they
 * belong to this launch, and say HELLO; the driver refuses a different build with both named.
 *
 * A survey is a launch that only looks: one agent on every node, and whoever cannot be reached is left out, with the reason,
 * instead of failing the rest. A different build joins it too, since telling of it is the point.
 *
 * Called by the driver's main thread, then by its watch thread. Knows nothing of models or steps.
 */
#ifndef CLUSTER_CLUSTER_H
#define CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "net/auth.h"
#include "net/iface.h"

enum cluster_backend { CLUSTER_MP, CLUSTER_RAY, CLUSTER_HAND, CLUSTER_SSH };
enum {
    CLUSTER_MAX_NODES = 64,
    CLUSTER_NAME_BYTES = 64,
    CLUSTER_BUILD_BYTES = 128,
    CLUSTER_MISSING_BYTES = 1024,
    CLUSTER_PROTOCOL = 1,
    CLUSTER_HAND_PORT = 29501
};

struct cluster_opts {
    enum cluster_backend backend;
    int tp_size, pp_size;
    const char *interface; /* --interface, or NULL */
    int timeout_ms;        /* deadline of placement and joining; 0: 120 s */
    const char *build;     /* version and commit of this binary */
    const char *cpu_max;   /* passed on to workers, or NULL */
    const char *log_level; /* passed on to workers */
    /* ray */
    const char *ray_address; /* NULL: $RAY_ADDRESS, else http://127.0.0.1:8265 */
    bool ray_ship_binary;
    int n_nodes;          /* --nnodes; 0: as many as the split wants (one stage per node) */
    int threads_per_rank; /* CPUs reserved for each rank; 0: all that are free on the node, shared evenly */
    /* hand */
    const char *master_addr; /* where the driver listens */
    uint16_t master_port;    /* 0: CLUSTER_HAND_PORT */
    /* survey */
    bool is_survey;           /* n_nodes 0: all that there are */
    const char *role;         /* the command that workers are started as; NULL: "worker" */
    const char *const *hosts; /* ssh: names or addresses, "user@host" allowed */
    int n_hosts;
    const char *ssh_command; /* program and options, split at spaces; NULL: "ssh" */
    /* Asked at least once a second while starting, or NULL: true gives up with ERR_CANCELLED. */
    bool (*is_cancelled)(void *ctx);
    void *cancel_ctx;
};

struct cluster_node {
    char name[CLUSTER_NAME_BYTES]; /* host name, or Ray's node id shortened */
    char host[NET_ADDR_BYTES];     /* address that carries the traffic */
    int first_rank, n_ranks;       /* its ranks are consecutive */
    int n_threads;                 /* threads for each of its ranks */
    int fd;                        /* authenticated connection to its worker; owned by the cluster */
    int64_t pid;
    int n_cpus;
    uint64_t mem_total_bytes, mem_available_bytes;
    char placed_host[NET_ADDR_BYTES];    /* where the backend says that it is; "": it does not say */
    char host_name[CLUSTER_NAME_BYTES];  /* as the node calls itself */
    char build[CLUSTER_BUILD_BYTES];     /* of its worker */
    char missing[CLUSTER_MISSING_BYTES]; /* survey: why it is not there (fd is -1), or "" */
};

struct cluster;

/* Places, starts and joins. On failure everything that was started is stopped again, and err names who is missing, on which node, in which
 * phase, with the last lines of its log. */
int cluster_start(const struct cluster_opts *opts, struct cluster **ret, struct err *err);
const struct cluster_node *cluster_nodes(const struct cluster *cluster, int *ret_n);
const struct net_secret *cluster_secret(const struct cluster *cluster);
/* Foreign or garbled connections that the rendezvous dropped so far. */
uint64_t cluster_dropped(const struct cluster *cluster);
/* -1 when a worker process or job has ended: err names the node, how it ended, and the last lines of its log. At most 2 s. */
int cluster_poll(struct cluster *cluster, struct err *err);
/* Stops all workers and waits until they are gone (SIGTERM, then SIGKILL after grace_ms; over Ray its stop call). Frees. Accepts NULL. */
void cluster_stop(struct cluster *cluster, int grace_ms);

/* Worker side: what it takes to find the driver and to belong to its launch. */
struct cluster_join_opts {
    const char *driver_host;
    uint16_t driver_port;
    int slot;              /* which of the driver's nodes this is */
    const char *interface; /* or NULL */
    struct net_secret secret;
    const char *build;
    int timeout_ms; /* 0: 1.5 s, for workers that the driver started: it listens already, and if it does not any more, it is gone */
};
/*
 * Connects (trying again while refused, until timeout_ms), proves itself, says HELLO and waits until all nodes of the launch have joined.
 * There is no deadline for the others: the driver has that one; but a driver that closes or falls silent ends the wait.
 * *ret_iface: the address to bind this worker's listener to. A refusal by the driver comes back as its own words.
 */
int cluster_join(const struct cluster_join_opts *opts, int *ret_fd, struct net_iface *ret_iface, struct err *err);

/*
 * Where the secret of a launch by hand comes from: $SHOAL_LAUNCH_SECRET, else the file ~/.cache/shoal/launch-secret (0600, made
 * on first use), which is copied to the other nodes as one copies an Erlang cookie.
 */
int cluster_hand_secret(struct net_secret *ret, struct err *err);

#endif
