/*
 * Byte-level BPE over a vocabulary and ranked merges (Sennrich 2016; bytes as in GPT-2). Immutable once finished: any number of
 * threads may encode at once.
 */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"

enum { TEXT_MAX_VOCAB = 1 << 21, TEXT_MAX_TOKEN_BYTES = 1 << 16 };

struct text_bpe;

int text_bpe_create(struct text_bpe **ret, struct err *err);
void text_bpe_destroy(struct text_bpe *bpe); /* accepts NULL */

/* A token as the vocabulary spells it: each byte as one of 256 printable characters. */
int text_bpe_add_token(struct text_bpe *bpe, const char *text, size_t len_bytes, int32_t id, struct err *err);
/* Merges in order of rank. Both halves and their sum must be tokens. */
int text_bpe_add_merge(struct text_bpe *bpe, const char *left, size_t left_bytes, const char *right, size_t right_bytes, struct err *err);
/* After all tokens: a piece that is a token as a whole is not taken apart. */
void text_bpe_ignore_merges(struct text_bpe *bpe, bool ignores);

int32_t text_bpe_find(const struct text_bpe *bpe, const char *text, size_t len_bytes); /* by spelling; -1: none */
int text_bpe_n_ids(const struct text_bpe *bpe);                                        /* highest id + 1 */
/* The bytes that a token stands for; NULL when there is none. */
const char *text_bpe_bytes(const struct text_bpe *bpe, int32_t id, size_t *ret_len_bytes);

/* Appends the ids of one piece of text. */
int text_bpe_encode(const struct text_bpe *bpe, const char *text, size_t len_bytes, struct text_ids *ids, struct err *err);

/* Room for n more ids in the list; ERR_LIMIT past its limit. */
int text_ids_reserve(struct text_ids *ids, int n, struct err *err);

#endif
