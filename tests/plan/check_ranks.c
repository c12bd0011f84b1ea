/*
 * Plans against what launched ranks allocate: workers with their ranks in threads of this process, driven through loading and the
 * making of the KV cache. The rule is 2 %; the sizes come from one list of parts, so equality is asked for.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host.h"
#include "base/json.h"
#include "exec/driver.h"
#include "exec/worker.h"
#include "kernels/dispatch.h"
#include "model/model_files.h"
#include "plan/fit.h"

enum { MAX_NODES = 3, MAX_MODEL_LEN = 640, MAX_SEQS = 6, MAX_STEP_TOKENS = 64, BLOCK_SIZE = 16 };

struct launch_case {
    const char *model; /* under TEST_DATA_DIR, or a path */
    int tp, pp, n_nodes;
    bool expert_parallel;
    const char *load_format, *dtype, *kv_dtype, *quantization, *overrides; /* NULL: "auto", "auto", "auto", none, none */
    int layers[4];
    int64_t cache_bytes;
};

static struct plan_fit fit;

struct worker_arg {
    int fd, result;
};

static void *worker_main(void *arg) {
    struct worker_arg *w = arg;
    struct err err;
    struct exec_worker_opts opts = {.fd = w->fd, .listen_host = "127.0.0.1", .driver_timeout_ms = 60000};
    w->result = exec_worker_run(&opts, &err);
    return NULL;
}

static const char *or_auto(const char *text) { return text != NULL ? text : "auto"; }

static void fill_settings(const struct launch_case *c, const char *path, struct exec_settings *s) {
    *s = (struct exec_settings){.tp_size = c->tp,
                                .pp_size = c->pp,
                                .expert_parallel = c->expert_parallel,
                                .n_nodes = c->n_nodes,
                                .block_size = BLOCK_SIZE,
                                .max_seqs = MAX_SEQS,
                                .max_step_tokens = MAX_STEP_TOKENS,
                                .max_model_len = MAX_MODEL_LEN,
                                .op_timeout_ms = 60000};
    snprintf(s->model, sizeof s->model, "%s", path);
    snprintf(s->load_format, sizeof s->load_format, "%s", or_auto(c->load_format));
    snprintf(s->dtype, sizeof s->dtype, "%s", or_auto(c->dtype));
    snprintf(s->kv_cache_dtype, sizeof s->kv_cache_dtype, "%s", or_auto(c->kv_dtype));
    snprintf(s->quantization, sizeof s->quantization, "%s", c->quantization != NULL ? c->quantization : "");
    memcpy(s->layers_per_stage, c->layers, sizeof c->layers);
    for (int rank = 0; rank < c->tp * c->pp; rank++)
        s->node_of_rank[rank] = plan_fit_place(c->tp, c->pp, c->n_nodes, rank);
    for (int node = 0; node < c->n_nodes; node++)
        s->threads_of_node[node] = 1;
    if (c->overrides != NULL)
        s->hf_overrides = json_parse(c->overrides, strlen(c->overrides), NULL);
}

static void launch(const struct launch_case *c, const char *path, struct exec_driver_info *ret) {
    struct err err;
    struct exec_worker workers[MAX_NODES];
    struct worker_arg args[MAX_NODES];
    pthread_t threads[MAX_NODES];
    struct exec_driver *driver;
    struct exec_driver_opts opts = {.workers = workers, .load_timeout_ms = 120000, .peer_timeout_ms = 60000,
                                    .kv_limits = {.share = 1, .cache_bytes = c->cache_bytes}};
    int fds[MAX_NODES];
    fill_settings(c, path, &opts.settings);
    for (int node = 0; node < c->n_nodes; node++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        fds[node] = pair[0];
        args[node] = (struct worker_arg){.fd = pair[1]};
        workers[node] = (struct exec_worker){.name = "test", .host = "127.0.0.1", .fd = pair[0]};
        assert_int_equal(pthread_create(&threads[node], NULL, worker_main, &args[node]), 0);
    }
    if (exec_driver_start(&opts, &driver, ret, &err) != 0)
        fail_msg("%s: %s", path, err.msg);
    exec_driver_stop(driver);
    for (int node = 0; node < c->n_nodes; node++) {
        pthread_join(threads[node], NULL);
        assert_int_equal(args[node].result, 0);
        close(fds[node]);
        close(args[node].fd);
    }
    exec_settings_finish(&opts.settings);
}

static void compute(const struct launch_case *c, const char *path, bool has_weights, struct model_config *config, struct plan_ask *ret) {
    struct err err;
    struct weights_store *store = NULL;
    json_t *overrides = c->overrides != NULL ? json_parse(c->overrides, strlen(c->overrides), NULL) : NULL;
    bool is_dummy = strcmp(or_auto(c->load_format), "dummy") == 0;
    if (has_weights && !is_dummy)
        assert_int_equal(weights_store_open(path, &store, &err), 0);
    assert_int_equal(model_config_load(path, store, overrides, config, &err), 0);
    assert_int_equal(model_config_quantize(config, store, c->quantization, &err), 0);
    *ret = (struct plan_ask){.config = config,
                             .store = store,
                             .floats = is_dummy ? exec_dummy_dtype(or_auto(c->dtype), config->dtype) : config->dtype,
                             .tp_size = c->tp,
                             .pp_size = c->pp,
                             .expert_parallel = c->expert_parallel,
                             .kv_dtype = exec_kv_dtype(or_auto(c->dtype), or_auto(c->kv_dtype)),
                             .block_size = BLOCK_SIZE,
                             .max_model_len = MAX_MODEL_LEN,
                             .max_seqs = MAX_SEQS,
                             .max_step_tokens = MAX_STEP_TOKENS,
                             .n_threads = 1,
                             .limits = {.share = 1, .cache_bytes = c->cache_bytes},
                             .n_nodes = c->n_nodes};
    memcpy(ret->layers_per_stage, c->layers, sizeof c->layers);
    for (int i = 0; i < c->n_nodes; i++)
        host_memory(&ret->nodes[i].total_bytes, &ret->nodes[i].available_bytes);
    if (plan_fit_compute(ret, &fit, &err) != 0)
        fail_msg("%s: %s", path, err.msg);
    weights_store_close(store);
    json_decref(overrides);
}

static void check(const struct launch_case *c) {
    struct model_config config;
    struct plan_ask ask;
    struct exec_driver_info info;
    char path[512];
    snprintf(path, sizeof path, c->model[0] == '/' ? "%.0s%s" : "%s/%s", TEST_DATA_DIR, c->model);
    launch(c, path, &info);
    /* With the checkpoint's tensors and, where its format is the configuration's, without them. */
    for (int has_weights = strstr(path, ".gguf") != NULL; has_weights < 2; has_weights++) {
        uint64_t weights_bytes = 0, block_bytes = 0;
        compute(c, path, has_weights, &config, &ask);
        for (int i = 0; i < fit.n_ranks; i++) {
            weights_bytes += fit.ranks[i].sizes.weights_bytes;
            block_bytes += fit.ranks[i].sizes.kv_block_bytes;
        }
        assert_true(fit.fits);
        assert_int_equal(fit.n_blocks, info.n_blocks);
        assert_int_equal(weights_bytes, info.weights_bytes);
        assert_int_equal(block_bytes * (uint64_t)fit.n_blocks, info.kv_bytes);
    }
}

static void check_all(const struct launch_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++)
        check(&cases[i]);
}
#define CHECK_ALL(cases) check_all(cases, sizeof(cases) / sizeof(cases)[0])

static void test_dense(void **state) {
    (void)state;
    static const struct launch_case cases[] = {
        {"models/tiny-qwen3", 1, 1, 1},
        {"models/tiny-qwen3", 2, 1, 1},
        {"models/tiny-qwen3", 4, 1, 1},
        {"models/tiny-qwen3", 1, 2, 2},
        {"models/tiny-qwen3", 1, 3, 3},
        {"models/tiny-qwen3", 2, 3, 3},
        {"models/tiny-qwen3", 2, 2, 1, .layers = {4, 2}},
        {"models/tiny-qwen3", 2, 1, 1, .dtype = "float32"},
        {"models/tiny-qwen3", 2, 1, 1, .kv_dtype = "float32", .cache_bytes = 4 << 20},
    };
    CHECK_ALL(cases);
}

static void test_mixture(void **state) {
    (void)state;
    static const struct launch_case cases[] = {
        {"models/tiny-qwen3-moe", 1, 1, 1},
        {"models/tiny-qwen3-moe", 2, 1, 1},
        {"models/tiny-qwen3-moe", 4, 1, 1},
        {"models/tiny-qwen3-moe", 2, 1, 1, true},
        {"models/tiny-qwen3-moe", 4, 1, 2, true},
        {"models/tiny-qwen3-moe", 2, 2, 2},
        {"models/tiny-qwen3-moe", 2, 3, 3, true},
        {"models/tiny-qwen3-moe", 1, 3, 1, true},
    };
    CHECK_ALL(cases);
}

static void test_quantised(void **state) {
    (void)state;
    static const struct launch_case cases[] = {
        {"models/tiny-qwen3", 1, 1, 1, .quantization = "int8"},
        {"models/tiny-qwen3", 2, 2, 1, .quantization = "int4"},
        {"models/tiny-qwen3-moe", 2, 1, 1, .quantization = "int8"},
        {"models/tiny-qwen3-moe", 2, 2, 1, true, .quantization = "int4"},
    };
    CHECK_ALL(cases);
}

static void test_dummy(void **state) {
    (void)state;
    static const struct launch_case cases[] = {
        {"models/tiny-qwen3", 2, 1, 1, .load_format = "dummy", .dtype = "float32"},
        {"models/tiny-qwen3-moe", 1, 2, 1, .load_format = "dummy", .quantization = "int8"},
    };
    CHECK_ALL(cases);
}

/* The flagship's geometry, with fewer experts and a small vocabulary: 16 ranks of one layer, 8 of two. */
static void test_flagship(void **state) {
    (void)state;
    static const struct launch_case cases[] = {
        {NULL, 16, 1, 2, true, .load_format = "dummy", .overrides = "{\"num_hidden_layers\": 1, \"num_experts\": 16, \"vocab_size\": 1000}"},
        {NULL, 4, 2, 2, true, .load_format = "dummy", .quantization = "int4",
         .overrides = "{\"num_hidden_layers\": 2, \"num_experts\": 10, \"vocab_size\": 1000}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct launch_case c = cases[i];
        c.model = model_files_folder;
        check(&c);
    }
}

static struct copies copies;

static void test_gguf(void **state) {
    (void)state;
    char path[512];
    for (int is_mixture = 0; is_mixture < 2; is_mixture++) {
        read_all(is_mixture ? "tiny-qwen3-moe" : "tiny-qwen3", &copies);
        if (is_mixture)
            stack_all_to_gguf(&copies);
        else
            rename_to_gguf(&copies);
        write_gguf(&copies, is_mixture);
        free_all(&copies);
        snprintf(path, sizeof path, "%s/model.gguf", model_files_folder);
        check(&(struct launch_case){path, 2, 1, 1});
        check(&(struct launch_case){path, 2, 2, 1, .expert_parallel = is_mixture});
        check(&(struct launch_case){path, 1, 1, 1, .quantization = "int8"});
    }
}

/* Below /tmp, where model_files.h cleans up. */
static int setup(void **state) {
    (void)state;
    struct err err;
    struct buf text;
    kernels_setup(kernels_isa_detect());
    if (model_files_setup() != 0)
        return -1;
    buf_init(&text, MODEL_FILES_LIMIT);
    if (file_read(TEST_DATA_DIR "/configs/Qwen--Qwen3-235B-A22B_config.json", &text, &err) != 0)
        return -1;
    write_file("config.json", &text);
    buf_finish(&text);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return model_files_teardown();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense), cmocka_unit_test(test_mixture), cmocka_unit_test(test_quantised),
        cmocka_unit_test(test_dummy), cmocka_unit_test(test_gguf),    cmocka_unit_test(test_flagship),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
