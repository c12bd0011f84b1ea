/*
 * Continuous batching with a token budget, chunked prefill, a prefix cache and preemption by recomputation; see sched.h.
 * Owned by the engine thread. Must not know time, ranks or requests.
 */
#include "sched/sched.h"

#include <stdlib.h>
#include <string.h>

#include "sched/block_pool.h"

/* Cached tokens travel with an admission, for penalties: more than these are left to the next step. */
enum { MAX_STEP_CACHED = 1 << 20 };

struct seq_list {
    struct sched_seq *first, *last;
    int n;
};

struct sched {
    struct sched_opts opts;
    struct sched_blocks *blocks;
    struct seq_list waiting; /* in the order in which they will be admitted */
    struct seq_list running; /* the one longest without a step first */
    int *free_slots;         /* stack */
    int n_free_slots;
    uint64_t next_number;
    uint64_t n_preemptions, n_queried, n_hit, n_plans;
    int step_tokens;             /* budget of the step being planned */
    struct sched_entry *entries; /* [max_seqs] */
};

static void list_unlink(struct seq_list *list, struct sched_seq *seq) {
    *(seq->prev == NULL ? &list->first : &seq->prev->next) = seq->next;
    *(seq->next == NULL ? &list->last : &seq->next->prev) = seq->prev;
    seq->prev = seq->next = NULL;
    list->n--;
}

/* Puts seq before `before`, at the end when that is NULL. */
static void list_insert(struct seq_list *list, struct sched_seq *before, struct sched_seq *seq) {
    seq->next = before;
    seq->prev = before == NULL ? list->last : before->prev;
    *(seq->prev == NULL ? &list->first : &seq->prev->next) = seq;
    *(before == NULL ? &list->last : &before->prev) = seq;
    list->n++;
}

/* True when a is admitted before b and preempted after it. */
static bool goes_first(const struct sched *sched, const struct sched_seq *a, const struct sched_seq *b) {
    if (sched->opts.policy == SCHED_PRIORITY && a->priority != b->priority)
        return a->priority < b->priority;
    return a->number < b->number;
}

static void waiting_insert(struct sched *sched, struct sched_seq *seq) {
    /* From the end: new arrivals belong there. */
    struct sched_seq *before = NULL;
    for (struct sched_seq *at = sched->waiting.last; at != NULL && goes_first(sched, seq, at); at = at->prev)
        before = at;
    list_insert(&sched->waiting, before, seq);
}

int sched_create(const struct sched_opts *opts, struct sched **ret, struct err *err) {
    struct sched *sched = calloc(1, sizeof *sched);
    if (sched == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the scheduler");
    sched->opts = *opts;
    sched->free_slots = malloc((size_t)opts->max_seqs * sizeof *sched->free_slots);
    sched->entries = malloc((size_t)opts->max_seqs * sizeof *sched->entries);
    if (sched->free_slots == NULL || sched->entries == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %d sequences", opts->max_seqs);
        goto destroy_sched;
    }
    for (int i = 0; i < opts->max_seqs; i++)
        sched->free_slots[i] = opts->max_seqs - 1 - i;
    sched->n_free_slots = opts->max_seqs;
    if (sched_blocks_create(opts->n_blocks, opts->block_size, opts->prefix_caching, &sched->blocks, err) != 0)
        goto destroy_sched;
    *ret = sched;
    return 0;
destroy_sched:
    sched_destroy(sched);
    return -1;
}

static void seq_release(struct sched_seq *seq) {
    free(seq->tokens);
    free(seq->blocks);
    free(seq);
}

static void list_release(struct seq_list *list) {
    while (list->first != NULL) {
        struct sched_seq *seq = list->first;
        list_unlink(list, seq);
        seq_release(seq);
    }
}

void sched_destroy(struct sched *sched) {
    if (sched == NULL)
        return;
    list_release(&sched->waiting);
    list_release(&sched->running);
    sched_blocks_destroy(sched->blocks);
    free(sched->free_slots);
    free(sched->entries);
    free(sched);
}

static int blocks_for(const struct sched *sched, int n_tokens) { return (n_tokens + sched->opts.block_size - 1) / sched->opts.block_size; }

int sched_seq_add(struct sched *sched, const struct sched_request *request, struct sched_seq **ret, struct err *err) {
    int n_prompt = request->n_prompt, max_tokens = request->max_tokens;
    if (n_prompt < 1 || max_tokens < n_prompt)
        return err_set(err, ERR_INVALID, "a sequence needs at least one token of prompt and room for it (prompt %d, at most %d)", n_prompt, max_tokens);
    if (max_tokens > sched->opts.max_model_len)
        return err_set(err, ERR_INVALID, "prompt and output may grow to %d tokens; the model's context is %d", max_tokens, sched->opts.max_model_len);
    if (blocks_for(sched, max_tokens) > sched->opts.n_blocks)
        return err_set(err, ERR_INVALID, "prompt and output may grow to %d tokens; the whole KV cache holds %d", max_tokens,
                       sched->opts.n_blocks * sched->opts.block_size);
    struct sched_seq *seq = calloc(1, sizeof *seq);
    if (seq == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a sequence");
    seq->cap_tokens = max_tokens;
    seq->cap_blocks = blocks_for(sched, max_tokens);
    seq->tokens = malloc((size_t)seq->cap_tokens * sizeof *seq->tokens);
    seq->blocks = malloc((size_t)seq->cap_blocks * sizeof *seq->blocks);
    if (seq->tokens == NULL || seq->blocks == NULL) {
        seq_release(seq);
        return err_set(err, ERR_NOMEM, "no memory for a sequence of %d tokens", max_tokens);
    }
    memcpy(seq->tokens, request->prompt, (size_t)n_prompt * sizeof *seq->tokens);
    seq->n_tokens = seq->n_prompt = n_prompt;
    seq->priority = request->priority;
    seq->root = request->root;
    seq->skips_cache = request->skips_cache || !sched->opts.prefix_caching;
    seq->owner = request->owner;
    seq->number = sched->next_number++;
    seq->slot = -1;
    waiting_insert(sched, seq);
    *ret = seq;
    return 0;
}

/* Publishes the blocks of a RUNNING sequence that are full of known tokens and computed in planned steps. */
static void seq_publish(struct sched *sched, struct sched_seq *seq) {
    int size = sched->opts.block_size, n_sure = seq->n_tokens < seq->n_scheduled ? seq->n_tokens : seq->n_scheduled;
    for (; sched->opts.prefix_caching && (seq->n_published + 1) * size <= n_sure; seq->n_published++)
        seq->last_id =
            sched_blocks_publish(sched->blocks, seq->blocks[seq->n_published], seq->last_id, seq->tokens + seq->n_published * size);
}

void sched_seq_append(struct sched *sched, struct sched_seq *seq, int32_t token) {
    seq->n_awaited--;
    if (seq->state == SCHED_DONE || seq->n_tokens == seq->cap_tokens)
        return;
    seq->tokens[seq->n_tokens++] = token;
    if (seq->state == SCHED_RUNNING)
        seq_publish(sched, seq);
}

/* Takes the blocks that the cache has for the beginning of a WAITING sequence into its table, without holding them. */
static int seq_find_cached(const struct sched *sched, struct sched_seq *seq) {
    int size = sched->opts.block_size, n = 0;
    seq->last_id = seq->root;
    for (; !seq->skips_cache && (n + 1) * size < seq->n_tokens; n++) {
        seq->blocks[n] = sched_blocks_find(sched->blocks, seq->last_id, seq->tokens + n * size, &seq->last_id);
        if (seq->blocks[n] < 0)
            break;
    }
    return n;
}

/* Gives back the slot and all blocks of a RUNNING sequence and takes it off the list. */
static void seq_vacate(struct sched *sched, struct sched_seq *seq) {
    list_unlink(&sched->running, seq);
    for (int i = seq->n_blocks - 1; i >= 0; i--) /* what comes last is of the least use to others */
        sched_blocks_give(sched->blocks, seq->blocks[i]);
    seq->n_blocks = seq->n_published = seq->n_scheduled = 0;
    sched->free_slots[sched->n_free_slots++] = seq->slot;
    seq->slot = -1;
}

void sched_seq_end(struct sched *sched, struct sched_seq *seq) {
    if (seq->state == SCHED_RUNNING)
        seq_vacate(sched, seq);
    else if (seq->state == SCHED_WAITING)
        list_unlink(&sched->waiting, seq);
    seq->state = SCHED_DONE;
}

bool sched_seq_idle(const struct sched_seq *seq) { return seq->state == SCHED_DONE && seq->n_awaited == 0; }

void sched_seq_free(struct sched *sched, struct sched_seq *seq) {
    sched_seq_end(sched, seq);
    seq_release(seq);
}

static void seq_preempt(struct sched *sched, struct sched_seq *seq) {
    seq_vacate(sched, seq);
    seq->state = SCHED_WAITING;
    seq->n_preemptions++;
    sched->n_preemptions++;
    waiting_insert(sched, seq);
}

/* The sequence that gives way when blocks run out, among those that the plan does not hold yet. */
static struct sched_seq *find_victim(const struct sched *sched) {
    struct sched_seq *victim = NULL;
    for (struct sched_seq *seq = sched->running.first; seq != NULL; seq = seq->next)
        if (seq->planned != sched->n_plans && (victim == NULL || goes_first(sched, victim, seq)))
            victim = seq;
    return victim;
}

/* Lets the block table of seq cover n_tokens, preempting others (or seq itself: false). */
static bool seq_cover(struct sched *sched, struct sched_seq *seq, int n_tokens) {
    int wanted = blocks_for(sched, n_tokens);
    while (seq->n_blocks < wanted) {
        int32_t block = sched_blocks_take(sched->blocks);
        if (block >= 0) {
            seq->blocks[seq->n_blocks++] = block;
            continue;
        }
        struct sched_seq *victim = find_victim(sched);
        seq_preempt(sched, victim); /* never NULL: seq itself is in the list and not in the plan */
        if (victim == seq)
            return false;
    }
    return true;
}

/* Tokens of a RUNNING sequence that a step could compute now: the known ones, or the one under way when it may run ahead. */
static int seq_ready(const struct sched *sched, const struct sched_seq *seq) {
    if (seq->n_awaited == 0)
        return seq->n_tokens - seq->n_scheduled;
    return seq->n_awaited < sched->opts.max_awaited && seq->n_tokens + seq->n_awaited < seq->cap_tokens;
}

/* Adds the next tokens of a RUNNING sequence to the plan. False when it had to give way. */
static bool plan_add(struct sched *sched, struct sched_plan *plan, struct sched_seq *seq, int first_new_block) {
    int n_ready = seq_ready(sched, seq), left = sched->step_tokens - plan->n_tokens;
    int n_tokens = n_ready < left ? n_ready : left;
    if (!seq_cover(sched, seq, seq->n_scheduled + n_tokens))
        return false;
    if (seq->n_scheduled >= seq->n_tokens)
        seq->tokens[seq->n_scheduled] = SCHED_UNKNOWN;
    plan->entries[plan->n_entries++] = (struct sched_entry){
        .seq = seq,
        .slot = seq->slot,
        .fresh = seq->fresh,
        .position = seq->n_scheduled,
        .n_tokens = n_tokens,
        .first_new_block = first_new_block,
        .n_blocks = seq->n_blocks,
        .samples = n_tokens == n_ready,
    };
    plan->n_tokens += n_tokens;
    seq->planned = sched->n_plans;
    seq->fresh = false;
    seq->n_scheduled += n_tokens;
    seq->n_awaited += n_tokens == n_ready;
    seq_publish(sched, seq);
    list_unlink(&sched->running, seq);
    list_insert(&sched->running, NULL, seq);
    return true;
}

/* Plans ready RUNNING sequences: those that decode (one token left), or those that are in their prompt. */
static void plan_running(struct sched *sched, struct sched_plan *plan, bool decoding, int most_entries) {
    /* plan_add moves to the end and preemption unlinks, so walk over a count and always look at the first not yet seen. */
    struct sched_seq *next;
    int n_left = sched->running.n;
    for (struct sched_seq *seq = sched->running.first; seq != NULL && n_left > 0; seq = next, n_left--) {
        next = seq->next;
        if (plan->n_entries >= most_entries || plan->n_tokens >= sched->step_tokens)
            return;
        int n_ready = seq_ready(sched, seq);
        if (n_ready == 0 || (n_ready == 1) != decoding || seq->planned == sched->n_plans)
            continue;
        uint64_t preempted_before = sched->n_preemptions;
        plan_add(sched, plan, seq, seq->n_blocks);
        if (sched->n_preemptions != preempted_before) {
            /* `next` may be among the preempted: start over; planned ones are passed by. */
            next = sched->running.first;
            n_left = sched->running.n + 1;
        }
    }
}

/* Gives a WAITING sequence its slot and what the cache has of it. False when there is no room for all that is known of it: an
   admission must not preempt. */
static bool seq_admit(struct sched *sched, struct sched_seq *seq) {
    int n_found = seq_find_cached(sched, seq), n_idle = 0;
    for (int i = 0; i < n_found; i++)
        n_idle += !sched_blocks_is_held(sched->blocks, seq->blocks[i]);
    if (blocks_for(sched, seq->n_tokens) - n_found + n_idle > sched_blocks_available(sched->blocks))
        return false;
    for (int i = 0; i < n_found; i++)
        sched_blocks_hold(sched->blocks, seq->blocks[i]);
    seq->n_blocks = seq->n_published = n_found;
    seq->n_scheduled = n_found * sched->opts.block_size;
    if (seq->n_preemptions == 0 && !seq->skips_cache) {
        seq->n_cached = seq->n_scheduled;
        sched->n_queried += (uint64_t)seq->n_tokens;
        sched->n_hit += (uint64_t)seq->n_cached;
    }
    list_unlink(&sched->waiting, seq);
    list_insert(&sched->running, NULL, seq);
    seq->state = SCHED_RUNNING;
    seq->slot = sched->free_slots[--sched->n_free_slots];
    seq->fresh = true;
    return true;
}

static void plan_waiting(struct sched *sched, struct sched_plan *plan, int most_entries) {
    int n_cached = 0;
    while (sched->waiting.first != NULL && sched->n_free_slots > 0 && plan->n_entries < most_entries &&
           plan->n_tokens < sched->step_tokens && n_cached < MAX_STEP_CACHED) {
        struct sched_seq *seq = sched->waiting.first;
        /* One whose sample is still under way was preempted in mid-step and waits for that token. */
        if (seq->n_awaited > 0 || !seq_admit(sched, seq))
            return;
        n_cached += seq->n_scheduled;
        plan_add(sched, plan, seq, 0);
    }
}

/* Waiting sequences for which there are slots. */
static int n_next(const struct sched *sched) { return sched->waiting.n < sched->n_free_slots ? sched->waiting.n : sched->n_free_slots; }

static int share_of(int n, int n_parts) { return (n + n_parts - 1) / n_parts; }

/* With several stages a step must leave ready sequences for the others, or those stand idle: its share of all sequences, so that new ones
   do not all end up in one batch, and no more than its share of those that are ready now. */
static int most_entries_of(const struct sched *sched, int n_open) {
    int n_new = n_next(sched), n_ready = n_new;
    if (sched->opts.n_stages == 1)
        return sched->opts.max_seqs;
    for (const struct sched_seq *seq = sched->running.first; seq != NULL; seq = seq->next)
        n_ready += seq_ready(sched, seq) > 0;
    int of_all = share_of(sched->running.n + n_new, sched->opts.n_stages), of_ready = share_of(n_ready, n_open);
    return of_all < of_ready ? of_all : of_ready;
}

/* Whether more sequences wait for their prompts than for the tokens that follow. */
static bool newcomers_prevail(const struct sched *sched) {
    int n_in_prompt = 0;
    for (const struct sched_seq *seq = sched->running.first; seq != NULL; seq = seq->next)
        n_in_prompt += seq_ready(sched, seq) > 1;
    return n_next(sched) + n_in_prompt > sched->running.n - n_in_prompt;
}

/*
 * Most prompt tokens beside n_decoding sequences. By default twice as many, so that a step lasts some three times one without newcomers;
 * but a step makes all wait, and where newcomers prevail it is made for them.
 */
static int mixed_tokens_of(const struct sched *sched, int n_decoding) {
    int most = sched->opts.max_mixed_tokens, twice = 2 * n_decoding;
    if (most == 0 || n_decoding == 0 || (most == SCHED_MIXED_AUTO && newcomers_prevail(sched)))
        return sched->opts.max_step_tokens;
    if (most != SCHED_MIXED_AUTO)
        return most;
    return twice < SCHED_MIXED_LEAST ? SCHED_MIXED_LEAST : twice > SCHED_MIXED_MOST ? SCHED_MIXED_MOST : twice;
}

bool sched_plan_next(struct sched *sched, int n_open, struct sched_plan *ret) {
    *ret = (struct sched_plan){.entries = sched->entries};
    sched->n_plans++;
    int most_entries = most_entries_of(sched, n_open), budget = sched->opts.max_step_tokens;
    sched->step_tokens = budget;
    plan_running(sched, ret, true, most_entries);
    int mixed = mixed_tokens_of(sched, ret->n_entries);
    if (ret->n_tokens + mixed < budget)
        sched->step_tokens = ret->n_tokens + mixed;
    plan_running(sched, ret, false, most_entries);
    plan_waiting(sched, ret, most_entries);
    return ret->n_entries > 0;
}

bool sched_cache_reset(struct sched *sched) {
    if (sched->running.n > 0)
        return false;
    if (sched->opts.prefix_caching)
        sched_blocks_forget(sched->blocks);
    return true;
}

int sched_n_running(const struct sched *sched) { return sched->running.n; }
int sched_n_waiting(const struct sched *sched) { return sched->waiting.n; }
int sched_n_free_blocks(const struct sched *sched) { return sched_blocks_available(sched->blocks); }
uint64_t sched_n_preemptions(const struct sched *sched) { return sched->n_preemptions; }

void sched_cache_counts(const struct sched *sched, uint64_t *ret_queries, uint64_t *ret_hits) {
    *ret_queries = sched->n_queried;
    *ret_hits = sched->n_hit;
}
