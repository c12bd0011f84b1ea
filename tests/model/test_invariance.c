/*
 * What may not change a token's numbers: the number of threads, what else is in the step, how a prompt is cut into chunks,
 * the stages. All of it bit by bit, for every kind of weights. Tensor parallelism changes the order of sums: there,
 * the difference is bounded.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/rand.h"
#include "kernels/matrix.h"
#include "model/rig.h"

enum { N_SEQS = 3, N_VOCAB = 256 };
static const int lengths[N_SEQS] = {1, 30, 509}; /* the last one decodes across the edge of a context part */

static struct rig_seq seqs[N_SEQS];
static float *reference[N_SEQS];

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    for (int s = 0; s < N_SEQS; s++) {
        int n = lengths[s] + 8;
        int32_t *tokens = malloc((size_t)n * sizeof *tokens);
        for (int t = 0; t < n; t++)
            tokens[t] = (int32_t)(rand_ctr_u64((uint64_t)s, (uint64_t)t) % N_VOCAB);
        seqs[s] = (struct rig_seq){.tokens = tokens, .n_tokens = n, .n_prompt = lengths[s], .logits = malloc((size_t)n * N_VOCAB * sizeof(float))};
        reference[s] = malloc((size_t)n * N_VOCAB * sizeof(float));
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    for (int s = 0; s < N_SEQS; s++) {
        free((void *)seqs[s].tokens);
        free(seqs[s].logits);
        free(reference[s]);
    }
    return 0;
}

static size_t logits_bytes(int s) { return (size_t)seqs[s].n_tokens * N_VOCAB * sizeof(float); }

static void run(struct rig rig) {
    struct err err;
    for (int s = 0; s < N_SEQS; s++)
        memset(seqs[s].logits, 0xff, logits_bytes(s));
    if (rig_run(&rig, seqs, N_SEQS, &err) != 0)
        fail_msg("%s", err.msg);
}

/*
 * Root mean square of the difference from the reference, relative to that of the logits. Not the greatest difference: a
 * rounding that tips one group of activations into another int8 value, or one token to another expert, shows fully there.
 */
static double difference(void) {
    double sum = 0, of_reference = 0;
    for (int s = 0; s < N_SEQS; s++) {
        for (size_t i = 0; i < logits_bytes(s) / sizeof(float); i++) {
            double d = (double)seqs[s].logits[i] - (double)reference[s][i];
            sum += d * d;
            of_reference += (double)reference[s][i] * (double)reference[s][i];
        }
    }
    return sqrt(sum / of_reference);
}

static void check_same(const char *what, struct rig rig) {
    run(rig);
    for (int s = 0; s < N_SEQS; s++)
        if (memcmp(seqs[s].logits, reference[s], logits_bytes(s)) != 0)
            fail_msg("%s, %s weights: sequence %d differs by %g", what, dtype_name(rig.dummy), s, difference());
}

static void check_close(const char *what, struct rig rig, double tolerance) {
    run(rig);
    double d = difference();
    print_message("%s, %s weights: %.2e\n", what, dtype_name(rig.dummy), d);
    assert_true(d < tolerance);
}

/* A small geometry whose parts are whole blocks of every format. */
static json_t *geometry(bool is_mixture) {
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "num_hidden_layers", 2, "hidden_size", 256, "num_attention_heads", 8,
                     "num_key_value_heads", 2, "head_dim", 64, "intermediate_size", 512, "vocab_size", N_VOCAB, "eos_token_id", 1,
                     is_mixture ? "moe_intermediate_size" : "unused", 512);
}

static void check_format(enum dtype dtype, bool is_mixture) {
    char path[512];
    json_t *overrides = geometry(is_mixture);
    snprintf(path, sizeof path, "%s/models/%s", TEST_DATA_DIR, is_mixture ? "tiny-qwen3-moe" : "tiny-qwen3");
    struct rig plain = {.path = path, .is_dummy = true, .dummy = dtype, .kv_dtype = is_mixture ? DTYPE_BF16 : DTYPE_F32, .overrides = overrides}, rig;
    run(plain);
    for (int s = 0; s < N_SEQS; s++)
        memcpy(reference[s], seqs[s].logits, logits_bytes(s));
    rig = plain, rig.batched = true, rig.n_threads = 3;
    check_same("batched, 3 threads", rig);
    rig = plain, rig.chunk = 33, rig.n_threads = 2;
    check_same("chunks of 33, 2 threads", rig);
    rig = plain, rig.batched = true, rig.chunk = 200, rig.pp = 2;
    check_same("batched chunks of 200, 2 stages", rig);
    /*
     * A sum in another order can tip an activation into the next integer. One of 8 bits then moves a product by a few
     * thousandths, one of 14 by a 64th of that; but either can send a mixture's token to another expert.
     */
    double tolerance = dtype >= DTYPE_Q8_0 ? 0.05 : !rig_rounds_i16(dtype, false) ? 1e-4 : is_mixture ? 2e-2 : 1e-3;
    rig = plain, rig.batched = true, rig.tp = 2;
    check_close(is_mixture ? "mixture, tp 2" : "dense, tp 2", rig, tolerance);
    if (is_mixture) {
        rig.expert_parallel = true;
        check_close("mixture, ep 2", rig, tolerance);
    }
    json_decref(overrides);
}

static void test_float_formats(void **state) {
    (void)state;
    for (int is_mixture = 0; is_mixture < 2; is_mixture++) {
        check_format(is_mixture ? DTYPE_F32 : DTYPE_F16, is_mixture);
        check_format(DTYPE_BF16, is_mixture);
    }
}

static void test_block_formats(void **state) {
    (void)state;
    for (int dtype = DTYPE_Q8_0; dtype < DTYPE_COUNT; dtype++)
        check_format((enum dtype)dtype, false);
    check_format(DTYPE_Q8_0, true);
    check_format(DTYPE_Q4_K, true);
}

static void test_plain_c(void **state) {
    (void)state;
    enum kernels_isa best = kernels_isa_current();
    kernels_setup(KERNELS_ISA_C);
    check_format(DTYPE_BF16, false);
    check_format(DTYPE_Q4_0, true);
    kernels_setup(best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float_formats),
        cmocka_unit_test(test_block_formats),
        cmocka_unit_test(test_plain_c),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
