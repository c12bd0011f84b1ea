/*
 * Portable stand-ins for the AVX-512 intrinsics, for tests alone: SIMDe, and what its version 0.7.4 lacks. Slow; the same
 * results up to the order of rounding inside bf16_dot.
 */
#ifndef KERNELS_X86_INTRIN_SIMDE_H
#define KERNELS_X86_INTRIN_SIMDE_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include "base/half.h"

/* Lane i of out = expression over lane i of the input array. */
#define SIMDE_LANES(out_type, in_type, in, expression)                                                                                 \
    in_type lanes[16];                                                                                                                 \
    out_type out[16];                                                                                                                  \
    memcpy(lanes, &(in), sizeof lanes);                                                                                                \
    for (int i = 0; i < 16; i++)                                                                                                       \
        out[i] = (expression);

static inline simde__m512 simde_lack_cvtph_ps(simde__m256i halves)
{
    SIMDE_LANES(float, uint16_t, halves, half_f16_to_f32(lanes[i]))
    return simde_mm512_loadu_ps(out);
}

static inline simde__m512i simde_lack_cvtepu8_epi32(simde__m128i bytes)
{
    SIMDE_LANES(int32_t, uint8_t, bytes, lanes[i])
    return simde_mm512_loadu_si512(out);
}

static inline simde__m512i simde_lack_cvtepi8_epi32(simde__m128i bytes)
{
    SIMDE_LANES(int32_t, int8_t, bytes, lanes[i])
    return simde_mm512_loadu_si512(out);
}

static inline simde__m512 simde_lack_cvtepi32_ps(simde__m512i words)
{
    SIMDE_LANES(float, int32_t, words, (float)lanes[i])
    return simde_mm512_loadu_ps(out);
}

#undef _mm512_madd_epi16 /* its alias is broken there */
#define _mm512_madd_epi16 simde_mm512_madd_epi16
#undef _mm512_cvtph_ps
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepi32_ps
#define _mm512_cvtph_ps simde_lack_cvtph_ps
#define _mm512_cvtepu8_epi32 simde_lack_cvtepu8_epi32
#define _mm512_cvtepi8_epi32 simde_lack_cvtepi8_epi32
#define _mm512_cvtepi32_ps simde_lack_cvtepi32_ps

static inline simde__m512 bf16_dot(simde__m512 sum, simde__m512i a, simde__m512i b)
{
    uint16_t left[32], right[32];
    float out[16];
    memcpy(left, &a, sizeof left);
    memcpy(right, &b, sizeof right);
    memcpy(out, &sum, sizeof out);
    for (int i = 0; i < 32; i++)
        out[i / 2] += half_bf16_to_f32(left[i]) * half_bf16_to_f32(right[i]);
    return simde_mm512_loadu_ps(out);
}

static inline void bf16_store(uint16_t *out, simde__m512 x)
{
    float lanes[16];
    memcpy(lanes, &x, sizeof lanes);
    for (int i = 0; i < 16; i++)
        out[i] = half_f32_to_bf16(lanes[i]);
}

#endif
