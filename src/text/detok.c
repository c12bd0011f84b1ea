/*
 * Incremental detokenization; see detok.h. Bytes wait in `pending` until they are whole characters; characters wait in `held` while a stop
 * string might begin in them.
 */
#include "text/detok.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/tokenizer.h"

struct text_detok {
    const struct text_tokenizer *tokenizer;
    bool skip_special, include_stop;
    char **stops;
    int n_stops;
    size_t longest_stop;
    struct buf pending; /* bytes of an unfinished character */
    struct buf held;    /* valid text that is not out yet */
    int n_early;        /* tokens to come in which no stop string may end */
    size_t early_bytes; /* of the held text: from such tokens */
};

int text_detok_create(const struct text_tokenizer *tokenizer, const struct text_detok_opts *opts, struct text_detok **ret, struct err *err) {
    struct text_detok *d = calloc(1, sizeof *d);
    if (d == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a detokenizer");
    d->tokenizer = tokenizer;
    d->skip_special = opts->skip_special;
    d->include_stop = opts->include_stop;
    d->n_early = opts->min_tokens;
    buf_init(&d->pending, opts->limit_bytes);
    buf_init(&d->held, opts->limit_bytes);
    d->stops = calloc((size_t)opts->n_stops + 1, sizeof *d->stops);
    for (int i = 0; d->stops != NULL && i < opts->n_stops; i++) {
        size_t len = strlen(opts->stops[i]);
        d->stops[i] = malloc(len + 1);
        if (d->stops[i] == NULL)
            break;
        memcpy(d->stops[i], opts->stops[i], len + 1);
        d->n_stops++;
        d->longest_stop = len > d->longest_stop ? len : d->longest_stop;
    }
    if (d->stops == NULL || d->n_stops < opts->n_stops) {
        text_detok_destroy(d);
        return err_set(err, ERR_NOMEM, "no memory for %d stop strings", opts->n_stops);
    }
    *ret = d;
    return 0;
}

void text_detok_destroy(struct text_detok *detok) {
    if (detok == NULL)
        return;
    for (int i = 0; i < detok->n_stops; i++)
        free(detok->stops[i]);
    free(detok->stops);
    buf_finish(&detok->pending);
    buf_finish(&detok->held);
    free(detok);
}

/* The stop string that begins first in the held text; of those at one place the first given. *ret_at: where. */
static int find_stop(const struct text_detok *d, size_t *ret_at) {
    int found = -1;
    for (int i = 0; i < d->n_stops; i++) {
        size_t len = strlen(d->stops[i]);
        size_t from = d->early_bytes >= len ? d->early_bytes - len + 1 : 0; /* what begins there ends behind the early text */
        const char *at = len == 0 || d->held.len_bytes <= from ? NULL : memmem(d->held.data + from, d->held.len_bytes - from, d->stops[i], len);
        if (at != NULL && (found < 0 || (size_t)(at - d->held.data) < *ret_at)) {
            found = i;
            *ret_at = (size_t)(at - d->held.data);
        }
    }
    return found;
}

/* Bytes at the end of the held text with which some stop string begins. */
static size_t possible_stop_bytes(const struct text_detok *d) {
    size_t most = d->longest_stop < d->held.len_bytes + 1 ? d->longest_stop : d->held.len_bytes + 1;
    for (size_t n = most > 0 ? most - 1 : 0; n > 0; n--) {
        const char *tail = d->held.data + d->held.len_bytes - n;
        for (int i = 0; i < d->n_stops; i++)
            if (strlen(d->stops[i]) > n && memcmp(d->stops[i], tail, n) == 0)
                return n;
    }
    return 0;
}

/* Looks for stop strings in the held text and lets out what is certain. As text_detok_push. */
static int let_out(struct text_detok *d, struct buf *out) {
    size_t at = 0;
    int stop = find_stop(d, &at);
    size_t keep = stop >= 0 ? 0 : possible_stop_bytes(d);
    size_t n = stop < 0 ? d->held.len_bytes - keep : at + (d->include_stop ? strlen(d->stops[stop]) : 0);
    if (buf_append(out, buf_str(&d->held), n) != 0)
        return -2;
    if (stop >= 0)
        buf_clear(&d->held);
    else
        buf_consume(&d->held, n);
    d->early_bytes -= d->early_bytes < n ? d->early_bytes : n;
    return stop;
}

int text_detok_push(struct text_detok *detok, int32_t id, struct buf *out) {
    size_t len = 0;
    bool is_early = detok->n_early > 0;
    detok->n_early -= is_early;
    const char *bytes = detok->skip_special && text_tokenizer_is_special(detok->tokenizer, id)
                            ? NULL
                            : text_tokenizer_token_bytes(detok->tokenizer, id, &len);
    if (bytes == NULL)
        return -1;
    if (buf_append(&detok->pending, bytes, len) != 0)
        return -2;
    size_t whole = detok->pending.len_bytes - utf8_incomplete_tail(detok->pending.data, detok->pending.len_bytes);
    if (utf8_append_repaired(&detok->held, buf_str(&detok->pending), whole) != 0)
        return -2;
    buf_consume(&detok->pending, whole);
    if (is_early)
        detok->early_bytes = detok->held.len_bytes;
    return let_out(detok, out);
}

int text_detok_flush(struct text_detok *detok, struct buf *out) {
    if (utf8_append_repaired(&detok->held, buf_str(&detok->pending), detok->pending.len_bytes) != 0 ||
        buf_append(out, buf_str(&detok->held), detok->held.len_bytes) != 0)
        return -2;
    buf_clear(&detok->pending);
    buf_clear(&detok->held);
    return 0;
}
