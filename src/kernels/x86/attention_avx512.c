/* Attention over one KV head for AVX-512: sixteen lanes, four rows at a time. The algorithm is in attention_tiles.h. */
#include <stdbool.h>

#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { LANES = 16, ROWS = 4 };

typedef __m512 vec;

#define vec_zero _mm512_setzero_ps
#define vec_load _mm512_loadu_ps
#define vec_store _mm512_storeu_ps
#define vec_set _mm512_set1_ps
#define vec_add _mm512_add_ps
#define vec_mul _mm512_mul_ps
#define vec_fma _mm512_fmadd_ps
#define vec_max _mm512_max_ps

/* Sum, or greatest, of the two halves, and so on down. */
KERNELS_INLINE __m256 low_half(vec x) { return _mm512_castps512_ps256(x); }

KERNELS_INLINE __m256 high_half(vec x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)); }

KERNELS_INLINE float vec_sum(vec x)
{
    __m256 half = _mm256_add_ps(low_half(x), high_half(x));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

KERNELS_INLINE float vec_most(vec x)
{
    __m256 half = _mm256_max_ps(low_half(x), high_half(x));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

KERNELS_INLINE __m128 vec_sums4(const vec x[4])
{
    __m256 half[4];
    KERNELS_UNROLL
    for (int i = 0; i < 4; i++)
        half[i] = _mm256_add_ps(low_half(x[i]), high_half(x[i]));
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* e^x as in exp_avx2.h, for x ≤ 0: below −87.3 the result is 0. Rounding by a great number, whose bits then hold n. */
KERNELS_INLINE vec vec_exp(vec x)
{
    const vec magic = _mm512_set1_ps(12582912.0f), least = _mm512_set1_ps(-87.3f);
    const vec given = x;
    x = _mm512_max_ps(least, x); /* the second operand wins if NaN */
    vec shifted = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), magic), n = _mm512_sub_ps(shifted, magic);
    vec r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    vec p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127)), 23);
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(given, least, _CMP_NLT_UQ), p, _mm512_castsi512_ps(power));
}

KERNELS_INLINE void pair_load(enum rows_form form, const void *row, int d, vec ret[2])
{
    if (form == ROWS_F32) {
        ret[0] = _mm512_loadu_ps((const float *)row + d);
        ret[1] = _mm512_loadu_ps((const float *)row + d + LANES);
    } else if (form == ROWS_BF16) {
        __m512i pairs = _mm512_loadu_si512((const uint16_t *)row + d);
        ret[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        ret[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)));
    } else {
        const int8_t *numbers = (const int8_t *)row + d;
        ret[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)numbers)));
        ret[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(numbers + LANES))));
    }
}

#include "kernels/x86/attention_tiles.h"

void kernels_x86_fill_attention_avx512(struct kernels_ops *ops)
{
    ops->attn_partial = attn_partial_tiles;
}
