/*
 * GGUF metadata (format: ggml/docs/gguf.md, versions 2 and 3, little-endian): typed look-ups by key.
 * Immutable after opening. Strings are not NUL-terminated in the file; those handed out here are.
 */
#ifndef WEIGHTS_GGUF_H
#define WEIGHTS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct weights_gguf;

/* 0 and *ret_value, or -1 without err when the key is absent or of another kind (integers convert among each other). */
int weights_gguf_get_int(const struct weights_gguf *gguf, const char *key, int64_t *ret_value);
int weights_gguf_get_double(const struct weights_gguf *gguf, const char *key, double *ret_value);
int weights_gguf_get_bool(const struct weights_gguf *gguf, const char *key, bool *ret_value);
/* NULL when absent or not a string. */
const char *weights_gguf_get_str(const struct weights_gguf *gguf, const char *key);
/* Number of elements of an array, -1 when absent or not an array. */
int64_t weights_gguf_array_len(const struct weights_gguf *gguf, const char *key);
/* Element of an array of strings (*ret_len_bytes may be NULL), NULL when out of range or not strings. */
const char *weights_gguf_array_str(const struct weights_gguf *gguf, const char *key, int64_t index, size_t *ret_len_bytes);
/* Element of an array of integers; -1 as above. */
int weights_gguf_array_int(const struct weights_gguf *gguf, const char *key, int64_t index, int64_t *ret_value);

#endif
