/*
 * Verification of a launch's nodes and of the links between them: asks the agents, compares their answers, measures all
 * pairs, and says in lines what is right, what is doubtful and what is wrong. Nothing is changed anywhere.
 *
 * Main thread; blocks. Every question has a deadline; a node that does not answer costs one of them and is left out then.
 */
#ifndef VERIFY_VERIFY_H
#define VERIFY_VERIFY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "cluster/cluster.h"
#include "verify/findings.h"

/* What the network will be used for: 0 layers when no model is known. */
struct verify_load {
    int n_layers, hidden;
    int tp_size, pp_size; /* 0: not known, both ways of using all nodes are told */
};

struct verify_opts {
    const struct cluster_node *nodes; /* whoever has no connection is missing */
    int n_nodes;
    bool is_quick; /* what `serve` does before it loads: no NPUs, no model files, short measurements, at most QUICK_ROUNDS peers a node */
    const char *build;
    struct verify_load load;
    const char *model, *revision, *download_dir; /* to be compared over nodes; NULL: not */
    const char *hccn_tool, *npu_smi, *hccn_conf; /* NULL: the usual ones */
    int n_npus;                                  /* on each node; 0: found out */
    bool (*is_cancelled)(void *ctx);             /* asked at least once a second, with ctx NULL; or NULL */
};

/* One direction between two nodes. Figures as in probe.h. */
struct verify_pair {
    bool is_measured, is_slow;
    char trouble[256]; /* "": all of it went well */
    double small_us, small_p99_us, large_us, large_p99_us, mbits_1, mbits_n;
    int frame_tried, frame_passed;
};

struct verify_result {
    struct verify_findings findings;
    struct verify_pair *pairs; /* [n_nodes · n_nodes], from · n_nodes + to */
    int n_nodes;
    double reduce_us, reduce_p99_us; /* 0: not measured */
    int reduce_floats;
    double seconds;
    char names[CLUSTER_MAX_NODES][CLUSTER_NAME_BYTES + NET_ADDR_BYTES + 24]; /* "node 1: host1 (10.0.0.2)" */
};

/* Fails only for want of memory or when cancelled: whatever else goes wrong is a line. *ret is to be finished either way. */
int verify_run(const struct verify_opts *opts, struct verify_result *ret, struct err *err);
void verify_result_finish(struct verify_result *result);

/* Lines, matrix, and the sum: "3 ok, 1 warning, 0 FAILED in 1.2 s". worst_only: warnings and failures only, without the matrix. */
void verify_result_print(const struct verify_result *result, bool worst_only, FILE *out);
/* New reference; NULL when memory is out. */
json_t *verify_result_json(const struct verify_result *result);

#endif
