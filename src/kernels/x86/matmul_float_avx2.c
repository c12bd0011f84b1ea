/*
 * Products with float weights (F32, F16, BF16) for AVX2, FMA and F16C.
 *
 * Every output is one chain of fused multiply-adds over the columns in order, so its bits are the same in all the ways
 * below. Few tokens: weights are converted in registers as they stream from memory, several panels at a time: their
 * chains hide the latency of the multiply-add, and several streams of addresses keep more lines under way than one. Many tokens: blocks of BLOCK columns are converted once into scratch
 * (L1) and serve all tokens, six at a time: 12 accumulators, 2 weights, 1 activation.
 */
#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { ROWS = KERNELS_PANEL_ROWS, FEW = 4, TILE = 6, BLOCK = 256, CHUNK = 96 /* tokens whose sums stay in scratch */ };

struct scratch_float {
    float weights[BLOCK][ROWS];
    float acc[CHUNK][ROWS];
};

_Static_assert(sizeof(struct scratch_float) <= KERNELS_SCRATCH_BYTES, "scratch");

/* Column c, rows 8h to 8h + 7. */
KERNELS_INLINE __m256 weights_load(enum dtype dtype, const uint8_t *panel, int c, int h)
{
    size_t col = (size_t)c;
    if (dtype == DTYPE_F32)
        return _mm256_load_ps((const float *)(panel + col * 64 + (size_t)h * 32));
    if (dtype == DTYPE_F16)
        return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(panel + col * 32 + (size_t)h * 16)));
    __m256i pairs = _mm256_load_si256((const __m256i *)(panel + col / 2 * 64 + (size_t)h * 32));
    return _mm256_castsi256_ps(c % 2 ? _mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)) : _mm256_slli_epi32(pairs, 16));
}

/* Writes 16 sums to the output row, cut at the last row. */
KERNELS_INLINE void out_write(const struct kernels_matrix *matrix, int panel, const float *acc, float *out_row)
{
    int n = matrix->n_rows - panel * ROWS;
    memcpy(out_row + (size_t)panel * ROWS, acc, (size_t)(n < ROWS ? n : ROWS) * sizeof *acc);
}

/* n_panels neighbouring panels for n tokens; both are constants where this is inlined. */
KERNELS_INLINE void few(enum dtype dtype, int n_panels, int n, const struct kernels_matrix *matrix, int first_panel, const float *x,
                        size_t stride, float *out, size_t out_stride)
{
    const uint8_t *panel = matrix->data + (size_t)first_panel * matrix->panel_bytes;
    __m256 acc[FEW * 4];
    for (int i = 0; i < n * n_panels * 2; i++)
        acc[i] = _mm256_setzero_ps();
    int c = 0;
    for (; c + 2 <= matrix->n_cols; c += 2) {
        for (int odd = 0; odd < 2; odd++) {
            for (int p = 0; p < n_panels; p++) {
                __m256 w0 = weights_load(dtype, panel + (size_t)p * matrix->panel_bytes, c + odd, 0);
                __m256 w1 = weights_load(dtype, panel + (size_t)p * matrix->panel_bytes, c + odd, 1);
                for (int t = 0; t < n; t++) {
                    __m256 value = _mm256_broadcast_ss(x + (size_t)t * stride + c + odd);
                    __m256 *a = &acc[(t * n_panels + p) * 2];
                    a[0] = _mm256_fmadd_ps(w0, value, a[0]);
                    a[1] = _mm256_fmadd_ps(w1, value, a[1]);
                }
            }
        }
    }
    if (c < matrix->n_cols) {
        for (int i = 0; i < n * n_panels * 2; i++) {
            __m256 w = weights_load(dtype, panel + (size_t)(i / 2 % n_panels) * matrix->panel_bytes, c, i % 2);
            acc[i] = _mm256_fmadd_ps(w, _mm256_broadcast_ss(x + (size_t)(i / 2 / n_panels) * stride + c), acc[i]);
        }
    }
    for (int i = 0; i < n * n_panels; i++) {
        float sums[ROWS];
        _mm256_storeu_ps(sums, acc[2 * i]);
        _mm256_storeu_ps(sums + 8, acc[2 * i + 1]);
        out_write(matrix, first_panel + i % n_panels, sums, out + (size_t)(i / n_panels) * out_stride);
    }
}

/* acc[n][16] += weights[n_cols][16] · x for n tokens. */
KERNELS_INLINE void tile(int n, const float *weights, int n_cols, const float *x, size_t stride, float *acc)
{
    __m256 sums[TILE][2];
    for (int t = 0; t < n; t++) {
        sums[t][0] = _mm256_load_ps(acc + t * ROWS);
        sums[t][1] = _mm256_load_ps(acc + t * ROWS + 8);
    }
    for (int c = 0; c < n_cols; c++) {
        __m256 w0 = _mm256_load_ps(weights + c * ROWS), w1 = _mm256_load_ps(weights + c * ROWS + 8);
        for (int t = 0; t < n; t++) {
            __m256 value = _mm256_broadcast_ss(x + (size_t)t * stride + c);
            sums[t][0] = _mm256_fmadd_ps(w0, value, sums[t][0]);
            sums[t][1] = _mm256_fmadd_ps(w1, value, sums[t][1]);
        }
    }
    for (int t = 0; t < n; t++) {
        _mm256_store_ps(acc + t * ROWS, sums[t][0]);
        _mm256_store_ps(acc + t * ROWS + 8, sums[t][1]);
    }
}

/* One panel for at most CHUNK tokens. */
KERNELS_INLINE void many(enum dtype dtype, const struct kernels_matrix *matrix, int p, int n_tokens, const float *x, size_t stride,
                         float *out, size_t out_stride, struct scratch_float *scratch)
{
    const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes;
    memset(scratch->acc, 0, (size_t)n_tokens * sizeof scratch->acc[0]);
    for (int begin = 0; begin < matrix->n_cols; begin += BLOCK) {
        int n_cols = matrix->n_cols - begin < BLOCK ? matrix->n_cols - begin : BLOCK;
        const float *weights = &scratch->weights[0][0];
        if (dtype == DTYPE_F32) {
            weights = (const float *)panel + (size_t)begin * ROWS;
        } else {
            int c = 0;
            for (; c + 2 <= n_cols; c += 2)
                for (int i = 0; i < 4; i++)
                    _mm256_store_ps(&scratch->weights[c + i / 2][i % 2 * 8], weights_load(dtype, panel, begin + c + i / 2, i % 2));
            for (int h = 0; c < n_cols && h < 2; h++)
                _mm256_store_ps(&scratch->weights[c][h * 8], weights_load(dtype, panel, begin + c, h));
        }
        int t = 0;
        for (; t + TILE <= n_tokens; t += TILE)
            tile(TILE, weights, n_cols, x + (size_t)t * stride + begin, stride, scratch->acc[t]);
        const float *rest = x + (size_t)t * stride + begin;
        switch (n_tokens - t) {
        case 1: tile(1, weights, n_cols, rest, stride, scratch->acc[t]); break;
        case 2: tile(2, weights, n_cols, rest, stride, scratch->acc[t]); break;
        case 3: tile(3, weights, n_cols, rest, stride, scratch->acc[t]); break;
        case 4: tile(4, weights, n_cols, rest, stride, scratch->acc[t]); break;
        case 5: tile(5, weights, n_cols, rest, stride, scratch->acc[t]); break;
        default: break;
        }
    }
    for (int t = 0; t < n_tokens; t++)
        out_write(matrix, p, scratch->acc[t], out + (size_t)t * out_stride);
}

KERNELS_INLINE void matmul(enum dtype dtype, const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end, void *scratch)
{
    const float *x = acts->f32;
    size_t stride = (size_t)acts->stride_cols, out_cols = (size_t)out_stride;
    int p = panel_begin;
    switch (n_tokens) {
#define FEW_CASE(n, n_panels)                                                                                                          \
    case n:                                                                                                                            \
        for (; p + (n_panels) <= panel_end; p += (n_panels))                                                                           \
            few(dtype, n_panels, n, matrix, p, x, stride, out, out_cols);                                                              \
        for (; p < panel_end; p++)                                                                                                     \
            few(dtype, 1, n, matrix, p, x, stride, out, out_cols);                                                                     \
        return
        FEW_CASE(1, 4);
        FEW_CASE(2, 2);
        FEW_CASE(3, 2);
        FEW_CASE(4, 1);
#undef FEW_CASE
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

void kernels_x86_fill_matmul_float_avx2(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_F32] = matmul_f32_avx2;
    ops->matmul[DTYPE_F16] = matmul_f16_avx2;
    ops->matmul[DTYPE_BF16] = matmul_bf16_avx2;
}
