/*
 * Products with float weights (F32, F16, BF16, F8_E4M3) in float32 for AVX2, FMA and F16C.
 *
 * Every output is one chain of fused multiply-adds over the columns in order, so its bits are the same in both ways below.
 * Weights are converted in registers: next to six tokens' multiply-adds that is free. One or two tokens: several panels
 * at a time, whose chains hide the latency of the multiply-add and whose streams of addresses keep more lines under way
 * than one. Up to five: one panel, which calls for the next. Many tokens: a block of columns stays in L1 for all of them, up
 * to six at a time (12 sums, 2 weights, 1 activation).
 */
#include <stdbool.h>

#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/ahead.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/panel_avx2.h"
#include "kernels/x86/x86.h"

enum { ROWS = KERNELS_PANEL_ROWS, FEW = 5 /* tokens */, TILE = 6 /* tokens */, CHUNK = 96 /* tokens whose sums stay in scratch */ };
enum { BLOCK = 256, STEP = 16 }; /* columns */

struct scratch_float {
    float acc[CHUNK][ROWS];
};

_Static_assert(sizeof(struct scratch_float) <= KERNELS_SCRATCH_BYTES, "scratch");

/* Column c, rows 8h to 8h + 7. is_odd: c is, for the compiler to know. */
KERNELS_INLINE __m256 weights_load(enum dtype dtype, const uint8_t *panel, int c, bool is_odd, int h)
{
    size_t col = (size_t)c;
    if (dtype == DTYPE_F32)
        return _mm256_load_ps((const float *)(panel + col * 64 + (size_t)h * 32));
    if (dtype == DTYPE_F16)
        return halves_load(panel + col * 32 + (size_t)h * 16);
    if (dtype == DTYPE_F8_E4M3) {
        /* The sign stays on top, exponent and mantissa move to where F16 has them; the bias is in the scale. */
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(panel + panel_f8_column_at(c) + h * 8));
        __m128i halves = _mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7), _mm_set1_epi16((short)0xbfff));
        return _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_broadcast_ss((const float *)(panel + panel_f8_scale_at(c))));
    }
    __m256i pairs = _mm256_load_si256((const __m256i *)(panel + panel_bf16_pair_at(c) + h * 32));
    return _mm256_castsi256_ps(is_odd ? _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)) : _mm256_slli_epi32(pairs, 16));
}

/* One column of n_panels panels times n tokens. acc[token][panel][h]. */
KERNELS_INLINE void column_add(enum dtype dtype, int n_panels, int n, const uint8_t *panel, size_t panel_bytes, int c, bool is_odd,
                               const float *x, size_t stride, __m256 (*acc)[4][2])
{
    for (int p = 0; p < n_panels; p++) {
        __m256 w0 = weights_load(dtype, panel + (size_t)p * panel_bytes, c, is_odd, 0);
        __m256 w1 = weights_load(dtype, panel + (size_t)p * panel_bytes, c, is_odd, 1);
        for (int t = 0; t < n; t++) {
            __m256 value = _mm256_broadcast_ss(x + (size_t)t * stride + c);
            acc[t][p][0] = _mm256_fmadd_ps(w0, value, acc[t][p][0]);
            acc[t][p][1] = _mm256_fmadd_ps(w1, value, acc[t][p][1]);
        }
    }
}

/* n_panels neighbouring panels for n tokens; both are constants where this is inlined. */
KERNELS_INLINE void few(int n_panels, int n, enum dtype dtype, const struct kernels_matrix *matrix, int first_panel, const float *x,
                        size_t stride, float *out, size_t out_stride)
{
    const size_t panel_bytes = matrix->panel_bytes;
    const uint8_t *panel = matrix->data + (size_t)first_panel * panel_bytes;
    __m256 acc[FEW][4][2];
    for (int t = 0; t < n; t++)
        for (int p = 0; p < n_panels; p++)
            acc[t][p][0] = acc[t][p][1] = _mm256_setzero_ps();
    bool calls_ahead = n_panels == 1 && first_panel + 1 < matrix->n_panels;
    struct ahead ahead = {panel + panel_bytes, calls_ahead ? STEP * panel_bytes / (size_t)matrix->n_cols : 0};
    int c = 0;
    while (c + STEP <= matrix->n_cols) {
        ahead_prefetch(&ahead, false);
        for (int stop = c + STEP; c < stop; c += 2) {
            column_add(dtype, n_panels, n, panel, panel_bytes, c, false, x, stride, acc);
            column_add(dtype, n_panels, n, panel, panel_bytes, c + 1, true, x, stride, acc);
        }
    }
    for (; c + 2 <= matrix->n_cols; c += 2) {
        column_add(dtype, n_panels, n, panel, panel_bytes, c, false, x, stride, acc);
        column_add(dtype, n_panels, n, panel, panel_bytes, c + 1, true, x, stride, acc);
    }
    if (c < matrix->n_cols) /* an even column: its place in a pair is 0 */
        column_add(dtype, n_panels, n, panel, panel_bytes, c, false, x, stride, acc);
    KERNELS_UNROLL
    for (int t = 0; t < n; t++) {
        KERNELS_UNROLL
        for (int p = 0; p < n_panels; p++)
            panel_sums_write(matrix, first_panel + p, acc[t][p], out + (size_t)t * out_stride);
    }
}

/* acc[n][16] += columns [begin, end) of a panel times n tokens; begin 0: it is set. begin is even. */
KERNELS_INLINE void tile(enum dtype dtype, int n, const uint8_t *panel, int begin, int end, const float *x, size_t stride, float *acc,
                         struct ahead ahead)
{
    __m256 sums[TILE][4][2];
    for (int t = 0; t < n; t++) {
        sums[t][0][0] = begin == 0 ? _mm256_setzero_ps() : _mm256_load_ps(acc + t * ROWS);
        sums[t][0][1] = begin == 0 ? _mm256_setzero_ps() : _mm256_load_ps(acc + t * ROWS + 8);
    }
    int c = begin;
    while (c + STEP <= end) {
        ahead_prefetch(&ahead, true);
        for (int stop = c + STEP; c < stop; c += 2) {
            column_add(dtype, 1, n, panel, 0, c, false, x, stride, sums);
            column_add(dtype, 1, n, panel, 0, c + 1, true, x, stride, sums);
        }
    }
    for (; c < end; c++)
        column_add(dtype, 1, n, panel, 0, c, c % 2 == 1, x, stride, sums);
    for (int t = 0; t < n; t++) {
        _mm256_store_ps(acc + t * ROWS, sums[t][0][0]);
        _mm256_store_ps(acc + t * ROWS + 8, sums[t][0][1]);
    }
}

/* One panel for at most CHUNK tokens. The tiles of a block of columns call for the next block, each for its share. */
KERNELS_INLINE void many(enum dtype dtype, const struct kernels_matrix *matrix, int p, int n_tokens, const float *x, size_t stride,
                         float *out, size_t out_stride, struct scratch_float *scratch)
{
    const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes;
    size_t col_bytes = matrix->panel_bytes / (size_t)matrix->n_cols;
    for (int begin = 0, end; begin < matrix->n_cols; begin = end) {
        end = begin + BLOCK < matrix->n_cols ? begin + BLOCK : matrix->n_cols;
        bool has_next = end < matrix->n_cols || p + 1 < matrix->n_panels;
        for (int t = 0, n; t < n_tokens; t += n) {
            /* BF16 and E4M3 need a register for a mask. */
            int left = n_tokens - t, at_most = dtype == DTYPE_BF16 || dtype == DTYPE_F8_E4M3 ? TILE - 1 : TILE;
            int n_tiles = (left + at_most - 1) / at_most;
            const float *at = x + (size_t)t * stride;
            float *acc = scratch->acc[t];
            n = (left + n_tiles - 1) / n_tiles; /* tiles of even sizes */
            struct ahead ahead = {panel + (size_t)end * col_bytes + BLOCK * col_bytes * (size_t)t / (size_t)n_tokens,
                                  has_next ? STEP * col_bytes * (size_t)n / (size_t)n_tokens : 0};
            switch (n) {
            case 6: tile(dtype, 6, panel, begin, end, at, stride, acc, ahead); break;
            case 5: tile(dtype, 5, panel, begin, end, at, stride, acc, ahead); break;
            case 4: tile(dtype, 4, panel, begin, end, at, stride, acc, ahead); break;
            case 3: tile(dtype, 3, panel, begin, end, at, stride, acc, ahead); break;
            case 2: tile(dtype, 2, panel, begin, end, at, stride, acc, ahead); break;
            default: tile(dtype, 1, panel, begin, end, at, stride, acc, ahead); break;
            }
        }
    }
    for (int t = 0; t < n_tokens; t++)
        panel_out_write(matrix, p, scratch->acc[t], out + (size_t)t * out_stride);
}

KERNELS_INLINE void matmul(enum dtype dtype, const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end, void *scratch)
{
    const float *x = acts->f32;
    size_t stride = (size_t)acts->stride_cols, out_cols = (size_t)out_stride;
    int p = panel_begin;
    switch (n_tokens) {
        PANELS_CASE(few, p, panel_end, 1, 4, dtype, matrix, p, x, stride, out, out_cols);
        PANELS_CASE(few, p, panel_end, 2, 2, dtype, matrix, p, x, stride, out, out_cols);
        PANELS_CASE(few, p, panel_end, 3, 1, dtype, matrix, p, x, stride, out, out_cols);
        PANELS_CASE(few, p, panel_end, 4, 1, dtype, matrix, p, x, stride, out, out_cols);
        PANELS_CASE(few, p, panel_end, 5, 1, dtype, matrix, p, x, stride, out, out_cols);
    default: break;
    }
    for (int t = 0; t < n_tokens; t += CHUNK) {
        int n = n_tokens - t < CHUNK ? n_tokens - t : CHUNK;
        for (p = panel_begin; p < panel_end; p++)
            many(dtype, matrix, p, n, x + (size_t)t * stride, stride, out + (size_t)t * out_cols, out_cols, scratch);
    }
}

#define MATMUL_DEFINE(name, dtype)                                                                                                     \
    static void name(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,  \
                     int panel_begin, int panel_end, void *scratch)                                                                   \
    {                                                                                                                                  \
        matmul(dtype, matrix, acts, n_tokens, out, out_stride, panel_begin, panel_end, scratch);                                       \
    }

MATMUL_DEFINE(matmul_f32_avx2, DTYPE_F32)
MATMUL_DEFINE(matmul_f16_avx2, DTYPE_F16)
MATMUL_DEFINE(matmul_bf16_avx2, DTYPE_BF16)
MATMUL_DEFINE(matmul_f8_avx2, DTYPE_F8_E4M3)

void kernels_x86_fill_matmul_float_avx2(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_F32] = matmul_f32_avx2;
    ops->matmul[DTYPE_F16] = matmul_f16_avx2;
    ops->matmul[DTYPE_BF16] = ops->matmul_bf16_f32 = matmul_bf16_avx2;
    ops->matmul[DTYPE_F8_E4M3] = matmul_f8_avx2;
}
