/*
 * Packed matrices: size, packing from file format, reading a row back, and the way to the product of the instruction
 * set in use. Packing runs on the loading threads, one panel each; the layout is described in panel.h.
 */
#include "kernels/matrix.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/half.h"
#include "kernels/blocks.h"
#include "kernels/ops.h"
#include "kernels/panel.h"

enum { ROWS = KERNELS_PANEL_ROWS, ALIGN = 64 };

size_t kernels_matrix_init(struct kernels_matrix *matrix, enum dtype dtype, int n_rows, int n_cols)
{
    assert(n_rows > 0 && n_cols > 0 && n_cols % dtype_block_weights(dtype) == 0);
    *matrix = (struct kernels_matrix){
        .dtype = dtype,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .n_panels = (n_rows - 1) / ROWS + 1,
        .panel_bytes = panel_size_bytes(dtype, n_cols),
        .is_i16 = dtype == DTYPE_BF16 && n_cols % KERNELS_GROUP == 0 && kernels_ops.matmul_i16 != NULL,
    };
    return kernels_matrix_bytes(matrix);
}

void kernels_matrix_keep_f32(struct kernels_matrix *matrix)
{
    matrix->is_i16 = false;
    matrix->keeps_f32 = true;
}

size_t kernels_matrix_bytes(const struct kernels_matrix *matrix)
{
    return (size_t)matrix->n_panels * matrix->panel_bytes;
}

static uint32_t word_at(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* All packing is a transposition of words: word w of row r goes to place w · 16 + r. The words may hold 16 or 32 bits. */
static void words32_spread(const uint8_t *row, int n_words, uint8_t *panel, int r)
{
    for (int w = 0; w < n_words; w++)
        memcpy(panel + ((size_t)w * ROWS + (size_t)r) * 4, row + (size_t)w * 4, 4);
}

static void words16_spread(const uint8_t *row, int n_words, uint8_t *panel, int r)
{
    for (int w = 0; w < n_words; w++)
        memcpy(panel + ((size_t)w * ROWS + (size_t)r) * 2, row + (size_t)w * 2, 2);
}

/*
 * The power of two that takes the greatest weight of a row into [4096, 8192), where it is an integer up to KERNELS_I16_MAX
 * and so is every other that is not smaller than a 32nd of it; at most 2^126. 1 for a row of zeros. NaN for one that holds
 * an infinity or a NaN, so that the damage shows.
 */
static float bf16_row_scale(const uint8_t *row, int n_cols)
{
    uint16_t greatest = 0, half;
    for (int c = 0; c < n_cols; c++) {
        memcpy(&half, row + 2 * c, sizeof half);
        half &= 0x7fff;
        greatest = half > greatest ? half : greatest; /* floats without a sign order as integers do, NaN above infinity */
    }
    if (greatest >= 0x7f80)
        return NAN;
    int exponent = 0;
    frexpf(half_bf16_to_f32(greatest), &exponent);
    return greatest == 0 ? 1 : ldexpf(1, exponent < -113 ? 126 : 13 - exponent);
}

/* The nearest integer in the low half: next to 1.5 · 2^23 a float's last bit is 1. */
static uint32_t integer_of(float value)
{
    return half_f32_to_bits(value + 0x1.8p23f) & 0xffffu;
}

static void i16_row_pack(const uint8_t *row, int n_cols, uint8_t *panel, int r)
{
    float scale = bf16_row_scale(row, n_cols);
    memcpy(panel + (size_t)r * sizeof scale, &scale, sizeof scale);
    for (int c = 0; c < n_cols; c += 2) {
        uint32_t pair = word_at(row + 2 * c);
        uint32_t even = integer_of(half_bits_to_f32(pair << 16) * scale), odd = integer_of(half_bits_to_f32(pair & 0xffff0000u) * scale);
        pair = even | odd << 16;
        memcpy(panel + panel_bf16_pair_at(c) + (size_t)r * sizeof pair, &pair, sizeof pair);
    }
}

static void bf16_row_pack(const uint8_t *row, int n_cols, uint8_t *panel, int r)
{
    panel += PANEL_BF16_HEAD;
    words32_spread(row, n_cols / 2, panel, r);
    if (n_cols % 2) {
        uint8_t last[4] = {row[2 * (n_cols - 1)], row[2 * (n_cols - 1) + 1], 0, 0};
        words32_spread(last, 1, panel + (size_t)(n_cols / 2) * 64, r);
    }
}

/* A group's scale is the first row's: kernels_matrix_pack_panel asks for rows that share it. */
static void f8_row_pack(const uint8_t *row, int n_cols, uint8_t *panel, int r)
{
    for (int c = 0; c < n_cols; c++) {
        const uint8_t *block = row + (size_t)(c / KERNELS_GROUP) * 36;
        if (r == 0 && c % KERNELS_GROUP == 0) {
            float scale;
            memcpy(&scale, block, sizeof scale);
            scale *= 256;
            memcpy(panel + panel_f8_scale_at(c), &scale, sizeof scale);
        }
        panel[panel_f8_column_at(c) + (size_t)r] = block[4 + c % KERNELS_GROUP];
    }
}

/* Q8_0, Q4_0, Q4_1: the file already keeps column c and c + 16 in one byte, so whole words move. */
static void simple_row_pack(enum dtype dtype, const uint8_t *row, int n_cols, uint8_t *panel, int r)
{
    int block_bytes = dtype_block_bytes(dtype);
    for (int g = 0; g < n_cols / KERNELS_GROUP; g++) {
        const uint8_t *block = row + (size_t)g * (size_t)block_bytes;
        uint8_t *scales = panel + panel_scales_at(dtype, g);
        memcpy(scales + 2 * r, block, 2);
        if (dtype == DTYPE_Q4_1)
            memcpy(scales + 32 + 2 * r, block + 2, 2);
        int head = dtype == DTYPE_Q4_1 ? 4 : 2;
        words32_spread(block + head, (block_bytes - head) / 4, panel + panel_weights_at(dtype, g), r);
    }
}

/* 8 words, each of 4 columns as bytes below 16, to the nibbles of a group. */
static void nibbles_pack(const uint8_t q[32], uint8_t *nibbles, int r)
{
    for (int j = 0; j < 4; j++) {
        uint32_t word = (word_at(q + 4 * j) & 0x0f0f0f0fu) | (word_at(q + 16 + 4 * j) & 0x0f0f0f0fu) << 4;
        memcpy(nibbles + j * 64 + r * 4, &word, sizeof word);
    }
}

static void q6_group_pack(const uint8_t q[32], uint8_t *weights, int r)
{
    for (int v = 0; v < 6; v++) {
        uint32_t word = word_at(q + 4 * v) | (word_at(q + 24 + v / 3 * 4) >> 2 * (v % 3) & 0x03030303u) << 6;
        memcpy(weights + v * 64 + r * 4, &word, sizeof word);
    }
}

static void k_group_pack(enum dtype dtype, const struct blocks_group *group, uint8_t *weights, int r)
{
    if (dtype == DTYPE_Q6_K) {
        q6_group_pack(group->q, weights, r);
        return;
    }
    nibbles_pack(group->q, weights, r);
    if (dtype == DTYPE_Q5_K) {
        uint32_t bits = 0;
        for (int j = 0; j < 8; j++)
            bits |= (word_at(group->q + 4 * j) >> 4 & 0x01010101u) << j;
        memcpy(weights + PANEL_NIBBLES + r * 4, &bits, sizeof bits);
    }
}

static void k_row_pack(enum dtype dtype, const uint8_t *row, int n_cols, uint8_t *panel, int r)
{
    int block_bytes = dtype_block_bytes(dtype);
    for (int g = 0; g < n_cols / KERNELS_GROUP; g++) {
        if (g % PANEL_SUPER_GROUPS == 0) {
            const uint8_t *block = row + (size_t)(g / PANEL_SUPER_GROUPS) * (size_t)block_bytes;
            uint8_t *head = panel + panel_super_at(dtype, g);
            if (dtype == DTYPE_Q6_K) {
                memcpy(head + 2 * r, block + BLOCKS_Q6_K_D, 2);
                for (int i = 0; i < 16; i++)
                    head[64 + 16 * i + r] = block[BLOCKS_Q6_K_SCALES + i];
            } else {
                memcpy(head + 2 * r, block, 2);
                memcpy(head + 32 + 2 * r, block + 2, 2);
                for (int j = 0; j < 8; j++)
                    blocks_k_scale(block + BLOCKS_Q4_K_SCALES, j, &head[64 + 16 * j + r], &head[192 + 16 * j + r]);
            }
        }
        struct blocks_group group;
        blocks_group_read(dtype, row, g, &group);
        k_group_pack(dtype, &group, panel + panel_weights_at(dtype, g), r);
    }
}

void kernels_matrix_pack_panel(struct kernels_matrix *matrix, int panel, const void *src, size_t row_stride_bytes, int n_src_rows)
{
    uint8_t *dst = matrix->data + (size_t)panel * matrix->panel_bytes;
    memset(dst, 0, matrix->panel_bytes);
    for (int r = 0; r < n_src_rows; r++) {
        const uint8_t *row = (const uint8_t *)src + (size_t)r * row_stride_bytes;
        switch (matrix->dtype) {
        case DTYPE_F32: words32_spread(row, matrix->n_cols, dst, r); break;
        case DTYPE_F16: words16_spread(row, matrix->n_cols, dst, r); break;
        case DTYPE_BF16: (matrix->is_i16 ? i16_row_pack : bf16_row_pack)(row, matrix->n_cols, dst, r); break;
        case DTYPE_F8_E4M3: f8_row_pack(row, matrix->n_cols, dst, r); break;
        case DTYPE_Q8_0:
        case DTYPE_Q4_0:
        case DTYPE_Q4_1: simple_row_pack(matrix->dtype, row, matrix->n_cols, dst, r); break;
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
        case DTYPE_Q6_K: k_row_pack(matrix->dtype, row, matrix->n_cols, dst, r); break;
        case DTYPE_COUNT: break;
        }
    }
}

void kernels_matrix_unpack_row(const struct kernels_matrix *matrix, int row, float *ret_row)
{
    const uint8_t *panel = matrix->data + (size_t)(row / ROWS) * matrix->panel_bytes;
    int r = row % ROWS;
    uint16_t half;
    float scale;
    switch (matrix->dtype) {
    case DTYPE_F32:
        for (int c = 0; c < matrix->n_cols; c++)
            memcpy(&ret_row[c], panel + ((size_t)c * ROWS + (size_t)r) * 4, 4);
        return;
    case DTYPE_F16:
        for (int c = 0; c < matrix->n_cols; c++) {
            memcpy(&half, panel + ((size_t)c * ROWS + (size_t)r) * 2, sizeof half);
            ret_row[c] = half_f16_to_f32(half);
        }
        return;
    case DTYPE_BF16:
        memcpy(&scale, panel + (size_t)r * sizeof scale, sizeof scale);
        for (int c = 0; c < matrix->n_cols; c++) {
            memcpy(&half, panel + panel_bf16_pair_at(c) + (size_t)(r * 4 + c % 2 * 2), sizeof half);
            ret_row[c] = matrix->is_i16 ? (float)(int16_t)half / scale : half_bf16_to_f32(half);
        }
        return;
    case DTYPE_F8_E4M3:
        for (int c = 0; c < matrix->n_cols; c++) {
            memcpy(&scale, panel + panel_f8_scale_at(c), sizeof scale);
            ret_row[c] = half_f8_to_f32(panel[panel_f8_column_at(c) + (size_t)r]) * 0x1p-8f * scale;
        }
        return;
    default: break;
    }
    for (int g = 0; g < matrix->n_cols / KERNELS_GROUP; g++) {
        struct panel_group group;
        panel_group_read(matrix->dtype, panel, g, &group);
        for (int i = 0; i < KERNELS_GROUP; i++)
            ret_row[g * KERNELS_GROUP + i] = group.scale[i / 16][r] * (float)group.q[i][r] - group.minimum[r];
    }
}

int kernels_matrix_acts(const struct kernels_matrix *matrix)
{
    return matrix->is_i16 ? KERNELS_ACTS_I16 : matrix->dtype >= DTYPE_Q8_0 ? KERNELS_ACTS_I8 : 0;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* A partial group at the end counts as a whole one, so that any n_cols has a size. */
static size_t acts_groups(int n_cols)
{
    return ((size_t)n_cols + KERNELS_GROUP - 1) / KERNELS_GROUP;
}

size_t kernels_acts_bytes(int n_tokens, int n_cols)
{
    size_t groups = (size_t)n_tokens * acts_groups(n_cols);
    return aligned(groups * KERNELS_GROUP) + aligned(groups * KERNELS_GROUP * 2) + aligned(groups * sizeof(float)) +
           aligned(groups * 2 * sizeof(int32_t)) + aligned(groups * sizeof(int32_t)) + aligned(groups * KERNELS_GROUP * sizeof(int16_t)) +
           aligned(groups * sizeof(float));
}

void kernels_acts_place(struct kernels_acts *acts, int n_tokens, void *memory)
{
    size_t groups = (size_t)n_tokens * acts_groups(acts->n_cols);
    uint8_t *at = memory;
    acts->q = (int8_t *)at;
    at += aligned(groups * KERNELS_GROUP);
    acts->split = at;
    at += aligned(groups * KERNELS_GROUP * 2);
    acts->scales = (float *)at;
    at += aligned(groups * sizeof(float));
    acts->sums = (int32_t *)at;
    at += aligned(groups * 2 * sizeof(int32_t));
    acts->starts = (int32_t *)at;
    at += aligned(groups * sizeof(int32_t));
    acts->wide = (int16_t *)at;
    at += aligned(groups * KERNELS_GROUP * sizeof(int16_t));
    acts->wide_scales = (float *)at;
}

static struct kernels_acts acts_from(const struct kernels_acts *acts, int token, int col)
{
    size_t at = (size_t)token * (size_t)acts->n_cols + (size_t)col, group = at / KERNELS_GROUP;
    struct kernels_acts ret = *acts;
    ret.f32 += (size_t)token * (size_t)acts->stride_cols + (size_t)col;
    if (acts->q != NULL) {
        ret.q += at;
        ret.split += at * 2;
        ret.scales += group;
        ret.sums += group * 2;
        ret.starts += group;
        ret.wide += at;
        ret.wide_scales += group;
    }
    return ret;
}

struct kernels_acts kernels_acts_from(const struct kernels_acts *acts, int token)
{
    return acts_from(acts, token, 0);
}

void kernels_acts_copy(const struct kernels_acts *from, int forms, int from_token, struct kernels_acts *to, int to_token)
{
    size_t n_cols = (size_t)from->n_cols, n_groups = n_cols / KERNELS_GROUP;
    struct kernels_acts src = kernels_acts_from(from, from_token), dst = kernels_acts_from(to, to_token);
    if (forms & KERNELS_ACTS_I8) {
        memcpy(dst.q, src.q, n_cols);
        memcpy(dst.split, src.split, n_cols * 2);
        memcpy(dst.scales, src.scales, n_groups * sizeof *src.scales);
        memcpy(dst.sums, src.sums, n_groups * 2 * sizeof *src.sums);
        memcpy(dst.starts, src.starts, n_groups * sizeof *src.starts);
    }
    if (forms & KERNELS_ACTS_I16) {
        memcpy(dst.wide, src.wide, n_cols * sizeof *src.wide);
        memcpy(dst.wide_scales, src.wide_scales, n_groups * sizeof *src.wide_scales);
    }
}

void kernels_acts_quantize(struct kernels_acts *acts, int forms, int token_begin, int token_end)
{
    if (forms & KERNELS_ACTS_I8)
        kernels_ops.acts_quantize_i8(acts, token_begin, token_end);
    if (forms & KERNELS_ACTS_I16)
        kernels_ops.acts_quantize_i16(acts, token_begin, token_end);
}

void kernels_acts_quantize_columns(struct kernels_acts *acts, int forms, int token, int col_begin, int col_end)
{
    struct kernels_acts part = acts_from(acts, token, col_begin);
    part.n_cols = col_end - col_begin;
    kernels_acts_quantize(&part, forms, 0, 1);
}

void kernels_matmul(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,
                    int panel_begin, int panel_end, void *scratch)
{
    kernels_matmul_fn matmul = matrix->is_i16                                     ? kernels_ops.matmul_i16
                               : matrix->keeps_f32 && matrix->dtype == DTYPE_BF16 ? kernels_ops.matmul_bf16_f32
                                                                                  : kernels_ops.matmul[matrix->dtype];
    if (n_tokens > 0 && panel_begin < panel_end)
        matmul(matrix, acts, n_tokens, out, out_stride, panel_begin, panel_end, scratch);
}
