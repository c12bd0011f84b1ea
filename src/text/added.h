/*
 * Added tokens: texts that are one token wherever they stand, cut out before pre-tokenization. Immutable once finished.
 */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { TEXT_MAX_ADDED = 1 << 21 }; /* as many as a vocabulary may have */

struct text_added_token {
    char *text; /* owned */
    size_t len_bytes;
    int32_t id;
    bool is_special, is_normalized, strips_left, strips_right, is_word;
};

struct text_added {
    struct text_added_token *tokens; /* after finishing: by first byte, longest first */
    int n, cap;
    int first[257]; /* tokens that begin with byte b: [first[b], first[b + 1]) */
};

int text_added_add(struct text_added *added, const struct text_added_token *token, struct err *err); /* copies the text */
void text_added_sort(struct text_added *added);
void text_added_finish(struct text_added *added);

/*
 * The first match in text[from, len_bytes) among tokens with this is_normalized (the longest of those that begin first), white
 * space that a token strips included. False: none. skips_special: special ones are passed over.
 */
bool text_added_find(const struct text_added *added, bool is_normalized, bool skips_special, const char *text, size_t len_bytes, size_t from,
                     size_t *ret_begin, size_t *ret_end, int32_t *ret_id);

#endif
