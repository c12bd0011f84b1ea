/* Which instruction sets this CPU and its system offer (cpuid, xgetbv through the compiler's run time), and the fills in order. */
#include <cpuid.h>
#include <stdbool.h>

#include "kernels/x86/x86.h"

/* Leaf 1: clang 14's run time has no name for this one. */
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

enum kernels_isa kernels_x86_detect(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return KERNELS_ISA_C;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512dq"))
        return KERNELS_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512vnni"))
        return KERNELS_ISA_AVX512;
    return __builtin_cpu_supports("avx512bf16") ? KERNELS_ISA_AVX512_BF16 : KERNELS_ISA_AVX512_VNNI;
}

void kernels_x86_fill(enum kernels_isa isa, struct kernels_ops *ops)
{
    if (isa >= KERNELS_ISA_AVX2) {
        kernels_x86_fill_matmul_float_avx2(ops);
        kernels_x86_fill_matmul_i16_avx2(ops);
        kernels_x86_fill_matmul_block_avx2(ops);
        kernels_x86_fill_matmul_q8_0_avx2(ops);
        kernels_x86_fill_vector_avx2(ops);
        kernels_x86_fill_attention_avx2(ops);
    }
    if (isa >= KERNELS_ISA_AVX512) {
        kernels_x86_fill_matmul_float_avx512(ops);
        kernels_x86_fill_matmul_block_avx512(ops);
        kernels_x86_fill_attention_avx512(ops);
    }
    if (isa >= KERNELS_ISA_AVX512_VNNI)
        kernels_x86_fill_matmul_block_avx512_vnni(ops);
    if (isa >= KERNELS_ISA_AVX512_BF16)
        kernels_x86_fill_matmul_bf16_avx512_bf16(ops);
}
