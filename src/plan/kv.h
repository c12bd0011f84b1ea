/*
 * How many KV blocks a launch has: the one computation behind `shoal plan`, the check before a start, and the start itself.
 * Pure; any thread.
 */
#ifndef PLAN_KV_H
#define PLAN_KV_H

#include <stdint.h>

/* One node's memory and what its ranks want of it. */
struct plan_room {
    uint64_t total_bytes, available_bytes;
    uint64_t promised_bytes; /* of those available: for what is not there yet, such as buffers or weights */
    uint64_t block_bytes;    /* one KV block on all ranks of the node */
};

/* Who decides how much the KV cache gets, the first that is given. */
struct plan_kv_limits {
    int64_t n_blocks;    /* --num-gpu-blocks-override; 0: not given */
    int64_t cache_bytes; /* --kv-cache-memory-bytes, on each node; 0: not given */
    double share;        /* --gpu-memory-utilization: of a node's memory that may be filled */
};

/*
 * Blocks that every node has room for, `wanted` at most (more than all sequences can fill would be of no use).
 * *ret_tightest: the node that sets the limit, -1 when none does.
 */
int64_t plan_kv_blocks(const struct plan_room *nodes, int n_nodes, const struct plan_kv_limits *limits, int64_t wanted, int *ret_tightest);

#endif
