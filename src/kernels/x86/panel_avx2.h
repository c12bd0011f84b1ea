/* What the products for AVX2 share: walking panels, their rows as two vectors, the scale of activations. Private to the AVX2 files. */
#ifndef KERNELS_X86_PANEL_AVX2_H
#define KERNELS_X86_PANEL_AVX2_H

#include <math.h>
#include <stdbool.h>

#include "kernels/panel.h"
#include "kernels/x86/intrin.h"

/* Eight F16 as floats. */
KERNELS_INLINE __m256 halves_load(const uint8_t *halves)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)halves));
}

/*
 * One case of a switch over the number of tokens: few(n_panels, n, …) for panels [p, end), the last ones one at a time. The
 * counts must be constants where `few` is inlined, which a function in between would not leave them.
 */
#define PANELS_CASE(few, p, end, n, n_panels, ...)                                                                                     \
    case n:                                                                                                                            \
        for (; (p) + (n_panels) <= (end); (p) += (n_panels))                                                                           \
            few(n_panels, n, __VA_ARGS__);                                                                                             \
        for (; (p) < (end); (p)++)                                                                                                     \
            few(1, n, __VA_ARGS__);                                                                                                    \
        return

/*
 * The scale with which the greatest of KERNELS_GROUP floats becomes max_integer, and its inverse. False where all are to become
 * zero; the rules for tiny, infinite and missing values are those of the plain C version (matmul_c.c).
 */
KERNELS_INLINE bool group_scale(const float *x, float max_integer, float *ret_scale, float *ret_inverse)
{
    __m256i max = _mm256_setzero_si256(); /* floats without a sign order as integers do, NaN above infinity */
    for (int i = 0; i < KERNELS_GROUP; i += 8)
        max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), _mm256_set1_epi32(0x7fffffff)));
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    float greatest = _mm_cvtss_f32(_mm_castsi128_ps(half));
    bool has_scale = isfinite(greatest) && greatest > 1e-30f;
    *ret_scale = has_scale ? greatest / max_integer : isfinite(greatest) ? 0 : NAN;
    *ret_inverse = has_scale ? max_integer / greatest : 0;
    return has_scale;
}

/* A panel's sums to their place in an output row. */
KERNELS_INLINE void panel_sums_write(const struct kernels_matrix *matrix, int panel, const __m256 acc[2], float *out_row)
{
    float sums[KERNELS_PANEL_ROWS];
    _mm256_storeu_ps(sums, acc[0]);
    _mm256_storeu_ps(sums + 8, acc[1]);
    panel_out_write(matrix, panel, sums, out_row);
}

#endif
