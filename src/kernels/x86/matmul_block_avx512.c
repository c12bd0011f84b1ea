/* Products with block weights for AVX-512 (F, BW) without VNNI; see matmul_block_512.h. */
#define MATMUL_VNNI 0
#define MATMUL_FILL kernels_x86_fill_matmul_block_avx512
#include "kernels/x86/matmul_block_512.h"
