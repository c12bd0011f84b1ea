/*
 * Creating and ending a shard: its list of tensors, its buffers, its KV cache. The rank's main thread runs all of it.
 * All memory is mapped once; a step allocates nothing.
 */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model/decoder.h"

enum { HUGE_PAGE_BYTES = 2 << 20, ATTN_PARTS_BYTES = 4 << 20 };

void *model_map(size_t bytes) {
    if (bytes == 0)
        bytes = 1;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (bytes >= HUGE_PAGE_BYTES)
        madvise(memory, bytes, MADV_HUGEPAGE); /* only a wish */
    return memory;
}

static void unmap(void *memory, size_t bytes) {
    if (memory != NULL)
        munmap(memory, bytes == 0 ? 1 : bytes);
}

/* Lays memory out piece by piece; with base NULL it only counts. */
struct layout {
    uint8_t *base;
    size_t used_bytes;
};

static void *take(struct layout *layout, size_t n, size_t item_bytes) {
    void *at = layout->base == NULL ? NULL : layout->base + layout->used_bytes;
    layout->used_bytes += (n * item_bytes + 63) / 64 * 64;
    return at;
}

static float *take_floats(struct layout *layout, size_t n) { return take(layout, n, sizeof(float)); }

/* Room for the integer forms of up to n rows of `f32`. */
static void take_acts(struct layout *layout, struct kernels_acts *acts, int n, int n_cols, const float *f32) {
    *acts = (struct kernels_acts){.n_cols = n_cols, .stride_cols = n_cols, .f32 = f32};
    if (n_cols % KERNELS_GROUP != 0)
        return; /* no matrix of such columns reads them */
    void *memory = take(layout, 1, kernels_acts_bytes(n, n_cols));
    if (memory != NULL)
        kernels_acts_place(acts, n, memory);
}

static void take_attention(struct model *model, struct layout *layout) {
    struct model_buffers *b = &model->buffers;
    size_t n_kv = (size_t)model->split.n_kv_heads;
    model_attn_capacity(model, &b->cap_items, &b->cap_merges, &b->cap_split_rows);
    b->items = take(layout, (size_t)b->cap_items, sizeof *b->items);
    b->merges = take(layout, (size_t)b->cap_merges, sizeof *b->merges);
    b->split_out = take_floats(layout, (size_t)b->cap_split_rows * n_kv * (size_t)model->config.head_dim);
    b->split_max = take_floats(layout, (size_t)b->cap_split_rows * n_kv);
    b->split_sum = take_floats(layout, (size_t)b->cap_split_rows * n_kv);
}

static void take_mixture(struct model *model, struct layout *layout) {
    struct model_buffers *b = &model->buffers;
    size_t n_experts = (size_t)model->config.n_experts, n_tokens = (size_t)model->opts.max_step_tokens;
    size_t n_slots = n_tokens * (size_t)model->config.n_experts_active;
    b->router = take_floats(layout, n_tokens * n_experts);
    b->route_expert = take(layout, n_slots, sizeof(int));
    b->route_weight = take_floats(layout, n_slots);
    b->slot_token = take(layout, n_slots, sizeof(int));
    b->slot_weight = take_floats(layout, n_slots);
    b->expert_slot = take(layout, (size_t)model->split.n_experts + 1, sizeof(int));
    b->active = take(layout, (size_t)model->split.n_experts, sizeof(int));
}

static void take_buffers(struct model *model, struct layout *layout) {
    const struct model_config *c = &model->config;
    const struct model_split *s = &model->split;
    struct model_buffers *b = &model->buffers;
    int n_tokens = model->opts.max_step_tokens, dim = c->head_dim;
    size_t n = (size_t)n_tokens;
    b->x = take_floats(layout, n * (size_t)c->hidden);
    b->normed = take_floats(layout, n * (size_t)c->hidden);
    b->sum = take_floats(layout, n * (size_t)c->hidden);
    b->qkv = take_floats(layout, n * (size_t)(s->n_heads + 2 * s->n_kv_heads) * (size_t)dim);
    b->attn = take_floats(layout, n * (size_t)s->n_heads * (size_t)dim);
    int ffn_rows = c->n_experts > 0 ? n_tokens * c->n_experts_active : n_tokens, ffn_len = c->n_experts > 0 ? s->moe_ffn_len : s->ffn_len;
    b->gate = take_floats(layout, (size_t)ffn_rows * (size_t)ffn_len);
    b->up = take_floats(layout, (size_t)ffn_rows * (size_t)ffn_len);
    take_acts(layout, &b->hidden_acts, n_tokens, c->hidden, b->normed);
    take_acts(layout, &b->attn_acts, n_tokens, s->n_heads * dim, b->attn);
    take_acts(layout, &b->ffn_acts, ffn_rows, ffn_len, b->gate);
    b->token_seq = take(layout, n, sizeof(int));
    b->token_position = take(layout, n, sizeof(int));
    b->seq_token = take(layout, (size_t)model->opts.max_step_seqs, sizeof(int));
    model->logit_tokens = take(layout, n, sizeof(int));
    take_attention(model, layout);
    if (c->n_experts > 0)
        take_mixture(model, layout);
}

static void take_thread(struct model *model, struct layout *layout, struct model_thread *thread) {
    size_t n_blocks = (size_t)(model->opts.max_context / model->opts.block_size + 1);
    size_t part_rows = (size_t)model->max_parts * (size_t)model->rows_per_item;
    thread->kernel_scratch = take(layout, 1, KERNELS_SCRATCH_BYTES);
    thread->k_blocks = take(layout, n_blocks, sizeof *thread->k_blocks);
    thread->v_blocks = take(layout, n_blocks, sizeof *thread->v_blocks);
    thread->attn_parts = take_floats(layout, part_rows * (size_t)model->config.head_dim);
    thread->attn_max = take_floats(layout, part_rows);
    thread->attn_sum = take_floats(layout, part_rows);
    thread->merge_parts = take(layout, (size_t)model->max_parts, sizeof *thread->merge_parts);
    thread->merge_max = take_floats(layout, (size_t)model->max_parts);
    thread->merge_sum = take_floats(layout, (size_t)model->max_parts);
    if (model->config.n_experts > 0) {
        thread->tokens = take_floats(layout, (size_t)MODEL_GATHER * (size_t)model->config.hidden);
        take_acts(layout, &thread->acts, MODEL_GATHER, model->config.hidden, thread->tokens);
    }
}

static void take_all(struct model *model, struct layout *layout) {
    size_t table = (size_t)model->opts.max_context * (size_t)(model->config.head_dim / 2);
    model->rope_cos = take_floats(layout, table);
    model->rope_sin = take_floats(layout, table);
    take_buffers(model, layout);
    for (int i = 0; i < model->n_threads; i++)
        take_thread(model, layout, &model->threads[i]);
}

static int check_opts(const struct model_opts *o, struct err *err) {
    if (o->kv_dtype != DTYPE_F32 && o->kv_dtype != DTYPE_BF16 && o->kv_dtype != DTYPE_I8)
        return err_set(err, ERR_UNSUPPORTED, "a KV cache in %s is not supported; F32, BF16 and I8 are", dtype_name(o->kv_dtype));
    if (o->block_size < 1 || o->max_step_tokens < 1 || o->max_step_seqs < 1 || o->max_context < 1)
        return err_set(err, ERR_INVALID, "a block of %d, steps of %d tokens and %d sequences, a context of %d: each must be at least 1",
                       o->block_size, o->max_step_tokens, o->max_step_seqs, o->max_context);
    return 0;
}

int model_describe(const struct model_config *config, const struct model_split *split, const struct model_opts *opts, int n_threads,
                   struct model **ret, struct err *err) {
    if (check_opts(opts, err) != 0)
        return -1;
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a model");
    model->config = *config;
    model->split = *split;
    model->opts = *opts;
    model->n_threads = n_threads;
    model->n_layers = split->layer_end - split->layer_begin;
    model->attn_scale = (float)(1 / sqrt(config->head_dim));
    model->max_parts = (opts->max_context + MODEL_PART_TOKENS - 1) / MODEL_PART_TOKENS;
    /* Fewer rows at a time for very long contexts, so that a thread's partial results stay in its caches. */
    int rows = ATTN_PARTS_BYTES / (int)sizeof(float) / config->head_dim / model->max_parts;
    model->rows_per_item = rows > KERNELS_ATTN_MAX_ROWS ? KERNELS_ATTN_MAX_ROWS : rows < 1 ? 1 : rows;
    model->layers = calloc((size_t)model->n_layers, sizeof *model->layers);
    model->experts = calloc((size_t)model->n_layers * (size_t)split->n_experts + 1, sizeof *model->experts);
    model->threads = calloc((size_t)n_threads, sizeof *model->threads);
    if (model->layers == NULL || model->experts == NULL || model->threads == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a model of %d layers", model->n_layers);
        goto destroy_model;
    }
    for (int i = 0; i < model->n_layers; i++)
        model->layers[i].experts = model->experts + (size_t)i * (size_t)split->n_experts;
    if (model_parts_list(model, err) != 0)
        goto destroy_model;
    struct layout layout = {0};
    take_all(model, &layout);
    model->memory_bytes = layout.used_bytes;
    *ret = model;
    return 0;
destroy_model:
    model_destroy(model);
    return -1;
}

int model_create(const struct model_config *config, const struct model_split *split, const struct model_opts *opts, struct model **ret, struct err *err) {
    struct model *model;
    if (model_describe(config, split, opts, team_size(opts->team), &model, err) != 0)
        return -1;
    model->memory = model_map(model->memory_bytes);
    if (model->memory == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %zu bytes of buffers for steps of %d tokens", model->memory_bytes, opts->max_step_tokens);
        model_destroy(model);
        return -1;
    }
    take_all(model, &(struct layout){.base = model->memory});
    model_rope_fill(model, NULL);
    *ret = model;
    return 0;
}

void model_destroy(struct model *model) {
    if (model == NULL)
        return;
    unmap(model->weights, model->weights_bytes);
    unmap(model->memory, model->memory_bytes);
    unmap(model->kv, model->kv_bytes);
    free(model->parts);
    free(model->experts);
    free(model->layers);
    free(model->threads);
    free(model);
}

uint64_t model_kv_block_bytes(const struct model *model) {
    size_t row_bytes = dtype_row_bytes(model->opts.kv_dtype, (size_t)model->config.head_dim);
    return (uint64_t)model->n_layers * (uint64_t)model->split.n_kv_heads * 2 * (uint64_t)model->opts.block_size * row_bytes;
}

uint64_t model_bytes_read(const struct model *model) { return atomic_load(&model->bytes_read); }

uint64_t model_buffers_bytes(const struct model *model) { return model->memory_bytes; }

uint64_t model_idle_bytes(const struct model *model) {
    uint64_t tables = 2 * sizeof(float) * (uint64_t)model->opts.max_context * (uint64_t)(model->config.head_dim / 2);
    return model->memory_bytes > tables ? model->memory_bytes - tables : 0;
}

int model_kv_create(struct model *model, int n_blocks, struct err *err) {
    if (n_blocks < 1)
        return err_set(err, ERR_INVALID, "a KV cache of %d blocks; at least 1 is needed", n_blocks);
    if (model->kv != NULL)
        return err_set(err, ERR_INTERNAL, "the KV cache exists already");
    size_t bytes = (size_t)n_blocks * model_kv_block_bytes(model);
    model->kv = model_map(bytes);
    if (model->kv == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a KV cache of %d blocks (%zu bytes)", n_blocks, bytes);
    model->kv_bytes = bytes;
    model->n_blocks = n_blocks;
    return 0;
}

void *model_kv_block(const struct model *model, int layer, int kv_head, int is_value, int block) {
    size_t block_bytes = (size_t)model->opts.block_size * dtype_row_bytes(model->opts.kv_dtype, (size_t)model->config.head_dim);
    size_t plane = ((size_t)layer * (size_t)model->split.n_kv_heads + (size_t)kv_head) * 2 + (size_t)is_value;
    return model->kv + (plane * (size_t)model->n_blocks + (size_t)block) * block_bytes;
}
