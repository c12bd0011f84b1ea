/*
 * Products with Q8_0 weights and int8 activations for AVX2, FMA and F16C. The other block formats are in
 * matmul_block_avx2.c, where the order of the sums is told: it is the same here.
 *
 * maddubs multiplies unsigned by signed bytes, and both factors are signed here: |q| · (w, or ~w where q < 0), to which
 * |q| is added there. vpsignb, which would do the same, takes the multipliers' ports on many CPUs. Two products of 8 by 8
 * bits fill 16 bits, so each pair goes to 32 bits at once. The sums begin where they are the bits of floats (matrix.h), so
 * that nothing has to be converted.
 *
 * One token: four panels at a time, whose streams of addresses keep memory busy. Two: a panel at a time. More: two panels
 * for one token after the other, so that all sums stay in registers, a block of columns at a time, so that the panels'
 * weights stay in L1.
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
    FEW_TOKENS = 2,    /* measured */
    BLOCK_GROUPS = 8,  /* those of two panels and the next ones together take half of L1 */
    CHUNK = 256
};

/* What a block of two panels needs beside its weights. */
struct scratch_block {
    float scales[BLOCK_GROUPS][2][ROWS];
    float zeros[BLOCK_GROUPS][2][ROWS]; /* zero_of the scales */
    float acc[CHUNK][2][ROWS];
};

_Static_assert(sizeof(struct scratch_block) <= KERNELS_SCRATCH_BYTES, "scratch");

/* The scales of rows 8h to 8h + 7 of a group. */
KERNELS_INLINE __m256 scales_load(const uint8_t *panel, size_t group, int h)
{
    return halves_load(panel + panel_scales_at(DTYPE_Q8_0, (int)group) + 16 * h);
}

/*
 * The dot products of a group with n tokens, as floats plus KERNELS_ACTS_ZERO: ret[t · n_panels + p][h]. weights: of each
 * panel; at: the group's number in the activations of the first token. Each step is taken for all vectors of a token before
 * the next: measured.
 */
KERNELS_INLINE void group_dots(int n_panels, int n, const uint8_t *const *weights, const struct kernels_acts *acts, size_t at, __m256i ret[][2])
{
    size_t n_groups = (size_t)acts->n_cols / GROUP;
    for (int i = 0; i < n * n_panels; i++)
        ret[i][0] = ret[i][1] = _mm256_set1_epi32(acts->starts[at + (size_t)(i / n_panels) * n_groups]);
    KERNELS_UNROLL
    for (int quad = 0; quad < 8; quad++) {
        KERNELS_UNROLL
        for (int t = 0; t < n; t++) {
            const int8_t *split = (const int8_t *)acts->split + (at + (size_t)t * n_groups) * GROUP * 2 + quad * 8;
            __m256i size = _mm256_set1_epi32(word_load(split)), mask = _mm256_set1_epi32(word_load(split + 4));
            __m256i x[4];
            for (int i = 0; i < n_panels * 2; i++)
                x[i] = _mm256_xor_si256(mask, _mm256_load_si256((const __m256i *)(weights[i / 2] + quad * 64 + i % 2 * 32)));
            for (int i = 0; i < n_panels * 2; i++)
                x[i] = _mm256_maddubs_epi16(size, x[i]);
            for (int i = 0; i < n_panels * 2; i++)
                x[i] = _mm256_madd_epi16(x[i], _mm256_set1_epi16(1));
            for (int i = 0; i < n_panels * 2; i++)
                ret[t * n_panels + i / 2][i % 2] = _mm256_add_epi32(ret[t * n_panels + i / 2][i % 2], x[i]);
        }
    }
}

/* What takes KERNELS_ACTS_ZERO away again. Exact: 11 bits by 4. */
KERNELS_INLINE __m256 zero_of(__m256 scale)
{
    return _mm256_mul_ps(scale, _mm256_set1_ps(-(float)KERNELS_ACTS_ZERO));
}

/* acc + dot · scale · q_scale, rounded twice, as if the dot product came without KERNELS_ACTS_ZERO. */
KERNELS_INLINE __m256 scaled_add(__m256 acc, __m256i dot, __m256 scale, __m256 zero, float q_scale)
{
    return _mm256_fmadd_ps(_mm256_fmadd_ps(_mm256_castsi256_ps(dot), scale, zero), _mm256_set1_ps(q_scale), acc);
}

/* n_panels neighbouring panels for n tokens: constants where this is inlined. A panel alone calls for the next. */
KERNELS_INLINE void few(int n_panels, int n, const struct kernels_matrix *matrix, int first_panel, const struct kernels_acts *acts, float *out,
                        size_t out_stride)
{
    size_t n_groups = (size_t)matrix->n_cols / GROUP;
    struct ahead ahead = {matrix->data + (size_t)(first_panel + 1) * matrix->panel_bytes,
                          n_panels == 1 && first_panel + 1 < matrix->n_panels ? matrix->panel_bytes / n_groups : 0};
    __m256 acc[4][2];
    for (int i = 0; i < n_panels * n; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (size_t g = 0; g < n_groups; g++) {
        for (int p = 0; p < n_panels; p++) {
            const uint8_t *panel = matrix->data + (size_t)(first_panel + p) * matrix->panel_bytes;
            __m256i dots[FEW_TOKENS][2];
            ahead_prefetch(&ahead, false);
            const uint8_t *weights = panel + panel_weights_at(DTYPE_Q8_0, (int)g);
            group_dots(1, n, &weights, acts, g, dots);
            __m256 scales[2] = {scales_load(panel, g, 0), scales_load(panel, g, 1)}, zeros[2] = {zero_of(scales[0]), zero_of(scales[1])};
            for (int t = 0; t < n; t++)
                for (int h = 0; h < 2; h++)
                    acc[t * n_panels + p][h] = scaled_add(acc[t * n_panels + p][h], dots[t][h], scales[h], zeros[h], acts->scales[(size_t)t * n_groups + g]);
        }
    }
    KERNELS_UNROLL
    for (int i = 0; i < n_panels * n; i++)
        panel_sums_write(matrix, first_panel + i % n_panels, acc[i], out + (size_t)(i / n_panels) * out_stride);
}

/* acc[n_panels][16] += groups [begin, end) of the panels times one token; begin 0: it is set. ahead: of each panel. */
KERNELS_INLINE void token_add(int n_panels, const uint8_t *panel, size_t panel_bytes, size_t begin, size_t end,
                              const struct scratch_block *scratch, const struct kernels_acts *acts, size_t token, float acc[][ROWS],
                              struct ahead ahead[2])
{
    size_t first = token * ((size_t)acts->n_cols / GROUP);
    __m256 total[2][2];
    for (int i = 0; i < n_panels * 2; i++)
        total[i / 2][i % 2] = begin == 0 ? _mm256_setzero_ps() : _mm256_load_ps(&acc[i / 2][8 * (i % 2)]);
    for (size_t g = begin; g < end; g++) {
        const uint8_t *weights = panel + panel_weights_at(DTYPE_Q8_0, (int)g), *both[2] = {weights, weights + panel_bytes};
        __m256i dots[2][2];
        for (int p = 0; p < n_panels; p++)
            ahead_prefetch(&ahead[p], true);
        group_dots(n_panels, 1, both, acts, first + g, dots);
        for (int i = 0; i < n_panels * 2; i++) {
            __m256 scale = _mm256_load_ps(&scratch->scales[g - begin][i / 2][8 * (i % 2)]);
            __m256 zero = _mm256_load_ps(&scratch->zeros[g - begin][i / 2][8 * (i % 2)]);
            total[i / 2][i % 2] = scaled_add(total[i / 2][i % 2], dots[i / 2][i % 2], scale, zero, acts->scales[first + g]);
        }
    }
    for (int i = 0; i < n_panels * 2; i++)
        _mm256_store_ps(&acc[i / 2][8 * (i % 2)], total[i / 2][i % 2]);
}

/*
 * n_panels (1 or 2) panels for tokens [token, token + n), n at most CHUNK. While a block of columns is in work, each token
 * calls for its share of the next block, or of what this thread or another will take next.
 */
KERNELS_INLINE void many(int n_panels, const struct kernels_matrix *matrix, int first_panel, const struct kernels_acts *acts, size_t token,
                         int n, float *out, size_t out_stride, struct scratch_block *scratch)
{
    const uint8_t *panel = matrix->data + (size_t)first_panel * matrix->panel_bytes;
    size_t n_groups = (size_t)matrix->n_cols / GROUP, group_bytes = matrix->panel_bytes / n_groups;
    for (size_t begin = 0, end; begin < n_groups; begin = end) {
        end = begin + BLOCK_GROUPS < n_groups ? begin + BLOCK_GROUPS : n_groups;
        for (size_t g = begin; g < end; g++) {
            for (int i = 0; i < n_panels * 2; i++) {
                __m256 scale = scales_load(panel + (size_t)(i / 2) * matrix->panel_bytes, g, i % 2);
                _mm256_store_ps(&scratch->scales[g - begin][i / 2][8 * (i % 2)], scale);
                _mm256_store_ps(&scratch->zeros[g - begin][i / 2][8 * (i % 2)], zero_of(scale));
            }
        }
        const uint8_t *next = end < n_groups ? panel + end * group_bytes : panel + (size_t)n_panels * matrix->panel_bytes;
        bool has_next = end < n_groups || first_panel + 2 * n_panels <= matrix->n_panels;
        for (int t = 0; t < n; t++) {
            const uint8_t *share = next + (end - begin) * group_bytes * (size_t)t / (size_t)n;
            size_t step_bytes = has_next ? group_bytes / (size_t)n : 0;
            struct ahead ahead[2] = {{share, step_bytes}, {share + matrix->panel_bytes, step_bytes}};
            token_add(n_panels, panel, matrix->panel_bytes, begin, end, scratch, acts, token + (size_t)t, scratch->acc[t], ahead);
        }
    }
    for (int i = 0; i < n * n_panels; i++)
        panel_out_write(matrix, first_panel + i % n_panels, scratch->acc[i / n_panels][i % n_panels],
                        out + (token + (size_t)(i / n_panels)) * out_stride);
}

static void matmul_q8_0_avx2(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,
                             int panel_begin, int panel_end, void *scratch)
{
    size_t out_cols = (size_t)out_stride;
    int p = panel_begin;
    switch (n_tokens) {
        PANELS_CASE(few, p, panel_end, 1, 4, matrix, p, acts, out, out_cols);
        PANELS_CASE(few, p, panel_end, FEW_TOKENS, 1, matrix, p, acts, out, out_cols);
    default: break;
    }
    for (int t = 0; t < n_tokens; t += CHUNK) {
        int n = n_tokens - t < CHUNK ? n_tokens - t : CHUNK;
        for (p = panel_begin; p + 2 <= panel_end; p += 2)
            many(2, matrix, p, acts, (size_t)t, n, out, out_cols, scratch);
        if (p < panel_end)
            many(1, matrix, p, acts, (size_t)t, n, out, out_cols, scratch);
    }
}

void kernels_x86_fill_matmul_q8_0_avx2(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_Q8_0] = matmul_q8_0_avx2;
}
