/* The small trained models against transformers in float32: logits, log-probabilities and greedy tokens, for every split. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "base/json.h"
#include "model/rig.h"

/* docs/numerics.md says where these come from. */
static const double F32_TOLERANCE = 1e-4, ROUNDED_TOLERANCE = 1e-2, BF16_TOLERANCE = 0.05, I8_TOLERANCE = 0.1;
enum { N_VOCAB = 2048, MAX_CASES = 8 };
/* Tokens of the longest prompt: five have up to 23, the others 766 (two context parts) and 1522 (three). */
enum { SHORT = 100, LONG = 1000, ALL = 1 << 20 };

struct golden {
    json_t *json;
    int n_cases;
    struct rig_seq seqs[MAX_CASES];
    int n_greedy[MAX_CASES];
};

/* A case's sequence is its prompt and its greedy tokens but the last: every golden number is a logit of one of those. */
/* Only the prompts of at most max_prompt tokens. */
static void golden_open(const char *model, int max_prompt, struct golden *g) {
    char path[512];
    struct err err;
    snprintf(path, sizeof path, "%s/golden/%s-public.json", TEST_DATA_DIR, model);
    g->json = json_parse_file(path, 64 << 20, &err);
    assert_non_null(g->json);
    const json_t *cases = json_object_get(g->json, "cases");
    g->n_cases = (int)json_array_size(cases);
    assert_in_range(g->n_cases, 5, MAX_CASES);
    for (int i = 0; i < g->n_cases; i++) {
        const json_t *ids = json_object_get(json_array_get(cases, (size_t)i), "prompt_token_ids");
        const json_t *greedy = json_object_get(json_array_get(cases, (size_t)i), "greedy_token_ids");
        int n_prompt = (int)json_array_size(ids);
        if (n_prompt > max_prompt) { /* the long ones come last */
            g->n_cases = i;
            break;
        }
        g->n_greedy[i] = (int)json_array_size(greedy);
        int n = n_prompt + g->n_greedy[i] - 1;
        int32_t *tokens = malloc((size_t)n * sizeof *tokens);
        for (int t = 0; t < n; t++)
            tokens[t] = (int32_t)json_integer_value(t < n_prompt ? json_array_get(ids, (size_t)t) : json_array_get(greedy, (size_t)(t - n_prompt)));
        g->seqs[i] = (struct rig_seq){.tokens = tokens, .n_tokens = n, .n_prompt = n_prompt, .logits = malloc((size_t)n * N_VOCAB * sizeof(float))};
    }
}

static void golden_close(struct golden *g) {
    for (int i = 0; i < g->n_cases; i++) {
        free((void *)g->seqs[i].tokens);
        free(g->seqs[i].logits);
    }
    json_decref(g->json);
}

static double log_softmax(const float *row, int token) {
    double sum = 0, max = row[0];
    for (int v = 1; v < N_VOCAB; v++)
        max = row[v] > max ? (double)row[v] : max;
    for (int v = 0; v < N_VOCAB; v++)
        sum += exp((double)row[v] - max);
    return (double)row[token] - max - log(sum);
}

static int argmax(const float *row) {
    int best = 0;
    for (int v = 1; v < N_VOCAB; v++)
        if (row[v] > row[best])
            best = v;
    return best;
}

/* Prints the greatest differences and fails on those past the tolerance. */
static void golden_check(struct golden *g, const char *what, double tolerance) {
    double worst_logit = 0, worst_logprob = 0;
    int n_wrong = 0, n_close = 0;
    for (int i = 0; i < g->n_cases; i++) {
        const json_t *one = json_array_get(json_object_get(g->json, "cases"), (size_t)i);
        const struct rig_seq *seq = &g->seqs[i];
        const float *last = seq->logits + (size_t)(seq->n_prompt - 1) * N_VOCAB;
        for (int v = 0; v < N_VOCAB; v++) {
            double d = fabs((double)last[v] - json_number_value(json_array_get(json_object_get(one, "last_logits"), (size_t)v)));
            worst_logit = d > worst_logit || isnan(d) ? d : worst_logit;
        }
        for (int t = 0; t + 1 < seq->n_prompt; t++) {
            double d = fabs(log_softmax(seq->logits + (size_t)t * N_VOCAB, seq->tokens[t + 1]) -
                            json_number_value(json_array_get(json_object_get(one, "prompt_logprobs"), (size_t)t)));
            worst_logprob = d > worst_logprob || isnan(d) ? d : worst_logprob;
        }
        for (int t = 0; t < g->n_greedy[i]; t++) {
            int token = argmax(seq->logits + (size_t)(seq->n_prompt - 1 + t) * N_VOCAB);
            double gap = json_number_value(json_array_get(json_object_get(one, "top2_gap"), (size_t)t));
            if (token != (int)json_integer_value(json_array_get(json_object_get(one, "greedy_token_ids"), (size_t)t)))
                gap < 2 * tolerance ? n_close++ : n_wrong++;
        }
    }
    print_message("%-40s logits %.2e, log-probabilities %.2e, %d tokens differ at gaps within the tolerance, %d beyond\n", what, worst_logit,
                  worst_logprob, n_close, n_wrong);
    assert_true(worst_logit < tolerance);
    assert_true(worst_logprob < 2 * tolerance);
    assert_int_equal(n_wrong, 0);
}

static void run_split(const char *model, const char *what, int max_prompt, struct rig rig) {
    struct golden g;
    struct err err;
    char path[512];
    snprintf(path, sizeof path, "%s/models/%s", TEST_DATA_DIR, model);
    rig.path = path;
    golden_open(model, max_prompt, &g);
    if (rig_run(&rig, g.seqs, g.n_cases, &err) != 0)
        fail_msg("%s %s: %s", model, what, err.msg);
    double f32_tolerance = rig_rounds_i16(DTYPE_BF16, rig.keeps_f32) ? ROUNDED_TOLERANCE : F32_TOLERANCE;
    golden_check(&g, what, rig.kv_dtype == DTYPE_F32 ? f32_tolerance : rig.kv_dtype == DTYPE_BF16 ? BF16_TOLERANCE : I8_TOLERANCE);
    golden_close(&g);
}

static void both_models(const char *what, int max_prompt, struct rig rig) {
    char label[64];
    snprintf(label, sizeof label, "dense, %s, KV %s", what, dtype_name(rig.kv_dtype));
    run_split("tiny-qwen3", label, max_prompt, rig);
    snprintf(label, sizeof label, "mixture, %s, KV %s", what, dtype_name(rig.kv_dtype));
    run_split("tiny-qwen3-moe", label, max_prompt, rig);
}

/* With --dtype float32 everything is; else the CPU's fastest products, with each KV cache. */
static void both(const char *what, int max_prompt, struct rig rig) {
    char label[48];
    static const enum dtype formats[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8};
    for (int kv = 0; kv < 3; kv++) {
        rig.kv_dtype = formats[kv];
        both_models(what, max_prompt, rig);
    }
    snprintf(label, sizeof label, "%s, float32", what);
    rig.kv_dtype = DTYPE_F32;
    rig.keeps_f32 = true;
    both_models(label, max_prompt, rig);
}

static void test_one_rank(void **state) {
    (void)state;
    both("1 rank", ALL, (struct rig){.n_threads = 2});
}

static void test_plain_c(void **state) {
    (void)state;
    enum kernels_isa best = kernels_isa_current();
    kernels_setup(KERNELS_ISA_C);
    run_split("tiny-qwen3", "dense, plain C", SHORT, (struct rig){.kv_dtype = DTYPE_F32, .batched = true});
    run_split("tiny-qwen3-moe", "mixture, plain C", SHORT, (struct rig){.kv_dtype = DTYPE_F32, .batched = true});
    kernels_setup(best);
}

static void test_tensor_parallel(void **state) {
    (void)state;
    both("tp 2", LONG, (struct rig){.tp = 2, .batched = true});
    both("tp 4", LONG, (struct rig){.tp = 4, .batched = true, .n_threads = 2});
    both("tp 8", LONG, (struct rig){.tp = 8, .batched = true});
}

static void test_pipeline_parallel(void **state) {
    (void)state;
    both("pp 2", LONG, (struct rig){.pp = 2, .batched = true});
    both("pp 3", LONG, (struct rig){.pp = 3, .batched = true});
    both("pp 3 of 1, 4, 1", LONG, (struct rig){.pp = 3, .batched = true, .layers_per_stage = (int[]){1, 4, 1}});
    both("tp 2, pp 2", LONG, (struct rig){.tp = 2, .pp = 2, .batched = true});
}

static void test_expert_parallel(void **state) {
    (void)state;
    for (int keeps_f32 = 0; keeps_f32 < 2; keeps_f32++) {
        struct rig rig = {.tp = 2, .expert_parallel = true, .kv_dtype = DTYPE_F32, .keeps_f32 = keeps_f32};
        run_split("tiny-qwen3-moe", keeps_f32 ? "ep 2, float32" : "ep 2", LONG, rig);
        rig.tp = 4, rig.pp = 2, rig.batched = true;
        run_split("tiny-qwen3-moe", keeps_f32 ? "ep 4, pp 2, float32" : "ep 4, pp 2", LONG, rig);
    }
}

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_rank),          cmocka_unit_test(test_plain_c),         cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_pipeline_parallel), cmocka_unit_test(test_expert_parallel),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
