/* Global functions, and the methods of Python's str, list and dict that chat templates call; see jinja_eval.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_eval.h"

/* ---- Global functions ---- */

static struct jinja_value call_range(struct jinja_run *run, const struct jinja_args *args) {
    int64_t numbers[3] = {0, 0, 1};
    struct jinja_value list = jinja_new_list(&run->arena);
    if (args->n_positional < 1 || args->n_positional > 3)
        return jinja_fail(run, "range takes one to three arguments");
    for (int i = 0; i < args->n_positional; i++) {
        if (args->positional[i].type != JINJA_INT)
            return jinja_fail(run, "'%s' object cannot be interpreted as an integer", jinja_type_name(&args->positional[i]));
        numbers[args->n_positional == 1 ? 1 : i] = args->positional[i].integer;
    }
    if (numbers[2] == 0)
        return jinja_fail(run, "range() arg 3 must not be zero");
    for (int64_t i = numbers[0]; numbers[2] > 0 ? i < numbers[1] : i > numbers[1];) {
        if (--run->steps_left < 0)
            return jinja_fail(run, "the template takes too many steps");
        jinja_list_add(&run->arena, list.list, jinja_int(i));
        if (__builtin_add_overflow(i, numbers[2], &i))
            break;
    }
    return list;
}

static struct jinja_value call_dict(struct jinja_run *run, const struct jinja_args *args, enum jinja_type type) {
    struct jinja_value dict = jinja_new_dict(&run->arena);
    if (args->n_positional > 0 && (args->positional[0].type == JINJA_DICT))
        for (int i = 0; i < args->positional[0].dict->n; i++)
            jinja_dict_set(&run->arena, dict.dict, args->positional[0].dict->keys[i], args->positional[0].dict->values[i]);
    for (int i = 0; i < args->n_named; i++)
        jinja_dict_set(&run->arena, dict.dict, jinja_string(args->names[i].bytes, args->names[i].len_bytes), args->named[i]);
    dict.type = type;
    return dict;
}

static struct jinja_value call_strftime(struct jinja_run *run, const struct jinja_args *args) {
    const struct jinja_value *format = jinja_arg(args, 0, "format");
    char pattern[128], text[256];
    time_t now = time(NULL);
    struct tm tm;
    if (format == NULL || format->type != JINJA_STRING || format->string.len_bytes >= sizeof pattern)
        return jinja_fail(run, "strftime_now needs a format of at most %zu bytes", sizeof pattern - 1);
    memcpy(pattern, format->string.bytes, format->string.len_bytes);
    pattern[format->string.len_bytes] = '\0';
    localtime_r(&now, &tm);
    size_t n = strftime(text, sizeof text, pattern, &tm);
    return jinja_string_copy(&run->arena, text, n);
}

static const char *const builtins[] = {"range", "dict", "namespace", "raise_exception", "strftime_now"};

bool jinja_is_builtin(const struct jinja_string *name) {
    for (size_t i = 0; i < sizeof builtins / sizeof builtins[0]; i++)
        if (jinja_text_is(name, builtins[i]))
            return true;
    return false;
}

struct jinja_value jinja_call_builtin(struct jinja_run *run, const struct jinja_string *name, const struct jinja_args *args) {
    if (jinja_text_is(name, "range"))
        return call_range(run, args);
    if (jinja_text_is(name, "dict"))
        return call_dict(run, args, JINJA_DICT);
    if (jinja_text_is(name, "namespace"))
        return call_dict(run, args, JINJA_NAMESPACE);
    if (jinja_text_is(name, "strftime_now"))
        return call_strftime(run, args);
    /* raise_exception: the template's own words, without a line. */
    const struct jinja_value *message = jinja_arg(args, 0, "message");
    struct buf text = jinja_new_buf(run);
    if (message != NULL)
        jinja_print(message, &text);
    if (!run->failed)
        err_set(run->err, ERR_INVALID, "%s", buf_str(&text));
    run->failed = true;
    buf_finish(&text);
    return jinja_none();
}

/* ---- Methods of str ---- */

typedef struct jinja_value (*method_fn)(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args);

static bool is_space_at(const struct jinja_string *s, size_t at, size_t *ret_len) {
    uint32_t cp;
    int n = utf8_decode(s->bytes + at, s->len_bytes - at, &cp);
    *ret_len = (size_t)(n < 0 ? -n : n);
    return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x1f) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static size_t before(const struct jinja_string *s, size_t at) {
    do
        at--;
    while (at > 0 && ((uint8_t)s->bytes[at] & 0xc0) == 0x80);
    return at;
}

/* True when the character at `at` is to be stripped: one of chars, or white space when chars is NULL. */
static bool strips_at(const struct jinja_string *s, const struct jinja_value *chars, size_t at, size_t *ret_len) {
    bool is_space = is_space_at(s, at, ret_len);
    if (chars == NULL || chars->type != JINJA_STRING)
        return is_space;
    return memmem(chars->string.bytes, chars->string.len_bytes, s->bytes + at, *ret_len) != NULL;
}

static struct jinja_value strip(const struct jinja_value *self, const struct jinja_args *args, bool left, bool right) {
    const struct jinja_value *chars = jinja_arg(args, 0, "chars");
    const struct jinja_string *s = &self->string;
    size_t begin = 0, end = s->len_bytes, n;
    while (left && begin < end && strips_at(s, chars, begin, &n))
        begin += n;
    while (right && end > begin && strips_at(s, chars, before(s, end), &n))
        end = before(s, end);
    return jinja_string(s->bytes + begin, end - begin);
}

static struct jinja_value str_strip(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, strip(self, args, true, true); }
static struct jinja_value str_lstrip(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, strip(self, args, true, false); }
static struct jinja_value str_rstrip(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, strip(self, args, false, true); }

/* Upper, lower, title or capitalised form, code point by code point. */
enum casing { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITALIZE };

static struct jinja_value recase(struct jinja_run *run, const struct jinja_value *self, enum casing casing) {
    struct buf out = jinja_new_buf(run);
    bool in_word = false;
    for (size_t i = 0; i < self->string.len_bytes;) {
        uint32_t cp;
        char bytes[4];
        int n = utf8_decode(self->string.bytes + i, self->string.len_bytes - i, &cp);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
        bool is_letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
        bool is_upper = casing == CASE_UPPER || (casing == CASE_TITLE && !in_word) || (casing == CASE_CAPITALIZE && i == 0);
        if (cp == 0xdf && is_upper)
            buf_append_str(&out, casing == CASE_UPPER ? "SS" : "Ss");
        else
            buf_append(&out, bytes, (size_t)utf8_encode((uint32_t)(is_upper ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_tolower((utf8proc_int32_t)cp)), bytes));
        in_word = is_letter;
        i += (size_t)(n < 0 ? -n : n);
    }
    return jinja_take_buf(run, &out);
}

static struct jinja_value str_upper(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)args, recase(run, self, CASE_UPPER); }
static struct jinja_value str_lower(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)args, recase(run, self, CASE_LOWER); }
static struct jinja_value str_title(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)args, recase(run, self, CASE_TITLE); }
static struct jinja_value str_capitalize(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)args, recase(run, self, CASE_CAPITALIZE); }

static const char *find_in(const struct jinja_string *s, size_t from, const struct jinja_string *what) {
    if (from > s->len_bytes)
        return NULL;
    return what->len_bytes == 0 ? s->bytes + from : memmem(s->bytes + from, s->len_bytes - from, what->bytes, what->len_bytes);
}

static bool ends_match(const struct jinja_string *s, const struct jinja_value *affix, bool at_end) {
    if (affix->type == JINJA_LIST) { /* a tuple of alternatives */
        for (int i = 0; i < affix->list->n; i++)
            if (ends_match(s, &affix->list->items[i], at_end))
                return true;
        return false;
    }
    size_t n = affix->string.len_bytes;
    return affix->type == JINJA_STRING && n <= s->len_bytes && memcmp(at_end ? s->bytes + s->len_bytes - n : s->bytes, affix->string.bytes, n) == 0;
}

static struct jinja_value with_affix(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args, bool at_end) {
    const struct jinja_value *affix = jinja_arg(args, 0, NULL);
    if (affix == NULL || (affix->type != JINJA_STRING && affix->type != JINJA_LIST))
        return jinja_fail(run, "%s first arg must be str or a tuple of str, not %s", at_end ? "endswith" : "startswith", affix == NULL ? "nothing" : jinja_type_name(affix));
    return jinja_bool(ends_match(&self->string, affix, at_end));
}

static struct jinja_value str_startswith(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return with_affix(run, self, args, false); }
static struct jinja_value str_endswith(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return with_affix(run, self, args, true); }

static struct jinja_value remove_affix(const struct jinja_value *self, const struct jinja_args *args, bool at_end) {
    const struct jinja_value *affix = jinja_arg(args, 0, NULL);
    if (affix == NULL || affix->type != JINJA_STRING || !ends_match(&self->string, affix, at_end))
        return *self;
    size_t n = affix->string.len_bytes;
    return jinja_string(self->string.bytes + (at_end ? 0 : n), self->string.len_bytes - n);
}

static struct jinja_value str_removeprefix(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, remove_affix(self, args, false); }
static struct jinja_value str_removesuffix(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, remove_affix(self, args, true); }

static const struct jinja_value *str_arg(struct jinja_run *run, const struct jinja_args *args, int index, const char *name) {
    const struct jinja_value *arg = jinja_arg(args, index, name);
    if (arg != NULL && arg->type == JINJA_STRING)
        return arg;
    jinja_fail(run, "argument %d must be str, not %s", index + 1, arg == NULL ? "nothing" : jinja_type_name(arg));
    return NULL;
}

static struct jinja_value str_replace(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *old = str_arg(run, args, 0, "old"), *new = str_arg(run, args, 1, "new"), *count = jinja_arg(args, 2, "count");
    int64_t left = count != NULL && count->type == JINJA_INT && count->integer >= 0 ? count->integer : INT64_MAX;
    struct buf out = jinja_new_buf(run);
    size_t at = 0;
    if (old == NULL || new == NULL)
        return jinja_none();
    for (const char *found; left > 0 && (found = find_in(&self->string, at, &old->string)) != NULL && !out.failed; left--) {
        size_t to = (size_t)(found - self->string.bytes);
        buf_append(&out, self->string.bytes + at, to - at);
        buf_append(&out, new->string.bytes, new->string.len_bytes);
        at = to + old->string.len_bytes;
        if (old->string.len_bytes == 0) { /* between all characters */
            size_t n;
            if (at >= self->string.len_bytes)
                return jinja_take_buf(run, &out);
            is_space_at(&self->string, at, &n);
            buf_append(&out, self->string.bytes + at, n);
            at += n;
        }
    }
    buf_append(&out, self->string.bytes + at, self->string.len_bytes - at);
    return jinja_take_buf(run, &out);
}

static void add_part(struct jinja_run *run, const struct jinja_value *list, const struct jinja_string *s, size_t begin, size_t end) {
    jinja_list_add(&run->arena, list->list, jinja_string(s->bytes + begin, end - begin));
}

static struct jinja_value split_blanks(struct jinja_run *run, const struct jinja_string *s, int64_t most) {
    struct jinja_value parts = jinja_new_list(&run->arena);
    size_t n;
    for (size_t at = 0; at < s->len_bytes && !run->arena.failed;) {
        if (is_space_at(s, at, &n)) {
            at += n;
            continue;
        }
        size_t end = at;
        if (most-- == 0) { /* the rest as it stands */
            end = s->len_bytes;
        } else {
            while (end < s->len_bytes && !is_space_at(s, end, &n))
                end += n;
        }
        add_part(run, &parts, s, at, end);
        at = most < 0 ? s->len_bytes : end;
    }
    return parts;
}

static struct jinja_value str_split(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *by = jinja_arg(args, 0, "sep"), *count = jinja_arg(args, 1, "maxsplit");
    int64_t most = count != NULL && count->type == JINJA_INT && count->integer >= 0 ? count->integer : INT64_MAX;
    if (by == NULL || by->type == JINJA_NONE)
        return split_blanks(run, &self->string, most);
    if (by->type != JINJA_STRING || by->string.len_bytes == 0)
        return jinja_fail(run, by->type == JINJA_STRING ? "empty separator" : "must be str or None");
    struct jinja_value parts = jinja_new_list(&run->arena);
    size_t at = 0;
    for (const char *found; most > 0 && (found = find_in(&self->string, at, &by->string)) != NULL && !run->arena.failed; most--) {
        add_part(run, &parts, &self->string, at, (size_t)(found - self->string.bytes));
        at = (size_t)(found - self->string.bytes) + by->string.len_bytes;
    }
    add_part(run, &parts, &self->string, at, self->string.len_bytes);
    return parts;
}

static const char *find_last(const struct jinja_string *s, size_t end, const struct jinja_string *what) {
    for (size_t at = end >= what->len_bytes ? end - what->len_bytes + 1 : 0; at > 0; at--)
        if (memcmp(s->bytes + at - 1, what->bytes, what->len_bytes) == 0)
            return s->bytes + at - 1;
    return NULL;
}

static struct jinja_value str_rsplit(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *by = jinja_arg(args, 0, "sep"), *count = jinja_arg(args, 1, "maxsplit");
    if (by == NULL || by->type != JINJA_STRING || by->string.len_bytes == 0 || count == NULL || count->type != JINJA_INT || count->integer < 0)
        return str_split(run, self, args);
    struct jinja_value backward = jinja_new_list(&run->arena), parts = jinja_new_list(&run->arena);
    size_t end = self->string.len_bytes;
    int64_t most = count->integer;
    for (const char *found; most > 0 && (found = find_last(&self->string, end, &by->string)) != NULL && !run->arena.failed; most--) {
        size_t at = (size_t)(found - self->string.bytes);
        add_part(run, &backward, &self->string, at + by->string.len_bytes, end);
        end = at;
    }
    add_part(run, &backward, &self->string, 0, end);
    for (int i = backward.list->n - 1; i >= 0; i--)
        jinja_list_add(&run->arena, parts.list, backward.list->items[i]);
    return parts;
}

static struct jinja_value str_splitlines(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *keeps = jinja_arg(args, 0, "keepends");
    struct jinja_value lines = jinja_new_list(&run->arena);
    const struct jinja_string *s = &self->string;
    for (size_t at = 0; at < s->len_bytes;) {
        size_t end = at, next;
        while (end < s->len_bytes && s->bytes[end] != '\n' && s->bytes[end] != '\r')
            end++;
        next = end + (end < s->len_bytes) + (end + 1 < s->len_bytes && s->bytes[end] == '\r' && s->bytes[end + 1] == '\n');
        add_part(run, &lines, s, at, keeps != NULL && jinja_truth(keeps) ? next : end);
        at = next;
    }
    return lines;
}

static struct jinja_value str_find(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *what = str_arg(run, args, 0, NULL);
    const char *found = what == NULL ? NULL : find_in(&self->string, 0, &what->string);
    if (found == NULL)
        return jinja_int(-1);
    struct jinja_value head = jinja_string(self->string.bytes, (size_t)(found - self->string.bytes));
    return jinja_int(jinja_length(&head));
}

static struct jinja_value str_rfind(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *what = str_arg(run, args, 0, NULL);
    const char *found = what == NULL ? NULL : find_last(&self->string, self->string.len_bytes, &what->string);
    if (found == NULL)
        return jinja_int(-1);
    struct jinja_value head = jinja_string(self->string.bytes, (size_t)(found - self->string.bytes));
    return jinja_int(jinja_length(&head));
}

static struct jinja_value str_count(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *what = str_arg(run, args, 0, NULL);
    int64_t n = 0;
    if (what == NULL || what->string.len_bytes == 0)
        return jinja_int(what == NULL ? 0 : jinja_length(self) + 1);
    size_t at = 0;
    for (const char *found; (found = find_in(&self->string, at, &what->string)) != NULL; n++)
        at = (size_t)(found - self->string.bytes) + what->string.len_bytes;
    return jinja_int(n);
}

static struct jinja_value str_join(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    struct jinja_string name = {"join", 4};
    struct jinja_args by = {.n_positional = 1, .positional = {*self}};
    const struct jinja_value *items = jinja_arg(args, 0, NULL);
    return items == NULL ? jinja_fail(run, "join() takes exactly one argument") : jinja_filter(run, &name, items, &by);
}

/* "{}, {0}, {name}" without format specifications. */
static struct jinja_value str_format(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_string *s = &self->string;
    struct buf out = jinja_new_buf(run);
    int next = 0;
    for (size_t i = 0; i < s->len_bytes && !run->failed; i++) {
        char c = s->bytes[i];
        if (c != '{' && c != '}') {
            buf_append_char(&out, c);
            continue;
        }
        if (i + 1 < s->len_bytes && s->bytes[i + 1] == c) {
            buf_append_char(&out, c);
            i++;
            continue;
        }
        const char *close = c == '{' ? memchr(s->bytes + i, '}', s->len_bytes - i) : NULL;
        if (close == NULL) {
            jinja_fail(run, "Single '%c' encountered in format string", c);
            break;
        }
        char name[64] = "";
        size_t n = (size_t)(close - (s->bytes + i + 1));
        if (n >= sizeof name || memchr(s->bytes + i + 1, ':', n) != NULL || memchr(s->bytes + i + 1, '.', n) != NULL) {
            jinja_fail(run, "format specifications in '{%.*s}' are not supported", (int)(n < 40 ? n : 40), s->bytes + i + 1);
            break;
        }
        memcpy(name, s->bytes + i + 1, n);
        bool is_number = name[0] >= '0' && name[0] <= '9';
        const struct jinja_value *value = jinja_arg(args, n == 0 ? next++ : is_number ? atoi(name) : JINJA_MAX_ARGS, n == 0 || is_number ? NULL : name);
        if (value == NULL)
            jinja_fail(run, "no argument for '{%s}'", name);
        else
            jinja_print(value, &out);
        i += n + 1;
    }
    return jinja_take_buf(run, &out);
}

static bool all_of(const struct jinja_string *s, bool (*holds)(utf8proc_category_t category)) {
    for (size_t i = 0; i < s->len_bytes;) {
        uint32_t cp;
        int n = utf8_decode(s->bytes + i, s->len_bytes - i, &cp);
        if (!holds(utf8proc_category((utf8proc_int32_t)cp)))
            return false;
        i += (size_t)(n < 0 ? -n : n);
    }
    return s->len_bytes > 0;
}

static bool is_digit_category(utf8proc_category_t c) { return c == UTF8PROC_CATEGORY_ND; }
static bool is_letter_category(utf8proc_category_t c) { return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO; }
static bool is_alnum_category(utf8proc_category_t c) { return is_letter_category(c) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO); }

static struct jinja_value str_isdigit(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, (void)args, jinja_bool(all_of(&self->string, is_digit_category)); }
static struct jinja_value str_isalpha(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, (void)args, jinja_bool(all_of(&self->string, is_letter_category)); }
static struct jinja_value str_isalnum(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)run, (void)args, jinja_bool(all_of(&self->string, is_alnum_category)); }

static struct jinja_value str_isspace(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    (void)run;
    (void)args;
    size_t n;
    for (size_t at = 0; at < self->string.len_bytes; at += n)
        if (!is_space_at(&self->string, at, &n))
            return jinja_bool(false);
    return jinja_bool(self->string.len_bytes > 0);
}

/* ---- Methods of dict and list; nothing is changed: the environment is immutable, as transformers' is ---- */

static struct jinja_value dict_items(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    struct jinja_string name = {"items", 5};
    return jinja_filter(run, &name, self, args);
}

static struct jinja_value dict_part(struct jinja_run *run, const struct jinja_value *self, bool values) {
    struct jinja_value list = jinja_new_list(&run->arena);
    for (int i = 0; i < self->dict->n; i++)
        jinja_list_add(&run->arena, list.list, values ? self->dict->values[i] : self->dict->keys[i]);
    return list;
}

static struct jinja_value dict_keys(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)args, dict_part(run, self, false); }
static struct jinja_value dict_values(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) { return (void)args, dict_part(run, self, true); }

static struct jinja_value dict_get(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *key = jinja_arg(args, 0, NULL), *fallback = jinja_arg(args, 1, NULL);
    if (key == NULL)
        return jinja_fail(run, "get expected at least 1 argument, got 0");
    const struct jinja_value *value = jinja_dict_get(self->dict, *key);
    return value != NULL ? *value : fallback != NULL ? *fallback : jinja_none();
}

static struct jinja_value dict_copy(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    (void)args;
    struct jinja_args one = {.n_positional = 1, .positional = {*self}};
    return call_dict(run, &one, JINJA_DICT);
}

static struct jinja_value list_index(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *what = jinja_arg(args, 0, NULL);
    for (int i = 0; what != NULL && i < self->list->n; i++)
        if (jinja_equal(&self->list->items[i], what))
            return jinja_int(i);
    return jinja_fail(run, "the value is not in the list");
}

static struct jinja_value list_count(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    const struct jinja_value *what = jinja_arg(args, 0, NULL);
    int64_t n = 0;
    (void)run;
    for (int i = 0; what != NULL && i < self->list->n; i++)
        n += jinja_equal(&self->list->items[i], what);
    return jinja_int(n);
}

static struct jinja_value refuse(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    (void)args;
    return jinja_fail(run, "a template must not change a %s", jinja_type_name(self));
}

static struct jinja_value loop_cycle(struct jinja_run *run, const struct jinja_value *self, const struct jinja_args *args) {
    return args->n_positional > 0 ? args->positional[self->loop->index % args->n_positional] : jinja_fail(run, "no items for cycling given");
}

static const struct method {
    enum jinja_type type;
    const char *name;
    method_fn fn;
} methods[] = {
    {JINJA_STRING, "strip", str_strip}, {JINJA_STRING, "lstrip", str_lstrip}, {JINJA_STRING, "rstrip", str_rstrip}, {JINJA_STRING, "upper", str_upper},
    {JINJA_STRING, "lower", str_lower}, {JINJA_STRING, "title", str_title}, {JINJA_STRING, "capitalize", str_capitalize},
    {JINJA_STRING, "startswith", str_startswith}, {JINJA_STRING, "endswith", str_endswith}, {JINJA_STRING, "removeprefix", str_removeprefix},
    {JINJA_STRING, "removesuffix", str_removesuffix}, {JINJA_STRING, "replace", str_replace}, {JINJA_STRING, "split", str_split},
    {JINJA_STRING, "rsplit", str_rsplit}, {JINJA_STRING, "splitlines", str_splitlines}, {JINJA_STRING, "find", str_find},
    {JINJA_STRING, "rfind", str_rfind}, {JINJA_STRING, "index", str_find}, {JINJA_STRING, "count", str_count}, {JINJA_STRING, "join", str_join},
    {JINJA_STRING, "format", str_format}, {JINJA_STRING, "isdigit", str_isdigit}, {JINJA_STRING, "isalpha", str_isalpha},
    {JINJA_STRING, "isalnum", str_isalnum}, {JINJA_STRING, "isspace", str_isspace}, {JINJA_DICT, "items", dict_items},
    {JINJA_DICT, "keys", dict_keys}, {JINJA_DICT, "values", dict_values}, {JINJA_DICT, "get", dict_get}, {JINJA_DICT, "copy", dict_copy},
    {JINJA_DICT, "update", refuse}, {JINJA_DICT, "pop", refuse}, {JINJA_DICT, "setdefault", refuse}, {JINJA_LIST, "index", list_index},
    {JINJA_LIST, "count", list_count}, {JINJA_LIST, "append", refuse}, {JINJA_LIST, "extend", refuse}, {JINJA_LIST, "insert", refuse},
    {JINJA_LIST, "pop", refuse}, {JINJA_LIST, "remove", refuse}, {JINJA_LIST, "sort", refuse}, {JINJA_LIST, "reverse", refuse},
    {JINJA_LOOP, "cycle", loop_cycle},
};

static const struct method *find_method(const struct jinja_value *self, const struct jinja_string *name) {
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (methods[i].type == self->type && jinja_text_is(name, methods[i].name))
            return &methods[i];
    return NULL;
}

bool jinja_has_method(const struct jinja_value *self, const struct jinja_string *name) { return find_method(self, name) != NULL; }

struct jinja_value jinja_call_method(struct jinja_run *run, const struct jinja_value *self, const struct jinja_string *name, const struct jinja_args *args) {
    const struct method *method = find_method(self, name);
    if (method == NULL)
        return jinja_fail(run, "'%s' object has no method '%.*s'", jinja_type_name(self), (int)name->len_bytes, name->bytes);
    return method->fn(run, self, args);
}
