/*
 * How the loading of a launch's ranks goes: what every rank reports, how it travels in a STATUS frame, and what follows from all
 * reports together: one rate and time left, the slowest rank, the KV blocks that every node has room for. Pure; any thread.
 */
#ifndef EXEC_LOADING_H
#define EXEC_LOADING_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"
#include "plan/kv.h"

/* One rank's. */
struct exec_load_report {
    uint64_t done_bytes, total_bytes; /* of its packed weights; total 0 until known */
    uint64_t saved_bytes;             /* written to the weights cache */
    uint64_t read_bytes;              /* of the model's tensors; 0 when all came from the cache */
    uint64_t block_bytes;             /* what one KV block takes */
    uint64_t idle_bytes;              /* of its buffers, which only steps will touch */
    int64_t elapsed_ms;               /* since it began to load; stands still once it is done */
};

/* One node's memory when its ranks reported. */
struct exec_node_memory {
    uint64_t total_bytes, available_bytes;
};

/* A list for the frame: new reference, NULL when memory is out. */
json_t *exec_load_reports_to_json(const struct exec_load_report *reports, int n);
/* Fails unless it is a list of n reports; ret is of no use then. */
int exec_load_reports_from_json(const json_t *list, int n, struct exec_load_report *ret, struct err *err);

/* All ranks together. */
struct exec_load_summary {
    uint64_t done_bytes, total_bytes, saved_bytes, read_bytes;
    double rate_bps; /* sum of the ranks' own rates: a rank that is done does not wait in it */
    double left_s;   /* of the rank that has the longest to go */
    int slowest;     /* rank with the least share done; of those that are done the one that took longest */
    double slowest_share;
    int n_cached; /* ranks that are done without having read of the model */
};
void exec_load_sum(const struct exec_load_report *reports, int n_ranks, struct exec_load_summary *ret);

/*
 * KV blocks that every node has room for after its ranks have loaded (plan/kv.h). n_nodes: at most COMM_MAX_NODES.
 * *ret_tightest: the node that sets the limit, -1 when none does.
 */
int64_t exec_kv_blocks_fit(const struct exec_load_report *reports, const int *node_of_rank, int n_ranks, const struct exec_node_memory *nodes,
                           int n_nodes, const struct plan_kv_limits *limits, int64_t wanted, int *ret_tightest);

#endif
