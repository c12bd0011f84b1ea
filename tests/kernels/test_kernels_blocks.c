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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_f32),
        cmocka_unit_test(test_from_f32),
        cmocka_unit_test(test_f16_all_values),
        cmocka_unit_test(test_bf16_all_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
