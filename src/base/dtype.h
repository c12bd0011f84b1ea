/*
 * Number formats of tensors, as they stand in files. Block formats are GGML's: a row is a run of blocks, a block
 * holds a fixed count of weights. F8_E4M3 is what a store makes of safetensors' 8-bit floats and the scales beside them: a block
 * of 32 weights is an F32 scale and 32 bytes.
 */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stddef.h>

/* Those from Q8_0 on are multiplied with int8 activations, those before with floats. */
enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_COUNT,
             DTYPE_I8 = DTYPE_COUNT /* of the KV cache alone: 8 bits each, and one F32 scale beside the row */ };

/* "F32", "BF16", "Q4_K", … */
const char *dtype_name(enum dtype dtype);
/* Weights in a block (1 for the float formats), and the bytes that a block takes. */
int dtype_block_weights(enum dtype dtype);
int dtype_block_bytes(enum dtype dtype);
/* Bytes of a row of n_cols weights; n_cols must be a multiple of the block. With DTYPE_I8, of the row and its scale. */
size_t dtype_row_bytes(enum dtype dtype, size_t n_cols);

#endif
