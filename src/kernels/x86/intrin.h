/*
 * The intrinsics. In the product the compiler's own; with KERNELS_SIMDE (tests) SIMDe's portable ones, so that the
 * AVX-512 files can be compiled and checked on CPUs that lack those instructions.
 */
#ifndef KERNELS_X86_INTRIN_H
#define KERNELS_X86_INTRIN_H

#include <stdint.h>
#include <string.h>

/*
 * The kernels are written once for all formats, with the format and the counts as arguments that are constants where
 * they are inlined. SIMDe's functions are long: there the compiler would work for minutes on all the copies.
 */
#ifdef KERNELS_SIMDE
#define KERNELS_INLINE static inline
#else
#define KERNELS_INLINE static inline __attribute__((always_inline))
#endif

#ifdef KERNELS_SIMDE
#include "kernels/x86/intrin_simde.h"
#else
#include <immintrin.h>
#ifdef __AVX512BF16__
/* sum + the products of two BF16 columns in each lane. */
KERNELS_INLINE __m512 bf16_dot(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* 16 floats to BF16, round to nearest even. */
KERNELS_INLINE void bf16_store(uint16_t *out, __m512 x)
{
    __m256bh rounded = _mm512_cvtneps_pbh(x);
    memcpy(out, &rounded, sizeof rounded);
}
#endif
#endif

/*
 * Before a loop with a constant count: arrays of vectors become registers only if every loop over them is unrolled,
 * and a loop that calls something else is not by itself.
 */
#ifdef KERNELS_SIMDE
#define KERNELS_UNROLL
#elif defined(__clang__)
#define KERNELS_UNROLL _Pragma("unroll")
#else
#define KERNELS_UNROLL _Pragma("GCC unroll 16")
#endif

/* Four int8 as one word for a broadcast; the address need not be aligned. */
KERNELS_INLINE int32_t word_load(const int8_t *bytes)
{
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

#endif
