/*
 * Quantised weights in whole models. GPTQ, FP8 and --quantization give the very bits of the same numbers in another file: of the
 * dequantised floats where the products are those of floats (FP8), else of a GGUF file with the same blocks. Against the dequantised
 * floats and between splits the rounding of activations is all that differs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "base/half.h"
#include "base/json.h"
#include "base/rand.h"
#include "kernels/vector.h"
#include "model/model_files.h"
#include "model/rig.h"

enum { N_VOCAB = 2048, N_TOKENS = 40, N_LOGITS = N_TOKENS * N_VOCAB, GROUP = 64 };

static struct copies copies, other;

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    return model_files_setup();
}

static int teardown(void **state) {
    (void)state;
    return model_files_teardown();
}

/* --- making the files --- */

static bool is_layer_matrix(const struct copy *c) {
    return c->n_dims == 2 && strncmp(c->name, "model.layers.", 13) == 0 && strstr(c->name, "mlp.gate.weight") == NULL;
}

static float *floats_of(const struct copy *c) {
    size_t n = (size_t)(c->dims[0] * c->dims[1]);
    float *floats = malloc(n * sizeof *floats);
    kernels_row_to_f32(c->dtype, c->data, (int)n, floats);
    return floats;
}

static void set_data(struct copy *c, enum dtype dtype, const char *format, void *data, size_t len) {
    free(c->data);
    c->dtype = dtype;
    c->format = format;
    c->data = data;
    c->len = len;
}

static void add_tensor(struct copies *to, const char *stem, const char *tail, enum dtype dtype, const char *format, int64_t rows,
                       int64_t cols, void *data, size_t len) {
    struct copy *c = &to->items[to->n++];
    assert_in_range(to->n, 1, MAX_COPIES);
    *c = (struct copy){.dtype = dtype, .format = format, .n_dims = 2, .dims = {rows, cols}, .data = data, .len = len};
    snprintf(c->name, sizeof c->name, "%.140s%.19s", stem, tail);
}

static void write_quantised_config(const char *model, const char *quantization_config) {
    char path[512];
    struct err err;
    struct buf text, out;
    buf_init(&text, MODEL_FILES_LIMIT);
    buf_init(&out, MODEL_FILES_LIMIT);
    snprintf(path, sizeof path, "%s/models/%s/config.json", TEST_DATA_DIR, model);
    assert_int_equal(file_read(path, &text, &err), 0);
    buf_printf(&out, "{\"quantization_config\": {%s},%s", quantization_config, text.data + 1);
    write_file("config.json", &out);
    buf_finish(&text);
    buf_finish(&out);
}

static void write_as_gguf(struct copies *all, const char *model) {
    bool is_mixture = strstr(model, "moe") != NULL;
    if (is_mixture)
        stack_all_to_gguf(all);
    else
        rename_to_gguf(all);
    write_gguf(all, is_mixture);
}

/* --- running them --- */

struct split {
    int tp, pp;
    bool expert_parallel;
};

static void run(const char *path, const char *quantization, struct split split, float *logits) {
    int32_t tokens[N_TOKENS];
    struct err err;
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + 11) % 2000;
    struct rig_seq seq = {.tokens = tokens, .n_tokens = N_TOKENS, .n_prompt = 36, .logits = logits};
    struct rig rig = {.path = path, .kv_dtype = DTYPE_F32, .tp = split.tp, .pp = split.pp,
                      .expert_parallel = split.expert_parallel, .quantization = quantization};
    if (rig_run(&rig, &seq, 1, &err) != 0)
        fail_msg("%s: %s", path, err.msg);
}

/* Root mean square of the difference over that of `expected`. */
static double distance(const float *expected, const float *found) {
    double sum = 0, difference = 0;
    for (int i = 0; i < N_LOGITS; i++) {
        sum += (double)expected[i] * (double)expected[i];
        difference += ((double)expected[i] - (double)found[i]) * ((double)expected[i] - (double)found[i]);
    }
    return sqrt(difference / sum);
}

/* The likeliest token is the same wherever it leads by more than `gap`. */
static void check_greedy(const float *expected, const float *found, float gap) {
    for (int t = 0; t < N_TOKENS; t++) {
        const float *row = expected + (size_t)t * N_VOCAB;
        int best = 0, second = 1;
        for (int i = 1; i < N_VOCAB; i++) {
            if (row[i] > row[best]) {
                second = best;
                best = i;
            } else if (row[i] > row[second]) {
                second = i;
            }
        }
        if (row[best] - row[second] > gap)
            assert_int_equal(kernels_argmax(found + (size_t)t * N_VOCAB, N_VOCAB, &(float){0}), best);
    }
}

static void check_near(const char *model, const char *how, struct split split, const float *expected, const float *found, double most) {
    double off = distance(expected, found);
    printf("%s, %s, tp %d, pp %d%s: %.4f from its floats\n", model, how, split.tp, split.pp, split.expert_parallel ? ", ep" : "", off);
    assert_true(off < most);
    check_greedy(expected, found, 0.5f);
}

static const char *path_of(const char *file) {
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s%s", model_files_folder, file);
    return path[turn];
}

static const struct split splits[] = {{1, 1, false}, {2, 1, false}, {2, 2, false}, {4, 1, true}, {2, 1, true}};
enum { N_SPLITS = sizeof splits / sizeof splits[0] };

static bool fits(const char *model, struct split s) { return !s.expert_parallel || strstr(model, "moe") != NULL; }

/* --- FP8 --- */

static const char fp8_config[] =
    "\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"activation_scheme\": \"dynamic\", \"weight_block_size\": [128, 128]";

/* copies: bytes and scales; other: the same weights as floats. */
static void make_fp8(const char *model) {
    read_all(model, &copies);
    read_all(model, &other);
    for (int m = 0, n = copies.n; m < n; m++) {
        struct copy *c = &copies.items[m];
        if (!is_layer_matrix(c))
            continue;
        int rows = (int)c->dims[0], cols = (int)c->dims[1], down = (rows + 127) / 128, across = (cols + 127) / 128;
        float *floats = floats_of(c);
        uint8_t *bytes = malloc((size_t)rows * (size_t)cols);
        uint16_t *scales = calloc((size_t)(down * across), sizeof *scales);
        for (int b = 0; b < down * across; b++) {
            int row_end = b / across * 128 + 128 < rows ? b / across * 128 + 128 : rows;
            int col_end = b % across * 128 + 128 < cols ? b % across * 128 + 128 : cols;
            float max = 0;
            for (int r = b / across * 128; r < row_end; r++)
                for (int i = b % across * 128; i < col_end; i++)
                    max = fmaxf(max, fabsf(floats[r * cols + i]));
            scales[b] = half_f32_to_bf16(max / 448);
            for (int r = b / across * 128; r < row_end; r++) {
                for (int i = b % across * 128; i < col_end; i++) {
                    bytes[r * cols + i] = half_f32_to_f8(floats[r * cols + i] / half_bf16_to_f32(scales[b]));
                    floats[r * cols + i] = half_f8_to_f32(bytes[r * cols + i]) * half_bf16_to_f32(scales[b]);
                }
            }
        }
        set_data(&other.items[m], DTYPE_F32, NULL, floats, (size_t)rows * (size_t)cols * sizeof *floats);
        set_data(c, DTYPE_F8_E4M3, NULL, bytes, (size_t)rows * (size_t)cols);
        add_tensor(&copies, c->name, "_scale_inv", DTYPE_BF16, NULL, down, across, scales, (size_t)(down * across) * 2);
    }
}

static void check_fp8(const char *model) {
    float *expected = malloc(N_LOGITS * sizeof *expected), *found = malloc(N_LOGITS * sizeof *found);
    float *first = malloc(N_LOGITS * sizeof *first);
    make_fp8(model);
    for (int i = 0; i < N_SPLITS; i++) {
        if (!fits(model, splits[i]))
            continue;
        write_config(model);
        write_safetensors(&other);
        run(model_files_folder, NULL, splits[i], expected);
        write_quantised_config(model, fp8_config);
        write_safetensors(&copies);
        run(model_files_folder, i == 0 ? "fp8" : NULL, splits[i], found);
        assert_memory_equal(expected, found, N_LOGITS * sizeof *found);
        if (i == 0)
            memcpy(first, found, N_LOGITS * sizeof *found);
        assert_true(distance(first, found) < 1e-4);
        check_greedy(first, found, 1e-3f);
    }
    free_all(&copies);
    free_all(&other);
    free(expected);
    free(found);
    free(first);
}

static void test_fp8(void **state) {
    (void)state;
    check_fp8("tiny-qwen3");
    check_fp8("tiny-qwen3-moe");
}

/* --- GPTQ --- */

static const char gptq_config[] = "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 64, \"desc_act\": false, \"sym\": false";

struct gptq {
    uint32_t *qweight, *qzeros;
    uint16_t *scales;
};

/*
 * Rounds a matrix to 4 bits with a scale and a zero for 64 columns of a row: GPTQ's three tensors, the same as Q4_1 blocks, and as
 * floats.
 */
static void round_gptq(float *floats, int rows, int cols, struct gptq *gptq, uint8_t *blocks) {
    for (int r = 0; r < rows; r++) {
        for (int g = 0; g < cols / GROUP; g++) {
            float *x = floats + r * cols + g * GROUP, low = 0, high = 0;
            for (int i = 0; i < GROUP; i++) {
                low = fminf(low, x[i]);
                high = fmaxf(high, x[i]);
            }
            uint16_t half = half_f32_to_f16((high - low) / 15);
            float scale = half_f16_to_f32(half);
            int zero = (int)fminf(16, fmaxf(1, roundf(-low / scale)));
            uint16_t minimum = half_f32_to_f16(scale * (float)-zero);
            gptq->scales[g * rows + r] = half;
            gptq->qzeros[(g * rows + r) / 8] |= (uint32_t)(zero - 1) << r % 8 * 4;
            for (int i = 0; i < GROUP; i++) {
                int q = (int)fminf(15, fmaxf(0, roundf(x[i] / scale) + (float)zero)), c = g * GROUP + i;
                uint8_t *block = blocks + (size_t)(r * cols + c) / 32 * 20;
                gptq->qweight[c / 8 * rows + r] |= (uint32_t)q << c % 8 * 4;
                memcpy(block, &half, 2);
                memcpy(block + 2, &minimum, 2);
                block[4 + c % 16] |= (uint8_t)(q << c % 32 / 16 * 4);
                x[i] = scale * (float)(q - zero);
            }
        }
    }
}

/* copies: the checkpoint; other: Q4_1 blocks when they are wanted, else floats. */
static void make_gptq(const char *model, bool wants_blocks) {
    read_all(model, &copies);
    read_all(model, &other);
    for (int m = 0, n = copies.n; m < n; m++) {
        struct copy *c = &copies.items[m];
        if (!is_layer_matrix(c))
            continue;
        int rows = (int)c->dims[0], cols = (int)c->dims[1], groups = cols / GROUP;
        size_t count = (size_t)rows * (size_t)cols;
        float *floats = floats_of(c);
        uint8_t *blocks = calloc(count / 32, 20);
        struct gptq gptq = {.qweight = calloc(count / 8, 4),
                            .qzeros = calloc((size_t)(groups * rows) / 8, 4),
                            .scales = calloc((size_t)(groups * rows), 2)};
        round_gptq(floats, rows, cols, &gptq, blocks);
        if (wants_blocks) {
            set_data(&other.items[m], DTYPE_Q4_1, NULL, blocks, count / 32 * 20);
            free(floats);
        } else {
            set_data(&other.items[m], DTYPE_F32, NULL, floats, count * sizeof *floats);
            free(blocks);
        }
        char stem[WEIGHTS_NAME_BYTES];
        snprintf(stem, sizeof stem, "%.*s", (int)(strlen(c->name) - strlen(".weight")), c->name);
        snprintf(c->name, sizeof c->name, "%.140s.qweight", stem);
        set_data(c, DTYPE_F32, "I32", gptq.qweight, count / 2);
        c->dims[0] = cols / 8;
        c->dims[1] = rows;
        add_tensor(&copies, stem, ".qzeros", DTYPE_F32, "I32", groups, rows / 8, gptq.qzeros, (size_t)(groups * rows) / 2);
        add_tensor(&copies, stem, ".scales", DTYPE_F16, NULL, groups, rows, gptq.scales, (size_t)(groups * rows) * 2);
        add_tensor(&copies, stem, ".g_idx", DTYPE_F32, "I32", 1, cols, calloc((size_t)cols, 4), (size_t)cols * 4);
    }
}

static void check_gptq(const char *model) {
    float *expected = malloc(N_LOGITS * sizeof *expected), *found = malloc(N_LOGITS * sizeof *found);
    make_gptq(model, true);
    write_quantised_config(model, gptq_config);
    write_safetensors(&copies);
    write_as_gguf(&other, model);
    for (int i = 0; i < N_SPLITS; i++) {
        if (!fits(model, splits[i]))
            continue;
        run(path_of("/model.gguf"), NULL, splits[i], expected);
        run(model_files_folder, i == 0 ? "gptq" : NULL, splits[i], found);
        assert_memory_equal(expected, found, N_LOGITS * sizeof *found);
    }
    free_all(&copies);
    free_all(&other);
    make_gptq(model, false);
    write_config(model);
    write_safetensors(&other);
    run(model_files_folder, NULL, splits[0], expected);
    write_quantised_config(model, gptq_config);
    write_safetensors(&copies);
    for (int i = 0; i < N_SPLITS; i++) {
        if (!fits(model, splits[i]))
            continue;
        run(model_files_folder, NULL, splits[i], found);
        check_near(model, "gptq", splits[i], expected, found, 0.05);
    }
    free_all(&copies);
    free_all(&other);
    free(expected);
    free(found);
}

static void test_gptq(void **state) {
    (void)state;
    check_gptq("tiny-qwen3");
    check_gptq("tiny-qwen3-moe");
}

/* --- on load --- */

/* Every layer matrix in `dtype`, the output head or the embedding that is tied to it as Q8_0; or what floats those blocks are. */
static void encode(struct copies *all, enum dtype dtype, bool as_floats) {
    const char *head = "model.embed_tokens.weight";
    for (int m = 0; m < all->n; m++)
        if (strcmp(all->items[m].name, "lm_head.weight") == 0)
            head = "lm_head.weight";
    for (int m = 0; m < all->n; m++) {
        struct copy *c = &all->items[m];
        bool is_head = strcmp(c->name, head) == 0;
        if (!is_layer_matrix(c) && !is_head)
            continue;
        enum dtype to = is_head ? DTYPE_Q8_0 : dtype;
        size_t count = (size_t)(c->dims[0] * c->dims[1]), bytes = dtype_row_bytes(to, count);
        float *floats = floats_of(c);
        uint8_t *blocks = malloc(bytes);
        kernels_row_from_f32(to, floats, (int)count, blocks);
        if (as_floats) {
            kernels_row_to_f32(to, blocks, (int)count, floats);
            set_data(c, DTYPE_F32, NULL, floats, count * sizeof *floats);
            free(blocks);
        } else {
            set_data(c, to, NULL, blocks, bytes);
            free(floats);
        }
    }
}

static void check_on_load(const char *model, const char *quantization, enum dtype dtype, double most) {
    float *expected = malloc(N_LOGITS * sizeof *expected), *found = malloc(N_LOGITS * sizeof *found);
    float *floats = malloc(N_LOGITS * sizeof *floats);
    char original[512];
    snprintf(original, sizeof original, "%s/models/%s", TEST_DATA_DIR, model);
    read_all(model, &copies);
    encode(&copies, dtype, true);
    write_config(model);
    write_safetensors(&copies);
    run(model_files_folder, NULL, splits[0], floats);
    free_all(&copies);
    read_all(model, &copies);
    encode(&copies, dtype, false);
    write_as_gguf(&copies, model);
    for (int i = 0; i < N_SPLITS; i++) {
        if (!fits(model, splits[i]))
            continue;
        run(path_of("/model.gguf"), NULL, splits[i], expected);
        run(original, quantization, splits[i], found);
        assert_memory_equal(expected, found, N_LOGITS * sizeof *found);
        check_near(model, quantization, splits[i], floats, found, most);
    }
    free_all(&copies);
    /* A GGUF file of floats is the same. */
    read_all(model, &copies);
    write_as_gguf(&copies, model);
    run(original, quantization, splits[1], expected);
    run(path_of("/model.gguf"), quantization, splits[1], found);
    assert_memory_equal(expected, found, N_LOGITS * sizeof *found);
    free_all(&copies);
    free(expected);
    free(found);
    free(floats);
}

static void test_int8(void **state) {
    (void)state;
    check_on_load("tiny-qwen3", "int8", DTYPE_Q8_0, 0.03);
    check_on_load("tiny-qwen3-moe", "int8", DTYPE_Q8_0, 0.05);
}

static void test_int4(void **state) {
    (void)state;
    check_on_load("tiny-qwen3", "int4", DTYPE_Q4_1, 0.03);
    check_on_load("tiny-qwen3-moe", "int4", DTYPE_Q4_1, 0.05);
}

static void test_what_is_quantised_already(void **state) {
    (void)state;
    struct err err;
    struct weights_store *store;
    struct model_config config;
    read_all("tiny-qwen3", &copies);
    encode(&copies, DTYPE_Q4_1, false);
    write_as_gguf(&copies, "tiny-qwen3");
    free_all(&copies);
    assert_int_equal(weights_store_open(path_of("/model.gguf"), &store, &err), 0);
    assert_int_equal(model_config_load(path_of("/model.gguf"), store, NULL, &config, &err), 0);
    assert_int_equal(model_config_quantize(&config, store, "gguf", &err), 0);
    assert_int_equal(model_config_quantize(&config, store, "int8", &err), -1);
    assert_non_null(strstr(err.msg, "a GGUF file that is quantised already (Q4_1); possible are gguf"));
    weights_store_close(store);
}

/* --- K formats of GGUF --- */

static void random_k_block(enum dtype dtype, uint64_t seed, uint8_t *block) {
    size_t bytes = (size_t)dtype_block_bytes(dtype);
    for (size_t i = 0; i < bytes; i++)
        block[i] = (uint8_t)rand_ctr_u64(seed, i);
    float scale = dtype == DTYPE_Q4_K ? 0.1f / 63 / 15 : dtype == DTYPE_Q5_K ? 0.1f / 63 / 31 : 0.1f / 128 / 32;
    kernels_row_from_f32(DTYPE_F16, &scale, 1, block + (dtype == DTYPE_Q6_K ? 208 : 0));
    float minimum = 0.05f / 63;
    if (dtype != DTYPE_Q6_K)
        kernels_row_from_f32(DTYPE_F16, &minimum, 1, block + 2);
}

/* Layers' down projections (and on one rank output projections) in a K format, against the same numbers as floats. */
static void check_k_format(enum dtype dtype, struct split split, float *expected, float *found) {
    for (int as_floats = 1; as_floats >= 0; as_floats--) {
        read_all("tiny-qwen3", &copies);
        for (int m = 0; m < copies.n; m++) {
            struct copy *c = &copies.items[m];
            if (strstr(c->name, "down_proj") == NULL && (split.tp > 1 || strstr(c->name, "o_proj") == NULL))
                continue;
            size_t count = (size_t)(c->dims[0] * c->dims[1]), bytes = dtype_row_bytes(dtype, count);
            uint8_t *blocks = malloc(bytes);
            for (size_t b = 0; b < count / 256; b++)
                random_k_block(dtype, (uint64_t)m * 100000 + b, blocks + b * (size_t)dtype_block_bytes(dtype));
            if (as_floats) {
                float *floats = malloc(count * sizeof *floats);
                kernels_row_to_f32(dtype, blocks, (int)count, floats);
                set_data(c, DTYPE_F32, NULL, floats, count * sizeof *floats);
                free(blocks);
            } else {
                set_data(c, dtype, NULL, blocks, bytes);
            }
        }
        write_as_gguf(&copies, "tiny-qwen3");
        free_all(&copies);
        run(path_of("/model.gguf"), NULL, split, as_floats ? expected : found);
    }
    double off = distance(expected, found);
    printf("%s, tp %d: %.4f from its floats\n", dtype_name(dtype), split.tp, off);
    assert_true(off > 1e-6 && off < 0.05);
}

static void test_k_formats(void **state) {
    (void)state;
    float *expected = malloc(N_LOGITS * sizeof *expected), *found = malloc(N_LOGITS * sizeof *found);
    for (enum dtype dtype = DTYPE_Q4_K; dtype <= DTYPE_Q6_K; dtype++) {
        check_k_format(dtype, splits[0], expected, found);
        check_k_format(dtype, splits[1], expected, found);
    }
    free(expected);
    free(found);
}

/* --- dummy weights --- */

static uint64_t run_dummy(const char *overrides, const char *quantization, int pp, float *logits) {
    int32_t tokens[N_TOKENS];
    struct err err;
    json_t *merged = overrides == NULL ? NULL : json_parse(overrides, strlen(overrides), &err);
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + 11) % 2000;
    struct rig_seq seq = {.tokens = tokens, .n_tokens = N_TOKENS, .n_prompt = 36, .logits = logits};
    struct rig rig = {.path = TEST_DATA_DIR "/models/tiny-qwen3-moe", .kv_dtype = DTYPE_F32, .pp = pp, .is_dummy = true,
                      .dummy = DTYPE_BF16, .overrides = merged, .quantization = quantization};
    if (rig_run(&rig, &seq, 1, &err) != 0)
        fail_msg("%s", err.msg);
    json_decref(merged);
    for (int i = 0; i < N_LOGITS; i++)
        assert_true(isfinite(logits[i]));
    return rig.weights_bytes;
}

static void test_dummy(void **state) {
    (void)state;
    float *logits = malloc(N_LOGITS * sizeof *logits), *staged = malloc(N_LOGITS * sizeof *staged);
    char fp8[256], gptq[256];
    snprintf(fp8, sizeof fp8, "{\"tie_word_embeddings\": false, \"quantization_config\": {%s}}", fp8_config);
    snprintf(gptq, sizeof gptq, "{\"tie_word_embeddings\": false, \"quantization_config\": {%s}}", gptq_config);
    const char *const ways[][2] = {{"{\"tie_word_embeddings\": false}", NULL}, {"{\"tie_word_embeddings\": false}", "int8"},
                                   {"{\"tie_word_embeddings\": false}", "int4"}, {fp8, NULL}, {gptq, NULL}};
    uint64_t bytes[5];
    for (int i = 0; i < 5; i++) {
        bytes[i] = run_dummy(ways[i][0], ways[i][1], 1, logits);
        assert_int_equal(run_dummy(ways[i][0], ways[i][1], 2, staged), bytes[i]);
        assert_memory_equal(logits, staged, N_LOGITS * sizeof *logits);
    }
    /* Layers of 16, 8.5, 5, 8.3 and 5 bits; the head is 16 or 8.5, the embedding 16. */
    assert_true(bytes[0] > bytes[1] && bytes[1] > bytes[2] && bytes[0] > bytes[3] && bytes[3] > bytes[4] && bytes[4] > bytes[2]);
    free(logits);
    free(staged);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_gptq),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_int4),
        cmocka_unit_test(test_what_is_quantised_already),
        cmocka_unit_test(test_k_formats),
        cmocka_unit_test(test_dummy),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
