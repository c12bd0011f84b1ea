/*
 * One rank's shard of a decoder: its packed weights, its KV cache, and the forward pass of a step.
 *
 * Owned and called by one rank's main thread; inside, the rank's thread team works side by side. Knows nothing of
 * frames, sequences' owners or sampling.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "base/team.h"
#include "comm/group.h"
#include "model/config.h"
#include "model/split.h"
#include "weights/store.h"

struct model;

struct model_opts {
    struct team *team;          /* borrowed */
    struct comm_group *tp;      /* borrowed; a group of one when tp_size is 1 */
    enum dtype kv_dtype;        /* DTYPE_F32, DTYPE_BF16 or DTYPE_I8 */
    bool keeps_f32;             /* products with BF16 weights round no activations (kernels/matrix.h) */
    int block_size;             /* tokens in a KV block */
    int max_step_tokens;        /* most tokens in one step */
    int max_step_seqs;          /* most sequences in one step */
    int max_context;            /* longest sequence (rope tables) */
};

int model_create(const struct model_config *config, const struct model_split *split, const struct model_opts *opts, struct model **ret, struct err *err);
void model_destroy(struct model *model); /* accepts NULL */

/* Exact figures before anything is allocated: what model_load and model_kv_create will take on this rank. */
uint64_t model_weights_bytes(const struct model *model, const struct weights_store *store);
uint64_t model_dummy_bytes(const struct model *model, enum dtype dtype); /* of model_load_dummy */
uint64_t model_kv_block_bytes(const struct model *model); /* all layers of this rank, keys and values */
uint64_t model_buffers_bytes(const struct model *model);
/* As much of the buffers as only steps will touch: promised, but not yet taken from the system. */
uint64_t model_idle_bytes(const struct model *model);

/* Bytes that are packed so far, for the progress bar; written by model_load, read by any thread. */
typedef _Atomic uint64_t model_progress;

/* Reads this rank's shard from the store and packs it, with the whole team. `cancel` nonzero stops early with ERR_CANCELLED. */
int model_load(struct model *model, const struct weights_store *store, model_progress *progress, const atomic_int *cancel, struct err *err);

/* A folder on local disk where shards lie packed, so that the next start of the same shard reads it as it is. */
struct model_cache {
    const char *folder;      /* made when it is not there */
    const char *fingerprint; /* of the store, 16 hex digits: another model has another one */
};

/*
 * model_load through a cache: reads the packed shard if it is there, else loads and then writes it, whole or not at all. A file that
 * is damaged, cut short, or of another layout is a warning and written anew; a folder that cannot be written is a warning.
 * saved: bytes written to the cache so far, as `progress` for those loaded.
 */
int model_load_cached(struct model *model, const struct weights_store *store, const struct model_cache *cache, model_progress *progress,
                      model_progress *saved, const atomic_int *cancel, struct err *err);
/* Bytes of the store's tensors that this rank has read so far. */
uint64_t model_bytes_read(const struct model *model);
/* Random weights of `dtype` (any of DTYPE_*) from a seed; the same for every split of the model. */
int model_load_dummy(struct model *model, enum dtype dtype, uint64_t seed, model_progress *progress, const atomic_int *cancel, struct err *err);

/* Allocates the KV cache: n_blocks blocks, numbered from 0. After loading, once. */
int model_kv_create(struct model *model, int n_blocks, struct err *err);

/* One sequence's part of a step: n_tokens new tokens at positions [position, position + n_tokens). */
struct model_step_seq {
    int n_tokens;
    int position;
    const int32_t *blocks; /* block table, covers position + n_tokens tokens */
    int first_logit;       /* logits are wanted for new tokens [first_logit, n_tokens); = n_tokens for none */
};

struct model_step {
    int n_tokens;            /* sum over seqs */
    const int32_t *tokens;   /* [n_tokens], sequence after sequence; used by the first stage */
    int n_seqs;
    const struct model_step_seq *seqs;
};

/*
 * Runs the rank's layers. hidden: [n_tokens, hidden] floats: read when the split has no embedding, written when it has
 * no head (may be NULL otherwise). logits: when the split has the head, [rows wanted, vocab_len] floats of this rank's part of
 * the vocabulary are written, rows in step order; *ret_rows says how many. Blocks; fails when a collective fails.
 */
int model_forward(struct model *model, const struct model_step *step, float *hidden, float *logits, int *ret_rows, struct err *err);

#endif
