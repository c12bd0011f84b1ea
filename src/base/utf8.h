/* UTF-8, as in RFC 3629 and the Unicode standard's table 3-7. Any thread. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/*
 * Decodes the code point at `bytes` (len_bytes > 0). Returns the bytes it takes (1 to 4), or, for an ill-formed
 * one, the negated length of its maximal subpart (-1 to -3), which stands for one U+FFFD as in the Unicode
 * standard, section 3.9 (and in Python's errors="replace"). *ret_cp is U+FFFD then.
 */
int utf8_decode(const char *bytes, size_t len_bytes, uint32_t *ret_cp);
/* Writes 1 to 4 bytes for a code point up to U+10FFFF, returns how many. */
int utf8_encode(uint32_t cp, char ret_bytes[4]);
bool utf8_valid(const char *bytes, size_t len_bytes);
/* Bytes at the end that begin a code point that is not complete yet (0 to 3). */
size_t utf8_incomplete_tail(const char *bytes, size_t len_bytes);
/* Appends the text with each ill-formed subpart replaced by U+FFFD. Returns 0, or -1 when `out` failed. */
int utf8_append_repaired(struct buf *out, const char *bytes, size_t len_bytes);

#endif
