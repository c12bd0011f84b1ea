/*
 * Products with float weights (F32, F16, BF16, F8_E4M3) for AVX-512: a panel's 16 rows are one vector.
 *
 * Every output is one chain of fused multiply-adds over the columns in order, so its bits do not depend on the tokens
 * beside it. Weights are converted in registers. One and two tokens take four panels at a time, for the sake of memory;
 * more tokens up to twelve at a time.
 */
#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { ROWS = KERNELS_PANEL_ROWS, TILE = 12 };

/* Column c of 16 rows. */
KERNELS_INLINE __m512 weights_load(enum dtype dtype, const uint8_t *panel, int c)
{
    size_t col = (size_t)c;
    if (dtype == DTYPE_F32)
        return _mm512_load_ps((const float *)(panel + col * 64));
    if (dtype == DTYPE_F16)
        return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(panel + col * 32)));
    if (dtype == DTYPE_F8_E4M3) {
        /* The sign stays on top, exponent and mantissa move to where F16 has them; the bias is in the scale. */
        __m128i bytes = _mm_load_si128((const __m128i *)(panel + panel_f8_column_at(c)));
        __m256i halves = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16((short)0xbfff));
        return _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_set1_ps(*(const float *)(panel + panel_f8_scale_at(c))));
    }
    __m512i pairs = _mm512_load_si512((const __m512i *)(panel + panel_bf16_pair_at(c)));
    return _mm512_castsi512_ps(c % 2 ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)) : _mm512_slli_epi32(pairs, 16));
}

/* One column of n_panels panels times n tokens. acc[token][panel]. */
KERNELS_INLINE void column_add(enum dtype dtype, int n_panels, int n, const uint8_t *panel, size_t panel_bytes, int c, const float *x,
                               size_t stride, __m512 acc[TILE][4])
{
    for (int p = 0; p < n_panels; p++) {
        __m512 w = weights_load(dtype, panel + (size_t)p * panel_bytes, c);
        for (int t = 0; t < n; t++)
            acc[t][p] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[(size_t)t * stride + (size_t)c]), acc[t][p]);
    }
}

/* n_panels neighbouring panels for n tokens; both are constants where this is inlined. */
KERNELS_INLINE void tile(enum dtype dtype, int n_panels, int n, const struct kernels_matrix *matrix, int first_panel, const float *x,
                         size_t stride, float *out, size_t out_stride)
{
    const size_t panel_bytes = matrix->panel_bytes;
    const uint8_t *panel = matrix->data + (size_t)first_panel * panel_bytes;
    __m512 acc[TILE][4];
    for (int t = 0; t < n; t++)
        for (int p = 0; p < n_panels; p++)
            acc[t][p] = _mm512_setzero_ps();
    int c = 0;
    for (; c + 2 <= matrix->n_cols; c += 2) {
        column_add(dtype, n_panels, n, panel, panel_bytes, c, x, stride, acc);
        column_add(dtype, n_panels, n, panel, panel_bytes, c + 1, x, stride, acc);
    }
    if (c < matrix->n_cols) /* an even column: its place in a pair is 0 */
        column_add(dtype, n_panels, n, panel, panel_bytes, c, x, stride, acc);
    KERNELS_UNROLL
    for (int t = 0; t < n; t++) {
        KERNELS_UNROLL
        for (int p = 0; p < n_panels; p++) {
            float sums[ROWS];
            _mm512_storeu_ps(sums, acc[t][p]);
            panel_out_write(matrix, first_panel + p, sums, out + (size_t)t * out_stride);
        }
    }
}

/* n_panels panels for all tokens. */
KERNELS_INLINE void tokens_walk(enum dtype dtype, int n_panels, const struct kernels_matrix *matrix, int p, int n_tokens, const float *x,
                                size_t stride, float *out, size_t out_stride)
{
#define TILE_CASE(n)                                                                                                                   \
    for (; n_tokens >= (n); n_tokens -= (n), x += (n) * stride, out += (n) * out_stride)                                               \
    tile(dtype, n_panels, n, matrix, p, x, stride, out, out_stride)
    if (n_panels == 1) {
        TILE_CASE(12);
        TILE_CASE(8);
        TILE_CASE(4);
    }
    TILE_CASE(2);
    TILE_CASE(1);
#undef TILE_CASE
}

KERNELS_INLINE void matmul(enum dtype dtype, const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end)
{
    int p = panel_begin;
    for (; n_tokens <= 2 && p + 4 <= panel_end; p += 4)
        tokens_walk(dtype, 4, matrix, p, n_tokens, acts->f32, (size_t)acts->stride_cols, out, (size_t)out_stride);
    for (; p < panel_end; p++)
        tokens_walk(dtype, 1, matrix, p, n_tokens, acts->f32, (size_t)acts->stride_cols, out, (size_t)out_stride);
}

#define MATMUL_DEFINE(name, dtype)                                                                                                     \
    static void name(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,  \
                     int panel_begin, int panel_end, void *scratch)                                                                   \
    {                                                                                                                                  \
        (void)scratch;                                                                                                                 \
        matmul(dtype, matrix, acts, n_tokens, out, out_stride, panel_begin, panel_end);                                                \
    }

MATMUL_DEFINE(matmul_f32_avx512, DTYPE_F32)
MATMUL_DEFINE(matmul_f16_avx512, DTYPE_F16)
MATMUL_DEFINE(matmul_bf16_avx512, DTYPE_BF16)
MATMUL_DEFINE(matmul_f8_avx512, DTYPE_F8_E4M3)

void kernels_x86_fill_matmul_float_avx512(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_F32] = matmul_f32_avx512;
    ops->matmul[DTYPE_F16] = matmul_f16_avx512;
    ops->matmul[DTYPE_BF16] = ops->matmul_bf16_f32 = matmul_bf16_avx512;
    ops->matmul_i16 = NULL; /* floats are as fast here */
    ops->matmul[DTYPE_F8_E4M3] = matmul_f8_avx512;
}
