/* The filters of Jinja2 that chat templates use, with transformers' tojson; see jinja_eval.h. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_eval.h"

typedef struct jinja_value (*filter_fn)(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args);

/* The value as text: strings as they are, others printed. */
static struct jinja_string text_of(struct jinja_run *run, const struct jinja_value *v) {
    if (v->type == JINJA_STRING)
        return v->string;
    struct buf text = jinja_new_buf(run);
    jinja_print(v, &text);
    return jinja_take_buf(run, &text).string;
}

static const struct jinja_list *items_of(struct jinja_run *run, const struct jinja_value *v) {
    static const struct jinja_list nothing;
    const struct jinja_list *items = &nothing;
    if (!jinja_iterate(&run->arena, v, &items))
        jinja_fail(run, "'%s' object is not iterable", jinja_type_name(v));
    return items;
}

static int64_t int_arg(const struct jinja_args *args, int index, const char *name, int64_t fallback) {
    const struct jinja_value *v = jinja_arg(args, index, name);
    return v == NULL ? fallback : v->type == JINJA_INT ? v->integer : v->type == JINJA_BOOL ? v->boolean : fallback;
}

static bool bool_arg(const struct jinja_args *args, int index, const char *name, bool fallback) {
    const struct jinja_value *v = jinja_arg(args, index, name);
    return v == NULL ? fallback : jinja_truth(v);
}

static struct jinja_value filter_tojson(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_value *indent = jinja_arg(args, 1, "indent"), *separators = jinja_arg(args, 2, "separators");
    /* transformers: tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False); a first argument is ensure_ascii. */
    struct jinja_json_style style = {.indent = -1, .item_separator = {", ", 2}, .key_separator = {": ", 2},
                                     .escapes_non_ascii = bool_arg(args, 0, "ensure_ascii", false), .sorts_keys = bool_arg(args, 3, "sort_keys", false)};
    if (indent != NULL && indent->type == JINJA_INT && indent->integer >= 0 && indent->integer <= 64) {
        style.indent = (int)indent->integer;
        style.item_separator = (struct jinja_string){",", 1};
    }
    if (separators != NULL && separators->type == JINJA_LIST && separators->list->n == 2) {
        style.item_separator = text_of(run, &separators->list->items[0]);
        style.key_separator = text_of(run, &separators->list->items[1]);
    }
    struct buf text = jinja_new_buf(run);
    struct err err;
    if (jinja_to_json(v, &style, 0, &text, &err) != 0 && !text.failed)
        jinja_fail(run, "%s", err.msg);
    return jinja_take_buf(run, &text);
}

static struct jinja_value filter_length(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    int64_t n = jinja_length(v);
    return n < 0 ? jinja_fail(run, "object of type '%s' has no len()", jinja_type_name(v)) : jinja_int(n);
}

/* Methods of str by another name. */
static struct jinja_value by_method(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args, const char *name) {
    struct jinja_string method = {name, strlen(name)}, text = text_of(run, v);
    struct jinja_value self = jinja_string(text.bytes, text.len_bytes);
    return jinja_call_method(run, &self, &method, args);
}

static struct jinja_value filter_trim(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return by_method(run, v, args, "strip"); }
static struct jinja_value filter_upper(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return by_method(run, v, args, "upper"); }
static struct jinja_value filter_lower(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return by_method(run, v, args, "lower"); }
static struct jinja_value filter_title(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return by_method(run, v, args, "title"); }
static struct jinja_value filter_capitalize(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return by_method(run, v, args, "capitalize"); }
static struct jinja_value filter_replace(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return by_method(run, v, args, "replace"); }

static struct jinja_value filter_string(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    struct jinja_string text = text_of(run, v);
    return jinja_string(text.bytes, text.len_bytes);
}

static struct jinja_value filter_safe(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)run;
    (void)args;
    return *v;
}

static struct jinja_value filter_escape(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    struct jinja_string text = text_of(run, v);
    struct buf out = jinja_new_buf(run);
    for (size_t i = 0; i < text.len_bytes; i++) {
        char c = text.bytes[i];
        const char *name = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : NULL;
        if (name != NULL)
            buf_append_str(&out, name);
        else
            buf_append_char(&out, c);
    }
    return jinja_take_buf(run, &out);
}

static struct jinja_value filter_default(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)run;
    const struct jinja_value *fallback = jinja_arg(args, 0, "default_value");
    bool counts_false = bool_arg(args, 1, "boolean", false);
    if (v->type != JINJA_UNDEFINED && (!counts_false || jinja_truth(v)))
        return *v;
    return fallback != NULL ? *fallback : jinja_string("", 0);
}

static struct jinja_value filter_list(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    const struct jinja_list *items = items_of(run, v);
    struct jinja_value list = jinja_new_list(&run->arena);
    for (int i = 0; i < items->n; i++)
        jinja_list_add(&run->arena, list.list, items->items[i]);
    return list;
}

/* "a.b.0" of a value: attributes one after the other, numbers as indices. */
static struct jinja_value path_of(struct jinja_run *run, struct jinja_value v, const struct jinja_value *path) {
    if (path->type == JINJA_INT)
        return jinja_get_item(run, &v, path);
    if (path->type != JINJA_STRING)
        return v;
    for (size_t at = 0; at <= path->string.len_bytes && !run->failed;) {
        const char *part = path->string.bytes + at, *dot = memchr(part, '.', path->string.len_bytes - at);
        size_t n = dot == NULL ? path->string.len_bytes - at : (size_t)(dot - part);
        struct jinja_value key = n > 0 && isdigit((unsigned char)part[0]) ? jinja_int(strtoll(part, NULL, 10)) : jinja_string(part, n);
        v = jinja_get_item(run, &v, &key);
        at += n + 1;
    }
    return v;
}

static struct jinja_value filter_join(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_list *items = items_of(run, v);
    const struct jinja_value *between = jinja_arg(args, 0, "d"), *attribute = jinja_arg(args, 1, "attribute");
    struct buf out = jinja_new_buf(run);
    for (int i = 0; i < items->n; i++) {
        struct jinja_value item = attribute != NULL ? path_of(run, items->items[i], attribute) : items->items[i];
        if (i > 0 && between != NULL)
            jinja_print(between, &out);
        jinja_print(&item, &out);
    }
    return jinja_take_buf(run, &out);
}

static struct jinja_value filter_first(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    const struct jinja_list *items = items_of(run, v);
    return items->n > 0 ? items->items[0] : jinja_undefined("first", 5);
}

static struct jinja_value filter_last(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    const struct jinja_list *items = items_of(run, v);
    return items->n > 0 ? items->items[items->n - 1] : jinja_undefined("last", 4);
}

static struct jinja_value filter_reverse(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    const struct jinja_list *items = items_of(run, v);
    struct jinja_value list = jinja_new_list(&run->arena);
    for (int i = items->n - 1; i >= 0; i--)
        jinja_list_add(&run->arena, list.list, items->items[i]);
    if (v->type != JINJA_STRING)
        return list;
    struct jinja_args none = {0};
    return filter_join(run, &list, &none);
}

static struct jinja_value pair_of(struct jinja_run *run, struct jinja_value key, struct jinja_value value) {
    struct jinja_value pair = jinja_new_list(&run->arena);
    pair.is_tuple = true;
    jinja_list_add(&run->arena, pair.list, key);
    jinja_list_add(&run->arena, pair.list, value);
    return pair;
}

static struct jinja_value filter_items(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    struct jinja_value list = jinja_new_list(&run->arena);
    if (v->type != JINJA_DICT && v->type != JINJA_UNDEFINED)
        return jinja_fail(run, "Can only get item pairs from a mapping.");
    for (int i = 0; v->type == JINJA_DICT && i < v->dict->n; i++)
        jinja_list_add(&run->arena, list.list, pair_of(run, v->dict->keys[i], v->dict->values[i]));
    return list;
}

/* ---- map, select, reject and their kin ---- */

/* The arguments behind the first `skip` ones, for the filter or test that is applied to each item. */
static struct jinja_args rest_of(const struct jinja_args *args, int skip) {
    struct jinja_args rest = *args;
    rest.n_positional = args->n_positional > skip ? args->n_positional - skip : 0;
    memmove(rest.positional, rest.positional + (args->n_positional > skip ? skip : args->n_positional), (size_t)rest.n_positional * sizeof rest.positional[0]);
    return rest;
}

static struct jinja_value filter_map(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_list *items = items_of(run, v);
    const struct jinja_value *attribute = jinja_arg(args, JINJA_MAX_ARGS, "attribute"), *fallback = jinja_arg(args, JINJA_MAX_ARGS, "default");
    struct jinja_value list = jinja_new_list(&run->arena);
    struct jinja_args rest = rest_of(args, 1);
    if (attribute == NULL && (args->n_positional == 0 || args->positional[0].type != JINJA_STRING))
        return jinja_fail(run, "map requires a filter argument");
    for (int i = 0; i < items->n && !run->failed; i++) {
        struct jinja_value item = attribute != NULL ? path_of(run, items->items[i], attribute)
                                                    : jinja_filter(run, &args->positional[0].string, &items->items[i], &rest);
        jinja_list_add(&run->arena, list.list, item.type == JINJA_UNDEFINED && fallback != NULL ? *fallback : item);
    }
    return list;
}

static struct jinja_value choose(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args, bool by_attribute, bool keeps) {
    const struct jinja_list *items = items_of(run, v);
    struct jinja_value list = jinja_new_list(&run->arena);
    int test_at = by_attribute ? 1 : 0;
    struct jinja_args rest = rest_of(args, test_at + 1);
    if (by_attribute && args->n_positional == 0)
        return jinja_fail(run, "an attribute is missing");
    for (int i = 0; i < items->n && !run->failed; i++) {
        struct jinja_value subject = by_attribute ? path_of(run, items->items[i], &args->positional[0]) : items->items[i];
        bool passes = args->n_positional > test_at && args->positional[test_at].type == JINJA_STRING
                          ? jinja_test(run, &args->positional[test_at].string, &subject, &rest)
                          : jinja_truth(&subject);
        if (passes == keeps)
            jinja_list_add(&run->arena, list.list, items->items[i]);
    }
    return list;
}

static struct jinja_value filter_select(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return choose(run, v, args, false, true); }
static struct jinja_value filter_reject(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return choose(run, v, args, false, false); }
static struct jinja_value filter_selectattr(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return choose(run, v, args, true, true); }
static struct jinja_value filter_rejectattr(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return choose(run, v, args, true, false); }

/* ---- Order ---- */

static struct jinja_value folded(struct jinja_run *run, struct jinja_value v, bool counts_case) {
    struct jinja_args none = {0};
    return v.type == JINJA_STRING && !counts_case ? filter_lower(run, &v, &none) : v;
}

/* Stable insertion sort by keys: lists in templates are short, and steps are counted. */
static void sort_by_keys(struct jinja_run *run, struct jinja_value *items, struct jinja_value *keys, int n, bool is_down) {
    for (int i = 1; i < n && !run->failed; i++)
        for (int k = i; k > 0; k--) {
            bool ok;
            int order = jinja_compare(&keys[k - 1], &keys[k], &ok);
            if (!ok)
                jinja_fail(run, "'<' not supported between instances of '%s' and '%s'", jinja_type_name(&keys[k]), jinja_type_name(&keys[k - 1]));
            if (!ok || (is_down ? order >= 0 : order <= 0) || --run->steps_left < 0)
                break;
            struct jinja_value item = items[k], key = keys[k];
            items[k] = items[k - 1];
            keys[k] = keys[k - 1];
            items[k - 1] = item;
            keys[k - 1] = key;
        }
}

static struct jinja_value filter_sort(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    struct jinja_value list = filter_list(run, v, args), keys = jinja_new_list(&run->arena);
    const struct jinja_value *attribute = jinja_arg(args, 2, "attribute");
    bool counts_case = bool_arg(args, 1, "case_sensitive", false);
    for (int i = 0; i < list.list->n && !run->failed; i++)
        jinja_list_add(&run->arena, keys.list, folded(run, attribute != NULL ? path_of(run, list.list->items[i], attribute) : list.list->items[i], counts_case));
    if (!run->arena.failed)
        sort_by_keys(run, list.list->items, keys.list->items, list.list->n, bool_arg(args, 0, "reverse", false));
    return list;
}

static struct jinja_value filter_dictsort(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    struct jinja_value list = filter_items(run, v, args), keys = jinja_new_list(&run->arena);
    const struct jinja_value *by = jinja_arg(args, 1, "by");
    bool counts_case = bool_arg(args, 0, "case_sensitive", false), by_value = by != NULL && jinja_is(by, "value");
    for (int i = 0; list.type == JINJA_LIST && i < list.list->n && !run->arena.failed; i++)
        jinja_list_add(&run->arena, keys.list, folded(run, list.list->items[i].list->items[by_value], counts_case));
    if (list.type == JINJA_LIST && !run->arena.failed)
        sort_by_keys(run, list.list->items, keys.list->items, list.list->n, bool_arg(args, 2, "reverse", false));
    return list;
}

static struct jinja_value filter_unique(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_list *items = items_of(run, v);
    struct jinja_value list = jinja_new_list(&run->arena), seen = jinja_new_list(&run->arena);
    bool counts_case = bool_arg(args, 0, "case_sensitive", false);
    const struct jinja_value *attribute = jinja_arg(args, 1, "attribute");
    for (int i = 0; i < items->n && !run->failed && !run->arena.failed; i++) {
        struct jinja_value key = folded(run, attribute != NULL ? path_of(run, items->items[i], attribute) : items->items[i], counts_case);
        if (jinja_contains(run, &seen, &key))
            continue;
        jinja_list_add(&run->arena, seen.list, key);
        jinja_list_add(&run->arena, list.list, items->items[i]);
    }
    return list;
}

static struct jinja_value extreme(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args, int sign) {
    const struct jinja_list *items = items_of(run, v);
    const struct jinja_value *best = NULL, *attribute = jinja_arg(args, 1, "attribute");
    struct jinja_value best_key = jinja_none();
    for (int i = 0; i < items->n && !run->failed; i++) {
        bool ok = true;
        struct jinja_value key = folded(run, attribute != NULL ? path_of(run, items->items[i], attribute) : items->items[i], bool_arg(args, 0, "case_sensitive", false));
        if (best != NULL && sign * jinja_compare(&key, &best_key, &ok) <= 0 && ok)
            continue;
        if (!ok)
            return jinja_fail(run, "'<' not supported between instances of '%s' and '%s'", jinja_type_name(&key), jinja_type_name(&best_key));
        best = &items->items[i];
        best_key = key;
    }
    return best != NULL ? *best : jinja_undefined("min", 3);
}

static struct jinja_value filter_min(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return extreme(run, v, args, -1); }
static struct jinja_value filter_max(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) { return extreme(run, v, args, 1); }

static struct jinja_value filter_batch(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_list *items = items_of(run, v);
    const struct jinja_value *fill = jinja_arg(args, 1, "fill_with");
    int64_t size = int_arg(args, 0, "linecount", 0);
    struct jinja_value batches = jinja_new_list(&run->arena);
    if (size < 1)
        return jinja_fail(run, "batch needs a size of at least 1");
    for (int i = 0; i < items->n; i += (int)(size < items->n ? size : items->n)) {
        struct jinja_value batch = jinja_new_list(&run->arena);
        for (int64_t k = 0; k < size && !run->arena.failed; k++)
            if (i + k < items->n)
                jinja_list_add(&run->arena, batch.list, items->items[i + k]);
            else if (fill != NULL)
                jinja_list_add(&run->arena, batch.list, *fill);
            else
                break;
        jinja_list_add(&run->arena, batches.list, batch);
    }
    return batches;
}

/* ---- Numbers ---- */

static struct jinja_value filter_int(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_value *fallback = jinja_arg(args, 0, "default");
    char text[64], *end;
    (void)run;
    if (v->type == JINJA_INT)
        return *v;
    if (v->type == JINJA_BOOL)
        return jinja_int(v->boolean);
    if (v->type == JINJA_FLOAT && fabs(v->real) < 9e18)
        return jinja_int((int64_t)v->real);
    if (v->type == JINJA_STRING && v->string.len_bytes > 0 && v->string.len_bytes < sizeof text) {
        memcpy(text, v->string.bytes, v->string.len_bytes);
        text[v->string.len_bytes] = '\0';
        long long whole = strtoll(text, &end, (int)int_arg(args, 1, "base", 10));
        while (isspace((unsigned char)*end))
            end++;
        if (*end == '\0' && end != text)
            return jinja_int(whole);
        double real = strtod(text, &end);
        if (*end == '\0' && end != text && fabs(real) < 9e18)
            return jinja_int((int64_t)real);
    }
    return fallback != NULL ? *fallback : jinja_int(0);
}

static struct jinja_value filter_float(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_value *fallback = jinja_arg(args, 0, "default");
    char text[64], *end;
    (void)run;
    if (jinja_is_number(v))
        return jinja_real(jinja_number(v));
    if (v->type == JINJA_STRING && v->string.len_bytes > 0 && v->string.len_bytes < sizeof text) {
        memcpy(text, v->string.bytes, v->string.len_bytes);
        text[v->string.len_bytes] = '\0';
        double real = strtod(text, &end);
        if (*end == '\0')
            return jinja_real(real);
    }
    return fallback != NULL ? *fallback : jinja_real(0);
}

static struct jinja_value filter_round(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_value *method = jinja_arg(args, 1, "method");
    int64_t precision = int_arg(args, 0, "precision", 0);
    if (!jinja_is_number(v))
        return jinja_fail(run, "type %s doesn't define __round__ method", jinja_type_name(v));
    double factor = pow(10, (double)precision), scaled = jinja_number(v) * factor;
    bool is_ceil = method != NULL && jinja_is(method, "ceil"), is_floor = method != NULL && jinja_is(method, "floor");
    return jinja_real((is_ceil ? ceil(scaled) : is_floor ? floor(scaled) : nearbyint(scaled)) / factor);
}

static struct jinja_value filter_abs(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    (void)args;
    if (!jinja_is_number(v))
        return jinja_fail(run, "bad operand type for abs(): '%s'", jinja_type_name(v));
    if (v->type == JINJA_FLOAT)
        return jinja_real(fabs(v->real));
    int64_t whole = v->type == JINJA_BOOL ? v->boolean : v->integer;
    return jinja_int(whole < 0 && whole != INT64_MIN ? -whole : whole);
}

static struct jinja_value filter_sum(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_list *items = items_of(run, v);
    const struct jinja_value *attribute = jinja_arg(args, 0, "attribute"), *start = jinja_arg(args, 1, "start");
    struct jinja_value sum = start != NULL ? *start : jinja_int(0);
    struct jinja_string plus = {"+", 1};
    for (int i = 0; i < items->n && !run->failed; i++) {
        struct jinja_value item = attribute != NULL ? path_of(run, items->items[i], attribute) : items->items[i];
        sum = jinja_binary(run, &plus, &sum, &item);
    }
    return sum;
}

/* ---- Text ---- */

static struct jinja_value filter_indent(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    struct jinja_string text = text_of(run, v);
    const struct jinja_value *width = jinja_arg(args, 0, "width");
    bool indents_first = bool_arg(args, 1, "first", false), indents_blank = bool_arg(args, 2, "blank", false);
    struct buf out = jinja_new_buf(run), pad = jinja_new_buf(run);
    if (width != NULL && width->type == JINJA_STRING)
        buf_append(&pad, width->string.bytes, width->string.len_bytes);
    for (int64_t i = 0; (width == NULL || width->type == JINJA_INT) && i < int_arg(args, 0, "width", 4) && !pad.failed; i++)
        buf_append_char(&pad, ' ');
    for (size_t at = 0; at <= text.len_bytes;) {
        const char *line = text.bytes + at, *end = memchr(line, '\n', text.len_bytes - at);
        size_t n = end == NULL ? text.len_bytes - at : (size_t)(end - line);
        if (at > 0 ? (n > 0 || indents_blank) : indents_first)
            buf_append(&out, buf_str(&pad), pad.len_bytes);
        buf_append(&out, line, n);
        if (end != NULL)
            buf_append_char(&out, '\n');
        at += n + 1;
    }
    buf_finish(&pad);
    return jinja_take_buf(run, &out);
}

/* printf-style: %s, %d, %f with flags, width and precision, %r and %%. */
static struct jinja_value filter_format(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    struct jinja_string text = text_of(run, v);
    struct buf out = jinja_new_buf(run);
    int next = 0;
    for (size_t i = 0; i < text.len_bytes && !run->failed; i++) {
        char spec[32] = "%";
        size_t n = 1;
        if (text.bytes[i] != '%') {
            buf_append_char(&out, text.bytes[i]);
            continue;
        }
        for (i++; i < text.len_bytes && strchr("-+ #0123456789.", text.bytes[i]) != NULL && text.bytes[i] != '\0' && n < 8; i++)
            spec[n++] = text.bytes[i];
        char kind = i < text.len_bytes ? text.bytes[i] : '\0';
        const struct jinja_value *arg = kind == '%' ? NULL : jinja_arg(args, next++, NULL);
        if (kind == '%') {
            buf_append_char(&out, '%');
        } else if (arg == NULL) {
            jinja_fail(run, "not enough arguments for format string");
        } else if (kind == 's' || kind == 'r') {
            struct buf printed = jinja_new_buf(run);
            if (kind == 's')
                jinja_print(arg, &printed);
            else
                jinja_repr(arg, &printed, 0);
            memcpy(spec + n, "s", 2);
            if (n == 1)
                buf_append(&out, buf_str(&printed), printed.len_bytes);
            else
                buf_printf(&out, spec, buf_str(&printed)); /* at most six digits of width */
            buf_finish(&printed);
        } else if ((kind == 'd' || kind == 'i') && jinja_is_number(arg)) {
            memcpy(spec + n, "lld", 4);
            buf_printf(&out, spec, (long long)jinja_number(arg));
        } else if (kind != '\0' && strchr("feEgG", kind) != NULL && jinja_is_number(arg)) {
            spec[n] = kind;
            spec[n + 1] = '\0';
            buf_printf(&out, spec, jinja_number(arg));
        } else {
            jinja_fail(run, "format %%%c does not fit a %s", kind, jinja_type_name(arg));
        }
    }
    return jinja_take_buf(run, &out);
}

static struct jinja_value filter_wordcount(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    struct jinja_args none = {0};
    (void)args;
    struct jinja_value words = by_method(run, v, &none, "split");
    return words.type == JINJA_LIST ? jinja_int(words.list->n) : words;
}

static struct jinja_value filter_attr(struct jinja_run *run, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_value *name = jinja_arg(args, 0, "name");
    return name != NULL && name->type == JINJA_STRING ? jinja_get_attr(run, v, name->string) : jinja_fail(run, "attr needs a name");
}

static const struct {
    const char *name;
    filter_fn fn;
} filters[] = {
    {"abs", filter_abs}, {"attr", filter_attr}, {"batch", filter_batch}, {"capitalize", filter_capitalize}, {"count", filter_length},
    {"d", filter_default}, {"default", filter_default}, {"dictsort", filter_dictsort}, {"e", filter_escape}, {"escape", filter_escape},
    {"first", filter_first}, {"float", filter_float}, {"format", filter_format}, {"indent", filter_indent}, {"int", filter_int},
    {"items", filter_items}, {"join", filter_join}, {"last", filter_last}, {"length", filter_length}, {"list", filter_list},
    {"lower", filter_lower}, {"map", filter_map}, {"max", filter_max}, {"min", filter_min}, {"reject", filter_reject},
    {"rejectattr", filter_rejectattr}, {"replace", filter_replace}, {"reverse", filter_reverse}, {"round", filter_round}, {"safe", filter_safe},
    {"select", filter_select}, {"selectattr", filter_selectattr}, {"sort", filter_sort}, {"string", filter_string}, {"sum", filter_sum},
    {"title", filter_title}, {"tojson", filter_tojson}, {"trim", filter_trim}, {"unique", filter_unique}, {"upper", filter_upper},
    {"wordcount", filter_wordcount},
};

struct jinja_value jinja_filter(struct jinja_run *run, const struct jinja_string *name, const struct jinja_value *value, const struct jinja_args *args) {
    for (size_t i = 0; i < sizeof filters / sizeof filters[0] && !run->failed; i++)
        if (jinja_text_is(name, filters[i].name))
            return filters[i].fn(run, value, args);
    return jinja_fail(run, "No filter named '%.*s'.", (int)name->len_bytes, name->bytes);
}
