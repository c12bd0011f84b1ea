/*
 * Pre-tokenization: cuts a text into the pieces that BPE may not cross. Known patterns are matched by hand, others by PCRE2.
 * A splitter is immutable once made: any number of threads may use it at once.
 */
#ifndef TEXT_SPLITTER_H
#define TEXT_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

enum text_split_kind {
    TEXT_SPLIT_GPT2,       /* byte-level's own pattern */
    TEXT_SPLIT_QWEN2,      /* Qwen2 and Qwen3: digits one by one */
    TEXT_SPLIT_LLAMA3,     /* the same with digits in threes */
    TEXT_SPLIT_DIGITS,     /* each digit alone */
    TEXT_SPLIT_DIGIT_RUNS, /* runs of digits */
    TEXT_SPLIT_REGEX
};

struct text_splitter;

struct text_splitter *text_splitter_create(void); /* no step: the whole text is one piece. NULL: no memory */
void text_splitter_destroy(struct text_splitter *splitter); /* accepts NULL */
/* Adds a step that cuts the pieces of the steps before. pattern: for TEXT_SPLIT_REGEX; a known one becomes its kind. */
int text_splitter_add(struct text_splitter *splitter, enum text_split_kind kind, const char *pattern, struct err *err);

/* Calls piece() for each piece of valid UTF-8 in order; a nonzero answer ends it and is returned. */
int text_splitter_run(const struct text_splitter *splitter, const char *text, size_t len_bytes,
                      int (*piece)(void *ctx, const char *text, size_t len_bytes), void *ctx);

#endif
