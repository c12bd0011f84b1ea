/* Which instruction sets this CPU and its system offer (cpuid, xgetbv through the compiler's run time), and the fills in order. */
#include "kernels/x86/x86.h"

enum kernels_isa kernels_x86_detect(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
        return KERNELS_ISA_C;
    return KERNELS_ISA_AVX2;
}

void kernels_x86_fill(enum kernels_isa isa, struct kernels_ops *ops)
{
    if (isa >= KERNELS_ISA_AVX2) {
        kernels_x86_fill_matmul_float_avx2(ops);
        kernels_x86_fill_matmul_block_avx2(ops);
        kernels_x86_fill_vector_avx2(ops);
        kernels_x86_fill_attention_avx2(ops);
    }
}
