/*
 * Products with BF16 weights that were packed as 16-bit integers (matrix.h) for AVX2 and FMA: pmaddwd multiplies twice as
 * many numbers as a float multiply-add does.
 *
 * Weights and activations have 14 bits, the latter a scale for each group of 32 columns, so that the products of a group
 * are exact in 32 bits; the groups are added in float, in order, as one chain for every output.
 *
 * One token: four panels at a time, whose streams of addresses keep memory busy. Up to five: one panel, which calls for the
 * next. More: a block of columns stays in L1 for all of them, up to four at a time.
 */
#include <stdbool.h>

#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/ahead.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/panel_avx2.h"
#include "kernels/x86/x86.h"

enum {
    ROWS = KERNELS_PANEL_ROWS,
    GROUP = KERNELS_GROUP,
    PAIRS = GROUP / 2,
    GROUP_BYTES = PAIRS * 64, /* of a panel */
    FEW = 5,                  /* tokens */
    TILE = 4,                 /* tokens: 8 sums, 2 weights, 1 activation */
    BLOCK_GROUPS = 8,
    CHUNK = 96 /* tokens whose sums stay in scratch */
};

struct scratch_i16 {
    float acc[CHUNK][ROWS];
};

_Static_assert(sizeof(struct scratch_i16) <= KERNELS_SCRATCH_BYTES, "scratch");
/* One activation and one weight of the greatest size in all places of a group. */
_Static_assert((int64_t)GROUP * KERNELS_I16_MAX * KERNELS_I16_MAX <= INT32_MAX, "a group's products fit in 32 bits");

/* The scales of rows 8h to 8h + 7. */
KERNELS_INLINE __m256 scales_load(const uint8_t *panel, int h)
{
    return _mm256_load_ps((const float *)panel + 8 * h);
}

/* sums[t] += two columns of a panel times those of n tokens. x: of the first token. */
KERNELS_INLINE void pairs_add(int n, const uint8_t *pairs, const int16_t *x, size_t n_cols, __m256i sums[][2])
{
    __m256i w0 = _mm256_load_si256((const __m256i *)pairs), w1 = _mm256_load_si256((const __m256i *)pairs + 1);
    KERNELS_UNROLL
    for (int t = 0; t < n; t++) {
        __m256i pair = _mm256_set1_epi32(word_load((const int8_t *)(x + (size_t)t * n_cols)));
        sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(w0, pair));
        sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(w1, pair));
    }
}

/* acc[t] += the sums of a group times its scale. scales: of the first token. */
KERNELS_INLINE void group_add(int n, __m256i sums[][2], const float *scales, size_t n_groups, float (*acc)[ROWS])
{
    KERNELS_UNROLL
    for (int t = 0; t < n; t++) {
        __m256 scale = _mm256_broadcast_ss(scales + (size_t)t * n_groups);
        for (int h = 0; h < 2; h++)
            _mm256_store_ps(acc[t] + 8 * h, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][h]), scale, _mm256_load_ps(acc[t] + 8 * h)));
    }
}

/* What is in acc, for integers, to its place in the output, for the weights that they stand for. */
KERNELS_INLINE void sums_finish(const struct kernels_matrix *matrix, int panel, const float (*acc)[ROWS], int n, float *out, size_t out_stride)
{
    const uint8_t *data = matrix->data + (size_t)panel * matrix->panel_bytes;
    const __m256 one = _mm256_set1_ps(1);
    __m256 units[2] = {_mm256_div_ps(one, scales_load(data, 0)), _mm256_div_ps(one, scales_load(data, 1))};
    for (int t = 0; t < n; t++) {
        __m256 sums[2] = {_mm256_mul_ps(_mm256_load_ps(acc[t]), units[0]), _mm256_mul_ps(_mm256_load_ps(acc[t] + 8), units[1])};
        panel_sums_write(matrix, panel, sums, out + (size_t)t * out_stride);
    }
}

/* n_panels neighbouring panels for n tokens: constants where this is inlined. A panel alone calls for the next. */
KERNELS_INLINE void few(int n_panels, int n, const struct kernels_matrix *matrix, int first_panel, const struct kernels_acts *acts, float *out,
                        size_t out_stride)
{
    enum { STEP = 2 /* pairs */ };
    const uint8_t *panel = matrix->data + (size_t)first_panel * matrix->panel_bytes;
    size_t n_cols = (size_t)matrix->n_cols, n_groups = n_cols / GROUP;
    _Alignas(32) float acc[4][FEW][ROWS] = {{{0}}};
    struct ahead ahead = {panel + matrix->panel_bytes, n_panels == 1 && first_panel + 1 < matrix->n_panels ? STEP * 64 : 0};
    for (size_t g = 0; g < n_groups; g++) {
        for (int p = 0; p < n_panels; p++) {
            const uint8_t *pairs = panel + (size_t)p * matrix->panel_bytes + PANEL_BF16_HEAD + g * GROUP_BYTES;
            __m256i sums[FEW][2];
            for (int t = 0; t < n; t++)
                sums[t][0] = sums[t][1] = _mm256_setzero_si256();
            KERNELS_UNROLL
            for (int i = 0; i < PAIRS; i++) {
                if (i % STEP == 0)
                    ahead_prefetch(&ahead, false);
                pairs_add(n, pairs + i * 64, acts->wide + g * GROUP + (size_t)i * 2, n_cols, sums);
            }
            group_add(n, sums, acts->wide_scales + g, n_groups, acc[p]);
        }
    }
    for (int p = 0; p < n_panels; p++)
        sums_finish(matrix, first_panel + p, (const float(*)[ROWS])acc[p], n, out, out_stride);
}

/* acc[n] += n_groups groups of columns times those of n tokens. x, scales: of the first token and group. */
KERNELS_INLINE void tile(int n, const uint8_t *pairs, size_t n_groups, const int16_t *x, size_t x_cols, const float *scales,
                         float (*acc)[ROWS], struct ahead ahead)
{
    for (size_t g = 0; g < n_groups; g++, pairs += GROUP_BYTES) {
        __m256i sums[TILE][2];
        ahead_prefetch(&ahead, false);
        for (int t = 0; t < n; t++)
            sums[t][0] = sums[t][1] = _mm256_setzero_si256();
        KERNELS_UNROLL
        for (int i = 0; i < PAIRS; i++)
            pairs_add(n, pairs + i * 64, x + g * GROUP + (size_t)i * 2, x_cols, sums);
        group_add(n, sums, scales + g, x_cols / GROUP, acc);
    }
}

/* One panel for tokens [token, token + n_tokens), CHUNK at most. The tiles of a block call for the next, each for its share. */
KERNELS_INLINE void many(const struct kernels_matrix *matrix, int p, const struct kernels_acts *acts, size_t token, int n_tokens, float *out,
                         size_t out_stride, struct scratch_i16 *scratch)
{
    const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes, *pairs = panel + PANEL_BF16_HEAD;
    size_t n_cols = (size_t)matrix->n_cols, n_groups = n_cols / GROUP;
    memset(scratch->acc, 0, (size_t)n_tokens * sizeof scratch->acc[0]);
    for (size_t begin = 0, end; begin < n_groups; begin = end) {
        end = begin + BLOCK_GROUPS < n_groups ? begin + BLOCK_GROUPS : n_groups;
        bool has_next = end < n_groups || p + 1 < matrix->n_panels;
        for (int t = 0, n; t < n_tokens; t += n) {
            int left = n_tokens - t, n_tiles = (left + TILE - 1) / TILE;
            n = (left + n_tiles - 1) / n_tiles; /* tiles of even sizes */
            struct ahead ahead = {pairs + end * GROUP_BYTES + (end - begin) * GROUP_BYTES * (size_t)t / (size_t)n_tokens,
                                  has_next ? GROUP_BYTES * (size_t)n / (size_t)n_tokens : 0};
            const int16_t *x = acts->wide + (token + (size_t)t) * n_cols + begin * GROUP;
            const float *x_scales = acts->wide_scales + (token + (size_t)t) * n_groups + begin;
            switch (n) {
            case 4: tile(4, pairs + begin * GROUP_BYTES, end - begin, x, n_cols, x_scales, scratch->acc + t, ahead); break;
            case 3: tile(3, pairs + begin * GROUP_BYTES, end - begin, x, n_cols, x_scales, scratch->acc + t, ahead); break;
            case 2: tile(2, pairs + begin * GROUP_BYTES, end - begin, x, n_cols, x_scales, scratch->acc + t, ahead); break;
            default: tile(1, pairs + begin * GROUP_BYTES, end - begin, x, n_cols, x_scales, scratch->acc + t, ahead); break;
            }
        }
    }
    sums_finish(matrix, p, (const float(*)[ROWS])scratch->acc, n_tokens, out + token * out_stride, out_stride);
}

static void matmul_i16_avx2(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,
                             int panel_begin, int panel_end, void *scratch)
{
    size_t out_cols = (size_t)out_stride;
    int p = panel_begin;
    switch (n_tokens) {
        PANELS_CASE(few, p, panel_end, 1, 4, matrix, p, acts, out, out_cols);
        PANELS_CASE(few, p, panel_end, 2, 1, matrix, p, acts, out, out_cols);
        PANELS_CASE(few, p, panel_end, 3, 1, matrix, p, acts, out, out_cols);
        PANELS_CASE(few, p, panel_end, 4, 1, matrix, p, acts, out, out_cols);
        PANELS_CASE(few, p, panel_end, 5, 1, matrix, p, acts, out, out_cols);
    default: break;
    }
    for (int t = 0; t < n_tokens; t += CHUNK) {
        int n = n_tokens - t < CHUNK ? n_tokens - t : CHUNK;
        for (p = panel_begin; p < panel_end; p++)
            many(matrix, p, acts, (size_t)t, n, out, out_cols, scratch);
    }
}

/* One group of 32. */
KERNELS_INLINE void group_quantize(const float *x, int16_t *wide, float *scale)
{
    float inverse_scale;
    if (!group_scale(x, KERNELS_I16_MAX, scale, &inverse_scale)) {
        memset(wide, 0, GROUP * sizeof *wide);
        return;
    }
    __m256 inverse = _mm256_set1_ps(inverse_scale);
    for (int i = 0; i < GROUP; i += 16) {
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), inverse));
        _mm256_storeu_si256((__m256i *)(wide + i), _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8));
    }
}

static void acts_quantize_i16_avx2(struct kernels_acts *acts, int token_begin, int token_end)
{
    size_t n_groups = (size_t)acts->n_cols / GROUP;
    for (int t = token_begin; t < token_end; t++) {
        const float *x = acts->f32 + (size_t)t * (size_t)acts->stride_cols;
        for (size_t g = 0; g < n_groups; g++) {
            size_t at = (size_t)t * n_groups + g;
            group_quantize(x + g * GROUP, acts->wide + at * GROUP, &acts->wide_scales[at]);
        }
    }
}

void kernels_x86_fill_matmul_i16_avx2(struct kernels_ops *ops)
{
    ops->matmul_i16 = matmul_i16_avx2;
    ops->acts_quantize_i16 = acts_quantize_i16_avx2;
}
