/*
 * Attention over blocks against softmax in double, at every instruction set: random block sizes, head sizes, limits
 * and ranges; parts merge to the whole; a row does not depend on other rows; memory past the range is never read.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/attention.h"
#include "kernels/check.h"
#include "kernels/matrix.h"
#include "kernels/vector.h"

enum { MAX_ROWS = KERNELS_ATTN_MAX_ROWS, MAX_DIM = 256 };

struct fixture {
    struct kernels_attn attn;
    int n_tokens, n_blocks;
    void **k_blocks, **v_blocks;
    float *keys, *values; /* [n_tokens, head_dim] as stored */
    float *q[MAX_ROWS], *out[MAX_ROWS];
    int limits[MAX_ROWS];
    void *scratch;
};

static void blocks_new(struct fixture *f, void ***ret_blocks, float **ret_rows)
{
    int head_dim = f->attn.head_dim;
    size_t row_bytes = dtype_row_bytes(f->attn.kv_dtype, (size_t)head_dim);
    *ret_blocks = calloc((size_t)f->n_blocks, sizeof(void *));
    *ret_rows = malloc((size_t)f->n_tokens * (size_t)head_dim * sizeof(float));
    for (int b = 0; b < f->n_blocks; b++) {
        /* Exactly as large as the tokens need, so that the address sanitizer sees reads past the end; unused slots of
         * a whole block hold NaN. */
        (*ret_blocks)[b] = malloc((size_t)f->attn.block_size * row_bytes);
        memset((*ret_blocks)[b], 0xff, (size_t)f->attn.block_size * row_bytes);
    }
    for (int t = 0; t < f->n_tokens; t++) {
        float *row = *ret_rows + (size_t)t * (size_t)head_dim;
        void *block = (*ret_blocks)[t / f->attn.block_size];
        int slot = t % f->attn.block_size;
        check_random_floats(row, head_dim);
        kernels_kv_store(f->attn.kv_dtype, row, head_dim, f->attn.block_size, block, slot);
        kernels_kv_load(f->attn.kv_dtype, block, head_dim, f->attn.block_size, slot, row); /* as stored */
    }
}

static void fixture_init(struct fixture *f, enum dtype kv_dtype, int n_tokens, int n_rows)
{
    int head_dim = 8 * check_random_int(1, MAX_DIM / 8), block_size = check_random_int(0, 1) ? 16 : check_random_int(1, 70);
    if (check_random_int(0, 1))
        head_dim = check_random_int(1, 4) * 64;
    *f = (struct fixture){.n_tokens = n_tokens, .n_blocks = (n_tokens + block_size - 1) / block_size};
    f->attn = (struct kernels_attn){
        .kv_dtype = kv_dtype,
        .head_dim = head_dim,
        .block_size = block_size,
        .scale = 1.0f / sqrtf((float)head_dim),
        .token_end = n_tokens,
        .n_rows = n_rows,
        .q = (const float *const *)f->q,
        .row_limit = f->limits,
    };
    blocks_new(f, &f->k_blocks, &f->keys);
    blocks_new(f, &f->v_blocks, &f->values);
    f->attn.k_blocks = (const void *const *)f->k_blocks;
    f->attn.v_blocks = (const void *const *)f->v_blocks;
    for (int i = 0; i < n_rows; i++) {
        f->q[i] = check_guarded(head_dim, check_random_int(0, 3));
        check_random_floats(f->q[i], head_dim);
        f->out[i] = check_guarded(head_dim, check_random_int(0, 3));
        f->limits[i] = check_random_int(0, 2) ? check_random_int(0, n_tokens + 3) : n_tokens;
    }
    f->scratch = aligned_alloc(64, KERNELS_SCRATCH_BYTES);
}

static void fixture_finish(struct fixture *f)
{
    for (int i = 0; i < f->attn.n_rows; i++) {
        check_guarded_free(f->q[i]);
        check_guarded_free(f->out[i]);
    }
    for (int b = 0; b < f->n_blocks; b++) {
        free(f->k_blocks[b]);
        free(f->v_blocks[b]);
    }
    free(f->k_blocks);
    free(f->v_blocks);
    free(f->keys);
    free(f->values);
    free(f->scratch);
}

/* The whole softmax of row i over tokens [begin, end) in double. Returns the number of visible tokens. */
static int row_expected(const struct fixture *f, int i, int begin, int end, double *ret_row)
{
    int head_dim = f->attn.head_dim, n = (f->limits[i] < end ? f->limits[i] : end) - begin;
    memset(ret_row, 0, (size_t)head_dim * sizeof *ret_row);
    if (n <= 0)
        return 0;
    double *scores = malloc((size_t)n * sizeof *scores), max = -INFINITY, sum = 0;
    for (int t = 0; t < n; t++) {
        scores[t] = 0;
        for (int d = 0; d < head_dim; d++)
            scores[t] += (double)f->q[i][d] * f->keys[(size_t)(begin + t) * (size_t)head_dim + (size_t)d];
        scores[t] *= f->attn.scale;
        max = fmax(max, scores[t]);
    }
    for (int t = 0; t < n; t++)
        sum += scores[t] = exp(scores[t] - max);
    for (int t = 0; t < n; t++)
        for (int d = 0; d < head_dim; d++)
            ret_row[d] += scores[t] / sum * f->values[(size_t)(begin + t) * (size_t)head_dim + (size_t)d];
    free(scores);
    return n;
}

static void row_check(const struct fixture *f, int i, const float *merged, int begin, int end)
{
    double expected[MAX_DIM];
    row_expected(f, i, begin, end, expected);
    for (int d = 0; d < f->attn.head_dim; d++)
        if (!(fabs(merged[d] - expected[d]) <= 1e-5))
            fail_msg("%s: row %d of %d, limit %d, tokens %d to %d, head_dim %d, block %d, [%d]: %.9g, expected %.9g",
                     kernels_isa_name(kernels_isa_current()), i, f->attn.n_rows, f->limits[i], begin, end, f->attn.head_dim,
                     f->attn.block_size, d, merged[d], expected[d]);
}

static void case_check(enum dtype kv_dtype, int n_tokens, int n_rows)
{
    struct fixture f;
    fixture_init(&f, kv_dtype, n_tokens, n_rows);
    float max[2][MAX_ROWS], sum[2][MAX_ROWS], merged[MAX_DIM];
    int head_dim = f.attn.head_dim;
    size_t row_bytes = (size_t)head_dim * sizeof(float);

    /* The whole range, then each row alone: the same bits, even if the range ends at the row's own limit. */
    kernels_attn_partial(&f.attn, f.out, max[0], sum[0], f.scratch);
    for (int i = 0; i < n_rows; i++) {
        const float *part = f.out[i];
        kernels_attn_merge(&part, &max[0][i], &sum[0][i], 1, head_dim, merged);
        row_check(&f, i, merged, 0, n_tokens);
        struct kernels_attn alone = f.attn;
        alone.n_rows = 1;
        alone.q = (const float *const *)&f.q[i];
        alone.row_limit = &f.limits[i];
        if (f.limits[i] < n_tokens)
            alone.token_end = f.limits[i];
        float *out = check_guarded(head_dim, 1);
        kernels_attn_partial(&alone, &out, &max[1][i], &sum[1][i], f.scratch);
        assert_memory_equal(out, f.out[i], row_bytes);
        assert_memory_equal(&sum[0][i], &sum[1][i], sizeof(float));
        assert_true(f.limits[i] > 0 ? sum[0][i] > 0 : sum[0][i] == 0);
        check_guarded_free(out);
    }

    /* Two parts, merged. */
    int cut = check_random_int(0, n_tokens);
    struct kernels_attn parts[2] = {f.attn, f.attn};
    parts[0].token_end = parts[1].token_begin = cut;
    float *second[MAX_ROWS];
    for (int i = 0; i < n_rows; i++)
        second[i] = check_guarded(head_dim, 0);
    kernels_attn_partial(&parts[0], f.out, max[0], sum[0], f.scratch);
    kernels_attn_partial(&parts[1], second, max[1], sum[1], f.scratch);
    for (int i = 0; i < n_rows; i++) {
        const float *part[2] = {f.out[i], second[i]};
        kernels_attn_merge(part, (float[]){max[0][i], max[1][i]}, (float[]){sum[0][i], sum[1][i]}, 2, head_dim, merged);
        row_check(&f, i, merged, 0, n_tokens);
        check_guarded_free(second[i]);
    }
    fixture_finish(&f);
}

static void test_attention(void **state)
{
    (void)state;
    enum kernels_isa isa;
    for (int level = 0; check_level(level, &isa) != NULL; level++) {
        for (int i = 0; i < 60; i++) {
            enum dtype kv_dtype = (enum dtype[]){DTYPE_F32, DTYPE_BF16, DTYPE_I8}[i % 3];
            case_check(kv_dtype, check_random_int(1, i < 30 ? 40 : 300), i < 20 ? i % 5 + 1 : check_random_int(1, MAX_ROWS));
        }
    }
}

/* Eight bits: within half a level of what was stored; and what is not finite does not become a number. */
static void test_store_i8(void **state)
{
    (void)state;
    enum { DIM = 72, BLOCK = 3 };
    float row[DIM], read[DIM], greatest;
    uint8_t block[BLOCK * (DIM + sizeof(float))] __attribute__((aligned(8)));
    for (int round = 0; round < 200; round++) {
        float size = powf(10, (float)check_random_int(-30, 30));
        int slot = check_random_int(0, BLOCK - 1);
        check_random_floats(row, DIM);
        greatest = 0;
        for (int d = 0; d < DIM; d++)
            greatest = fmaxf(greatest, fabsf(row[d] *= size));
        kernels_kv_store(DTYPE_I8, row, DIM, BLOCK, block, slot);
        kernels_kv_load(DTYPE_I8, block, DIM, BLOCK, slot, read);
        for (int d = 0; d < DIM; d++)
            if (!(fabsf(read[d] - row[d]) <= greatest / 127 * 0.5001f))
                fail_msg("%.9g reads as %.9g beside %.9g", row[d], read[d], greatest);
    }
    memset(row, 0, sizeof row);
    row[5] = -1e-42f; /* no scale can be made of it */
    kernels_kv_store(DTYPE_I8, row, DIM, BLOCK, block, 0);
    kernels_kv_load(DTYPE_I8, block, DIM, BLOCK, 0, read);
    for (int d = 0; d < DIM; d++)
        assert_true(read[d] == 0);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        check_random_floats(row, DIM);
        row[check_random_int(0, DIM - 1)] = bad[i];
        kernels_kv_store(DTYPE_I8, row, DIM, BLOCK, block, 1);
        kernels_kv_load(DTYPE_I8, block, DIM, BLOCK, 1, read);
        for (int d = 0; d < DIM; d++)
            assert_false(isfinite(read[d]));
    }
}

int main(void)
{
    check_seed();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_store_i8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
