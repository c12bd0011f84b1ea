/*
 * A whole model in one process for the tests: every rank is a thread with its own team, ranks talk through a real
 * comm_world, and the logits of all ranks of the last stage come together in one array.
 */
#ifndef TESTS_MODEL_RIG_H
#define TESTS_MODEL_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/world_kit.h"
#include "kernels/dispatch.h"
#include "kernels/matrix.h"
#include "model/model.h"

enum { RIG_MAX_SEQS = 16, RIG_BLOCK = 16, RIG_STEP_TOKENS = 4096 };

/* tokens[0 .. n_prompt) come in chunks, the rest one by one; logits: [n_tokens, n_vocab], all written. */
struct rig_seq {
    const int32_t *tokens;
    int n_tokens, n_prompt;
    float *logits;
};

struct rig {
    const char *path;              /* model folder or file */
    int tp, pp, n_threads, chunk;  /* 0: 1, 1, 1, whole prompts */
    const int *layers_per_stage;
    bool expert_parallel, batched; /* batched: all sequences in the same steps; else one after the other */
    enum dtype kv_dtype, dummy;
    bool is_dummy, keeps_f32;
    const json_t *overrides;
    const char *quantization; /* or NULL */
    int max_context;
    void (*loaded)(const struct model *model, void *ctx); /* or NULL: called by rank 0 once its weights are there */
    void *loaded_ctx;
    /* The rig's own. */
    struct model_config config;
    struct weights_store *store;
    struct rig_seq *seqs;
    int n_seqs;
    uint64_t weights_bytes; /* of all ranks */
    pthread_mutex_t lock;
};

struct rig_rank {
    struct rig *rig;
    struct kit_seat *seat;
    struct model *model;
    struct model_split split;
    float *hidden, *logits;
    int32_t *blocks[RIG_MAX_SEQS];
    int done[RIG_MAX_SEQS];
};

/* Whether products with this dtype round activations to 16 bits on the CPU at hand: what a tolerance depends on. */
static inline bool rig_rounds_i16(enum dtype dtype, bool keeps_f32) {
    struct kernels_matrix matrix;
    kernels_matrix_init(&matrix, dtype, 1, 256);
    return matrix.is_i16 && !keeps_f32;
}

static inline int rig_piece(const struct rig *rig, const struct rig_seq *seq, int done) {
    if (done >= seq->n_prompt)
        return 1;
    int left = seq->n_prompt - done;
    return rig->chunk > 0 && rig->chunk < left ? rig->chunk : left;
}

/* One step over the sequences [first, end) that are not done. */
static inline int rig_step(struct rig_rank *rank, int first, int end, struct err *err) {
    struct rig *rig = rank->rig;
    struct model_step_seq seqs[RIG_MAX_SEQS];
    int owner[RIG_MAX_SEQS], n_rows, n_vocab = rig->config.n_vocab;
    int32_t tokens[RIG_STEP_TOKENS];
    struct model_step step = {.tokens = tokens, .seqs = seqs};
    for (int s = first; s < end; s++) {
        struct rig_seq *seq = &rig->seqs[s];
        if (rank->done[s] == seq->n_tokens)
            continue;
        int n = rig_piece(rig, seq, rank->done[s]);
        if (step.n_tokens + n > RIG_STEP_TOKENS)
            return err_set(err, ERR_LIMIT, "the rig's steps have at most %d tokens", RIG_STEP_TOKENS);
        memcpy(tokens + step.n_tokens, seq->tokens + rank->done[s], (size_t)n * sizeof *tokens);
        owner[step.n_seqs] = s;
        seqs[step.n_seqs++] = (struct model_step_seq){.n_tokens = n, .position = rank->done[s], .blocks = rank->blocks[s]};
        step.n_tokens += n;
    }
    size_t bytes = (size_t)step.n_tokens * (size_t)rig->config.hidden * sizeof(float);
    struct kit_seat *seat = rank->seat;
    if (!rank->split.has_embedding && comm_recv(seat->world, seat->rank - rig->tp, seat->rank, rank->hidden, bytes, err) != 0)
        return -1;
    if (model_forward(rank->model, &step, rank->hidden, rank->logits, &n_rows, err) != 0)
        return -1;
    if (!rank->split.has_head && comm_send(seat->world, seat->rank, seat->rank + rig->tp, rank->hidden, bytes, err) != 0)
        return -1;
    for (int i = 0, row = 0; i < step.n_seqs; i++) {
        for (int t = 0; t < seqs[i].n_tokens && rank->split.has_head; t++, row++)
            memcpy(rig->seqs[owner[i]].logits + (size_t)(seqs[i].position + t) * (size_t)n_vocab + rank->split.vocab_begin,
                   rank->logits + (size_t)row * (size_t)rank->split.vocab_len, (size_t)rank->split.vocab_len * sizeof(float));
        rank->done[owner[i]] += seqs[i].n_tokens;
    }
    return 0;
}

static inline int rig_run_seqs(struct rig_rank *rank, struct err *err) {
    struct rig *rig = rank->rig;
    for (int first = 0; first < rig->n_seqs; first = rig->batched ? rig->n_seqs : first + 1) {
        int end = rig->batched ? rig->n_seqs : first + 1;
        for (bool more = true; more;) {
            if (rig_step(rank, first, end, err) != 0)
                return -1;
            more = false;
            for (int s = first; s < end; s++)
                more |= rank->done[s] < rig->seqs[s].n_tokens;
        }
    }
    return 0;
}

static inline int rig_rank_main(struct kit_seat *seat) {
    struct rig *rig = seat->arg;
    struct rig_rank rank = {.rig = rig, .seat = seat};
    struct team *team = NULL;
    struct comm_group *group = NULL;
    struct err *err = &seat->err;
    model_progress progress = 0;
    int members[COMM_MAX_RANKS], rc = -1, blocks_per_seq = rig->max_context / RIG_BLOCK + 1, n_blocks = blocks_per_seq * rig->n_seqs;
    if (model_split_compute(&rig->config, rig->tp, rig->pp, rig->expert_parallel, rig->layers_per_stage, seat->rank, &rank.split, err) != 0)
        return -1;
    for (int i = 0; i < rig->tp; i++)
        members[i] = rank.split.pp_rank * rig->tp + i;
    size_t floats = (size_t)RIG_STEP_TOKENS * (size_t)rig->config.hidden;
    if (team_create(rig->n_threads, NULL, &team, err) != 0 ||
        comm_group_join(seat->world, seat->rank, members, rig->tp, floats, &group, err) != 0)
        return -1;
    struct model_opts opts = {.team = team, .tp = group, .kv_dtype = rig->kv_dtype, .keeps_f32 = rig->keeps_f32, .block_size = RIG_BLOCK, .max_step_tokens = RIG_STEP_TOKENS,
                              .max_step_seqs = RIG_MAX_SEQS, .max_context = rig->max_context};
    rank.hidden = malloc(floats * sizeof(float));
    rank.logits = malloc((size_t)RIG_STEP_TOKENS * (size_t)(rank.split.vocab_len + 1) * sizeof(float));
    /* Blocks of all sequences lie scattered among each other. */
    for (int s = 0; s < rig->n_seqs; s++) {
        rank.blocks[s] = malloc((size_t)blocks_per_seq * sizeof(int32_t));
        for (int b = 0; b < blocks_per_seq; b++)
            rank.blocks[s][b] = (blocks_per_seq - 1 - b) * rig->n_seqs + s;
    }
    if (model_create(&rig->config, &rank.split, &opts, &rank.model, err) == 0) {
        uint64_t expected = model_weights_bytes(rank.model, rig->store);
        if (rig->is_dummy)
            rc = model_load_dummy(rank.model, rig->dummy, 7, &progress, NULL, err);
        else
            rc = model_load(rank.model, rig->store, &progress, NULL, err);
        if (rc == 0 && (progress != model_weights_bytes(rank.model, NULL) || (!rig->is_dummy && progress != expected)))
            rc = err_set(err, ERR_INTERNAL, "progress ended at %llu of %llu bytes", (unsigned long long)progress, (unsigned long long)expected);
        if (rc == 0)
            rc = model_kv_create(rank.model, n_blocks, err);
        pthread_mutex_lock(&rig->lock);
        rig->weights_bytes += progress;
        pthread_mutex_unlock(&rig->lock);
        if (rc == 0 && rig->loaded != NULL && seat->rank == 0)
            rig->loaded(rank.model, rig->loaded_ctx);
        if (rc == 0)
            rc = rig_run_seqs(&rank, err);
    }
    if (rc != 0)
        comm_world_abort(seat->world, err->msg);
    model_destroy(rank.model);
    comm_group_leave(group);
    team_destroy(team);
    for (int s = 0; s < rig->n_seqs; s++)
        free(rank.blocks[s]);
    free(rank.hidden);
    free(rank.logits);
    return rc;
}

/* Runs the sequences; 0, or -1 with the first rank's error. */
static inline int rig_run(struct rig *rig, struct rig_seq *seqs, int n_seqs, struct err *err) {
    rig->tp = rig->tp > 0 ? rig->tp : 1;
    rig->pp = rig->pp > 0 ? rig->pp : 1;
    rig->n_threads = rig->n_threads > 0 ? rig->n_threads : 1;
    rig->seqs = seqs;
    rig->n_seqs = n_seqs;
    rig->weights_bytes = 0;
    rig->max_context = 0;
    for (int s = 0; s < n_seqs; s++)
        rig->max_context = seqs[s].n_tokens > rig->max_context ? seqs[s].n_tokens : rig->max_context;
    if (!rig->is_dummy && weights_store_open(rig->path, &rig->store, err) != 0)
        return -1;
    int rc = model_config_load(rig->path, rig->store, rig->overrides, &rig->config, err);
    if (rc == 0)
        rc = model_config_quantize(&rig->config, rig->store, rig->quantization, err);
    if (rc == 0) {
        struct kit kit;
        struct kit_seat seats[COMM_MAX_RANKS];
        pthread_mutex_init(&rig->lock, NULL);
        kit_create(&kit, (int[]){rig->tp * rig->pp, 0}, 0, 60000);
        kit_connect(&kit);
        kit_start(&kit, seats, rig_rank_main, rig);
        kit_join(&kit, seats);
        for (int i = 0; i < kit.n_ranks && rc == 0; i++)
            if (seats[i].rc != 0)
                rc = err_copy(err, &seats[i].err);
        kit_destroy(&kit);
        pthread_mutex_destroy(&rig->lock);
    }
    weights_store_close(rig->store);
    rig->store = NULL;
    return rc;
}

#endif
