/*
 * The small operations between the matrix products, on float rows, and conversions between formats.
 * Nothing allocates; all pointers may be unaligned; in and out may be the same row unless said otherwise.
 */
#ifndef KERNELS_VECTOR_H
#define KERNELS_VECTOR_H

#include <stdint.h>

#include "base/dtype.h"

/* out[i] = x[i] / sqrt(mean(x²) + eps) · weight[i] (Zhang, Sennrich 2019). */
void kernels_rmsnorm(const float *x, const float *weight, int n, float eps, float *out);
/* out[i] += x[i] */
void kernels_add(const float *x, int n, float *out);
/* out[i] += scale · x[i] */
void kernels_add_scaled(const float *x, float scale, int n, float *out);
/* out[i] = gate[i] / (1 + e^-gate[i]) · up[i]; relative error of the exponential at most 1e-6. */
void kernels_silu_mul(const float *gate, const float *up, int n, float *out);
/* out[i] = e^(x[i] - shift), relative error at most 1e-6 beside the rounding of x[i] - shift; 0 below e^-87.3. Returns the sum, added in double. x[i] - shift ≤ 88. */
double kernels_exp(const float *x, float shift, int n, float *out);
/* Softmax in place. */
void kernels_softmax(float *x, int n);
/* Index of the greatest value, the lowest index among equals; n > 0. */
int kernels_argmax(const float *x, int n, float *ret_max);
/*
 * Rotary embedding of one head [head_dim] in place. cos/sin: [head_dim / 2] for this position.
 * Split halves (x[i], x[i + head_dim/2]) as Hugging Face, or adjacent pairs (x[2i], x[2i+1]) as GGUF's llama.
 */
void kernels_rope_halves(float *x, const float *cos, const float *sin, int head_dim);
void kernels_rope_pairs(float *x, const float *cos, const float *sin, int head_dim);

/*
 * n weights (whole blocks) of a file format to floats, and floats to BF16 (round to nearest even), F16, Q8_0, Q4_0, Q4_1 and
 * F8_E4M3. Q4_1 takes the scale and minimum that it finds to have the least squared error, some 0.5 µs a block.
 */
void kernels_row_to_f32(enum dtype dtype, const void *src, int n, float *out);
void kernels_row_from_f32(enum dtype dtype, const float *src, int n, void *out);

#endif
