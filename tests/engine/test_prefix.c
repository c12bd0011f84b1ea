/*
 * Cached prompts through real ranks: a request that finds its beginning in the cache gets the tokens of one that computed it all, with
 * penalties that look at the cached tokens, in several splits; n continuations get what as many single requests get.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/log.h"
#include "engine/launch_kit.h"
#include "kernels/dispatch.h"

enum { N_PROMPT = 100, N_OUT = 12, N_CHOICES = 3 };

struct answer {
    int32_t tokens[N_CHOICES][N_OUT];
    int n[N_CHOICES], n_cached[N_CHOICES];
};

static void ask(struct launch *l, const int32_t *prompt, int n_prompt, int n_choices, uint64_t seed, const char *salt, struct answer *ret) {
    struct exec_sampling sampling = greedy_sampling(N_OUT);
    struct engine_stream *stream;
    struct engine_event event;
    struct err err;
    int status;
    sampling.temperature = 0.8f;
    sampling.repetition_penalty = 1.3f;
    sampling.presence_penalty = 0.5f;
    sampling.seed = seed;
    struct engine_request request = {.prompt = prompt, .n_prompt = n_prompt, .n_choices = n_choices, .cache_salt = salt, .sampling = &sampling};
    *ret = (struct answer){0};
    if (engine_submit(l->engine, &request, 1, &stream, &err) != 0)
        fail_msg("%s", err.msg);
    while ((status = engine_stream_next(stream, 60000, &event, &err)) == 1) {
        ret->n_cached[event.choice] = event.n_cached;
        if (event.type == ENGINE_EVENT_TOKEN)
            ret->tokens[event.choice][ret->n[event.choice]++] = event.token;
    }
    if (status == -2)
        fail_msg("%s", err.msg);
    engine_stream_close(stream);
    for (int i = 0; i < n_choices; i++)
        assert_int_equal(ret->n[i], N_OUT);
}

static void check_split(const char *model, struct split split) {
    struct launch l;
    struct answer first, again, longer, afresh, several;
    int32_t prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = 100 + i * 37 % 900;
    launch_start(&l, model, split, "float32");
    ask(&l, prompt, 70, 1, 5, NULL, &first);
    assert_int_equal(first.n_cached[0], 0);
    ask(&l, prompt, 70, 1, 5, NULL, &again);
    assert_int_equal(again.n_cached[0], 64);
    assert_memory_equal(first.tokens[0], again.tokens[0], sizeof first.tokens[0]);
    ask(&l, prompt, N_PROMPT, 1, 6, NULL, &longer);
    assert_int_equal(longer.n_cached[0], 64);
    ask(&l, prompt, N_PROMPT, 1, 6, "salt", &afresh);
    assert_int_equal(afresh.n_cached[0], 0);
    assert_memory_equal(longer.tokens[0], afresh.tokens[0], sizeof afresh.tokens[0]);
    /* All three at once, in a launch where nobody has asked before under this salt. */
    ask(&l, prompt, 60, N_CHOICES, 20, "other", &several);
    for (int i = 0; i < N_CHOICES; i++) {
        ask(&l, prompt, 60, 1, 20 + (uint64_t)i, "salt of the single ones", &afresh);
        assert_memory_equal(several.tokens[i], afresh.tokens[0], sizeof afresh.tokens[0]);
    }
    if (split.pp == 1) /* with more stages a continuation may be in a step beside the one that computes the prompt */
        assert_int_equal(several.n_cached[1] + several.n_cached[2], 2 * 48);
    launch_stop(&l);
}

static void test_cached_prompts_give_the_same_tokens(void **state) {
    (void)state;
    check_split("tiny-qwen3", (struct split){.tp = 1, .pp = 1, .n_nodes = 1});
    check_split("tiny-qwen3", (struct split){.tp = 2, .pp = 1, .n_nodes = 2});
    check_split("tiny-qwen3", (struct split){.tp = 2, .pp = 2, .n_nodes = 2});
    check_split("tiny-qwen3-moe", (struct split){.tp = 2, .pp = 1, .n_nodes = 1, .expert_parallel = true});
}

int main(void) {
    log_setup(LOG_ERROR, "test");
    kernels_setup(kernels_isa_detect());
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cached_prompts_give_the_same_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
