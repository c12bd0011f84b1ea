/* KV blocks from memory; see kv.h. */
#include "plan/kv.h"

int64_t plan_kv_blocks(const struct plan_room *nodes, int n_nodes, const struct plan_kv_limits *limits, int64_t wanted, int *ret_tightest) {
    int64_t n_blocks = limits->n_blocks > 0 ? limits->n_blocks : wanted;
    *ret_tightest = -1;
    for (int i = 0; i < n_nodes && limits->n_blocks == 0; i++) {
        const struct plan_room *node = &nodes[i];
        double room = (double)node->available_bytes - (double)node->promised_bytes - (1 - limits->share) * (double)node->total_bytes;
        if (limits->cache_bytes > 0)
            room = (double)limits->cache_bytes;
        int64_t fit = room > 0 && node->block_bytes > 0 ? (int64_t)(room / (double)node->block_bytes) : 0;
        if (fit < n_blocks) {
            n_blocks = fit;
            *ret_tightest = i;
        }
    }
    return n_blocks;
}
