/* Values, their memory and comparison; see jinja_value.h. Printing is in jinja_print.c. */
#include "text/jinja_value.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { CHUNK_BYTES = 16 << 10, MAX_DEPTH = 64 };

struct jinja_chunk {
    struct jinja_chunk *next;
    size_t used_bytes, size_bytes;
    _Alignas(16) char bytes[];
};

void jinja_arena_init(struct jinja_arena *arena, size_t limit_bytes) { *arena = (struct jinja_arena){.left_bytes = limit_bytes, .limit_bytes = limit_bytes}; }

void jinja_arena_finish(struct jinja_arena *arena) {
    while (arena->chunks != NULL) {
        struct jinja_chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
}

void *jinja_alloc(struct jinja_arena *arena, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    if (arena->failed || bytes > arena->left_bytes) {
        arena->failed = true;
        return NULL;
    }
    struct jinja_chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->size_bytes - chunk->used_bytes < bytes) {
        size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        chunk = malloc(sizeof *chunk + size);
        if (chunk == NULL) {
            arena->failed = true;
            return NULL;
        }
        *chunk = (struct jinja_chunk){.next = arena->chunks, .size_bytes = size};
        arena->chunks = chunk;
    }
    void *at = chunk->bytes + chunk->used_bytes;
    chunk->used_bytes += bytes;
    arena->left_bytes -= bytes;
    memset(at, 0, bytes);
    return at;
}

struct jinja_value jinja_undefined(const char *name, size_t len_bytes) { return (struct jinja_value){.type = JINJA_UNDEFINED, .string = {name, len_bytes}}; }
struct jinja_value jinja_none(void) { return (struct jinja_value){.type = JINJA_NONE}; }
struct jinja_value jinja_bool(bool value) { return (struct jinja_value){.type = JINJA_BOOL, .boolean = value}; }
struct jinja_value jinja_int(int64_t value) { return (struct jinja_value){.type = JINJA_INT, .integer = value}; }
struct jinja_value jinja_real(double value) { return (struct jinja_value){.type = JINJA_FLOAT, .real = value}; }
struct jinja_value jinja_string(const char *bytes, size_t len_bytes) { return (struct jinja_value){.type = JINJA_STRING, .string = {bytes, len_bytes}}; }

struct jinja_value jinja_string_copy(struct jinja_arena *arena, const char *bytes, size_t len_bytes) {
    char *copy = jinja_alloc(arena, len_bytes + 1);
    if (copy == NULL)
        return jinja_string("", 0);
    memcpy(copy, bytes, len_bytes);
    return jinja_string(copy, len_bytes);
}

struct jinja_value jinja_new_list(struct jinja_arena *arena) {
    static struct jinja_list nothing; /* what a failed arena hands out is never added to */
    struct jinja_list *list = jinja_alloc(arena, sizeof *list);
    return (struct jinja_value){.type = JINJA_LIST, .list = list != NULL ? list : &nothing};
}

struct jinja_value jinja_new_dict(struct jinja_arena *arena) {
    static struct jinja_dict nothing;
    struct jinja_dict *dict = jinja_alloc(arena, sizeof *dict);
    return (struct jinja_value){.type = JINJA_DICT, .dict = dict != NULL ? dict : &nothing};
}

static struct jinja_value *grown(struct jinja_arena *arena, const struct jinja_value *items, int n, int cap) {
    struct jinja_value *more = jinja_alloc(arena, (size_t)cap * sizeof *more);
    if (more != NULL && n > 0)
        memcpy(more, items, (size_t)n * sizeof *more);
    return more;
}

void jinja_list_add(struct jinja_arena *arena, struct jinja_list *list, struct jinja_value item) {
    if (arena->failed)
        return;
    if (list->n == list->cap) {
        int cap = list->cap == 0 ? 4 : 2 * list->cap;
        struct jinja_value *items = grown(arena, list->items, list->n, cap);
        if (items == NULL)
            return;
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = item;
}

static struct jinja_value *find(const struct jinja_dict *dict, const struct jinja_value *key) {
    for (int i = 0; i < dict->n; i++)
        if (jinja_equal(&dict->keys[i], key))
            return &dict->values[i];
    return NULL;
}

void jinja_dict_set(struct jinja_arena *arena, struct jinja_dict *dict, struct jinja_value key, struct jinja_value value) {
    struct jinja_value *there = find(dict, &key);
    if (arena->failed)
        return;
    if (there != NULL) {
        *there = value;
        return;
    }
    if (dict->n == dict->cap) {
        int cap = dict->cap == 0 ? 4 : 2 * dict->cap;
        struct jinja_value *keys = grown(arena, dict->keys, dict->n, cap), *values = grown(arena, dict->values, dict->n, cap);
        if (keys == NULL || values == NULL)
            return;
        dict->keys = keys;
        dict->values = values;
        dict->cap = cap;
    }
    dict->keys[dict->n] = key;
    dict->values[dict->n++] = value;
}

const struct jinja_value *jinja_dict_get(const struct jinja_dict *dict, struct jinja_value key) { return find(dict, &key); }

const struct jinja_value *jinja_dict_get_name(const struct jinja_dict *dict, const char *name) {
    return jinja_dict_get(dict, jinja_string(name, strlen(name)));
}

struct jinja_value jinja_from_json(struct jinja_arena *arena, const json_t *json, int depth) {
    struct jinja_value value = jinja_none();
    size_t i;
    json_t *item;
    const char *key;
    if (json == NULL || depth > MAX_DEPTH) {
        arena->failed = arena->failed || json != NULL;
        return value;
    }
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        value = jinja_new_dict(arena);
        json_object_foreach((json_t *)json, key, item)
            jinja_dict_set(arena, value.dict, jinja_string(key, strlen(key)), jinja_from_json(arena, item, depth + 1));
        return value;
    case JSON_ARRAY:
        value = jinja_new_list(arena);
        json_array_foreach(json, i, item) jinja_list_add(arena, value.list, jinja_from_json(arena, item, depth + 1));
        return value;
    case JSON_STRING: return jinja_string(json_string_value(json), json_string_length(json));
    case JSON_INTEGER: return jinja_int(json_integer_value(json));
    case JSON_REAL: return jinja_real(json_real_value(json));
    case JSON_TRUE: return jinja_bool(true);
    case JSON_FALSE: return jinja_bool(false);
    case JSON_NULL: return value;
    }
    return value;
}

bool jinja_is_number(const struct jinja_value *value) { return value->type == JINJA_BOOL || value->type == JINJA_INT || value->type == JINJA_FLOAT; }

double jinja_number(const struct jinja_value *value) {
    return value->type == JINJA_BOOL ? value->boolean : value->type == JINJA_INT ? (double)value->integer : value->real;
}

bool jinja_is(const struct jinja_value *value, const char *text) {
    return value->type == JINJA_STRING && value->string.len_bytes == strlen(text) && memcmp(value->string.bytes, text, value->string.len_bytes) == 0;
}

bool jinja_truth(const struct jinja_value *value) {
    switch (value->type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE: return false;
    case JINJA_BOOL: return value->boolean;
    case JINJA_INT: return value->integer != 0;
    case JINJA_FLOAT: return value->real != 0;
    case JINJA_STRING: return value->string.len_bytes > 0;
    case JINJA_LIST: return value->list->n > 0;
    case JINJA_DICT: return value->dict->n > 0;
    default: return true;
    }
}

static int64_t whole(const struct jinja_value *value) { return value->type == JINJA_BOOL ? value->boolean : value->integer; }

/* Values that are nested deeper than anything sane count as different. */
static bool equal_at(const struct jinja_value *a, const struct jinja_value *b, int depth) {
    if (depth > MAX_DEPTH)
        return false;
    if (jinja_is_number(a) && jinja_is_number(b))
        return a->type != JINJA_FLOAT && b->type != JINJA_FLOAT ? whole(a) == whole(b) : jinja_number(a) == jinja_number(b);
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case JINJA_STRING: return a->string.len_bytes == b->string.len_bytes && memcmp(a->string.bytes, b->string.bytes, a->string.len_bytes) == 0;
    case JINJA_LIST:
        if (a->list->n != b->list->n || a->is_tuple != b->is_tuple)
            return false;
        for (int i = 0; i < a->list->n; i++)
            if (!equal_at(&a->list->items[i], &b->list->items[i], depth + 1))
                return false;
        return true;
    case JINJA_DICT:
        if (a->dict->n != b->dict->n)
            return false;
        for (int i = 0; i < a->dict->n; i++) {
            const struct jinja_value *other = find(b->dict, &a->dict->keys[i]);
            if (other == NULL || !equal_at(&a->dict->values[i], other, depth + 1))
                return false;
        }
        return true;
    case JINJA_NAMESPACE: return a->dict == b->dict;
    case JINJA_MACRO: return a->macro == b->macro;
    case JINJA_LOOP: return a->loop == b->loop;
    default: return true; /* undefined, none */
    }
}

bool jinja_equal(const struct jinja_value *a, const struct jinja_value *b) { return equal_at(a, b, 0); }

static int compare_at(const struct jinja_value *a, const struct jinja_value *b, bool *ret_ok, int depth) {
    *ret_ok = depth <= MAX_DEPTH;
    if (!*ret_ok)
        return 0;
    if (jinja_is_number(a) && jinja_is_number(b)) {
        double x = jinja_number(a), y = jinja_number(b);
        return x < y ? -1 : x > y;
    }
    if (a->type == JINJA_STRING && b->type == JINJA_STRING) {
        size_t n = a->string.len_bytes < b->string.len_bytes ? a->string.len_bytes : b->string.len_bytes;
        int order = memcmp(a->string.bytes, b->string.bytes, n); /* UTF-8 sorts as its code points do */
        return order != 0 ? (order < 0 ? -1 : 1) : a->string.len_bytes < b->string.len_bytes ? -1 : a->string.len_bytes > b->string.len_bytes;
    }
    if (a->type == JINJA_LIST && b->type == JINJA_LIST && a->is_tuple == b->is_tuple) {
        for (int i = 0; i < a->list->n && i < b->list->n; i++)
            if (!jinja_equal(&a->list->items[i], &b->list->items[i]))
                return compare_at(&a->list->items[i], &b->list->items[i], ret_ok, depth + 1);
        return a->list->n < b->list->n ? -1 : a->list->n > b->list->n;
    }
    *ret_ok = false;
    return 0;
}

int jinja_compare(const struct jinja_value *a, const struct jinja_value *b, bool *ret_ok) { return compare_at(a, b, ret_ok, 0); }

const char *jinja_type_name(const struct jinja_value *value) {
    static const char *const names[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "dict", "Namespace", "LoopContext", "Macro", "function", "method"};
    return value->type == JINJA_LIST && value->is_tuple ? "tuple" : names[value->type];
}

bool jinja_iterate(struct jinja_arena *arena, const struct jinja_value *value, const struct jinja_list **ret) {
    struct jinja_value list;
    if (value->type == JINJA_LIST) {
        *ret = value->list;
        return true;
    }
    if (value->type != JINJA_DICT && value->type != JINJA_STRING && value->type != JINJA_UNDEFINED)
        return false;
    list = jinja_new_list(arena);
    for (int i = 0; value->type == JINJA_DICT && i < value->dict->n; i++)
        jinja_list_add(arena, list.list, value->dict->keys[i]);
    for (size_t i = 0; value->type == JINJA_STRING && i < value->string.len_bytes && !arena->failed;) {
        uint32_t cp;
        int n = utf8_decode(value->string.bytes + i, value->string.len_bytes - i, &cp);
        n = n < 0 ? -n : n;
        jinja_list_add(arena, list.list, jinja_string(value->string.bytes + i, (size_t)n));
        i += (size_t)n;
    }
    *ret = list.list;
    return true;
}

int64_t jinja_length(const struct jinja_value *value) {
    int64_t n = 0;
    switch (value->type) {
    case JINJA_UNDEFINED: return 0;
    case JINJA_LIST: return value->list->n;
    case JINJA_DICT: return value->dict->n;
    case JINJA_STRING:
        for (size_t i = 0; i < value->string.len_bytes; i++)
            n += ((uint8_t)value->string.bytes[i] & 0xc0) != 0x80;
        return n;
    default: return -1;
    }
}
