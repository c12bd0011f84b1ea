/*
 * The forward pass of a step. All threads of the rank's team run step_main side by side; between two barriers each takes
 * pieces of one phase, and thread 0 alone talks to the other ranks. A token's numbers depend on nothing but the token
 * and its context: not on the number of threads, nor on what else is in the step.
 *
 * One layer: norm | q, k, v | heads: bias, norm, rotation, cache | attention | output | sum over ranks | norm | gate, up,
 * silu | down | sum over ranks. "|" is a barrier.
 */
#include <string.h>

#include "kernels/vector.h"
#include "model/decoder.h"

/* Pieces of a phase per thread, so that a slow thread takes fewer. */
enum { CHUNKS_PER_THREAD = 8, SILU_PANELS = KERNELS_GROUP / KERNELS_PANEL_ROWS };

int model_chunk_panels(const struct model *model, int n_panels) {
    int chunk = n_panels / (team_size(model->opts.team) * CHUNKS_PER_THREAD) / SILU_PANELS * SILU_PANELS;
    return chunk < SILU_PANELS ? SILU_PANELS : chunk;
}

static int min_int(int a, int b) { return a < b ? a : b; }

static int n_chunks(int n_panels, int chunk) { return (n_panels + chunk - 1) / chunk; }

void model_silu_columns(struct model *model, const struct kernels_matrix *down, int n_cols, int row_begin, int row_end, int col_begin,
                        int col_end) {
    struct model_buffers *b = &model->buffers;
    for (int row = row_begin; row < row_end; row++) {
        size_t at = (size_t)row * (size_t)n_cols + (size_t)col_begin;
        kernels_silu_mul(b->gate + at, b->up + at, col_end - col_begin, b->gate + at);
        kernels_acts_quantize_columns(&b->ffn_acts, kernels_matrix_acts(down), row, col_begin, col_end);
    }
}

/* --- phases --- */

/* Sums `sum` over the ranks. Ends with a barrier; nonzero when it failed. */
static int reduce(struct model *model, int n_tokens, int thread) {
    if (model->opts.tp != NULL && model->split.tp_size > 1) {
        if (thread == 0)
            model->failed = comm_allreduce(model->opts.tp, model->buffers.sum, (size_t)n_tokens * (size_t)model->config.hidden, &model->err);
        team_barrier(model->opts.team);
    }
    return model->failed;
}

/* The first stage's tokens, zero where another rank has the row; or what the stage before hands over. */
static int embed(struct model *model, int thread) {
    struct model_buffers *b = &model->buffers;
    const struct model_split *split = &model->split;
    int n_tokens = model->step->n_tokens, hidden = model->config.hidden, begin, end;
    float *to = split->has_embedding ? b->sum : b->x;
    team_share(model->opts.team, thread, n_tokens, &begin, &end);
    for (int t = begin; t < end; t++) {
        float *row = to + (size_t)t * (size_t)hidden;
        if (!split->has_embedding) {
            memcpy(row, model->hidden + (size_t)t * (size_t)hidden, (size_t)hidden * sizeof *row);
            continue;
        }
        int id = model->step->tokens[t] - split->vocab_begin;
        if (id >= 0 && id < split->vocab_len)
            kernels_matrix_unpack_row(&model->embedding, id, row);
        else
            memset(row, 0, (size_t)hidden * sizeof *row);
        memset(b->x + (size_t)t * (size_t)hidden, 0, (size_t)hidden * sizeof *row);
    }
    team_barrier(model->opts.team);
    return split->has_embedding ? reduce(model, n_tokens, thread) : 0;
}

/* x += sum (unless is_first), then normed = norm(x), and the forms of it that products read. */
static void norm_tokens(struct model *model, const float *weight, bool adds, int forms, int thread) {
    struct model_buffers *b = &model->buffers;
    int hidden = model->config.hidden, begin, end;
    team_share(model->opts.team, thread, model->step->n_tokens, &begin, &end);
    for (int t = begin; t < end; t++) {
        size_t at = (size_t)t * (size_t)hidden;
        if (adds)
            kernels_add(b->sum + at, hidden, b->x + at);
        kernels_rmsnorm(b->x + at, weight, hidden, model->config.rms_eps, b->normed + at);
    }
    kernels_acts_quantize(&b->hidden_acts, forms, begin, end);
    team_barrier(model->opts.team);
}

/* One matrix, all panels, into out columns [0, n_rows). */
static void product(struct model *model, const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                    int out_stride, int thread) {
    int chunk = model_chunk_panels(model, matrix->n_panels), n = n_chunks(matrix->n_panels, chunk);
    for (int i; (i = team_take(model->opts.team)) < n;)
        kernels_matmul(matrix, acts, n_tokens, out, out_stride, i * chunk, min_int((i + 1) * chunk, matrix->n_panels),
                       model->threads[thread].kernel_scratch);
    team_barrier(model->opts.team);
}

static void project_qkv(struct model *model, const struct model_layer *layer, int thread) {
    struct model_buffers *b = &model->buffers;
    const struct kernels_matrix *matrices[] = {&layer->q, &layer->k, &layer->v};
    int n_panels = layer->q.n_panels + layer->k.n_panels + layer->v.n_panels, chunk = model_chunk_panels(model, n_panels);
    int stride = layer->q.n_rows + layer->k.n_rows + layer->v.n_rows, n = 0, first[4] = {0};
    for (int m = 0; m < 3; m++)
        first[m + 1] = n += n_chunks(matrices[m]->n_panels, chunk);
    for (int i; (i = team_take(model->opts.team)) < n;) {
        int m = i >= first[2] ? 2 : i >= first[1] ? 1 : 0, begin = (i - first[m]) * chunk;
        int column = m == 0 ? 0 : m == 1 ? layer->q.n_rows : layer->q.n_rows + layer->k.n_rows;
        kernels_matmul(matrices[m], &b->hidden_acts, model->step->n_tokens, b->qkv + column, stride, begin,
                       min_int(begin + chunk, matrices[m]->n_panels), model->threads[thread].kernel_scratch);
    }
    team_barrier(model->opts.team);
}

static void rotate(const struct model *model, float *row, int position) {
    int dim = model->config.head_dim;
    size_t at = (size_t)position * (size_t)(dim / 2);
    if (model->config.rope_pairs)
        kernels_rope_pairs(row, model->rope_cos + at, model->rope_sin + at, dim);
    else
        kernels_rope_halves(row, model->rope_cos + at, model->rope_sin + at, dim);
}

/* One head of one token: query heads stay in place, keys and values go into the cache. */
static void finish_head(struct model *model, const struct model_layer *layer, int number, int token, int head) {
    const struct model_split *s = &model->split;
    struct model_buffers *b = &model->buffers;
    int dim = model->config.head_dim, n_all = s->n_heads + 2 * s->n_kv_heads, position = b->token_position[token];
    float *row = b->qkv + ((size_t)token * (size_t)n_all + (size_t)head) * (size_t)dim;
    bool is_query = head < s->n_heads, is_value = head >= s->n_heads + s->n_kv_heads;
    int kv_head = is_query ? 0 : is_value ? head - s->n_heads - s->n_kv_heads : head - s->n_heads;
    const float *bias = is_query ? layer->q_bias : is_value ? layer->v_bias : layer->k_bias;
    if (bias != NULL)
        kernels_add(bias + (size_t)(is_query ? head : kv_head) * (size_t)dim, dim, row);
    if (!is_value) {
        const float *norm = is_query ? layer->q_norm : layer->k_norm;
        if (norm != NULL)
            kernels_rmsnorm(row, norm, dim, model->config.rms_eps, row);
        rotate(model, row, position);
    }
    if (!is_query) {
        int block = model->step->seqs[b->token_seq[token]].blocks[position / model->opts.block_size];
        kernels_kv_store(model->opts.kv_dtype, row, dim, model->opts.block_size, model_kv_block(model, number, kv_head, is_value, block),
                         position % model->opts.block_size);
    }
}

static void finish_heads(struct model *model, const struct model_layer *layer, int number, int thread) {
    int n_all = model->split.n_heads + 2 * model->split.n_kv_heads, begin, end;
    team_share(model->opts.team, thread, model->step->n_tokens * n_all, &begin, &end);
    for (int i = begin; i < end; i++)
        finish_head(model, layer, number, i / n_all, i % n_all);
    team_barrier(model->opts.team);
}

static void attend(struct model *model, const struct model_layer *layer, int number, int thread) {
    struct model_buffers *b = &model->buffers;
    model_attn_items(model, number, thread);
    team_barrier(model->opts.team);
    if (b->n_merges > 0) {
        model_attn_merges(model, number, thread);
        team_barrier(model->opts.team);
    }
    if (kernels_matrix_acts(&layer->o) != 0 && model->config.head_dim % KERNELS_GROUP != 0) {
        /* Groups of activations span heads: they can only be scaled when all heads are there. */
        int begin, end;
        team_share(model->opts.team, thread, model->step->n_tokens, &begin, &end);
        kernels_acts_quantize(&b->attn_acts, kernels_matrix_acts(&layer->o), begin, end);
        team_barrier(model->opts.team);
    }
    product(model, &layer->o, &b->attn_acts, model->step->n_tokens, b->sum, model->config.hidden, thread);
}

/* gate = silu(gate(normed)) · up(normed), each thread finishing the columns that it computed. */
static void gate_up(struct model *model, const struct model_layer *layer, int thread) {
    struct model_buffers *b = &model->buffers;
    int n_tokens = model->step->n_tokens, n_cols = layer->gate.n_rows, n_panels = layer->gate.n_panels;
    int chunk = model_chunk_panels(model, 2 * n_panels), n = n_chunks(n_panels, chunk);
    void *scratch = model->threads[thread].kernel_scratch;
    for (int i; (i = team_take(model->opts.team)) < n;) {
        int begin = i * chunk, end = min_int(begin + chunk, n_panels);
        kernels_matmul(&layer->gate, &b->hidden_acts, n_tokens, b->gate, n_cols, begin, end, scratch);
        kernels_matmul(&layer->up, &b->hidden_acts, n_tokens, b->up, n_cols, begin, end, scratch);
        model_silu_columns(model, &layer->down, n_cols, 0, n_tokens, begin * KERNELS_PANEL_ROWS, min_int(end * KERNELS_PANEL_ROWS, n_cols));
    }
    team_barrier(model->opts.team);
}

/* The forms of activations that gate and up, or those of any expert, read. */
static int ffn_acts(const struct model *model, const struct model_layer *layer) {
    if (model->config.n_experts == 0)
        return kernels_matrix_acts(&layer->gate) | kernels_matrix_acts(&layer->up);
    int forms = 0;
    for (int e = 0; e < model->split.n_experts; e++)
        forms |= kernels_matrix_acts(&layer->experts[e].gate) | kernels_matrix_acts(&layer->experts[e].up);
    return forms;
}

static int run_layer(struct model *model, int number, bool adds, int thread) {
    const struct model_layer *layer = &model->layers[number];
    struct model_buffers *b = &model->buffers;
    int n_tokens = model->step->n_tokens;
    int qkv_acts = kernels_matrix_acts(&layer->q) | kernels_matrix_acts(&layer->k) | kernels_matrix_acts(&layer->v);
    norm_tokens(model, layer->attn_norm, adds, qkv_acts, thread);
    project_qkv(model, layer, thread);
    finish_heads(model, layer, number, thread);
    attend(model, layer, number, thread);
    if (reduce(model, n_tokens, thread) != 0)
        return -1;
    norm_tokens(model, layer->ffn_norm, true, ffn_acts(model, layer), thread);
    if (model->config.n_experts > 0) {
        model_moe_run(model, number, thread);
    } else {
        gate_up(model, layer, thread);
        product(model, &layer->down, &b->ffn_acts, n_tokens, b->sum, model->config.hidden, thread);
    }
    return reduce(model, n_tokens, thread);
}

/* x += sum, and what leaves this rank: the stage's hidden rows, or the logits that are wanted. */
static void leave(struct model *model, int thread) {
    struct model_buffers *b = &model->buffers;
    int hidden = model->config.hidden, begin, end;
    if (!model->split.has_head) {
        team_share(model->opts.team, thread, model->step->n_tokens, &begin, &end);
        for (int t = begin; t < end; t++) {
            size_t at = (size_t)t * (size_t)hidden;
            kernels_add(b->sum + at, hidden, b->x + at);
            memcpy(model->hidden + at, b->x + at, (size_t)hidden * sizeof *b->x);
        }
        return;
    }
    if (model->n_logits == 0 || model->split.vocab_len == 0)
        return;
    team_share(model->opts.team, thread, model->n_logits, &begin, &end);
    for (int i = begin; i < end; i++) {
        size_t at = (size_t)model->logit_tokens[i] * (size_t)hidden;
        kernels_add(b->sum + at, hidden, b->x + at);
        kernels_rmsnorm(b->x + at, model->final_norm, hidden, model->config.rms_eps, b->normed + (size_t)i * (size_t)hidden);
    }
    kernels_acts_quantize(&b->hidden_acts, kernels_matrix_acts(&model->head), begin, end);
    team_barrier(model->opts.team);
    product(model, &model->head, &b->hidden_acts, model->n_logits, model->logits, model->split.vocab_len, thread);
}

static void step_main(void *arg, int thread) {
    struct model *model = arg;
    if (embed(model, thread) != 0)
        return;
    for (int i = 0; i < model->n_layers; i++)
        if (run_layer(model, i, i > 0 || model->split.has_embedding, thread) != 0)
            return;
    leave(model, thread);
}

/* --- the step --- */

static int check_seq(const struct model *model, const struct model_step_seq *seq, int number, struct err *err) {
    const struct model_opts *o = &model->opts;
    if (seq->n_tokens < 1 || seq->position < 0 || seq->n_tokens > o->max_context - seq->position)
        return err_set(err, ERR_INVALID, "sequence %d of a step has tokens %d to %d; the context has %d", number, seq->position,
                       seq->position + seq->n_tokens, o->max_context);
    if (seq->first_logit < 0 || seq->first_logit > seq->n_tokens)
        return err_set(err, ERR_INVALID, "sequence %d of a step wants logits from token %d of %d", number, seq->first_logit, seq->n_tokens);
    for (int b = 0; b <= (seq->position + seq->n_tokens - 1) / o->block_size; b++)
        if (seq->blocks[b] < 0 || seq->blocks[b] >= model->n_blocks)
            return err_set(err, ERR_INVALID, "sequence %d of a step names KV block %d of %d", number, seq->blocks[b], model->n_blocks);
    return 0;
}

/* Checks a step and fills what is looked up by token. */
static int prepare(struct model *model, const struct model_step *step, struct err *err) {
    struct model_buffers *b = &model->buffers;
    int n = 0;
    if (model->weights == NULL || model->kv == NULL)
        return err_set(err, ERR_INTERNAL, "a step before weights and KV cache are there");
    if (step->n_seqs > model->opts.max_step_seqs || step->n_tokens > model->opts.max_step_tokens)
        return err_set(err, ERR_INVALID, "a step of %d sequences and %d tokens; at most %d and %d are possible", step->n_seqs, step->n_tokens,
                       model->opts.max_step_seqs, model->opts.max_step_tokens);
    model->n_logits = 0;
    for (int s = 0; s < step->n_seqs; s++) {
        const struct model_step_seq *seq = &step->seqs[s];
        if (check_seq(model, seq, s, err) != 0)
            return -1;
        if (seq->n_tokens > step->n_tokens - n)
            return err_set(err, ERR_INVALID, "the sequences of a step have more than its %d tokens", step->n_tokens);
        b->seq_token[s] = n;
        for (int t = 0; t < seq->n_tokens; t++, n++) {
            b->token_seq[n] = s;
            b->token_position[n] = seq->position + t;
            if (t >= seq->first_logit && model->split.has_head)
                model->logit_tokens[model->n_logits++] = n;
        }
    }
    if (n != step->n_tokens)
        return err_set(err, ERR_INVALID, "the sequences of a step have %d tokens, the step %d", n, step->n_tokens);
    return 0;
}

int model_forward(struct model *model, const struct model_step *step, float *hidden, float *logits, int *ret_rows, struct err *err) {
    if (prepare(model, step, err) != 0)
        return -1;
    model->step = step;
    model->hidden = hidden;
    model->logits = logits;
    model->failed = 0;
    model_attn_plan(model);
    team_run(model->opts.team, step_main, model);
    if (model->failed != 0)
        return err_copy(err, &model->err);
    *ret_rows = model->n_logits;
    return 0;
}
