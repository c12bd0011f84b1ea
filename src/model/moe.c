/*
 * A mixture of experts: which experts each token goes to, and the experts' work grouped so that a step reads no expert's
 * weights twice. A token's result is the sum over its experts in the order of their numbers, whatever else is in the step.
 * All threads of the team run it.
 */
#include <string.h>

#include "kernels/vector.h"
#include "model/decoder.h"

static int min_int(int a, int b) { return a < b ? a : b; }

/* Softmax over all experts, then the best of them; equal ones in the order of their numbers. */
static void route_token(struct model *model, int token) {
    const struct model_config *c = &model->config;
    struct model_buffers *b = &model->buffers;
    float *shares = b->router + (size_t)token * (size_t)c->n_experts, sum = 0;
    int *experts = b->route_expert + (size_t)token * (size_t)c->n_experts_active;
    float *weights = b->route_weight + (size_t)token * (size_t)c->n_experts_active;
    kernels_softmax(shares, c->n_experts);
    for (int i = 0; i < c->n_experts_active; i++) {
        experts[i] = kernels_argmax(shares, c->n_experts, &weights[i]);
        shares[experts[i]] = -1; /* below every share */
        sum += weights[i];
    }
    for (int i = 0; i < c->n_experts_active && c->norm_topk_prob; i++)
        weights[i] /= sum;
}

/* Lists each local expert's tokens, expert after expert (a counting sort). Thread 0. */
static void group_tokens(struct model *model) {
    const struct model_split *s = &model->split;
    struct model_buffers *b = &model->buffers;
    int n_routes = model->step->n_tokens * model->config.n_experts_active;
    memset(b->expert_slot, 0, ((size_t)s->n_experts + 1) * sizeof *b->expert_slot);
    for (int i = 0; i < n_routes; i++) {
        int e = b->route_expert[i] - s->expert_begin;
        if (e >= 0 && e < s->n_experts)
            b->expert_slot[e + 1]++;
    }
    b->n_active = 0;
    for (int e = 0; e < s->n_experts; e++) {
        if (b->expert_slot[e + 1] > 0)
            b->active[b->n_active++] = e;
        b->expert_slot[e + 1] += b->expert_slot[e];
    }
    /* expert_slot[e] runs from the expert's first slot to its last, which is the next one's first. */
    for (int i = 0; i < n_routes; i++) {
        int e = b->route_expert[i] - s->expert_begin;
        if (e >= 0 && e < s->n_experts) {
            int slot = b->expert_slot[e]++;
            b->slot_token[slot] = i / model->config.n_experts_active;
            b->slot_weight[slot] = b->route_weight[i];
        }
    }
    memmove(b->expert_slot + 1, b->expert_slot, (size_t)s->n_experts * sizeof *b->expert_slot);
    b->expert_slot[0] = 0;
}

/* The normed rows of slots [begin, end) side by side, in the given forms too; without a copy when they stand so already. */
static struct kernels_acts gather(struct model *model, int forms, int begin, int end, struct model_thread *mine) {
    struct model_buffers *b = &model->buffers;
    const struct kernels_acts *from = &b->hidden_acts;
    size_t hidden = (size_t)model->config.hidden;
    int first = b->slot_token[begin];
    if (b->slot_token[end - 1] - first == end - 1 - begin)
        return kernels_acts_from(from, first);
    for (int slot = begin; slot < end; slot++) {
        int token = b->slot_token[slot], to = slot - begin;
        memcpy(mine->tokens + (size_t)to * hidden, from->f32 + (size_t)token * hidden, hidden * sizeof(float));
        if (forms != 0)
            kernels_acts_copy(from, forms, token, &mine->acts, to);
    }
    return mine->acts;
}

/* Panels [panel_begin, panel_end) of one expert's gate and up, for all of its tokens. */
static void gate_up(struct model *model, const struct model_layer *layer, int expert, int panel_begin, int panel_end, struct model_thread *mine) {
    const struct model_expert *e = &layer->experts[expert];
    struct model_buffers *b = &model->buffers;
    int n_cols = e->gate.n_rows, last = b->expert_slot[expert + 1];
    for (int slot = b->expert_slot[expert]; slot < last; slot += MODEL_GATHER) {
        int end = min_int(slot + MODEL_GATHER, last);
        size_t at = (size_t)slot * (size_t)n_cols;
        struct kernels_acts acts = gather(model, kernels_matrix_acts(&e->gate) | kernels_matrix_acts(&e->up), slot, end, mine);
        kernels_matmul(&e->gate, &acts, end - slot, b->gate + at, n_cols, panel_begin, panel_end, mine->kernel_scratch);
        kernels_matmul(&e->up, &acts, end - slot, b->up + at, n_cols, panel_begin, panel_end, mine->kernel_scratch);
        model_silu_columns(model, &e->down, n_cols, slot, end, panel_begin * KERNELS_PANEL_ROWS, min_int(panel_end * KERNELS_PANEL_ROWS, n_cols));
    }
}

/* Output columns of panels [panel_begin, panel_end): every expert's share of them, added up in order. */
static void down(struct model *model, const struct model_layer *layer, int panel_begin, int panel_end, struct model_thread *mine) {
    struct model_buffers *b = &model->buffers;
    int hidden = model->config.hidden;
    int col = panel_begin * KERNELS_PANEL_ROWS, n_cols = min_int(panel_end * KERNELS_PANEL_ROWS, hidden) - col;
    for (int t = 0; t < model->step->n_tokens; t++)
        memset(b->sum + (size_t)t * (size_t)hidden + col, 0, (size_t)n_cols * sizeof *b->sum);
    for (int i = 0; i < b->n_active; i++) {
        const struct kernels_matrix *matrix = &layer->experts[b->active[i]].down;
        int last = b->expert_slot[b->active[i] + 1];
        for (int slot = b->expert_slot[b->active[i]]; slot < last; slot += MODEL_GATHER) {
            int n = min_int(MODEL_GATHER, last - slot);
            struct kernels_acts acts = kernels_acts_from(&b->ffn_acts, slot);
            kernels_matmul(matrix, &acts, n, mine->tokens, hidden, panel_begin, panel_end, mine->kernel_scratch);
            for (int j = 0; j < n; j++)
                kernels_add_scaled(mine->tokens + (size_t)j * (size_t)hidden + col, b->slot_weight[slot + j], n_cols,
                                   b->sum + (size_t)b->slot_token[slot + j] * (size_t)hidden + col);
        }
    }
}

void model_moe_run(struct model *model, int number, int thread) {
    const struct model_layer *layer = &model->layers[number];
    struct model_buffers *b = &model->buffers;
    struct model_thread *mine = &model->threads[thread];
    struct team *team = model->opts.team;
    int n_tokens = model->step->n_tokens, begin, end;
    team_share(team, thread, layer->router.n_panels, &begin, &end);
    if (begin < end)
        kernels_matmul(&layer->router, &b->hidden_acts, n_tokens, b->router, model->config.n_experts, begin, end, mine->kernel_scratch);
    team_barrier(team);
    team_share(team, thread, n_tokens, &begin, &end);
    for (int t = begin; t < end; t++)
        route_token(model, t);
    team_barrier(team);
    if (thread == 0)
        group_tokens(model);
    team_barrier(team);
    int n_panels = b->n_active > 0 ? layer->experts[0].gate.n_panels : 0;
    int chunk = model_chunk_panels(model, 2 * n_panels * b->n_active), per_expert;
    chunk = n_panels > 0 && chunk > n_panels ? (n_panels + 1) / 2 * 2 : chunk;
    per_expert = (n_panels + chunk - 1) / chunk;
    for (int i; (i = team_take(team)) < b->n_active * per_expert;) {
        begin = i % per_expert * chunk;
        gate_up(model, layer, b->active[i / per_expert], begin, min_int(begin + chunk, n_panels), mine);
    }
    team_barrier(team);
    int n_out = (model->config.hidden + KERNELS_PANEL_ROWS - 1) / KERNELS_PANEL_ROWS;
    chunk = model_chunk_panels(model, n_out);
    for (int i; (i = team_take(team)) * chunk < n_out;)
        down(model, layer, i * chunk, min_int((i + 1) * chunk, n_out), mine);
    team_barrier(team);
}
