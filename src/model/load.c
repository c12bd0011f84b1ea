/*
 * Filling a shard from a store: every thread of the team reads a few rows into its own scratch and packs them, until no
 * piece is left. Each byte of the rank's part of the file is read once and held once.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/vector.h"
#include "model/decoder.h"

/* Source bytes that a thread reads at a time; at least one panel of rows. */
enum { SCRATCH_BYTES = 1 << 20 };

struct load {
    struct model *model;
    const struct weights_store *store;
    model_progress *progress;
    const atomic_int *cancel;
    uint8_t **scratch; /* by thread */
    size_t scratch_bytes;
    /* Piece i of the whole work lies in the part whose first_piece is the last one at or below i. */
    int *first_piece; /* [n_parts + 1] */
    int *panels;      /* [n_parts]: panels in a piece */
    atomic_int failed;
    struct err err; /* of the first that failed */
};

static void fail(struct load *load, const struct err *err) {
    if (atomic_exchange(&load->failed, 1) == 0)
        load->err = *err;
}

static int is_cancelled(const struct load *load) { return load->cancel != NULL && atomic_load_explicit(load->cancel, memory_order_relaxed); }

/* Bytes of one row of a part as the file has it, and once more as floats when they are converted. */
static size_t row_bytes(const struct model_part *part) { return dtype_row_bytes(part->source->dtype, (size_t)part->n_cols); }

static size_t scratch_per_row(const struct model_part *part) {
    return row_bytes(part) + (part->dtype != part->source->dtype ? (size_t)part->n_cols * sizeof(float) : 0);
}

static int load_vector(struct load *load, struct model_part *part, uint8_t *scratch, struct err *err) {
    if (weights_store_read(load->store, part->source, 0, 1, part->col_begin, part->n_cols, scratch, err) != 0)
        return -1;
    kernels_row_to_f32(part->source->dtype, scratch, part->n_cols, *part->vector);
    atomic_fetch_add(load->progress, model_part_bytes(part));
    return 0;
}

static int load_panels(struct load *load, struct model_part *part, int panel_begin, int panel_end, uint8_t *scratch, struct err *err) {
    int row = panel_begin * KERNELS_PANEL_ROWS, row_end = panel_end * KERNELS_PANEL_ROWS;
    if (row_end > part->n_rows)
        row_end = part->n_rows;
    int n_rows = row_end - row;
    if (weights_store_read(load->store, part->source, part->source_row + part->row_begin + row, n_rows, part->col_begin, part->n_cols, scratch,
                           err) != 0)
        return -1;
    size_t stride_bytes = row_bytes(part);
    const uint8_t *rows = scratch;
    if (part->dtype != part->source->dtype) {
        float *floats = (float *)(scratch + ((size_t)n_rows * stride_bytes + 63) / 64 * 64);
        for (int r = 0; r < n_rows; r++)
            kernels_row_to_f32(part->source->dtype, scratch + (size_t)r * stride_bytes, part->n_cols, floats + (size_t)r * (size_t)part->n_cols);
        rows = (const uint8_t *)floats;
        stride_bytes = (size_t)part->n_cols * sizeof(float);
    }
    for (int p = panel_begin; p < panel_end; p++) {
        int done = (p - panel_begin) * KERNELS_PANEL_ROWS, left = n_rows - done;
        kernels_matrix_pack_panel(part->matrix, p, rows + (size_t)done * stride_bytes, stride_bytes,
                                  left < KERNELS_PANEL_ROWS ? left : KERNELS_PANEL_ROWS);
    }
    atomic_fetch_add(load->progress, (uint64_t)(panel_end - panel_begin) * part->matrix->panel_bytes);
    return 0;
}

static void load_pieces(void *arg, int thread) {
    struct load *load = arg;
    struct model *model = load->model;
    int part = 0;
    for (int piece; (piece = team_take(model->opts.team)) < load->first_piece[model->n_parts];) {
        struct err err;
        if (atomic_load_explicit(&load->failed, memory_order_relaxed))
            return;
        if (is_cancelled(load)) {
            err_set(&err, ERR_CANCELLED, "loading was stopped");
            fail(load, &err);
            return;
        }
        while (load->first_piece[part + 1] <= piece) /* pieces only go up */
            part++;
        struct model_part *p = &model->parts[part];
        int begin = (piece - load->first_piece[part]) * load->panels[part], end = begin + load->panels[part];
        int rc = p->matrix == NULL ? load_vector(load, p, load->scratch[thread], &err)
                                   : load_panels(load, p, begin, end < p->matrix->n_panels ? end : p->matrix->n_panels, load->scratch[thread], &err);
        if (rc != 0)
            fail(load, &err);
    }
}

/* Cuts the work into pieces; also finds how much scratch the widest one needs. */
static void cut_pieces(struct load *load) {
    struct model *model = load->model;
    for (int i = 0; i < model->n_parts; i++) {
        struct model_part *part = &model->parts[i];
        int n_pieces = 1;
        size_t panel_bytes = scratch_per_row(part) * (part->matrix == NULL ? 1 : KERNELS_PANEL_ROWS);
        load->panels[i] = panel_bytes < SCRATCH_BYTES ? (int)(SCRATCH_BYTES / panel_bytes) : 1;
        if (part->matrix != NULL) {
            if (load->panels[i] > part->matrix->n_panels)
                load->panels[i] = part->matrix->n_panels;
            n_pieces = (part->matrix->n_panels + load->panels[i] - 1) / load->panels[i];
            panel_bytes *= (size_t)load->panels[i];
        }
        load->first_piece[i + 1] = load->first_piece[i] + n_pieces;
        if (panel_bytes + 64 > load->scratch_bytes)
            load->scratch_bytes = panel_bytes + 64;
    }
}

/* GGUF files of stretched Llama models give the divisors of the frequencies as a tensor. */
static int load_rope_factors(struct model *model, const struct weights_store *store, struct err *err) {
    const struct weights_tensor *tensor = weights_store_gguf(store) != NULL ? weights_store_find(store, "rope_freqs.weight") : NULL;
    float factors[128];
    if (tensor == NULL)
        return 0;
    if (tensor->dtype != DTYPE_F32 || tensor->n_dims != 1 || tensor->dims[0] != model->config.head_dim / 2)
        return err_set(err, ERR_INVALID, "tensor 'rope_freqs.weight' should be %d F32 numbers", model->config.head_dim / 2);
    if (weights_store_read(store, tensor, 0, 1, 0, tensor->dims[0], factors, err) != 0)
        return -1;
    model_rope_fill(model, factors);
    return 0;
}

int model_load(struct model *model, const struct weights_store *store, model_progress *progress, const atomic_int *cancel, struct err *err) {
    int n_threads = team_size(model->opts.team), rc = -1;
    struct load load = {.model = model, .store = store, .progress = progress, .cancel = cancel};
    if (model->weights != NULL)
        return err_set(err, ERR_INTERNAL, "the model's weights are loaded already");
    if (model_parts_resolve(model, store, err) != 0 || model_parts_place(model, err) != 0 || load_rope_factors(model, store, err) != 0)
        return -1;
    load.first_piece = calloc((size_t)model->n_parts + 1, sizeof *load.first_piece);
    load.panels = calloc((size_t)model->n_parts, sizeof *load.panels);
    load.scratch = calloc((size_t)n_threads, sizeof *load.scratch);
    if (load.first_piece == NULL || load.panels == NULL || load.scratch == NULL) {
        err_set(err, ERR_NOMEM, "no memory for the list of %d tensors", model->n_parts);
        goto free_lists;
    }
    cut_pieces(&load);
    for (int i = 0; i < n_threads; i++) {
        load.scratch[i] = aligned_alloc(64, (load.scratch_bytes + 63) / 64 * 64);
        if (load.scratch[i] == NULL) {
            err_set(err, ERR_NOMEM, "no memory for %zu bytes to read into", load.scratch_bytes);
            goto free_scratch;
        }
    }
    team_run(model->opts.team, load_pieces, &load);
    rc = atomic_load(&load.failed) ? err_copy(err, &load.err) : 0;
free_scratch:
    for (int i = 0; i < n_threads; i++)
        free(load.scratch[i]);
free_lists:
    free(load.scratch);
    free(load.panels);
    free(load.first_piece);
    return rc;
}
