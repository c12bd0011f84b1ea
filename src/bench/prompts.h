/* What is asked in a measurement: prompts and how much to answer to each. Made before the clock starts. */
#ifndef BENCH_PROMPTS_H
#define BENCH_PROMPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"

struct bench_prompt {
    char *text;   /* NULL: ids instead */
    int32_t *ids; /* NULL: text instead */
    int n_tokens; /* -1: not known (text without a tokenizer) */
    int n_output;
};

struct bench_prompts {
    struct bench_prompt *items;
    int n;
};

struct bench_prompts_opts {
    int n;                /* how many; files are repeated as needed unless never_repeat */
    uint64_t seed;
    int n_vocab;          /* random ids are below */
    const struct text_tokenizer *tokenizer; /* borrowed. Needed for random prompts as text; counts the tokens of texts; or NULL */
    bool as_text;         /* random prompts as text of as many tokens */
    int input_len, output_len, prefix_len; /* random: tokens; all prompts share the first prefix_len */
    double range_ratio;   /* random: lengths vary evenly between len · (1 - ratio) and len · (1 + ratio) */
    const char *path;     /* of the others */
    int file_output_len;  /* custom: answers' length; -1: "output_tokens" of each line */
    bool keep_order, never_repeat; /* of files */
};

/*
 * The kinds of prompts: "random"; "sharegpt-lengths", random ones with lengths from a CSV file of "prompt,answer" lines;
 * "custom", texts from a file of JSON lines {"prompt": …}. Errors name file and line.
 */
int bench_prompts_make(const char *kind, const struct bench_prompts_opts *opts, struct bench_prompts *ret, struct err *err);
void bench_prompts_finish(struct bench_prompts *prompts);

#endif
