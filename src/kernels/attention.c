/* Attention over one KV head: the way to the instruction set in use, merging of parts, writing the cache. Any thread. */
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/ops.h"

void kernels_attn_partial(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *scratch)
{
    kernels_ops.attn_partial(attn, out, row_max, row_sum, scratch);
}

void kernels_attn_merge(const float *const *parts, const float *part_max, const float *part_sum, int n_parts, int head_dim, float *out)
{
    float max = -INFINITY, sum = 0;
    for (int p = 0; p < n_parts; p++)
        if (part_sum[p] != 0 && part_max[p] > max)
            max = part_max[p];
    for (int p = 0; p < n_parts; p++)
        if (part_sum[p] != 0)
            sum += part_sum[p] * expf(part_max[p] - max);
    for (int d = 0; d < head_dim; d++)
        out[d] = 0;
    for (int p = 0; p < n_parts; p++) {
        if (part_sum[p] == 0) /* no token of this part was visible to the row */
            continue;
        float weight = expf(part_max[p] - max) / sum;
        for (int d = 0; d < head_dim; d++)
            out[d] += weight * parts[p][d];
    }
}

/* Low byte: a whole number of at most 22 bits that was added to it as a float, rounded to nearest even. */
static const float round_magic = 12582912.0f; /* 1.5 · 2^23 */

static void row_store_i8(const float *row, int head_dim, int8_t *out, float *ret_scale)
{
    int32_t most = 0; /* magnitudes compare as their bits do, and a NaN is greater than all */
    float greatest;
    for (int d = 0; d < head_dim; d++) {
        int32_t bits;
        memcpy(&bits, &row[d], sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    memcpy(&greatest, &most, sizeof greatest);
    float inverse = greatest > 0 ? 127 / greatest : 0;
    if (inverse > 3e38f) /* so close to zero that it is */
        greatest = inverse = 0;
    for (int d = 0; d < head_dim; d++) {
        float shifted = row[d] * inverse + round_magic;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        out[d] = (int8_t)bits;
    }
    *ret_scale = greatest / 127;
}

void kernels_kv_store(enum dtype kv_dtype, const float *row, int head_dim, int block_size, void *block, int slot)
{
    size_t at = (size_t)slot * (size_t)head_dim;
    if (kv_dtype == DTYPE_F32) {
        memcpy((float *)block + at, row, (size_t)head_dim * sizeof *row);
    } else if (kv_dtype == DTYPE_I8) {
        float *scales = (float *)((uint8_t *)block + (size_t)block_size * (size_t)head_dim);
        row_store_i8(row, head_dim, (int8_t *)block + at, &scales[slot]);
    } else {
        uint16_t *halves = (uint16_t *)block + at;
        for (int d = 0; d < head_dim; d++)
            halves[d] = half_f32_to_bf16(row[d]);
    }
}

void kernels_kv_load(enum dtype kv_dtype, const void *block, int head_dim, int block_size, int slot, float *ret_row)
{
    size_t at = (size_t)slot * (size_t)head_dim;
    if (kv_dtype == DTYPE_F32) {
        memcpy(ret_row, (const float *)block + at, (size_t)head_dim * sizeof *ret_row);
    } else if (kv_dtype == DTYPE_I8) {
        const float *scales = (const float *)((const uint8_t *)block + (size_t)block_size * (size_t)head_dim);
        for (int d = 0; d < head_dim; d++)
            ret_row[d] = ((const int8_t *)block)[at + (size_t)d] * scales[slot];
    } else {
        for (int d = 0; d < head_dim; d++)
            ret_row[d] = half_bf16_to_f32(((const uint16_t *)block)[at + (size_t)d]);
    }
}
