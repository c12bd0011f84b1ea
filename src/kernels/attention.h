/*
 * Attention of query rows over the paged KV cache of one KV head.
 *
 * A KV block holds the keys, or the values, of block_size tokens for one layer and one KV head:
 * [block_size, head_dim] in BF16, F32 or I8, one token after the other; behind I8 an F32 scale for each token.
 */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include "base/dtype.h"

struct kernels_attn {
    enum dtype kv_dtype; /* DTYPE_F32, DTYPE_BF16 or DTYPE_I8 */
    int head_dim;        /* multiple of 8, at most 256 */
    int block_size;      /* tokens in a block */
    float scale;         /* usually 1 / sqrt(head_dim) */
    /* Block b of the sequence: k_blocks[b], v_blocks[b]. Tokens [token_begin, token_end) of the context are attended. */
    const void *const *k_blocks;
    const void *const *v_blocks;
    int token_begin, token_end;
    /* Query rows: all heads that share this KV head, for one or more tokens. Row i sees context tokens < row_limit[i]. */
    int n_rows; /* at most KERNELS_ATTN_MAX_ROWS */
    const float *const *q;     /* n_rows pointers to [head_dim] */
    const int *row_limit;
};

enum { KERNELS_ATTN_MAX_ROWS = 64 };

/*
 * Online softmax (Milakov, Gimelshein 2018): for each row i writes the unnormalised weighted sum out[i][head_dim],
 * the running maximum row_max[i] and the sum of exponentials row_sum[i] (0 when no token is visible).
 * scratch: KERNELS_SCRATCH_BYTES. A row's result does not depend on the other rows.
 */
void kernels_attn_partial(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *scratch);

/*
 * Merges n_parts partial results of one row (in context order) into out[head_dim], normalised.
 * parts: n_parts pointers to [head_dim], none of which may be out; one part is simply divided by its sum.
 */
void kernels_attn_merge(const float *const *parts, const float *part_max, const float *part_sum, int n_parts, int head_dim, float *out);

/*
 * Writes one token's key or value row [head_dim] into its place in a block of block_size tokens, converting: BF16 rounds to nearest even; I8 to the
 * nearest of 255 levels, scale = greatest magnitude / 127. A row with an infinity or a NaN in it reads as not finite again.
 */
void kernels_kv_store(enum dtype kv_dtype, const float *row, int head_dim, int block_size, void *block, int slot);
/* The row of a token as it reads. */
void kernels_kv_load(enum dtype kv_dtype, const void *block, int head_dim, int block_size, int slot, float *ret_row);

#endif
