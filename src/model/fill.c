/*
 * Filling a shard's weights with the whole team: the work is cut into pieces of a few panels, and every thread takes one
 * after the other until none is left. Where the rows come from is the filler's business (load.c, dummy.c).
 *
 * The rank's main thread calls it; the team's threads run the filler side by side, each with scratch of its own.
 */
#include <stdlib.h>

#include "model/decoder.h"

/* Scratch of a thread that a piece should fit; a single panel may need more. */
enum { SCRATCH_BYTES = 1 << 20 };

struct work {
    struct model *model;
    const struct model_filler *filler;
    model_progress *progress;
    const atomic_int *cancel;
    uint8_t **scratch; /* by thread */
    size_t scratch_bytes;
    /* Piece i of the whole work lies in the part whose first_piece is the last one at or below i. */
    int *first_piece; /* [n_parts + 1] */
    int *panels;      /* [n_parts]: panels in a piece; 1 for a vector */
    atomic_int failed;
    struct err err; /* of the first that failed */
};

/* Where a thread is in the list: pieces are handed out in order, so it looks on from where it was. */
struct place {
    int part, panel_begin, panel_end;
};

static void fail(struct work *work, const struct err *err) {
    if (atomic_exchange(&work->failed, 1) == 0)
        work->err = *err;
}

static int n_panels(const struct model_part *part) { return part->matrix == NULL ? 1 : part->matrix->n_panels; }

/* 0 when there is no such piece. */
static int find_piece(const struct work *work, int piece, struct place *place) {
    const struct model *model = work->model;
    if (piece >= work->first_piece[model->n_parts])
        return 0;
    while (work->first_piece[place->part + 1] <= piece)
        place->part++;
    place->panel_begin = (piece - work->first_piece[place->part]) * work->panels[place->part];
    place->panel_end = place->panel_begin + work->panels[place->part];
    if (place->panel_end > n_panels(&model->parts[place->part]))
        place->panel_end = n_panels(&model->parts[place->part]);
    return 1;
}

static void fill_pieces(void *arg, int thread) {
    struct work *work = arg;
    struct model *model = work->model;
    const struct model_filler *filler = work->filler;
    int n_threads = team_size(model->opts.team);
    struct place here = {0}, ahead = {0};
    for (int piece; find_piece(work, piece = team_take(model->opts.team), &here);) {
        struct err err;
        struct model_part *part = &model->parts[here.part];
        if (atomic_load_explicit(&work->failed, memory_order_relaxed))
            return;
        if (work->cancel != NULL && atomic_load_explicit(work->cancel, memory_order_relaxed)) {
            err_set(&err, ERR_CANCELLED, "loading was stopped");
            fail(work, &err);
            return;
        }
        if (filler->expect != NULL && find_piece(work, piece + n_threads, &ahead))
            filler->expect(filler->ctx, &model->parts[ahead.part], ahead.panel_begin, ahead.panel_end);
        if (filler->fill(filler->ctx, part, here.panel_begin, here.panel_end, work->scratch[thread], &err) != 0) {
            fail(work, &err);
            return;
        }
        size_t n = (size_t)(here.panel_end - here.panel_begin), bytes = part->matrix == NULL ? model_part_bytes(part) : n * part->matrix->panel_bytes;
        atomic_fetch_add_explicit(work->progress, bytes, memory_order_relaxed);
    }
}

/* Also finds how much scratch the widest piece needs. */
static void cut_pieces(struct work *work) {
    struct model *model = work->model;
    for (int i = 0; i < model->n_parts; i++) {
        const struct model_part *part = &model->parts[i];
        int panel_rows = part->matrix == NULL ? 1 : KERNELS_PANEL_ROWS, panels = 1;
        size_t bytes = work->filler->scratch_bytes(part, panel_rows);
        if (bytes < SCRATCH_BYTES)
            panels = (int)(SCRATCH_BYTES / bytes);
        if (panels > n_panels(part))
            panels = n_panels(part);
        work->panels[i] = panels;
        work->first_piece[i + 1] = work->first_piece[i] + (n_panels(part) + panels - 1) / panels;
        bytes = work->filler->scratch_bytes(part, panel_rows * panels);
        if (bytes > work->scratch_bytes)
            work->scratch_bytes = bytes;
    }
}

int model_fill(struct model *model, const struct model_filler *filler, model_progress *progress, const atomic_int *cancel,
               struct err *err) {
    int n_threads = team_size(model->opts.team), rc = -1;
    struct work work = {.model = model, .filler = filler, .progress = progress, .cancel = cancel};
    work.first_piece = calloc((size_t)model->n_parts + 1, sizeof *work.first_piece);
    work.panels = calloc((size_t)model->n_parts + 1, sizeof *work.panels);
    work.scratch = calloc((size_t)n_threads, sizeof *work.scratch);
    if (work.first_piece == NULL || work.panels == NULL || work.scratch == NULL) {
        err_set(err, ERR_NOMEM, "no memory for the list of %d tensors", model->n_parts);
        goto free_lists;
    }
    cut_pieces(&work);
    for (int i = 0; i < n_threads; i++) {
        work.scratch[i] = aligned_alloc(64, (work.scratch_bytes + 63) / 64 * 64);
        if (work.scratch[i] == NULL) {
            err_set(err, ERR_NOMEM, "no memory for %zu bytes to read into", work.scratch_bytes);
            goto free_scratch;
        }
    }
    team_run(model->opts.team, fill_pieces, &work);
    rc = atomic_load(&work.failed) ? err_copy(err, &work.err) : 0;
free_scratch:
    for (int i = 0; i < n_threads; i++)
        free(work.scratch[i]);
free_lists:
    free(work.scratch);
    free(work.panels);
    free(work.first_piece);
    return rc;
}
