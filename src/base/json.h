/*
 * Small helpers over jansson: bounded parsing with errors that say where, and typed look-ups with defaults.
 * Look-ups name the key and the found type when the type is wrong. Any thread, as long as a value stays with one.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* New reference, or NULL with err ("line 3 column 7: …"). NUL characters in strings are accepted. */
json_t *json_parse(const char *text, size_t len_bytes, struct err *err);
/* Reads a whole file of at most limit_bytes. */
json_t *json_parse_file(const char *path, size_t limit_bytes, struct err *err);
/* Compact text in key order of insertion, UTF-8 not escaped; free() it. NULL when memory is out. */
char *json_text(const json_t *value);

/* "null", "true/false", "integer", "number", "string", "list", "object" */
const char *json_type_name(const json_t *value);

/* Absent or null gives the default and 0; a wrong type or a value out of [min, max] is ERR_INVALID. */
int json_get_int(const json_t *object, const char *key, int64_t fallback, int64_t min, int64_t max, int64_t *ret_value, struct err *err);
int json_get_double(const json_t *object, const char *key, double fallback, double *ret_value, struct err *err);
int json_get_bool(const json_t *object, const char *key, bool fallback, bool *ret_value, struct err *err);
/* *ret_value is borrowed from the object (or is the fallback, which may be NULL). */
int json_get_str(const json_t *object, const char *key, const char *fallback, const char **ret_value, struct err *err);

#endif
