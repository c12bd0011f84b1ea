/*
 * The links between nodes: measures all pairs, marks the slow ones, times the small all-reduce, and says what it means for a
 * token. Called by verify.c alone, main thread.
 */
#ifndef VERIFY_PAIRS_H
#define VERIFY_PAIRS_H

#include "verify/ask.h"
#include "verify/verify.h"

/* The nodes that take part, and what they said of their end. By index of the node; zeroed at first. */
struct verify_arena {
    struct verify_asker *asker;
    const struct verify_opts *opts;
    struct verify_result *result;
    int nodes[CLUSTER_MAX_NODES], n; /* those that take part */
    char host[CLUSTER_MAX_NODES][NET_ADDR_BYTES], iface[CLUSTER_MAX_NODES][64];
    int port[CLUSTER_MAX_NODES], udp_port[CLUSTER_MAX_NODES], mtu[CLUSTER_MAX_NODES], speed[CLUSTER_MAX_NODES];
    int64_t errors[CLUSTER_MAX_NODES], drops[CLUSTER_MAX_NODES];
};

/*
 * Measures. Comes before all longer questions: its messages are short, so it can still tell of links that lose full frames, which
 * longer answers would not survive. Adds no lines but about nodes that cannot take part.
 */
void verify_pairs_measure(struct verify_arena *arena);
/* Lines about all pairs; then the all-reduce, the cost of a token, and the counters. */
void verify_pairs_judge(struct verify_arena *arena);
/* The matrix: latency and bandwidth from each node (row) to each (column). Nothing for one node. */
void verify_pairs_print(const struct verify_result *result, FILE *out);
json_t *verify_pairs_json(const struct verify_result *result);

#endif
