/*
 * The links between nodes: measures all pairs, marks the slow ones, times the small all-reduce, and says what it means for a
 * token. Called by verify.c alone, main thread.
 */
#ifndef VERIFY_PAIRS_H
#define VERIFY_PAIRS_H

#include "verify/ask.h"
#include "verify/verify.h"

/* What a node said of itself, for comparisons. */
struct node_facts {
    int mtu, speed; /* 0 and -1: not known */
    const char *iface;
};

void verify_pairs_run(struct verify_asker *asker, const struct verify_opts *opts, const struct node_facts *facts, struct verify_result *result);
/* The matrix: latency and bandwidth from each node (row) to each (column). Nothing for one node. */
void verify_pairs_print(const struct verify_result *result, FILE *out);
json_t *verify_pairs_json(const struct verify_result *result);

#endif
