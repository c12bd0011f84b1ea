/*
 * What a code point is to Hugging Face's `tokenizers`: classes from a generated table (unicode_table.c), and NFC. Its parts
 * follow different versions of Unicode, so the table was asked of the library itself. Any thread.
 */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum text_unicode_class {
    TEXT_LETTER = 1 << 0, /* \p{L} */
    TEXT_NUMBER = 1 << 1, /* \p{N} */
    TEXT_SPACE = 1 << 2,  /* \s */
    TEXT_MARK = 1 << 3,   /* \p{M} */
    TEXT_DIGIT = 1 << 4,  /* cut out by the Digits pre-tokenizer */
    TEXT_WORD = 1 << 5,   /* next to it a token with single_word is not taken */
    TEXT_NFC = 1 << 6,    /* NFC may change it, move it or join it to what stands before */
    TEXT_INERT = 1 << 7   /* newer Unicode does that, the library does not */
};

struct text_unicode_range {
    uint32_t first, last;
    uint8_t classes;
};
extern const struct text_unicode_range text_unicode_ranges[];
extern const int text_unicode_n_ranges;

/* Classes of a code point; the first call of a process fills a table. */
uint8_t text_unicode_classes(uint32_t cp);
/* Appends the NFC form of valid UTF-8. 0, or -1 when memory or the buffer's limit ran out. */
int text_unicode_nfc(const char *text, size_t len_bytes, struct buf *out);

#endif
