/*
 * Values of the template engine and the memory of one rendering. All values live in an arena that goes with the rendering (or the compiled
 * template); nothing is freed alone. One thread per arena.
 */
#ifndef TEXT_JINJA_VALUE_H
#define TEXT_JINJA_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct jinja_arena {
    struct jinja_chunk *chunks;
    size_t left_bytes, limit_bytes;
    bool failed; /* out of memory or past the limit */
};

void jinja_arena_init(struct jinja_arena *arena, size_t limit_bytes);
void jinja_arena_finish(struct jinja_arena *arena);
/* Zeroed memory, 16-byte aligned; NULL once the arena has failed. */
void *jinja_alloc(struct jinja_arena *arena, size_t bytes);

enum jinja_type {
    JINJA_UNDEFINED, JINJA_NONE, JINJA_BOOL, JINJA_INT, JINJA_FLOAT, JINJA_STRING, JINJA_LIST, JINJA_DICT,
    JINJA_NAMESPACE, /* a dict whose attributes can be set */
    JINJA_LOOP,      /* the loop variable */
    JINJA_MACRO,
    JINJA_BUILTIN,   /* a global function, by name */
    JINJA_METHOD     /* a method of a value, by name */
};

struct jinja_value {
    enum jinja_type type;
    bool is_tuple; /* of a list: printed with round brackets */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct jinja_string {
            const char *bytes;
            size_t len_bytes;
        } string; /* also the name of what is undefined, of a builtin */
        struct jinja_list *list;
        struct jinja_dict *dict;
        struct jinja_loop *loop;
        struct jinja_macro *macro;
        struct jinja_method *method;
    };
};

struct jinja_list {
    struct jinja_value *items;
    int n, cap;
};

struct jinja_dict {
    struct jinja_value *keys, *values;
    int n, cap;
};

struct jinja_method {
    struct jinja_value self;
    struct jinja_string name;
};

struct jinja_loop {
    const struct jinja_list *items;
    int index;
};

/* ---- Making ---- */

struct jinja_value jinja_undefined(const char *name, size_t len_bytes);
struct jinja_value jinja_none(void);
struct jinja_value jinja_bool(bool value);
struct jinja_value jinja_int(int64_t value);
struct jinja_value jinja_real(double value);
struct jinja_value jinja_string(const char *bytes, size_t len_bytes); /* borrowed */
struct jinja_value jinja_string_copy(struct jinja_arena *arena, const char *bytes, size_t len_bytes);
struct jinja_value jinja_new_list(struct jinja_arena *arena);
struct jinja_value jinja_new_dict(struct jinja_arena *arena);
/* No effect once the arena has failed. A key that is there already gets the new value. */
void jinja_list_add(struct jinja_arena *arena, struct jinja_list *list, struct jinja_value item);
void jinja_dict_set(struct jinja_arena *arena, struct jinja_dict *dict, struct jinja_value key, struct jinja_value value);
/* NULL when absent. */
const struct jinja_value *jinja_dict_get(const struct jinja_dict *dict, struct jinja_value key);
const struct jinja_value *jinja_dict_get_name(const struct jinja_dict *dict, const char *name);
/* From JSON; strings are borrowed from it. */
struct jinja_value jinja_from_json(struct jinja_arena *arena, const json_t *json, int depth);

/* ---- Asking ---- */

bool jinja_truth(const struct jinja_value *value);
bool jinja_equal(const struct jinja_value *a, const struct jinja_value *b);
bool jinja_is_number(const struct jinja_value *value); /* booleans too */
double jinja_number(const struct jinja_value *value);
bool jinja_is(const struct jinja_value *value, const char *text); /* a string of exactly this text */
/* -1, 0, 1; *ret_ok false when the two cannot be ordered. */
int jinja_compare(const struct jinja_value *a, const struct jinja_value *b, bool *ret_ok);
const char *jinja_type_name(const struct jinja_value *value); /* as Python calls it */
/* Items of a list, keys of a dict, characters of a string; an empty list for undefined. false: not iterable. */
bool jinja_iterate(struct jinja_arena *arena, const struct jinja_value *value, const struct jinja_list **ret);
/* Characters of a string, or items; -1: has no length. */
int64_t jinja_length(const struct jinja_value *value);

/* ---- Printing, as Python does ---- */

int jinja_print(const struct jinja_value *value, struct buf *out);             /* str() */
int jinja_repr(const struct jinja_value *value, struct buf *out, int depth);   /* repr() */

struct jinja_json_style {
    int indent; /* -1: on one line */
    struct jinja_string item_separator, key_separator;
    bool sorts_keys, escapes_non_ascii;
};
int jinja_to_json(const struct jinja_value *value, const struct jinja_json_style *style, int depth, struct buf *out, struct err *err);

#endif
