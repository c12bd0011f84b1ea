/* The small operations in plain C: the reference for the instruction sets. Any thread; allocates nothing. */
#include <math.h>

#include "kernels/ops.h"

static void rmsnorm_c(const float *x, const float *weight, int n, float eps, float *out)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float factor = (float)(1.0 / sqrt(sum / n + (double)eps));
    for (int i = 0; i < n; i++)
        out[i] = x[i] * factor * weight[i];
}

static void add_c(const float *x, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] += x[i];
}

static void add_scaled_c(const float *x, float scale, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] += scale * x[i];
}

static void silu_mul_c(const float *gate, const float *up, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static int argmax_c(const float *x, int n, float *ret_max)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    if (ret_max)
        *ret_max = x[best];
    return best;
}

static double exp_c(const float *x, float shift, int n, float *out)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        float power = x[i] - shift;
        sum += out[i] = power < -87.3f ? 0 : expf(power);
    }
    return sum;
}

static void softmax_c(float *x, int n)
{
    float max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - max);
    for (int i = 0; i < n; i++)
        x[i] /= sum;
}

static void rope_halves_c(float *x, const float *cos, const float *sin, int head_dim)
{
    int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

static void rope_pairs_c(float *x, const float *cos, const float *sin, int head_dim)
{
    for (int i = 0; i < head_dim / 2; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

void kernels_ops_fill_vector_c(struct kernels_ops *ops)
{
    ops->rmsnorm = rmsnorm_c;
    ops->add = add_c;
    ops->add_scaled = add_scaled_c;
    ops->silu_mul = silu_mul_c;
    ops->exp = exp_c;
    ops->softmax = softmax_c;
    ops->argmax = argmax_c;
    ops->rope_halves = rope_halves_c;
    ops->rope_pairs = rope_pairs_c;
}
