/*
 * Products in plain C: the reference that every instruction set is checked against. Each output is one sum over the
 * columns in order: per column for the float formats, per group (exact integers inside) for the block formats.
 * Runs on any thread; allocates nothing.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "kernels/ops.h"
#include "kernels/panel.h"

enum { ROWS = KERNELS_PANEL_ROWS };

/* Column c of a panel as 16 floats. */
static void column_read(enum dtype dtype, const uint8_t *panel, int c, float w[ROWS])
{
    if (dtype == DTYPE_F32) {
        memcpy(w, panel + (size_t)c * 64, 64);
        return;
    }
    if (dtype == DTYPE_F8_E4M3) {
        float scale;
        memcpy(&scale, panel + panel_f8_scale_at(c), sizeof scale);
        for (int r = 0; r < ROWS; r++)
            w[r] = half_f8_to_f32(panel[panel_f8_column_at(c) + (size_t)r]) * 0x1p-8f * scale;
        return;
    }
    uint16_t halves[2 * ROWS];
    if (dtype == DTYPE_F16) {
        memcpy(halves, panel + (size_t)c * 32, 32);
        for (int r = 0; r < ROWS; r++)
            w[r] = half_f16_to_f32(halves[r]);
    } else {
        memcpy(halves, panel + panel_bf16_pair_at(c), 64);
        for (int r = 0; r < ROWS; r++)
            w[r] = half_bf16_to_f32(halves[2 * r + c % 2]);
    }
}

/* Tokens that share one unpacking of a column or group. */
enum { TILE = 16 };

static void matmul_float_c(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end, void *scratch)
{
    (void)scratch;
    for (int p = panel_begin; p < panel_end; p++) {
        const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes;
        for (int t0 = 0; t0 < n_tokens; t0 += TILE) {
            int n = n_tokens - t0 < TILE ? n_tokens - t0 : TILE;
            const float *x = acts->f32 + (size_t)t0 * (size_t)acts->stride_cols;
            float acc[TILE][ROWS] = {{0}};
            for (int c = 0; c < matrix->n_cols; c++) {
                float w[ROWS];
                column_read(matrix->dtype, panel, c, w);
                for (int t = 0; t < n; t++) {
                    float value = x[(size_t)t * (size_t)acts->stride_cols + (size_t)c];
                    for (int r = 0; r < ROWS; r++)
                        acc[t][r] += w[r] * value;
                }
            }
            for (int t = 0; t < n; t++)
                panel_out_write(matrix, p, acc[t], out + (size_t)(t0 + t) * (size_t)out_stride);
        }
    }
}

/* acc += one group's products for one token. */
static void group_add(const struct panel_group *group, int has_halves, const int8_t *q, float scale, const int32_t *sums, float acc[ROWS])
{
    int32_t dot[2][ROWS] = {{0}};
    for (int i = 0; i < KERNELS_GROUP; i++)
        for (int r = 0; r < ROWS; r++)
            dot[i / 16][r] += group->q[i][r] * q[i];
    float scaled_sum = scale * (float)(sums[0] + sums[1]);
    for (int r = 0; r < ROWS; r++) {
        if (has_halves) {
            acc[r] += (float)dot[0][r] * group->scale[0][r] * scale;
            acc[r] += (float)dot[1][r] * group->scale[1][r] * scale;
        } else {
            acc[r] += (float)(dot[0][r] + dot[1][r]) * group->scale[0][r] * scale;
            acc[r] -= scaled_sum * group->minimum[r];
        }
    }
}

static void matmul_block_c(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end, void *scratch)
{
    (void)scratch;
    size_t n_groups = (size_t)matrix->n_cols / KERNELS_GROUP;
    for (int p = panel_begin; p < panel_end; p++) {
        const uint8_t *panel = matrix->data + (size_t)p * matrix->panel_bytes;
        for (int t0 = 0; t0 < n_tokens; t0 += TILE) {
            int n = n_tokens - t0 < TILE ? n_tokens - t0 : TILE;
            float acc[TILE][ROWS] = {{0}};
            for (size_t g = 0; g < n_groups; g++) {
                struct panel_group group;
                panel_group_read(matrix->dtype, panel, (int)g, &group);
                for (int t = 0; t < n; t++) {
                    size_t at = (size_t)(t0 + t) * n_groups + g;
                    group_add(&group, matrix->dtype == DTYPE_Q6_K, acts->q + at * KERNELS_GROUP, acts->scales[at], acts->sums + 2 * at,
                              acc[t]);
                }
            }
            for (int t = 0; t < n; t++)
                panel_out_write(matrix, p, acc[t], out + (size_t)(t0 + t) * (size_t)out_stride);
        }
    }
}

/*
 * A group whose values all are tiny becomes zero (its inverse scale would overflow); one that holds an infinity or a NaN
 * gets the scale NaN, so that the damage shows in every output instead of hiding in wrong numbers.
 */
static void acts_quantize_i8_c(struct kernels_acts *acts, int token_begin, int token_end)
{
    int n_groups = acts->n_cols / KERNELS_GROUP;
    for (int t = token_begin; t < token_end; t++) {
        for (int g = 0; g < n_groups; g++) {
            const float *x = acts->f32 + (size_t)t * (size_t)acts->stride_cols + (size_t)g * KERNELS_GROUP;
            size_t at = (size_t)t * (size_t)n_groups + (size_t)g;
            float max = 0;
            int finite = 1;
            for (int i = 0; i < KERNELS_GROUP; i++) {
                max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
                finite &= isfinite(x[i]) != 0;
            }
            float inverse = finite && max > 1e-30f ? 127.0f / max : 0;
            acts->scales[at] = !finite ? NAN : inverse > 0 ? max / 127.0f : 0;
            acts->sums[2 * at] = acts->sums[2 * at + 1] = 0;
            acts->starts[at] = KERNELS_ACTS_START;
            for (int i = 0; i < KERNELS_GROUP; i++) {
                int q = finite ? (int)rintf(x[i] * inverse) : 0;
                acts->q[at * KERNELS_GROUP + (size_t)i] = (int8_t)q;
                acts->sums[2 * at + (size_t)i / 16] += q;
                uint8_t *split = acts->split + at * KERNELS_GROUP * 2 + (size_t)i / 4 * 8 + (size_t)i % 4;
                split[0] = (uint8_t)abs(q);
                split[4] = q < 0 ? 255 : 0;
                acts->starts[at] += q < 0 ? -q : 0;
            }
        }
    }
}

void kernels_ops_fill_matmul_c(struct kernels_ops *ops)
{
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++)
        ops->matmul[dtype] = dtype >= DTYPE_Q8_0 ? matmul_block_c : matmul_float_c;
    ops->matmul_bf16_f32 = matmul_float_c;
    ops->matmul_i16 = NULL;
    ops->acts_quantize_i8 = acts_quantize_i8_c;
}
