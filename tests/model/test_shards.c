/*
 * What every rank reads: of safetensors in one file and in several and of GGUF, for every kind of split, all ranks together read
 * each byte of the model once, and what is replicated once for each rank that has it; nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/dispatch.h"
#include "model/model.h"
#include "model/model_files.h"

struct split {
    int tp, pp;
    bool expert_parallel;
};

static const struct split splits[] = {{1, 1, false}, {2, 1, false}, {4, 1, false}, {8, 1, false}, {1, 2, false}, {1, 3, false},
                                      {2, 2, false}, {4, 3, false}, {2, 1, true},  {4, 1, true},  {8, 2, true},  {1, 3, true}};

static int setup(void **state) {
    (void)state;
    kernels_setup(kernels_isa_detect());
    return model_files_setup();
}

static int teardown(void **state) {
    (void)state;
    return model_files_teardown();
}

/* Loads every rank of the split one after the other; returns what all have read. */
static uint64_t bytes_read(const char *path, struct split s) {
    struct err err;
    struct team *team;
    struct weights_store *store;
    struct model_config config;
    uint64_t sum = 0, packed = 0;
    assert_int_equal(team_create(2, NULL, &team, &err), 0);
    assert_int_equal(weights_store_open(path, &store, &err), 0);
    assert_int_equal(model_config_load(path, store, NULL, &config, &err), 0);
    for (int rank = 0; rank < s.tp * s.pp; rank++) {
        struct model_split split;
        struct model *model;
        model_progress progress = 0;
        struct model_opts opts = {
            .team = team, .kv_dtype = DTYPE_BF16, .block_size = 16, .max_step_tokens = 8, .max_step_seqs = 2, .max_context = 64};
        assert_int_equal(model_split_compute(&config, s.tp, s.pp, s.expert_parallel, NULL, rank, &split, &err), 0);
        assert_int_equal(model_create(&config, &split, &opts, &model, &err), 0);
        if (model_load(model, store, &progress, NULL, &err) != 0)
            fail_msg("%s", err.msg);
        assert_true(model_bytes_read(model) > 0);
        sum += model_bytes_read(model);
        packed += model_weights_bytes(model, NULL);
        model_destroy(model);
    }
    assert_int_equal(sum, weights_store_bytes_read(store)); /* no read goes uncounted */
    assert_true(packed >= sum);
    weights_store_close(store);
    team_destroy(team);
    return sum;
}

static bool has(const char *name, const char *part) { return strstr(name, part) != NULL; }

/* What the split must read, from the names and sizes of the tensors. */
static uint64_t bytes_needed(const char *path, struct split s) {
    struct err err;
    struct weights_store *store;
    struct model_config config;
    uint64_t sum = 0;
    assert_int_equal(weights_store_open(path, &store, &err), 0);
    assert_int_equal(model_config_load(path, store, NULL, &config, &err), 0);
    for (int i = 0; i < weights_store_count(store); i++) {
        const struct weights_tensor *t = weights_store_at(store, i);
        bool is_router = has(t->name, "mlp.gate.weight") || has(t->name, "ffn_gate_inp");
        bool is_kv = has(t->name, "k_proj") || has(t->name, "v_proj") || has(t->name, "attn_k.") || has(t->name, "attn_v.");
        uint64_t copies = 1;
        if (has(t->name, "norm") || is_router)
            copies = (uint64_t)s.tp;
        else if (is_kv && s.tp > config.n_kv_heads)
            copies = (uint64_t)(s.tp / config.n_kv_heads);
        else if (config.tied && s.pp > 1 && (has(t->name, "embed_tokens") || has(t->name, "token_embd")))
            copies = 2; /* the first stage's embedding, the last one's head */
        sum += copies * t->len_bytes;
    }
    weights_store_close(store);
    return sum;
}

static void check_splits(const char *path, bool is_mixture) {
    struct err err;
    struct weights_store *store;
    assert_int_equal(weights_store_open(path, &store, &err), 0);
    uint64_t file_bytes = weights_store_bytes(store);
    weights_store_close(store);
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        if (splits[i].expert_parallel && !is_mixture)
            continue;
        uint64_t needed = bytes_needed(path, splits[i]), found = bytes_read(path, splits[i]);
        if (found != needed)
            fail_msg("tp %d pp %d ep %d: %llu bytes were read, %llu are needed", splits[i].tp, splits[i].pp, splits[i].expert_parallel,
                     (unsigned long long)found, (unsigned long long)needed);
        assert_true(found >= file_bytes);
    }
    assert_int_equal(bytes_needed(path, splits[0]), file_bytes);
}

static void written(const char *name, char path[512]) { snprintf(path, 512, "%s%s", model_files_folder, name); }

static void test_safetensors(void **state) {
    (void)state;
    check_splits(TEST_DATA_DIR "/models/tiny-qwen3", false);
    check_splits(TEST_DATA_DIR "/models/tiny-qwen3-moe", true);
}

static void test_sharded_safetensors(void **state) {
    (void)state;
    static struct copies copies;
    char path[512];
    written("", path);
    read_all("tiny-qwen3-moe", &copies);
    write_config("tiny-qwen3-moe");
    write_sharded(&copies);
    free_all(&copies);
    check_splits(path, true);
}

static void test_gguf(void **state) {
    (void)state;
    static struct copies copies;
    char path[512];
    written("/model.gguf", path);
    read_all("tiny-qwen3", &copies);
    rename_to_gguf(&copies);
    write_gguf(&copies, false);
    free_all(&copies);
    check_splits(path, false);
    read_all("tiny-qwen3-moe", &copies);
    stack_all_to_gguf(&copies);
    write_gguf(&copies, true);
    free_all(&copies);
    check_splits(path, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_sharded_safetensors),
        cmocka_unit_test(test_gguf),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
