/* Sizes of a shard that does not exist yet; see sizes.h. Allocates a layer's list of parts for a moment, no weights. */
#include "model/sizes.h"

#include "model/decoder.h"

/* Format in which a part stands in the store, or would without one. */
static enum dtype source_dtype(const struct model *model, const struct model_part *part, const struct weights_store *store, enum dtype floats) {
    char name[WEIGHTS_NAME_BYTES];
    const struct weights_tensor *tensor = NULL;
    if (store != NULL) {
        model_part_name(model, part, weights_store_gguf(store) != NULL, name);
        tensor = weights_store_find(store, name);
    }
    return tensor != NULL ? tensor->dtype : model_part_source(&model->config, part, floats);
}

/* 0 for a part that cannot be cut so. */
static uint64_t packed_bytes(const struct model *model, const struct model_part *part, enum dtype source) {
    struct model_part packed = *part;
    packed.dtype = model_part_dtype(&model->config, part, source);
    int block = dtype_block_weights(packed.dtype);
    if (packed.dtype == DTYPE_F8_E4M3 && part->row_begin % KERNELS_PANEL_ROWS != 0)
        return 0;
    return part->col_begin % block == 0 && part->n_cols % block == 0 ? model_part_bytes(&packed) : 0;
}

/* What n weights take in the checkpoint. A store lists those of quantised safetensors with more scales than the file has. */
static uint64_t plain_bytes(const struct model_config *config, enum dtype source, uint64_t n) {
    if (config->quant != WEIGHTS_QUANT_NONE && source == weights_quant_dtype(config->quant))
        return config->quant == WEIGHTS_QUANT_FP8 ? n : n / 2;
    return n * (uint64_t)dtype_block_bytes(source) / (uint64_t)dtype_block_weights(source);
}

static bool is_expert(const struct model_part *part) { return part->expert >= 0; }

static bool is_looked_up(const struct model *model, const struct model_part *part) {
    return part->matrix == &model->embedding && !(model->config.tied && model->split.has_head);
}

static uint64_t sum_packed(const struct model *model, const struct weights_store *store, enum dtype floats) {
    uint64_t total = 0;
    for (int i = 0; i < model->n_parts; i++)
        total += packed_bytes(model, &model->parts[i], source_dtype(model, &model->parts[i], store, floats));
    return total;
}

uint64_t model_weights_bytes(const struct model *model, const struct weights_store *store) {
    return model->weights != NULL ? model->weights_bytes : sum_packed(model, store, model->config.dtype);
}

uint64_t model_dummy_bytes(const struct model *model, enum dtype dtype) { return sum_packed(model, NULL, dtype); }

/* One part, on so many layers. */
static void add_part(struct model_sizes *sizes, const struct model *model, const struct model_part *part, enum dtype source, uint64_t bytes,
                     uint64_t times) {
    uint64_t n = times * (uint64_t)part->n_rows * (uint64_t)part->n_cols;
    sizes->n_params += n;
    sizes->plain_bytes += plain_bytes(&model->config, source, n);
    sizes->weights_bytes += times * bytes;
    sizes->experts_bytes += is_expert(part) ? times * bytes : 0;
    sizes->lookup_bytes += is_looked_up(model, part) ? times * bytes : 0;
}

/* One layer, `times` over, and what is in no layer. Experts are taken to have the format of the layer's first one. */
static int add_layer(struct model_sizes *sizes, const struct model *model, const struct weights_store *store, enum dtype floats, uint64_t times,
                     bool is_first, struct err *err) {
    enum dtype of_experts[3] = {0};
    for (int i = 0; i < model->n_parts; i++) {
        const struct model_part *part = &model->parts[i];
        enum dtype *of_kind = is_expert(part) ? &of_experts[part->tensor - MODEL_EXPERT_GATE] : NULL, source;
        bool is_known = is_expert(part) && part->expert > model->split.expert_begin;
        if (part->layer < 0 && !is_first)
            continue;
        source = is_known ? *of_kind : source_dtype(model, part, store, floats);
        if (is_expert(part))
            *of_kind = source;
        uint64_t bytes = packed_bytes(model, part, source);
        if (bytes == 0) {
            char name[WEIGHTS_NAME_BYTES];
            model_part_name(model, part, store != NULL && weights_store_gguf(store) != NULL, name);
            return err_set(err, ERR_INVALID, "tensor '%s' [%d, %d] cannot be cut over %d ranks: a rank's part must be whole blocks of %s", name,
                           part->rows, part->cols, model->split.tp_size, dtype_name(model_part_dtype(&model->config, part, source)));
        }
        add_part(sizes, model, part, source, bytes, part->layer < 0 ? 1 : times);
    }
    return 0;
}

/* Layer by layer, so that the list of parts stays short; without a store all layers are alike. */
int model_sizes_compute(const struct model_config *config, const struct model_split *split, const struct model_opts *opts, int n_threads,
                        const struct weights_store *store, enum dtype floats, struct model_sizes *ret, struct err *err) {
    struct model_sizes sizes = {0};
    int n_layers = split->layer_end - split->layer_begin, n_each = store == NULL ? n_layers : 1, rc = 0;
    for (int layer = split->layer_begin; layer < split->layer_end && rc == 0; layer += n_each) {
        struct model *model;
        struct model_split one = *split;
        one.layer_begin = layer;
        one.layer_end = layer + 1;
        if (model_describe(config, &one, opts, n_threads, &model, err) != 0)
            return -1;
        sizes.kv_block_bytes += (uint64_t)n_each * model_kv_block_bytes(model);
        sizes.buffers_bytes = model_buffers_bytes(model);
        rc = add_layer(&sizes, model, store, floats, (uint64_t)n_each, layer == split->layer_begin, err);
        model_destroy(model);
    }
    if (rc == 0)
        *ret = sizes;
    return rc;
}
