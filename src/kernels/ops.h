/*
 * The table of kernels in use: one entry for each operation that an instruction set may replace. Private to
 * src/kernels. It starts full of plain C (dispatch.c); kernels_setup lets each instruction set up to the chosen one
 * write its entries over it, so a set need only bring what it does better. Written once, before the other threads
 * start; read-only afterwards.
 */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/attention.h"
#include "kernels/matrix.h"
#include "kernels/vector.h"

/* As kernels_matmul; n_tokens > 0 and a range that is not empty. */
typedef void (*kernels_matmul_fn)(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                                  int out_stride, int panel_begin, int panel_end, void *scratch);

struct kernels_ops {
    kernels_matmul_fn matmul[DTYPE_COUNT];
    kernels_matmul_fn matmul_bf16_f32; /* BF16 in float32, where matmul may round activations */
    kernels_matmul_fn matmul_i16;      /* BF16 packed as integers; NULL where that is not faster, and no matrix is */
    void (*acts_quantize_i8)(struct kernels_acts *acts, int token_begin, int token_end);
    void (*acts_quantize_i16)(struct kernels_acts *acts, int token_begin, int token_end); /* NULL as matmul_i16 */
    void (*attn_partial)(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *scratch);
    void (*rmsnorm)(const float *x, const float *weight, int n, float eps, float *out);
    void (*add)(const float *x, int n, float *out);
    void (*add_scaled)(const float *x, float scale, int n, float *out);
    void (*silu_mul)(const float *gate, const float *up, int n, float *out);
    double (*exp)(const float *x, float shift, int n, float *out);
    void (*softmax)(float *x, int n);
    int (*argmax)(const float *x, int n, float *ret_max);
    void (*rope_halves)(float *x, const float *cos, const float *sin, int head_dim);
    void (*rope_pairs)(float *x, const float *cos, const float *sin, int head_dim);
};

extern struct kernels_ops kernels_ops;

/* Plain C: writes every entry. */
void kernels_ops_fill_matmul_c(struct kernels_ops *ops);
void kernels_ops_fill_vector_c(struct kernels_ops *ops);
void kernels_ops_fill_attention_c(struct kernels_ops *ops);

#endif
