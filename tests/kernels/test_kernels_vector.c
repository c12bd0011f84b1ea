/* The small operations against their definitions in double, at every instruction set, on random lengths and alignments. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/check.h"
#include "kernels/vector.h"

enum { MAX = 1100 };

static float *random_guarded(int n)
{
    float *x = check_guarded(n, check_random_int(0, 5));
    check_random_floats(x, n);
    return x;
}

static void near_check(const char *what, int n, int i, double got, double expected, double tolerance)
{
    if (!(fabs(got - expected) <= tolerance))
        fail_msg("%s: %s of %d at %d: %.9g, expected %.9g ± %.3g", kernels_isa_name(kernels_isa_current()), what, n, i, got, expected,
                 tolerance);
}

static void rmsnorm_check(int n)
{
    float *x = random_guarded(n), *weight = random_guarded(n), *out = check_guarded(n, 2);
    kernels_rmsnorm(x, weight, n, 1e-6f, out);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    double factor = 1 / sqrt(sum / n + 1e-6);
    for (int i = 0; i < n; i++)
        near_check("rmsnorm", n, i, out[i], x[i] * factor * weight[i], 2e-6 * fabs(x[i] * factor * weight[i]) + 1e-12);
    kernels_rmsnorm(x, weight, n, 1e-6f, x); /* in place */
    assert_memory_equal(x, out, (size_t)n * sizeof *x);
    check_guarded_free(x);
    check_guarded_free(weight);
    check_guarded_free(out);
}

static void add_check(int n)
{
    float *x = random_guarded(n), *out = random_guarded(n), *before = random_guarded(n);
    memcpy(before, out, (size_t)n * sizeof *out);
    kernels_add(x, n, out);
    for (int i = 0; i < n; i++)
        assert_true(out[i] == before[i] + x[i]);
    memcpy(out, before, (size_t)n * sizeof *out);
    kernels_add_scaled(x, 0.37f, n, out);
    for (int i = 0; i < n; i++)
        near_check("add_scaled", n, i, out[i], before[i] + 0.37f * (double)x[i], 2e-7 * (fabsf(before[i]) + fabsf(x[i])));
    check_guarded_free(x);
    check_guarded_free(out);
    check_guarded_free(before);
}

static void silu_check(int n)
{
    float *gate = random_guarded(n), *up = random_guarded(n), *out = check_guarded(n, 0);
    for (int i = 0; i < n; i++)
        gate[i] *= 8;
    if (n > 3) {
        gate[0] = -100; /* e^100 overflows a float */
        gate[1] = 100;
        gate[2] = -0.0f;
        gate[3] = -87.5f;
    }
    kernels_silu_mul(gate, up, n, out);
    for (int i = 0; i < n; i++) {
        double expected = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
        near_check("silu_mul", n, i, out[i], expected, 2e-6 * fabs(expected) + 1e-35);
    }
    gate[n - 1] = NAN;
    kernels_silu_mul(gate, up, n, gate); /* in place */
    assert_true(isnan(gate[n - 1]));
    assert_memory_equal(gate, out, (size_t)(n - 1) * sizeof *out);
    check_guarded_free(gate);
    check_guarded_free(up);
    check_guarded_free(out);
}

static void exp_check(int n)
{
    float *x = random_guarded(n), *got = check_guarded(n, 0);
    double expected = 0;
    for (int i = 0; i < n; i++)
        x[i] = x[i] * 10 - 5;
    if (n > 2) {
        x[0] = -INFINITY;
        x[1] = -200;
    }
    double sum = kernels_exp(x, 3, n, got);
    for (int i = 0; i < n; i++) {
        float power = x[i] - 3;
        near_check("exp", n, i, got[i], exp(power), 1e-6 * exp(power) + 1.3e-38);
        expected += got[i];
    }
    assert_true(fabs(sum - expected) <= 1e-12 * expected);
    kernels_exp(x, 3, n, x); /* in place */
    assert_memory_equal(x, got, (size_t)n * sizeof *x);
    check_guarded_free(x);
    check_guarded_free(got);
}

static void softmax_check(int n)
{
    float *x = random_guarded(n), *got = random_guarded(n);
    for (int i = 0; i < n; i++)
        x[i] = x[i] * 10 + 300;
    if (n > 2)
        x[1] = -INFINITY; /* a masked position */
    memcpy(got, x, (size_t)n * sizeof *x);
    kernels_softmax(got, n);
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (int i = 0; i < n; i++)
        sum += exp(x[i] - max);
    for (int i = 0; i < n; i++)
        near_check("softmax", n, i, got[i], exp(x[i] - max) / sum, 4e-6 * exp(x[i] - max) / sum + 1e-37);
    check_guarded_free(x);
    check_guarded_free(got);
}

static void argmax_check(int n)
{
    float *x = random_guarded(n), max = NAN;
    int best = 0;
    for (int i = 0; i < n; i++) {
        x[i] = (float)check_random_int(-20, n < 10 ? 20 : n / 3); /* with ties */
        best = x[i] > x[best] ? i : best;
    }
    assert_int_equal(kernels_argmax(x, n, &max), best);
    assert_true(max == x[best]);
    assert_int_equal(kernels_argmax(x, n, NULL), best);
    for (int i = 0; i < n; i++)
        x[i] = -INFINITY;
    assert_int_equal(kernels_argmax(x, n, &max), 0);
    check_guarded_free(x);
}

static void rope_check(int head_dim)
{
    int half = head_dim / 2;
    float *x = random_guarded(head_dim), *before = random_guarded(head_dim), *cosine = random_guarded(half), *sine = random_guarded(half);
    for (int i = 0; i < half; i++) {
        double angle = check_random_float() * 100;
        cosine[i] = (float)cos(angle);
        sine[i] = (float)sin(angle);
    }
    for (int pairs = 0; pairs < 2; pairs++) {
        memcpy(before, x, (size_t)head_dim * sizeof *x);
        (pairs ? kernels_rope_pairs : kernels_rope_halves)(x, cosine, sine, head_dim);
        for (int i = 0; i < half; i++) {
            int a = pairs ? 2 * i : i, b = pairs ? 2 * i + 1 : i + half;
            double tolerance = 3e-7 * (fabsf(before[a]) + fabsf(before[b]));
            near_check("rope", head_dim, a, x[a], (double)before[a] * cosine[i] - (double)before[b] * sine[i], tolerance);
            near_check("rope", head_dim, b, x[b], (double)before[b] * cosine[i] + (double)before[a] * sine[i], tolerance);
        }
    }
    check_guarded_free(x);
    check_guarded_free(before);
    check_guarded_free(cosine);
    check_guarded_free(sine);
}

static void test_vector(void **state)
{
    (void)state;
    enum kernels_isa isa;
    for (int level = 0; check_level(level, &isa) != NULL; level++) {
        for (int i = 0; i < 60; i++) {
            int n = i < 40 ? i + 1 : check_random_int(41, MAX);
            rmsnorm_check(n);
            add_check(n);
            silu_check(n);
            exp_check(n);
            softmax_check(n);
            argmax_check(n);
            rope_check(2 * check_random_int(1, 128));
        }
    }
}

int main(void)
{
    check_seed();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vector)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
