/*
 * Filling a shard from a store: a thread of the team reads a few rows into its scratch and packs them. Each byte of the
 * rank's part of the file is read once and held once, and no other byte is read.
 */
#include "kernels/vector.h"
#include "model/decoder.h"

struct load {
    struct model *model;
    const struct weights_store *store;
};

/* Bytes of one row of a part as the store has it. */
static size_t row_bytes(const struct model_part *part) { return dtype_row_bytes(part->source->dtype, (size_t)part->n_cols); }

/* Rows as read, and where the format changes rows as packed and one row of floats between them. */
static size_t scratch_bytes(const struct model_part *part, int n_rows) {
    size_t n = (size_t)n_rows, cols = (size_t)part->n_cols, bytes = (row_bytes(part) * n + 63) / 64 * 64;
    if (part->dtype == part->source->dtype)
        return bytes;
    return bytes + (dtype_row_bytes(part->dtype, cols) * n + 63) / 64 * 64 + cols * sizeof(float);
}

/* Every read of a tensor goes through here: the rank's bytes are counted. */
static int read_rows(const struct load *load, const struct weights_tensor *tensor, int64_t row, int n_rows, int col, int n_cols, void *to,
                     struct err *err) {
    if (weights_store_read(load->store, tensor, row, n_rows, col, n_cols, to, err) != 0)
        return -1;
    atomic_fetch_add_explicit(&load->model->bytes_read, weights_store_read_bytes(tensor, n_rows, n_cols), memory_order_relaxed);
    return 0;
}

static int load_vector(const struct load *load, struct model_part *part, uint8_t *scratch, struct err *err) {
    if (read_rows(load, part->source, 0, 1, part->col_begin, part->n_cols, scratch, err) != 0)
        return -1;
    kernels_row_to_f32(part->source->dtype, scratch, part->n_cols, *part->vector);
    return 0;
}

/* Rows of the part in panels [panel_begin, panel_end). */
static int rows_of(const struct model_part *part, int panel_begin, int panel_end) {
    int end = panel_end * KERNELS_PANEL_ROWS;
    return (end < part->n_rows ? end : part->n_rows) - panel_begin * KERNELS_PANEL_ROWS;
}

static int64_t source_row(const struct model_part *part, int panel) {
    return part->source_row + part->row_begin + panel * KERNELS_PANEL_ROWS;
}

static void expect_part(void *ctx, const struct model_part *part, int panel_begin, int panel_end) {
    const struct load *load = ctx;
    if (part->matrix != NULL)
        weights_store_expect(load->store, part->source, source_row(part, panel_begin), rows_of(part, panel_begin, panel_end), part->n_cols);
}

static int load_part(void *ctx, struct model_part *part, int panel_begin, int panel_end, uint8_t *scratch, struct err *err) {
    const struct load *load = ctx;
    if (part->matrix == NULL)
        return load_vector(load, part, scratch, err);
    int n_rows = rows_of(part, panel_begin, panel_end);
    if (read_rows(load, part->source, source_row(part, panel_begin), n_rows, part->col_begin, part->n_cols, scratch, err) != 0)
        return -1;
    size_t stride_bytes = row_bytes(part);
    const uint8_t *rows = scratch;
    if (part->dtype != part->source->dtype) {
        size_t packed_bytes = dtype_row_bytes(part->dtype, (size_t)part->n_cols);
        uint8_t *packed = scratch + ((size_t)n_rows * stride_bytes + 63) / 64 * 64;
        float *floats = (float *)(packed + ((size_t)n_rows * packed_bytes + 63) / 64 * 64);
        for (int r = 0; r < n_rows; r++) {
            kernels_row_to_f32(part->source->dtype, scratch + (size_t)r * stride_bytes, part->n_cols, floats);
            kernels_row_from_f32(part->dtype, floats, part->n_cols, packed + (size_t)r * packed_bytes);
        }
        rows = packed;
        stride_bytes = packed_bytes;
    }
    for (int p = panel_begin; p < panel_end; p++) {
        int done = (p - panel_begin) * KERNELS_PANEL_ROWS, left = n_rows - done;
        kernels_matrix_pack_panel(part->matrix, p, rows + (size_t)done * stride_bytes, stride_bytes,
                                  left < KERNELS_PANEL_ROWS ? left : KERNELS_PANEL_ROWS);
    }
    return 0;
}

/* GGUF files of stretched Llama models give the divisors of the frequencies as a tensor. */
static int load_rope_factors(struct model *model, const struct weights_store *store, struct err *err) {
    const struct load load = {.model = model, .store = store};
    const struct weights_tensor *tensor = weights_store_gguf(store) != NULL ? weights_store_find(store, "rope_freqs.weight") : NULL;
    float factors[128];
    if (tensor == NULL)
        return 0;
    if (tensor->dtype != DTYPE_F32 || tensor->n_dims != 1 || tensor->dims[0] != model->config.head_dim / 2)
        return err_set(err, ERR_INVALID, "tensor 'rope_freqs.weight' should be %d F32 numbers", model->config.head_dim / 2);
    if (read_rows(&load, tensor, 0, 1, 0, (int)tensor->dims[0], factors, err) != 0)
        return -1;
    model_rope_fill(model, factors);
    return 0;
}

int model_load_prepare(struct model *model, const struct weights_store *store, struct err *err) {
    if (model->weights != NULL)
        return err_set(err, ERR_INTERNAL, "the model's weights are loaded already");
    if (model_parts_resolve(model, store, err) != 0 || model_parts_place(model, err) != 0 || load_rope_factors(model, store, err) != 0)
        return -1;
    return 0;
}

int model_load_read(struct model *model, const struct weights_store *store, model_progress *progress, const atomic_int *cancel,
                    struct err *err) {
    struct load load = {.model = model, .store = store};
    struct model_filler filler = {.fill = load_part, .expect = expect_part, .scratch_bytes = scratch_bytes, .ctx = &load};
    return model_fill(model, &filler, progress, cancel, err);
}

int model_load(struct model *model, const struct weights_store *store, model_progress *progress, const atomic_int *cancel, struct err *err) {
    return model_load_prepare(model, store, err) != 0 ? -1 : model_load_read(model, store, progress, cancel, err);
}
