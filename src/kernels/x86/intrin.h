/*
 * The intrinsics. In the product the compiler's own; with KERNELS_SIMDE (tests) SIMDe's portable ones, so that the
 * AVX-512 files can be compiled and checked on CPUs that lack those instructions.
 */
#ifndef KERNELS_X86_INTRIN_H
#define KERNELS_X86_INTRIN_H

#ifdef KERNELS_SIMDE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#endif

#include <stdint.h>
#include <string.h>

#define KERNELS_INLINE static inline __attribute__((always_inline))

/*
 * Before a loop with a constant count: arrays of vectors become registers only if every loop over them is unrolled,
 * and a loop that calls something else is not by itself.
 */
#ifdef __clang__
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
