/*
 * Which tensors a rank has and where they stand in a store: the one table of names, the rectangle of each tensor that
 * belongs to the rank, and the checks of shape and cut. Runs on the rank's main thread, before anything is read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/decoder.h"

/* Names after "model.layers.N." and "blk.N."; %d stands for the expert. */
static const struct tensor_name {
    const char *huggingface, *gguf;
    bool in_layer, is_vector;
    const char *mixtral; /* what Mixtral's checkpoints call it, where that differs */
} names[MODEL_TENSOR_COUNT] = {
    [MODEL_EMBEDDING] = {"model.embed_tokens.weight", "token_embd.weight", false, false},
    [MODEL_HEAD] = {"lm_head.weight", "output.weight", false, false},
    [MODEL_FINAL_NORM] = {"model.norm.weight", "output_norm.weight", false, true},
    [MODEL_ATTN_NORM] = {"input_layernorm.weight", "attn_norm.weight", true, true},
    [MODEL_FFN_NORM] = {"post_attention_layernorm.weight", "ffn_norm.weight", true, true},
    [MODEL_Q] = {"self_attn.q_proj.weight", "attn_q.weight", true, false},
    [MODEL_K] = {"self_attn.k_proj.weight", "attn_k.weight", true, false},
    [MODEL_V] = {"self_attn.v_proj.weight", "attn_v.weight", true, false},
    [MODEL_O] = {"self_attn.o_proj.weight", "attn_output.weight", true, false},
    [MODEL_Q_BIAS] = {"self_attn.q_proj.bias", "attn_q.bias", true, true},
    [MODEL_K_BIAS] = {"self_attn.k_proj.bias", "attn_k.bias", true, true},
    [MODEL_V_BIAS] = {"self_attn.v_proj.bias", "attn_v.bias", true, true},
    [MODEL_Q_NORM] = {"self_attn.q_norm.weight", "attn_q_norm.weight", true, true},
    [MODEL_K_NORM] = {"self_attn.k_norm.weight", "attn_k_norm.weight", true, true},
    [MODEL_GATE] = {"mlp.gate_proj.weight", "ffn_gate.weight", true, false},
    [MODEL_UP] = {"mlp.up_proj.weight", "ffn_up.weight", true, false},
    [MODEL_DOWN] = {"mlp.down_proj.weight", "ffn_down.weight", true, false},
    [MODEL_ROUTER] = {"mlp.gate.weight", "ffn_gate_inp.weight", true, false, "block_sparse_moe.gate.weight"},
    [MODEL_EXPERT_GATE] = {"mlp.experts.%d.gate_proj.weight", "ffn_gate_exps.weight", true, false, "block_sparse_moe.experts.%d.w1.weight"},
    [MODEL_EXPERT_UP] = {"mlp.experts.%d.up_proj.weight", "ffn_up_exps.weight", true, false, "block_sparse_moe.experts.%d.w3.weight"},
    [MODEL_EXPERT_DOWN] = {"mlp.experts.%d.down_proj.weight", "ffn_down_exps.weight", true, false, "block_sparse_moe.experts.%d.w2.weight"},
};

static bool is_expert(enum model_tensor tensor) { return tensor >= MODEL_EXPERT_GATE && tensor <= MODEL_EXPERT_DOWN; }

void model_part_name(const struct model *model, const struct model_part *part, bool is_gguf, char ret_name[WEIGHTS_NAME_BYTES]) {
    const struct tensor_name *name = &names[part->tensor];
    const char *text = is_gguf                                                ? name->gguf
                       : model->config.mixtral_names && name->mixtral != NULL ? name->mixtral
                                                                             : name->huggingface;
    const char *hole = strstr(text, "%d");
    size_t len = 0;
    if (name->in_layer)
        len = (size_t)snprintf(ret_name, WEIGHTS_NAME_BYTES, is_gguf ? "blk.%d." : "model.layers.%d.", part->layer);
    if (hole == NULL)
        snprintf(ret_name + len, WEIGHTS_NAME_BYTES - len, "%s", text);
    else
        snprintf(ret_name + len, WEIGHTS_NAME_BYTES - len, "%.*s%d%s", (int)(hole - text), text, part->expert, hole + 2);
}

/* --- the list --- */

static struct model_part *add(struct model *model, enum model_tensor tensor, int layer, int rows, int cols) {
    struct model_part *part = &model->parts[model->n_parts++];
    *part = (struct model_part){.tensor = tensor, .layer = layer, .expert = -1, .rows = rows, .cols = cols, .n_rows = rows, .n_cols = cols};
    return part;
}

static void add_vector(struct model *model, enum model_tensor tensor, int layer, int cols, int col_begin, int n_cols, float **vector) {
    struct model_part *part = add(model, tensor, layer, 1, cols);
    part->col_begin = col_begin;
    part->n_cols = n_cols;
    part->vector = vector;
}

static struct model_part *add_rows(struct model *model, enum model_tensor tensor, int layer, int rows, int cols, int row_begin, int n_rows,
                                   struct kernels_matrix *matrix) {
    struct model_part *part = add(model, tensor, layer, rows, cols);
    part->row_begin = row_begin;
    part->n_rows = n_rows;
    part->matrix = matrix;
    return part;
}

static struct model_part *add_cols(struct model *model, enum model_tensor tensor, int layer, int rows, int cols, int col_begin, int n_cols,
                                   struct kernels_matrix *matrix) {
    struct model_part *part = add(model, tensor, layer, rows, cols);
    part->col_begin = col_begin;
    part->n_cols = n_cols;
    part->matrix = matrix;
    return part;
}

static void list_attention(struct model *model, int number, struct model_layer *layer) {
    const struct model_config *c = &model->config;
    const struct model_split *s = &model->split;
    int dim = c->head_dim, q_cols = c->n_heads * dim, kv_cols = c->n_kv_heads * dim;
    int q_begin = s->head_begin * dim, q_len = s->n_heads * dim, kv_begin = s->kv_head_begin * dim, kv_len = s->n_kv_heads * dim;
    add_vector(model, MODEL_ATTN_NORM, number, c->hidden, 0, c->hidden, &layer->attn_norm);
    add_rows(model, MODEL_Q, number, q_cols, c->hidden, q_begin, q_len, &layer->q);
    add_rows(model, MODEL_K, number, kv_cols, c->hidden, kv_begin, kv_len, &layer->k);
    add_rows(model, MODEL_V, number, kv_cols, c->hidden, kv_begin, kv_len, &layer->v);
    if (c->qkv_bias) {
        add_vector(model, MODEL_Q_BIAS, number, q_cols, q_begin, q_len, &layer->q_bias);
        add_vector(model, MODEL_K_BIAS, number, kv_cols, kv_begin, kv_len, &layer->k_bias);
        add_vector(model, MODEL_V_BIAS, number, kv_cols, kv_begin, kv_len, &layer->v_bias);
    }
    if (c->qk_norm) {
        add_vector(model, MODEL_Q_NORM, number, dim, 0, dim, &layer->q_norm);
        add_vector(model, MODEL_K_NORM, number, dim, 0, dim, &layer->k_norm);
    }
    add_cols(model, MODEL_O, number, c->hidden, q_cols, q_begin, q_len, &layer->o);
}

static void list_ffn(struct model *model, int number, struct model_layer *layer) {
    const struct model_config *c = &model->config;
    const struct model_split *s = &model->split;
    add_vector(model, MODEL_FFN_NORM, number, c->hidden, 0, c->hidden, &layer->ffn_norm);
    if (c->n_experts == 0) {
        add_rows(model, MODEL_GATE, number, c->intermediate, c->hidden, s->ffn_begin, s->ffn_len, &layer->gate);
        add_rows(model, MODEL_UP, number, c->intermediate, c->hidden, s->ffn_begin, s->ffn_len, &layer->up);
        add_cols(model, MODEL_DOWN, number, c->hidden, c->intermediate, s->ffn_begin, s->ffn_len, &layer->down);
        return;
    }
    add_rows(model, MODEL_ROUTER, number, c->n_experts, c->hidden, 0, c->n_experts, &layer->router);
    for (int e = 0; e < s->n_experts; e++) {
        struct model_expert *expert = &layer->experts[e];
        int inner = c->moe_intermediate, begin = s->moe_ffn_begin, len = s->moe_ffn_len;
        add_rows(model, MODEL_EXPERT_GATE, number, inner, c->hidden, begin, len, &expert->gate)->expert = s->expert_begin + e;
        add_rows(model, MODEL_EXPERT_UP, number, inner, c->hidden, begin, len, &expert->up)->expert = s->expert_begin + e;
        add_cols(model, MODEL_EXPERT_DOWN, number, c->hidden, inner, begin, len, &expert->down)->expert = s->expert_begin + e;
    }
}

int model_parts_list(struct model *model, struct err *err) {
    const struct model_config *c = &model->config;
    const struct model_split *s = &model->split;
    size_t per_layer = 16 + 3 * (size_t)s->n_experts;
    model->parts = calloc(3 + (size_t)model->n_layers * per_layer, sizeof *model->parts);
    if (model->parts == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the list of tensors");
    /* A tied head is the embedding's packed matrix where the rank has both; some ranks have no rows of the vocabulary. */
    if (s->has_embedding && s->vocab_len > 0)
        add_rows(model, MODEL_EMBEDDING, -1, c->n_vocab, c->hidden, s->vocab_begin, s->vocab_len, &model->embedding);
    for (int i = 0; i < model->n_layers; i++) {
        list_attention(model, s->layer_begin + i, &model->layers[i]);
        list_ffn(model, s->layer_begin + i, &model->layers[i]);
    }
    if (s->has_head) {
        add_vector(model, MODEL_FINAL_NORM, -1, c->hidden, 0, c->hidden, &model->final_norm);
        if (s->vocab_len > 0 && !(c->tied && s->has_embedding))
            add_rows(model, c->tied ? MODEL_EMBEDDING : MODEL_HEAD, -1, c->n_vocab, c->hidden, s->vocab_begin, s->vocab_len, &model->head);
    }
    return 0;
}

/* --- in the store --- */

static int check_shape(const struct model_part *part, const struct weights_tensor *tensor, int n_stacked, int rows, struct err *err) {
    const int64_t wanted[3] = {n_stacked, rows, part->cols};
    int skip = n_stacked > 0 ? 0 : names[part->tensor].is_vector ? 2 : 1, n_dims = 3 - skip;
    bool same = tensor->n_dims == n_dims;
    for (int i = 0; same && i < n_dims; i++)
        same = tensor->dims[i] == wanted[skip + i];
    if (same)
        return 0;
    char found[96] = "", expected[96] = "";
    for (int i = 0, len = 0; i < tensor->n_dims; i++)
        len += snprintf(found + len, sizeof found - (size_t)len, "%s%lld", i == 0 ? "" : ", ", (long long)tensor->dims[i]);
    for (int i = skip, len = 0; i < 3; i++)
        len += snprintf(expected + len, sizeof expected - (size_t)len, "%s%lld", i == skip ? "" : ", ", (long long)wanted[i]);
    return err_set(err, ERR_INVALID, "tensor '%s' has the shape [%s]; the configuration makes it [%s]", tensor->name, found, expected);
}

/* Newer checkpoints may hold a layer's experts in two stacks, gate above up: [experts, 2 · inner, hidden] and down. */
static int resolve_stack(const struct model *model, const struct weights_store *store, struct model_part *part, struct err *err) {
    char name[WEIGHTS_NAME_BYTES];
    bool is_down = part->tensor == MODEL_EXPERT_DOWN;
    int rows = is_down ? part->rows : 2 * part->rows;
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s", part->layer, is_down ? "down_proj" : "gate_up_proj");
    part->source = weights_store_find(store, name);
    if (part->source == NULL)
        return 0;
    part->source_row = (int64_t)part->expert * rows + (part->tensor == MODEL_EXPERT_UP ? part->rows : 0);
    return check_shape(part, part->source, model->config.n_experts, rows, err);
}

enum dtype model_part_dtype(const struct model_config *config, const struct model_part *part, enum dtype source) {
    if (part->matrix == NULL || part->tensor == MODEL_ROUTER)
        return DTYPE_F32;
    if (!config->quantises)
        return source;
    if (names[part->tensor].in_layer)
        return config->layer_dtype;
    return part->tensor == MODEL_HEAD || config->tied ? config->head_dtype : source;
}

enum dtype model_part_source(const struct model_config *config, const struct model_part *part, enum dtype floats) {
    bool is_layer_matrix = part->matrix != NULL && names[part->tensor].in_layer && part->tensor != MODEL_ROUTER;
    return is_layer_matrix && config->quant != WEIGHTS_QUANT_NONE ? config->layer_dtype : floats;
}

/* A cut must fall between quant blocks. Names the sizes with which it would. */
static int check_cut(const struct model *model, const struct model_part *part, struct err *err) {
    enum dtype format = dtype_block_weights(part->dtype) > dtype_block_weights(part->source->dtype) ? part->dtype : part->source->dtype;
    int block = dtype_block_weights(format);
    if (part->dtype == DTYPE_F8_E4M3 && part->row_begin % KERNELS_PANEL_ROWS != 0)
        return err_set(err, ERR_INVALID, "tensor '%s' (%s) cannot be cut before row %d: a rank's part must begin at a multiple of %d rows",
                       part->source->name, dtype_name(format), part->row_begin, KERNELS_PANEL_ROWS);
    if (part->col_begin % block == 0 && part->n_cols % block == 0)
        return 0;
    char sizes[160] = "none";
    size_t len = 0;
    for (int tp = 1; tp <= model->config.n_heads && len + 8 < sizeof sizes; tp++) {
        struct model_split split;
        if (model_split_compute(&model->config, tp, 1, model->split.expert_parallel, NULL, 0, &split, NULL) != 0)
            continue;
        int cols = part->tensor == MODEL_O ? split.n_heads * model->config.head_dim : split.ffn_len + split.moe_ffn_len;
        if (cols % block == 0)
            len += (size_t)snprintf(sizes + len, sizeof sizes - len, "%s%d", len == 0 ? "" : ", ", tp);
    }
    return err_set(err, ERR_INVALID, "tensor '%s' (%s, %d columns) cannot be cut into %d: a rank's part must be whole blocks of %d; possible are %s",
                   part->source->name, dtype_name(format), part->cols, model->split.tp_size, block, sizes);
}

static int resolve(const struct model *model, const struct weights_store *store, struct model_part *part, struct err *err) {
    char name[WEIGHTS_NAME_BYTES];
    bool is_gguf = weights_store_gguf(store) != NULL;
    int n_stacked = is_gguf && is_expert(part->tensor) ? model->config.n_experts : 0;
    part->source = NULL;
    part->source_row = n_stacked > 0 ? (int64_t)part->expert * part->rows : 0;
    if (!is_gguf && is_expert(part->tensor) && resolve_stack(model, store, part, err) != 0)
        return -1;
    if (part->source == NULL) {
        model_part_name(model, part, is_gguf, name);
        if (weights_store_need(store, name, &part->source, err) != 0 || check_shape(part, part->source, n_stacked, part->rows, err) != 0)
            return -1;
    }
    part->dtype = model_part_dtype(&model->config, part, part->source->dtype);
    return check_cut(model, part, err);
}

int model_parts_resolve(struct model *model, const struct weights_store *store, struct err *err) {
    for (int i = 0; i < model->n_parts; i++)
        if (resolve(model, store, &model->parts[i], err) != 0)
            return -1;
    return 0;
}

size_t model_part_bytes(const struct model_part *part) {
    if (part->matrix == NULL)
        return ((size_t)part->n_cols * sizeof(float) + 63) / 64 * 64;
    struct kernels_matrix matrix;
    return kernels_matrix_init(&matrix, part->dtype, part->n_rows, part->n_cols);
}

int model_parts_place(struct model *model, struct err *err) {
    size_t total = 0;
    for (int i = 0; i < model->n_parts; i++)
        total += model_part_bytes(&model->parts[i]);
    uint8_t *at = model_map(total);
    if (at == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu bytes of weights", total);
    model->weights = at;
    model->weights_bytes = total;
    for (int i = 0; i < model->n_parts; i++) {
        struct model_part *part = &model->parts[i];
        if (part->matrix == NULL) {
            *part->vector = (float *)at;
        } else {
            kernels_matrix_init(part->matrix, part->dtype, part->n_rows, part->n_cols);
            part->matrix->data = at;
            if (model->opts.keeps_f32)
                kernels_matrix_keep_f32(part->matrix);
        }
        at += model_part_bytes(part);
    }
    if (model->split.has_head && model->config.tied && model->split.has_embedding)
        model->head = model->embedding;
    return 0;
}
