/* What the products for AVX2 share: 16 rows of a panel as two vectors; the size of a group of activations. Private to the AVX2 files. */
#ifndef KERNELS_X86_PANEL_AVX2_H
#define KERNELS_X86_PANEL_AVX2_H

#include "kernels/panel.h"
#include "kernels/x86/intrin.h"

/* Eight F16 as floats. */
KERNELS_INLINE __m256 halves_load(const uint8_t *halves)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)halves));
}

/* The greatest magnitude of KERNELS_GROUP floats; not finite where one of them is not. */
KERNELS_INLINE float group_greatest(const float *x)
{
    __m256i max = _mm256_setzero_si256(); /* floats without a sign order as integers do, NaN above infinity */
    for (int i = 0; i < KERNELS_GROUP; i += 8)
        max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), _mm256_set1_epi32(0x7fffffff)));
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(half));
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
