/*
 * Products with BF16 weights for AVX-512 BF16: dpbf16 adds the products of two columns a lane, at the price of
 * activations rounded to BF16 as well (8 bits of mantissa).
 *
 * Every output is one chain over pairs of columns in order. The activations of CHUNK tokens and BLOCK columns are rounded
 * once into scratch for PANELS panels; the sums between blocks stay in scratch too.
 */
#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { ROWS = KERNELS_PANEL_ROWS, BLOCK = 1024, CHUNK = 64, PANELS = 8, TILE = 8 };

struct scratch_bf16 {
    uint16_t x[CHUNK][BLOCK];
    float acc[PANELS][CHUNK][ROWS];
};

_Static_assert(sizeof(struct scratch_bf16) <= KERNELS_SCRATCH_BYTES, "scratch");

/* n floats to BF16, and up to the next even column a zero: the packed weights end in pairs. */
KERNELS_INLINE void acts_round(const float *x, int n, uint16_t *out)
{
    int i = 0;
    for (; i + 16 <= n; i += 16)
        bf16_store(out + i, _mm512_loadu_ps(x + i));
    if (i < n) {
        float rest[16] = {0};
        uint16_t rounded[16];
        memcpy(rest, x + i, (size_t)(n - i) * sizeof *x);
        bf16_store(rounded, _mm512_loadu_ps(rest));
        memcpy(out + i, rounded, (size_t)((n - i + 1) / 2 * 2) * sizeof *out);
    }
}

/* acc[p][t] += n_pairs pairs of columns for n_panels panels and n tokens (constants where this is inlined). */
KERNELS_INLINE void tile(int n_panels, int n, const uint8_t *weights, size_t panel_bytes, int n_pairs, const uint16_t (*x)[BLOCK],
                         float (*acc)[CHUNK][ROWS], int token)
{
    __m512 sums[TILE][4];
    for (int t = 0; t < n; t++)
        for (int p = 0; p < n_panels; p++)
            sums[t][p] = _mm512_load_ps(acc[p][token + t]);
    for (int c = 0; c < n_pairs; c++) {
        for (int p = 0; p < n_panels; p++) {
            __m512i w = _mm512_load_si512((const __m512i *)(weights + (size_t)p * panel_bytes + (size_t)c * 64));
            for (int t = 0; t < n; t++) {
                __m512i pair = _mm512_set1_epi32(word_load((const int8_t *)&x[token + t][2 * c]));
                sums[t][p] = bf16_dot(sums[t][p], w, pair);
            }
        }
    }
    for (int t = 0; t < n; t++)
        for (int p = 0; p < n_panels; p++)
            _mm512_store_ps(acc[p][token + t], sums[t][p]);
}

/* All tokens of the chunk for n_panels panels. */
KERNELS_INLINE void tokens_walk(int n_panels, int n_tokens, const uint8_t *weights, size_t panel_bytes, int n_pairs,
                                const uint16_t (*x)[BLOCK], float (*acc)[CHUNK][ROWS])
{
    int t = 0;
    if (n_panels == 1)
        for (; t + 8 <= n_tokens; t += 8)
            tile(n_panels, 8, weights, panel_bytes, n_pairs, x, acc, t);
    for (; t + 4 <= n_tokens; t += 4)
        tile(n_panels, 4, weights, panel_bytes, n_pairs, x, acc, t);
    for (; t < n_tokens; t++)
        tile(n_panels, 1, weights, panel_bytes, n_pairs, x, acc, t);
}

/* Panels [begin, end), PANELS at most, for a chunk of tokens. */
static void chunk_multiply(const struct kernels_matrix *matrix, int begin, int end, const float *x, size_t stride, int n_tokens, float *out,
                           size_t out_stride, struct scratch_bf16 *scratch)
{
    const uint16_t(*rounded)[BLOCK] = (const uint16_t(*)[BLOCK])scratch->x;
    memset(scratch->acc, 0, (size_t)(end - begin) * sizeof scratch->acc[0]);
    for (int col = 0; col < matrix->n_cols; col += BLOCK) {
        int n_cols = matrix->n_cols - col < BLOCK ? matrix->n_cols - col : BLOCK, p = begin;
        for (int t = 0; t < n_tokens; t++)
            acts_round(x + (size_t)t * stride + col, n_cols, scratch->x[t]);
        const uint8_t *weights = matrix->data + panel_bf16_pair_at(col);
        for (; n_tokens < 8 && p + 4 <= end; p += 4)
            tokens_walk(4, n_tokens, weights + (size_t)p * matrix->panel_bytes, matrix->panel_bytes, (n_cols + 1) / 2, rounded,
                        scratch->acc + (p - begin));
        for (; p < end; p++)
            tokens_walk(1, n_tokens, weights + (size_t)p * matrix->panel_bytes, matrix->panel_bytes, (n_cols + 1) / 2, rounded,
                        scratch->acc + (p - begin));
    }
    for (int t = 0; t < n_tokens; t++)
        for (int p = begin; p < end; p++)
            panel_out_write(matrix, p, scratch->acc[p - begin][t], out + (size_t)t * out_stride);
}

static void matmul_bf16_avx512_bf16(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                                    int out_stride, int panel_begin, int panel_end, void *scratch)
{
    size_t stride = (size_t)acts->stride_cols;
    for (int p = panel_begin; p < panel_end; p += PANELS) {
        int end = p + PANELS < panel_end ? p + PANELS : panel_end;
        for (int t = 0; t < n_tokens; t += CHUNK)
            chunk_multiply(matrix, p, end, acts->f32 + (size_t)t * stride, stride, n_tokens - t < CHUNK ? n_tokens - t : CHUNK,
                           out + (size_t)t * (size_t)out_stride, (size_t)out_stride, scratch);
    }
}

void kernels_x86_fill_matmul_bf16_avx512_bf16(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_BF16] = matmul_bf16_avx512_bf16;
}
