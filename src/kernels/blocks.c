/*
 * GGML's block formats: reading groups, and whole rows to floats (encode.c is the way back). Written from the public description of the
 * formats; checked against the `gguf` package by vectors in tests/data/kernels. Any thread; knows nothing of packing.
 */
#include "kernels/blocks.h"

#include <assert.h>
#include <string.h>

#include "base/half.h"
#include "kernels/matrix.h"
#include "kernels/vector.h"

static float half_at(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return half_f16_to_f32(half);
}

static void nibbles_read(const uint8_t *qs, uint8_t q[32])
{
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[i + 16] = qs[i] >> 4;
    }
}

/* Q4_K and Q5_K keep 64 columns in 32 bytes: even groups in the low nibbles, odd groups in the high ones. */
static void k_group_read(enum dtype dtype, const uint8_t *block, int j, struct blocks_group *group)
{
    uint8_t scale, minimum;
    blocks_k_scale(block + BLOCKS_Q4_K_SCALES, j, &scale, &minimum);
    group->scale[0] = group->scale[1] = half_at(block) * (float)scale;
    group->minimum = half_at(block + 2) * (float)minimum;
    const uint8_t *qs = block + (dtype == DTYPE_Q4_K ? BLOCKS_Q4_K_QS : BLOCKS_Q5_K_QS) + j / 2 * 32;
    const uint8_t *qh = block + BLOCKS_Q5_K_QH;
    for (int i = 0; i < 32; i++) {
        group->q[i] = j % 2 ? qs[i] >> 4 : qs[i] & 15;
        if (dtype == DTYPE_Q5_K)
            group->q[i] |= (uint8_t)((qh[i] >> j & 1) << 4);
    }
}

/* Q6_K keeps 128 columns (4 groups) in 64 bytes of low nibbles and 32 bytes of upper pairs. */
static void q6_group_read(const uint8_t *block, int j, struct blocks_group *group)
{
    int half = j / 4, part = j % 4;
    const uint8_t *ql = block + half * 64 + part % 2 * 32;
    const uint8_t *qh = block + BLOCKS_Q6_K_QH + half * 32;
    float d = half_at(block + BLOCKS_Q6_K_D);
    for (int i = 0; i < 2; i++)
        group->scale[i] = d * (float)(int8_t)block[BLOCKS_Q6_K_SCALES + 2 * j + i];
    group->minimum = 0;
    for (int i = 0; i < 32; i++)
        group->q[i] = (uint8_t)((part < 2 ? ql[i] & 15 : ql[i] >> 4) | (qh[i] >> 2 * part & 3) << 4);
}

void blocks_group_read(enum dtype dtype, const uint8_t *row, int group, struct blocks_group *ret_group)
{
    int groups_in_block = dtype_block_weights(dtype) / KERNELS_GROUP;
    const uint8_t *block = row + (size_t)(group / groups_in_block) * (size_t)dtype_block_bytes(dtype);
    switch (dtype) {
    case DTYPE_Q8_0:
        ret_group->scale[0] = ret_group->scale[1] = half_at(block);
        ret_group->minimum = 0;
        memcpy(ret_group->q, block + 2, 32);
        break;
    case DTYPE_Q4_0:
        ret_group->scale[0] = ret_group->scale[1] = half_at(block);
        ret_group->minimum = 0;
        nibbles_read(block + 2, ret_group->q);
        break;
    case DTYPE_Q4_1:
        ret_group->scale[0] = ret_group->scale[1] = half_at(block);
        ret_group->minimum = -half_at(block + 2);
        nibbles_read(block + 4, ret_group->q);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K: k_group_read(dtype, block, group % groups_in_block, ret_group); break;
    case DTYPE_Q6_K: q6_group_read(block, group % groups_in_block, ret_group); break;
    default: assert(!"not a block format");
    }
}

void kernels_row_to_f32(enum dtype dtype, const void *src, int n, float *out)
{
    const uint8_t *bytes = src;
    switch (dtype) {
    case DTYPE_F32: memmove(out, src, (size_t)n * sizeof *out); return;
    case DTYPE_F16:
        for (int i = 0; i < n; i++)
            out[i] = half_at(bytes + 2 * (size_t)i);
        return;
    case DTYPE_BF16:
        for (int i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, bytes + 2 * (size_t)i, sizeof half);
            out[i] = half_bf16_to_f32(half);
        }
        return;
    case DTYPE_F8_E4M3:
        for (int i = 0; i < n; i++) {
            const uint8_t *block = bytes + (size_t)(i / 32) * 36;
            float scale;
            memcpy(&scale, block, sizeof scale);
            out[i] = half_f8_to_f32(block[4 + i % 32]) * scale;
        }
        return;
    default: break;
    }
    int offset = blocks_offset(dtype);
    for (int g = 0; g < n / KERNELS_GROUP; g++) {
        struct blocks_group group;
        blocks_group_read(dtype, bytes, g, &group);
        for (int i = 0; i < KERNELS_GROUP; i++) {
            int q = dtype == DTYPE_Q8_0 ? (int8_t)group.q[i] : group.q[i] - offset;
            out[g * KERNELS_GROUP + i] = group.scale[i / 16] * (float)q - group.minimum;
        }
    }
}
