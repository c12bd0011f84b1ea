/*
 * The quantised matrices of a safetensors checkpoint, listed as matrices in formats with kernels of their own (quant.h): finds
 * what belongs together while the store is opened, and reads any rectangle out of it afterwards, on any thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "weights/store_parts.h"

enum { GROUP = 32, Q4_1_BYTES = 20, F8_BYTES = 36, CHUNK_ROWS = 512 };

/* --- finding them --- */

/* `name` ends in `suffix`: what stands before it, and `other` instead, into ret_name. */
static bool rename_tail(const char *name, const char *suffix, const char *other, char ret_name[WEIGHTS_NAME_BYTES]) {
    size_t len = strlen(name), tail = strlen(suffix);
    if (len < tail || strcmp(name + len - tail, suffix) != 0 || len - tail + strlen(other) >= WEIGHTS_NAME_BYTES)
        return false;
    memcpy(ret_name, name, len - tail);
    strcpy(ret_name + len - tail, other);
    return true;
}

static struct weights_place place_of(const struct weights_tensor *tensor) { return (struct weights_place){tensor->file, tensor->offset}; }

/* Two dimensions that take the bytes they should; of formats that the store does not know nobody else has looked. */
static bool is_matrix(const struct weights_tensor *tensor, uint64_t item_bytes) {
    return tensor->n_dims == 2 && tensor->dims[0] > 0 && tensor->dims[1] > 0 && tensor->len_bytes % item_bytes == 0 &&
           tensor->len_bytes / item_bytes == (uint64_t)tensor->dims[0] * (uint64_t)tensor->dims[1];
}

static int check_dims(const struct weights_tensor *tensor, int64_t rows, int64_t cols, struct err *err) {
    if (tensor->n_dims == 2 && tensor->dims[0] == rows && tensor->dims[1] == cols)
        return 0;
    return err_set(err, ERR_INVALID, "tensor '%s' should have the shape [%lld, %lld]", tensor->name, (long long)rows, (long long)cols);
}

static int add_quantised(struct weights_store *store, const struct weights_quantised *quantised, struct weights_tensor *tensor,
                         struct err *err) {
    if (store->n_quantised == store->cap_quantised) {
        int cap = store->cap_quantised == 0 ? 256 : 2 * store->cap_quantised;
        struct weights_quantised *grown = realloc(store->quantised, (size_t)cap * sizeof *grown);
        if (grown == NULL)
            return err_set(err, ERR_NOMEM, "no memory for a list of %d quantised tensors", cap);
        store->quantised = grown;
        store->cap_quantised = cap;
    }
    store->quantised[store->n_quantised++] = *quantised;
    tensor->quantised = store->n_quantised;
    return weights_store_add(store, tensor, err);
}

static int add_gptq(struct weights_store *store, const struct weights_tensor *packed, struct err *err) {
    struct weights_tensor tensor = *packed;
    char zeros_name[WEIGHTS_NAME_BYTES], scales_name[WEIGHTS_NAME_BYTES];
    if (!rename_tail(packed->name, ".qweight", ".weight", tensor.name))
        return 0;
    if (!rename_tail(packed->name, ".qweight", ".qzeros", zeros_name) || !rename_tail(packed->name, ".qweight", ".scales", scales_name))
        return 0;
    const struct weights_skipped *zeros = weights_store_find_skipped(store, zeros_name);
    const struct weights_tensor *scales = weights_store_find(store, scales_name);
    if (zeros == NULL || strcmp(zeros->format, "I32") != 0 || !is_matrix(&zeros->tensor, 4) || scales == NULL || scales->dtype != DTYPE_F16)
        return err_set(err, ERR_INVALID, "tensor '%s' should come with '%s' in I32 and '%s' in F16", packed->name, zeros_name, scales_name);
    int64_t group = store->quant.group, rows = packed->dims[1], cols = is_matrix(packed, 4) ? packed->dims[0] * 8 : 0;
    if (cols == 0 || cols % group != 0 || rows % 8 != 0)
        return err_set(err, ERR_INVALID,
                       "tensor '%s' should have 8 columns in an element, whole groups of %lld of them, and a multiple of 8 rows",
                       packed->name, (long long)group);
    if (check_dims(&zeros->tensor, cols / group, rows / 8, err) != 0 || check_dims(scales, cols / group, rows, err) != 0)
        return -1;
    tensor.dtype = DTYPE_Q4_1;
    tensor.dims[0] = rows;
    tensor.dims[1] = cols;
    tensor.len_bytes += zeros->tensor.len_bytes;
    struct weights_quantised quantised = {.weights = place_of(packed), .zeros = place_of(&zeros->tensor), .scales = place_of(scales)};
    return add_quantised(store, &quantised, &tensor, err);
}

static int add_fp8(struct weights_store *store, const struct weights_tensor *bytes, struct err *err) {
    struct weights_tensor tensor = *bytes;
    char name[WEIGHTS_NAME_BYTES];
    if (!rename_tail(bytes->name, ".weight", ".weight_scale_inv", name))
        return 0;
    const struct weights_tensor *scales = weights_store_find(store, name);
    if (scales == NULL || (scales->dtype != DTYPE_BF16 && scales->dtype != DTYPE_F32))
        return err_set(err, ERR_INVALID, "tensor '%s' should come with '%s' in BF16 or F32", bytes->name, name);
    if (!is_matrix(bytes, 1) || bytes->dims[1] % GROUP != 0)
        return err_set(err, ERR_INVALID, "tensor '%s' should have two dimensions and a multiple of %d columns", bytes->name, GROUP);
    int64_t n_down = (bytes->dims[0] + store->quant.block_rows - 1) / store->quant.block_rows;
    int64_t n_across = (bytes->dims[1] + store->quant.block_cols - 1) / store->quant.block_cols;
    if (check_dims(scales, n_down, n_across, err) != 0)
        return -1;
    tensor.dtype = DTYPE_F8_E4M3;
    struct weights_quantised quantised = {.weights = place_of(bytes), .scales = place_of(scales), .scales_dtype = scales->dtype};
    return add_quantised(store, &quantised, &tensor, err);
}

int weights_quantised_list(struct weights_store *store, struct err *err) {
    enum weights_quant_method method = store->quant.method;
    const char *format = method == WEIGHTS_QUANT_GPTQ ? "I32" : "F8_E4M3";
    for (int i = 0; method != WEIGHTS_QUANT_NONE && i < store->n_skipped; i++) {
        const struct weights_skipped *skipped = &store->skipped[i];
        if (strcmp(skipped->format, format) == 0 && (method == WEIGHTS_QUANT_GPTQ ? add_gptq : add_fp8)(store, &skipped->tensor, err) != 0)
            return -1;
    }
    return 0;
}

/* --- reading --- */

/* What one thread reads of a GPTQ matrix at a time: 32 columns of CHUNK_ROWS rows. */
struct gptq_chunk {
    uint32_t words[4][CHUNK_ROWS]; /* word k holds columns 8k to 8k + 7, the first in the lowest bits */
    uint16_t scales[CHUNK_ROWS], minima[CHUNK_ROWS];
    uint32_t zeros[CHUNK_ROWS / 8 + 2];
};

/* Scales, and minima made of the zeros, of rows [row, row + n) for one group. */
static int gptq_read_group(const struct weights_store *store, const struct weights_quantised *q, int64_t rows, int64_t row, int n,
                           int64_t group, struct gptq_chunk *chunk, struct err *err) {
    int64_t first = row / 8, n_words = (row + n - 1) / 8 + 1 - first;
    if (weights_store_pread(store, q->scales, (uint64_t)(group * rows + row) * 2, chunk->scales, (size_t)n * 2, err) != 0 ||
        weights_store_pread(store, q->zeros, (uint64_t)(group * (rows / 8) + first) * 4, chunk->zeros, (size_t)n_words * 4, err) != 0)
        return -1;
    for (int r = 0; r < n; r++) {
        int zero = (int)(chunk->zeros[(row + r) / 8 - first] >> (row + r) % 8 * 4 & 15) + store->quant.zero_offset;
        chunk->minima[r] = half_f32_to_f16(half_f16_to_f32(chunk->scales[r]) * (float)-zero);
    }
    return 0;
}

static void q4_1_put(const struct gptq_chunk *chunk, int r, uint8_t *block) {
    uint8_t q[GROUP];
    for (int i = 0; i < GROUP; i++)
        q[i] = chunk->words[i / 8][r] >> i % 8 * 4 & 15;
    memcpy(block, &chunk->scales[r], 2);
    memcpy(block + 2, &chunk->minima[r], 2);
    for (int i = 0; i < GROUP / 2; i++)
        block[4 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

static int gptq_read(const struct weights_store *store, const struct weights_quantised *q, int64_t rows, int64_t row_begin, int64_t n_rows,
                     int64_t col_begin, int64_t n_cols, uint8_t *dst, struct err *err) {
    struct gptq_chunk chunk;
    size_t stride = (size_t)(n_cols / GROUP) * Q4_1_BYTES;
    for (int64_t done = 0; done < n_rows; done += CHUNK_ROWS) {
        int64_t row = row_begin + done, group_read = -1;
        int n = (int)(n_rows - done < CHUNK_ROWS ? n_rows - done : CHUNK_ROWS);
        for (int64_t col = col_begin; col < col_begin + n_cols; col += GROUP) {
            if (col / store->quant.group != group_read) {
                group_read = col / store->quant.group;
                if (gptq_read_group(store, q, rows, row, n, group_read, &chunk, err) != 0)
                    return -1;
            }
            for (int k = 0; k < 4; k++) {
                uint64_t at = (uint64_t)((col / 8 + k) * rows + row) * 4;
                if (weights_store_pread(store, q->weights, at, chunk.words[k], (size_t)n * 4, err) != 0)
                    return -1;
            }
            for (int r = 0; r < n; r++)
                q4_1_put(&chunk, r, dst + (size_t)(done + r) * stride + (size_t)((col - col_begin) / GROUP) * Q4_1_BYTES);
        }
    }
    return 0;
}

/* Scales of block rows [first, first + n) and block columns [first_col, first_col + n_across), as floats [n, n_across]. */
static int fp8_read_scales(const struct weights_store *store, const struct weights_quantised *q, int64_t across, int64_t first, int64_t n,
                           int64_t first_col, int64_t n_across, float *ret, struct err *err) {
    size_t item_bytes = (size_t)dtype_block_bytes(q->scales_dtype);
    for (int64_t i = 0; i < n; i++) {
        float *row = ret + i * n_across;
        /* BF16 is read into the row's upper half and spreads out from there. */
        uint8_t *raw = (uint8_t *)row + (size_t)n_across * (sizeof(float) - item_bytes);
        uint64_t at = (uint64_t)((first + i) * across + first_col) * item_bytes;
        if (weights_store_pread(store, q->scales, at, raw, (size_t)n_across * item_bytes, err) != 0)
            return -1;
        for (int64_t c = 0; c < n_across; c++) {
            uint16_t half;
            if (q->scales_dtype == DTYPE_BF16) {
                memcpy(&half, raw + 2 * c, sizeof half);
                row[c] = half_bf16_to_f32(half);
            }
            if (!isfinite(row[c]))
                return err_set(err, ERR_INVALID, "the scale of block [%lld, %lld] is not a finite number", (long long)(first + i),
                               (long long)(first_col + c));
        }
    }
    return 0;
}

/* A byte of seven ones, whatever the sign; 32 of them at a time. */
static bool holds_nan(const uint8_t *bytes) {
    unsigned found = 0;
    for (int i = 0; i < GROUP; i++)
        found |= (bytes[i] & 0x7f) == 0x7f;
    return found != 0;
}

static int fp8_read(const struct weights_store *store, const struct weights_quantised *q, int64_t cols, int64_t row_begin, int64_t n_rows,
                    int64_t col_begin, int64_t n_cols, uint8_t *dst, struct err *err) {
    if (n_rows == 0 || n_cols == 0)
        return 0;
    int rc = -1;
    int64_t block_rows = store->quant.block_rows, block_cols = store->quant.block_cols;
    int64_t down = row_begin / block_rows, n_down = (row_begin + n_rows - 1) / block_rows + 1 - down;
    int64_t across = col_begin / block_cols, n_across = (col_begin + n_cols - 1) / block_cols + 1 - across;
    int64_t groups = n_cols / GROUP;
    float *scales = malloc((size_t)(n_down * n_across) * sizeof *scales);
    if (scales == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %lld scales", (long long)(n_down * n_across));
    if (fp8_read_scales(store, q, (cols + block_cols - 1) / block_cols, down, n_down, across, n_across, scales, err) != 0)
        goto free_scales;
    /* The bytes come to the end of dst; every 32 then move up behind their scale, which never overtakes what is not moved yet. */
    uint8_t *raw = dst + (size_t)(n_rows * groups) * (F8_BYTES - GROUP);
    if (n_cols == cols) {
        if (weights_store_pread(store, q->weights, (uint64_t)(row_begin * cols), raw, (size_t)(n_rows * cols), err) != 0)
            goto free_scales;
    } else {
        for (int64_t r = 0; r < n_rows; r++) {
            uint64_t at = (uint64_t)((row_begin + r) * cols + col_begin);
            if (weights_store_pread(store, q->weights, at, raw + r * n_cols, (size_t)n_cols, err) != 0)
                goto free_scales;
        }
    }
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t g = 0; g < groups; g++, raw += GROUP, dst += F8_BYTES) {
            if (holds_nan(raw)) {
                err_set(err, ERR_INVALID, "row %lld holds a NaN in columns %lld to %lld", (long long)(row_begin + r),
                        (long long)(col_begin + g * GROUP), (long long)(col_begin + g * GROUP + GROUP - 1));
                goto free_scales;
            }
            const float *scale = &scales[((row_begin + r) / block_rows - down) * n_across + (col_begin + g * GROUP) / block_cols - across];
            memmove(dst + sizeof *scale, raw, GROUP);
            memcpy(dst, scale, sizeof *scale);
        }
    }
    rc = 0;
free_scales:
    free(scales);
    return rc;
}

int weights_quantised_read(const struct weights_store *store, const struct weights_tensor *tensor, int64_t row_begin, int64_t n_rows,
                           int64_t col_begin, int64_t n_cols, void *dst, struct err *err) {
    const struct weights_quantised *q = &store->quantised[tensor->quantised - 1];
    if (store->quant.method == WEIGHTS_QUANT_GPTQ)
        return gptq_read(store, q, tensor->dims[0], row_begin, n_rows, col_begin, n_cols, dst, err);
    return fp8_read(store, q, tensor->dims[1], row_begin, n_rows, col_begin, n_cols, dst, err);
}
