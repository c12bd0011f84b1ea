/*
 * One rendering of a template: its memory, its scopes and its limits. Shared by the evaluator and by the files of filters, tests and
 * functions. One thread.
 */
#ifndef TEXT_JINJA_EVAL_H
#define TEXT_JINJA_EVAL_H

#include "text/jinja_ast.h"

enum { JINJA_MAX_ARGS = 16, JINJA_MAX_DEPTH = 150 };

struct jinja_scope {
    struct jinja_scope *parent;
    struct jinja_dict vars;
};

struct jinja_macro {
    const struct jinja_node *parameters, *body; /* of a macro, or of a call block */
    struct jinja_scope *scope;           /* where it was defined */
    struct jinja_string name;
};

struct jinja_run {
    struct jinja_arena arena;
    struct jinja_scope *scope;
    struct buf *out;
    struct err *err;
    int64_t steps_left;
    int depth, line;
    bool failed;
    enum { JINJA_GOES_ON, JINJA_BREAKS, JINJA_CONTINUES } flow;
};

/* Values given to a filter, test, function or method. */
struct jinja_args {
    struct jinja_value positional[JINJA_MAX_ARGS];
    int n_positional;
    struct jinja_string names[JINJA_MAX_ARGS];
    struct jinja_value named[JINJA_MAX_ARGS];
    int n_named;
};

/* Sets the error ("line N: …", unless one is set already); returns undefined. */
struct jinja_value jinja_fail(struct jinja_run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Positional argument `index`, or the one of that name, or NULL. */
const struct jinja_value *jinja_arg(const struct jinja_args *args, int index, const char *name);

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_node *node);
void jinja_exec(struct jinja_run *run, const struct jinja_node *body);
struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro, const struct jinja_args *args, const struct jinja_value *caller);
struct jinja_value jinja_get_attr(struct jinja_run *run, const struct jinja_value *of, struct jinja_string name);
struct jinja_value jinja_get_item(struct jinja_run *run, const struct jinja_value *of, const struct jinja_value *key);
struct jinja_value jinja_binary(struct jinja_run *run, const struct jinja_string *op, const struct jinja_value *a, const struct jinja_value *b);
bool jinja_contains(struct jinja_run *run, const struct jinja_value *in, const struct jinja_value *item);
/* The text of a buffer as a value; the buffer is freed. */
struct jinja_value jinja_take_buf(struct jinja_run *run, struct buf *buf);
struct buf jinja_new_buf(const struct jinja_run *run);

/* jinja_filters.c, jinja_tests.c, jinja_calls.c */
struct jinja_value jinja_filter(struct jinja_run *run, const struct jinja_string *name, const struct jinja_value *value, const struct jinja_args *args);
bool jinja_test(struct jinja_run *run, const struct jinja_string *name, const struct jinja_value *value, const struct jinja_args *args);
bool jinja_is_builtin(const struct jinja_string *name);
struct jinja_value jinja_call_builtin(struct jinja_run *run, const struct jinja_string *name, const struct jinja_args *args);
bool jinja_has_method(const struct jinja_value *self, const struct jinja_string *name);
struct jinja_value jinja_call_method(struct jinja_run *run, const struct jinja_value *self, const struct jinja_string *name, const struct jinja_args *args);

#endif
