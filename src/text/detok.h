/*
 * Incremental detokenization with stop strings: tokens in, text out, holding back what is not a whole character
 * yet and what might be the beginning of a stop string. One thread at a time.
 */
#ifndef TEXT_DETOK_H
#define TEXT_DETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct text_tokenizer;
struct text_detok;

struct text_detok_opts {
    bool skip_special;
    const char *const *stops; /* stop strings (copied), n_stops of them */
    int n_stops;
    bool include_stop;        /* the matched stop string stays in the text */
    int min_tokens;           /* stop strings that end within the first so many tokens are text like any other */
    size_t limit_bytes;       /* most text held back or returned by one call */
};

int text_detok_create(const struct text_tokenizer *tokenizer, const struct text_detok_opts *opts, struct text_detok **ret, struct err *err);
void text_detok_destroy(struct text_detok *detok); /* accepts NULL */

/*
 * Adds one token and appends the text that is now certain to `out`. Returns the index of the stop string that was
 * matched (everything after it is dropped; give no more tokens), -1 when none was, -2 when `out` failed.
 */
int text_detok_push(struct text_detok *detok, int32_t id, struct buf *out);
/* The sequence has ended: appends what was held back, incomplete bytes as U+FFFD. Returns 0 or -2. */
int text_detok_flush(struct text_detok *detok, struct buf *out);

#endif
