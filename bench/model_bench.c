/*
 * Decode and prefill of one sequence on one rank, without server or scheduler: tok/s, bytes of weights read per token,
 * the machine's read bandwidth, and the share of that limit which decode reaches.
 * usage: model_bench MODEL [--threads N] [--prefill N] [--decode N] [--repeat N] [--dummy DTYPE] [--layers N] [--cpu-max ISA] [--json]
 */
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/host.h"
#include "base/rand.h"
#include "base/team.h"
#include "kernels/dispatch.h"
#include "model/model.h"

enum { BLOCK_SIZE = 16, READ_BYTES = 512 << 20, READ_ROUNDS = 5 };

struct args {
    const char *model, *dummy, *cpu_max;
    int threads, prefill, decode, repeat, layers;
    int as_json;
};

struct reading {
    struct team *team;
    const uint64_t *words;
    uint64_t sums[TEAM_MAX_THREADS];
};

static void read_all(void *arg, int thread) {
    struct reading *reading = arg;
    int begin, end;
    team_share(reading->team, thread, READ_BYTES / 64, &begin, &end);
    uint64_t sum[8] = {0};
    for (int line = begin; line < end; line++)
        for (int i = 0; i < 8; i++)
            sum[i] += reading->words[8 * (size_t)line + (size_t)i];
    for (int i = 0; i < 8; i++)
        reading->sums[thread] += sum[i];
}

/* Best of several passes over memory that no cache holds, in GB/s. */
static double read_bandwidth(struct team *team) {
    uint64_t *words = malloc(READ_BYTES);
    double best = 0;
    if (words == NULL)
        return 0;
    memset(words, 1, READ_BYTES);
    struct reading reading = {.team = team, .words = words};
    for (int i = 0; i < READ_ROUNDS; i++) {
        int64_t start_ns = clock_mono_ns();
        team_run(team, read_all, &reading);
        double rate = READ_BYTES / (double)(clock_mono_ns() - start_ns);
        best = rate > best ? rate : best;
    }
    free(words);
    return best;
}

static int parse(int argc, char **argv, struct args *args) {
    *args = (struct args){.threads = host_cpus(), .prefill = 512, .decode = 128, .repeat = 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--json") == 0) {
            args->as_json = 1;
            continue;
        }
        if (argv[i][0] != '-') {
            args->model = argv[i];
            continue;
        }
        i++;
        if (strcmp(argv[i - 1], "--threads") == 0)
            args->threads = atoi(value);
        else if (strcmp(argv[i - 1], "--prefill") == 0)
            args->prefill = atoi(value);
        else if (strcmp(argv[i - 1], "--decode") == 0)
            args->decode = atoi(value);
        else if (strcmp(argv[i - 1], "--repeat") == 0)
            args->repeat = atoi(value);
        else if (strcmp(argv[i - 1], "--layers") == 0)
            args->layers = atoi(value);
        else if (strcmp(argv[i - 1], "--dummy") == 0)
            args->dummy = value;
        else if (strcmp(argv[i - 1], "--cpu-max") == 0)
            args->cpu_max = value;
        else
            return -1;
    }
    return args->model != NULL && args->threads > 0 && args->prefill > 0 && args->decode > 0 ? 0 : -1;
}

struct bench {
    struct model_config config;
    struct model_split split;
    struct team *team;
    struct weights_store *store;
    struct model *model;
    int32_t *tokens, *blocks;
    float *logits;
};

static int parse_dtype(const char *name, enum dtype *ret, struct err *err) {
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (strcmp(name, dtype_name((enum dtype)i)) == 0) {
            *ret = (enum dtype)i;
            return 0;
        }
    return err_set(err, ERR_INVALID, "--dummy %s: not a number format", name);
}

static int load(struct bench *b, const struct args *args, struct err *err) {
    enum dtype dummy = DTYPE_BF16;
    enum kernels_isa isa = kernels_isa_detect();
    if (args->cpu_max != NULL && kernels_isa_parse(args->cpu_max, &isa, err) != 0)
        return -1;
    kernels_setup(isa);
    if (args->dummy != NULL && parse_dtype(args->dummy, &dummy, err) != 0)
        return -1;
    json_t *overrides = args->layers > 0 ? json_pack("{s:i}", "num_hidden_layers", args->layers) : NULL;
    if ((args->dummy == NULL && weights_store_open(args->model, &b->store, err) != 0) ||
        model_config_load(args->model, b->store, overrides, &b->config, err) != 0)
        return -1;
    json_decref(overrides);
    struct model_opts opts = {.kv_dtype = DTYPE_BF16, .block_size = BLOCK_SIZE, .max_step_tokens = args->prefill, .max_step_seqs = 1,
                              .max_context = args->prefill + args->decode + 1};
    if (model_split_compute(&b->config, 1, 1, false, NULL, 0, &b->split, err) != 0 || team_create(args->threads, NULL, &b->team, err) != 0)
        return -1;
    opts.team = b->team;
    if (model_create(&b->config, &b->split, &opts, &b->model, err) != 0)
        return -1;
    model_progress progress = 0;
    atomic_int cancel = 0;
    int64_t start_ns = clock_mono_ns();
    if ((args->dummy != NULL ? model_load_dummy(b->model, dummy, 1, &progress, &cancel, err)
                             : model_load(b->model, b->store, &progress, &cancel, err)) != 0)
        return -1;
    double seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
    double gigabytes = (double)model_weights_bytes(b->model, b->store) / 1e9;
    if (!args->as_json)
        printf("loaded %.2f GB in %.2f s (%.2f GB/s), kernels %s, %d threads\n", gigabytes, seconds, gigabytes / seconds,
               kernels_isa_name(kernels_isa_current()), args->threads);
    int n_blocks = (opts.max_context + BLOCK_SIZE - 1) / BLOCK_SIZE;
    if (model_kv_create(b->model, n_blocks, err) != 0)
        return -1;
    b->tokens = malloc((size_t)args->prefill * sizeof *b->tokens);
    b->blocks = malloc((size_t)n_blocks * sizeof *b->blocks);
    b->logits = malloc((size_t)b->config.n_vocab * sizeof *b->logits);
    if (b->tokens == NULL || b->blocks == NULL || b->logits == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    for (int i = 0; i < n_blocks; i++)
        b->blocks[i] = i;
    for (int i = 0; i < args->prefill; i++)
        b->tokens[i] = (int32_t)(rand_ctr_u64(1, (uint64_t)i) % (uint64_t)b->config.n_vocab);
    return 0;
}

static int forward(struct bench *b, int position, int n_tokens, struct err *err) {
    struct model_step_seq seq = {.n_tokens = n_tokens, .position = position, .blocks = b->blocks, .first_logit = n_tokens - 1};
    struct model_step step = {.n_tokens = n_tokens, .tokens = b->tokens, .n_seqs = 1, .seqs = &seq};
    int n_rows;
    return model_forward(b->model, &step, NULL, b->logits, &n_rows, err);
}

/* Weights that a decode step reads: all packed ones, but of an untied embedding one row only. */
static double bytes_per_token(const struct bench *b) {
    double bytes = (double)model_weights_bytes(b->model, b->store);
    const struct weights_tensor *embedding = NULL;
    if (!b->config.tied && b->store != NULL) {
        embedding = weights_store_find(b->store, "model.embed_tokens.weight");
        if (embedding == NULL)
            embedding = weights_store_find(b->store, "token_embd.weight");
    }
    return embedding == NULL ? bytes : bytes - (double)embedding->len_bytes;
}

static int run(const struct args *args, struct err *err) {
    struct bench b = {0};
    if (load(&b, args, err) != 0)
        return -1;
    double bandwidth = read_bandwidth(b.team), megabytes = bytes_per_token(&b) / 1e6;
    if (forward(&b, 0, args->prefill < 16 ? args->prefill : 16, err) != 0) /* touches all memory once */
        return -1;
    for (int r = 0; r < args->repeat; r++) {
        int64_t start_ns = clock_mono_ns();
        if (forward(&b, 0, args->prefill, err) != 0)
            return -1;
        double prefill = args->prefill * 1e9 / (double)(clock_mono_ns() - start_ns);
        start_ns = clock_mono_ns();
        for (int i = 0; i < args->decode; i++)
            if (forward(&b, i, 1, err) != 0)
                return -1;
        double decode = args->decode * 1e9 / (double)(clock_mono_ns() - start_ns);
        double rate = decode * megabytes / 1e3;
        if (args->as_json)
            printf("{\"prefill_tok_s\": %.2f, \"decode_tok_s\": %.2f, \"mb_per_token\": %.1f, \"bandwidth_gb_s\": %.2f, \"share\": %.3f}\n", prefill,
                   decode, megabytes, bandwidth, bandwidth > 0 ? rate / bandwidth : 0);
        else
            printf("prefill %d: %.1f tok/s   decode %d: %.1f tok/s   %.0f MB/token = %.1f GB/s of %.1f GB/s (%.0f %%)\n", args->prefill, prefill,
                   args->decode, decode, megabytes, rate, bandwidth, bandwidth > 0 ? 100 * rate / bandwidth : 0);
        fflush(stdout);
    }
    model_destroy(b.model);
    team_destroy(b.team);
    weights_store_close(b.store);
    free(b.tokens);
    free(b.blocks);
    free(b.logits);
    return 0;
}

int main(int argc, char **argv) {
    struct args args;
    struct err err;
    if (parse(argc, argv, &args) != 0) {
        fprintf(stderr, "usage: model_bench MODEL [--threads N] [--prefill N] [--decode N] [--repeat N] [--dummy DTYPE] [--layers N] "
                        "[--cpu-max ISA] [--json]\n");
        return 2;
    }
    if (run(&args, &err) != 0) {
        fprintf(stderr, "model_bench: %s\n", err.msg);
        return 1;
    }
    return 0;
}
