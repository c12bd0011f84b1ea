/* Products with block weights for AVX-512 VNNI; see matmul_block_512.h. */
#define MATMUL_VNNI 1
#define MATMUL_FILL kernels_x86_fill_matmul_block_avx512_vnni
#include "kernels/x86/matmul_block_512.h"
