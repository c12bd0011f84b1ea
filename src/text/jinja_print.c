/* str(), repr() and JSON of values, as Python writes them; see jinja_value.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_value.h"

enum { MAX_DEPTH = 64 };

/* The shortest decimal that reads back as the same number, with Python's rules for exponents. */
static int print_real(double value, bool is_json, struct buf *out) {
    char text[40];
    if (isnan(value))
        return buf_append_str(out, is_json ? "NaN" : "nan");
    if (isinf(value))
        return buf_append_str(out, is_json ? (value < 0 ? "-Infinity" : "Infinity") : value < 0 ? "-inf" : "inf");
    int digits = 1;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    snprintf(text, sizeof text, "%.*e", digits - 1, value);
    int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent < -4 || exponent >= 16) { /* 1e+16, 1.5e-07: at least two digits of exponent, as C writes them */
        return buf_append_str(out, text);
    }
    int decimals = digits - 1 - exponent;
    return buf_printf(out, "%.*f", decimals > 1 ? decimals : 1, value);
}

static int repr_string(const struct jinja_string *s, struct buf *out) {
    char quote = memchr(s->bytes, '\'', s->len_bytes) != NULL && memchr(s->bytes, '"', s->len_bytes) == NULL ? '"' : '\'';
    buf_append_char(out, quote);
    for (size_t i = 0; i < s->len_bytes;) {
        uint32_t cp;
        int n = utf8_decode(s->bytes + i, s->len_bytes - i, &cp);
        n = n < 0 ? -n : n;
        if (cp == (uint32_t)quote || cp == '\\')
            buf_printf(out, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            buf_append_str(out, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        else if (cp < 0x20 || (cp >= 0x7f && cp < 0xa1) || cp == 0xad)
            buf_printf(out, "\\x%02x", cp);
        else
            buf_append(out, s->bytes + i, (size_t)n);
        i += (size_t)n;
    }
    return buf_append_char(out, quote);
}

int jinja_repr(const struct jinja_value *value, struct buf *out, int depth) {
    if (depth > MAX_DEPTH)
        return buf_append_str(out, "...");
    switch (value->type) {
    case JINJA_STRING: return repr_string(&value->string, out);
    case JINJA_UNDEFINED: return buf_append_str(out, "Undefined");
    case JINJA_NONE: return buf_append_str(out, "None");
    case JINJA_BOOL: return buf_append_str(out, value->boolean ? "True" : "False");
    case JINJA_INT: return buf_printf(out, "%lld", (long long)value->integer);
    case JINJA_FLOAT: return print_real(value->real, false, out);
    case JINJA_LIST:
        buf_append_char(out, value->is_tuple ? '(' : '[');
        for (int i = 0; i < value->list->n; i++) {
            buf_append_str(out, i > 0 ? ", " : "");
            jinja_repr(&value->list->items[i], out, depth + 1);
        }
        return buf_append_str(out, value->is_tuple ? (value->list->n == 1 ? ",)" : ")") : "]");
    case JINJA_DICT:
        buf_append_char(out, '{');
        for (int i = 0; i < value->dict->n; i++) {
            buf_append_str(out, i > 0 ? ", " : "");
            jinja_repr(&value->dict->keys[i], out, depth + 1);
            buf_append_str(out, ": ");
            jinja_repr(&value->dict->values[i], out, depth + 1);
        }
        return buf_append_char(out, '}');
    default: return buf_printf(out, "<%s>", jinja_type_name(value));
    }
}

int jinja_print(const struct jinja_value *value, struct buf *out) {
    if (value->type == JINJA_STRING)
        return buf_append(out, value->string.bytes, value->string.len_bytes);
    return value->type == JINJA_UNDEFINED ? buf_append(out, "", 0) : jinja_repr(value, out, 0);
}

static int json_string_text(const struct jinja_string *s, bool escapes_non_ascii, struct buf *out) {
    static const char short_escapes[] = "btnvfr"; /* \b = 8 … \r = 13 */
    buf_append_char(out, '"');
    for (size_t i = 0; i < s->len_bytes;) {
        uint32_t cp;
        int n = utf8_decode(s->bytes + i, s->len_bytes - i, &cp);
        n = n < 0 ? -n : n;
        if (cp == '"' || cp == '\\')
            buf_printf(out, "\\%c", (char)cp);
        else if (cp >= 8 && cp <= 13 && cp != 11)
            buf_printf(out, "\\%c", short_escapes[cp - 8]);
        else if (cp < 0x20 || (escapes_non_ascii && cp > 0x7e && cp < 0x10000))
            buf_printf(out, "\\u%04x", cp);
        else if (escapes_non_ascii && cp >= 0x10000)
            buf_printf(out, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
        else
            buf_append(out, s->bytes + i, (size_t)n);
        i += (size_t)n;
    }
    return buf_append_char(out, '"');
}

static void new_line(const struct jinja_json_style *style, int depth, struct buf *out) {
    if (style->indent < 0)
        return;
    buf_append_char(out, '\n');
    for (int i = 0; i < style->indent * depth && !out->failed; i++)
        buf_append_char(out, ' ');
}

static int by_key(const void *a, const void *b) {
    bool ok;
    return jinja_compare(*(const struct jinja_value *const *)a, *(const struct jinja_value *const *)b, &ok);
}

static int dict_to_json(const struct jinja_dict *dict, const struct jinja_json_style *style, int depth, struct buf *out, struct err *err) {
    const struct jinja_value **keys = malloc((size_t)(dict->n + 1) * sizeof *keys);
    int result = keys == NULL ? err_set(err, ERR_NOMEM, "no memory for JSON") : 0;
    for (int i = 0; keys != NULL && i < dict->n; i++)
        keys[i] = &dict->keys[i];
    if (keys != NULL && style->sorts_keys)
        qsort(keys, (size_t)dict->n, sizeof *keys, by_key);
    buf_append_char(out, '{');
    for (int i = 0; i < dict->n && result == 0; i++) {
        if (i > 0)
            buf_append(out, style->item_separator.bytes, style->item_separator.len_bytes);
        new_line(style, depth + 1, out);
        if (keys[i]->type == JINJA_STRING) {
            json_string_text(&keys[i]->string, style->escapes_non_ascii, out);
        } else { /* numbers, booleans and None become text */
            buf_append_char(out, '"');
            result = jinja_to_json(keys[i], style, depth + 1, out, err);
            buf_append_char(out, '"');
        }
        buf_append(out, style->key_separator.bytes, style->key_separator.len_bytes);
        if (result == 0)
            result = jinja_to_json(jinja_dict_get(dict, *keys[i]), style, depth + 1, out, err);
    }
    if (dict->n > 0)
        new_line(style, depth, out);
    free(keys);
    buf_append_char(out, '}');
    return result;
}

int jinja_to_json(const struct jinja_value *value, const struct jinja_json_style *style, int depth, struct buf *out, struct err *err) {
    if (depth > MAX_DEPTH)
        return err_set(err, ERR_LIMIT, "JSON nested deeper than %d", MAX_DEPTH);
    switch (value->type) {
    case JINJA_NONE: return buf_append_str(out, "null");
    case JINJA_BOOL: return buf_append_str(out, value->boolean ? "true" : "false");
    case JINJA_INT: return buf_printf(out, "%lld", (long long)value->integer);
    case JINJA_FLOAT: return print_real(value->real, true, out);
    case JINJA_STRING: return json_string_text(&value->string, style->escapes_non_ascii, out);
    case JINJA_DICT: return dict_to_json(value->dict, style, depth, out, err);
    case JINJA_LIST:
        buf_append_char(out, '[');
        for (int i = 0; i < value->list->n; i++) {
            if (i > 0)
                buf_append(out, style->item_separator.bytes, style->item_separator.len_bytes);
            new_line(style, depth + 1, out);
            if (jinja_to_json(&value->list->items[i], style, depth + 1, out, err) != 0)
                return -1;
        }
        if (value->list->n > 0)
            new_line(style, depth, out);
        return buf_append_char(out, ']');
    default: return err_set(err, ERR_INVALID, "Object of type %s is not JSON serializable", jinja_type_name(value));
    }
}
