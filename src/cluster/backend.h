/*
 * Inside the cluster layer: the state of a launch, and what each backend (mp, hand, ray) does for it. Main thread, then
 * watch thread; never both at once.
 */
#ifndef CLUSTER_BACKEND_H
#define CLUSTER_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cluster/cluster.h"
#include "net/door.h"

enum { LAUNCH_ID_BYTES = 17, LAUNCH_ARG_BYTES = 160, LAUNCH_MAX_ARGS = 16, LAUNCH_POLL_GAP_MS = 1000 };

/*
 * place: fills nodes (name, host, ranks; n_threads where it reserves CPUs, else 0), iface, bound (the port to listen on, or 0)
 *        and iface_why. Replaces secret where it does not come fresh.
 * start: starts the workers; the rendezvous listens at `bound` by now.
 * poll: see cluster_poll. In a survey it leaves out the nodes whose process or job has ended, and does not fail for them.
 * describe: why a node that has not joined may be missing, for people: "worker process 12 runs, but …".
 * stop: ends everything that start began and frees `backend`, also after a failed place or start.
 */
struct launch_ops {
    int (*place)(struct cluster *cluster, struct err *err);
    int (*start)(struct cluster *cluster, struct err *err);
    int (*poll)(struct cluster *cluster, struct err *err);
    void (*describe)(const struct cluster *cluster, int node, int waited_s, char *ret_text, size_t size_bytes);
    void (*stop)(struct cluster *cluster, int grace_ms);
};

extern const struct launch_ops launch_mp_ops, launch_hand_ops, launch_ray_ops, launch_ssh_ops;

struct cluster {
    struct cluster_opts opts; /* its strings are borrowed and valid in cluster_start alone */
    char id[LAUNCH_ID_BYTES];
    struct net_secret secret;
    struct cluster_node nodes[CLUSTER_MAX_NODES];
    int n_nodes;
    struct net_iface iface; /* that the rendezvous listens on */
    char iface_why[128];    /* "route to 10.77.0.2" */
    struct net_addr bound;
    struct net_door *door;
    uint64_t n_garbled; /* proven callers that then broke the protocol */
    const struct launch_ops *ops;
    void *backend; /* the backend's own state */
};

/* Survey: leaves a node out, with the reason, and closes its connection. */
void launch_node_miss(struct cluster *cluster, int node, const char *why);

/* The arguments of a worker: "worker" "--driver" …, without the program. */
struct launch_args {
    int n;
    char items[LAUNCH_MAX_ARGS][LAUNCH_ARG_BYTES];
};
int launch_args_make(const struct cluster *cluster, int node, const char *interface, struct launch_args *ret, struct err *err);

/* net_iface_choose into cluster->iface, with the reason for the choice in iface_why. */
int launch_iface_choose(struct cluster *cluster, const char *toward, struct err *err);
/* Path of this program. */
int launch_own_program(char *ret_path, size_t size_bytes, struct err *err);
/* Appends in single quotes for /bin/sh. */
void launch_add_quoted(struct buf *out, const char *text);
/* An interface's name means the same on all nodes, or so its user hopes; an address of this host does not: NULL. */
const char *launch_iface_for_all(const char *interface);
/* How long ago a launch began is not kept: milliseconds of its deadline, with the default filled in. */
int launch_timeout_ms(const struct cluster *cluster);
bool launch_is_cancelled(const struct cluster *cluster);
/* "10.77.0.1:43211", "[fe80::1]:43211" */
void launch_addr_text(const struct net_addr *addr, char *ret_text, size_t size_bytes);

#endif
