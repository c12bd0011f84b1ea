/* Typed fields of a request; see fields.h. */
#include "api/fields.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"

enum { ERRORS_LIMIT_BYTES = 3 * 1024, MAX_REPR_BYTES = 200 };

void api_fields_init(struct api_fields *fields, const json_t *body) {
    *fields = (struct api_fields){.body = body};
    buf_init(&fields->errors, ERRORS_LIMIT_BYTES);
}

void api_fields_finish(struct api_fields *fields) { buf_finish(&fields->errors); }

int api_fields_check(const struct api_fields *fields, struct api_error *error) {
    if (fields->n_errors == 0)
        return 0;
    return api_fail(error, 400, "Bad Request", fields->first_loc, "%d validation error%s:%s", fields->n_errors,
                    fields->n_errors == 1 ? "" : "s", buf_str(&fields->errors));
}

const char *api_repr_double(double value, char ret_text[32]) {
    if (!isfinite(value))
        return strcpy(ret_text, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    int digits = 1;
    do
        snprintf(ret_text, 32, "%.*e", digits - 1, value);
    while (strtod(ret_text, NULL) != value && ++digits <= 17);
    int exponent = atoi(strchr(ret_text, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = digits - 1 - exponent;
        snprintf(ret_text, 32, "%.*f", decimals < 1 ? 1 : decimals, value);
    }
    return ret_text;
}

/* Python's choice of quotes and escapes, for text of at most MAX_REPR_BYTES (longer text is cut). */
static void repr_str(struct buf *out, const char *text, size_t len_bytes) {
    char quote = memchr(text, '\'', len_bytes) != NULL && memchr(text, '"', len_bytes) == NULL ? '"' : '\'';
    bool is_cut = len_bytes > MAX_REPR_BYTES;
    if (is_cut) {
        len_bytes = MAX_REPR_BYTES;
        len_bytes -= utf8_incomplete_tail(text, len_bytes);
    }
    buf_append_char(out, quote);
    for (size_t i = 0; i < len_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n')
            buf_append_str(out, "\\n");
        else if (c == '\r')
            buf_append_str(out, "\\r");
        else if (c == '\t')
            buf_append_str(out, "\\t");
        else if (c == '\\' || c == (unsigned char)quote)
            buf_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            buf_printf(out, "\\x%02x", c);
        else
            buf_append_char(out, (char)c);
    }
    if (is_cut)
        buf_append_str(out, "...");
    buf_append_char(out, quote);
}

void api_repr(struct buf *out, const json_t *value) {
    char number[32];
    switch (json_typeof(value)) {
    case JSON_OBJECT: buf_printf(out, "'<dict of %zu items>'", json_object_size(value)); break;
    case JSON_ARRAY: buf_printf(out, "'<list of %zu items>'", json_array_size(value)); break;
    case JSON_STRING: repr_str(out, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER: buf_printf(out, "'%" JSON_INTEGER_FORMAT "'", json_integer_value(value)); break;
    case JSON_REAL: buf_printf(out, "'%s'", api_repr_double(json_real_value(value), number)); break;
    case JSON_TRUE: buf_append_str(out, "'True'"); break;
    case JSON_FALSE: buf_append_str(out, "'False'"); break;
    case JSON_NULL: buf_append_str(out, "'None'"); break;
    }
}

void api_field_error(struct api_fields *fields, const char *type, const char *loc, const char *msg, const json_t *value, const char *ctx) {
    char where[128];
    snprintf(where, sizeof where, loc == NULL ? "body" : "body.%s", loc);
    if (fields->n_errors++ == 0)
        strcpy(fields->first_loc, where);
    char quote = strchr(msg, '\'') != NULL ? '"' : '\'';
    struct buf one; /* kept apart, so that one error is there whole or not at all */
    buf_init(&one, ERRORS_LIMIT_BYTES);
    buf_printf(&one, "\n  {'type': '%s', 'loc': '%s', 'msg': %c%s%c, 'input': ", type, where, quote, msg, quote);
    api_repr(&one, value);
    if (ctx != NULL)
        buf_printf(&one, ", 'ctx': %s", ctx);
    buf_append_char(&one, '}');
    if (!one.failed && fields->errors.len_bytes + one.len_bytes <= ERRORS_LIMIT_BYTES)
        buf_append(&fields->errors, one.data, one.len_bytes);
    buf_finish(&one);
}

static const json_t *present(const struct api_fields *fields, const char *key) {
    const json_t *value = json_object_get(fields->body, key);
    return json_is_null(value) ? NULL : value;
}

static bool parse_double(const json_t *value, double *ret) {
    const char *text = json_string_value(value);
    char *end;
    if (text == NULL || text[0] == '\0' || strlen(text) != json_string_length(value))
        return false;
    *ret = strtod(text, &end);
    return *end == '\0';
}

static bool parse_int(const json_t *value, int64_t *ret) {
    const char *text = json_string_value(value);
    char *end;
    if (text[0] == '\0' || strlen(text) != json_string_length(value))
        return false;
    errno = 0;
    *ret = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0;
}

bool api_value_int(struct api_fields *fields, const char *loc, const json_t *value, int64_t *ret) {
    int64_t found = 0;
    switch (json_typeof(value)) {
    case JSON_INTEGER: *ret = json_integer_value(value); return true;
    case JSON_TRUE:
    case JSON_FALSE: *ret = json_is_true(value); return true;
    case JSON_REAL:
        if (json_real_value(value) != floor(json_real_value(value)) || fabs(json_real_value(value)) > 9e18) {
            api_field_error(fields, "int_from_float", loc, "Input should be a valid integer, got a number with a fractional part", value,
                            NULL);
            return false;
        }
        *ret = (int64_t)json_real_value(value);
        return true;
    case JSON_STRING:
        if (!parse_int(value, &found)) {
            api_field_error(fields, "int_parsing", loc, "Input should be a valid integer, unable to parse string as an integer", value,
                            NULL);
            return false;
        }
        *ret = found;
        return true;
    default: api_field_error(fields, "int_type", loc, "Input should be a valid integer", value, NULL); return false;
    }
}

bool api_field_int(struct api_fields *fields, const char *key, int64_t *ret) {
    const json_t *value = present(fields, key);
    return value != NULL && api_value_int(fields, key, value, ret);
}

bool api_field_double(struct api_fields *fields, const char *key, double *ret) {
    const json_t *value = present(fields, key);
    double found = 0;
    if (value == NULL)
        return false;
    if (json_is_number(value)) {
        found = json_number_value(value);
    } else if (json_is_boolean(value)) {
        found = json_is_true(value);
    } else if (json_is_string(value)) {
        if (!parse_double(value, &found)) {
            api_field_error(fields, "float_parsing", key, "Input should be a valid number, unable to parse string as a number", value,
                            NULL);
            return false;
        }
    } else {
        api_field_error(fields, "float_type", key, "Input should be a valid number", value, NULL);
        return false;
    }
    *ret = found;
    return true;
}

bool api_field_bool(struct api_fields *fields, const char *key, bool *ret) {
    static const char *const yes[] = {"1", "true", "t", "yes", "y", "on"}, *const no[] = {"0", "false", "f", "no", "n", "off"};
    const json_t *value = present(fields, key);
    if (value == NULL)
        return false;
    if (json_is_boolean(value)) {
        *ret = json_is_true(value);
        return true;
    }
    if (json_is_number(value) && (json_number_value(value) == 0 || json_number_value(value) == 1)) {
        *ret = json_number_value(value) == 1;
        return true;
    }
    for (size_t i = 0; json_is_string(value) && i < sizeof yes / sizeof yes[0]; i++) {
        bool is_yes = strcasecmp(json_string_value(value), yes[i]) == 0;
        if (is_yes || strcasecmp(json_string_value(value), no[i]) == 0) {
            *ret = is_yes;
            return true;
        }
    }
    if (json_is_object(value) || json_is_array(value))
        api_field_error(fields, "bool_type", key, "Input should be a valid boolean", value, NULL);
    else
        api_field_error(fields, "bool_parsing", key, "Input should be a valid boolean, unable to interpret input", value, NULL);
    return false;
}

bool api_field_str(struct api_fields *fields, const char *key, const char **ret) {
    const json_t *value = present(fields, key);
    if (value == NULL)
        return false;
    if (!json_is_string(value)) {
        api_field_error(fields, "string_type", key, "Input should be a valid string", value, NULL);
        return false;
    }
    *ret = json_string_value(value);
    return true;
}

const json_t *api_field_object(struct api_fields *fields, const char *key) {
    const json_t *value = present(fields, key);
    if (value != NULL && !json_is_object(value)) {
        api_field_error(fields, "dict_type", key, "Input should be a valid dictionary", value, NULL);
        return NULL;
    }
    return value;
}

const json_t *api_field_list(struct api_fields *fields, const char *key) {
    const json_t *value = present(fields, key);
    if (value != NULL && !json_is_array(value)) {
        api_field_error(fields, "list_type", key, "Input should be a valid list", value, NULL);
        return NULL;
    }
    return value;
}
