/* Number formats; see dtype.h. Sizes from GGML's format description (ggml/docs/gguf.md and the block structures it names). */
#include "base/dtype.h"

static const struct {
    const char *name;
    int block_weights, block_bytes;
} formats[DTYPE_I8 + 1] = {
    [DTYPE_F32] = {"F32", 1, 4},      [DTYPE_F16] = {"F16", 1, 2},       [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 32, 36},
    [DTYPE_Q8_0] = {"Q8_0", 32, 34},  [DTYPE_Q4_0] = {"Q4_0", 32, 18},   [DTYPE_Q4_1] = {"Q4_1", 32, 20},
    [DTYPE_Q4_K] = {"Q4_K", 256, 144}, [DTYPE_Q5_K] = {"Q5_K", 256, 176}, [DTYPE_Q6_K] = {"Q6_K", 256, 210},
    [DTYPE_I8] = {"I8", 1, 1},
};

const char *dtype_name(enum dtype dtype) { return formats[dtype].name; }
int dtype_block_weights(enum dtype dtype) { return formats[dtype].block_weights; }
int dtype_block_bytes(enum dtype dtype) { return formats[dtype].block_bytes; }

size_t dtype_row_bytes(enum dtype dtype, size_t n_cols) {
    size_t scale_bytes = dtype == DTYPE_I8 ? sizeof(float) : 0;
    return n_cols / (size_t)formats[dtype].block_weights * (size_t)formats[dtype].block_bytes + scale_bytes;
}
