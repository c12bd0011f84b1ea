/*
 * Packed matrices against their definition, on random shapes at every instruction set: packing keeps every weight, the
 * product agrees with sums in double, writes nothing else, and does not depend on tokens beside it or on panel ranges.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/check.h"
#include "kernels/matrix.h"
#include "kernels/vector.h"

/* A matrix with its rows as floats, activations, and what the product should be. */
struct fixture {
    struct kernels_matrix matrix;
    float *rows; /* [n_rows, n_cols] */
    struct kernels_acts acts;
    float *x;
    void *acts_memory, *scratch;
    int n_tokens;
};

static void *aligned_new(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

static void fixture_init(struct fixture *f, enum dtype dtype, bool keeps_f32, int n_rows, int n_cols, int n_tokens)
{
    f->matrix.data = NULL;
    size_t bytes = kernels_matrix_init(&f->matrix, dtype, n_rows, n_cols);
    if (keeps_f32)
        kernels_matrix_keep_f32(&f->matrix);
    assert_int_equal(f->matrix.panel_bytes % 64, 0);
    f->matrix.data = aligned_new(bytes);
    size_t row_bytes = dtype_row_bytes(dtype, (size_t)n_cols), stride = row_bytes + 6;
    uint8_t *file = malloc(stride * (size_t)n_rows);
    f->rows = malloc((size_t)n_rows * (size_t)n_cols * sizeof(float));
    assert_non_null(file);
    assert_non_null(f->rows);
    for (int r = 0; r < n_rows; r++) {
        check_random_row(dtype, n_cols, file + (size_t)r * stride);
        kernels_row_to_f32(dtype, file + (size_t)r * stride, n_cols, f->rows + (size_t)r * (size_t)n_cols);
    }
    for (int p = 0; p < f->matrix.n_panels; p++) {
        int left = n_rows - p * KERNELS_PANEL_ROWS;
        kernels_matrix_pack_panel(&f->matrix, p, file + (size_t)p * KERNELS_PANEL_ROWS * stride, stride,
                                  left < KERNELS_PANEL_ROWS ? left : KERNELS_PANEL_ROWS);
    }
    free(file);

    f->n_tokens = n_tokens;
    int stride_cols = n_cols + check_random_int(0, 5);
    f->x = check_guarded(n_tokens * stride_cols, check_random_int(0, 3));
    for (int t = 0; t < n_tokens; t++)
        check_random_floats(f->x + (size_t)t * (size_t)stride_cols, n_cols);
    f->acts = (struct kernels_acts){.n_cols = n_cols, .stride_cols = stride_cols, .f32 = f->x};
    f->acts_memory = aligned_new(kernels_acts_bytes(n_tokens, n_cols));
    kernels_acts_place(&f->acts, n_tokens, f->acts_memory);
    kernels_acts_quantize(&f->acts, kernels_matrix_acts(&f->matrix), 0, n_tokens);
    f->scratch = aligned_new(KERNELS_SCRATCH_BYTES);
}

static void fixture_finish(struct fixture *f)
{
    free(f->scratch);
    free(f->acts_memory);
    check_guarded_free(f->x);
    free(f->rows);
    free(f->matrix.data);
}

/* The activation that the kernels see. */
static double act(const struct fixture *f, int token, int col)
{
    size_t at = (size_t)token * (size_t)f->acts.n_cols + (size_t)col;
    int form = kernels_matrix_acts(&f->matrix);
    if (form == 0)
        return f->x[(size_t)token * (size_t)f->acts.stride_cols + (size_t)col];
    if (form == KERNELS_ACTS_I16)
        return (double)f->acts.wide[at] * f->acts.wide_scales[at / KERNELS_GROUP];
    return (double)f->acts.q[at] * f->acts.scales[at / KERNELS_GROUP];
}

/* The weight that the kernels see: in 16 bits it is a multiple of what its row's greatest has 4096 to 8191 of. */
static double weight(const struct fixture *f, int row, int col)
{
    const float *weights = f->rows + (size_t)row * (size_t)f->matrix.n_cols;
    if (!f->matrix.is_i16)
        return weights[col];
    double greatest = 0;
    for (int c = 0; c < f->matrix.n_cols; c++)
        greatest = fmax(greatest, fabs(weights[c]));
    int exponent;
    frexp(greatest, &exponent);
    return ldexp(rint(ldexp(weights[col], 13 - exponent)), exponent - 13);
}

/*
 * The bound holds for any order of a float sum: each of the n terms and additions errs by at most 2^-24 of the sum of
 * magnitudes. The minima of Q4_1, Q4_K and Q5_K are summed apart from the weights, so magnitudes count both; BF16
 * products of the last instruction set round the activations to 8 bits of mantissa.
 */
static double tolerance(const struct fixture *f, enum kernels_isa isa, double magnitude)
{
    double relative = ldexp(f->acts.n_cols + 8, -24);
    if (f->matrix.dtype == DTYPE_Q4_1 || f->matrix.dtype == DTYPE_Q4_K || f->matrix.dtype == DTYPE_Q5_K)
        relative *= 8;
    if (f->matrix.dtype == DTYPE_BF16 && !f->matrix.keeps_f32 && isa == KERNELS_ISA_AVX512_BF16)
        relative += 0x1p-8;
    return relative * magnitude + 1e-30;
}

static void product_check(const struct fixture *f, enum kernels_isa isa, const float *out, int out_stride)
{
    for (int t = 0; t < f->n_tokens; t++) {
        for (int r = 0; r < f->matrix.n_rows; r++) {
            double sum = 0, magnitude = 0;
            for (int c = 0; c < f->matrix.n_cols; c++) {
                double product = weight(f, r, c) * act(f, t, c);
                sum += product;
                magnitude += fabs(product);
            }
            double got = out[(size_t)t * (size_t)out_stride + (size_t)r];
            if (!(fabs(got - sum) <= tolerance(f, isa, magnitude)))
                fail_msg("%s %s [%d, %d], token %d of %d, row %d: %.9g, expected %.9g ± %.3g", kernels_isa_name(isa),
                         dtype_name(f->matrix.dtype), f->matrix.n_rows, f->matrix.n_cols, t, f->n_tokens, r, got, sum,
                         tolerance(f, isa, magnitude));
        }
    }
}

/* `split` and `starts` say what q says. */
static void split_check(const struct kernels_acts *acts, int n_tokens)
{
    const float zero = KERNELS_ACTS_ZERO;
    const int32_t bits = KERNELS_ACTS_START;
    assert_memory_equal(&zero, &bits, sizeof zero);
    for (int i = 0; i < n_tokens * acts->n_cols; i++) {
        const uint8_t *split = acts->split + i / 4 * 8 + i % 4;
        assert_int_equal(split[0], abs(acts->q[i]));
        assert_int_equal(split[4], acts->q[i] < 0 ? 255 : 0);
    }
    for (int g = 0; g < n_tokens * acts->n_cols / KERNELS_GROUP; g++) {
        int start = KERNELS_ACTS_START;
        for (int i = g * KERNELS_GROUP; i < (g + 1) * KERNELS_GROUP; i++)
            start += acts->q[i] < 0 ? -acts->q[i] : 0;
        assert_int_equal(acts->starts[g], start);
    }
}

/* The same bits for one token alone and for a cut of the panels as for all at once; columns past n_rows untouched. */
static void invariance_check(struct fixture *f, const float *out, int out_stride)
{
    int n_rows = f->matrix.n_rows;
    float *again = check_guarded(f->n_tokens * out_stride, 0);
    int cut = check_random_int(0, f->matrix.n_panels), n_first = check_random_int(0, f->n_tokens);
    for (int part = 0; part < 2; part++) {
        int begin = part ? n_first : 0, n = part ? f->n_tokens - n_first : n_first;
        size_t at = (size_t)begin;
        struct kernels_acts acts = kernels_acts_from(&f->acts, begin);
        kernels_matmul(&f->matrix, &acts, n, again + at * (size_t)out_stride, out_stride, cut, f->matrix.n_panels, f->scratch);
        kernels_matmul(&f->matrix, &acts, n, again + at * (size_t)out_stride, out_stride, 0, cut, f->scratch);
    }
    for (int t = 0; t < f->n_tokens; t++) {
        size_t at = (size_t)t * (size_t)out_stride;
        if (memcmp(out + at, again + at, (size_t)n_rows * sizeof *out) != 0)
            fail_msg("%s [%d, %d]: token %d of %d differs when cut at panel %d, token %d", dtype_name(f->matrix.dtype), n_rows,
                     f->matrix.n_cols, t, f->n_tokens, cut, n_first);
        for (int r = n_rows; r < out_stride; r++)
            assert_true(isnan(out[at + (size_t)r]) && isnan(again[at + (size_t)r]));
    }
    check_guarded_free(again);
}

static void matrix_check(struct fixture *f, enum kernels_isa isa)
{
    int out_stride = f->matrix.n_rows + check_random_int(0, 20);
    float *out = check_guarded(f->n_tokens * out_stride, check_random_int(0, 3));
    kernels_matmul(&f->matrix, &f->acts, f->n_tokens, out, out_stride, 0, f->matrix.n_panels, f->scratch);
    product_check(f, isa, out, out_stride);
    invariance_check(f, out, out_stride);
    check_guarded_free(out);
}

static void shape_check(enum dtype dtype, enum kernels_isa isa, int n_rows, int n_cols, int n_tokens)
{
    for (int keeps_f32 = 0; keeps_f32 <= (dtype == DTYPE_BF16); keeps_f32++) {
        struct fixture f;
        fixture_init(&f, dtype, keeps_f32, n_rows, n_cols, n_tokens);
        matrix_check(&f, isa);
        fixture_finish(&f);
    }
}

static int random_cols(enum dtype dtype)
{
    int block = dtype_block_weights(dtype);
    if (dtype == DTYPE_BF16 && check_random_int(0, 1) == 1)
        block = KERNELS_GROUP; /* such rows have kernels of their own */
    return block == 1 ? check_random_int(1, 600) : block * check_random_int(1, block == 32 ? 40 : 5);
}

static void test_product(void **state)
{
    (void)state;
    enum kernels_isa isa;
    const char *name;
    for (int level = 0; (name = check_level(level, &isa)) != NULL; level++) {
        printf("%s\n", name);
        for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
            for (int n_tokens = 1; n_tokens <= 7; n_tokens++)
                shape_check((enum dtype)dtype, isa, check_random_int(1, 70), random_cols((enum dtype)dtype), n_tokens);
            for (int i = 0; i < 4; i++)
                shape_check((enum dtype)dtype, isa, check_random_int(1, 70), random_cols((enum dtype)dtype), check_random_int(8, 40));
            /* Longer than any block of columns or tokens that a kernel works in. */
            shape_check((enum dtype)dtype, isa, 17, dtype_block_weights((enum dtype)dtype) == 1 ? 2309 : 2304, 2);
            shape_check((enum dtype)dtype, isa, 33, dtype_block_weights((enum dtype)dtype) == 1 ? 1321 : 1280, 9);
            shape_check((enum dtype)dtype, isa, 20, 256, 530);
        }
    }
}

static void test_extremes(void **state)
{
    (void)state;
    /* The greatest weights times the greatest activations: nothing may saturate inside. */
    enum kernels_isa isa;
    for (int level = 0; check_level(level, &isa) != NULL; level++) {
        for (int dtype = DTYPE_Q8_0; dtype < DTYPE_COUNT; dtype++) {
            for (int pattern = 0; pattern < 4; pattern++) {
                struct fixture f;
                fixture_init(&f, (enum dtype)dtype, false, 16, 256, 5);
                uint8_t file[512];
                size_t row_bytes = dtype_row_bytes((enum dtype)dtype, 256);
                memset(file, pattern & 1 ? 0xff : 0x80, row_bytes);
                check_random_row((enum dtype)dtype, 256, file); /* sane scales … */
                uint8_t filled[512];
                memcpy(filled, file, row_bytes);
                for (size_t b = 0; b < row_bytes; b++) {
                    size_t in_block = b % (size_t)dtype_block_bytes((enum dtype)dtype);
                    size_t head = dtype < DTYPE_Q4_1 ? 2 : dtype < DTYPE_Q4_K ? 4 : 16;
                    int is_scale = dtype == DTYPE_Q6_K ? in_block >= 192 : in_block < head;
                    if (!is_scale)
                        filled[b] = pattern & 1 ? 0xff : dtype == DTYPE_Q8_0 ? 0x80 : 0x00; /* … and extreme weights */
                }
                for (int r = 0; r < 16; r++)
                    kernels_row_to_f32((enum dtype)dtype, filled, 256, f.rows + r * 256);
                uint8_t rows[16 * 512];
                for (int r = 0; r < 16; r++)
                    memcpy(rows + (size_t)r * row_bytes, filled, row_bytes);
                kernels_matrix_pack_panel(&f.matrix, 0, rows, row_bytes, 16);
                for (int t = 0; t < 5; t++)
                    for (int c = 0; c < 256; c++)
                        f.x[t * f.acts.stride_cols + c] = (pattern & 2) ? -3.0f : 3.0f;
                kernels_acts_quantize(&f.acts, KERNELS_ACTS_I8, 0, 5);
                assert_int_equal(f.acts.q[0], pattern & 2 ? -127 : 127);
                float *out = check_guarded(5 * 16, 0);
                kernels_matmul(&f.matrix, &f.acts, 5, out, 16, 0, 1, f.scratch);
                product_check(&f, isa, out, 16);
                invariance_check(&f, out, 16);
                check_guarded_free(out);
                fixture_finish(&f);
            }
        }
    }
}

static void bf16_row_fill(struct fixture *f, int row, float value)
{
    for (int c = 0; c < f->matrix.n_cols; c++)
        f->rows[(size_t)row * (size_t)f->matrix.n_cols + (size_t)c] = value;
}

/* BF16 rows at the limits of floats and of 16-bit sums: the greatest and the smallest, zeros, and those that show damage. */
static void test_bf16_extremes(void **state)
{
    (void)state;
    enum { ROWS = 16, COLS = 64, TOKENS = 6 };
    enum kernels_isa isa;
    for (int level = 0; check_level(level, &isa) != NULL; level++) {
        struct fixture f;
        fixture_init(&f, DTYPE_BF16, false, ROWS, COLS, TOKENS);
        bf16_row_fill(&f, 0, 0x1.fep12f);
        bf16_row_fill(&f, 1, -0x1.fep12f);
        bf16_row_fill(&f, 2, 0x1.fep-114f);
        bf16_row_fill(&f, 3, 0x1p-133f); /* the smallest of all */
        bf16_row_fill(&f, 4, 0);
        bf16_row_fill(&f, 5, 0x1.fep100f);
        f.rows[6 * COLS + 5] = INFINITY;
        f.rows[7 * COLS + 63] = NAN;
        uint8_t file[ROWS][COLS * 2];
        for (int r = 0; r < ROWS; r++)
            kernels_row_from_f32(DTYPE_BF16, f.rows + r * COLS, COLS, file[r]);
        kernels_matrix_pack_panel(&f.matrix, 0, file, sizeof file[0], ROWS);
        for (int t = 0; t < TOKENS; t++)
            for (int c = 0; c < COLS; c++)
                f.x[t * f.acts.stride_cols + c] = t % 2 == 0 ? 3 : -3;
        kernels_acts_quantize(&f.acts, kernels_matrix_acts(&f.matrix), 0, TOKENS);
        float *out = check_guarded(TOKENS * ROWS, 0);
        kernels_matmul(&f.matrix, &f.acts, TOKENS, out, ROWS, 0, 1, f.scratch);
        invariance_check(&f, out, ROWS);
        for (int t = 0; t < TOKENS; t++) {
            float sum = t % 2 == 0 ? COLS * 3 : COLS * -3, *row = out + t * ROWS;
            const float expected[] = {sum * 0x1.fep12f, sum * -0x1.fep12f, sum * 0x1.fep-114f, sum * 0x1p-133f, 0, sum * 0x1.fep100f};
            for (int r = 0; r < 6; r++)
                if (!(fabsf(row[r] - expected[r]) <= fabsf(expected[r]) * 1e-4f + 0x1p-127f * COLS * 3))
                    fail_msg("%s row %d: %g, expected %g", kernels_isa_name(isa), r, row[r], expected[r]);
            assert_false(isfinite(row[6]));
            assert_true(isnan(row[7]));
        }
        check_guarded_free(out);
        fixture_finish(&f);
    }
}

static void test_unpack_row(void **state)
{
    (void)state;
    enum kernels_isa isa;
    for (int i = 0; check_level(i / (2 * DTYPE_COUNT), &isa) != NULL; i++) {
        enum dtype dtype = (enum dtype)(i / 2 % DTYPE_COUNT);
        struct fixture f;
        fixture_init(&f, dtype, i % 2 == 0, 37, random_cols(dtype), 1);
        for (int r = 0; r < 37; r++) {
            float *row = check_guarded(f.matrix.n_cols, 1);
            kernels_matrix_unpack_row(&f.matrix, r, row);
            for (int c = 0; c < f.matrix.n_cols; c++)
                if (row[c] != (float)weight(&f, r, c))
                    fail_msg("%s row %d, column %d: %g, expected %g", dtype_name(dtype), r, c, (double)row[c], weight(&f, r, c));
            check_guarded_free(row);
        }
        fixture_finish(&f);
    }
}

static void acts_new(struct kernels_acts *acts, const float *x, int n_tokens, int n_cols, int stride_cols, void **ret_memory)
{
    *acts = (struct kernels_acts){.n_cols = n_cols, .stride_cols = stride_cols, .f32 = x};
    *ret_memory = aligned_new(kernels_acts_bytes(n_tokens, n_cols));
    kernels_acts_place(acts, n_tokens, *ret_memory);
}

static void test_acts_quantize(void **state)
{
    (void)state;
    enum { TOKENS = 5, COLS = 96, STRIDE = 99 };
    float *x = check_guarded(TOKENS * STRIDE, 1);
    for (int t = 0; t < TOKENS; t++)
        check_random_floats(x + t * STRIDE, COLS);
    for (int c = 0; c < 32; c++) {
        x[c] = 0;                      /* all zero */
        x[STRIDE + c] = 1e-35f;        /* too small for an inverse scale */
        x[2 * STRIDE + c] = 0.5f + (float)c; /* halves: ties */
    }
    x[3 * STRIDE + 40] = INFINITY;
    x[4 * STRIDE + 70] = NAN;
    struct kernels_acts expected, got;
    void *expected_memory, *got_memory;
    enum kernels_isa isa;
    for (int level = 0; check_level(level, &isa) != NULL; level++) {
        acts_new(&got, x, TOKENS, COLS, STRIDE, &got_memory);
        kernels_acts_quantize(&got, KERNELS_ACTS_I8, 0, 2);
        kernels_acts_quantize(&got, KERNELS_ACTS_I8, 2, TOKENS);
        kernels_setup(KERNELS_ISA_C);
        acts_new(&expected, x, TOKENS, COLS, STRIDE, &expected_memory);
        kernels_acts_quantize(&expected, KERNELS_ACTS_I8, 0, TOKENS);
        assert_memory_equal(got.q, expected.q, TOKENS * COLS);
        assert_memory_equal(got.split, expected.split, TOKENS * COLS * 2);
        assert_memory_equal(got.sums, expected.sums, TOKENS * COLS / 16 * sizeof(int32_t));
        assert_memory_equal(got.starts, expected.starts, TOKENS * COLS / 32 * sizeof(int32_t));
        split_check(&got, TOKENS);
        for (int g = 0; g < TOKENS * COLS / 32; g++) {
            if (isnan(expected.scales[g]))
                assert_true(isnan(got.scales[g]));
            else
                assert_memory_equal(&got.scales[g], &expected.scales[g], sizeof(float));
        }
        free(got_memory);
        free(expected_memory);
    }
    check_guarded_free(x);
}

static void test_acts_int16(void **state)
{
    (void)state;
    enum { TOKENS = 3, COLS = 96, STRIDE = 99 };
    struct kernels_matrix matrix;
    enum kernels_isa isa;
    for (int level = 0; check_level(level, &isa) != NULL; level++) {
        kernels_matrix_init(&matrix, DTYPE_BF16, 1, COLS);
        if (!matrix.is_i16)
            continue;
        float *x = check_guarded(TOKENS * STRIDE, 1);
        for (int t = 0; t < TOKENS; t++)
            check_random_floats(x + t * STRIDE, COLS);
        for (int c = 0; c < 32; c++) {
            x[c] = 0;
            x[STRIDE + c] = 1e-35f; /* too small for an inverse scale */
            x[2 * STRIDE + c] = c % 2 ? -7.0f : 7.0f;
        }
        x[40] = -INFINITY;
        x[STRIDE + 70] = NAN;
        struct kernels_acts acts;
        void *memory;
        acts_new(&acts, x, TOKENS, COLS, STRIDE, &memory);
        kernels_acts_quantize(&acts, KERNELS_ACTS_I16, 0, 1);
        kernels_acts_quantize(&acts, KERNELS_ACTS_I16, 1, TOKENS);
        for (int i = 0; i < TOKENS * COLS; i++) {
            int token = i / COLS, group = i % COLS / KERNELS_GROUP;
            float value = x[token * STRIDE + i % COLS], scale = acts.wide_scales[i / KERNELS_GROUP];
            if ((token == 0 && group == 1) || (token == 1 && group == 2))
                assert_true(isnan(scale) && acts.wide[i] == 0);
            else if (group == 0)
                assert_int_equal(acts.wide[i], token < 2 ? 0 : value < 0 ? -KERNELS_I16_MAX : KERNELS_I16_MAX);
            else
                assert_true(abs(acts.wide[i]) <= KERNELS_I16_MAX && fabs(value - (double)acts.wide[i] * scale) <= 0.501 * scale);
        }
        free(memory);
        check_guarded_free(x);
    }
}

int main(void)
{
    check_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack_row),
        cmocka_unit_test(test_acts_quantize),
        cmocka_unit_test(test_acts_int16),
        cmocka_unit_test(test_bf16_extremes),
        cmocka_unit_test(test_product),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
