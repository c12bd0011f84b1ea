/*
 * sched: properties over a million random steps (no block leaks or is owned twice, every sequence ends exactly once, none waits for
 * ever, the budget is kept, the same input gives the same plan), and the cases that readers of sched.h would ask about.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/hash.h"
#include "base/rand.h"
#include "sched/sched.h"

enum { MAX_LIVE = 64, MAX_FLIGHTS = 4, N_STEPS = 250000, MAX_WAIT_STEPS = 20000 };

struct live {
    struct sched_seq *seq;
    int wanted; /* tokens in all before it ends */
    uint64_t last_progress;
    bool is_cancelled;
};

struct flight {
    struct sched_seq *sampled[MAX_LIVE];
    int n;
};

struct world {
    struct sched_opts opts;
    struct sched *sched;
    struct live live[MAX_LIVE];
    int n_live;
    struct flight flights[MAX_FLIGHTS];
    int n_flights;
    uint64_t seed, draws, step;
    uint64_t n_added, n_ended;
    uint64_t plan_hash;
};

static uint32_t draw(struct world *w, uint32_t below) { return (uint32_t)(rand_ctr_u64(w->seed, w->draws++) % below); }

static void add_random(struct world *w) {
    int32_t prompt[256];
    struct err err;
    int n_prompt = 1 + (int)draw(w, draw(w, 4) == 0 ? 200 : 20);
    int wanted = n_prompt + 1 + (int)draw(w, 40);
    for (int i = 0; i < n_prompt; i++)
        prompt[i] = i;
    struct live *live = &w->live[w->n_live];
    *live = (struct live){.wanted = wanted, .last_progress = w->step};
    assert_int_equal(sched_seq_add(w->sched, prompt, n_prompt, wanted, (int)draw(w, 3), live, &live->seq, &err), 0);
    w->n_live++;
    w->n_added++;
}

static struct live *find_live(struct world *w, const struct sched_seq *seq) {
    for (int i = 0; i < w->n_live; i++)
        if (w->live[i].seq == seq)
            return &w->live[i];
    return NULL;
}

/* No block has two owners, and every block is free or owned. */
static void check_blocks(struct world *w) {
    uint8_t owned[4096] = {0};
    int n_owned = 0;
    for (int i = 0; i < w->n_live; i++) {
        const struct sched_seq *seq = w->live[i].seq;
        assert_true(seq->n_blocks * w->opts.block_size >= seq->n_scheduled);
        for (int b = 0; b < seq->n_blocks; b++) {
            assert_true(seq->blocks[b] >= 0 && seq->blocks[b] < w->opts.n_blocks);
            assert_int_equal(owned[seq->blocks[b]], 0);
            owned[seq->blocks[b]] = 1;
            n_owned++;
        }
    }
    assert_int_equal(n_owned + sched_n_free_blocks(w->sched), w->opts.n_blocks);
}

static void check_plan(struct world *w, const struct sched_plan *plan) {
    uint8_t slots[MAX_LIVE] = {0};
    int n_tokens = 0;
    assert_true(plan->n_entries <= w->opts.max_seqs);
    for (int i = 0; i < plan->n_entries; i++) {
        const struct sched_entry *e = &plan->entries[i];
        assert_true(e->slot >= 0 && e->slot < w->opts.max_seqs);
        assert_int_equal(slots[e->slot], 0);
        slots[e->slot] = 1;
        assert_true(e->n_tokens > 0 && e->position + e->n_tokens <= e->seq->n_tokens);
        assert_true(e->n_blocks * w->opts.block_size >= e->position + e->n_tokens);
        assert_int_equal(e->samples, e->position + e->n_tokens == e->seq->n_tokens);
        assert_true(!e->fresh || (e->position == 0 && e->first_new_block == 0));
        n_tokens += e->n_tokens;
        uint64_t shape[4] = {w->plan_hash, (uint64_t)e->slot, (uint64_t)e->position, (uint64_t)e->n_tokens};
        w->plan_hash = hash_xxh64(shape, sizeof shape, 0);
    }
    assert_int_equal(n_tokens, plan->n_tokens);
    assert_true(n_tokens <= w->opts.max_step_tokens);
}

static void land(struct world *w) {
    struct flight flight = w->flights[0];
    memmove(w->flights, w->flights + 1, (size_t)(--w->n_flights) * sizeof w->flights[0]);
    for (int i = 0; i < flight.n; i++) {
        struct live *live = find_live(w, flight.sampled[i]);
        assert_non_null(live);
        sched_seq_append(w->sched, live->seq, (int32_t)w->step);
        live->last_progress = w->step;
        if (live->seq->state != SCHED_DONE && live->seq->n_tokens >= live->wanted) {
            sched_seq_end(w->sched, live->seq);
            w->n_ended++;
        }
    }
}

static void reap(struct world *w) {
    for (int i = 0; i < w->n_live; i++) {
        if (!sched_seq_idle(w->live[i].seq)) {
            if (w->live[i].seq->state != SCHED_DONE)
                assert_true(w->step - w->live[i].last_progress < MAX_WAIT_STEPS);
            continue;
        }
        sched_seq_free(w->sched, w->live[i].seq);
        w->live[i--] = w->live[--w->n_live];
    }
}

static void turn(struct world *w, bool adds) {
    struct sched_plan plan;
    if (adds && w->n_live < MAX_LIVE && draw(w, 3) == 0)
        add_random(w);
    if (draw(w, 50) == 0 && w->n_live > 0) {
        struct live *live = &w->live[draw(w, (uint32_t)w->n_live)];
        if (live->seq->state != SCHED_DONE) {
            sched_seq_end(w->sched, live->seq);
            w->n_ended++;
        }
    }
    if (w->n_flights < w->opts.n_stages && sched_plan_next(w->sched, &plan)) {
        struct flight *flight = &w->flights[w->n_flights++];
        check_plan(w, &plan);
        flight->n = 0;
        for (int i = 0; i < plan.n_entries; i++)
            if (plan.entries[i].samples)
                flight->sampled[flight->n++] = plan.entries[i].seq;
    } else {
        assert_true(w->n_flights > 0 || sched_n_running(w->sched) + sched_n_waiting(w->sched) == 0);
    }
    if (w->n_flights > 0 && (w->n_flights == w->opts.n_stages || draw(w, 2) == 0))
        land(w);
    check_blocks(w);
    reap(w);
    w->step++;
}

static uint64_t run_world(const struct sched_opts *opts, uint64_t seed, int n_steps) {
    struct world w = {.opts = *opts, .seed = seed};
    struct err err;
    assert_int_equal(sched_create(opts, &w.sched, &err), 0);
    for (int i = 0; i < n_steps; i++)
        turn(&w, true);
    for (int i = 0; w.n_live > 0; i++) {
        assert_true(i < MAX_WAIT_STEPS);
        turn(&w, false);
    }
    assert_int_equal(w.n_added, w.n_ended);
    assert_int_equal(sched_n_free_blocks(w.sched), opts->n_blocks);
    sched_destroy(w.sched);
    return w.plan_hash;
}

static void test_properties_over_random_steps(void **state) {
    (void)state;
    static const struct sched_opts worlds[] = {
        {.max_seqs = 8, .max_step_tokens = 64, .max_model_len = 300, .block_size = 16, .n_blocks = 40, .n_stages = 1},
        {.max_seqs = 32, .max_step_tokens = 32, .max_model_len = 300, .block_size = 4, .n_blocks = 100, .n_stages = 2},
        {.max_seqs = 16, .max_step_tokens = 512, .max_model_len = 300, .block_size = 16, .n_blocks = 4000, .n_stages = 4},
        {.max_seqs = 5, .max_step_tokens = 7, .max_model_len = 300, .block_size = 1, .n_blocks = 300, .n_stages = 3, .policy = SCHED_PRIORITY},
    };
    for (size_t i = 0; i < sizeof worlds / sizeof worlds[0]; i++)
        run_world(&worlds[i], 1000 + i, N_STEPS);
    assert_true(run_world(&worlds[1], 7, 5000) == run_world(&worlds[1], 7, 5000));
}

static struct sched *make(int max_seqs, int budget, int n_blocks, int n_stages) {
    struct sched *sched;
    struct err err;
    struct sched_opts opts = {
        .max_seqs = max_seqs, .max_step_tokens = budget, .max_model_len = 64, .block_size = 4, .n_blocks = n_blocks, .n_stages = n_stages};
    assert_int_equal(sched_create(&opts, &sched, &err), 0);
    return sched;
}

static struct sched_seq *add(struct sched *sched, int n_prompt, int max_tokens) {
    int32_t prompt[64] = {0};
    struct sched_seq *seq;
    struct err err;
    assert_int_equal(sched_seq_add(sched, prompt, n_prompt, max_tokens, 0, NULL, &seq, &err), 0);
    return seq;
}

static void test_prompt_goes_in_chunks_behind_decode(void **state) {
    (void)state;
    struct sched *sched = make(4, 10, 16, 1);
    struct sched_plan plan;
    struct sched_seq *a = add(sched, 4, 8), *b = add(sched, 14, 20);
    assert_true(sched_plan_next(sched, &plan));
    assert_int_equal(plan.n_entries, 2);
    assert_int_equal(plan.entries[1].n_tokens, 6);
    assert_false(plan.entries[1].samples);
    sched_seq_append(sched, a, 1);
    assert_true(sched_plan_next(sched, &plan));
    assert_ptr_equal(plan.entries[0].seq, a); /* decode first */
    assert_int_equal(plan.entries[0].n_tokens, 1);
    assert_ptr_equal(plan.entries[1].seq, b);
    assert_int_equal(plan.entries[1].position, 6);
    assert_int_equal(plan.entries[1].n_tokens, 8);
    assert_true(plan.entries[1].samples);
    assert_false(sched_plan_next(sched, &plan)); /* both wait for their samples */
    sched_destroy(sched);
}

static void test_latest_gives_way_and_is_recomputed(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 4, 1);
    struct sched_plan plan;
    struct sched_seq *a = add(sched, 7, 16), *b = add(sched, 8, 16);
    assert_true(sched_plan_next(sched, &plan));
    assert_int_equal(plan.n_entries, 2);
    sched_seq_append(sched, a, 1);
    sched_seq_append(sched, b, 1);
    assert_true(sched_plan_next(sched, &plan)); /* a still fits its blocks, b needs a third and there is none */
    assert_int_equal(plan.n_entries, 1);
    assert_ptr_equal(plan.entries[0].seq, a);
    assert_int_equal(b->state, SCHED_WAITING);
    assert_int_equal(b->n_tokens, 9); /* nothing is lost */
    assert_int_equal(sched_n_preemptions(sched), 1);
    sched_seq_end(sched, a);
    assert_true(sched_plan_next(sched, &plan));
    assert_ptr_equal(plan.entries[0].seq, b);
    assert_true(plan.entries[0].fresh);
    assert_int_equal(plan.entries[0].n_tokens, 9);
    sched_seq_free(sched, a);
    sched_destroy(sched);
}

static void test_stages_share_ready_sequences(void **state) {
    (void)state;
    struct sched *sched = make(8, 64, 64, 2);
    struct sched_plan plan;
    for (int i = 0; i < 6; i++)
        add(sched, 2, 8);
    assert_true(sched_plan_next(sched, &plan));
    assert_int_equal(plan.n_entries, 3);
    assert_true(sched_plan_next(sched, &plan));
    assert_int_equal(plan.n_entries, 3);
    sched_destroy(sched);
}

static void test_what_can_never_fit_is_refused_with_numbers(void **state) {
    (void)state;
    struct sched *sched = make(4, 64, 8, 1);
    int32_t prompt[64] = {0};
    struct sched_seq *seq;
    struct err err;
    assert_int_equal(sched_seq_add(sched, prompt, 10, 33, 0, NULL, &seq, &err), -1);
    assert_string_equal(err.msg, "prompt and output may grow to 33 tokens; the whole KV cache holds 32");
    assert_int_equal(sched_seq_add(sched, prompt, 10, 65, 0, NULL, &seq, &err), -1);
    assert_int_equal(sched_seq_add(sched, prompt, 0, 5, 0, NULL, &seq, &err), -1);
    sched_destroy(sched);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_properties_over_random_steps),       cmocka_unit_test(test_prompt_goes_in_chunks_behind_decode),
        cmocka_unit_test(test_latest_gives_way_and_is_recomputed), cmocka_unit_test(test_stages_share_ready_sequences),
        cmocka_unit_test(test_what_can_never_fit_is_refused_with_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
