/*
 * Prefill of one sequence and decode of one or of several on one rank, without server or scheduler: tok/s, bytes of weights
 * read per step, the machine's read bandwidth, and the share of that limit which decode reaches.
 * usage: model_bench MODEL [--threads N] [--prefill N] [--decode N] [--batch N,N,…] [--repeat N] [--dummy DTYPE] [--layers N]
 *        [--cpu-max ISA] [--json]
 */
#include <jansson.h>
#include <math.h>
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

enum { BLOCK_SIZE = 16, READ_BYTES = 512 << 20, READ_ROUNDS = 5, MAX_BATCHES = 8, MAX_BATCH = 256 };

struct args {
    const char *model, *dummy, *cpu_max;
    int threads, prefill, decode, repeat, layers;
    int batches[MAX_BATCHES], n_batches, max_batch;
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

/* "1,4,16" */
static int parse_batches(const char *text, struct args *args) {
    args->n_batches = 0;
    for (char *end; args->n_batches < MAX_BATCHES; text = end + 1) {
        long n = strtol(text, &end, 10);
        if (end == text || n < 1 || n > MAX_BATCH)
            return -1;
        args->batches[args->n_batches++] = (int)n;
        args->max_batch = n > args->max_batch ? (int)n : args->max_batch;
        if (*end != ',')
            return *end == '\0' ? 0 : -1;
    }
    return -1;
}

static int parse(int argc, char **argv, struct args *args) {
    *args = (struct args){.threads = host_cpus(), .prefill = 512, .decode = 128, .repeat = 1, .batches = {1}, .n_batches = 1, .max_batch = 1};
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
        else if (strcmp(argv[i - 1], "--batch") == 0) {
            if (parse_batches(value, args) != 0)
                return -1;
        } else if (strcmp(argv[i - 1], "--repeat") == 0)
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
    int32_t *tokens; /* [prefill + MAX_BATCH], random */
    int32_t *blocks; /* [max_batch, blocks_per_seq] */
    int blocks_per_seq;
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
    struct model_opts opts = {.kv_dtype = DTYPE_BF16, .block_size = BLOCK_SIZE, .max_step_tokens = args->prefill > args->max_batch ? args->prefill : args->max_batch,
                              .max_step_seqs = args->max_batch,
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
    int n_tokens = args->prefill + MAX_BATCH, n_blocks;
    b->blocks_per_seq = (opts.max_context + BLOCK_SIZE - 1) / BLOCK_SIZE;
    n_blocks = b->blocks_per_seq * args->max_batch;
    if (model_kv_create(b->model, n_blocks, err) != 0)
        return -1;
    b->tokens = malloc((size_t)n_tokens * sizeof *b->tokens);
    b->blocks = malloc((size_t)n_blocks * sizeof *b->blocks);
    b->logits = malloc((size_t)args->max_batch * (size_t)b->config.n_vocab * sizeof *b->logits);
    if (b->tokens == NULL || b->blocks == NULL || b->logits == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    for (int i = 0; i < n_blocks; i++)
        b->blocks[i] = i;
    for (int i = 0; i < n_tokens; i++)
        b->tokens[i] = (int32_t)(rand_ctr_u64(1, (uint64_t)i) % (uint64_t)b->config.n_vocab);
    return 0;
}

/* n_tokens of each of n_seqs sequences at `position`; first: where in `tokens` they begin. */
static int forward(struct bench *b, int n_seqs, int position, int n_tokens, int first, struct err *err) {
    struct model_step_seq seqs[MAX_BATCH];
    for (int i = 0; i < n_seqs; i++)
        seqs[i] = (struct model_step_seq){.n_tokens = n_tokens, .position = position, .blocks = b->blocks + (size_t)i * (size_t)b->blocks_per_seq,
                                          .first_logit = n_tokens - 1};
    struct model_step step = {.n_tokens = n_seqs * n_tokens, .tokens = b->tokens + first, .n_seqs = n_seqs, .seqs = seqs};
    int n_rows;
    return model_forward(b->model, &step, NULL, b->logits, &n_rows, err);
}

static double tensor_bytes(const struct bench *b, const char *name, const char *gguf_name) {
    const struct weights_tensor *tensor = b->store == NULL ? NULL : weights_store_find(b->store, name);
    if (tensor == NULL && b->store != NULL)
        tensor = weights_store_find(b->store, gguf_name);
    return tensor == NULL ? 0 : (double)tensor->len_bytes;
}

/*
 * Weights that a decode step of n_seqs sequences reads: all packed ones, but of an untied embedding some rows only, and of a
 * mixture the experts that somebody goes to. Those are counted as if every token chose at random; that is nearly so with
 * random weights.
 */
static double bytes_per_step(const struct bench *b, int n_seqs) {
    const struct model_config *c = &b->config;
    double bytes = (double)model_weights_bytes(b->model, b->store);
    if (!c->tied)
        bytes -= tensor_bytes(b, "model.embed_tokens.weight", "token_embd.weight");
    if (c->n_experts == 0)
        return bytes;
    double experts = 0, idle = pow(1 - (double)c->n_experts_active / c->n_experts, n_seqs);
    static const char *const names[] = {"gate", "up", "down"};
    for (int layer = 0; layer < c->n_layers; layer++)
        for (int i = 0; i < 3; i++) {
            char name[WEIGHTS_NAME_BYTES];
            snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", layer, names[i]);
            experts += tensor_bytes(b, name, name);
        }
    return bytes - experts * idle;
}

static void print_decode(const struct args *args, const struct bench *b, int n_seqs, double decode, double bandwidth) {
    double megabytes = bytes_per_step(b, n_seqs) / 1e6, rate = decode / n_seqs * megabytes / 1e3, share = bandwidth > 0 ? rate / bandwidth : 0;
    if (args->as_json)
        printf("{\"batch\": %d, \"decode_tok_s\": %.2f, \"mb_per_step\": %.1f, \"bandwidth_gb_s\": %.2f, \"share\": %.3f}\n", n_seqs, decode,
               megabytes, bandwidth, share);
    else
        printf("decode %d x %d: %.1f tok/s   %.0f MB/step = %.1f GB/s of %.1f GB/s (%.0f %%)\n", args->decode, n_seqs, decode, megabytes, rate,
               bandwidth, 100 * share);
}

static int run(const struct args *args, struct err *err) {
    struct bench b = {0};
    if (load(&b, args, err) != 0)
        return -1;
    double bandwidth = read_bandwidth(b.team);
    if (forward(&b, 1, 0, args->prefill, 0, err) != 0) /* touches all memory once */
        return -1;
    for (int r = 0; r < args->repeat; r++) {
        int64_t start_ns = clock_mono_ns();
        if (forward(&b, 1, 0, args->prefill, 0, err) != 0)
            return -1;
        double prefill = args->prefill * 1e9 / (double)(clock_mono_ns() - start_ns);
        if (args->as_json)
            printf("{\"prefill_tok_s\": %.2f}\n", prefill);
        else
            printf("prefill %d: %.1f tok/s\n", args->prefill, prefill);
        for (int n = 0; n < args->n_batches; n++) {
            start_ns = clock_mono_ns();
            for (int i = 0; i < args->decode; i++)
                if (forward(&b, args->batches[n], i, 1, i % args->prefill, err) != 0)
                    return -1;
            print_decode(args, &b, args->batches[n], args->decode * args->batches[n] * 1e9 / (double)(clock_mono_ns() - start_ns), bandwidth);
        }
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
        fprintf(stderr, "usage: model_bench MODEL [--threads N] [--prefill N] [--decode N] [--batch N,N,…] [--repeat N] [--dummy DTYPE] "
                        "[--layers N] [--cpu-max ISA] [--json]\n");
        return 2;
    }
    if (run(&args, &err) != 0) {
        fprintf(stderr, "model_bench: %s\n", err.msg);
        return 1;
    }
    return 0;
}
