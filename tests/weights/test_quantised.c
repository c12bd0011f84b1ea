/*
 * Quantised checkpoints in a store: any rectangle of a GPTQ or FP8 matrix is the one that its numbers say, no byte beside it is
 * read, and what does not belong together is refused. The checkpoints are random and made here from the description of the
 * formats, number by number.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/half.h"
#include "base/rand.h"
#include "weights/store.h"

static char folder[] = "/tmp/shoal-test-quantised.XXXXXX";
static uint64_t counter;

enum { LIMIT = 16 << 20 };

static int setup(void **state) {
    (void)state;
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    return rmdir(folder);
}

static uint32_t draw(uint32_t n) { return (uint32_t)(rand_ctr_u64(5, counter++) % n); }

static void write_text(const char *name, const void *bytes, size_t len_bytes) {
    char path[128];
    struct err err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(file_write_atomic(path, bytes, len_bytes, 0644, &err), 0);
}

static void write_config(const char *quantization_config) {
    char text[512];
    int len = snprintf(text, sizeof text, "{\"quantization_config\": {%s}}", quantization_config);
    write_text("config.json", text, (size_t)len);
}

/* A safetensors file that grows tensor by tensor. */
struct file {
    struct buf header, data;
};

static void file_begin(struct file *file) {
    buf_init(&file->header, LIMIT);
    buf_init(&file->data, LIMIT);
}

static void file_add(struct file *file, const char *name, const char *format, int64_t rows, int64_t cols, const void *data,
                     size_t len_bytes) {
    size_t at = file->data.len_bytes;
    buf_printf(&file->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld,%lld],\"data_offsets\":[%zu,%zu]}", at == 0 ? "{" : ",", name,
               format, (long long)rows, (long long)cols, at, at + len_bytes);
    buf_append(&file->data, data, len_bytes);
}

static void file_end(struct file *file) {
    struct buf out;
    buf_init(&out, LIMIT);
    buf_append_char(&file->header, '}');
    uint64_t len = file->header.len_bytes;
    buf_append(&out, &len, sizeof len);
    buf_append(&out, file->header.data, file->header.len_bytes);
    buf_append(&out, file->data.data, file->data.len_bytes);
    write_text("model.safetensors", out.data, out.len_bytes);
    buf_finish(&out);
    buf_finish(&file->header);
    buf_finish(&file->data);
}

static struct weights_store *open_store(void) {
    struct weights_store *store;
    struct err err;
    if (weights_store_open(folder, &store, &err) != 0)
        fail_msg("%s", err.msg);
    return store;
}

static void refused(enum err_code code, const char *words) {
    struct weights_store *store;
    struct err err;
    assert_int_equal(weights_store_open(folder, &store, &err), -1);
    if (err.code != code || strstr(err.msg, words) == NULL)
        fail_msg("code %s, '%s' lacks '%s'", err_code_name(err.code), err.msg, words);
}

/* --- GPTQ --- */

enum { G_ROWS = 1048, G_COLS = 256, G_GROUP = 64, G_GROUPS = G_COLS / G_GROUP };

/* The matrix as numbers: weight = scale[group][row] · (q[row][col] − zero[group][row]). */
static struct {
    uint8_t q[G_ROWS][G_COLS], zero[G_GROUPS][G_ROWS];
    uint16_t scale[G_GROUPS][G_ROWS];
    uint32_t qweight[G_COLS / 8][G_ROWS], qzeros[G_GROUPS][G_ROWS / 8];
} gptq;

static void gptq_fill(int zero_offset) {
    memset(gptq.qweight, 0, sizeof gptq.qweight);
    memset(gptq.qzeros, 0, sizeof gptq.qzeros);
    for (int r = 0; r < G_ROWS; r++) {
        for (int c = 0; c < G_COLS; c++) {
            gptq.q[r][c] = (uint8_t)draw(16);
            gptq.qweight[c / 8][r] |= (uint32_t)gptq.q[r][c] << c % 8 * 4;
        }
        for (int g = 0; g < G_GROUPS; g++) {
            uint32_t stored = draw(16);
            gptq.zero[g][r] = (uint8_t)(stored + (uint32_t)zero_offset);
            gptq.qzeros[g][r / 8] |= stored << r % 8 * 4;
            gptq.scale[g][r] = half_f32_to_f16(0.001f + (float)draw(1000) / 50000);
        }
    }
}

static void gptq_write(void) {
    struct file file;
    file_begin(&file);
    float norm = 1;
    file_add(&file, "l.x.qzeros", "I32", G_GROUPS, G_ROWS / 8, gptq.qzeros, sizeof gptq.qzeros);
    file_add(&file, "l.norm.weight", "F32", 1, 1, &norm, sizeof norm);
    file_add(&file, "l.x.qweight", "I32", G_COLS / 8, G_ROWS, gptq.qweight, sizeof gptq.qweight);
    file_add(&file, "l.x.scales", "F16", G_GROUPS, G_ROWS, gptq.scale, sizeof gptq.scale);
    file_end(&file);
}

static void gptq_check(const struct weights_store *store, int row, int n_rows, int col, int n_cols) {
    const struct weights_tensor *tensor = weights_store_find(store, "l.x.weight");
    struct err err;
    size_t bytes = dtype_row_bytes(DTYPE_Q4_1, (size_t)n_cols) * (size_t)n_rows;
    uint8_t *rows = malloc(bytes + 1);
    rows[bytes] = 0x5a;
    uint64_t before = weights_store_bytes_read(store);
    if (weights_store_read(store, tensor, row, n_rows, col, n_cols, rows, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(rows[bytes], 0x5a);
    /* The nibbles, and scales and zeros of the groups that are touched, once for every 512 rows. */
    uint64_t groups = (uint64_t)((col + n_cols - 1) / G_GROUP - col / G_GROUP + 1);
    uint64_t read = weights_store_bytes_read(store) - before;
    uint64_t most = (uint64_t)(n_rows * n_cols / 2) + groups * (uint64_t)(n_rows * 2 + (n_rows / 8 + 6) * 4);
    assert_true(n_rows == 0 || n_cols == 0 || read <= most);
    const uint8_t *block = rows;
    for (int r = row; r < row + n_rows; r++) {
        for (int c = col; c < col + n_cols; c += 32, block += 20) {
            uint16_t scale, minimum;
            memcpy(&scale, block, 2);
            memcpy(&minimum, block + 2, 2);
            int g = c / G_GROUP;
            float exact = -half_f16_to_f32(gptq.scale[g][r]) * (float)gptq.zero[g][r];
            assert_int_equal(scale, gptq.scale[g][r]);
            assert_true(fabsf(half_f16_to_f32(minimum) - exact) <= fabsf(exact) / 2048);
            for (int i = 0; i < 32; i++)
                assert_int_equal(i < 16 ? block[4 + i] & 15 : block[4 + i - 16] >> 4, gptq.q[r][c + i]);
        }
    }
    free(rows);
}

static void gptq_check_all(int zero_offset, const char *more) {
    char config[256];
    snprintf(config, sizeof config, "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": %d, \"desc_act\": false%s", G_GROUP, more);
    write_config(config);
    gptq_fill(zero_offset);
    gptq_write();
    struct weights_store *store = open_store();
    const struct weights_tensor *tensor = weights_store_find(store, "l.x.weight");
    assert_non_null(tensor);
    assert_int_equal(tensor->dtype, DTYPE_Q4_1);
    assert_int_equal(tensor->n_dims, 2);
    assert_int_equal(tensor->dims[0], G_ROWS);
    assert_int_equal(tensor->dims[1], G_COLS);
    assert_int_equal(tensor->len_bytes, sizeof gptq.qweight + sizeof gptq.qzeros);
    assert_int_equal(weights_store_find(store, "l.norm.weight")->dtype, DTYPE_F32);
    gptq_check(store, 0, G_ROWS, 0, G_COLS);
    gptq_check(store, 3, 0, 32, 64);
    for (int i = 0; i < 60; i++) {
        int row = (int)draw(G_ROWS), col = (int)draw(G_COLS / 32) * 32;
        gptq_check(store, row, 1 + (int)draw((uint32_t)(G_ROWS - row)), col, 32 + (int)draw((uint32_t)(G_COLS - col) / 32) * 32);
    }
    weights_store_close(store);
}

static void test_gptq(void **state) {
    (void)state;
    gptq_check_all(1, ", \"sym\": true");
    gptq_check_all(0, ", \"checkpoint_format\": \"gptq_v2\", \"sym\": false");
}

static void test_gptq_refusals(void **state) {
    (void)state;
    struct file file;
    write_config("\"quant_method\": \"gptq\", \"bits\": 3, \"group_size\": 64");
    refused(ERR_UNSUPPORTED, "config.json: \"quantization_config\": gptq with \"bits\": 3");
    write_config("\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 64");
    file_begin(&file);
    file_add(&file, "x.qweight", "I32", G_COLS / 8, G_ROWS, gptq.qweight, sizeof gptq.qweight);
    file_add(&file, "x.qzeros", "I32", G_GROUPS, G_ROWS / 8, gptq.qzeros, sizeof gptq.qzeros);
    file_end(&file);
    refused(ERR_INVALID, "tensor 'x.qweight' should come with 'x.qzeros' in I32 and 'x.scales' in F16");
    file_begin(&file);
    file_add(&file, "x.qweight", "I32", G_COLS / 8, G_ROWS, gptq.qweight, sizeof gptq.qweight);
    file_add(&file, "x.qzeros", "I32", G_GROUPS, G_ROWS / 8, gptq.qzeros, sizeof gptq.qzeros);
    file_add(&file, "x.scales", "F16", G_GROUPS / 2, G_ROWS, gptq.scale, sizeof gptq.scale / 2);
    file_end(&file);
    refused(ERR_INVALID, "tensor 'x.scales' should have the shape [4, 1048]");
    file_begin(&file); /* a shape that claims more than there is */
    file_add(&file, "x.qweight", "I32", (int64_t)1 << 50, 8, gptq.qweight, 64);
    file_add(&file, "x.qzeros", "I32", G_GROUPS, G_ROWS / 8, gptq.qzeros, sizeof gptq.qzeros);
    file_add(&file, "x.scales", "F16", G_GROUPS, G_ROWS, gptq.scale, sizeof gptq.scale);
    file_end(&file);
    refused(ERR_INVALID, "tensor 'x.qweight' should have 8 columns in an element");
}

/* --- FP8 --- */

enum { F_ROWS = 200, F_COLS = 320, F_DOWN = 2, F_ACROSS = 3 };

static struct {
    uint8_t bytes[F_ROWS][F_COLS];
    float scale[F_DOWN][F_ACROSS];
    uint16_t halves[F_DOWN][F_ACROSS];
} fp8;

static const char fp8_config[] =
    "\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"activation_scheme\": \"dynamic\", \"weight_block_size\": [128, 128]";

static void fp8_fill(void) {
    for (int r = 0; r < F_ROWS; r++) {
        for (int c = 0; c < F_COLS; c++) {
            fp8.bytes[r][c] = (uint8_t)draw(256);
            if ((fp8.bytes[r][c] & 0x7f) == 0x7f)
                fp8.bytes[r][c]--;
        }
    }
    for (int i = 0; i < F_DOWN; i++) {
        for (int j = 0; j < F_ACROSS; j++) {
            fp8.halves[i][j] = half_f32_to_bf16(0.01f + (float)draw(1000) / 5000);
            fp8.scale[i][j] = half_bf16_to_f32(fp8.halves[i][j]);
        }
    }
}

static void fp8_write(bool has_halves) {
    struct file file;
    float other = 2;
    file_begin(&file);
    file_add(&file, "m.weight", "F8_E4M3", F_ROWS, F_COLS, fp8.bytes, sizeof fp8.bytes);
    file_add(&file, "n.weight", "F32", 1, 1, &other, sizeof other);
    if (has_halves)
        file_add(&file, "m.weight_scale_inv", "BF16", F_DOWN, F_ACROSS, fp8.halves, sizeof fp8.halves);
    else
        file_add(&file, "m.weight_scale_inv", "F32", F_DOWN, F_ACROSS, fp8.scale, sizeof fp8.scale);
    file_end(&file);
}

static void fp8_check(const struct weights_store *store, int row, int n_rows, int col, int n_cols) {
    const struct weights_tensor *tensor = weights_store_find(store, "m.weight");
    struct err err;
    size_t bytes = dtype_row_bytes(DTYPE_F8_E4M3, (size_t)n_cols) * (size_t)n_rows;
    uint8_t *rows = malloc(bytes + 1);
    rows[bytes] = 0x5a;
    uint64_t before = weights_store_bytes_read(store);
    if (weights_store_read(store, tensor, row, n_rows, col, n_cols, rows, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(rows[bytes], 0x5a);
    assert_true(weights_store_bytes_read(store) - before <= (uint64_t)(n_rows * n_cols + F_DOWN * F_ACROSS * 4));
    const uint8_t *block = rows;
    for (int r = row; r < row + n_rows; r++) {
        for (int c = col; c < col + n_cols; c += 32, block += 36) {
            assert_memory_equal(block, &fp8.scale[r / 128][c / 128], 4);
            assert_memory_equal(block + 4, &fp8.bytes[r][c], 32);
        }
    }
    free(rows);
}

static void test_fp8(void **state) {
    (void)state;
    write_config(fp8_config);
    fp8_fill();
    for (int has_halves = 0; has_halves < 2; has_halves++) {
        fp8_write(has_halves);
        struct weights_store *store = open_store();
        const struct weights_tensor *tensor = weights_store_find(store, "m.weight");
        assert_non_null(tensor);
        assert_int_equal(tensor->dtype, DTYPE_F8_E4M3);
        assert_int_equal(tensor->dims[0], F_ROWS);
        assert_int_equal(tensor->dims[1], F_COLS);
        fp8_check(store, 0, F_ROWS, 0, F_COLS);
        fp8_check(store, 5, 0, 0, 32);
        for (int i = 0; i < 100; i++) {
            int row = (int)draw(F_ROWS), col = (int)draw(F_COLS / 32) * 32;
            fp8_check(store, row, 1 + (int)draw((uint32_t)(F_ROWS - row)), col, 32 + (int)draw((uint32_t)(F_COLS - col) / 32) * 32);
        }
        weights_store_close(store);
    }
}

/* Reads all of it; the error must have these words. */
static void fp8_read_refused(const char *words) {
    struct err err;
    struct weights_store *store = open_store();
    uint8_t *rows = malloc(dtype_row_bytes(DTYPE_F8_E4M3, F_COLS) * F_ROWS);
    assert_int_equal(weights_store_read(store, weights_store_find(store, "m.weight"), 0, F_ROWS, 0, F_COLS, rows, &err), -1);
    if (err.code != ERR_INVALID || strstr(err.msg, words) == NULL)
        fail_msg("code %s, '%s' lacks '%s'", err_code_name(err.code), err.msg, words);
    free(rows);
    weights_store_close(store);
}

static void test_fp8_refusals(void **state) {
    (void)state;
    struct file file;
    write_config(fp8_config);
    fp8_fill();
    uint8_t kept = fp8.bytes[130][70];
    fp8.bytes[130][70] = 0xff;
    fp8_write(false);
    fp8_read_refused("tensor 'm.weight': row 130 holds a NaN in columns 64 to 95");
    fp8.bytes[130][70] = kept;
    fp8.scale[1][2] = INFINITY;
    fp8_write(false);
    fp8_read_refused("tensor 'm.weight': the scale of block [1, 2] is not a finite number");
    file_begin(&file);
    file_add(&file, "m.weight", "F8_E4M3", F_ROWS, F_COLS, fp8.bytes, sizeof fp8.bytes);
    file_end(&file);
    refused(ERR_INVALID, "tensor 'm.weight' should come with 'm.weight_scale_inv' in BF16 or F32");
    file_begin(&file);
    file_add(&file, "m.weight", "F8_E4M3", F_ROWS, F_COLS, fp8.bytes, sizeof fp8.bytes);
    file_add(&file, "m.weight_scale_inv", "F32", 1, F_ACROSS, fp8.scale, sizeof fp8.scale / 2);
    file_end(&file);
    refused(ERR_INVALID, "tensor 'm.weight_scale_inv' should have the shape [2, 3]");
    file_begin(&file);
    file_add(&file, "m.weight", "F8_E4M3", F_ROWS, 40, fp8.bytes, F_ROWS * 40);
    file_add(&file, "m.weight_scale_inv", "F32", F_DOWN, 1, fp8.scale, 8);
    file_end(&file);
    refused(ERR_INVALID, "a multiple of 32 columns");
    write_config("\"quant_method\": \"awq\"");
    refused(ERR_UNSUPPORTED, "quantised with awq, which is not supported");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gptq),
        cmocka_unit_test(test_gptq_refusals),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_fp8_refusals),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
