/*
 * Whether a split of a model fits on nodes: what every rank takes, what every node has, how many KV blocks there are.
 * Needs a configuration, and where there is a checkpoint its list of tensors; allocates nothing that lasts. Pure; any thread.
 */
#ifndef PLAN_FIT_H
#define PLAN_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/world.h"
#include "model/sizes.h"
#include "plan/kv.h"

struct plan_node {
    uint64_t total_bytes, available_bytes;
    double bandwidth_bps; /* of its memory; 0: not known */
};

/* What is asked. Pointers are borrowed. */
struct plan_ask {
    const struct model_config *config;
    const struct weights_store *store; /* formats of the tensors, or NULL: as the configuration says */
    enum dtype floats;                 /* without a store: of what is not quantised */
    int tp_size, pp_size;
    bool expert_parallel;
    int layers_per_stage[COMM_MAX_RANKS]; /* all 0: even */
    enum dtype kv_dtype;
    int block_size, max_model_len, max_seqs, max_step_tokens;
    int n_threads; /* of each rank */
    struct plan_kv_limits limits;
    int n_nodes;
    struct plan_node nodes[COMM_MAX_NODES];
    const int *node_of_rank; /* or NULL: spread as a launch would */
};

struct plan_rank {
    int node;
    struct model_split split;
    struct model_sizes sizes;
    uint64_t buffers_bytes; /* of the model, the hand-over between stages and the logits, at most */
};

struct plan_fit {
    int n_ranks;
    struct plan_rank ranks[COMM_MAX_RANKS];
    struct plan_room rooms[COMM_MAX_NODES]; /* promised_bytes: weights and the model's buffers */
    uint64_t node_weights_bytes[COMM_MAX_NODES];
    int blocks_per_seq;  /* of --max-model-len tokens */
    int64_t n_blocks;    /* on every rank */
    int tightest;        /* node that limits the KV blocks, or -1 */
    int overfull;        /* node whose weights and buffers alone are too much, or -1 */
    bool fits;           /* weights, buffers and the KV cache of at least one sequence of the greatest length */
};

/* ERR_INVALID when the model cannot be split so. That it does not fit is no error. ret: some 100 KB. */
int plan_fit_compute(const struct plan_ask *ask, struct plan_fit *ret, struct err *err);

/*
 * Whether a start is worth trying: false only where weights and one sequence cannot be held by what the nodes have now, buffers and all
 * that may still become free aside. Where the KV cache has a given size, weights and it against all memory of a node.
 */
bool plan_fit_may_start(const struct plan_ask *ask, const struct plan_fit *fit);

/* Memory that a node may fill, KV cache and all. A size that is given for the cache lifts the share. May be negative. */
double plan_fit_usable_bytes(const struct plan_ask *ask, int node);

/* Node of a rank when ranks are spread over equal nodes: whole stages where there are enough of them, else evenly. */
int plan_fit_place(int tp_size, int pp_size, int n_nodes, int rank);

#endif
