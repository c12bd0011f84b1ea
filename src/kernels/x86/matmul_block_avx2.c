/*
 * Products with block weights (Q4_0, Q4_1, Q4_K, Q5_K, Q6_K) and int8 activations for AVX2, FMA and F16C; those with
 * Q8_0 are in matmul_q8_0_avx2.c.
 *
 * Every output goes through its groups in order: the dot product of a group is exact in integers, then
 * acc = fma(float(dot) · weight scale, activation scale, acc), and for formats with minima acc = fnma(minimum, scaled sum
 * of activations, acc). So its bits are the same in both ways below and in every set that keeps this order.
 * Few tokens: nibbles are unpacked in registers as the weights stream from memory. Many tokens: blocks of columns are
 * unpacked once into scratch (L1) and serve all tokens, four at a time.
 *
 * maddubs multiplies unsigned by signed bytes and adds neighbours into 16 bits. Values below 16 leave room to add all 8
 * quads of a group there (15 · 127 · 16 = 30480); values below 32 four quads; values below 64 two.
 */
#include <stdbool.h>

#include "kernels/blocks.h"
#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/ahead.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/panel_avx2.h"
#include "kernels/x86/x86.h"

enum { ROWS = KERNELS_PANEL_ROWS, GROUP = KERNELS_GROUP, TILE = 4 /* most tokens at once */, BLOCK_GROUPS = 32, CHUNK = 256 };

/* BLOCK_GROUPS groups of one panel, unpacked. */
struct scratch_block {
    uint8_t quads[BLOCK_GROUPS][8][ROWS * 4];
    float scales[BLOCK_GROUPS][2][ROWS]; /* one per half group; [0] alone where both are the same */
    float minima[BLOCK_GROUPS][ROWS];
    float acc[CHUNK][ROWS];
};

_Static_assert(sizeof(struct scratch_block) <= KERNELS_SCRATCH_BYTES, "scratch");

/* Scales of one group for 16 rows in registers; [half group][rows 8h…]. */
struct group_scales {
    __m256 scale[2][2];
    __m256 minimum[2]; /* subtracted */
};

KERNELS_INLINE __m256 u8_scales_load(const uint8_t *bytes, __m256 unit)
{
    __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(words), unit);
}

KERNELS_INLINE __m256 i8_scales_load(const uint8_t *bytes, __m256 unit)
{
    __m256i words = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(words), unit);
}

/* head: where the scales of group g are (simple formats), or its superblock. */
KERNELS_INLINE void scales_load(enum dtype dtype, const uint8_t *head, int g, struct group_scales *ret)
{
    for (int h = 0; h < 2; h++) {
        __m256 d = halves_load(head + 16 * h);
        const uint8_t *scales = head + 64 + 8 * h;
        int j = g % PANEL_SUPER_GROUPS;
        if (dtype == DTYPE_Q6_K) {
            ret->scale[0][h] = i8_scales_load(scales + 16 * (2 * j), d);
            ret->scale[1][h] = i8_scales_load(scales + 16 * (2 * j + 1), d);
        } else if (panel_is_super(dtype)) {
            ret->scale[0][h] = u8_scales_load(scales + 16 * j, d);
            ret->minimum[h] = u8_scales_load(scales + 128 + 16 * j, halves_load(head + 32 + 16 * h));
        } else {
            ret->scale[0][h] = d;
            if (dtype == DTYPE_Q4_1)
                ret->minimum[h] = _mm256_xor_ps(halves_load(head + 32 + 16 * h), _mm256_set1_ps(-0.0f));
        }
    }
}

/* Q6_K: the quad whose bits are the upper two of three vectors. */
KERNELS_INLINE __m256i upper_bits_join(const uint8_t *three)
{
    const __m256i upper = _mm256_set1_epi8((char)0xc0);
    __m256i bits = _mm256_setzero_si256();
    for (int v = 0; v < 3; v++)
        bits = _mm256_or_si256(_mm256_srli_epi16(bits, 2), _mm256_and_si256(_mm256_load_si256((const __m256i *)(three + v * 64)), upper));
    return _mm256_srli_epi16(bits, 2);
}

/* Quads j and j + 4 (0 ≤ j < 4) of rows 8h to 8h + 7, unpacked to bytes. */
KERNELS_INLINE void quads_load(enum dtype dtype, const uint8_t *weights, int j, int h, __m256i *ret_low, __m256i *ret_high)
{
    if (dtype == DTYPE_Q6_K) {
        const __m256i six = _mm256_set1_epi8(63);
        weights += h * 32;
        *ret_low = _mm256_and_si256(_mm256_load_si256((const __m256i *)(weights + j * 64)), six);
        *ret_high = j < 2 ? _mm256_and_si256(_mm256_load_si256((const __m256i *)(weights + (j + 4) * 64)), six)
                          : upper_bits_join(weights + (j - 2) * 3 * 64);
        return;
    }
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i both = _mm256_load_si256((const __m256i *)(weights + j * 64 + h * 32));
    __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
    if (dtype == DTYPE_Q5_K) {
        __m256i bits = _mm256_load_si256((const __m256i *)(weights + PANEL_NIBBLES + h * 32)), bit = _mm256_set1_epi8(16);
        low = _mm256_or_si256(low, _mm256_and_si256(_mm256_slli_epi16(bits, 4 - j), bit));
        high = _mm256_or_si256(high, _mm256_and_si256(_mm256_srli_epi16(bits, j), bit));
    }
    *ret_low = low;
    *ret_high = high;
}

/* Quads of nibbles, or of five bits, that may be added in 16 bits, one after the other. */
KERNELS_INLINE int run_quads(enum dtype dtype)
{
    return dtype == DTYPE_Q5_K ? 4 : 8;
}

/* Sides of a group with scales of their own: columns 0 to 15 and 16 to 31. */
KERNELS_INLINE int n_sides(enum dtype dtype)
{
    return dtype == DTYPE_Q6_K ? 2 : 1;
}

/* Eight products a lane of two quads of values below 64, added up. */
KERNELS_INLINE __m256i pair_products(__m256i w0, __m256i q0, __m256i w1, __m256i q1)
{
    return _mm256_madd_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(w0, q0), _mm256_maddubs_epi16(w1, q1)), _mm256_set1_epi16(1));
}

KERNELS_INLINE __m256i q_load(const int8_t *q)
{
    return _mm256_set1_epi32(word_load(q));
}

/*
 * The dot products of a group with n tokens, in 32 bits: ret[t][h], or ret[side][t][h] where packed weights give both sides at
 * once. From q on. Q6_K has room for a pair of quads in 16 bits, the others for a half group at least.
 */
KERNELS_INLINE void few_dots_pairs(int n, const uint8_t *weights, const int8_t *q, size_t n_cols, __m256i ret[2][TILE][2])
{
    for (int i = 0; i < n * 4; i++)
        ret[i % 2][i / 4][i / 2 % 2] = _mm256_setzero_si256();
    KERNELS_UNROLL
    for (int j = 0; j < 4; j += 2) {
        KERNELS_UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i w[2][2]; /* [side][quad of the pair] */
            quads_load(DTYPE_Q6_K, weights, j, h, &w[0][0], &w[1][0]);
            quads_load(DTYPE_Q6_K, weights, j + 1, h, &w[0][1], &w[1][1]);
            KERNELS_UNROLL
            for (int t = 0; t < n; t++) {
                KERNELS_UNROLL
                for (int side = 0; side < 2; side++) {
                    const int8_t *at = q + (size_t)t * n_cols + side * 16 + j * 4;
                    ret[side][t][h] = _mm256_add_epi32(ret[side][t][h], pair_products(w[side][0], q_load(at), w[side][1], q_load(at + 4)));
                }
            }
        }
    }
}

KERNELS_INLINE void few_dots(enum dtype dtype, int n, const uint8_t *weights, const int8_t *q, size_t n_cols, __m256i ret[TILE][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    int is_apart = run_quads(dtype) == 4; /* the half groups, until they have 32 bits */
    __m256i sums[TILE][2][2];             /* [half group][h] in 16 bits */
    for (int i = 0; i < n * 4; i++)
        sums[i / 4][i / 2 % 2][i % 2] = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) {
        __m256i low[2], high[2];
        for (int h = 0; h < 2; h++)
            quads_load(dtype, weights, j, h, &low[h], &high[h]);
        for (int t = 0; t < n; t++) {
            const int8_t *at = q + (size_t)t * n_cols + j * 4;
            for (int h = 0; h < 2; h++)
                sums[t][0][h] = _mm256_add_epi16(sums[t][0][h], _mm256_maddubs_epi16(low[h], q_load(at)));
            for (int h = 0; h < 2; h++)
                sums[t][is_apart][h] = _mm256_add_epi16(sums[t][is_apart][h], _mm256_maddubs_epi16(high[h], q_load(at + 16)));
        }
    }
    for (int i = 0; i < n * 2; i++) {
        int t = i / 2, h = i % 2;
        ret[t][h] = _mm256_madd_epi16(sums[t][0][h], ones);
        if (is_apart)
            ret[t][h] = _mm256_add_epi32(ret[t][h], _mm256_madd_epi16(sums[t][1][h], ones));
    }
}

KERNELS_INLINE __m256 scaled_add(__m256 acc, __m256i dot, __m256 scale, __m256 q_scale)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale), q_scale, acc);
}

/* acc[h] += a side's dot products with its scale, offset and minimum. sums: of the activations, per half group. */
KERNELS_INLINE void side_finish(enum dtype dtype, int side, const __m256i dots[2], const struct group_scales *scales, float q_scale,
                                const int32_t *sums, __m256 acc[2])
{
    int offset = blocks_offset(dtype);
    int32_t sum = n_sides(dtype) == 2 ? sums[side] : sums[0] + sums[1];
    __m256 qs = _mm256_set1_ps(q_scale);
    for (int h = 0; h < 2; h++) {
        __m256i dot = dots[h];
        if (offset)
            dot = _mm256_sub_epi32(dot, _mm256_set1_epi32(offset * sum));
        acc[h] = scaled_add(acc[h], dot, scales->scale[side][h], qs);
        if (panel_has_minima(dtype))
            acc[h] = _mm256_fnmadd_ps(_mm256_set1_ps(q_scale * (float)sum), scales->minimum[h], acc[h]);
    }
}

/* One panel for n tokens (a constant where this is inlined) from `token` on, straight from the packed weights. */
KERNELS_INLINE void few(enum dtype dtype, int n, const struct kernels_matrix *matrix, int p, const struct kernels_acts *acts, int token,
                        float *out, size_t out_stride, struct ahead ahead, bool into_l1)
{
    size_t n_cols = (size_t)matrix->n_cols, n_groups = n_cols / GROUP, first = (size_t)token;
    const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes;
    __m256 acc[TILE][2];
    for (int t = 0; t < n; t++)
        acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (size_t g = 0; g < n_groups; g++) {
        const int8_t *q = acts->q + first * n_cols + g * GROUP;
        const uint8_t *weights = panel + panel_weights_at(dtype, (int)g);
        ahead_prefetch(&ahead, into_l1);
        __m256i dots[2][TILE][2];
        if (dtype == DTYPE_Q6_K)
            few_dots_pairs(n, weights, q, n_cols, dots);
        else
            few_dots(dtype, n, weights, q, n_cols, dots[0]);
        struct group_scales scales;
        scales_load(dtype, panel + panel_head_at(dtype, (int)g), (int)g, &scales);
        for (int t = 0; t < n; t++) {
            size_t at = (first + (size_t)t) * n_groups + g;
            for (int side = 0; side < n_sides(dtype); side++)
                side_finish(dtype, side, dots[side][t], &scales, acts->scales[at], acts->sums + 2 * at, acc[t]);
        }
    }
    KERNELS_UNROLL
    for (int t = 0; t < n; t++)
        panel_sums_write(matrix, p, acc[t], out + (first + (size_t)t) * out_stride);
}

/* Groups [begin, begin + n) of a panel into scratch. */
KERNELS_INLINE void unpack(enum dtype dtype, const uint8_t *panel, size_t begin, size_t n, struct scratch_block *scratch)
{
    for (size_t i = 0; i < n; i++) {
        int g = (int)(begin + i);
        struct group_scales scales;
        scales_load(dtype, panel + panel_head_at(dtype, g), g, &scales);
        for (int h = 0; h < 2; h++) {
            _mm256_store_ps(&scratch->scales[i][0][8 * h], scales.scale[0][h]);
            if (dtype == DTYPE_Q6_K)
                _mm256_store_ps(&scratch->scales[i][1][8 * h], scales.scale[1][h]);
            if (panel_has_minima(dtype))
                _mm256_store_ps(&scratch->minima[i][8 * h], scales.minimum[h]);
        }
        for (int j = 0; j < 4; j++) {
            for (int h = 0; h < 2; h++) {
                __m256i low, high;
                quads_load(dtype, panel + panel_weights_at(dtype, g), j, h, &low, &high);
                _mm256_store_si256((__m256i *)&scratch->quads[i][j][32 * h], low);
                _mm256_store_si256((__m256i *)&scratch->quads[i][j + 4][32 * h], high);
            }
        }
    }
}

/* The same from an unpacked group. */
KERNELS_INLINE void tile_dots(enum dtype dtype, int n, const uint8_t *weights, const int8_t *q, size_t n_cols, __m256i ret[TILE][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < n * 2; i++)
        ret[i / 2][i % 2] = _mm256_setzero_si256();
    for (int run = 0; run < 8 / run_quads(dtype); run++) {
        __m256i s16[TILE][2];
        for (int t = 0; t < n; t++)
            s16[t][0] = s16[t][1] = _mm256_setzero_si256();
        for (int quad = run * run_quads(dtype); quad < (run + 1) * run_quads(dtype); quad++) {
            __m256i w[2] = {_mm256_load_si256((const __m256i *)(weights + quad * 64)),
                            _mm256_load_si256((const __m256i *)(weights + quad * 64 + 32))};
            for (int t = 0; t < n; t++) {
                __m256i acts = q_load(q + (size_t)t * n_cols + quad * 4);
                for (int h = 0; h < 2; h++)
                    s16[t][h] = _mm256_add_epi16(s16[t][h], _mm256_maddubs_epi16(w[h], acts));
            }
        }
        for (int t = 0; t < n; t++)
            for (int h = 0; h < 2; h++)
                ret[t][h] = _mm256_add_epi32(ret[t][h], _mm256_madd_epi16(s16[t][h], ones));
    }
}

/* And for a side of Q6_K: what a pair of quads adds up to goes to 32 bits at once, so that nothing of 16 bits is kept. */
KERNELS_INLINE void tile_dots_pairs(int n, const uint8_t *weights, int side, const int8_t *q, size_t n_cols, __m256i ret[TILE][2])
{
    for (int i = 0; i < n * 2; i++)
        ret[i / 2][i % 2] = _mm256_setzero_si256();
    KERNELS_UNROLL
    for (int quad = 4 * side; quad < 4 * side + 4; quad += 2) {
        __m256i w[2][2];
        for (int i = 0; i < 4; i++)
            w[i / 2][i % 2] = _mm256_load_si256((const __m256i *)(weights + quad * 64 + i * 32));
        for (int t = 0; t < n; t++) {
            __m256i first = q_load(q + (size_t)t * n_cols + quad * 4), second = q_load(q + (size_t)t * n_cols + quad * 4 + 4);
            for (int h = 0; h < 2; h++)
                ret[t][h] = _mm256_add_epi32(ret[t][h], pair_products(w[0][h], first, w[1][h], second));
        }
    }
}

/* acc[n][16] += groups [begin, begin + n_block) of an unpacked panel times n tokens from `token` on; begin 0: it is set. */
KERNELS_INLINE void tile(enum dtype dtype, int n, size_t begin, size_t n_block, const struct scratch_block *scratch,
                         const struct kernels_acts *acts, size_t token, float *acc, struct ahead ahead)
{
    size_t n_cols = (size_t)acts->n_cols, n_groups = n_cols / GROUP;
    __m256 total[TILE][2];
    for (int t = 0; t < n; t++) {
        total[t][0] = begin == 0 ? _mm256_setzero_ps() : _mm256_load_ps(acc + t * ROWS);
        total[t][1] = begin == 0 ? _mm256_setzero_ps() : _mm256_load_ps(acc + t * ROWS + 8);
    }
    for (size_t i = 0; i < n_block; i++) {
        const uint8_t *weights = &scratch->quads[i][0][0];
        const int8_t *q = acts->q + token * n_cols + (begin + i) * GROUP;
        ahead_prefetch(&ahead, dtype != DTYPE_Q6_K);
        struct group_scales scales;
        for (int h = 0; h < 2; h++) {
            scales.scale[0][h] = _mm256_load_ps(&scratch->scales[i][0][8 * h]);
            if (dtype == DTYPE_Q6_K)
                scales.scale[1][h] = _mm256_load_ps(&scratch->scales[i][1][8 * h]);
            if (panel_has_minima(dtype))
                scales.minimum[h] = _mm256_load_ps(&scratch->minima[i][8 * h]);
        }
        KERNELS_UNROLL
        for (int side = 0; side < n_sides(dtype); side++) {
            __m256i dots[TILE][2];
            if (dtype == DTYPE_Q6_K)
                tile_dots_pairs(n, weights, side, q, n_cols, dots);
            else
                tile_dots(dtype, n, weights, q, n_cols, dots);
            for (int t = 0; t < n; t++) {
                size_t at = (token + (size_t)t) * n_groups + begin + i;
                side_finish(dtype, side, dots[t], &scales, acts->scales[at], acts->sums + 2 * at, total[t]);
            }
        }
    }
    for (int t = 0; t < n; t++) {
        _mm256_store_ps(acc + t * ROWS, total[t][0]);
        _mm256_store_ps(acc + t * ROWS + 8, total[t][1]);
    }
}

/* Tokens at once in a tile, so that sums and weights fit the registers. Measured. */
KERNELS_INLINE int tile_tokens(enum dtype dtype)
{
    return dtype == DTYPE_Q5_K ? 3 : TILE;
}

/*
 * One panel for tokens [token, token + n), n at most CHUNK. While a block of columns is in work, its tiles call for the next
 * one, each for its share: unpacking then does not wait for memory, which the tiles would leave idle. Behind a chunk's last
 * panel comes what this thread or another will take next.
 */
KERNELS_INLINE void many(enum dtype dtype, const struct kernels_matrix *matrix, int p, const struct kernels_acts *acts, size_t token, int n,
                         float *out, size_t out_stride, struct scratch_block *scratch)
{
    const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes;
    size_t n_groups = (size_t)matrix->n_cols / GROUP, group_bytes = matrix->panel_bytes / n_groups;
    for (size_t begin = 0, end; begin < n_groups; begin = end) {
        end = begin + BLOCK_GROUPS < n_groups ? begin + BLOCK_GROUPS : n_groups;
        bool has_next = end < n_groups || p + 1 < matrix->n_panels;
        unpack(dtype, panel, begin, end - begin, scratch);
        for (int t = 0, at_once; t < n; t += at_once) {
            at_once = n - t >= tile_tokens(dtype) ? tile_tokens(dtype) : n - t >= 2 ? 2 : 1;
            struct ahead ahead = {panel + end * group_bytes + (end - begin) * group_bytes * (size_t)t / (size_t)n,
                                  has_next ? group_bytes * (size_t)at_once / (size_t)n : 0};
            size_t first = token + (size_t)t;
            if (at_once == tile_tokens(dtype))
                tile(dtype, tile_tokens(dtype), begin, end - begin, scratch, acts, first, scratch->acc[t], ahead);
            else if (at_once == 2)
                tile(dtype, 2, begin, end - begin, scratch, acts, first, scratch->acc[t], ahead);
            else
                tile(dtype, 1, begin, end - begin, scratch, acts, first, scratch->acc[t], ahead);
        }
    }
    for (int t = 0; t < n; t++)
        panel_out_write(matrix, p, scratch->acc[t], out + (token + (size_t)t) * out_stride);
}

/* Tokens at once in `few`, and up to how many tokens it is repeated: unpacking again then costs less than scratch. Measured. */
KERNELS_INLINE int few_tokens(enum dtype dtype)
{
    return dtype == DTYPE_Q5_K ? 2 : TILE;
}

KERNELS_INLINE int few_tokens_repeated(enum dtype dtype)
{
    return dtype == DTYPE_Q4_0 || dtype == DTYPE_Q4_1 || dtype == DTYPE_Q4_K ? 3 * TILE : TILE;
}

/* One panel for all tokens, a few at a time. Each pass calls for its share of the next panel. */
KERNELS_INLINE void few_repeat(enum dtype dtype, const struct kernels_matrix *matrix, int p, const struct kernels_acts *acts, int n_tokens,
                               float *out, size_t out_stride)
{
    const uint8_t *next = matrix->data + (size_t)(p + 1) * matrix->panel_bytes;
    size_t group_bytes = matrix->panel_bytes / ((size_t)matrix->n_cols / GROUP);
    bool into_l1 = !panel_is_super(dtype) && n_tokens > TILE;
    for (int t = 0, n; t < n_tokens; t += n) {
        int left = n_tokens - t, n_passes = (left + few_tokens(dtype) - 1) / few_tokens(dtype);
        n = (left + n_passes - 1) / n_passes; /* passes of even sizes */
        struct ahead ahead = {next + matrix->panel_bytes * (size_t)t / (size_t)n_tokens,
                              p + 1 < matrix->n_panels ? group_bytes * (size_t)n / (size_t)n_tokens : 0};
        if (n == 1)
            few(dtype, 1, matrix, p, acts, t, out, out_stride, ahead, into_l1);
        else if (n == 2)
            few(dtype, 2, matrix, p, acts, t, out, out_stride, ahead, into_l1);
        else if (few_tokens(dtype) > 2 && n == 3)
            few(dtype, 3, matrix, p, acts, t, out, out_stride, ahead, into_l1);
        else if (few_tokens(dtype) > 2)
            few(dtype, 4, matrix, p, acts, t, out, out_stride, ahead, into_l1);
    }
}

KERNELS_INLINE void matmul(enum dtype dtype, const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end, void *scratch)
{
    size_t out_cols = (size_t)out_stride;
    if (n_tokens <= few_tokens_repeated(dtype)) {
        for (int p = panel_begin; p < panel_end; p++)
            few_repeat(dtype, matrix, p, acts, n_tokens, out, out_cols);
        return;
    }
    for (int t = 0; t < n_tokens; t += CHUNK) {
        int n = n_tokens - t < CHUNK ? n_tokens - t : CHUNK;
        for (int p = panel_begin; p < panel_end; p++)
            many(dtype, matrix, p, acts, (size_t)t, n, out, out_cols, scratch);
    }
}

#define MATMUL_DEFINE(name, dtype)                                                                                                     \
    static void name(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,  \
                     int panel_begin, int panel_end, void *scratch)                                                                   \
    {                                                                                                                                  \
        matmul(dtype, matrix, acts, n_tokens, out, out_stride, panel_begin, panel_end, scratch);                                       \
    }

MATMUL_DEFINE(matmul_q4_0_avx2, DTYPE_Q4_0)
MATMUL_DEFINE(matmul_q4_1_avx2, DTYPE_Q4_1)
MATMUL_DEFINE(matmul_q4_k_avx2, DTYPE_Q4_K)
MATMUL_DEFINE(matmul_q5_k_avx2, DTYPE_Q5_K)
MATMUL_DEFINE(matmul_q6_k_avx2, DTYPE_Q6_K)

void kernels_x86_fill_matmul_block_avx2(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_Q4_0] = matmul_q4_0_avx2;
    ops->matmul[DTYPE_Q4_1] = matmul_q4_1_avx2;
    ops->matmul[DTYPE_Q4_K] = matmul_q4_k_avx2;
    ops->matmul[DTYPE_Q5_K] = matmul_q5_k_avx2;
    ops->matmul[DTYPE_Q6_K] = matmul_q6_k_avx2;
}
