/*
 * The instruction sets of x86-64: which of them the CPU has, and the functions that put a set's kernels into the table.
 * Each fill function writes only what its set does better than the sets below it. Private to src/kernels.
 */
#ifndef KERNELS_X86_X86_H
#define KERNELS_X86_X86_H

#include "kernels/dispatch.h"
#include "kernels/ops.h"

/* attention_tiles.h: what a row of the cache, or of a tile, is made of. */
enum rows_form { ROWS_F32, ROWS_BF16, ROWS_I8 };

enum kernels_isa kernels_x86_detect(void);
/* Fills everything that sets up to `isa` bring. */
void kernels_x86_fill(enum kernels_isa isa, struct kernels_ops *ops);

void kernels_x86_fill_matmul_float_avx2(struct kernels_ops *ops);
void kernels_x86_fill_matmul_i16_avx2(struct kernels_ops *ops);
void kernels_x86_fill_matmul_block_avx2(struct kernels_ops *ops);
void kernels_x86_fill_matmul_q8_0_avx2(struct kernels_ops *ops);
void kernels_x86_fill_vector_avx2(struct kernels_ops *ops);
void kernels_x86_fill_attention_avx2(struct kernels_ops *ops);

void kernels_x86_fill_matmul_float_avx512(struct kernels_ops *ops);
void kernels_x86_fill_attention_avx512(struct kernels_ops *ops);
void kernels_x86_fill_matmul_block_avx512(struct kernels_ops *ops);
void kernels_x86_fill_matmul_block_avx512_vnni(struct kernels_ops *ops);
void kernels_x86_fill_matmul_bf16_avx512_bf16(struct kernels_ops *ops);

#endif
