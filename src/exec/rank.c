/* One rank's thread: load, then steps; see rank.h. Owns the rank's team, group, model, slots and buffers. */
#include "exec/rank.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "exec/head.h"

struct exec_rank {
    struct exec_rank_opts opts;
    struct model_split split;
    pthread_t thread;
    /* Made and used by the rank's thread. */
    struct team *team;
    struct comm_group *group;
    struct model *model;
    struct exec_head *head;
    struct exec_slots slots;
    float *hidden; /* [max_step_tokens, hidden]: what comes from or goes to another stage */
    struct model_step_seq *seqs;
    int32_t *tokens;
    /* Read by others. */
    model_progress done_bytes, saved_bytes;
    atomic_ullong total_bytes, block_bytes, idle_bytes, read_bytes;
    atomic_llong begin_ms, end_ms; /* of loading */
    /* n_blocks on its way from the boot thread. */
    pthread_mutex_t lock;
    pthread_cond_t has_blocks;
    int n_blocks;
    bool must_leave;
};

/* All that the rank needs but its weights. */
static int rank_create(struct exec_rank *rank, struct err *err) {
    const struct exec_settings *s = rank->opts.settings;
    const struct model_config *config = rank->opts.config;
    int members[COMM_MAX_RANKS];
    for (int i = 0; i < s->tp_size; i++)
        members[i] = rank->split.pp_rank * s->tp_size + i;
    int n_threads = s->threads_of_node[s->node_of_rank[rank->opts.rank]];
    if (team_create(n_threads, NULL, &rank->team, err) != 0 ||
        comm_group_join(rank->opts.world, rank->opts.rank, members, s->tp_size, (size_t)s->max_step_tokens * (size_t)config->hidden, &rank->group,
                        err) != 0)
        return -1;
    struct model_opts opts = {.team = rank->team,
                              .tp = rank->group,
                              .kv_dtype = exec_kv_dtype(s->dtype, s->kv_cache_dtype),
                              .keeps_f32 = strcmp(s->dtype, "float32") == 0,
                              .block_size = s->block_size,
                              .max_step_tokens = s->max_step_tokens,
                              .max_step_seqs = s->max_seqs,
                              .max_context = s->max_model_len};
    if (model_create(config, &rank->split, &opts, &rank->model, err) != 0)
        return -1;
    rank->seqs = malloc((size_t)s->max_seqs * sizeof *rank->seqs);
    rank->tokens = malloc((size_t)s->max_step_tokens * sizeof *rank->tokens);
    if (s->pp_size > 1)
        rank->hidden = malloc((size_t)s->max_step_tokens * (size_t)config->hidden * sizeof *rank->hidden);
    if (rank->seqs == NULL || rank->tokens == NULL || (s->pp_size > 1 && rank->hidden == NULL))
        return err_set(err, ERR_NOMEM, "no memory for the buffers of a step of %d tokens", s->max_step_tokens);
    if (rank->split.has_head && exec_head_create(config, &rank->split, rank->team, rank->group, &rank->head, err) != 0)
        return -1;
    return 0;
}

/* The first to see it stops the clock. */
static void end_loading(struct exec_rank *rank) {
    long long running = 0;
    atomic_compare_exchange_strong(&rank->end_ms, &running, clock_mono_ms());
}

static int fill_weights(struct exec_rank *rank, struct err *err) {
    const struct exec_rank_opts *o = &rank->opts;
    struct model_cache cache = {.folder = o->settings->weights_cache, .fingerprint = o->fingerprint};
    if (o->store == NULL)
        return model_load_dummy(rank->model, exec_dummy_dtype(o->settings->dtype, o->config->dtype), o->settings->seed, &rank->done_bytes, o->cancel, err);
    if (cache.folder[0] == '\0')
        return model_load(rank->model, o->store, &rank->done_bytes, o->cancel, err);
    return model_load_cached(rank->model, o->store, &cache, &rank->done_bytes, &rank->saved_bytes, o->cancel, err);
}

static int rank_load(struct exec_rank *rank, struct err *err) {
    const struct exec_rank_opts *o = &rank->opts;
    if (rank_create(rank, err) != 0)
        return -1;
    atomic_store(&rank->block_bytes, model_kv_block_bytes(rank->model));
    atomic_store(&rank->idle_bytes, model_idle_bytes(rank->model));
    atomic_store(&rank->total_bytes, o->store != NULL ? model_weights_bytes(rank->model, o->store)
                                                      : model_dummy_bytes(rank->model, exec_dummy_dtype(o->settings->dtype, o->config->dtype)));
    atomic_store(&rank->begin_ms, clock_mono_ms());
    if (fill_weights(rank, err) != 0)
        return -1;
    end_loading(rank);
    atomic_store(&rank->total_bytes, model_weights_bytes(rank->model, o->store)); /* what was allocated */
    atomic_store(&rank->read_bytes, model_bytes_read(rank->model));
    return 0;
}

static int wait_for_blocks(struct exec_rank *rank, struct err *err) {
    pthread_mutex_lock(&rank->lock);
    while (rank->n_blocks == 0 && !rank->must_leave)
        pthread_cond_wait(&rank->has_blocks, &rank->lock);
    int n_blocks = rank->n_blocks;
    pthread_mutex_unlock(&rank->lock);
    if (n_blocks == 0)
        return err_set(err, ERR_CANCELLED, "stopped before the KV cache was made");
    const struct exec_settings *s = rank->opts.settings;
    if (model_kv_create(rank->model, n_blocks, err) != 0)
        return -1;
    return exec_slots_init(&rank->slots, s->max_seqs, s->max_model_len, s->block_size, n_blocks, err);
}

/* Brings the slots up to date and lays the step out for the model. Returns the rows of logits that are wanted. */
static int prepare_step(struct exec_rank *rank, const struct exec_step *step, struct model_step *ret, struct err *err) {
    const struct exec_settings *s = rank->opts.settings;
    if (step->n_entries > s->max_seqs || step->n_tokens > s->max_step_tokens)
        return err_set(err, ERR_PEER, "a step of %d sequences and %d tokens; at most %d and %d were agreed", step->n_entries, step->n_tokens,
                       s->max_seqs, s->max_step_tokens);
    int n_tokens = 0, n_rows = 0;
    for (int i = 0; i < step->n_entries; i++) {
        const struct exec_entry *e = &step->entries[i];
        if (exec_slots_apply(&rank->slots, e, err) != 0)
            return -1;
        const struct exec_slot *slot = &rank->slots.slots[e->slot];
        for (int t = e->fresh ? 0 : e->position; t < slot->n_tokens; t++)
            if (slot->tokens[t] < 0 || slot->tokens[t] >= rank->opts.config->n_vocab)
                return err_set(err, ERR_PEER, "a step has token id %d; the model has %d", slot->tokens[t], rank->opts.config->n_vocab);
        memcpy(rank->tokens + n_tokens, slot->tokens + e->position, (size_t)e->n_tokens * sizeof *rank->tokens);
        rank->seqs[i] = (struct model_step_seq){.n_tokens = e->n_tokens,
                                                .position = e->position,
                                                .blocks = slot->blocks,
                                                .first_logit = exec_head_first_logit(e, slot)};
        n_rows += e->n_tokens - rank->seqs[i].first_logit;
        n_tokens += e->n_tokens;
    }
    *ret = (struct model_step){.n_tokens = n_tokens, .tokens = rank->tokens, .n_seqs = step->n_entries, .seqs = rank->seqs};
    return n_rows;
}

/* The slots of the only stage keep what was sampled, so that a next step can go on before the driver knows. */
static void keep_samples(struct exec_rank *rank, const struct exec_step *step, const struct exec_result *result) {
    for (int i = 0; i < result->n_tokens; i++)
        if (!result->tokens[i].is_prompt)
            exec_slots_keep_sample(&rank->slots, &step->entries[result->tokens[i].entry], result->tokens[i].token);
}

static int rank_compute(struct exec_rank *rank, const struct exec_step *step, struct err *err) {
    const struct exec_settings *s = rank->opts.settings;
    int me = rank->opts.rank;
    size_t hidden_bytes = (size_t)step->n_tokens * (size_t)rank->opts.config->hidden * sizeof *rank->hidden;
    struct model_step model_step;
    int n_rows = prepare_step(rank, step, &model_step, err);
    if (n_rows < 0)
        return -1;
    if (!rank->split.has_embedding && comm_recv(rank->opts.world, me - s->tp_size, me, rank->hidden, hidden_bytes, err) != 0)
        return err_wrap(err, "stage %d waits for stage %d", rank->split.pp_rank, rank->split.pp_rank - 1);
    int64_t start_ns = clock_mono_ns();
    float *logits = NULL;
    if (rank->head != NULL && n_rows > 0) {
        logits = exec_head_rows(rank->head, n_rows);
        if (logits == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %d rows of logits", n_rows);
    }
    if (model_forward(rank->model, &model_step, rank->hidden, logits, &n_rows, err) != 0)
        return -1;
    if (rank->head == NULL)
        return comm_send(rank->opts.world, me, me + s->tp_size, rank->hidden, hidden_bytes, err);
    struct exec_result result;
    if (exec_head_sample(rank->head, step, &rank->slots, logits, n_rows, &result, err) != 0)
        return -1;
    if (s->pp_size == 1)
        keep_samples(rank, step, &result);
    result.compute_ns = clock_mono_ns() - start_ns;
    if (rank->split.tp_rank == 0)
        rank->opts.result(rank->opts.ctx, &result);
    exec_result_finish(&result);
    return 0;
}

static int rank_run(struct exec_rank *rank, struct err *err) {
    if (rank_load(rank, err) != 0)
        return err_wrap(err, "loading");
    rank->opts.loaded(rank->opts.ctx, rank->opts.local);
    if (wait_for_blocks(rank, err) != 0)
        return -1;
    rank->opts.ready(rank->opts.ctx, rank->opts.local);
    for (const struct exec_step *step; (step = exec_queue_take(rank->opts.queue, rank->opts.local)) != NULL;) {
        if (rank_compute(rank, step, err) != 0)
            return err_wrap(err, "step %llu", (unsigned long long)step->number);
        exec_queue_done(rank->opts.queue, rank->opts.local);
    }
    return 0;
}

static void *rank_main(void *arg) {
    struct exec_rank *rank = arg;
    struct err err;
    if (rank_run(rank, &err) != 0) {
        err_wrap(&err, "rank %d", rank->opts.rank);
        rank->opts.failed(rank->opts.ctx, &err);
    }
    exec_head_destroy(rank->head);
    model_destroy(rank->model);
    comm_group_leave(rank->group);
    team_destroy(rank->team);
    exec_slots_finish(&rank->slots);
    free(rank->hidden);
    free(rank->seqs);
    free(rank->tokens);
    return NULL;
}

int exec_rank_start(const struct exec_rank_opts *opts, struct exec_rank **ret, struct err *err) {
    struct exec_rank *rank = calloc(1, sizeof *rank);
    if (rank == NULL)
        return err_set(err, ERR_NOMEM, "no memory for rank %d", opts->rank);
    rank->opts = *opts;
    const struct exec_settings *s = opts->settings;
    const int *layers = s->layers_per_stage[0] > 0 ? s->layers_per_stage : NULL;
    if (model_split_compute(opts->config, s->tp_size, s->pp_size, s->expert_parallel, layers, opts->rank, &rank->split, err) != 0)
        goto free_rank;
    pthread_mutex_init(&rank->lock, NULL);
    pthread_cond_init(&rank->has_blocks, NULL);
    int rc = pthread_create(&rank->thread, NULL, rank_main, rank);
    if (rc != 0) {
        err_set(err, ERR_LIMIT, "cannot start the thread of rank %d: %s", opts->rank, strerror(rc));
        goto free_rank;
    }
    *ret = rank;
    return 0;
free_rank:
    free(rank);
    return -1;
}

struct exec_load_report exec_rank_report(struct exec_rank *rank) {
    uint64_t done_bytes = atomic_load(&rank->done_bytes), saved_bytes = atomic_load(&rank->saved_bytes);
    if (saved_bytes > 0)
        end_loading(rank); /* it is loaded and writes the cache */
    int64_t begin_ms = atomic_load(&rank->begin_ms), end_ms = atomic_load(&rank->end_ms);
    return (struct exec_load_report){.done_bytes = done_bytes,
                                     .total_bytes = atomic_load(&rank->total_bytes),
                                     .saved_bytes = saved_bytes,
                                     .read_bytes = atomic_load(&rank->read_bytes),
                                     .block_bytes = atomic_load(&rank->block_bytes),
                                     .idle_bytes = atomic_load(&rank->idle_bytes),
                                     .elapsed_ms = begin_ms == 0 ? 0 : (end_ms > 0 ? end_ms : clock_mono_ms()) - begin_ms};
}

void exec_rank_give_blocks(struct exec_rank *rank, int n_blocks) {
    pthread_mutex_lock(&rank->lock);
    rank->n_blocks = n_blocks;
    pthread_cond_broadcast(&rank->has_blocks);
    pthread_mutex_unlock(&rank->lock);
}

void exec_rank_destroy(struct exec_rank *rank) {
    if (rank == NULL)
        return;
    pthread_mutex_lock(&rank->lock);
    rank->must_leave = true;
    pthread_cond_broadcast(&rank->has_blocks);
    pthread_mutex_unlock(&rank->lock);
    pthread_join(rank->thread, NULL);
    pthread_cond_destroy(&rank->has_blocks);
    pthread_mutex_destroy(&rank->lock);
    free(rank);
}
