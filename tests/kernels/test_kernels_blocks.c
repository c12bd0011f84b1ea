/*
 * Rows of file formats to and from floats against vectors that the `gguf` package made (tests/data/kernels), and the
 * 16-bit floats over all their values.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "kernels/check.h"
#include "kernels/vector.h"

enum { WEIGHTS = 768, MAX_BYTES = WEIGHTS * 4 };

/* Reads tests/data/kernels/<name>.<ending>, in lower case. */
static void vector_read(const char *name, const char *ending, void *bytes, size_t expected_bytes)
{
    char path[512];
    snprintf(path, sizeof path, TEST_DATA_DIR "/kernels/%s.%s", name, ending);
    for (char *c = path + sizeof TEST_DATA_DIR; *c; c++)
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be opened", path);
    assert_int_equal(fread(bytes, 1, expected_bytes, file), expected_bytes);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
}

static void test_to_f32(void **state)
{
    (void)state;
    for (enum dtype dtype = DTYPE_F16; dtype < DTYPE_COUNT; dtype++) {
        uint8_t blocks[MAX_BYTES];
        float expected[WEIGHTS], got[WEIGHTS];
        vector_read(dtype_name(dtype), "blocks", blocks, dtype_row_bytes(dtype, WEIGHTS));
        vector_read(dtype_name(dtype), "floats", expected, sizeof expected);
        kernels_row_to_f32(dtype, blocks, WEIGHTS, got);
        for (int i = 0; i < WEIGHTS; i++)
            if (!(fabsf(got[i] - expected[i]) <= 1e-6f * fabsf(expected[i])))
                fail_msg("%s [%d]: %.9g, expected %.9g", dtype_name(dtype), i, (double)got[i], (double)expected[i]);
    }
}

static void test_from_f32(void **state)
{
    (void)state;
    const enum dtype dtypes[] = {DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    float floats[WEIGHTS];
    vector_read("quantize", "floats", floats, sizeof floats);
    for (int d = 0; d < 4; d++) {
        uint8_t expected[MAX_BYTES], got[MAX_BYTES];
        size_t bytes = dtype_row_bytes(dtypes[d], WEIGHTS);
        vector_read("quantize", dtype_name(dtypes[d]), expected, bytes);
        kernels_row_from_f32(dtypes[d], floats, WEIGHTS, got);
        for (size_t i = 0; i < bytes; i++)
            if (got[i] != expected[i])
                fail_msg("%s, byte %zu: %d, expected %d", dtype_name(dtypes[d]), i, got[i], expected[i]);
    }
}

static void test_f16_all_values(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        float value = half_f16_to_f32((uint16_t)half);
        uint32_t magnitude = half & 0x7fff;
        if (magnitude > 0x7c00) {
            assert_true(isnan(value) && isnan(half_f16_to_f32(half_f32_to_f16(value))));
            continue;
        }
        double expected = magnitude == 0x7c00 ? INFINITY
                          : magnitude < 0x400 ? ldexp(magnitude, -24)
                                              : ldexp(1024 + magnitude % 1024, (int)(magnitude / 1024) - 25);
        assert_true(value == (half & 0x8000 ? -expected : expected));
        assert_int_equal(half_f32_to_f16(value), half);
        if (magnitude >= 0x7bff)
            continue;
        /* Half way to the next value goes to the even one, a little more goes up. */
        float next = half_f16_to_f32((uint16_t)(half + 1)), middle = (value + next) / 2;
        assert_int_equal(half_f32_to_f16(middle), half + half % 2);
        assert_int_equal(half_f32_to_f16(nextafterf(middle, next)), half + 1);
    }
    assert_int_equal(half_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(half_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(half_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(half_f32_to_f16(-1e-30f), 0x8000);
}

static void test_bf16_all_values(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        float value = half_bf16_to_f32((uint16_t)half);
        if (isnan(value)) {
            assert_true(isnan(half_bf16_to_f32(half_f32_to_bf16(value))));
            continue;
        }
        assert_int_equal(half_f32_to_bf16(value), half);
        if (isinf(value))
            continue;
        float middle = half_bits_to_f32(half << 16 | 0x8000);
        assert_int_equal(half_f32_to_bf16(middle), half + half % 2);
        assert_int_equal(half_f32_to_bf16(half_bits_to_f32(half << 16 | 0x8001)), half + 1);
    }
    assert_true(isnan(half_bf16_to_f32(half_f32_to_bf16(half_bits_to_f32(0x7fffffff)))));
}

/* All values by the format's definition, the middles between them and what lies just beyond. */
static void test_f8_rounding(void **state)
{
    (void)state;
    for (uint32_t byte = 0; byte < 256; byte++) {
        float value = half_f8_to_f32((uint8_t)byte);
        uint32_t magnitude = byte & 0x7f;
        if (magnitude == 0x7f) {
            assert_true(isnan(value));
            assert_int_equal(half_f32_to_f8(value) & 0x7f, 0x7f);
            continue;
        }
        double expected = magnitude < 8 ? ldexp(magnitude, -9) : ldexp(8 + magnitude % 8, (int)(magnitude / 8) - 10);
        assert_true(value == (byte & 0x80 ? -expected : expected));
        assert_int_equal(half_f32_to_f8(value), byte);
        if (magnitude == 0x7e)
            continue;
        float next = half_f8_to_f32((uint8_t)(byte + 1)), middle = (value + next) / 2;
        assert_int_equal(half_f32_to_f8(middle), byte + byte % 2);
        assert_int_equal(half_f32_to_f8(nextafterf(middle, next)), byte + 1);
    }
    assert_int_equal(half_f32_to_f8(1e30f), 0x7e);
    assert_int_equal(half_f32_to_f8(-INFINITY), 0xfe);
    assert_int_equal(half_f32_to_f8(-1e-30f), 0x80);
}

/* Squared error of a group of 32 with Q4_1, by the encoder and with the range's ends as they are. */
static double q4_1_error(const float x[32], double *ret_plain)
{
    uint8_t block[20];
    float got[32], low = x[0], high = x[0];
    double sum = 0;
    *ret_plain = 0;
    kernels_row_from_f32(DTYPE_Q4_1, x, 32, block);
    kernels_row_to_f32(DTYPE_Q4_1, block, 32, got);
    for (int i = 0; i < 32; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
        sum += (double)(got[i] - x[i]) * (double)(got[i] - x[i]);
    }
    for (int i = 0; i < 32; i++) {
        float step = (high - low) / 15, off = low + step * (step > 0 ? roundf((x[i] - low) / step) : 0) - x[i];
        *ret_plain += (double)off * (double)off;
    }
    return sum;
}

static void test_q4_1_search(void **state)
{
    (void)state;
    check_seed();
    double sum = 0, plain_sum = 0;
    for (int n = 0; n < 2000; n++) {
        float x[32];
        double plain;
        for (int i = 0; i < 32; i++) /* a bell, shifted and of any size */
            x[i] = ldexpf(check_random_float() + check_random_float() + check_random_float() + (float)(n % 3), n % 20 - 10);
        double error = q4_1_error(x, &plain);
        assert_true(error <= plain * 1.25); /* a search from other starts may lose a little now and then */
        sum += ldexp(error, 20 - 2 * (n % 20));
        plain_sum += ldexp(plain, 20 - 2 * (n % 20));
    }
    printf("Q4_1: squared error %.3f of the plain quantiser's\n", sum / plain_sum);
    assert_true(sum < 0.9 * plain_sum);
}

static void test_q4_1_odd_groups(void **state)
{
    (void)state;
    float x[32], got[32];
    uint8_t block[20];
    for (int i = 0; i < 32; i++)
        x[i] = 0.25f;
    kernels_row_from_f32(DTYPE_Q4_1, x, 32, block);
    kernels_row_to_f32(DTYPE_Q4_1, block, 32, got);
    assert_memory_equal(x, got, sizeof x);
    for (int i = 0; i < 32; i++) /* points of a line in F16 come back as they are */
        x[i] = 0.5f * (float)(i * 7 % 16) - 3;
    kernels_row_from_f32(DTYPE_Q4_1, x, 32, block);
    kernels_row_to_f32(DTYPE_Q4_1, block, 32, got);
    assert_memory_equal(x, got, sizeof x);
    for (int i = 0; i < 32; i++)
        x[i] = 1e-12f * (float)i;
    kernels_row_from_f32(DTYPE_Q4_1, x, 32, block);
    kernels_row_to_f32(DTYPE_Q4_1, block, 32, got);
    for (int i = 0; i < 32; i++)
        assert_true(fabsf(got[i]) < 1e-7f);
    x[5] = INFINITY;
    kernels_row_from_f32(DTYPE_Q4_1, x, 32, block);
    kernels_row_to_f32(DTYPE_Q4_1, block, 32, got);
    assert_true(isnan(got[0]));
}

/* A group's greatest magnitude is kept; the rest is within half a step of E4M3. */
static void test_f8_rows(void **state)
{
    (void)state;
    float x[64], got[64];
    uint8_t blocks[72];
    check_random_floats(x, 64);
    memset(x + 32, 0, 32 * sizeof *x);
    kernels_row_from_f32(DTYPE_F8_E4M3, x, 64, blocks);
    kernels_row_to_f32(DTYPE_F8_E4M3, blocks, 64, got);
    float max = 0;
    for (int i = 0; i < 32; i++)
        max = fmaxf(max, fabsf(x[i]));
    for (int i = 0; i < 32; i++)
        assert_true(fabsf(got[i] - x[i]) <= fabsf(x[i]) / 16 + max / 448 / 512);
    assert_memory_equal(x + 32, got + 32, 32 * sizeof *x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_f32),
        cmocka_unit_test(test_from_f32),
        cmocka_unit_test(test_f16_all_values),
        cmocka_unit_test(test_bf16_all_values),
        cmocka_unit_test(test_f8_rounding),
        cmocka_unit_test(test_f8_rows),
        cmocka_unit_test(test_q4_1_search),
        cmocka_unit_test(test_q4_1_odd_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
