/*
 * Reads typed fields from a request's body the way vLLM's schema does (numbers may come as strings, integers as
 * whole floats, true/false as 0 and 1), and collects every field of a wrong type into one error with vLLM's wording.
 * One request, one thread.
 */
#ifndef API_FIELDS_H
#define API_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/answer.h"
#include "base/buf.h"

struct api_fields {
    const json_t *body; /* an object */
    int n_errors;
    struct buf errors; /* one "\n  {…}" each */
    char first_loc[128];
};

void api_fields_init(struct api_fields *fields, const json_t *body);
void api_fields_finish(struct api_fields *fields);
/* 0 when no field was wrong; else -1 and the 400 that lists them. */
int api_fields_check(const struct api_fields *fields, struct api_error *error);

/* Absent or null: *ret stays as it is. Returns true when a value was there and right. */
bool api_field_int(struct api_fields *fields, const char *key, int64_t *ret);
bool api_field_double(struct api_fields *fields, const char *key, double *ret);
bool api_field_bool(struct api_fields *fields, const char *key, bool *ret);
/* Borrowed from the body. */
bool api_field_str(struct api_fields *fields, const char *key, const char **ret);
const json_t *api_field_object(struct api_fields *fields, const char *key);
const json_t *api_field_list(struct api_fields *fields, const char *key);

/*
 * Adds an error: type "int_type", loc below "body." (NULL: the body itself), the value, and the text of "ctx" or
 * NULL.
 */
void api_field_error(struct api_fields *fields, const char *type, const char *loc, const char *msg, const json_t *value, const char *ctx);
/* Reads one value as an integer, reporting at loc. */
bool api_value_int(struct api_fields *fields, const char *loc, const json_t *value, int64_t *ret);

/* Appends the value as Python's repr(str(value)) or '<dict of 2 items>', as in vLLM's messages. */
void api_repr(struct buf *out, const json_t *value);
/* A double as Python prints it: "1.5", "2.0", "1e-05". */
const char *api_repr_double(double value, char ret_text[32]);

#endif
