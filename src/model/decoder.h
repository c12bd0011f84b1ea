/*
 * The inside of a shard, for src/model only: what model.c owns, load.c fills and forward.c computes with.
 *
 * The rank's main thread creates and changes it; during a step the team's threads write the buffers, each its own part
 * between two barriers.
 */
#ifndef MODEL_DECODER_H
#define MODEL_DECODER_H

#include "kernels/attention.h"
#include "kernels/matrix.h"
#include "model/model.h"

/* A mixture's expert, as much of it as this rank has. */
struct model_expert {
    struct kernels_matrix gate, up, down;
};

struct model_layer {
    float *attn_norm, *ffn_norm;        /* [hidden] */
    float *q_norm, *k_norm;             /* [head_dim], or NULL */
    float *q_bias, *k_bias, *v_bias;    /* this rank's heads, or NULL */
    struct kernels_matrix q, k, v, o;
    struct kernels_matrix gate, up, down; /* dense FFN */
    struct kernels_matrix router;         /* F32, all experts */
    struct model_expert *experts;         /* [split.n_experts] */
};

/* The kinds of tensors that a decoder has. */
enum model_tensor {
    MODEL_EMBEDDING,
    MODEL_HEAD,
    MODEL_FINAL_NORM,
    MODEL_ATTN_NORM,
    MODEL_FFN_NORM,
    MODEL_Q,
    MODEL_K,
    MODEL_V,
    MODEL_O,
    MODEL_Q_BIAS,
    MODEL_K_BIAS,
    MODEL_V_BIAS,
    MODEL_Q_NORM,
    MODEL_K_NORM,
    MODEL_GATE,
    MODEL_UP,
    MODEL_DOWN,
    MODEL_ROUTER,
    MODEL_EXPERT_GATE,
    MODEL_EXPERT_UP,
    MODEL_EXPERT_DOWN,
    MODEL_TENSOR_COUNT
};

/*
 * One tensor's rectangle on this rank, seen as a matrix (a vector has one row), and where it goes: into a packed matrix or
 * into floats.
 */
struct model_part {
    enum model_tensor tensor;
    int layer, expert; /* of the whole model; -1: none */
    int rows, cols;    /* of the whole tensor (of one expert of a stack) */
    int row_begin, n_rows, col_begin, n_cols;
    struct kernels_matrix *matrix; /* or NULL */
    float **vector;
    /* Found in the store by model_parts_resolve. */
    const struct weights_tensor *source;
    int64_t source_row; /* row of the source where this tensor begins */
    enum dtype dtype;   /* of the packed matrix: see model_part_dtype */
};

/* Part of the attention of one sequence and one KV head: rows are (token, query head) pairs, token by token. */
struct model_attn_item {
    int seq, row_begin, n_rows;
    int part_begin, part_end; /* context parts */
    int slot;                 /* where the sequence's results are in split_*, when its parts are shared out; else -1 */
};

/* Parts of a sequence whose context is shared out among threads, to be merged. */
struct model_attn_merge {
    int seq, n_rows, slot;
};

/* What the threads of a step share; buffers are [max_step_tokens, …] and belong to the model. */
struct model_buffers {
    float *x;      /* [hidden]: the residual stream */
    float *normed; /* [hidden] */
    float *sum;    /* [hidden]: what a half layer adds to x, summed over the ranks */
    float *qkv;    /* [(n_heads + 2 n_kv_heads) · head_dim] */
    float *attn;   /* [n_heads · head_dim] */
    float *gate, *up; /* [ffn_len]; mixtures: [n_experts_active · moe_ffn_len], by slot */
    struct kernels_acts hidden_acts, attn_acts, ffn_acts; /* int8 forms of normed, attn, gate */
    int *token_seq, *token_position;
    int *seq_token; /* [max_step_seqs]: first token of each sequence */
    /* Attention, planned once a step. */
    struct model_attn_item *items;
    struct model_attn_merge *merges;
    int n_items, cap_items, n_merges, cap_merges;
    float *split_out, *split_max, *split_sum; /* [cap_split_rows · n_kv_heads], rows of head_dim */
    int n_split_rows, cap_split_rows;
    /* Mixture: routes of the step's tokens, and the tokens of each expert, expert after expert. */
    float *router;       /* [n_experts] */
    int *route_expert;   /* [n_experts_active]; of the whole model */
    float *route_weight; /* [n_experts_active] */
    int *slot_token;     /* [n_experts_active] in all: token of each slot */
    float *slot_weight;
    int *expert_slot;    /* [split.n_experts + 1]: first slot of each local expert */
    int *active;         /* local experts that have tokens, in order */
    int n_active;
};

/* One thread's own memory. */
struct model_thread {
    void *kernel_scratch;
    const void **k_blocks, **v_blocks; /* [max_context / block_size] */
    float *attn_parts;                 /* [max_parts][rows_per_item][head_dim] */
    float *attn_max, *attn_sum;        /* [max_parts][rows_per_item] */
    const float **merge_parts;         /* [max_parts]: one row's */
    float *merge_max, *merge_sum;
    float *tokens;                     /* mixture: [MODEL_GATHER, hidden] floats */
    struct kernels_acts acts;          /* mixture: int8 form of them */
};

enum {
    MODEL_PART_TOKENS = 512, /* context parts begin at multiples of this position: the sums do not depend on the step */
    MODEL_GATHER = 64        /* tokens of one expert that are worked on at a time */
};

struct model {
    struct model_config config;
    struct model_split split;
    struct model_opts opts;
    int n_layers; /* here */
    int n_threads; /* of the team */
    struct model_layer *layers;
    struct model_expert *experts; /* of all layers */
    struct kernels_matrix embedding, head;
    float *final_norm;
    struct model_part *parts;
    int n_parts;
    uint8_t *weights; /* packed matrices and vectors, mapped */
    size_t weights_bytes;
    _Atomic uint64_t bytes_read; /* of the store's tensors, by this rank */
    float *rope_cos, *rope_sin; /* [max_context, head_dim / 2] */
    uint8_t *kv;                /* [layer][kv head][keys, values][n_blocks][block_size, head_dim], mapped */
    size_t kv_bytes;
    int n_blocks;
    uint8_t *memory; /* buffers, threads and rope tables, mapped */
    size_t memory_bytes;
    int max_parts, rows_per_item; /* of attention */
    float attn_scale;
    struct model_buffers buffers;
    struct model_thread *threads;
    /* The step under way. */
    const struct model_step *step;
    float *hidden, *logits;
    int *logit_tokens; /* [max_step_tokens]: tokens whose logits are wanted */
    int n_logits;
    int failed; /* written by thread 0 before a barrier */
    struct err err;
};

/* Zeroed memory in whole pages, huge ones where the system has them; NULL when there is none. Freed with munmap. */
void *model_map(size_t bytes);

/* model.c: a model without memory: its list of parts and the sizes of its buffers. opts->team may be NULL. */
int model_describe(const struct model_config *config, const struct model_split *split, const struct model_opts *opts, int n_threads,
                   struct model **ret, struct err *err);

/* shard.c: makes the list of parts. */
int model_parts_list(struct model *model, struct err *err);
/* Format of a part once packed, when it stands in the file as `source`. */
enum dtype model_part_dtype(const struct model_config *config, const struct model_part *part, enum dtype source);
/* Format in which a part comes when there is no store: dummy weights, plan. `floats`: of what is not quantised. */
enum dtype model_part_source(const struct model_config *config, const struct model_part *part, enum dtype floats);
/* Finds every part in the store and checks its shape and its cut; all before anything is read. */
int model_parts_resolve(struct model *model, const struct weights_store *store, struct err *err);
/* The bytes that a part takes once packed: part->dtype must be set. */
size_t model_part_bytes(const struct model_part *part);
/* Name of a part's tensor in a store of one kind, for messages. */
void model_part_name(const struct model *model, const struct model_part *part, bool is_gguf, char ret_name[WEIGHTS_NAME_BYTES]);
/* Allocates all parts' memory and points them into it. */
int model_parts_place(struct model *model, struct err *err);

/* What fills the weights: the file's (load.c), made-up ones (dummy.c). */
struct model_filler {
    /* Fills panels [panel_begin, panel_end) of a part, or its vector. Called on any thread; scratch is that thread's, 64-byte aligned. */
    int (*fill)(void *ctx, struct model_part *part, int panel_begin, int panel_end, uint8_t *scratch, struct err *err);
    /* Or NULL: told of what will be filled soon. */
    void (*expect)(void *ctx, const struct model_part *part, int panel_begin, int panel_end);
    /* Scratch for n_rows of a part's rows. */
    size_t (*scratch_bytes)(const struct model_part *part, int n_rows);
    void *ctx;
};
/* fill.c: fills all parts, placed before, with the whole team. `cancel` as in model_load. */
int model_fill(struct model *model, const struct model_filler *filler, model_progress *progress, const atomic_int *cancel, struct err *err);

/* load.c, in two parts: finds all of the shard in the store and takes memory for it; then reads it. */
int model_load_prepare(struct model *model, const struct weights_store *store, struct err *err);
int model_load_read(struct model *model, const struct weights_store *store, model_progress *progress, const atomic_int *cancel, struct err *err);

/* rope.c: fills the tables; factors: [head_dim / 2] divisors of the frequencies, or NULL. */
void model_rope_fill(struct model *model, const float *factors);

/* attend.c: plans the step's attention (main thread), then runs on all threads. */
void model_attn_plan(struct model *model);
void model_attn_capacity(const struct model *model, int *ret_items, int *ret_merges, int *ret_split_rows);
void model_attn_items(struct model *model, int layer, int thread);
void model_attn_merges(struct model *model, int layer, int thread);

/* moe.c: one layer's mixture, from `normed` to `sum`; all threads call it, it ends with a barrier. */
void model_moe_run(struct model *model, int layer, int thread);

/* Block `block` of the keys (0) or values (1) of a layer and KV head, both counted from this rank's first. */
void *model_kv_block(const struct model *model, int layer, int kv_head, int is_value, int block);

/* forward.c, for moe.c too: panels in a work item, so that every thread gets several. */
int model_chunk_panels(const struct model *model, int n_panels);
/* gate = silu(gate) · up over columns [col_begin, col_end) of `tokens` rows, and its int8 form where down reads it. */
void model_silu_columns(struct model *model, const struct kernels_matrix *down, int n_cols, int row_begin, int row_end, int col_begin,
                        int col_end);

#endif
