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
#include "model/model_files.h"
#include "model/rig.h"

enum { N_VOCAB = 2048 };

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    return model_files_setup();
}

static int teardown(void **state) {
    (void)state;
    return model_files_teardown();
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
    snprintf(copy, sizeof copy, "%s%s", model_files_folder, written);
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
    read_all("tiny-qwen3-moe", &copies);
    stack_all_to_gguf(&copies);
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
    snprintf(path, sizeof path, "%s%s", model_files_folder, written);
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
