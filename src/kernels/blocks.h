/*
 * GGML's block formats as they stand in files: one group of 32 columns at a time as small integers with a scale, the
 * common ground of packing and of conversion to floats. Private to src/kernels; pure functions.
 */
#ifndef KERNELS_BLOCKS_H
#define KERNELS_BLOCKS_H

#include <stdint.h>

#include "base/dtype.h"

/*
 * Weight c of the group is scale[c / 16] · (q[c] − offset) − minimum, with the offset of blocks_offset. Both scales are
 * the same except in Q6_K. q is unsigned in all formats but Q8_0, where it holds the bits of an int8_t.
 */
struct blocks_group {
    uint8_t q[32];
    float scale[2];
    float minimum;
};

/* Group g (32 columns) of a row in file format. */
void blocks_group_read(enum dtype dtype, const uint8_t *row, int group, struct blocks_group *ret_group);

/* 8 for Q4_0, 32 for Q6_K, else 0. */
static inline int blocks_offset(enum dtype dtype)
{
    return dtype == DTYPE_Q4_0 ? 8 : dtype == DTYPE_Q6_K ? 32 : 0;
}

/* The 6-bit scale and minimum of sub-block j (0 to 7) from the 12 packed bytes of Q4_K and Q5_K. */
static inline void blocks_k_scale(const uint8_t packed[12], int j, uint8_t *ret_scale, uint8_t *ret_minimum)
{
    if (j < 4) {
        *ret_scale = packed[j] & 63;
        *ret_minimum = packed[j + 4] & 63;
    } else {
        *ret_scale = (uint8_t)((packed[j + 4] & 15) | packed[j - 4] >> 6 << 4);
        *ret_minimum = (uint8_t)(packed[j + 4] >> 4 | packed[j] >> 6 << 4);
    }
}

/* Byte offsets inside the blocks. */
enum {
    BLOCKS_Q4_K_SCALES = 4,
    BLOCKS_Q4_K_QS = 16,
    BLOCKS_Q5_K_QH = 16,
    BLOCKS_Q5_K_QS = 48,
    BLOCKS_Q6_K_QH = 128,
    BLOCKS_Q6_K_SCALES = 192,
    BLOCKS_Q6_K_D = 208
};

#endif
