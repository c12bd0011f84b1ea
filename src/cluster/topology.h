/*
 * Which node runs which ranks. Pure arithmetic over what a cluster has free; knows nothing of Ray or of processes.
 *
 * Ranks are numbered stage by stage (rank = pp_rank · tp_size + tp_rank), and each node gets consecutive ones, because a
 * stage's ranks talk most. In this order:
 *   1. one whole stage on each node, when enough nodes have room for one;
 *   2. several whole stages on a node, spread evenly;
 *   3. stages cut over nodes, on as few nodes as possible, spread evenly.
 * A given n_nodes fixes how many nodes are used, and then whole stages are preferred in the same way.
 *
 * A cluster that has fewer CPUs than there are ranks can still take them when ranks may share CPUs: each CPU then counts as
 * two, three, … until they fit, so that the ranks are spread as before and no node is fuller than it must be.
 */
#ifndef CLUSTER_TOPOLOGY_H
#define CLUSTER_TOPOLOGY_H

#include <stdbool.h>

#include "base/err.h"
#include "cluster/cluster.h"

enum { CLUSTER_MAX_OFFERS = 1024 };

/* A node as the cluster offers it. */
struct cluster_offer {
    char id[CLUSTER_NAME_BYTES]; /* Ray's node id */
    char host[NET_ADDR_BYTES];
    bool is_own, is_head; /* the driver runs there; Ray's head */
    double cpus_total, cpus_used;
};

struct cluster_want {
    int tp_size, pp_size;
    int n_nodes;          /* 0: as many as the split wants */
    int threads_per_rank; /* CPUs for each rank; 0: at least 1, and then all that are free, shared evenly */
    bool may_share_cpus;  /* without threads_per_rank: several ranks on a CPU where there are too few */
};

/* Ranks on one chosen offer, in rank order. */
struct cluster_share {
    int offer; /* index into offers */
    int first_rank, n_ranks;
    int n_threads; /* of each of them */
    int n_cpus;    /* reserved for all of them: n_ranks · n_threads, fewer where ranks share CPUs */
};

/*
 * The driver's own node comes first, then by free CPUs. ret: room for CLUSTER_MAX_NODES; offers beyond
 * CLUSTER_MAX_OFFERS are not looked at. ERR_LIMIT when it does not fit: the message lists
 * every node with total and used CPUs, and what is asked.
 */
int cluster_topology_plan(const struct cluster_want *want, const struct cluster_offer *offers, int n_offers, struct cluster_share *ret,
                          int *ret_n, struct err *err);
/* Whether the plan would fit if nothing else used the nodes: then it is worth waiting for CPUs to become free. */
bool cluster_topology_fits_empty(const struct cluster_want *want, const struct cluster_offer *offers, int n_offers);

#endif
