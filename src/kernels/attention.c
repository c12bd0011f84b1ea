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

void kernels_kv_store(enum dtype kv_dtype, const float *row, int head_dim, void *block, int slot)
{
    if (kv_dtype == DTYPE_F32) {
        memcpy((float *)block + (size_t)slot * (size_t)head_dim, row, (size_t)head_dim * sizeof *row);
    } else {
        uint16_t *halves = (uint16_t *)block + (size_t)slot * (size_t)head_dim;
        for (int d = 0; d < head_dim; d++)
            halves[d] = half_f32_to_bf16(row[d]);
    }
}
