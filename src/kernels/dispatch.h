/*
 * Which instruction set the kernels use. The table starts full of plain C; kernels_setup replaces entries by what
 * the CPU has. Call once, before any other kernel, from the thread that starts the others.
 */
#ifndef KERNELS_DISPATCH_H
#define KERNELS_DISPATCH_H

#include "base/err.h"

enum kernels_isa {
    KERNELS_ISA_C,
    KERNELS_ISA_AVX2,
    KERNELS_ISA_AVX512,
    KERNELS_ISA_AVX512_VNNI,
    KERNELS_ISA_AVX512_BF16,
    KERNELS_ISA_COUNT
};

/* The best set that this CPU has. */
enum kernels_isa kernels_isa_detect(void);
/* Uses at most `max` (from --cpu-max) and returns what is in use now. */
enum kernels_isa kernels_setup(enum kernels_isa max);
enum kernels_isa kernels_isa_current(void);
/* "c", "avx2", "avx512", "avx512_vnni", "avx512_bf16" */
const char *kernels_isa_name(enum kernels_isa isa);
int kernels_isa_parse(const char *name, enum kernels_isa *ret_isa, struct err *err);

#endif
