/*
 * What a code point is to a tokenizer. The classes are those of Hugging Face's `tokenizers` (unicode_table.c says
 * how they were found out), not those of the system's Unicode library, which may know another version of Unicode.
 */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum {
    TEXT_UNICODE_LETTER = 1, /* \p{L} */
    TEXT_UNICODE_NUMBER = 2, /* \p{N} */
    TEXT_UNICODE_SPACE = 4,  /* \s */
    TEXT_UNICODE_MARK = 8,   /* \p{M} */
    TEXT_UNICODE_DIGIT = 16, /* what the pre-tokenizer Digits cuts out */
    TEXT_UNICODE_WORD = 32,  /* what may not stand beside an added token with single_word */
    TEXT_UNICODE_NFC = 64,   /* NFC may change it, move it or join it to what stands before */
    TEXT_UNICODE_INERT = 128 /* NFC knows nothing of it, though newer versions of Unicode let it move or join */
};

struct text_unicode_range {
    uint32_t first, last;
    uint8_t classes;
};
extern const struct text_unicode_range text_unicode_ranges[];
extern const int text_unicode_n_ranges;

enum { TEXT_UNICODE_N = 0x110000 };
extern uint8_t text_unicode_classes[TEXT_UNICODE_N]; /* read it only after text_unicode_setup */

/* Fills the table; cheap when it is filled. Any thread. */
void text_unicode_setup(void);

/* Decodes the code point at `text`, which is well-formed UTF-8 and not at its end; *ret_len_bytes: 1 to 4. */
static inline uint32_t text_unicode_decode(const char *text, int *ret_len_bytes) {
    const uint8_t *b = (const uint8_t *)text;
    if (b[0] < 0x80) {
        *ret_len_bytes = 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *ret_len_bytes = 2;
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    }
    if (b[0] < 0xf0) {
        *ret_len_bytes = 3;
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    }
    *ret_len_bytes = 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}

#endif
