/*
 * Memory while loading: sixteen ranks in one process, from the model and through the cache, never hold more than 1.15 times what they
 * hold in the end. The model is a file of zeros that takes no disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/wait.h>

#include "kernels/dispatch.h"
#include "model/model.h"
#include "model/model_files.h"

enum { N_RANKS = 16, N_LAYERS = 6, HIDDEN = 1024, HEADS = 16, DIM = 64, FFN = 4096, VOCAB = 16384 };

/* A sanitizer keeps a byte for every eight. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const double MOST = 6;
#else
static const double MOST = 1.15;
#endif

static struct weights_store *store;
static struct model_config config;
static char fingerprint[17], cache_folder[64];

static void add(struct buf *header, uint64_t *offset, const char *name, int rows, int cols) {
    uint64_t len = 2 * (uint64_t)cols * (uint64_t)(rows > 0 ? rows : 1);
    buf_printf(header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", header->len_bytes == 0 ? "{" : ",", name);
    if (rows > 0)
        buf_printf(header, "%d,", rows);
    buf_printf(header, "%d],\"data_offsets\":[%llu,%llu]}", cols, (unsigned long long)*offset, (unsigned long long)(*offset + len));
    *offset += len;
}

static void write_zeros(void) {
    static const struct {
        const char *name;
        int rows, cols;
    } tensors[] = {{"input_layernorm", 0, HIDDEN},          {"post_attention_layernorm", 0, HIDDEN}, {"self_attn.q_proj", HEADS * DIM, HIDDEN},
                   {"self_attn.k_proj", HEADS * DIM, HIDDEN}, {"self_attn.v_proj", HEADS * DIM, HIDDEN}, {"self_attn.o_proj", HIDDEN, HEADS * DIM},
                   {"mlp.gate_proj", FFN, HIDDEN},          {"mlp.up_proj", FFN, HIDDEN},            {"mlp.down_proj", HIDDEN, FFN}};
    struct buf header, text;
    uint64_t offset = 0;
    char name[WEIGHTS_NAME_BYTES], path[512];
    buf_init(&header, 1 << 20);
    add(&header, &offset, "model.embed_tokens.weight", VOCAB, HIDDEN);
    add(&header, &offset, "model.norm.weight", 0, HIDDEN);
    for (int layer = 0; layer < N_LAYERS; layer++) {
        for (size_t t = 0; t < sizeof tensors / sizeof tensors[0]; t++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, tensors[t].name);
            add(&header, &offset, name, tensors[t].rows, tensors[t].cols);
        }
    }
    buf_append_char(&header, '}');
    uint64_t len = header.len_bytes;
    buf_init(&text, 1 << 20);
    buf_append(&text, &len, 8);
    buf_append(&text, header.data, header.len_bytes);
    write_file("model.safetensors", &text);
    snprintf(path, sizeof path, "%s/model.safetensors", model_files_folder);
    assert_int_equal(truncate(path, (off_t)(8 + len + offset)), 0);
    buf_clear(&text);
    buf_printf(&text,
               "{\"architectures\": [\"LlamaForCausalLM\"], \"num_hidden_layers\": %d, \"hidden_size\": %d, \"num_attention_heads\": %d, "
               "\"num_key_value_heads\": %d, \"head_dim\": %d, \"intermediate_size\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 4096, "
               "\"rms_norm_eps\": 1e-6, \"rope_theta\": 10000, \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", \"hidden_act\": \"silu\"}",
               N_LAYERS, HIDDEN, HEADS, HEADS, DIM, FFN, VOCAB);
    write_file("config.json", &text);
    buf_finish(&text);
    buf_finish(&header);
}

static int setup(void **state) {
    (void)state;
    struct err err = {0};
    kernels_setup(kernels_isa_detect());
    if (model_files_setup() != 0)
        return -1;
    write_zeros();
    snprintf(cache_folder, sizeof cache_folder, "%s.cache", model_files_folder);
    if (weights_store_open(model_files_folder, &store, &err) != 0 || weights_store_fingerprint(store, fingerprint, &err) != 0 ||
        model_config_load(model_files_folder, store, NULL, &config, &err) != 0)
        fprintf(stderr, "%s\n", err.msg);
    return err.code == ERR_NONE ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char command[128];
    weights_store_close(store);
    snprintf(command, sizeof command, "rm -r %s", cache_folder);
    return system(command) != 0 ? -1 : model_files_teardown();
}

/* "VmHWM:" and the like of this process, in bytes. */
static uint64_t status_bytes(const char *key) {
    char line[256];
    unsigned long long kb = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            sscanf(line + strlen(key), "%llu", &kb);
    if (file != NULL)
        fclose(file);
    return kb * 1024;
}

struct seat {
    pthread_t thread;
    int rank;
    bool through_cache;
    struct model *model;
    struct team *team;
    int rc;
    uint64_t read_bytes;
};

static void *load_rank(void *arg) {
    struct seat *seat = arg;
    struct err err;
    struct model_split split;
    model_progress progress = 0, saved = 0;
    struct model_cache cache = {.folder = cache_folder, .fingerprint = fingerprint};
    seat->rc = -1;
    if (team_create(1, NULL, &seat->team, &err) != 0 || model_split_compute(&config, 8, 2, false, NULL, seat->rank, &split, &err) != 0)
        return NULL;
    struct model_opts opts = {
        .team = seat->team, .kv_dtype = DTYPE_BF16, .block_size = 16, .max_step_tokens = 8, .max_step_seqs = 2, .max_context = 64};
    if (model_create(&config, &split, &opts, &seat->model, &err) == 0)
        seat->rc = seat->through_cache ? model_load_cached(seat->model, store, &cache, &progress, &saved, NULL, &err)
                                       : model_load(seat->model, store, &progress, NULL, &err);
    if (seat->rc != 0)
        fprintf(stderr, "rank %d: %s\n", seat->rank, err.msg);
    else
        seat->read_bytes = model_bytes_read(seat->model);
    return NULL;
}

/* In a process of its own, whose peak nothing else has raised. Exits with 0 when all is as it must be. */
static void measure(bool through_cache, bool reads) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) {
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        return;
    }
    static struct seat seats[N_RANKS];
    uint64_t before = status_bytes("VmRSS:"), weights = 0, read_bytes = 0;
    int rc = 0;
    for (int i = 0; i < N_RANKS; i++) {
        seats[i] = (struct seat){.rank = i, .through_cache = through_cache};
        pthread_create(&seats[i].thread, NULL, load_rank, &seats[i]);
    }
    for (int i = 0; i < N_RANKS; i++) {
        pthread_join(seats[i].thread, NULL);
        rc |= seats[i].rc;
        if (seats[i].rc == 0)
            weights += model_weights_bytes(seats[i].model, NULL);
        read_bytes += seats[i].read_bytes;
    }
    uint64_t peak = status_bytes("VmHWM:") - before;
    printf("%s: %llu MB of weights, a peak of %llu MB\n", !through_cache ? "model" : reads ? "model and cache" : "cache",
           (unsigned long long)(weights >> 20), (unsigned long long)(peak >> 20));
    fflush(stdout);
    _exit(rc != 0 || (double)peak > MOST * (double)weights || (read_bytes > 0) != reads);
}

static void test_peak(void **state) {
    (void)state;
    measure(false, true);
    measure(true, true);
    measure(true, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peak)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
