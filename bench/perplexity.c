/*
 * Perplexity of a model on a text: e to the mean of −log p(token | those before it), over windows that begin anew. The first
 * token of a window is not counted, nor are --skip more: with half the window these are the tokens that llama.cpp's
 * perplexity counts. Float32 KV cache, one rank, logarithms in double.
 *
 * --save writes the value of each token; --against FILE compares with such a file of the same tokens: the mean difference
 * and its standard error tell a loss from chance with far fewer tokens than two perplexities do.
 *
 * usage: perplexity MODEL TEXT [--tokens N] [--window N] [--skip N] [--threads N] [--quantization METHOD] [--tokenizer PATH]
 *        [--save FILE] [--against FILE]
 */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/host.h"
#include "base/team.h"
#include "kernels/dispatch.h"
#include "model/model.h"
#include "text/tokenizer.h"

enum { BLOCK_SIZE = 16, STEP_TOKENS = 128, MAX_TEXT_BYTES = 64 << 20, MAX_TOKENS = 1 << 24 };

struct args {
    const char *model, *text, *quantization, *tokenizer, *save, *against;
    int n_tokens, window, skip, n_threads;
};

struct run {
    struct model_config config;
    struct model_split split;
    struct weights_store *store;
    struct team *team;
    struct model *model;
    struct text_ids ids;
    int32_t *blocks;
    float *logits;  /* [STEP_TOKENS, n_vocab] */
    double *losses; /* [n_losses] */
    int n_losses;
};

static int parse(int argc, char **argv, struct args *args) {
    *args = (struct args){.n_tokens = 4096, .window = 512, .n_threads = host_cpus()};
    for (int i = 1; i < argc; i++) {
        const struct {
            const char *name;
            const char **text;
            int *number;
        } known[] = {
            {"--tokens", NULL, &args->n_tokens},           {"--window", NULL, &args->window},       {"--skip", NULL, &args->skip},
            {"--threads", NULL, &args->n_threads},         {"--tokenizer", &args->tokenizer, NULL}, {"--save", &args->save, NULL},
            {"--quantization", &args->quantization, NULL}, {"--against", &args->against, NULL},
        };
        size_t k = 0;
        while (k < sizeof known / sizeof known[0] && strcmp(argv[i], known[k].name) != 0)
            k++;
        if (k == sizeof known / sizeof known[0]) {
            const char **place = args->model == NULL ? &args->model : args->text == NULL ? &args->text : NULL;
            if (place == NULL || argv[i][0] == '-')
                return -1;
            *place = argv[i];
        } else if (++i == argc) {
            return -1;
        } else if (known[k].text != NULL) {
            *known[k].text = argv[i];
        } else {
            *known[k].number = atoi(argv[i]);
        }
    }
    return args->text != NULL && args->n_tokens > 1 && args->window > args->skip + 1 && args->skip >= 0 && args->n_threads > 0 ? 0 : -1;
}

/* The text's first tokens, with the tokenizer of a GGUF file or a tokenizer.json. */
static int read_tokens(struct run *run, const struct args *args, struct err *err) {
    char path[4096];
    const char *from = args->tokenizer != NULL ? args->tokenizer : args->model;
    size_t len = strlen(from);
    struct weights_store *store = NULL;
    struct text_tokenizer *tokenizer = NULL;
    struct buf text;
    int rc = -1;
    buf_init(&text, MAX_TEXT_BYTES);
    text_ids_init(&run->ids, MAX_TOKENS);
    if (len > 5 && strcmp(from + len - 5, ".gguf") == 0) {
        if (weights_store_open(from, &store, err) != 0 || text_tokenizer_open_gguf(weights_store_gguf(store), &tokenizer, err) != 0)
            goto finish_text;
    } else {
        snprintf(path, sizeof path, file_is_dir(from) ? "%s/tokenizer.json" : "%s", from);
        if (text_tokenizer_open_json(path, &tokenizer, err) != 0)
            goto finish_text;
    }
    if (file_read(args->text, &text, err) != 0 || text_tokenizer_encode(tokenizer, text.data, text.len_bytes, 0, &run->ids, err) != 0)
        goto finish_text;
    if (run->ids.n_ids > args->n_tokens)
        run->ids.n_ids = args->n_tokens;
    rc = 0;
finish_text:
    text_tokenizer_close(tokenizer);
    weights_store_close(store);
    buf_finish(&text);
    return rc;
}

static int open_model(struct run *run, const struct args *args, struct err *err) {
    model_progress progress = 0;
    kernels_setup(kernels_isa_detect());
    if (weights_store_open(args->model, &run->store, err) != 0 ||
        model_config_load(args->model, run->store, NULL, &run->config, err) != 0 ||
        model_config_quantize(&run->config, run->store, args->quantization, err) != 0 ||
        model_split_compute(&run->config, 1, 1, false, NULL, 0, &run->split, err) != 0 ||
        team_create(args->n_threads, NULL, &run->team, err) != 0)
        return -1;
    int n_blocks = (args->window + BLOCK_SIZE - 1) / BLOCK_SIZE;
    struct model_opts opts = {.team = run->team,
                              .kv_dtype = DTYPE_F32,
                              .block_size = BLOCK_SIZE,
                              .max_step_tokens = STEP_TOKENS,
                              .max_step_seqs = 1,
                              .max_context = args->window};
    if (model_create(&run->config, &run->split, &opts, &run->model, err) != 0 ||
        model_load(run->model, run->store, &progress, NULL, err) != 0 || model_kv_create(run->model, n_blocks, err) != 0)
        return -1;
    run->blocks = calloc((size_t)n_blocks, sizeof *run->blocks);
    run->logits = malloc((size_t)STEP_TOKENS * (size_t)run->config.n_vocab * sizeof *run->logits);
    run->losses = malloc((size_t)run->ids.n_ids * sizeof *run->losses);
    if (run->blocks == NULL || run->logits == NULL || run->losses == NULL)
        return err_set(err, ERR_NOMEM, "no memory for logits of %d tokens", STEP_TOKENS);
    for (int i = 0; i < n_blocks; i++)
        run->blocks[i] = i;
    for (int i = 0; i < run->ids.n_ids; i++)
        if (run->ids.ids[i] >= run->config.n_vocab)
            return err_set(err, ERR_INVALID, "token %d of the text is not in the model's vocabulary of %d", run->ids.ids[i],
                           run->config.n_vocab);
    return 0;
}

/* −log of the softmax at `token`. */
static double loss_of(const float *logits, int n_vocab, int32_t token) {
    float max = logits[0];
    double sum = 0;
    for (int i = 1; i < n_vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < n_vocab; i++)
        sum += exp((double)(logits[i] - max));
    return log(sum) - (double)(logits[token] - max);
}

struct scoring {
    struct run *run;
    const int32_t *next; /* token after each row */
    int n_rows;
};

static void score_rows(void *arg, int thread) {
    struct scoring *s = arg;
    int n_vocab = s->run->config.n_vocab;
    (void)thread;
    for (int row; (row = team_take(s->run->team)) < s->n_rows;)
        s->run->losses[s->run->n_losses + row] = loss_of(s->run->logits + (size_t)row * (size_t)n_vocab, n_vocab, s->next[row]);
}

static int run_window(struct run *run, const int32_t *tokens, int n_tokens, int n_skip, struct err *err) {
    int first = run->n_losses;
    for (int at = 0, n; at < n_tokens; at += n) {
        n = n_tokens - at < STEP_TOKENS ? n_tokens - at : STEP_TOKENS;
        struct model_step_seq seq = {.n_tokens = n, .position = at, .blocks = run->blocks};
        struct model_step step = {.n_tokens = n, .tokens = tokens + at, .n_seqs = 1, .seqs = &seq};
        int n_rows;
        if (model_forward(run->model, &step, NULL, run->logits, &n_rows, err) != 0)
            return -1;
        struct scoring scoring = {.run = run, .next = tokens + at + 1, .n_rows = at + n < n_tokens ? n : n - 1};
        team_run(run->team, score_rows, &scoring);
        run->n_losses += scoring.n_rows;
    }
    if (n_skip > run->n_losses - first)
        n_skip = run->n_losses - first;
    run->n_losses -= n_skip;
    memmove(run->losses + first, run->losses + first + n_skip, (size_t)(run->n_losses - first) * sizeof *run->losses);
    return 0;
}

static int compare(const struct run *run, const char *path, struct err *err) {
    struct buf other;
    double sum = 0, squares = 0;
    int n = run->n_losses;
    buf_init(&other, (size_t)MAX_TOKENS * sizeof(double));
    if (file_read(path, &other, err) != 0 || other.len_bytes != (size_t)n * sizeof(double)) {
        buf_finish(&other);
        return err_set(err, ERR_INVALID, "%s should hold %d values, saved from the same text and windows", path, n);
    }
    for (int i = 0; i < n; i++) {
        double value;
        memcpy(&value, other.data + (size_t)i * sizeof value, sizeof value);
        double difference = run->losses[i] - value;
        sum += difference;
        squares += difference * difference;
    }
    buf_finish(&other);
    double mean = sum / n, error = sqrt((squares / n - mean * mean) / n);
    printf("loss %+.4f ± %.4f (perplexity %+.2f %%), root mean square %.3f\n", mean, error, 100 * (exp(mean) - 1), sqrt(squares / n));
    return 0;
}

static int measure(struct run *run, const struct args *args, struct err *err) {
    if (read_tokens(run, args, err) != 0 || open_model(run, args, err) != 0)
        return -1;
    int64_t start_ns = clock_mono_ns();
    for (int at = 0, n; at + 1 < run->ids.n_ids; at += n) {
        n = run->ids.n_ids - at < args->window ? run->ids.n_ids - at : args->window;
        if (run_window(run, run->ids.ids + at, n, args->skip, err) != 0)
            return -1;
        fprintf(stderr, "\r%d of %d tokens, %.0f s", at + n, run->ids.n_ids, (double)(clock_mono_ns() - start_ns) / 1e9);
    }
    double sum = 0;
    for (int i = 0; i < run->n_losses; i++)
        sum += run->losses[i];
    fprintf(stderr, "\n");
    printf("perplexity %.4f over %d tokens in windows of %d, weights %.3f GB\n", exp(sum / run->n_losses), run->n_losses, args->window,
           (double)model_weights_bytes(run->model, run->store) / 1e9);
    if (args->save != NULL && file_write_atomic(args->save, run->losses, (size_t)run->n_losses * sizeof *run->losses, 0644, err) != 0)
        return -1;
    return args->against == NULL ? 0 : compare(run, args->against, err);
}

int main(int argc, char **argv) {
    struct args args;
    struct err err;
    struct run run = {0};
    if (parse(argc, argv, &args) != 0) {
        fprintf(stderr, "usage: perplexity MODEL TEXT [--tokens N] [--window N] [--skip N] [--threads N] [--quantization METHOD] "
                        "[--tokenizer PATH] [--save FILE] [--against FILE]\n");
        return 2;
    }
    int rc = measure(&run, &args, &err);
    if (rc != 0)
        fprintf(stderr, "perplexity: %s\n", err.msg);
    model_destroy(run.model);
    team_destroy(run.team);
    weights_store_close(run.store);
    text_ids_finish(&run.ids);
    free(run.blocks);
    free(run.logits);
    free(run.losses);
    return rc != 0;
}
