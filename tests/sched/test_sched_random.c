/*
 * sched: properties over a million random steps. A model of the ranks keeps what every KV block holds, cell by cell, as a hash of all tokens
 * up to there, and what every slot has sampled: each step must find the right content in all blocks that it reads. Besides: no block leaks,
 * every sequence ends exactly once with the right tokens, none waits for ever, the budget is kept, the same input gives the same plan.
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
#include "sched/block_pool.h"
#include "sched/sched.h"

enum { MAX_LIVE = 64, MAX_FLIGHTS = 4, MAX_SLOTS = 32, MAX_LEN = 300, MAX_BLOCKS = 4096, MAX_WAIT_STEPS = 20000, N_DOCS = 5 };

/* Sanitizers make it ten times slower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { N_STEPS = 30000 };
#else
enum { N_STEPS = 220000 };
#endif

struct live {
    struct sched_seq *seq;
    int ends_at; /* tokens in all when it ends: before its max_tokens, as if by a stop token */
    uint64_t last_progress;
};

struct flight {
    struct sched_seq *seqs[MAX_SLOTS];
    int32_t samples[MAX_SLOTS];
    int n;
};

/* What a rank knows of a slot. */
struct slot {
    int32_t tokens[MAX_LEN + 1];
    uint64_t hashes[MAX_LEN + 1]; /* of the tokens up to and with each */
    int32_t blocks[MAX_LEN];
    int n_blocks, n_tokens, n_sampled; /* n_sampled: tokens known when what was sampled last is counted */
};

struct world {
    struct sched_opts opts;
    struct sched *sched;
    struct live live[MAX_LIVE];
    int n_live;
    struct flight flights[MAX_FLIGHTS];
    int n_flights, most_flights;
    struct slot slots[MAX_SLOTS];
    uint64_t cells[MAX_BLOCKS * 16];
    uint64_t seed, draws, step;
    uint64_t n_added, n_ended, n_ahead, n_shared;
    uint64_t plan_hash;
};

static uint32_t draw(struct world *w, uint32_t below) { return (uint32_t)(rand_ctr_u64(w->seed, w->draws++) % below); }

static uint64_t mix(uint64_t hash, int32_t token) {
    hash = (hash ^ (uint64_t)(uint32_t)token) * UINT64_C(0x9e3779b97f4a7c15) + 1;
    return hash ^ hash >> 29;
}

/* What the model says after these tokens: a function of all of them, with few different outcomes, so that sequences meet again. */
static int32_t next_of(uint64_t hash) { return (int32_t)(hash >> 40 & 1); }

/* The beginning of one of a few documents in an alphabet of two, often with an end of its own. */
static void add_random(struct world *w) {
    int32_t prompt[256];
    struct err err;
    int n_prompt = 1 + (int)draw(w, draw(w, 4) == 0 ? 200 : 40), most = n_prompt + 1 + (int)draw(w, 40), doc = (int)draw(w, N_DOCS);
    int n_shared = draw(w, 2) == 0 ? n_prompt : (int)draw(w, (uint32_t)n_prompt + 1);
    for (int i = 0; i < n_prompt; i++)
        prompt[i] = i < n_shared ? (int32_t)(rand_ctr_u64(99, (uint64_t)(doc * 1000 + i)) & 1) : (int32_t)draw(w, 2);
    struct live *live = &w->live[w->n_live];
    struct sched_request request = {.prompt = prompt,
                                    .n_prompt = n_prompt,
                                    .max_tokens = most,
                                    .priority = (int)draw(w, 3),
                                    .root = draw(w, 4) == 0 ? sched_blocks_root("salt", 4) : 0,
                                    .skips_cache = draw(w, 8) == 0};
    *live = (struct live){.ends_at = draw(w, 2) == 0 ? most : n_prompt + 1 + (int)draw(w, (uint32_t)(most - n_prompt)), .last_progress = w->step};
    assert_int_equal(sched_seq_add(w->sched, &request, &live->seq, &err), 0);
    w->n_live++;
    w->n_added++;
}

static struct live *find_live(struct world *w, const struct sched_seq *seq) {
    for (int i = 0; i < w->n_live; i++)
        if (w->live[i].seq == seq)
            return &w->live[i];
    return NULL;
}

/* Every block is held by the sequences that have it in their tables, or available. */
static void check_blocks(struct world *w) {
    uint8_t n_owners[MAX_BLOCKS] = {0};
    int n_owned = 0;
    for (int i = 0; i < w->n_live; i++) {
        const struct sched_seq *seq = w->live[i].seq;
        assert_true(seq->n_blocks * w->opts.block_size >= seq->n_scheduled);
        for (int b = 0; b < seq->n_blocks; b++) {
            assert_true(seq->blocks[b] >= 0 && seq->blocks[b] < w->opts.n_blocks);
            n_owned += n_owners[seq->blocks[b]]++ == 0;
            w->n_shared += n_owners[seq->blocks[b]] == 2;
            assert_true(w->opts.prefix_caching || n_owners[seq->blocks[b]] == 1);
        }
    }
    assert_int_equal(n_owned + sched_n_free_blocks(w->sched), w->opts.n_blocks);
}

static uint64_t *cell_of(struct world *w, const struct slot *slot, int position) {
    return &w->cells[slot->blocks[position / w->opts.block_size] * w->opts.block_size + position % w->opts.block_size];
}

/* An entry as the ranks take it: tokens and blocks into the slot, keys and values into the blocks. */
static void rank_store(struct world *w, const struct sched_entry *e) {
    struct slot *slot = &w->slots[e->slot];
    if (e->fresh) {
        slot->n_blocks = slot->n_sampled = 0;
        for (int i = 0; i < e->position; i++) {
            slot->tokens[i] = e->seq->tokens[i];
            slot->hashes[i] = mix(i == 0 ? 0 : slot->hashes[i - 1], slot->tokens[i]);
        }
    } else {
        assert_int_equal(e->position, slot->n_tokens);
    }
    assert_int_equal(e->first_new_block, slot->n_blocks);
    for (; slot->n_blocks < e->n_blocks; slot->n_blocks++)
        slot->blocks[slot->n_blocks] = e->seq->blocks[slot->n_blocks];
    for (int i = e->position; i < e->position + e->n_tokens; i++) {
        if (e->seq->tokens[i] == SCHED_UNKNOWN) {
            assert_int_equal(e->n_tokens, 1);
            assert_int_equal(slot->n_sampled, i + 1); /* the token that this slot sampled last */
            w->n_ahead++;
        } else {
            slot->tokens[i] = e->seq->tokens[i];
        }
        slot->hashes[i] = mix(i == 0 ? 0 : slot->hashes[i - 1], slot->tokens[i]);
        *cell_of(w, slot, i) = slot->hashes[i];
    }
    slot->n_tokens = e->position + e->n_tokens;
}

/* The blocks that an entry reads hold its own past. Returns what it samples. */
static int32_t rank_read(struct world *w, const struct sched_entry *e) {
    struct slot *slot = &w->slots[e->slot];
    int stride = e->fresh || draw(w, 16) == 0 ? 1 : w->opts.block_size;
    for (int i = slot->n_tokens - 1; i >= 0; i -= stride)
        assert_true(*cell_of(w, slot, i) == slot->hashes[i]);
    if (e->samples) {
        slot->tokens[slot->n_tokens] = next_of(slot->hashes[slot->n_tokens - 1]);
        slot->n_sampled = slot->n_tokens + 1;
    }
    return slot->tokens[slot->n_tokens];
}

/* More sequences in their prompts, or waiting for a free slot with them, than behind them. */
static bool newcomers_prevail(const struct world *w) {
    int n_waiting = sched_n_waiting(w->sched), n_free = w->opts.max_seqs - sched_n_running(w->sched), n_in_prompt = 0;
    for (int i = 0; i < w->n_live; i++) {
        const struct sched_seq *seq = w->live[i].seq;
        n_in_prompt += seq->state == SCHED_RUNNING && seq->n_awaited == 0 && seq->n_tokens - seq->n_scheduled > 1;
    }
    return (n_waiting < n_free ? n_waiting : n_free) + 2 * n_in_prompt > sched_n_running(w->sched);
}

/* is_limited: with SCHED_MIXED_AUTO, newcomers were few before it. */
static void check_plan(struct world *w, const struct sched_plan *plan, bool is_limited) {
    uint8_t slots[MAX_SLOTS] = {0};
    int n_tokens = 0, n_prompt = 0 /* of entries that are no single token */, n_single = 0;
    assert_true(plan->n_entries <= w->opts.max_seqs);
    for (int i = 0; i < plan->n_entries; i++) {
        const struct sched_entry *e = &plan->entries[i];
        assert_true(e->slot >= 0 && e->slot < w->opts.max_seqs);
        assert_int_equal(slots[e->slot], 0);
        slots[e->slot] = 1;
        int end = e->seq->n_tokens + e->seq->n_awaited - e->samples; /* as it was planned */
        assert_true(e->n_tokens > 0 && e->position + e->n_tokens <= end);
        assert_true(e->n_blocks * w->opts.block_size >= e->position + e->n_tokens);
        assert_int_equal(e->samples, e->position + e->n_tokens == end);
        assert_true(!e->fresh || (e->position % w->opts.block_size == 0 && e->first_new_block == 0));
        assert_true(!e->fresh || !e->seq->skips_cache || e->position == 0);
        n_tokens += e->n_tokens;
        n_prompt += e->n_tokens > 1 ? e->n_tokens : 0;
        n_single += e->n_tokens == 1;
        uint64_t shape[4] = {w->plan_hash, (uint64_t)e->slot, (uint64_t)e->position, (uint64_t)e->n_tokens};
        w->plan_hash = hash_xxh64(shape, sizeof shape, 0);
    }
    assert_int_equal(n_tokens, plan->n_tokens);
    assert_true(n_tokens <= w->opts.max_step_tokens);
    /* Whoever decodes comes first in a plan. */
    const struct sched_entry *first = &plan->entries[0];
    bool decodes = !first->fresh && first->n_tokens == 1 && first->samples;
    if (decodes && w->opts.max_mixed_tokens > 0)
        assert_true(n_prompt <= w->opts.max_mixed_tokens);
    if (decodes && w->opts.max_mixed_tokens == SCHED_MIXED_AUTO && is_limited)
        assert_true(n_prompt <= SCHED_MIXED_LEAST || (n_prompt <= 2 * n_single && n_prompt <= SCHED_MIXED_MOST));
}

static void take_off(struct world *w, const struct sched_plan *plan) {
    struct flight *flight = &w->flights[w->n_flights++];
    flight->n = 0;
    for (int i = 0; i < plan->n_entries; i++)
        rank_store(w, &plan->entries[i]);
    for (int i = 0; i < plan->n_entries; i++) {
        int32_t sample = rank_read(w, &plan->entries[i]);
        if (!plan->entries[i].samples)
            continue;
        flight->seqs[flight->n] = plan->entries[i].seq;
        flight->samples[flight->n++] = sample;
    }
}

/* The tokens of an ended sequence are those that it would have got alone. */
static void check_tokens(const struct sched_seq *seq) {
    uint64_t hash = 0;
    for (int i = 0; i < seq->n_tokens; i++) {
        if (i >= seq->n_prompt)
            assert_int_equal(seq->tokens[i], next_of(hash));
        hash = mix(hash, seq->tokens[i]);
    }
}

static void end(struct world *w, struct live *live) {
    sched_seq_end(w->sched, live->seq);
    check_tokens(live->seq);
    w->n_ended++;
}

static void land(struct world *w) {
    struct flight flight = w->flights[0];
    memmove(w->flights, w->flights + 1, (size_t)(--w->n_flights) * sizeof w->flights[0]);
    for (int i = 0; i < flight.n; i++) {
        struct live *live = find_live(w, flight.seqs[i]);
        assert_non_null(live);
        sched_seq_append(w->sched, live->seq, flight.samples[i]);
        live->last_progress = w->step;
        if (live->seq->state != SCHED_DONE && live->seq->n_tokens >= live->ends_at)
            end(w, live);
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
        if (live->seq->state != SCHED_DONE)
            end(w, live);
    }
    if (draw(w, 1000) == 0)
        assert_int_equal(sched_cache_reset(w->sched), sched_n_running(w->sched) == 0);
    bool is_limited = !newcomers_prevail(w);
    uint64_t n_preemptions = sched_n_preemptions(w->sched);
    if (w->n_flights < w->most_flights && sched_plan_next(w->sched, w->most_flights - w->n_flights, &plan)) {
        check_plan(w, &plan, is_limited && sched_n_preemptions(w->sched) == n_preemptions);
        take_off(w, &plan);
    } else {
        assert_true(w->n_flights > 0 || sched_n_running(w->sched) + sched_n_waiting(w->sched) == 0);
    }
    if (w->n_flights > 0 && (w->n_flights == w->most_flights || draw(w, 2) == 0))
        land(w);
    check_blocks(w);
    reap(w);
    w->step++;
}

static uint64_t run_world(const struct sched_opts *opts, uint64_t seed, int n_steps) {
    struct world *w = calloc(1, sizeof *w);
    struct err err;
    assert_non_null(w);
    w->opts = *opts;
    w->seed = seed;
    w->most_flights = opts->n_stages > opts->max_awaited ? opts->n_stages : opts->max_awaited;
    assert_int_equal(sched_create(opts, &w->sched, &err), 0);
    for (int i = 0; i < n_steps; i++)
        turn(w, true);
    for (int i = 0; w->n_live > 0; i++) {
        assert_true(i < MAX_WAIT_STEPS);
        turn(w, false);
    }
    assert_int_equal(w->n_added, w->n_ended);
    assert_int_equal(sched_n_free_blocks(w->sched), opts->n_blocks);
    assert_int_equal(w->n_ahead > 0, opts->max_awaited > 1);
    uint64_t n_queried, n_hit, plan_hash = w->plan_hash;
    sched_cache_counts(w->sched, &n_queried, &n_hit);
    assert_int_equal(n_hit > 0 && w->n_shared > 0, opts->prefix_caching);
    print_message("%llu sequences, %llu preemptions, %llu rows ahead, %.0f %% of prompts found\n", (unsigned long long)w->n_added,
                  (unsigned long long)sched_n_preemptions(w->sched), (unsigned long long)w->n_ahead,
                  n_queried == 0 ? 0.0 : 100.0 * (double)n_hit / (double)n_queried);
    sched_destroy(w->sched);
    free(w);
    return plan_hash;
}

static void test_properties_over_random_steps(void **state) {
    (void)state;
    static const struct sched_opts worlds[] = {
        {8, 64, 0, MAX_LEN, 16, 40, 1, 2, true, SCHED_FCFS},    {32, 32, 5, MAX_LEN, 4, 100, 2, 1, true, SCHED_FCFS},
        {16, 512, SCHED_MIXED_AUTO, MAX_LEN, 16, 4000, 4, 1, true, SCHED_FCFS}, {5, 7, 1, MAX_LEN, 1, 300, 1, 2, true, SCHED_PRIORITY},
        {12, 40, 50, MAX_LEN, 2, 200, 3, 2, true, SCHED_PRIORITY}, {8, 64, 9, MAX_LEN, 16, 40, 2, 2, false, SCHED_FCFS},
    };
    for (size_t i = 0; i < sizeof worlds / sizeof worlds[0]; i++)
        run_world(&worlds[i], 1000 + i, N_STEPS);
    assert_true(run_world(&worlds[4], 7, 5000) == run_world(&worlds[4], 7, 5000));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_properties_over_random_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
