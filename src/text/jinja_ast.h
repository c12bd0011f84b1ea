/*
 * The syntax tree of a template, and the parser that makes it. Nodes live in the template's arena and are never changed after parsing.
 */
#ifndef TEXT_JINJA_AST_H
#define TEXT_JINJA_AST_H

#include "text/jinja_value.h"

enum jinja_node_kind {
    /* expressions */
    NODE_CONST,    /* value */
    NODE_NAME,     /* text */
    NODE_LIST, NODE_TUPLE, /* a: items, linked */
    NODE_DICT,     /* a: NODE_PAIR (a: key, b: value), linked */
    NODE_PAIR,
    NODE_UNARY,    /* text: "-", "+", "not"; a */
    NODE_BINARY,   /* text: operator; a, b */
    NODE_COMPARE,  /* a; b: NODE_OPERAND chain (text: operator, a) */
    NODE_OPERAND,
    NODE_IF_EXPR,  /* a if b else c (or NULL) */
    NODE_ATTR,     /* a . text */
    NODE_ITEM,     /* a [b] */
    NODE_SLICE,    /* a [b:c:d] */
    NODE_CALL,     /* a (b: NODE_ARG, linked) */
    NODE_FILTER,   /* a | text (b: args); a NULL in a filter block */
    NODE_TEST,     /* a is text (b: args) */
    NODE_ARG,      /* text: keyword or empty; a: value */
    /* statements, linked */
    NODE_TEXT,     /* value: a string as it stands */
    NODE_PRINT,    /* a */
    NODE_IF,       /* a: condition, b: body, c: else branch */
    NODE_FOR,      /* a: target, b: iterable, c: body, d: else branch, e: filter */
    NODE_SET,      /* a: target (name, tuple or attribute), b: value; or c: body */
    NODE_MACRO,    /* text: name, a: NODE_ARG parameters with defaults, b: body */
    NODE_CALL_BLOCK, /* a: the call, b: body, c: parameters */
    NODE_FILTER_BLOCK, /* a: NODE_FILTER chain, b: body */
    NODE_BREAK, NODE_CONTINUE
};

struct jinja_node {
    enum jinja_node_kind kind;
    int line;
    struct jinja_string text;
    struct jinja_value value;
    struct jinja_node *a, *b, *c, *d, *e;
    struct jinja_node *next;
};

static inline bool jinja_text_is(const struct jinja_string *text, const char *wanted) {
    return __builtin_strlen(wanted) == text->len_bytes && __builtin_memcmp(text->bytes, wanted, text->len_bytes) == 0;
}

/* Parses a whole template; source must outlive the tree. Errors begin with "line N:". *ret_body may be NULL (an empty template). */
int jinja_parse(const char *source, size_t len_bytes, struct jinja_arena *arena, struct jinja_node **ret_body, struct err *err);

#endif
