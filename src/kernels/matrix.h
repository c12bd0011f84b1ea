/*
 * Packed weight matrices and the product with activations: the one operation that decides the speed.
 *
 * A matrix [n_rows, n_cols] (row = output feature) is packed once at load into panels of KERNELS_PANEL_ROWS rows;
 * inside a panel the rows are interleaved in the order in which the kernels read them, so that one broadcast of
 * activations serves all rows of the panel and nothing is summed horizontally. The layout is the same for every
 * instruction set, but that some have BF16 as integers; it is private to src/kernels.
 *
 * Nothing here allocates or takes locks; ranges of panels can be worked on by different threads at once.
 */
#ifndef KERNELS_MATRIX_H
#define KERNELS_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

enum { KERNELS_PANEL_ROWS = 16, KERNELS_GROUP = 32 /* activations that share one int8 scale */ };

/*
 * Goes up when the packed bytes of a weight would be others than before, be it by their layout or by the way in which they are
 * quantised on load: shards that were packed to disk by an earlier program are then packed anew.
 */
enum { KERNELS_LAYOUT_VERSION = 3 };

struct kernels_matrix {
    enum dtype dtype; /* format of the weights; decides which activations are read */
    int n_rows, n_cols;
    int n_panels;       /* ceil(n_rows / KERNELS_PANEL_ROWS); rows past n_rows are zero */
    size_t panel_bytes; /* multiple of 64 */
    uint8_t *data;      /* n_panels · panel_bytes, 64-byte aligned, owned by whoever set it */
    bool is_i16;        /* BF16: packed as integers (panel.h) because the CPU multiplies these faster */
    bool keeps_f32;     /* products with BF16 are in float32 in any case */
};

/*
 * Fills everything but data (NULL). n_cols must be a multiple of the dtype's block. Whether BF16 becomes integers depends on
 * the instruction set in use. Returns n_panels · panel_bytes, which does not.
 */
size_t kernels_matrix_init(struct kernels_matrix *matrix, enum dtype dtype, int n_rows, int n_cols);

/* Before packing: BF16 weights stay as they are and products with them are in float32, though others would be faster. */
void kernels_matrix_keep_f32(struct kernels_matrix *matrix);

/*
 * Packs one panel from rows in file format: src holds n_src_rows (1 to 16) rows of row_stride_bytes each, starting
 * with row panel · 16 of the matrix. Missing rows become zero. Of F8_E4M3 the rows must have the same scales, and no NaN.
 */
void kernels_matrix_pack_panel(struct kernels_matrix *matrix, int panel, const void *src, size_t row_stride_bytes, int n_src_rows);

/* Writes row `row` as n_cols floats, as packing left them: for embedding look-ups in a packed matrix. */
void kernels_matrix_unpack_row(const struct kernels_matrix *matrix, int row, float *ret_row);

/* Bytes of packed weights that one pass over the matrix reads. */
size_t kernels_matrix_bytes(const struct kernels_matrix *matrix);

/* Below 2^24 each integer is a float, and from 2^23 on one is the float's last bit: a sum that begins here needs no conversion. */
enum { KERNELS_ACTS_ZERO = 0x900000 /* 2^23 + 2^20 */, KERNELS_ACTS_START = 0x4b100000 /* its bits as a float */ };

/* Forms of activations beside floats; a set of them is a sum. */
enum { KERNELS_ACTS_I8 = 1, KERNELS_ACTS_I16 = 2 };

/* Greatest magnitude of an activation, and of a weight, as 16 bits: the products of a group just fit in 32. */
enum { KERNELS_I16_MAX = 8191 };

/*
 * Activations of n_tokens, [n_tokens, n_cols]. `f32` is always set by the caller; kernels_acts_quantize fills the forms
 * that the matrices read. int8: q = round(x / scale), scale = max|x| / 127 per KERNELS_GROUP columns. int16: the same
 * with KERNELS_I16_MAX.
 * `split` and `starts` say the same as q, for instructions that multiply unsigned by signed bytes: w · q is |q| · w, and
 * where q < 0 it is |q| · ~w + |q|. A sum of those products that begins with the group's start is, as the bits of a float,
 * KERNELS_ACTS_ZERO + Σ w · q.
 */
struct kernels_acts {
    int n_cols;
    int stride_cols;    /* floats from one token to the next in f32 */
    const float *f32;   /* [n_tokens, stride_cols] */
    int8_t *q;          /* [n_tokens, n_cols] */
    uint8_t *split;     /* [n_tokens, n_cols / 4, 2, 4]: of four columns |q|, then 255 where q < 0, else 0 */
    float *scales;      /* [n_tokens, n_cols / 32] */
    int32_t *sums;      /* [n_tokens, n_cols / 16]: sum of q over each half group */
    int32_t *starts;    /* [n_tokens, n_cols / 32]: KERNELS_ACTS_START + the sum of |q| over a group where q < 0 */
    int16_t *wide;      /* [n_tokens, n_cols]: the int16 form */
    float *wide_scales; /* [n_tokens, n_cols / 32] */
};

/* The form that products with this matrix read: 0 for floats alone. */
int kernels_matrix_acts(const struct kernels_matrix *matrix);
/* Bytes that all forms take for n_tokens (one block, each part 64-byte aligned). */
size_t kernels_acts_bytes(int n_tokens, int n_cols);
/* Points the forms into `memory` (64-byte aligned, kernels_acts_bytes). */
void kernels_acts_place(struct kernels_acts *acts, int n_tokens, void *memory);
/* The same activations from `token` on; q may be NULL, then there are only floats. */
struct kernels_acts kernels_acts_from(const struct kernels_acts *acts, int token);
/* Copies the given forms of one token to another place; both have the same n_cols. */
void kernels_acts_copy(const struct kernels_acts *from, int forms, int from_token, struct kernels_acts *to, int to_token);
/* Fills the given forms for tokens [token_begin, token_end). n_cols must be a multiple of KERNELS_GROUP unless there are none. */
void kernels_acts_quantize(struct kernels_acts *acts, int forms, int token_begin, int token_end);
/* Columns [col_begin, col_end) of one token alone, both multiples of KERNELS_GROUP. */
void kernels_acts_quantize_columns(struct kernels_acts *acts, int forms, int token, int col_begin, int col_end);

/* Scratch that each thread needs for kernels_matmul, whatever the shape. 64-byte aligned. */
enum { KERNELS_SCRATCH_BYTES = 256 * 1024 };

/*
 * out[t, r] = Σ_c W[r, c] · x[t, c] for all tokens t in [0, n_tokens) and the rows of panels [panel_begin, panel_end).
 * out: [n_tokens, out_stride] floats, written only at columns r < n_rows. The value of out[t, r] depends neither on
 * n_tokens nor on the panel range (batch invariance).
 */
void kernels_matmul(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,
                    int panel_begin, int panel_end, void *scratch);

#endif
