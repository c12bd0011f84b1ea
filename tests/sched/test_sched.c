/* sched: the cases that readers of sched.h would ask about. Properties over random steps are in test_sched_random.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sched/block_pool.h"
#include "sched/sched.h"

static struct sched *make(int max_seqs, int budget, int n_blocks, int n_stages) {
    struct sched *sched;
    struct err err;
    struct sched_opts opts = {.max_seqs = max_seqs,
                              .max_step_tokens = budget,
                              .max_model_len = 64,
                              .block_size = 4,
                              .n_blocks = n_blocks,
                              .n_stages = n_stages,
                              .max_awaited = 1,
                              .prefix_caching = true};
    assert_int_equal(sched_create(&opts, &sched, &err), 0);
    return sched;
}

static struct sched_seq *add_request(struct sched *sched, struct sched_request request) {
    struct sched_seq *seq;
    struct err err;
    assert_int_equal(sched_seq_add(sched, &request, &seq, &err), 0);
    return seq;
}

/* A prompt that no other has: nothing is shared. */
static struct sched_seq *add(struct sched *sched, int n_prompt, int max_tokens) {
    static int32_t n_added;
    int32_t prompt[64] = {++n_added};
    return add_request(sched, (struct sched_request){.prompt = prompt, .n_prompt = n_prompt, .max_tokens = max_tokens});
}

static void test_prompt_goes_in_chunks_behind_decode(void **state) {
    (void)state;
    struct sched *sched = make(4, 10, 16, 1);
    struct sched_plan plan;
    struct sched_seq *a = add(sched, 4, 8), *b = add(sched, 14, 20);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.n_entries, 2);
    assert_int_equal(plan.entries[1].n_tokens, 6);
    assert_false(plan.entries[1].samples);
    sched_seq_append(sched, a, 1);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_ptr_equal(plan.entries[0].seq, a); /* decode first */
    assert_int_equal(plan.entries[0].n_tokens, 1);
    assert_ptr_equal(plan.entries[1].seq, b);
    assert_int_equal(plan.entries[1].position, 6);
    assert_int_equal(plan.entries[1].n_tokens, 8);
    assert_true(plan.entries[1].samples);
    assert_false(sched_plan_next(sched, 1, &plan)); /* both wait for their samples */
    sched_destroy(sched);
}

/* Prompt tokens of the step after n_decoding sequences have their first token and prompts of 60 tokens have come. */
static int mixed_with(int n_decoding, int n_newcomers) {
    struct sched_opts opts = {.max_seqs = 32,
                              .max_step_tokens = 200,
                              .max_mixed_tokens = SCHED_MIXED_AUTO,
                              .max_model_len = 64,
                              .block_size = 4,
                              .n_blocks = 200,
                              .n_stages = 1,
                              .max_awaited = 1};
    struct sched *sched;
    struct sched_plan plan;
    struct err err;
    struct sched_seq *seqs[32];
    assert_int_equal(sched_create(&opts, &sched, &err), 0);
    for (int i = 0; i < n_decoding; i++)
        seqs[i] = add(sched, 4, 20);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.n_tokens, 4 * n_decoding); /* nobody waits for these */
    for (int i = 0; i < n_decoding; i++)
        sched_seq_append(sched, seqs[i], 1);
    for (int i = 0; i < n_newcomers; i++)
        add(sched, 60, 62);
    assert_true(sched_plan_next(sched, 1, &plan));
    int n_mixed = plan.n_tokens - n_decoding;
    sched_destroy(sched);
    return n_mixed;
}

static void test_prompt_beside_few_goes_in_small_chunks(void **state) {
    (void)state;
    assert_int_equal(mixed_with(1, 1), 16);
    assert_int_equal(mixed_with(8, 1), 16);
    assert_int_equal(mixed_with(11, 1), 22);
    assert_int_equal(mixed_with(20, 12), 32);
}

static void test_step_is_made_for_newcomers_where_they_prevail(void **state) {
    (void)state;
    assert_int_equal(mixed_with(2, 3), 180);
    assert_int_equal(mixed_with(3, 3), 16);
    assert_int_equal(mixed_with(3, 8), 197); /* the budget is 200 */
    assert_int_equal(mixed_with(17, 18), 32); /* there are slots for 15 of the 18 */
}

static void test_latest_gives_way_and_is_recomputed(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 4, 1);
    struct sched_plan plan;
    struct sched_seq *a = add(sched, 7, 16), *b = add(sched, 8, 16);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.n_entries, 2);
    sched_seq_append(sched, a, 1);
    sched_seq_append(sched, b, 1);
    assert_true(sched_plan_next(sched, 1, &plan)); /* a still fits its blocks, b needs a third and there is none */
    assert_int_equal(plan.n_entries, 1);
    assert_ptr_equal(plan.entries[0].seq, a);
    assert_int_equal(b->state, SCHED_WAITING);
    assert_int_equal(b->n_tokens, 9); /* nothing is lost */
    assert_int_equal(sched_n_preemptions(sched), 1);
    sched_seq_end(sched, a);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_ptr_equal(plan.entries[0].seq, b);
    assert_true(plan.entries[0].fresh);
    assert_int_equal(plan.entries[0].position + plan.entries[0].n_tokens, 9);
    sched_seq_free(sched, a);
    sched_destroy(sched);
}

static void test_stages_share_ready_sequences(void **state) {
    (void)state;
    struct sched *sched = make(8, 64, 64, 2);
    struct sched_plan plan;
    for (int i = 0; i < 6; i++)
        add(sched, 2, 8);
    assert_true(sched_plan_next(sched, 2, &plan));
    assert_int_equal(plan.n_entries, 3);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.n_entries, 3);
    sched_destroy(sched);
    /* Five over four stages: everyone has work. */
    sched = make(8, 64, 64, 4);
    for (int i = 0; i < 5; i++)
        add(sched, 2, 8);
    for (int n_open = 4; n_open > 0; n_open--) {
        assert_true(sched_plan_next(sched, n_open, &plan));
        assert_int_equal(plan.n_entries, n_open == 4 ? 2 : 1);
    }
    sched_destroy(sched);
}

static void test_what_can_never_fit_is_refused_with_numbers(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 8, 1);
    int32_t prompt[64] = {0};
    struct sched_seq *seq;
    struct err err;
    struct sched_request request = {.prompt = prompt, .n_prompt = 10, .max_tokens = 33};
    assert_int_equal(sched_seq_add(sched, &request, &seq, &err), -1);
    assert_string_equal(err.msg, "prompt and output may grow to 33 tokens; the whole KV cache holds 32");
    request.max_tokens = 65;
    assert_int_equal(sched_seq_add(sched, &request, &seq, &err), -1);
    request = (struct sched_request){.prompt = prompt, .n_prompt = 0, .max_tokens = 5};
    assert_int_equal(sched_seq_add(sched, &request, &seq, &err), -1);
    sched_destroy(sched);
}

static void test_runs_one_step_ahead_of_the_sample(void **state) {
    (void)state;
    struct sched_opts opts = {
        .max_seqs = 4, .max_step_tokens = 64, .max_model_len = 64, .block_size = 4, .n_blocks = 16, .n_stages = 1, .max_awaited = 2};
    struct sched *sched;
    struct sched_plan plan;
    struct err err;
    assert_int_equal(sched_create(&opts, &sched, &err), 0);
    struct sched_seq *a = add(sched, 4, 7);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.entries[0].position, 4);
    assert_int_equal(a->tokens[4], SCHED_UNKNOWN);
    assert_false(sched_plan_next(sched, 1, &plan)); /* two samples are under way */
    sched_seq_append(sched, a, 11);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.entries[0].position, 5);
    sched_seq_append(sched, a, 12);
    assert_false(sched_plan_next(sched, 1, &plan)); /* the sample under way is the last that there is room for */
    sched_seq_append(sched, a, 13);
    assert_int_equal(a->tokens[4], 11);
    assert_int_equal(a->tokens[6], 13);
    struct sched_seq *b = add(sched, 4, 20);
    sched_seq_end(sched, a);
    assert_true(sched_seq_idle(a));
    sched_seq_free(sched, a);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_true(sched_plan_next(sched, 1, &plan));
    sched_seq_append(sched, b, 1);
    sched_seq_end(sched, b); /* that was a stop token: what ran ahead of it is dropped */
    assert_false(sched_seq_idle(b));
    sched_seq_append(sched, b, 2);
    assert_int_equal(b->n_tokens, 5);
    assert_true(sched_seq_idle(b));
    assert_int_equal(sched_n_free_blocks(sched), 16);
    sched_seq_free(sched, b);
    sched_destroy(sched);
}

static int cached_of(struct sched *sched, struct sched_request request) {
    struct sched_plan plan;
    struct sched_seq *seq = add_request(sched, request);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.entries[0].position, seq->n_cached);
    int n_cached = seq->n_cached;
    sched_seq_append(sched, seq, 1);
    sched_seq_free(sched, seq);
    return n_cached;
}

static void test_prefixes_are_found_again(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 16, 1);
    int32_t prompt[24];
    uint64_t queries, hits;
    for (int i = 0; i < 24; i++)
        prompt[i] = i;
    struct sched_request request = {.prompt = prompt, .n_prompt = 16, .max_tokens = 30};
    assert_int_equal(cached_of(sched, request), 0);
    assert_int_equal(cached_of(sched, request), 12); /* one token at least is computed */
    request.n_prompt = 24;
    assert_int_equal(cached_of(sched, request), 16);
    prompt[9]++;
    assert_int_equal(cached_of(sched, request), 8);
    prompt[0]++; /* the same blocks behind another beginning are others */
    assert_int_equal(cached_of(sched, request), 0);
    request.root = sched_blocks_root("a", 1);
    assert_int_equal(cached_of(sched, request), 0);
    assert_int_equal(cached_of(sched, request), 20);
    request.root = sched_blocks_root("b", 1);
    assert_int_equal(cached_of(sched, request), 0);
    request.skips_cache = true;
    assert_int_equal(cached_of(sched, request), 0);
    request.skips_cache = false;
    sched_cache_counts(sched, &queries, &hits);
    assert_int_equal(queries, 16 + 16 + 24 * 6);
    assert_int_equal(hits, 12 + 16 + 8 + 20);
    assert_true(sched_cache_reset(sched));
    assert_int_equal(cached_of(sched, request), 0);
    sched_destroy(sched);
}

/* n continuations of one prompt, planned in one step: the first computes it, the others share its blocks. */
static void test_continuations_share_their_prompt(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 16, 1);
    struct sched_plan plan;
    int32_t prompt[18] = {5};
    struct sched_seq *seqs[3];
    for (int i = 0; i < 3; i++)
        seqs[i] = add_request(sched, (struct sched_request){.prompt = prompt, .n_prompt = 18, .max_tokens = 30});
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.n_entries, 3);
    assert_int_equal(plan.n_tokens, 18 + 2 + 2);
    assert_memory_equal(seqs[0]->blocks, seqs[2]->blocks, 4 * sizeof(int32_t));
    assert_int_not_equal(seqs[0]->blocks[4], seqs[2]->blocks[4]);
    assert_int_equal(sched_n_free_blocks(sched), 16 - 4 - 3);
    sched_destroy(sched);
}

/* A preempted sequence finds what is left of its blocks; what others took is computed again. */
static void test_preempted_finds_its_blocks(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 6, 1);
    struct sched_plan plan;
    struct sched_seq *a = add(sched, 12, 24), *b = add(sched, 12, 24);
    assert_true(sched_plan_next(sched, 1, &plan));
    sched_seq_append(sched, a, 1);
    sched_seq_append(sched, b, 1);
    assert_true(sched_plan_next(sched, 1, &plan)); /* a takes the last block of b */
    assert_int_equal(plan.n_entries, 1);
    assert_int_equal(b->state, SCHED_WAITING);
    sched_seq_end(sched, a);
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_ptr_equal(plan.entries[0].seq, b);
    assert_true(plan.entries[0].fresh);
    assert_int_equal(plan.entries[0].position, 8);
    assert_int_equal(plan.entries[0].n_tokens, 5);
    assert_int_equal(b->n_cached, 0); /* of the request, nothing came from the cache */
    sched_seq_append(sched, a, 1);
    sched_seq_free(sched, a);
    sched_destroy(sched);
}

static void test_least_recently_used_goes_first(void **state) {
    (void)state;
    struct sched_blocks *pool;
    struct err err;
    int32_t tokens[3][2] = {{1, 2}, {3, 4}, {5, 6}}, block[3];
    uint64_t id;
    assert_int_equal(sched_blocks_create(3, 2, true, &pool, &err), 0);
    for (int i = 0; i < 3; i++) {
        block[i] = sched_blocks_take(pool);
        sched_blocks_publish(pool, block[i], 0, tokens[i]);
    }
    assert_int_equal(sched_blocks_take(pool), -1); /* what is held is never taken */
    sched_blocks_give(pool, block[1]);
    sched_blocks_give(pool, block[0]);
    sched_blocks_give(pool, block[2]);
    sched_blocks_hold(pool, sched_blocks_find(pool, 0, tokens[1], &id));
    sched_blocks_give(pool, block[1]); /* used again: it is the newest now */
    assert_int_equal(sched_blocks_available(pool), 3);
    assert_int_equal(sched_blocks_take(pool), block[0]);
    assert_int_equal(sched_blocks_find(pool, 0, tokens[0], &id), -1);
    assert_int_equal(sched_blocks_take(pool), block[2]);
    assert_int_equal(sched_blocks_find(pool, 0, tokens[1], &id), block[1]);
    assert_int_equal(sched_blocks_take(pool), block[1]);
    sched_blocks_destroy(pool);
}

static void test_priority_goes_first(void **state) {
    (void)state;
    struct sched_opts opts = {.max_seqs = 2,
                              .max_step_tokens = 8,
                              .max_model_len = 64,
                              .block_size = 4,
                              .n_blocks = 4,
                              .n_stages = 1,
                              .max_awaited = 1,
                              .policy = SCHED_PRIORITY};
    struct sched *sched;
    struct sched_plan plan;
    struct err err;
    int32_t prompt[8] = {0};
    assert_int_equal(sched_create(&opts, &sched, &err), 0);
    struct sched_request request = {.prompt = prompt, .n_prompt = 4, .max_tokens = 16};
    struct sched_seq *seqs[4];
    static const int priorities[] = {5, 1, 1, -3};
    for (int i = 0; i < 4; i++) {
        request.priority = priorities[i];
        seqs[i] = add_request(sched, request);
    }
    assert_true(sched_plan_next(sched, 1, &plan));
    assert_int_equal(plan.n_entries, 2);
    assert_ptr_equal(plan.entries[0].seq, seqs[3]); /* lower values first, then whoever came first */
    assert_ptr_equal(plan.entries[1].seq, seqs[1]);
    for (int step = 0; seqs[1]->state == SCHED_RUNNING && step < 10; step++) {
        sched_seq_append(sched, plan.entries[0].seq, 1);
        sched_seq_append(sched, plan.entries[1].seq, 1);
        assert_true(sched_plan_next(sched, 1, &plan));
    }
    assert_int_equal(seqs[3]->state, SCHED_RUNNING); /* blocks ran out: the less urgent one gave way */
    assert_int_equal(seqs[1]->state, SCHED_WAITING);
    sched_destroy(sched);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_goes_in_chunks_behind_decode),
        cmocka_unit_test(test_prompt_beside_few_goes_in_small_chunks),
        cmocka_unit_test(test_step_is_made_for_newcomers_where_they_prevail),
        cmocka_unit_test(test_latest_gives_way_and_is_recomputed),
        cmocka_unit_test(test_stages_share_ready_sequences),
        cmocka_unit_test(test_what_can_never_fit_is_refused_with_numbers),
        cmocka_unit_test(test_runs_one_step_ahead_of_the_sample),
        cmocka_unit_test(test_prefixes_are_found_again),
        cmocka_unit_test(test_continuations_share_their_prompt),
        cmocka_unit_test(test_preempted_finds_its_blocks),
        cmocka_unit_test(test_least_recently_used_goes_first),
        cmocka_unit_test(test_priority_goes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
