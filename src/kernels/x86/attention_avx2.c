/* Attention over one KV head for AVX2 and FMA: eight lanes, two rows at a time. The algorithm is in attention_tiles.h. */
#include <stdbool.h>

#include "kernels/x86/exp_avx2.h"
#include "kernels/x86/x86.h"

enum { LANES = 8, ROWS = 2 };

typedef __m256 vec;

#define vec_zero _mm256_setzero_ps
#define vec_load _mm256_loadu_ps
#define vec_store _mm256_storeu_ps
#define vec_set _mm256_set1_ps
#define vec_add _mm256_add_ps
#define vec_mul _mm256_mul_ps
#define vec_fma _mm256_fmadd_ps
#define vec_max _mm256_max_ps
#define vec_exp exp_avx2
#define vec_sum sum_avx2
#define vec_most max_avx2

KERNELS_INLINE __m128 vec_sums4(const vec x[4])
{
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

KERNELS_INLINE void pair_load(enum rows_form form, const void *row, int d, vec ret[2])
{
    if (form == ROWS_F32) {
        ret[0] = _mm256_loadu_ps((const float *)row + d);
        ret[1] = _mm256_loadu_ps((const float *)row + d + LANES);
    } else if (form == ROWS_BF16) {
        __m256i pairs = _mm256_loadu_si256((const __m256i *)((const uint16_t *)row + d));
        ret[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        ret[1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)));
    } else {
        const int8_t *numbers = (const int8_t *)row + d;
        ret[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)numbers)));
        ret[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(numbers + LANES))));
    }
}

#include "kernels/x86/attention_tiles.h"

void kernels_x86_fill_attention_avx2(struct kernels_ops *ops)
{
    ops->attn_partial = attn_partial_tiles;
}
