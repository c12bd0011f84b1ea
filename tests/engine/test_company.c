/*
 * Batch invariance: what a request gets, tokens and bits of log-probabilities, is the same alone and among fifteen others with other
 * parameters, whatever chunks its prompt comes in, and through preemptions; dense and mixture, on one rank, on several and over four
 * nodes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/rand.h"
#include "engine/launch_kit.h"
#include "kernels/dispatch.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { N_TOKENS = 12, MOST_PROMPT = 60 };
#else
enum { N_TOKENS = 40, MOST_PROMPT = 230 };
#endif
enum { N_SUBJECTS = 4, N_OTHERS = 15 };

struct answer {
    int32_t tokens[N_TOKENS];
    float logprobs[N_TOKENS];
    int n;
};

static int make_prompt(int number, int32_t *ret_tokens) {
    int n = 5 + (int)(rand_ctr_u64(3, (uint64_t)number) % (MOST_PROMPT - 5));
    for (int i = 0; i < n; i++)
        ret_tokens[i] = (int32_t)(rand_ctr_u64(100 + (uint64_t)number, (uint64_t)i) % 2000);
    return n;
}

/* Requests with every kind of parameter: the first N_SUBJECTS are compared, the others keep them company. */
static struct exec_sampling params_of(int number) {
    struct exec_sampling p = {.top_p = 1, .repetition_penalty = 1, .max_tokens = N_TOKENS, .ignore_eos = true, .n_logprobs = -1,
                              .n_prompt_logprobs = -1, .temperature = 0.4f + 0.15f * (float)(number % 8), .seed = (uint64_t)number};
    switch (number % 8) {
    case 0: p.n_logprobs = 5; break;
    case 1: p.top_p = 0.9f; p.frequency_penalty = 0.5f; p.n_logprobs = 0; break;
    case 2: p.top_k = 30; p.top_p = 0.8f; p.repetition_penalty = 1.2f; break;
    case 3: p.min_p = 0.02f; p.presence_penalty = 1; break;
    case 4: p.temperature = 0; break;
    case 5: p.n_prompt_logprobs = 2; break;
    case 6: p.n_bias = 1; p.bias[0] = (struct exec_bias){17, 5}; break;
    default: p.n_allowed = 2; p.allowed[0] = 40; p.allowed[1] = 41; break;
    }
    return p;
}

static struct engine_stream *ask(struct launch *l, int number) {
    int32_t prompt[MOST_PROMPT];
    struct exec_sampling params = params_of(number);
    return submit(l, prompt, make_prompt(number, prompt), &params);
}

static void read_answer(struct engine_stream *stream, struct answer *ret) {
    struct engine_event event;
    struct err err;
    int status;
    *ret = (struct answer){0};
    while ((status = engine_stream_next(stream, 60000, &event, &err)) == 1)
        if (event.type == ENGINE_EVENT_TOKEN && ret->n < N_TOKENS) {
            ret->logprobs[ret->n] = event.has_logprobs ? event.logprobs.logprob : 0;
            ret->tokens[ret->n++] = event.token;
        }
    if (status == -2)
        fail_msg("%s", err.msg);
    assert_int_equal(ret->n, N_TOKENS);
    engine_stream_close(stream);
}

/* Subjects one after the other, or all at once among the others. */
static void run_subjects(struct launch *l, bool in_company, struct answer *answers) {
    struct engine_stream *streams[N_SUBJECTS + N_OTHERS];
    struct answer ignored;
    for (int i = 0; !in_company && i < N_SUBJECTS; i++)
        read_answer(ask(l, i), &answers[i]);
    for (int i = N_SUBJECTS + N_OTHERS - 1; in_company && i >= 0; i--)
        streams[i] = ask(l, i);
    for (int i = 0; in_company && i < N_SUBJECTS + N_OTHERS; i++)
        read_answer(streams[i], i < N_SUBJECTS ? &answers[i] : &ignored);
}

static void check_model(const char *model, struct split split) {
    struct answer alone[N_SUBJECTS], answers[N_SUBJECTS];
    struct engine_stats stats;
    struct launch l;
    /* alone, with room for a whole prompt in a step */
    split.max_seqs = 16;
    split.max_step_tokens = 512;
    split.max_model_len = MOST_PROMPT + N_TOKENS;
    launch_start(&l, model, split, "auto");
    run_subjects(&l, false, alone);
    run_subjects(&l, true, answers);
    assert_memory_equal(answers, alone, sizeof alone);
    launch_stop(&l);
    /* in small chunks, and with so few blocks that not all can stay */
    split.max_step_tokens = 37;
    split.n_blocks = 3 * (MOST_PROMPT + N_TOKENS) / 16;
    launch_start(&l, model, split, "auto");
    run_subjects(&l, true, answers);
    engine_stats_read(l.engine, &stats);
    assert_memory_equal(answers, alone, sizeof alone);
    assert_true(stats.preemptions > 0);
    printf("%s tp %d pp %d on %d node(s): the same through %llu preemptions\n", model, split.tp, split.pp, split.n_nodes,
           (unsigned long long)stats.preemptions);
    launch_stop(&l);
}

static void test_dense(void **state) {
    (void)state;
    check_model("tiny-qwen3", (struct split){1, 1, 1});
    check_model("tiny-qwen3", (struct split){2, 1, 1});
    check_model("tiny-qwen3", (struct split){2, 2, 2});
}

static void test_mixture(void **state) {
    (void)state;
    check_model("tiny-qwen3-moe", (struct split){1, 1, 1});
    check_model("tiny-qwen3-moe", (struct split){2, 1, 2, true});
}

/* A sum over three nodes and more must not depend on how much is summed at once. */
static void test_many_nodes(void **state) {
    (void)state;
    check_model("tiny-qwen3", (struct split){4, 1, 4});
}

/* The same seed gives the same tokens on one rank and on several: float sums differ in their last bits, draws hardly ever. */
static void test_splits_draw_alike(void **state) {
    (void)state;
    struct answer answers[3][N_SUBJECTS];
    static const struct split splits[] = {{1, 1, 1}, {2, 1, 1}, {4, 1, 2}};
    for (int s = 0; s < 3; s++) {
        struct launch l;
        launch_start(&l, "tiny-qwen3", splits[s], "float32");
        run_subjects(&l, false, answers[s]);
        launch_stop(&l);
        for (int i = 0; i < N_SUBJECTS; i++)
            assert_memory_equal(answers[s][i].tokens, answers[0][i].tokens, sizeof answers[0][i].tokens);
    }
}

int main(void) {
    log_setup(LOG_ERROR, "test");
    kernels_setup(kernels_isa_detect());
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dense), cmocka_unit_test(test_mixture), cmocka_unit_test(test_many_nodes),
                                       cmocka_unit_test(test_splits_draw_alike)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
