/*
 * Attention of a step over the paged cache: how the work is cut, and one item of it.
 *
 * A sequence's context is cut into parts at multiples of MODEL_PART_TOKENS, counted from its first token, and a row's
 * result is the merge of its parts in that order. Who computes which part is free: one thread takes some rows through
 * all their parts, or, when there are few rows and long contexts, several threads share the parts of one sequence. Either
 * way the numbers are the same, whatever else is in the step.
 */
#include "model/decoder.h"

enum { SPLIT_BYTES = 16 << 20, ITEMS_PER_THREAD = 4 };

static int parts_of(int n_tokens) { return (n_tokens + MODEL_PART_TOKENS - 1) / MODEL_PART_TOKENS; }

static int group_of(const struct model *model) { return model->split.n_heads / model->split.n_kv_heads; }

void model_attn_capacity(const struct model *model, int *ret_items, int *ret_merges, int *ret_split_rows) {
    const struct model_opts *o = &model->opts;
    int group = group_of(model);
    size_t row_bytes = (size_t)model->config.head_dim * sizeof(float) * (size_t)model->split.n_kv_heads;
    int one = model->max_parts * (group > KERNELS_ATTN_MAX_ROWS ? 0 : KERNELS_ATTN_MAX_ROWS), most = (int)(SPLIT_BYTES / row_bytes);
    *ret_split_rows = one < most ? one : most;
    *ret_merges = o->max_step_seqs;
    *ret_items = o->max_step_tokens * group / model->rows_per_item + o->max_step_seqs + *ret_split_rows;
}

/* Shares the parts of a sequence's context out; false when there is no room left for that. */
static bool plan_split(struct model *model, int seq, int n_rows, int n_parts) {
    struct model_buffers *b = &model->buffers;
    if (b->n_split_rows + n_rows * n_parts > b->cap_split_rows)
        return false;
    b->merges[b->n_merges++] = (struct model_attn_merge){.seq = seq, .n_rows = n_rows, .slot = b->n_split_rows};
    for (int part = 0; part < n_parts; part++) {
        b->items[b->n_items++] = (struct model_attn_item){
            .seq = seq, .n_rows = n_rows, .part_begin = part, .part_end = part + 1, .slot = b->n_split_rows};
    }
    b->n_split_rows += n_rows * n_parts;
    return true;
}

void model_attn_plan(struct model *model) {
    struct model_buffers *b = &model->buffers;
    const struct model_step *step = model->step;
    int group = group_of(model), few = ITEMS_PER_THREAD * team_size(model->opts.team);
    /* With many sequences, or many new tokens, there is work for every thread without sharing a sequence. */
    bool is_small = step->n_seqs * model->split.n_kv_heads < few;
    b->n_items = b->n_merges = b->n_split_rows = 0;
    for (int s = 0; s < step->n_seqs; s++) {
        const struct model_step_seq *seq = &step->seqs[s];
        int n_rows = seq->n_tokens * group, n_parts = parts_of(seq->position + seq->n_tokens);
        if (is_small && n_parts > 1 && n_rows <= KERNELS_ATTN_MAX_ROWS && plan_split(model, s, n_rows, n_parts))
            continue;
        for (int row = 0; row < n_rows; row += model->rows_per_item) {
            int n = n_rows - row < model->rows_per_item ? n_rows - row : model->rows_per_item;
            int last_token = (row + n - 1) / group;
            b->items[b->n_items++] = (struct model_attn_item){.seq = s,
                                                              .row_begin = row,
                                                              .n_rows = n,
                                                              .part_end = parts_of(seq->position + last_token + 1),
                                                              .slot = -1};
        }
    }
}

static const float *query_row(const struct model *model, int token, int head) {
    size_t stride = (size_t)(model->split.n_heads + 2 * model->split.n_kv_heads) * (size_t)model->config.head_dim;
    return model->buffers.qkv + (size_t)token * stride + (size_t)head * (size_t)model->config.head_dim;
}

/* Points the thread's tables at the blocks that hold tokens [begin, end). */
static void point_blocks(const struct model *model, const struct model_thread *mine, const struct model_step_seq *seq, int layer, int kv_head,
                         int begin, int end) {
    int size = model->opts.block_size;
    for (int b = begin / size; b <= (end - 1) / size; b++) {
        mine->k_blocks[b] = model_kv_block(model, layer, kv_head, 0, seq->blocks[b]);
        mine->v_blocks[b] = model_kv_block(model, layer, kv_head, 1, seq->blocks[b]);
    }
}

/* Partial results of n_rows rows and some parts: part p of row i is at p · n_rows + i. */
struct partials {
    float *out, *max, *sum;
    int n_rows;
};

/* The finished output of row i for a token and head, and the form of it that the output projection reads. */
static void merge_row(struct model *model, int layer, const struct partials *from, int i, int n_parts, int token, int head,
                      struct model_thread *mine) {
    int dim = model->config.head_dim, n_cols = model->split.n_heads * dim, forms = kernels_matrix_acts(&model->layers[layer].o);
    for (int p = 0; p < n_parts; p++) {
        size_t at = (size_t)p * (size_t)from->n_rows + (size_t)i;
        mine->merge_parts[p] = from->out + at * (size_t)dim;
        mine->merge_max[p] = from->max[at];
        mine->merge_sum[p] = from->sum[at];
    }
    kernels_attn_merge(mine->merge_parts, mine->merge_max, mine->merge_sum, n_parts, dim,
                       model->buffers.attn + (size_t)token * (size_t)n_cols + (size_t)head * (size_t)dim);
    if (dim % KERNELS_GROUP == 0)
        kernels_acts_quantize_columns(&model->buffers.attn_acts, forms, token, head * dim, (head + 1) * dim);
}

static void run_item(struct model *model, const struct model_attn_item *item, int layer, int kv_head, struct model_thread *mine) {
    const struct model_step_seq *seq = &model->step->seqs[item->seq];
    struct model_buffers *b = &model->buffers;
    int group = group_of(model), dim = model->config.head_dim, token0 = b->seq_token[item->seq], last = 0;
    const float *q[KERNELS_ATTN_MAX_ROWS];
    float *out[KERNELS_ATTN_MAX_ROWS];
    int limit[KERNELS_ATTN_MAX_ROWS];
    for (int i = 0; i < item->n_rows; i++) {
        int row = item->row_begin + i;
        q[i] = query_row(model, token0 + row / group, kv_head * group + row % group);
        last = limit[i] = seq->position + row / group + 1;
    }
    int end = item->part_end * MODEL_PART_TOKENS < last ? item->part_end * MODEL_PART_TOKENS : last;
    point_blocks(model, mine, seq, layer, kv_head, item->part_begin * MODEL_PART_TOKENS, end);
    bool is_split = item->slot >= 0;
    size_t slot = is_split ? (size_t)kv_head * (size_t)b->cap_split_rows + (size_t)item->slot : 0;
    struct partials to = {is_split ? b->split_out + slot * (size_t)dim : mine->attn_parts, is_split ? b->split_max + slot : mine->attn_max,
                          is_split ? b->split_sum + slot : mine->attn_sum, item->n_rows};
    struct kernels_attn attn = {.kv_dtype = model->opts.kv_dtype,
                                .head_dim = dim,
                                .block_size = model->opts.block_size,
                                .scale = model->attn_scale,
                                .k_blocks = mine->k_blocks,
                                .v_blocks = mine->v_blocks,
                                .n_rows = item->n_rows,
                                .q = q,
                                .row_limit = limit};
    for (int part = item->part_begin; part < item->part_end; part++) {
        size_t at = (size_t)part * (size_t)item->n_rows;
        for (int i = 0; i < item->n_rows; i++)
            out[i] = to.out + (at + (size_t)i) * (size_t)dim;
        attn.token_begin = part * MODEL_PART_TOKENS;
        attn.token_end = attn.token_begin + MODEL_PART_TOKENS < last ? attn.token_begin + MODEL_PART_TOKENS : last;
        kernels_attn_partial(&attn, out, to.max + at, to.sum + at, mine->kernel_scratch);
    }
    for (int i = 0; i < item->n_rows && !is_split; i++)
        merge_row(model, layer, &to, i, parts_of(limit[i]), token0 + (item->row_begin + i) / group,
                  kv_head * group + (item->row_begin + i) % group, mine);
}

void model_attn_items(struct model *model, int layer, int thread) {
    int n_kv = model->split.n_kv_heads, n = model->buffers.n_items * n_kv;
    for (int i; (i = team_take(model->opts.team)) < n;)
        run_item(model, &model->buffers.items[i / n_kv], layer, i % n_kv, &model->threads[thread]);
}

void model_attn_merges(struct model *model, int layer, int thread) {
    struct model_buffers *b = &model->buffers;
    int n_kv = model->split.n_kv_heads, group = group_of(model), n = b->n_merges * n_kv;
    for (int i; (i = team_take(model->opts.team)) < n;) {
        const struct model_attn_merge *merge = &b->merges[i / n_kv];
        const struct model_step_seq *seq = &model->step->seqs[merge->seq];
        size_t slot = (size_t)(i % n_kv) * (size_t)b->cap_split_rows + (size_t)merge->slot;
        struct partials from = {b->split_out + slot * (size_t)model->config.head_dim, b->split_max + slot, b->split_sum + slot, merge->n_rows};
        for (int row = 0; row < merge->n_rows; row++)
            merge_row(model, layer, &from, row, parts_of(seq->position + row / group + 1), b->seq_token[merge->seq] + row / group,
                      i % n_kv * group + row % group, &model->threads[thread]);
    }
}
