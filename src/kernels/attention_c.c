/* Attention in plain C: online softmax, one row after the other. The reference. Any thread; allocates nothing. */
#include <math.h>
#include <string.h>

#include "kernels/ops.h"

/* The row of a token in a block of keys or values, as floats. */
static const float *row_read(const struct kernels_attn *attn, const void *const *blocks, int token, float *converted)
{
    const void *block = blocks[token / attn->block_size];
    int slot = token % attn->block_size;
    if (attn->kv_dtype == DTYPE_F32)
        return (const float *)block + (size_t)slot * (size_t)attn->head_dim;
    kernels_kv_load(attn->kv_dtype, block, attn->head_dim, attn->block_size, slot, converted);
    return converted;
}

static void attn_partial_c(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *scratch)
{
    float *converted = scratch;
    for (int i = 0; i < attn->n_rows; i++) {
        float max = -INFINITY, sum = 0;
        memset(out[i], 0, (size_t)attn->head_dim * sizeof(float));
        for (int token = attn->token_begin; token < attn->token_end && token < attn->row_limit[i]; token++) {
            const float *key = row_read(attn, attn->k_blocks, token, converted);
            float score = 0;
            for (int d = 0; d < attn->head_dim; d++)
                score += attn->q[i][d] * key[d];
            score *= attn->scale;
            float rescale = 1;
            if (score > max) {
                rescale = expf(max - score);
                max = score;
            }
            float weight = expf(score - max);
            const float *value = row_read(attn, attn->v_blocks, token, converted);
            sum = sum * rescale + weight;
            for (int d = 0; d < attn->head_dim; d++)
                out[i][d] = out[i][d] * rescale + weight * value[d];
        }
        row_max[i] = max;
        row_sum[i] = sum;
    }
}

void kernels_ops_fill_attention_c(struct kernels_ops *ops)
{
    ops->attn_partial = attn_partial_c;
}
