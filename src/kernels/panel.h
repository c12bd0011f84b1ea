/*
 * The packed layout: what the bytes of one panel mean. One layout for every instruction set, and one more for BF16.
 * Private to src/kernels.
 *
 * A panel holds 16 rows. The unit of reading is 64 bytes that hold a few columns of all 16 rows:
 *   F32    [n_cols][16] floats
 *   F16    [n_cols][16] halves
 *   BF16   64 bytes unused, then [n_cols / 2][16][2]: a 32-bit lane is one row, its low half the even column (as vdpbf16ps
 *          reads it). As integers (is_i16): first F32 scales [16], then the weights times these, as int16 in the same places
 *   F8_E4M3 512 columns (fewer at the end): one F32 scale for each group of 32 columns [16], times 256, then [n_cols][16] bytes.
 *          The rows of a panel share their scales.
 * Block formats go by groups of 32 columns, seen as 8 quads of 4 columns. Nibbles of a group take 256 bytes,
 * [4][16][4]: in 64 bytes a 32-bit lane is one row; byte b of chunk j holds column 4j + b in its low nibble and column
 * 16 + 4j + b in its high nibble, so that low nibbles are quad j and high nibbles quad j + 4.
 *   Q8_0   two groups: scales F16 [2][16], then [2][8][16][4] int8 (an odd last group takes a unit with one group)
 *   Q4_0   two groups: scales F16 [2][16], then [2] nibbles; value − 8
 *   Q4_1   group: scales F16 [16], minima F16 [16], nibbles
 *   Q4_K   256 columns: d F16 [16], dmin F16 [16], scales u8 [8][16], minima u8 [8][16], [8] nibbles
 *   Q5_K   as Q4_K, and after the nibbles of each group 64 bytes of fifth bits: byte b of lane r, bit j = quad j
 *   Q6_K   256 columns: d F16 [16] and 32 bytes unused, scales int8 [16][16] (one per 16 columns), then per group six times
 *          64 bytes: the lower 6 bits of vector v are quad v, its upper 2 are bits 2(v % 3) and up of quad 6 + v / 3; value − 32
 */
#ifndef KERNELS_PANEL_H
#define KERNELS_PANEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

enum {
    PANEL_BF16_HEAD = 64,
    PANEL_F8_COLS = 512,
    PANEL_F8_UNIT = 64 + PANEL_F8_COLS * 16,
    PANEL_NIBBLES = 256,
    PANEL_BYTES8 = 512,
    PANEL_Q8_0_UNIT = 64 + 2 * PANEL_BYTES8,
    PANEL_Q4_0_UNIT = 64 + 2 * PANEL_NIBBLES,
    PANEL_Q4_1_GROUP = 64 + PANEL_NIBBLES,
    PANEL_K_HEAD = 320, /* d, dmin, scales and minima of a superblock, in all three K formats */
    PANEL_Q4_K_GROUP = PANEL_NIBBLES,
    PANEL_Q5_K_GROUP = PANEL_NIBBLES + 64,
    PANEL_Q6_K_GROUP = 6 * 64,
    PANEL_SUPER_GROUPS = 8 /* groups in a superblock of 256 columns */
};

/* Bytes of a panel of n_cols columns. */
static inline size_t panel_size_bytes(enum dtype dtype, int n_cols)
{
    size_t cols = (size_t)n_cols, groups = cols / KERNELS_GROUP, supers = groups / PANEL_SUPER_GROUPS;
    switch (dtype) {
    case DTYPE_F32: return cols * 64;
    case DTYPE_F16: return (cols * 32 + 63) / 64 * 64;
    case DTYPE_BF16: return PANEL_BF16_HEAD + (cols + 1) / 2 * 64;
    case DTYPE_F8_E4M3: return (cols + PANEL_F8_COLS - 1) / PANEL_F8_COLS * 64 + cols * 16;
    case DTYPE_Q8_0: return (groups + 1) / 2 * 64 + groups * PANEL_BYTES8;
    case DTYPE_Q4_0: return (groups + 1) / 2 * 64 + groups * PANEL_NIBBLES;
    case DTYPE_Q4_1: return groups * PANEL_Q4_1_GROUP;
    case DTYPE_Q4_K: return supers * (PANEL_K_HEAD + PANEL_SUPER_GROUPS * PANEL_Q4_K_GROUP);
    case DTYPE_Q5_K: return supers * (PANEL_K_HEAD + PANEL_SUPER_GROUPS * PANEL_Q5_K_GROUP);
    case DTYPE_Q6_K: return supers * (PANEL_K_HEAD + PANEL_SUPER_GROUPS * PANEL_Q6_K_GROUP);
    case DTYPE_COUNT: break;
    }
    return 0;
}

/* The 32-bit lanes of columns c and c + 1, c even. */
static inline size_t panel_bf16_pair_at(int c)
{
    return PANEL_BF16_HEAD + (size_t)c / 2 * 64;
}

/* Scale (times 256) of column c's group in a panel of F8_E4M3, and the 16 bytes of the column. */
static inline size_t panel_f8_scale_at(int c)
{
    return (size_t)(c / PANEL_F8_COLS) * PANEL_F8_UNIT + (size_t)(c % PANEL_F8_COLS / KERNELS_GROUP * 4);
}

static inline size_t panel_f8_column_at(int c)
{
    return (size_t)c * 16 + (size_t)(c / PANEL_F8_COLS + 1) * 64;
}

/* Group g of a panel: its scales (Q8_0, Q4_0, Q4_1: F16 [16], Q4_1 followed by the minima) and its weights. */
static inline size_t panel_scales_at(enum dtype dtype, int group)
{
    size_t g = (size_t)group;
    switch (dtype) {
    case DTYPE_Q8_0: return g / 2 * PANEL_Q8_0_UNIT + g % 2 * 32;
    case DTYPE_Q4_0: return g / 2 * PANEL_Q4_0_UNIT + g % 2 * 32;
    default: return g * PANEL_Q4_1_GROUP;
    }
}

/* Bytes from one group's weights to the next within a superblock of a K format. */
static inline size_t panel_super_group_bytes(enum dtype dtype)
{
    return dtype == DTYPE_Q4_K ? PANEL_Q4_K_GROUP : dtype == DTYPE_Q5_K ? PANEL_Q5_K_GROUP : PANEL_Q6_K_GROUP;
}

/* The superblock that holds group g of a K format. */
static inline size_t panel_super_at(enum dtype dtype, int group)
{
    return (size_t)(group / PANEL_SUPER_GROUPS) * (PANEL_K_HEAD + PANEL_SUPER_GROUPS * panel_super_group_bytes(dtype));
}

static inline size_t panel_weights_at(enum dtype dtype, int group)
{
    size_t g = (size_t)group;
    switch (dtype) {
    case DTYPE_Q8_0: return g / 2 * PANEL_Q8_0_UNIT + 64 + g % 2 * PANEL_BYTES8;
    case DTYPE_Q4_0: return g / 2 * PANEL_Q4_0_UNIT + 64 + g % 2 * PANEL_NIBBLES;
    case DTYPE_Q4_1: return g * PANEL_Q4_1_GROUP + 64;
    default: return panel_super_at(dtype, group) + PANEL_K_HEAD + g % PANEL_SUPER_GROUPS * panel_super_group_bytes(dtype);
    }
}

static inline int panel_is_super(enum dtype dtype)
{
    return dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K || dtype == DTYPE_Q6_K;
}

/* Formats with a value subtracted after scaling. */
static inline int panel_has_minima(enum dtype dtype)
{
    return dtype == DTYPE_Q4_1 || dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K;
}

/* Where the scales of group g begin: its own, or those of its superblock. */
static inline size_t panel_head_at(enum dtype dtype, int group)
{
    return panel_is_super(dtype) ? panel_super_at(dtype, group) : panel_scales_at(dtype, group);
}

/* Writes the 16 sums of a panel to their place in an output row, cut at the last row. */
static inline void panel_out_write(const struct kernels_matrix *matrix, int panel, const float *sums, float *out_row)
{
    int n = matrix->n_rows - panel * KERNELS_PANEL_ROWS;
    memcpy(out_row + (size_t)panel * KERNELS_PANEL_ROWS, sums, (size_t)(n < KERNELS_PANEL_ROWS ? n : KERNELS_PANEL_ROWS) * sizeof *sums);
}

/*
 * One group of a block format for all 16 rows: weight (column i, row r) is scale[i / 16][r] · q[i][r] − minimum[r];
 * the format's offset is already subtracted from q. The plain C product and reading a row back use it.
 */
struct panel_group {
    int8_t q[KERNELS_GROUP][KERNELS_PANEL_ROWS];
    float scale[2][KERNELS_PANEL_ROWS];
    float minimum[KERNELS_PANEL_ROWS];
};

void panel_group_read(enum dtype dtype, const uint8_t *panel, int group, struct panel_group *ret_group);

#endif
