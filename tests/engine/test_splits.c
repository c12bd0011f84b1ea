/*
 * The whole way below HTTP, in one process: engine, driver, workers (a thread for each node, connected by socket pairs), ranks linked through
 * memory and loopback TCP. The tiny trained models must give the reference's greedy tokens for every split, and the same tokens whatever
 * else runs beside a request.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/json.h"
#include "base/log.h"
#include "engine/launch_kit.h"
#include "kernels/dispatch.h"

enum { N_GREEDY = 48, MAX_CASES = 8, MAX_PROMPT = 3000 };

/* Sanitizers make the kernels many times slower: there the short prompts and a few tokens show what they are to show. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MOST_CASES = 3, N_TOKENS = 8 };
#else
enum { MOST_CASES = MAX_CASES, N_TOKENS = N_GREEDY };
#endif

/* Where the reference's two best logits are closer than this, either token is right and the continuations may part (docs/numerics.md). */
static const double GAP_TOLERANCE = 0.02;

struct golden {
    int n_prompt;
    int32_t prompt[MAX_PROMPT], greedy[N_GREEDY];
    double gap[N_GREEDY];
};

static int golden_load(const char *model, struct golden *cases) {
    char path[512];
    struct err err;
    snprintf(path, sizeof path, "%s/golden/%s-public.json", TEST_DATA_DIR, model);
    json_t *json = json_parse_file(path, 16 << 20, &err);
    assert_non_null(json);
    const json_t *list = json_object_get(json, "cases");
    int n = (int)json_array_size(list);
    assert_true(n > 0 && n <= MAX_CASES);
    for (int c = 0; c < n; c++) {
        const json_t *item = json_array_get(list, (size_t)c);
        const json_t *ids = json_object_get(item, "prompt_token_ids");
        cases[c].n_prompt = (int)json_array_size(ids);
        assert_true(cases[c].n_prompt <= MAX_PROMPT);
        for (int i = 0; i < cases[c].n_prompt; i++)
            cases[c].prompt[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        for (size_t i = 0; i < N_GREEDY; i++) {
            cases[c].greedy[i] = (int32_t)json_integer_value(json_array_get(json_object_get(item, "greedy_token_ids"), i));
            cases[c].gap[i] = json_number_value(json_array_get(json_object_get(item, "top2_gap"), i));
        }
    }
    json_decref(json);
    return n;
}

/* Tokens of one stream with a single choice; returns how many. */
static int read_tokens(struct engine_stream *stream, int32_t *ret_tokens, int cap) {
    struct engine_event event;
    struct err err;
    int n = 0, status;
    while ((status = engine_stream_next(stream, 60000, &event, &err)) == 1)
        if (event.type == ENGINE_EVENT_TOKEN && n < cap)
            ret_tokens[n++] = event.token;
    if (status == -2)
        fail_msg("%s", err.msg);
    assert_int_equal(status, -1);
    return n;
}

/* Up to the first place where the reference itself is undecided. Returns the tokens that were compared. */
static int compare(const struct golden *golden, const int32_t *tokens, int n) {
    for (int i = 0; i < n; i++) {
        if (tokens[i] == golden->greedy[i])
            continue;
        if (golden->gap[i] >= GAP_TOLERANCE)
            fail_msg("token %d is %d, the reference has %d with a gap of %.3f", i, tokens[i], golden->greedy[i], golden->gap[i]);
        return i;
    }
    return n;
}

/* Returns the bytes of the model that the launch has read. */
static uint64_t check_split(const char *model, struct split split, const char *dtype) {
    static struct golden cases[MAX_CASES];
    struct engine_stream *streams[MAX_CASES];
    struct launch l;
    int n_cases = golden_load(model, cases), n_compared = 0;
    struct exec_sampling sampling = greedy_sampling(N_TOKENS);
    n_cases = n_cases < MOST_CASES ? n_cases : MOST_CASES;
    launch_start(&l, model, split, dtype);
    for (int c = 0; c < n_cases; c++) /* all at once: batched, chunked, and preempted where blocks run out */
        streams[c] = submit(&l, cases[c].prompt, cases[c].n_prompt, &sampling);
    for (int c = 0; c < n_cases; c++) {
        int32_t tokens[N_GREEDY];
        assert_int_equal(read_tokens(streams[c], tokens, N_TOKENS), N_TOKENS);
        n_compared += compare(&cases[c], tokens, N_TOKENS);
        engine_stream_close(streams[c]);
    }
    launch_stop(&l);
    printf("%s %s tp %d pp %d%s on %d node(s): %d of %d tokens compared\n", model, dtype, split.tp, split.pp, split.expert_parallel ? " ep" : "",
           split.n_nodes, n_compared, n_cases * N_TOKENS);
    assert_true(n_compared > n_cases * N_TOKENS / 2);
    return l.info.read_bytes;
}

static void test_dense_splits(void **state) {
    (void)state;
    static const struct split splits[] = {{1, 1, 1}, {2, 1, 1}, {4, 1, 2}, {1, 2, 2}, {1, 3, 1, false, {1, 3, 2}}, {2, 2, 2}, {2, 2, 4}};
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++)
        check_split("tiny-qwen3", splits[i], i % 2 == 0 ? "float32" : "auto");
}

static void test_mixture_splits(void **state) {
    (void)state;
    static const struct split splits[] = {{1, 1, 1}, {2, 1, 2}, {4, 1, 1, true}, {2, 2, 2, true}, {1, 3, 3}, {8, 2, 2, true}};
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++)
        check_split("tiny-qwen3-moe", splits[i], "float32");
}

/* A second start takes the packed shards and reads nothing of the model; another split's are not taken. */
static void test_weights_cache(void **state) {
    (void)state;
    char folder[] = "/tmp/shoal-test-splits.XXXXXX", command[64];
    assert_non_null(mkdtemp(folder));
    struct split split = {2, 2, 2, true, .weights_cache = folder}, other = {4, 1, 1, true, .weights_cache = folder};
    const struct split starts[] = {split, split, other, split, other};
    const bool reads[] = {true, false, true, false, false};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        uint64_t read_bytes = check_split("tiny-qwen3-moe", starts[i], "float32");
        assert_int_equal(read_bytes > 0, reads[i]);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* The same seed gives the same tokens alone and in company, and prompt log-probabilities are told for every position. */
static void test_sampled_tokens_do_not_depend_on_company(void **state) {
    (void)state;
    static struct golden cases[MAX_CASES];
    enum { N_SAMPLED = N_TOKENS < 32 ? N_TOKENS : 32 };
    int32_t alone[N_SAMPLED], together[N_SAMPLED];
    struct launch l;
    golden_load("tiny-qwen3", cases);
    launch_start(&l, "tiny-qwen3", (struct split){2, 1, 1}, "float32");
    struct exec_sampling sampled = greedy_sampling(N_SAMPLED), other = greedy_sampling(N_TOKENS);
    sampled.temperature = 0.9f;
    sampled.top_p = 0.95f;
    sampled.seed = 7;
    struct engine_stream *stream = submit(&l, cases[1].prompt, cases[1].n_prompt, &sampled);
    assert_int_equal(read_tokens(stream, alone, N_SAMPLED), N_SAMPLED);
    engine_stream_close(stream);
    struct engine_stream *others[3];
    for (int i = 0; i < 3; i++)
        others[i] = submit(&l, cases[2 + i].prompt, cases[2 + i].n_prompt, &other);
    stream = submit(&l, cases[1].prompt, cases[1].n_prompt, &sampled);
    assert_int_equal(read_tokens(stream, together, N_SAMPLED), N_SAMPLED);
    engine_stream_close(stream);
    for (int i = 0; i < 3; i++)
        engine_stream_close(others[i]);
    assert_memory_equal(alone, together, sizeof alone);
    launch_stop(&l);
}

/* A driver that vanishes: the workers leave by themselves. */
static void test_workers_leave_when_the_driver_goes(void **state) {
    (void)state;
    struct launch l;
    launch_start(&l, "tiny-qwen3", (struct split){2, 2, 2}, "float32");
    for (int node = 0; node < 2; node++)
        shutdown(l.driver_fds[node], SHUT_RDWR);
    for (int node = 0; node < 2; node++) {
        pthread_join(l.threads[node], NULL);
        assert_int_equal(l.worker_results[node], -1);
    }
    engine_destroy(l.engine);
    exec_driver_stop(l.driver);
    for (int node = 0; node < 2; node++) {
        close(l.driver_fds[node]);
        close(l.worker_fds[node]);
    }
}

int main(void) {
    log_setup(LOG_ERROR, "test");
    kernels_setup(kernels_isa_detect());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_splits),
        cmocka_unit_test(test_mixture_splits),
        cmocka_unit_test(test_weights_cache),
        cmocka_unit_test(test_sampled_tokens_do_not_depend_on_company),
        cmocka_unit_test(test_workers_leave_when_the_driver_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
