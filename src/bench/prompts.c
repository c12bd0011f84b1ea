/* Prompts by chance and from files; see prompts.h. */
#include "bench/prompts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rand.h"

enum {
    MOST_PROMPTS = 1 << 20,
    MOST_TOKENS = 1 << 20,
    FILE_LIMIT = 1 << 30,
    TEXT_LIMIT = 16 << 20,
    TEXT_ROUNDS = 10 /* tries to find a text of a wanted length */
};

/* Streams of draws from one seed. */
enum { DRAW_PREFIX = 1, DRAW_LENGTHS, DRAW_ORDER, DRAW_IDS };

static uint64_t stream_seed(const struct bench_prompts_opts *opts, int stream, uint64_t item) {
    return rand_ctr_u64(opts->seed + (uint64_t)stream * 0x9e3779b97f4a7c15u, item);
}

static int alloc_prompts(int n, struct bench_prompts *ret, struct err *err) {
    if (n < 1 || n > MOST_PROMPTS)
        return err_set(err, ERR_INVALID, "%d prompts; 1 to %d are possible", n, (int)MOST_PROMPTS);
    ret->items = calloc((size_t)n, sizeof *ret->items);
    ret->n = n;
    return ret->items != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory for %d prompts", n);
}

void bench_prompts_finish(struct bench_prompts *prompts) {
    for (int i = 0; i < prompts->n && prompts->items != NULL; i++) {
        free(prompts->items[i].text);
        free(prompts->items[i].ids);
    }
    free(prompts->items);
    *prompts = (struct bench_prompts){0};
}

static int32_t draw_id(const struct bench_prompts_opts *opts, uint64_t seed, int at) {
    int32_t id = (int32_t)(rand_ctr_u64(seed, (uint64_t)at) % (uint64_t)opts->n_vocab);
    /* In a text, only tokens that stand for plain bytes keep their meaning; a NUL would end it. */
    for (int tries = 1; opts->as_text && tries < 1000; tries++) {
        size_t len;
        const char *bytes = text_tokenizer_token_bytes(opts->tokenizer, id, &len);
        if (bytes != NULL && memchr(bytes, '\0', len) == NULL && !text_tokenizer_is_special(opts->tokenizer, id))
            break;
        id = (int32_t)(rand_ctr_u64(seed + (uint64_t)tries, (uint64_t)at) % (uint64_t)opts->n_vocab);
    }
    return id;
}

static int draw_length(const struct bench_prompts_opts *opts, int item, int which, int len) {
    double least = floor(len * (1 - opts->range_ratio)), most = ceil(len * (1 + opts->range_ratio));
    double drawn = least + floor(rand_ctr_unit(stream_seed(opts, DRAW_LENGTHS, (uint64_t)item), (uint64_t)which) * (most - least + 1));
    return drawn < 1 ? 1 : drawn > MOST_TOKENS ? MOST_TOKENS : (int)drawn;
}

/*
 * Turns the prompt's ids into a text that the tokenizer reads back as so many tokens: pieces merge when their text is read
 * again, so what is missing is drawn anew and what is too much cut, until it fits. A text that never fits stays as near as it
 * came; n_tokens says how near.
 */
static int make_text(const struct bench_prompts_opts *opts, uint64_t seed, struct bench_prompt *prompt, struct err *err) {
    int wanted = prompt->n_tokens, n_fresh = wanted;
    struct buf text;
    struct text_ids ids;
    buf_init(&text, TEXT_LIMIT);
    text_ids_init(&ids, 4 * MOST_TOKENS);
    int result = 0;
    for (int round = 0; round < TEXT_ROUNDS; round++) {
        buf_clear(&text);
        text_tokenizer_decode(opts->tokenizer, prompt->ids, wanted, true, &text);
        ids.n_ids = 0;
        result = text.failed ? err_set(err, ERR_LIMIT, "a prompt of %d tokens is longer than %d bytes", wanted, (int)TEXT_LIMIT)
                             : text_tokenizer_encode(opts->tokenizer, buf_str(&text), text.len_bytes, 0, &ids, err);
        prompt->n_tokens = ids.n_ids;
        if (result != 0 || ids.n_ids == wanted)
            break;
        int n_kept = ids.n_ids < wanted ? ids.n_ids : wanted;
        memcpy(prompt->ids, ids.ids, (size_t)n_kept * sizeof *prompt->ids);
        for (int i = n_kept; i < wanted; i++)
            prompt->ids[i] = draw_id(opts, seed, n_fresh++);
    }
    text_ids_finish(&ids);
    free(prompt->ids);
    prompt->ids = NULL;
    prompt->text = buf_steal(&text);
    buf_finish(&text);
    return result == 0 && prompt->text == NULL ? err_set(err, ERR_NOMEM, "no memory for a prompt") : result;
}

static int make_random(const struct bench_prompts_opts *opts, int item, int n_tokens, int n_output, struct bench_prompt *ret,
                       struct err *err) {
    uint64_t prefix = stream_seed(opts, DRAW_PREFIX, 0), own = stream_seed(opts, DRAW_IDS, (uint64_t)item);
    ret->n_tokens = opts->prefix_len + n_tokens;
    ret->n_output = n_output;
    ret->ids = malloc((size_t)ret->n_tokens * sizeof *ret->ids);
    if (ret->ids == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a prompt of %d tokens", ret->n_tokens);
    for (int i = 0; i < ret->n_tokens; i++)
        ret->ids[i] = draw_id(opts, i < opts->prefix_len ? prefix : own, i);
    return opts->as_text ? make_text(opts, own, ret, err) : 0;
}

static int make_all_random(const struct bench_prompts_opts *opts, struct bench_prompts *prompts, struct err *err) {
    if (alloc_prompts(opts->n, prompts, err) != 0)
        return -1;
    for (int i = 0; i < opts->n; i++)
        if (make_random(opts, i, draw_length(opts, i, 0, opts->input_len), draw_length(opts, i, 1, opts->output_len), &prompts->items[i],
                        err) != 0)
            return -1;
    return 0;
}

/* A file's lines, counted from 1; each ends in a NUL instead of its line break. */
struct lines {
    struct buf text;
    char **at;
    int *number, n;
};

static void lines_finish(struct lines *lines) {
    free(lines->at);
    free(lines->number);
    buf_finish(&lines->text);
}

static int lines_read(const char *path, struct lines *lines, struct err *err) {
    int n_most = 1;
    *lines = (struct lines){0};
    buf_init(&lines->text, FILE_LIMIT);
    if (file_read(path, &lines->text, err) != 0)
        return -1;
    for (const char *c = buf_str(&lines->text); (c = strchr(c, '\n')) != NULL; c++)
        n_most++;
    lines->at = malloc((size_t)n_most * sizeof *lines->at);
    lines->number = malloc((size_t)n_most * sizeof *lines->number);
    if (lines->at == NULL || lines->number == NULL)
        return err_set(err, ERR_NOMEM, "%s: no memory for %d lines", path, n_most);
    char *at = lines->text.data;
    for (int number = 1; at != NULL; number++) {
        char *end = strchr(at, '\n');
        if (end != NULL)
            *end = '\0';
        at[strcspn(at, "\r")] = '\0';
        if (*at != '\0') {
            lines->at[lines->n] = at;
            lines->number[lines->n++] = number;
        }
        at = end != NULL ? end + 1 : NULL;
    }
    return 0;
}

/* Which line each prompt comes from: shuffled unless the order is kept, from the start again when there are too few (Fisher and Yates). */
static int choose_lines(const struct bench_prompts_opts *opts, int first, const struct lines *lines, int **ret_chosen, int *ret_n,
                        struct err *err) {
    int n_lines = lines->n - first, n = opts->never_repeat && opts->n > n_lines ? n_lines : opts->n;
    if (n_lines < 1)
        return err_set(err, ERR_INVALID, "%s holds no prompts", opts->path);
    int *order = malloc((size_t)n_lines * sizeof *order), *chosen = malloc((size_t)(n > 0 ? n : 1) * sizeof *chosen);
    if (order == NULL || chosen == NULL) {
        free(order);
        free(chosen);
        return err_set(err, ERR_NOMEM, "no memory for %d prompts", n);
    }
    for (int i = 0; i < n_lines; i++)
        order[i] = first + i;
    for (int i = n_lines - 1; i > 0 && !opts->keep_order; i--) {
        int j = (int)(rand_ctr_u64(stream_seed(opts, DRAW_ORDER, 0), (uint64_t)i) % (uint64_t)(i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (int i = 0; i < n; i++)
        chosen[i] = order[i % n_lines];
    free(order);
    *ret_chosen = chosen;
    *ret_n = n;
    return 0;
}

/* "34,244": tokens of the prompt and of the answer. */
static int parse_lengths(const char *line, int *ret_prompt, int *ret_answer) {
    char *end;
    long prompt = strtol(line, &end, 10);
    if (end == line || *end != ',')
        return -1;
    const char *second = end + 1;
    long answer = strtol(second, &end, 10);
    if (end == second || *end != '\0' || prompt < 1 || answer < 1 || prompt > MOST_TOKENS || answer > MOST_TOKENS)
        return -1;
    *ret_prompt = (int)prompt;
    *ret_answer = (int)answer;
    return 0;
}

static int take_lengths(const struct bench_prompts_opts *opts, int item, const char *line, struct bench_prompt *ret, struct err *err) {
    int n_prompt, n_answer;
    if (parse_lengths(line, &n_prompt, &n_answer) != 0)
        return err_set(err, ERR_INVALID, "should be two token counts such as 34,244, but is '%.60s'", line);
    return make_random(opts, item, n_prompt, n_answer, ret, err);
}

static int take_custom(const struct bench_prompts_opts *opts, int item, const char *line, struct bench_prompt *ret, struct err *err) {
    int64_t n_output = opts->file_output_len;
    const char *text;
    int result = -1;
    (void)item;
    json_t *json = json_parse(line, strlen(line), err);
    if (json == NULL)
        return -1;
    if (json_get_str(json, "prompt", NULL, &text, err) != 0 ||
        (n_output < 0 && json_get_int(json, "output_tokens", -1, 1, MOST_TOKENS, &n_output, err) != 0))
        goto free_json;
    if (text == NULL || n_output < 1) {
        err_set(err, ERR_INVALID, "has no \"%s\"", text == NULL ? "prompt" : "output_tokens");
        goto free_json;
    }
    ret->n_tokens = -1;
    if (opts->tokenizer != NULL) {
        struct text_ids ids;
        text_ids_init(&ids, MOST_TOKENS);
        result = text_tokenizer_encode(opts->tokenizer, text, strlen(text), TEXT_ADD_SPECIAL, &ids, err);
        ret->n_tokens = ids.n_ids;
        text_ids_finish(&ids);
        if (result != 0)
            goto free_json;
    }
    ret->n_output = (int)n_output;
    ret->text = strdup(text);
    result = ret->text != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory for a prompt");
free_json:
    json_decref(json);
    return result;
}

typedef int (*take_line_fn)(const struct bench_prompts_opts *opts, int item, const char *line, struct bench_prompt *ret, struct err *err);

static int make_from_file(const struct bench_prompts_opts *opts, take_line_fn take_line, int n_header_lines, struct bench_prompts *prompts,
                          struct err *err) {
    struct lines lines;
    int *chosen = NULL, n = 0, result = -1;
    if (opts->path == NULL)
        return err_set(err, ERR_INVALID, "these prompts come from a file: --dataset-path is missing");
    if (lines_read(opts->path, &lines, err) != 0 || choose_lines(opts, n_header_lines, &lines, &chosen, &n, err) != 0 ||
        alloc_prompts(n, prompts, err) != 0)
        goto free_lines;
    for (int i = 0; i < n; i++)
        if (take_line(opts, i, lines.at[chosen[i]], &prompts->items[i], err) != 0) {
            err_wrap(err, "%s line %d", opts->path, lines.number[chosen[i]]);
            goto free_lines;
        }
    result = 0;
free_lines:
    free(chosen);
    lines_finish(&lines);
    return result;
}

int bench_prompts_make(const char *kind, const struct bench_prompts_opts *opts, struct bench_prompts *ret, struct err *err) {
    struct bench_prompts prompts = {0};
    int result;
    if (opts->as_text && opts->tokenizer == NULL)
        return err_set(err, ERR_INVALID, "random prompts as text need a tokenizer");
    if (strcmp(kind, "random") == 0)
        result = make_all_random(opts, &prompts, err);
    else if (strcmp(kind, "sharegpt-lengths") == 0)
        result = make_from_file(opts, take_lengths, 1, &prompts, err);
    else if (strcmp(kind, "custom") == 0)
        result = make_from_file(opts, take_custom, 0, &prompts, err);
    else
        result = err_set(err, ERR_INVALID, "there are no prompts of the kind '%s'", kind);
    if (result != 0)
        bench_prompts_finish(&prompts);
    else
        *ret = prompts;
    return result;
}
