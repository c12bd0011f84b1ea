/* Shared parts of the kernel tests; see check.h. */
#include "kernels/check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/rand.h"
#include "kernels/matrix.h"
#include "kernels/ops.h"

static uint64_t seed, counter;

void check_seed(void)
{
    const char *given = getenv("SHOAL_TEST_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)clock_mono_ns();
    printf("SHOAL_TEST_SEED=%llu\n", (unsigned long long)seed);
}

uint64_t check_random(void)
{
    return rand_ctr_u64(seed, counter++);
}

int check_random_int(int low, int high)
{
    return low + (int)(check_random() % (uint64_t)(high - low + 1));
}

float check_random_float(void)
{
    return (float)((double)(check_random() >> 40) / (1 << 23) - 1.0);
}

void check_random_floats(float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = check_random_float() * ldexpf(1.0f, check_random_int(-6, 2));
}

static void half_write(uint8_t *at, float value)
{
    uint16_t half = half_f32_to_f16(value);
    memcpy(at, &half, sizeof half);
}

void check_random_row(enum dtype dtype, int n_cols, uint8_t *row)
{
    size_t n_blocks = (size_t)(n_cols / dtype_block_weights(dtype)), block_bytes = (size_t)dtype_block_bytes(dtype);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = row + b * block_bytes;
        for (size_t i = 0; i < block_bytes; i++)
            block[i] = (uint8_t)check_random();
        float d = check_random_float(), m = check_random_float();
        uint16_t half = half_f32_to_bf16(d);
        switch (dtype) {
        case DTYPE_F32: memcpy(block, &d, sizeof d); break;
        case DTYPE_F16: half_write(block, d); break;
        case DTYPE_BF16: memcpy(block, &half, sizeof half); break;
        case DTYPE_F8_E4M3: /* all 16 rows of a panel have this scale */
            d = 1.0f / 300;
            memcpy(block, &d, sizeof d);
            for (size_t i = 4; i < block_bytes; i++)
                block[i] -= (block[i] & 0x7f) == 0x7f; /* no NaN */
            break;
        case DTYPE_Q8_0: half_write(block, d / 127); break;
        case DTYPE_Q4_0: half_write(block, d / 8); break;
        case DTYPE_Q4_1:
            half_write(block, d / 8);
            half_write(block + 2, m);
            break;
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
            half_write(block, d / (dtype == DTYPE_Q4_K ? 500 : 1000));
            half_write(block + 2, m / 63);
            break;
        case DTYPE_Q6_K: half_write(block + 208, d / 4000); break;
        case DTYPE_COUNT: break;
        }
    }
}

enum { GUARD_FLOATS = 32, GUARD_BITS = 0x5eed1234 };

struct guarded_head {
    int n, offset_floats;
};

float *check_guarded(int n, int offset_floats)
{
    size_t n_all = 2 * GUARD_FLOATS + (size_t)n + 16;
    uint32_t *memory = aligned_alloc(64, (n_all * 4 + 127) / 64 * 64);
    assert_non_null(memory);
    struct guarded_head head = {n, offset_floats};
    memcpy(memory, &head, sizeof head);
    uint32_t *begin = memory + GUARD_FLOATS + offset_floats;
    for (int i = 2; i < GUARD_FLOATS + offset_floats; i++)
        memory[i] = GUARD_BITS;
    for (int i = 0; i < n; i++)
        begin[i] = 0x7fc0dead;
    for (int i = 0; i < GUARD_FLOATS; i++)
        begin[n + i] = GUARD_BITS;
    return (float *)begin;
}

void check_guarded_free(float *x)
{
    uint32_t *begin = (uint32_t *)x, *memory = (uint32_t *)((uintptr_t)(begin - GUARD_FLOATS) / 64 * 64);
    struct guarded_head head;
    memcpy(&head, memory, sizeof head);
    for (int i = 2; i < GUARD_FLOATS + head.offset_floats; i++)
        assert_int_equal(memory[i], GUARD_BITS);
    for (int i = 0; i < GUARD_FLOATS; i++)
        assert_int_equal(begin[head.n + i], GUARD_BITS);
    free(memory);
}

#ifdef CHECK_SIMDE
void check_simde_fill(enum kernels_isa isa, struct kernels_ops *ops);

const char *check_level(int level, enum kernels_isa *ret_isa)
{
    enum kernels_isa isa = (enum kernels_isa)(KERNELS_ISA_AVX512 + level);
    if (isa >= KERNELS_ISA_COUNT)
        return NULL;
    kernels_setup(KERNELS_ISA_C);
    check_simde_fill(isa, &kernels_ops);
    *ret_isa = isa;
    return kernels_isa_name(isa);
}
#else
const char *check_level(int level, enum kernels_isa *ret_isa)
{
    if (level >= KERNELS_ISA_COUNT)
        return NULL;
    *ret_isa = kernels_setup((enum kernels_isa)level);
    return *ret_isa == (enum kernels_isa)level ? kernels_isa_name(*ret_isa) : NULL;
}
#endif
