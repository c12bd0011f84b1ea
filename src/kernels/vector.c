/* The small operations between the products: the way to the instruction set in use. Any thread. */
#include "kernels/vector.h"

#include "kernels/ops.h"

void kernels_rmsnorm(const float *x, const float *weight, int n, float eps, float *out)
{
    kernels_ops.rmsnorm(x, weight, n, eps, out);
}

void kernels_add(const float *x, int n, float *out)
{
    kernels_ops.add(x, n, out);
}

void kernels_add_scaled(const float *x, float scale, int n, float *out)
{
    kernels_ops.add_scaled(x, scale, n, out);
}

void kernels_silu_mul(const float *gate, const float *up, int n, float *out)
{
    kernels_ops.silu_mul(gate, up, n, out);
}

double kernels_exp(const float *x, float shift, int n, float *out)
{
    return kernels_ops.exp(x, shift, n, out);
}

void kernels_softmax(float *x, int n)
{
    kernels_ops.softmax(x, n);
}

int kernels_argmax(const float *x, int n, float *ret_max)
{
    return kernels_ops.argmax(x, n, ret_max);
}

void kernels_rope_halves(float *x, const float *cos, const float *sin, int head_dim)
{
    kernels_ops.rope_halves(x, cos, sin, head_dim);
}

void kernels_rope_pairs(float *x, const float *cos, const float *sin, int head_dim)
{
    kernels_ops.rope_pairs(x, cos, sin, head_dim);
}
