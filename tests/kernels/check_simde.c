/* Puts the AVX-512 kernels that were compiled with SIMDe into the table; see tests.cmake. */
#include "kernels/x86/x86.h"

void check_simde_fill(enum kernels_isa isa, struct kernels_ops *ops);

void check_simde_fill(enum kernels_isa isa, struct kernels_ops *ops)
{
    kernels_x86_fill_matmul_float_avx512(ops);
    kernels_x86_fill_matmul_block_avx512(ops);
    kernels_x86_fill_attention_avx512(ops);
    if (isa >= KERNELS_ISA_AVX512_VNNI)
        kernels_x86_fill_matmul_block_avx512_vnni(ops);
    if (isa >= KERNELS_ISA_AVX512_BF16)
        kernels_x86_fill_matmul_bf16_avx512_bf16(ops);
}
