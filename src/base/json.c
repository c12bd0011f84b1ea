/* Helpers over jansson; see json.h. */
#include "base/json.h"

#include <stdlib.h>

#include "base/buf.h"
#include "base/file.h"

json_t *json_parse(const char *text, size_t len_bytes, struct err *err) {
    json_error_t where;
    json_t *value = json_loadb(text, len_bytes, JSON_ALLOW_NUL | JSON_DECODE_ANY, &where);
    if (value == NULL)
        err_set(err, ERR_INVALID, "not valid JSON: line %d column %d: %s", where.line, where.column, where.text);
    return value;
}

json_t *json_parse_file(const char *path, size_t limit_bytes, struct err *err) {
    struct buf buf;
    buf_init(&buf, limit_bytes);
    json_t *value = NULL;
    if (file_read(path, &buf, err) == 0) {
        value = json_parse(buf_str(&buf), buf.len_bytes, err);
        if (value == NULL)
            err_wrap(err, "%s", path);
    }
    buf_finish(&buf);
    return value;
}

char *json_text(const json_t *value) { return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY); }

const char *json_type_name(const json_t *value) {
    if (value == NULL)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "object";
    case JSON_ARRAY: return "list";
    case JSON_STRING: return "string";
    case JSON_INTEGER: return "integer";
    case JSON_REAL: return "number";
    case JSON_TRUE:
    case JSON_FALSE: return "true/false";
    case JSON_NULL: return "null";
    }
    return "unknown";
}

static int wrong_type(const char *key, const char *wanted, const json_t *got, struct err *err) {
    return err_set(err, ERR_INVALID, "'%s' should be %s, but is of type %s", key, wanted, json_type_name(got));
}

int json_get_int(const json_t *object, const char *key, int64_t fallback, int64_t min, int64_t max, int64_t *ret_value, struct err *err) {
    const json_t *value = json_object_get(object, key);
    int64_t found = fallback;
    if (value != NULL && !json_is_null(value)) {
        if (!json_is_integer(value))
            return wrong_type(key, "an integer", value, err);
        found = json_integer_value(value);
        if (found < min || found > max)
            return err_set(err, ERR_INVALID, "'%s' is %lld; %lld to %lld are possible", key, (long long)found, (long long)min, (long long)max);
    }
    *ret_value = found;
    return 0;
}

int json_get_double(const json_t *object, const char *key, double fallback, double *ret_value, struct err *err) {
    const json_t *value = json_object_get(object, key);
    if (value != NULL && !json_is_null(value) && !json_is_number(value))
        return wrong_type(key, "a number", value, err);
    *ret_value = value == NULL || json_is_null(value) ? fallback : json_number_value(value);
    return 0;
}

int json_get_bool(const json_t *object, const char *key, bool fallback, bool *ret_value, struct err *err) {
    const json_t *value = json_object_get(object, key);
    if (value != NULL && !json_is_null(value) && !json_is_boolean(value))
        return wrong_type(key, "true or false", value, err);
    *ret_value = value == NULL || json_is_null(value) ? fallback : json_is_true(value);
    return 0;
}

int json_get_str(const json_t *object, const char *key, const char *fallback, const char **ret_value, struct err *err) {
    const json_t *value = json_object_get(object, key);
    if (value != NULL && !json_is_null(value) && !json_is_string(value))
        return wrong_type(key, "a string", value, err);
    *ret_value = value == NULL || json_is_null(value) ? fallback : json_string_value(value);
    return 0;
}
