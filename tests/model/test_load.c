/*
 * Loading: the same weights as safetensors, as GGUF and with stacked experts give the same bits; what is missing, misshapen or
 * cut through a block is named; a load can be stopped; a step that does not fit is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "model/rig.h"

static char folder[] = "/tmp/test_load.XXXXXX";
enum { N_VOCAB = 2048, FILE_LIMIT = 64 << 20 };

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    static const char *const files[] = {"config.json", "model.safetensors", "model.gguf"};
    char path[256];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    return rmdir(folder);
}

/* --- writing model files out of a store --- */

struct copy {
    char name[WEIGHTS_NAME_BYTES];
    enum dtype dtype;
    int n_dims;
    int64_t dims[3]; /* outermost first */
    char *data;
    size_t len;
};

struct copies {
    struct copy items[512];
    int n;
};

static void read_all(const char *model, struct copies *ret) {
    char path[512];
    struct err err;
    struct weights_store *store;
    snprintf(path, sizeof path, "%s/models/%s", TEST_DATA_DIR, model);
    assert_int_equal(weights_store_open(path, &store, &err), 0);
    ret->n = weights_store_count(store);
    assert_in_range(ret->n, 1, 512);
    for (int i = 0; i < ret->n; i++) {
        const struct weights_tensor *t = weights_store_at(store, i);
        struct copy *c = &ret->items[i];
        *c = (struct copy){.dtype = t->dtype, .n_dims = t->n_dims, .len = t->len_bytes, .data = malloc(t->len_bytes)};
        memcpy(c->name, t->name, sizeof c->name);
        memcpy(c->dims, t->dims, sizeof c->dims);
        int64_t rows = t->n_dims > 1 ? t->dims[0] : 1;
        assert_int_equal(weights_store_read(store, t, 0, rows, 0, t->dims[t->n_dims - 1], c->data, &err), 0);
    }
    weights_store_close(store);
}

static void free_all(struct copies *copies) {
    for (int i = 0; i < copies->n; i++)
        free(copies->items[i].data);
}

static struct copy *find(struct copies *copies, const char *name) {
    for (int i = 0; i < copies->n; i++)
        if (strcmp(copies->items[i].name, name) == 0)
            return &copies->items[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void drop(struct copies *copies, struct copy *c) {
    free(c->data);
    *c = copies->items[--copies->n];
}

static void write_file(const char *name, const struct buf *bytes) {
    char path[256];
    struct err err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_false(bytes->failed);
    assert_int_equal(file_write_atomic(path, bytes->data, bytes->len_bytes, 0644, &err), 0);
}

static void write_config(const char *model) {
    char path[512];
    struct err err;
    struct buf text;
    buf_init(&text, FILE_LIMIT);
    snprintf(path, sizeof path, "%s/models/%s/config.json", TEST_DATA_DIR, model);
    assert_int_equal(file_read(path, &text, &err), 0);
    write_file("config.json", &text);
    buf_finish(&text);
}

static void write_safetensors(const struct copies *copies) {
    struct buf header, file;
    buf_init(&header, FILE_LIMIT);
    buf_init(&file, FILE_LIMIT);
    size_t offset = 0;
    for (int i = 0; i < copies->n; i++) {
        const struct copy *c = &copies->items[i];
        buf_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i == 0 ? "{" : ",", c->name, dtype_name(c->dtype));
        for (int d = 0; d < c->n_dims; d++)
            buf_printf(&header, "%s%lld", d == 0 ? "" : ",", (long long)c->dims[d]);
        buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + c->len);
        offset += c->len;
    }
    buf_append_char(&header, '}');
    uint64_t len = header.len_bytes;
    buf_append(&file, &len, 8);
    buf_append(&file, header.data, header.len_bytes);
    for (int i = 0; i < copies->n; i++)
        buf_append(&file, copies->items[i].data, copies->items[i].len);
    write_file("model.safetensors", &file);
    buf_finish(&header);
    buf_finish(&file);
}

static void put_u32(struct buf *out, uint32_t value) { buf_append(out, &value, 4); }
static void put_u64(struct buf *out, uint64_t value) { buf_append(out, &value, 8); }

static void put_str(struct buf *out, const char *text) {
    put_u64(out, strlen(text));
    buf_append_str(out, text);
}

static void put_pad(struct buf *out) {
    while (out->len_bytes % 32 != 0)
        buf_append_char(out, 0);
}

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STR = 8 };

static void put_gguf_int(struct buf *out, const char *arch, const char *key, uint32_t value) {
    char full[96];
    snprintf(full, sizeof full, "%s%s%s", arch, arch[0] == '\0' ? "" : ".", key);
    put_str(out, full);
    put_u32(out, GGUF_U32);
    put_u32(out, value);
}

static void put_gguf_float(struct buf *out, const char *arch, const char *key, float value) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    put_str(out, full);
    put_u32(out, GGUF_F32);
    buf_append(out, &value, 4);
}

static uint32_t gguf_type(enum dtype dtype) {
    switch (dtype) {
    case DTYPE_F32: return 0;
    case DTYPE_F16: return 1;
    case DTYPE_BF16: return 30;
    case DTYPE_Q8_0: return 8;
    case DTYPE_Q4_K: return 12;
    default: fail(); return 0;
    }
}

/* The tiny models' geometry under GGUF's names. */
static void write_gguf(const struct copies *copies, bool is_mixture) {
    const char *arch = is_mixture ? "qwen3moe" : "qwen3";
    struct buf file;
    buf_init(&file, FILE_LIMIT);
    buf_append_str(&file, "GGUF");
    put_u32(&file, 3);
    put_u64(&file, (uint64_t)copies->n);
    put_u64(&file, is_mixture ? 14 : 11);
    put_str(&file, "general.architecture");
    put_u32(&file, GGUF_STR);
    put_str(&file, arch);
    put_gguf_int(&file, arch, "block_count", 6);
    put_gguf_int(&file, arch, "context_length", 4096);
    put_gguf_int(&file, arch, "embedding_length", 192);
    put_gguf_int(&file, arch, "feed_forward_length", 512);
    put_gguf_int(&file, arch, "attention.head_count", 8);
    put_gguf_int(&file, arch, "attention.head_count_kv", 2);
    put_gguf_int(&file, arch, "attention.key_length", 32);
    put_gguf_float(&file, arch, "attention.layer_norm_rms_epsilon", 1e-6f);
    put_gguf_float(&file, arch, "rope.freq_base", 1e6f);
    put_gguf_int(&file, "", "tokenizer.ggml.eos_token_id", 2047);
    if (is_mixture) {
        put_gguf_int(&file, arch, "expert_count", 16);
        put_gguf_int(&file, arch, "expert_used_count", 4);
        put_gguf_int(&file, arch, "expert_feed_forward_length", 64);
    }
    uint64_t offset = 0;
    for (int i = 0; i < copies->n; i++) {
        const struct copy *c = &copies->items[i];
        put_str(&file, c->name);
        put_u32(&file, (uint32_t)c->n_dims);
        for (int d = c->n_dims - 1; d >= 0; d--)
            put_u64(&file, (uint64_t)c->dims[d]);
        put_u32(&file, gguf_type(c->dtype));
        put_u64(&file, offset);
        offset += (c->len + 31) / 32 * 32;
    }
    put_pad(&file);
    for (int i = 0; i < copies->n; i++) {
        buf_append(&file, copies->items[i].data, copies->items[i].len);
        put_pad(&file);
    }
    write_file("model.gguf", &file);
    buf_finish(&file);
}

static void rename_to_gguf(struct copies *copies) {
    static const char *const pairs[][2] = {
        {"model.embed_tokens.weight", "token_embd.weight"},
        {"model.norm.weight", "output_norm.weight"},
        {"lm_head.weight", "output.weight"},
        {"input_layernorm", "attn_norm"},
        {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"},
        {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"},
        {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
        {"mlp.gate", "ffn_gate_inp"},
    };
    for (int i = 0; i < copies->n; i++) {
        char old[WEIGHTS_NAME_BYTES], part[WEIGHTS_NAME_BYTES];
        int layer;
        memcpy(old, copies->items[i].name, sizeof old);
        bool in_layer = sscanf(old, "model.layers.%d.%159s", &layer, part) == 2;
        for (size_t p = 0; p < sizeof pairs / sizeof pairs[0]; p++) {
            size_t len = strlen(pairs[p][0]);
            if (!in_layer && strcmp(old, pairs[p][0]) == 0)
                snprintf(copies->items[i].name, WEIGHTS_NAME_BYTES, "%s", pairs[p][1]);
            else if (in_layer && strncmp(part, pairs[p][0], len) == 0 && part[len] == '.')
                snprintf(copies->items[i].name, WEIGHTS_NAME_BYTES, "blk.%d.%s%s", layer, pairs[p][1], part + len);
        }
    }
}

/* Replaces a layer's experts by one stack of parts; HF: gate above up within each expert. */
static void stack_experts(struct copies *copies, const char *const *parts, int n_parts, int layer, const char *name) {
    char one[WEIGHTS_NAME_BYTES];
    struct copy stack = {0};
    for (int e = 0; e < 16; e++) {
        for (int p = 0; p < n_parts; p++) {
            snprintf(one, sizeof one, "model.layers.%d.mlp.experts.%d.%s.weight", layer, e, parts[p]);
            struct copy *c = find(copies, one);
            if (stack.data == NULL) {
                stack = (struct copy){.dtype = c->dtype, .n_dims = 3, .dims = {16, n_parts * c->dims[0], c->dims[1]}};
                stack.data = malloc(c->len * 16 * (size_t)n_parts);
            }
            memcpy(stack.data + stack.len, c->data, c->len);
            stack.len += c->len;
            drop(copies, c);
        }
    }
    snprintf(stack.name, sizeof stack.name, "%s", name);
    copies->items[copies->n++] = stack;
}

/* --- the same bits --- */

static void run_tokens(const char *path, int tp, bool ep, float *logits) {
    int32_t tokens[40];
    struct err err;
    for (int i = 0; i < 40; i++)
        tokens[i] = (i * 37 + 11) % 2000;
    struct rig_seq seq = {.tokens = tokens, .n_tokens = 40, .n_prompt = 36, .logits = logits};
    struct rig rig = {.path = path, .kv_dtype = DTYPE_F32, .tp = tp, .expert_parallel = ep};
    if (rig_run(&rig, &seq, 1, &err) != 0)
        fail_msg("%s: %s", path, err.msg);
}

/* tp 2 and ep 2 of the written model have the same bits as those of the original. */
static void check_same(const char *model, const char *written) {
    size_t bytes = 40 * N_VOCAB * sizeof(float);
    float *expected = malloc(bytes), *found = malloc(bytes);
    char original[512], copy[512];
    snprintf(original, sizeof original, "%s/models/%s", TEST_DATA_DIR, model);
    snprintf(copy, sizeof copy, "%s%s", folder, written);
    for (int how = 0; how < 3; how++) {
        bool ep = how == 2 && strstr(model, "moe") != NULL;
        run_tokens(original, how == 0 ? 1 : 2, ep, expected);
        run_tokens(copy, how == 0 ? 1 : 2, ep, found);
        assert_memory_equal(expected, found, bytes);
    }
    free(expected);
    free(found);
}

static void test_gguf_of_the_same_weights(void **state) {
    (void)state;
    static struct copies copies;
    read_all("tiny-qwen3", &copies);
    rename_to_gguf(&copies);
    write_gguf(&copies, false);
    free_all(&copies);
    check_same("tiny-qwen3", "/model.gguf");
}

static void test_gguf_mixture(void **state) {
    (void)state;
    static struct copies copies;
    char name[WEIGHTS_NAME_BYTES];
    static const char *const kinds[][2] = {{"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"}, {"down_proj", "ffn_down_exps"}};
    read_all("tiny-qwen3-moe", &copies);
    for (int layer = 0; layer < 6; layer++) {
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", layer, kinds[k][1]);
            stack_experts(&copies, &kinds[k][0], 1, layer, name);
        }
    }
    rename_to_gguf(&copies);
    write_gguf(&copies, true);
    free_all(&copies);
    check_same("tiny-qwen3-moe", "/model.gguf");
}

static void test_stacked_experts(void **state) {
    (void)state;
    static struct copies copies;
    char name[WEIGHTS_NAME_BYTES];
    static const char *const gate_up[] = {"gate_proj", "up_proj"}, *const down[] = {"down_proj"};
    read_all("tiny-qwen3-moe", &copies);
    for (int layer = 0; layer < 6; layer++) {
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.gate_up_proj", layer);
        stack_experts(&copies, gate_up, 2, layer, name);
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.down_proj", layer);
        stack_experts(&copies, down, 1, layer, name);
    }
    write_config("tiny-qwen3-moe");
    write_safetensors(&copies);
    free_all(&copies);
    check_same("tiny-qwen3-moe", "");
}

/* --- refusals --- */

static void refused(const char *written, int tp, enum err_code code, const char *words) {
    char path[512];
    int32_t token = 1;
    float *logits = malloc(N_VOCAB * sizeof(float));
    struct rig_seq seq = {.tokens = &token, .n_tokens = 1, .n_prompt = 1, .logits = logits};
    struct err err;
    snprintf(path, sizeof path, "%s%s", folder, written);
    struct rig rig = {.path = path, .kv_dtype = DTYPE_F32, .tp = tp};
    assert_int_equal(rig_run(&rig, &seq, 1, &err), -1);
    if (err.code != code || strstr(err.msg, words) == NULL)
        fail_msg("code %s, '%s' lacks '%s'", err_code_name(err.code), err.msg, words);
    free(logits);
}

static void test_a_tensor_that_is_missing_or_misshapen(void **state) {
    (void)state;
    static struct copies copies;
    read_all("tiny-qwen3", &copies);
    write_config("tiny-qwen3");
    struct copy *c = find(&copies, "model.layers.4.mlp.up_proj.weight");
    c->dims[0] = 256; /* of the same bytes */
    c->dims[1] = 384;
    write_safetensors(&copies);
    refused("", 1, ERR_INVALID, "tensor 'model.layers.4.mlp.up_proj.weight' has the shape [256, 384]; the configuration makes it [512, 192]");
    drop(&copies, c);
    write_safetensors(&copies);
    refused("", 1, ERR_NOT_FOUND, "model.layers.4.mlp.up_proj.weight");
    free_all(&copies);
}

static void test_a_cut_through_a_block(void **state) {
    (void)state;
    static struct copies copies;
    read_all("tiny-qwen3", &copies);
    rename_to_gguf(&copies);
    struct copy *c = find(&copies, "blk.2.attn_output.weight"); /* 256 columns: one block a row */
    free(c->data);
    c->dtype = DTYPE_Q4_K;
    c->len = dtype_row_bytes(DTYPE_Q4_K, 256) * 192;
    c->data = calloc(1, c->len);
    write_gguf(&copies, false);
    free_all(&copies);
    refused("/model.gguf", 2, ERR_INVALID, "a rank's part must be whole blocks of 256; possible are 1");
}

/* --- one shard by hand --- */

struct shard {
    struct team *team;
    struct weights_store *store;
    struct model_config config;
    struct model *model;
};

static void open_shard(struct shard *shard) {
    struct err err;
    struct model_split split;
    assert_int_equal(team_create(2, NULL, &shard->team, &err), 0);
    assert_int_equal(weights_store_open(TEST_DATA_DIR "/models/tiny-qwen3", &shard->store, &err), 0);
    assert_int_equal(model_config_load(TEST_DATA_DIR "/models/tiny-qwen3", shard->store, NULL, &shard->config, &err), 0);
    assert_int_equal(model_split_compute(&shard->config, 1, 1, false, NULL, 0, &split, &err), 0);
    struct model_opts opts = {.team = shard->team, .kv_dtype = DTYPE_BF16, .block_size = 16, .max_step_tokens = 8, .max_step_seqs = 2, .max_context = 64};
    assert_int_equal(model_create(&shard->config, &split, &opts, &shard->model, &err), 0);
}

static void close_shard(struct shard *shard) {
    model_destroy(shard->model);
    weights_store_close(shard->store);
    team_destroy(shard->team);
}

static void test_a_load_that_is_stopped(void **state) {
    (void)state;
    struct shard shard;
    struct err err;
    model_progress progress = 0;
    atomic_int cancel = 1;
    open_shard(&shard);
    assert_int_equal(model_load(shard.model, shard.store, &progress, &cancel, &err), -1);
    assert_int_equal(err.code, ERR_CANCELLED);
    assert_true(progress < model_weights_bytes(shard.model, shard.store));
    close_shard(&shard);
    open_shard(&shard);
    assert_int_equal(model_load_dummy(shard.model, DTYPE_Q8_0, 1, &progress, &cancel, &err), -1);
    assert_int_equal(err.code, ERR_CANCELLED);
    close_shard(&shard);
}

static void test_dummy_blocks_that_do_not_fit(void **state) {
    (void)state;
    struct shard shard;
    struct err err;
    model_progress progress = 0;
    open_shard(&shard);
    assert_int_equal(model_load_dummy(shard.model, DTYPE_Q4_K, 1, &progress, NULL, &err), -1); /* 192 columns are no blocks of 256 */
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.msg, "Q4_K"));
    close_shard(&shard);
}

static void test_steps_that_do_not_fit(void **state) {
    (void)state;
    struct shard shard;
    struct err err;
    model_progress progress = 0;
    int n_rows;
    int32_t tokens[16] = {0}, blocks[4] = {0, 1, 2, 3}, foreign[4] = {0, 1, 2, 4};
    float *logits = malloc(8 * N_VOCAB * sizeof(float));
    open_shard(&shard);
    struct model_step_seq seq = {.n_tokens = 3, .blocks = blocks, .first_logit = 2};
    struct model_step step = {.n_tokens = 3, .tokens = tokens, .n_seqs = 1, .seqs = &seq};
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), -1); /* nothing is loaded */
    assert_int_equal(model_load(shard.model, shard.store, &progress, NULL, &err), 0);
    assert_int_equal(model_kv_create(shard.model, 0, &err), -1);
    assert_int_equal(model_kv_create(shard.model, 4, &err), 0);
    assert_int_equal(model_kv_create(shard.model, 4, &err), -1);
    assert_int_equal(model_load(shard.model, shard.store, &progress, NULL, &err), -1);
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), 0);
    assert_int_equal(n_rows, 1);
    seq.first_logit = 3;
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), 0);
    assert_int_equal(n_rows, 0);
    seq.position = 62;
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), -1);
    assert_string_equal(err.msg, "sequence 0 of a step has tokens 62 to 65; the context has 64");
    seq.position = 50;
    seq.blocks = foreign;
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), -1);
    assert_string_equal(err.msg, "sequence 0 of a step names KV block 4 of 4");
    seq.blocks = blocks;
    step.n_tokens = 4;
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), -1);
    step.n_tokens = 9;
    assert_int_equal(model_forward(shard.model, &step, NULL, logits, &n_rows, &err), -1);
    assert_int_equal(model_kv_block_bytes(shard.model), 6 * 2 * 2 * 16 * 32 * 2);
    free(logits);
    close_shard(&shard);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_of_the_same_weights),
        cmocka_unit_test(test_gguf_mixture),
        cmocka_unit_test(test_stacked_experts),
        cmocka_unit_test(test_a_tensor_that_is_missing_or_misshapen),
        cmocka_unit_test(test_a_cut_through_a_block),
        cmocka_unit_test(test_a_load_that_is_stopped),
        cmocka_unit_test(test_dummy_blocks_that_do_not_fit),
        cmocka_unit_test(test_steps_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
