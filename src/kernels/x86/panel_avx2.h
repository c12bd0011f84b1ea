/* What the products for AVX2 share: 16 rows of a panel as two vectors. Private to the AVX2 files. */
#ifndef KERNELS_X86_PANEL_AVX2_H
#define KERNELS_X86_PANEL_AVX2_H

#include "kernels/panel.h"
#include "kernels/x86/intrin.h"

/* Eight F16 as floats. */
KERNELS_INLINE __m256 halves_load(const uint8_t *halves)
{
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)halves));
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
