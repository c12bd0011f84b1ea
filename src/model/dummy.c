/*
 * Random weights of a model's true geometry, made in place by the whole team. A weight depends on the seed, its tensor,
 * row and column alone, so that every split of the model has the same ones. They are uniform, as wide as keeps a layer's
 * output about as large as its input.
 */
#include <math.h>
#include <string.h>

#include "base/rand.h"
#include "kernels/vector.h"
#include "model/decoder.h"

struct dummy {
    uint64_t seed;
};

static uint64_t row_seed(const struct dummy *dummy, const struct model_part *part, int row) {
    uint64_t tensor = ((uint64_t)part->tensor << 40) + ((uint64_t)(part->layer + 1) << 20) + (uint64_t)(part->expert + 1);
    return rand_ctr_u64(rand_ctr_u64(dummy->seed, tensor), (uint64_t)row);
}

/* Columns [begin, begin + n) of a row: 16 random bits each, four columns from one draw. */
static void random_floats(uint64_t seed, int begin, int n, float width, float *out) {
    uint64_t word = 0;
    for (int c = begin; c < begin + n; c++) {
        if (c == begin || c % 4 == 0)
            word = rand_ctr_u64(seed, (uint64_t)(c / 4));
        out[c - begin] = (float)(int16_t)(word >> c % 4 * 16) * (width / 32768);
    }
}

static void put_f16(float value, uint8_t *to) { kernels_row_from_f32(DTYPE_F16, &value, 1, to); }

/* Scales of a block of random bits, so that its weights are uniform in about ±width. */
static void set_scales(enum dtype dtype, float width, uint8_t *block) {
    switch (dtype) {
    case DTYPE_F8_E4M3: {
        float scale = width / 166; /* random bytes are mostly small: about as far from 0 as the uniform ones on average */
        memcpy(block, &scale, sizeof scale);
        for (int i = 4; i < 36; i++)
            block[i] -= (block[i] & 0x7f) == 0x7f; /* no NaN */
        break;
    }
    case DTYPE_Q8_0: put_f16(width / 127, block); break;
    case DTYPE_Q4_0: put_f16(width / 8, block); break;
    case DTYPE_Q4_1:
        put_f16(width / 7.5f, block);
        put_f16(-width, block + 2);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K: {
        /* All 6-bit scales and minima are 32 + 1: 33 · d · q − 33 · dmin; their upper bits are those of the first four bytes. */
        float steps = dtype == DTYPE_Q4_K ? 15 : 31;
        put_f16(2 * width / steps / 33, block);
        put_f16(width / 33, block + 2);
        memset(block + 4, 0xa1, 8);
        memset(block + 12, 0x11, 4);
        break;
    }
    case DTYPE_Q6_K:
        memset(block + 192, 1, 16);
        put_f16(width / 32, block + 208);
        break;
    default: break;
    }
}

static void random_blocks(uint64_t seed, enum dtype dtype, int begin, int n, float width, uint8_t *out) {
    size_t weights = (size_t)dtype_block_weights(dtype), bytes = (size_t)dtype_block_bytes(dtype), words = (bytes + 7) / 8;
    size_t first = (size_t)begin / weights, n_blocks = (size_t)n / weights;
    for (size_t b = 0; b < n_blocks; b++, out += bytes) {
        for (size_t w = 0; w < words; w++) {
            uint64_t word = rand_ctr_u64(seed, (first + b) * words + w);
            memcpy(out + w * 8, &word, bytes - w * 8 < 8 ? bytes - w * 8 : 8);
        }
        set_scales(dtype, width, out);
    }
}

static void make_row(const struct dummy *dummy, const struct model_part *part, int row, uint8_t *out, float *floats) {
    uint64_t seed = row_seed(dummy, part, row);
    float width = sqrtf(3.0f / (float)part->cols);
    if (dtype_block_weights(part->dtype) > 1) {
        random_blocks(seed, part->dtype, part->col_begin, part->n_cols, width, out);
    } else {
        random_floats(seed, part->col_begin, part->n_cols, width, floats);
        kernels_row_from_f32(part->dtype, floats, part->n_cols, out);
    }
}

static void make_vector(const struct dummy *dummy, const struct model_part *part) {
    bool is_bias = part->tensor == MODEL_Q_BIAS || part->tensor == MODEL_K_BIAS || part->tensor == MODEL_V_BIAS;
    random_floats(row_seed(dummy, part, 0), part->col_begin, part->n_cols, 0.1f, *part->vector);
    for (int i = 0; i < part->n_cols && !is_bias; i++)
        (*part->vector)[i] += 1; /* a norm's */
}

/* Rows in file format, and one as floats. */
static size_t scratch_bytes(const struct model_part *part, int n_rows) {
    return (dtype_row_bytes(part->dtype, (size_t)part->n_cols) * (size_t)n_rows + 63) / 64 * 64 + (size_t)part->n_cols * sizeof(float);
}

static int make_part(void *ctx, struct model_part *part, int panel_begin, int panel_end, uint8_t *scratch, struct err *err) {
    const struct dummy *dummy = ctx;
    (void)err;
    if (part->matrix == NULL) {
        make_vector(dummy, part);
        return 0;
    }
    size_t stride_bytes = dtype_row_bytes(part->dtype, (size_t)part->n_cols);
    float *floats = (float *)(scratch + (stride_bytes * KERNELS_PANEL_ROWS + 63) / 64 * 64);
    for (int panel = panel_begin; panel < panel_end; panel++) {
        int row = panel * KERNELS_PANEL_ROWS, n = part->n_rows - row < KERNELS_PANEL_ROWS ? part->n_rows - row : KERNELS_PANEL_ROWS;
        for (int r = 0; r < n; r++)
            make_row(dummy, part, part->row_begin + row + r, scratch + (size_t)r * stride_bytes, floats);
        kernels_matrix_pack_panel(part->matrix, panel, scratch, stride_bytes, n);
    }
    return 0;
}

/* Every matrix in `dtype` or what quantisation makes of it, the router in F32; all of the cuts must fall between blocks. */
static int choose_dtypes(struct model *model, enum dtype dtype, struct err *err) {
    for (int i = 0; i < model->n_parts; i++) {
        struct model_part *part = &model->parts[i];
        char name[WEIGHTS_NAME_BYTES];
        part->dtype = model_part_dtype(&model->config, part, model_part_source(&model->config, part, dtype));
        int block = dtype_block_weights(part->dtype);
        if (part->col_begin % block != 0 || part->n_cols % block != 0) {
            model_part_name(model, part, false, name);
            return err_set(err, ERR_INVALID, "tensor '%s' cannot be %s on this rank: its columns %d to %d are no whole blocks of %d", name,
                           dtype_name(part->dtype), part->col_begin, part->col_begin + part->n_cols, block);
        }
    }
    return 0;
}

int model_load_dummy(struct model *model, enum dtype dtype, uint64_t seed, model_progress *progress, const atomic_int *cancel, struct err *err) {
    struct dummy dummy = {.seed = seed};
    struct model_filler filler = {.fill = make_part, .scratch_bytes = scratch_bytes, .ctx = &dummy};
    if (model->weights != NULL)
        return err_set(err, ERR_INTERNAL, "the model's weights are loaded already");
    if (choose_dtypes(model, dtype, err) != 0 || model_parts_place(model, err) != 0)
        return -1;
    return model_fill(model, &filler, progress, cancel, err);
}
