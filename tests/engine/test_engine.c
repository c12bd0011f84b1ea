/*
 * engine: requests to events over a fake executor (this file defines exec_driver_submit and exec_driver_next), whose token at index i of a
 * sequence is i % 97. Several client threads, cancelling, failing, stopping.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/run.h"

enum { MAX_STEPS = 8, MAX_SEQS = 8, MAX_TOKENS = 64, EOS = 96 };

struct fake_step {
    uint64_t number;
    int64_t sent_ns;
    int n;
    struct {
        int index;
        bool samples, wants_prompt;
        int position, n_tokens;
        int32_t tokens[MAX_TOKENS];
    } entries[MAX_SEQS];
};

/* Engine thread only, but for the flags. */
static struct fake_step fake_steps[MAX_STEPS];
static int fake_n;
static atomic_int fake_fails, fake_delay_us;
static atomic_int fake_is_held; /* no results meanwhile */
static atomic_int fake_n_held;  /* steps under way when the engine waits for what is held */
static atomic_int fake_n_followed; /* steps that had another behind them when they were done */
static int64_t fake_done_ns;
static atomic_ullong fake_fresh_step[10]; /* by seed: the step that a request with that seed was fresh in */
static bool fake_slot_wants_prompt[MAX_SEQS];

int exec_driver_submit(struct exec_driver *driver, const struct exec_step *step, struct err *err) {
    (void)driver;
    (void)err;
    struct fake_step *fake = &fake_steps[fake_n++];
    *fake = (struct fake_step){.number = step->number, .sent_ns = clock_mono_ns(), .n = step->n_entries};
    for (int i = 0; i < step->n_entries; i++) {
        const struct exec_entry *e = &step->entries[i];
        if (e->fresh) {
            fake_slot_wants_prompt[e->slot] = e->sampling->n_prompt_logprobs >= 0;
            atomic_store(&fake_fresh_step[e->sampling->seed % 10], step->number);
        }
        fake->entries[i].index = e->position + e->n_tokens;
        fake->entries[i].samples = e->samples;
        fake->entries[i].wants_prompt = fake_slot_wants_prompt[e->slot];
        fake->entries[i].position = e->position;
        fake->entries[i].n_tokens = e->n_tokens;
        memcpy(fake->entries[i].tokens, e->tokens, (size_t)e->n_tokens * sizeof e->tokens[0]);
    }
    return 0;
}

int exec_driver_next(struct exec_driver *driver, int wake_fd, int timeout_ms, struct exec_result *ret, struct err *err) {
    (void)driver;
    if (atomic_load(&fake_fails))
        return err_set(err, ERR_PEER, "node 1 burns");
    if (fake_n == 0 || atomic_load(&fake_is_held)) {
        struct pollfd fd = {.fd = wake_fd, .events = POLLIN};
        atomic_store(&fake_n_held, fake_n);
        poll(&fd, 1, fake_n == 0 ? timeout_ms : 1);
        return 0;
    }
    /* The oldest step began when it came, or when the one before was done. */
    int64_t begin_ns = fake_steps[0].sent_ns > fake_done_ns ? fake_steps[0].sent_ns : fake_done_ns;
    int64_t left_ns = begin_ns + atomic_load(&fake_delay_us) * INT64_C(1000) - clock_mono_ns();
    if (left_ns > 0) {
        struct pollfd fd = {.fd = wake_fd, .events = POLLIN};
        int left_ms = (int)(left_ns / 1000000) + 1;
        if (poll(&fd, 1, left_ms < timeout_ms ? left_ms : timeout_ms) > 0 || timeout_ms < left_ms)
            return 0;
    }
    fake_done_ns = clock_mono_ns();
    atomic_fetch_add(&fake_n_followed, fake_n > 1);
    struct fake_step step = fake_steps[0];
    memmove(fake_steps, fake_steps + 1, (size_t)--fake_n * sizeof fake_steps[0]);
    *ret = (struct exec_result){.number = step.number, .tokens = calloc(MAX_SEQS * MAX_TOKENS, sizeof *ret->tokens)};
    for (int i = 0; i < step.n; i++) {
        for (int t = 1; step.entries[i].wants_prompt && t < step.entries[i].n_tokens; t++)
            ret->tokens[ret->n_tokens++] = (struct exec_token){.entry = i, .index = step.entries[i].position + t, .token = step.entries[i].tokens[t], .is_prompt = true, .has_logprobs = true};
        if (step.entries[i].samples)
            ret->tokens[ret->n_tokens++] = (struct exec_token){.entry = i, .index = step.entries[i].index, .token = step.entries[i].index % 97};
    }
    return 1;
}

static enum sched_policy start_policy;

static struct engine *start(int n_blocks, int n_stages, int max_active) {
    struct engine *engine;
    struct err err;
    static const int32_t eos[] = {EOS};
    struct engine_opts opts = {
        .sched = {.max_seqs = MAX_SEQS, .max_step_tokens = 32, .max_model_len = 200, .block_size = 4, .n_blocks = n_blocks, .n_stages = n_stages,
                  .max_awaited = n_stages == 1 ? 2 : 1, .prefix_caching = true, .policy = start_policy},
        .max_active = max_active,
        .eos = eos,
        .n_eos = 1,
    };
    fake_n = 0;
    atomic_store(&fake_fails, 0);
    atomic_store(&fake_delay_us, 0);
    atomic_store(&fake_is_held, 0);
    atomic_store(&fake_n_held, 0);
    atomic_store(&fake_n_followed, 0);
    assert_int_equal(engine_create(&opts, &engine, &err), 0);
    return engine;
}

static struct exec_sampling plain(int max_tokens) {
    return (struct exec_sampling){.top_p = 1, .repetition_penalty = 1, .max_tokens = max_tokens, .n_logprobs = -1, .n_prompt_logprobs = -1};
}

/* Reads all events of a one-choice stream; returns the number of tokens, checks their order. */
static int read_all(struct engine_stream *stream, int n_prompt, struct engine_event *ret_finish) {
    struct engine_event event;
    struct err err;
    int n = 0, status;
    while ((status = engine_stream_next(stream, 10000, &event, &err)) == 1) {
        if (event.type == ENGINE_EVENT_TOKEN)
            assert_int_equal(event.token, (n_prompt + n++) % 97);
        else if (event.type == ENGINE_EVENT_FINISH)
            *ret_finish = event;
    }
    assert_int_equal(status, -1);
    return n;
}

static void test_length_and_stop(void **state) {
    (void)state;
    struct engine *engine = start(100, 1, 0);
    struct engine_stream *stream;
    struct err err;
    int32_t prompt[60] = {0};
    struct exec_sampling sampling = plain(20);
    struct engine_event finish;
    struct engine_request request = {.prompt = prompt, .n_prompt = 50, .n_choices = 1, .sampling = &sampling};
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    assert_int_equal(read_all(stream, 50, &finish), 20);
    assert_int_equal(finish.finish, ENGINE_FINISH_LENGTH);
    engine_stream_close(stream);
    sampling = plain(100);
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    assert_int_equal(read_all(stream, 50, &finish), EOS - 50);
    assert_int_equal(finish.finish, ENGINE_FINISH_STOP);
    assert_true(finish.stop_is_eos && finish.stop_token == EOS);
    engine_stream_close(stream);
    sampling.ignore_eos = true;
    sampling.stop_ids[0] = 2;
    sampling.n_stop_ids = 1;
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    assert_int_equal(read_all(stream, 50, &finish), 97 + 2 - 50);
    assert_true(!finish.stop_is_eos && finish.stop_token == 2);
    engine_stream_close(stream);
    engine_destroy(engine);
}

static void test_prompt_logprobs_come_once(void **state) {
    (void)state;
    struct engine *engine = start(100, 1, 0);
    struct engine_stream *stream;
    struct engine_event event;
    struct err err;
    int32_t prompt[10] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    struct exec_sampling sampling = plain(0);
    sampling.n_prompt_logprobs = 2;
    struct engine_request request = {.prompt = prompt, .n_prompt = 10, .n_choices = 1, .sampling = &sampling};
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    for (int i = 1; i < 10; i++) {
        assert_int_equal(engine_stream_next(stream, 10000, &event, &err), 1);
        assert_int_equal(event.type, ENGINE_EVENT_PROMPT);
        assert_int_equal(event.index, i);
        assert_int_equal(event.token, prompt[i]);
    }
    assert_int_equal(engine_stream_next(stream, 10000, &event, &err), 1);
    assert_int_equal(event.type, ENGINE_EVENT_FINISH);
    assert_int_equal(event.finish, ENGINE_FINISH_LENGTH);
    engine_stream_close(stream);
    engine_destroy(engine);
}

struct client {
    struct engine *engine;
    unsigned seed;
};

static void *client_main(void *arg) {
    struct client *client = arg;
    struct err err;
    int32_t prompt[40] = {0};
    for (int round = 0; round < 100; round++) {
        struct engine_stream *stream;
        struct engine_event event;
        int n_prompt = 1 + (int)(rand_r(&client->seed) % 40);
        struct exec_sampling sampling = plain(1 + (int)(rand_r(&client->seed) % 40));
        struct engine_request requests[2] = {{.prompt = prompt, .n_prompt = n_prompt, .n_choices = 2, .sampling = &sampling},
                                             {.prompt = prompt, .n_prompt = 3, .n_choices = 1, .sampling = &sampling}};
        assert_int_equal(engine_submit(client->engine, requests, 2, &stream, &err), 0);
        int leaves_after = rand_r(&client->seed) % 3 == 0 ? (int)(rand_r(&client->seed) % 20) : 1 << 20;
        int status = 1;
        for (int i = 0; i < leaves_after && status >= 0; i++) {
            status = engine_stream_next(stream, 5000, &event, &err);
            assert_true(status != 0);
            if (i == 5)
                engine_stream_cancel(stream, 0, 1);
        }
        engine_stream_close(stream);
    }
    return NULL;
}

static void test_many_clients_with_preemption(void **state) {
    (void)state;
    struct engine *engine = start(50, 2, 0); /* blocks for one longest sequence: there will be preemptions */
    pthread_t threads[6];
    struct client clients[6];
    for (int i = 0; i < 6; i++) {
        clients[i] = (struct client){engine, (unsigned)i + 1};
        pthread_create(&threads[i], NULL, client_main, &clients[i]);
    }
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 500 && engine_n_active(engine) > 0; i++) {
        struct timespec nap = {.tv_nsec = 10000000};
        nanosleep(&nap, NULL);
    }
    struct engine_stats stats;
    engine_stats_read(engine, &stats);
    assert_int_equal(engine_n_active(engine), 0);
    assert_true(stats.preemptions > 0);
    assert_int_equal(stats.finished[0] + stats.finished[1] + stats.finished[2], 6 * 100 * 3);
    engine_destroy(engine);
}

static void test_failure_reaches_all_at_once(void **state) {
    (void)state;
    struct engine *engine = start(100, 1, 0);
    struct engine_stream *stream;
    struct engine_event event;
    struct err err;
    int32_t prompt[4] = {0};
    struct exec_sampling sampling = plain(100);
    struct engine_request request = {.prompt = prompt, .n_prompt = 4, .n_choices = 1, .sampling = &sampling};
    atomic_store(&fake_delay_us, 2000);
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    assert_int_equal(engine_stream_next(stream, 5000, &event, &err), 1);
    assert_null(engine_failure(engine));
    atomic_store(&fake_fails, 1);
    int status;
    while ((status = engine_stream_next(stream, 5000, &event, &err)) == 1)
        ;
    assert_int_equal(status, -2);
    assert_string_equal(err.msg, "node 1 burns");
    assert_string_equal(engine_failure(engine), "node 1 burns");
    engine_stream_close(stream);
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), -1);
    assert_string_equal(err.msg, "node 1 burns");
    engine_destroy(engine);
}

static void test_refusals(void **state) {
    (void)state;
    struct engine *engine = start(10, 1, 3);
    struct engine_stream *stream, *others[3];
    struct err err;
    int32_t prompt[4] = {0};
    struct exec_sampling sampling = plain(100);
    struct engine_request request = {.prompt = prompt, .n_prompt = 4, .n_choices = 1, .sampling = &sampling};
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_string_equal(err.msg, "4 tokens of prompt and 100 of output do not fit: the context is 200 tokens, the KV cache 40");
    sampling = plain(30);
    request.n_choices = 4;
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    request.n_choices = 1;
    for (int i = 0; i < 3; i++)
        assert_int_equal(engine_submit(engine, &request, 1, &others[i], &err), 0);
    for (int i = 0; i < 3; i++)
        engine_stream_close(others[i]);
    engine_destroy(engine);
}

static void wait_for(const atomic_int *value, int wanted) {
    for (int i = 0; i < 20000 && atomic_load(value) != wanted; i++) {
        struct timespec nap = {.tv_nsec = 1000000};
        nanosleep(&nap, NULL);
    }
    assert_int_equal(atomic_load(value), wanted);
}

/* A client leaves while two steps are under way: the step after them has the one that waited for its blocks. */
static void test_blocks_of_who_leaves_are_free_for_the_next_step(void **state) {
    (void)state;
    struct engine *engine = start(40, 1, 0);
    struct engine_stream *leaver, *other;
    struct engine_event finish;
    struct err err;
    int32_t prompt[100] = {0};
    struct exec_sampling sampling = plain(50);
    struct engine_request request = {.prompt = prompt, .n_prompt = 100, .n_choices = 1, .sampling = &sampling};
    sampling.ignore_eos = true;
    sampling.seed = 1;
    atomic_store(&fake_is_held, 1);
    assert_int_equal(engine_submit(engine, &request, 1, &leaver, &err), 0);
    wait_for(&fake_n_held, 2); /* with 64 tokens of the 160 that there is room for */
    prompt[0] = 1; /* nothing to share */
    sampling.seed = 2;
    atomic_store(&fake_fresh_step[2], 0);
    assert_int_equal(engine_submit(engine, &request, 1, &other, &err), 0);
    engine_stream_close(leaver);
    struct engine_stats stats;
    do
        engine_stats_read(engine, &stats);
    while (stats.n_running > 0 || stats.n_waiting == 0); /* the blocks are free before any result came */
    assert_true(stats.kv_usage == 0);
    uint64_t last = stats.steps;
    atomic_store(&fake_is_held, 0);
    assert_int_equal(read_all(other, 100, &finish), 50);
    assert_int_equal(atomic_load(&fake_fresh_step[2]), last + 1);
    engine_stream_close(other);
    engine_destroy(engine);
}

/* Three that cannot run together: the most urgent goes before the one that came earlier. */
static void test_priority(void **state) {
    (void)state;
    start_policy = SCHED_PRIORITY;
    struct engine *engine = start(40, 1, 0);
    start_policy = SCHED_FCFS;
    struct engine_stream *streams[3];
    struct engine_event finish;
    struct err err;
    int32_t prompt[100] = {0};
    struct exec_sampling sampling = plain(5);
    struct engine_request request = {.prompt = prompt, .n_prompt = 100, .n_choices = 1, .sampling = &sampling};
    static const int priorities[] = {7, 5, -1};
    atomic_store(&fake_is_held, 1);
    for (int i = 0; i < 3; i++) {
        prompt[0] = i; /* nothing to share */
        sampling.seed = (uint64_t)i;
        request.priority = priorities[i];
        assert_int_equal(engine_submit(engine, &request, 1, &streams[i], &err), 0);
        wait_for(&fake_n_held, 2); /* the first has begun before the others come */
    }
    atomic_store(&fake_is_held, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_all(streams[i], 100, &finish), 5);
        engine_stream_close(streams[i]);
    }
    assert_true(atomic_load(&fake_fresh_step[2]) < atomic_load(&fake_fresh_step[1]));
    engine_destroy(engine);
}

/* A batch for each stage is under way before the first result comes; with one stage, a step behind the one that is computed. */
static void test_stages_are_kept_busy(void **state) {
    (void)state;
    for (int n_stages = 1; n_stages <= 5; n_stages++) {
        struct engine *engine = start(100, n_stages, 0);
        struct engine_stream *stream;
        struct engine_event event;
        struct err err;
        int32_t prompt[3] = {0};
        struct exec_sampling sampling = plain(10);
        struct engine_request request = {.prompt = prompt, .n_prompt = 3, .n_choices = MAX_SEQS, .sampling = &sampling};
        atomic_store(&fake_is_held, 1);
        assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
        wait_for(&fake_n_held, n_stages == 1 ? 2 : n_stages);
        atomic_store(&fake_is_held, 0);
        while (engine_stream_next(stream, 10000, &event, &err) == 1)
            ;
        engine_stream_close(stream);
        engine_destroy(engine);
    }
}

/* Also when steps take so long that the one behind is planned late. */
static void test_long_steps_follow_each_other(void **state) {
    (void)state;
    struct engine *engine = start(100, 1, 0);
    struct engine_event finish;
    struct err err;
    struct engine_stream *stream;
    int32_t prompt[3] = {0};
    struct exec_sampling sampling = plain(12);
    struct engine_request request = {.prompt = prompt, .n_prompt = 3, .n_choices = 1, .sampling = &sampling};
    atomic_store(&fake_delay_us, 150000);
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    assert_int_equal(read_all(stream, 3, &finish), 12);
    assert_true(atomic_load(&fake_n_followed) >= 5); /* eleven, unless this machine is very busy */
    engine_stream_close(stream);
    engine_destroy(engine);
}

static void test_a_reader_that_never_reads_holds_nobody_up(void **state) {
    (void)state;
    struct engine *engine = start(400, 1, 0);
    struct engine_stream *silent, *other;
    struct engine_event finish;
    struct err err;
    int32_t prompt[5] = {0};
    struct exec_sampling sampling = plain(190);
    sampling.ignore_eos = true;
    struct engine_request request = {.prompt = prompt, .n_prompt = 5, .n_choices = 20, .sampling = &sampling};
    assert_int_equal(engine_submit(engine, &request, 1, &silent, &err), 0); /* 20 · 190 tokens that nobody takes */
    request.n_choices = 1;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(engine_submit(engine, &request, 1, &other, &err), 0);
        assert_int_equal(read_all(other, 5, &finish), 190);
        engine_stream_close(other);
    }
    assert_int_equal(engine_n_active(engine), 0); /* first come, first served: the silent one's are all done */
    struct engine_event event;
    int n = 0;
    while (engine_stream_next(silent, 1000, &event, &err) == 1)
        n++;
    assert_int_equal(n, 20 * 191);
    engine_stream_close(silent);
    engine_destroy(engine);
}

static int cached_of(struct engine *engine, const int32_t *prompt, int n_choices, const char *salt, bool wants_prompt) {
    struct engine_stream *stream;
    struct engine_event event;
    struct err err;
    struct exec_sampling sampling = plain(3);
    if (wants_prompt)
        sampling.n_prompt_logprobs = 0;
    struct engine_request request = {.prompt = prompt, .n_prompt = 50, .n_choices = n_choices, .cache_salt = salt, .sampling = &sampling};
    assert_int_equal(engine_submit(engine, &request, 1, &stream, &err), 0);
    int status, n_cached = 0;
    while ((status = engine_stream_next(stream, 10000, &event, &err)) == 1) {
        assert_true(event.started_ns > 0);
        if (event.type == ENGINE_EVENT_FINISH)
            n_cached += event.n_cached;
    }
    assert_int_equal(status, -1);
    engine_stream_close(stream);
    return n_cached;
}

static void test_prompts_are_cached_and_counted(void **state) {
    (void)state;
    struct engine *engine = start(100, 1, 0);
    struct engine_stats stats;
    int32_t prompt[50] = {3};
    assert_int_equal(cached_of(engine, prompt, 1, NULL, false), 0);
    assert_int_equal(cached_of(engine, prompt, 1, NULL, false), 48);
    assert_int_equal(cached_of(engine, prompt, 1, "mine", false), 0);
    assert_int_equal(cached_of(engine, prompt, 1, "mine", false), 48);
    assert_int_equal(cached_of(engine, prompt, 1, NULL, true), 0); /* whose log-probabilities are wanted, must be computed */
    prompt[0]++;
    assert_int_equal(cached_of(engine, prompt, 3, NULL, false), 2 * 48); /* the second and third continuation share the first's */
    engine_stats_read(engine, &stats);
    assert_int_equal(stats.prompt_tokens, 8 * 50);
    assert_int_equal(stats.generation_tokens, 8 * 3);
    assert_int_equal(stats.prefix_queries, 7 * 50);
    assert_int_equal(stats.prefix_hits, 4 * 48);
    uint64_t n_steps = 0;
    for (int i = 0; i <= ENGINE_N_STEP_BOUNDS; i++)
        n_steps += stats.step_tokens_counts[i];
    assert_int_equal(n_steps, stats.steps);
    assert_true(stats.step_tokens >= 8 * 50 - 4 * 48 && stats.step_seconds_sum > 0 && stats.driver_seconds_sum > 0);
    engine_destroy(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_length_and_stop),          cmocka_unit_test(test_prompt_logprobs_come_once),
        cmocka_unit_test(test_many_clients_with_preemption), cmocka_unit_test(test_failure_reaches_all_at_once),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_blocks_of_who_leaves_are_free_for_the_next_step),
        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_stages_are_kept_busy),
        cmocka_unit_test(test_long_steps_follow_each_other),
        cmocka_unit_test(test_a_reader_that_never_reads_holds_nobody_up),
        cmocka_unit_test(test_prompts_are_cached_and_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
