/* Added tokens; see added.h. */
#include "text/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/unicode.h"

int text_added_add(struct text_added *added, const struct text_added_token *token, struct err *err) {
    if (token->len_bytes == 0)
        return 0;
    if (added->n == TEXT_MAX_ADDED)
        return err_set(err, ERR_LIMIT, "more than %d added tokens", TEXT_MAX_ADDED);
    if (added->n == added->cap) {
        int cap = added->cap == 0 ? 64 : 2 * added->cap;
        struct text_added_token *grown = realloc(added->tokens, (size_t)cap * sizeof *grown);
        if (grown == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %d added tokens", cap);
        added->tokens = grown;
        added->cap = cap;
    }
    char *text = malloc(token->len_bytes + 1);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for an added token");
    memcpy(text, token->text, token->len_bytes);
    text[token->len_bytes] = '\0';
    added->tokens[added->n] = *token;
    added->tokens[added->n++].text = text;
    return 0;
}

static int by_text(const void *a, const void *b) {
    const struct text_added_token *x = a, *y = b;
    uint8_t first_x = (uint8_t)x->text[0], first_y = (uint8_t)y->text[0];
    if (first_x != first_y)
        return first_x < first_y ? -1 : 1;
    return x->len_bytes != y->len_bytes ? (x->len_bytes > y->len_bytes ? -1 : 1) : memcmp(x->text, y->text, x->len_bytes);
}

void text_added_sort(struct text_added *added) {
    if (added->n > 0)
        qsort(added->tokens, (size_t)added->n, sizeof *added->tokens, by_text);
    for (int byte = 0, i = 0; byte <= 256; byte++) {
        while (i < added->n && (uint8_t)added->tokens[i].text[0] < byte)
            i++;
        added->first[byte] = i;
    }
}

void text_added_finish(struct text_added *added) {
    for (int i = 0; i < added->n; i++)
        free(added->tokens[i].text);
    free(added->tokens);
    added->tokens = NULL;
    added->n = 0;
}

static uint8_t classes_at(const char *text, size_t len_bytes, size_t at, size_t *ret_len) {
    uint32_t cp;
    int n = utf8_decode(text + at, len_bytes - at, &cp);
    *ret_len = (size_t)(n < 0 ? -n : n);
    return text_unicode_classes(cp);
}

/* Begin of the code point that ends at `end`. */
static size_t before(const char *text, size_t end) {
    do
        end--;
    while (end > 0 && ((uint8_t)text[end] & 0xc0) == 0x80);
    return end;
}

static bool stands_alone(const char *text, size_t len_bytes, size_t begin, size_t end) {
    size_t n;
    return (begin == 0 || (classes_at(text, len_bytes, before(text, begin), &n) & TEXT_WORD) == 0) &&
           (end == len_bytes || (classes_at(text, len_bytes, end, &n) & TEXT_WORD) == 0);
}

static const struct text_added_token *match_at(const struct text_added *added, bool is_normalized, bool skips_special, const char *text,
                                               size_t len_bytes, size_t at) {
    uint8_t byte = (uint8_t)text[at];
    for (int i = added->first[byte]; i < added->first[byte + 1]; i++) {
        const struct text_added_token *token = &added->tokens[i];
        if (token->is_normalized != is_normalized || token->len_bytes > len_bytes - at || memcmp(token->text, text + at, token->len_bytes) != 0)
            continue;
        return skips_special && token->is_special ? NULL : token;
    }
    return NULL;
}

bool text_added_find(const struct text_added *added, bool is_normalized, bool skips_special, const char *text, size_t len_bytes, size_t from,
                     size_t *ret_begin, size_t *ret_end, int32_t *ret_id) {
    for (size_t at = from; at < len_bytes && added->n > 0; at++) {
        const struct text_added_token *token = match_at(added, is_normalized, skips_special, text, len_bytes, at);
        if (token == NULL)
            continue;
        size_t begin = at, end = at + token->len_bytes, n;
        if (token->is_word && !stands_alone(text, len_bytes, begin, end)) {
            at = end - 1; /* the reference goes on behind a match that it does not take */
            continue;
        }
        while (token->strips_left && begin > from && (classes_at(text, len_bytes, before(text, begin), &n) & TEXT_SPACE) != 0)
            begin = before(text, begin);
        while (token->strips_right && end < len_bytes && (classes_at(text, len_bytes, end, &n) & TEXT_SPACE) != 0)
            end += n;
        *ret_begin = begin;
        *ret_end = end;
        *ret_id = token->id;
        return true;
    }
    return false;
}
