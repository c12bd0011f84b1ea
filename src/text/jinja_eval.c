/* Evaluating expressions and running statements; see jinja_eval.h. */
#include "text/jinja_eval.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

struct jinja_value jinja_fail(struct jinja_run *run, const char *fmt, ...) {
    if (!run->failed) {
        char text[ERR_MSG_BYTES];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        err_set(run->err, ERR_INVALID, "line %d: %s", run->line, text);
    }
    run->failed = true;
    return jinja_none();
}

/* Counts a step; false when the rendering has to end. */
static bool step(struct jinja_run *run, const struct jinja_node *node) {
    if (run->failed)
        return false;
    if (node != NULL)
        run->line = node->line;
    if (--run->steps_left < 0)
        jinja_fail(run, "the template takes too many steps");
    else if (run->arena.failed)
        jinja_fail(run, "the template takes more than %zu bytes of memory", run->arena.limit_bytes);
    else if (run->out->failed)
        jinja_fail(run, "the template writes more than %zu bytes", run->out->limit_bytes);
    return !run->failed;
}

const struct jinja_value *jinja_arg(const struct jinja_args *args, int index, const char *name) {
    if (index < args->n_positional)
        return &args->positional[index];
    for (int i = 0; i < args->n_named && name != NULL; i++)
        if (jinja_text_is(&args->names[i], name))
            return &args->named[i];
    return NULL;
}

struct buf jinja_new_buf(const struct jinja_run *run) {
    struct buf buf;
    buf_init(&buf, run->arena.left_bytes);
    return buf;
}

struct jinja_value jinja_take_buf(struct jinja_run *run, struct buf *buf) {
    struct jinja_value text = buf->failed ? jinja_fail(run, "the template takes more than %zu bytes of memory", run->arena.limit_bytes)
                                          : jinja_string_copy(&run->arena, buf_str(buf), buf->len_bytes);
    buf_finish(buf);
    return text;
}

/* ---- Names ---- */

static struct jinja_value look_up(struct jinja_run *run, const struct jinja_string *name) {
    struct jinja_value key = jinja_string(name->bytes, name->len_bytes);
    for (const struct jinja_scope *scope = run->scope; scope != NULL; scope = scope->parent) {
        const struct jinja_value *value = jinja_dict_get(&scope->vars, key);
        if (value != NULL)
            return *value;
    }
    if (jinja_is_builtin(name))
        return (struct jinja_value){.type = JINJA_BUILTIN, .string = *name};
    return jinja_undefined(name->bytes, name->len_bytes);
}

static void assign(struct jinja_run *run, const struct jinja_string *name, struct jinja_value value) {
    jinja_dict_set(&run->arena, &run->scope->vars, jinja_string(name->bytes, name->len_bytes), value);
}

/* In the arena, not on the stack: a macro that was defined in it may be called when its statement is over. */
static struct jinja_scope *push_scope(struct jinja_run *run, struct jinja_scope *parent) {
    struct jinja_scope *scope = jinja_alloc(&run->arena, sizeof *scope);
    if (scope == NULL) /* the run fails at its next step */
        return run->scope;
    scope->parent = parent;
    return run->scope = scope;
}

static void assign_target(struct jinja_run *run, const struct jinja_node *target, struct jinja_value value) {
    if (target->kind == NODE_NAME) {
        assign(run, &target->text, value);
    } else if (target->kind == NODE_ATTR) {
        struct jinja_value of = jinja_eval(run, target->a);
        if (of.type != JINJA_NAMESPACE)
            jinja_fail(run, "cannot assign attribute on non-namespace object");
        else
            jinja_dict_set(&run->arena, of.dict, jinja_string(target->text.bytes, target->text.len_bytes), value);
    } else {
        const struct jinja_list *items;
        int n = 0;
        for (const struct jinja_node *at = target->a; at != NULL; at = at->next)
            n++;
        if (!jinja_iterate(&run->arena, &value, &items)) {
            jinja_fail(run, "cannot unpack non-iterable %s object", jinja_type_name(&value));
            return;
        }
        if (items->n != n) {
            jinja_fail(run, "cannot unpack %d values into %d names", items->n, n);
            return;
        }
        n = 0;
        for (const struct jinja_node *at = target->a; at != NULL; at = at->next)
            assign_target(run, at, items->items[n++]);
    }
}

/* ---- Attributes and items ---- */

static struct jinja_value loop_attr(struct jinja_run *run, const struct jinja_loop *loop, struct jinja_string name) {
    int i = loop->index, n = loop->items->n;
    if (jinja_text_is(&name, "index"))
        return jinja_int(i + 1);
    if (jinja_text_is(&name, "index0"))
        return jinja_int(i);
    if (jinja_text_is(&name, "revindex"))
        return jinja_int(n - i);
    if (jinja_text_is(&name, "revindex0"))
        return jinja_int(n - i - 1);
    if (jinja_text_is(&name, "first"))
        return jinja_bool(i == 0);
    if (jinja_text_is(&name, "last"))
        return jinja_bool(i == n - 1);
    if (jinja_text_is(&name, "length"))
        return jinja_int(n);
    if (jinja_text_is(&name, "depth"))
        return jinja_int(1);
    if (jinja_text_is(&name, "depth0"))
        return jinja_int(0);
    if (jinja_text_is(&name, "previtem"))
        return i > 0 ? loop->items->items[i - 1] : jinja_undefined("loop.previtem", 13);
    if (jinja_text_is(&name, "nextitem"))
        return i + 1 < n ? loop->items->items[i + 1] : jinja_undefined("loop.nextitem", 13);
    (void)run;
    return jinja_undefined(name.bytes, name.len_bytes);
}

static struct jinja_value undefined_of(struct jinja_run *run, const struct jinja_value *of) {
    return jinja_fail(run, "'%.*s' is undefined", (int)of->string.len_bytes, of->string.bytes);
}

struct jinja_value jinja_get_attr(struct jinja_run *run, const struct jinja_value *of, struct jinja_string name) {
    if (of->type == JINJA_UNDEFINED)
        return undefined_of(run, of);
    if (of->type == JINJA_LOOP && !jinja_text_is(&name, "cycle"))
        return loop_attr(run, of->loop, name);
    if (jinja_has_method(of, &name)) {
        struct jinja_method *method = jinja_alloc(&run->arena, sizeof *method);
        if (method == NULL)
            return jinja_none();
        *method = (struct jinja_method){*of, name};
        return (struct jinja_value){.type = JINJA_METHOD, .method = method};
    }
    if (of->type == JINJA_DICT || of->type == JINJA_NAMESPACE) {
        const struct jinja_value *value = jinja_dict_get(of->dict, jinja_string(name.bytes, name.len_bytes));
        if (value != NULL)
            return *value;
    }
    return jinja_undefined(name.bytes, name.len_bytes);
}

/* Byte offset of character `index` of a string that has it. */
static size_t char_offset(const struct jinja_string *s, int64_t index) {
    size_t at = 0;
    for (; at < s->len_bytes; at++)
        if (((uint8_t)s->bytes[at] & 0xc0) != 0x80 && index-- == 0)
            break;
    return at;
}

struct jinja_value jinja_get_item(struct jinja_run *run, const struct jinja_value *of, const struct jinja_value *key) {
    if (of->type == JINJA_UNDEFINED)
        return undefined_of(run, of);
    if (of->type == JINJA_DICT) {
        const struct jinja_value *value = jinja_dict_get(of->dict, *key);
        if (value != NULL)
            return *value;
    } else if ((of->type == JINJA_LIST || of->type == JINJA_STRING) && (key->type == JINJA_INT || key->type == JINJA_BOOL)) {
        int64_t n = jinja_length(of), i = key->type == JINJA_INT ? key->integer : key->boolean;
        i += i < 0 ? n : 0;
        if (i < 0 || i >= n)
            return jinja_undefined("index", 5);
        if (of->type == JINJA_LIST)
            return of->list->items[i];
        size_t begin = char_offset(&of->string, i), end = char_offset(&of->string, i + 1);
        return jinja_string(of->string.bytes + begin, end - begin);
    }
    /* As Jinja2 does, an item that is not there may still be an attribute. */
    return key->type == JINJA_STRING ? jinja_get_attr(run, of, key->string) : jinja_undefined("item", 4);
}

/* Python's slice.indices. */
static bool slice_bound(struct jinja_run *run, const struct jinja_node *node, int64_t n, bool is_down, int64_t fallback, int64_t *ret) {
    struct jinja_value value = node == NULL ? jinja_none() : jinja_eval(run, node);
    *ret = fallback;
    if (value.type == JINJA_NONE)
        return true;
    if (value.type != JINJA_INT) {
        jinja_fail(run, "slice indices must be integers or None");
        return false;
    }
    int64_t i = value.integer < 0 ? value.integer + n : value.integer;
    int64_t least = is_down ? -1 : 0, most = is_down ? n - 1 : n;
    *ret = i < least ? least : i > most ? most : i;
    return true;
}

static struct jinja_value eval_slice(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value of = jinja_eval(run, node->a), by = node->d == NULL ? jinja_int(1) : jinja_eval(run, node->d), result;
    const struct jinja_list *items;
    int64_t begin, end;
    if (of.type == JINJA_UNDEFINED)
        return undefined_of(run, &of);
    if (by.type == JINJA_NONE)
        by = jinja_int(1);
    if ((of.type != JINJA_LIST && of.type != JINJA_STRING) || by.type != JINJA_INT || by.integer == 0)
        return jinja_fail(run, "a %s cannot be sliced so", jinja_type_name(&of));
    int64_t n = jinja_length(&of);
    bool is_down = by.integer < 0;
    if (!slice_bound(run, node->b, n, is_down, is_down ? n - 1 : 0, &begin) || !slice_bound(run, node->c, n, is_down, is_down ? -1 : n, &end))
        return jinja_none();
    if (of.type == JINJA_STRING && by.integer == 1) {
        size_t from = char_offset(&of.string, begin), to = end > begin ? char_offset(&of.string, end) : from;
        return jinja_string(of.string.bytes + from, to - from);
    }
    jinja_iterate(&run->arena, &of, &items);
    result = jinja_new_list(&run->arena);
    result.is_tuple = of.is_tuple;
    for (int64_t i = begin; (is_down ? i > end : i < end) && i < items->n;) {
        jinja_list_add(&run->arena, result.list, items->items[i]);
        if (__builtin_add_overflow(i, by.integer, &i))
            break;
    }
    if (of.type == JINJA_LIST)
        return result;
    struct buf text = jinja_new_buf(run);
    for (int i = 0; i < result.list->n; i++)
        jinja_print(&result.list->items[i], &text);
    return jinja_take_buf(run, &text);
}

/* ---- Operators ---- */

bool jinja_contains(struct jinja_run *run, const struct jinja_value *in, const struct jinja_value *item) {
    if (in->type == JINJA_STRING) {
        if (item->type != JINJA_STRING)
            jinja_fail(run, "'in <string>' requires string as left operand, not %s", jinja_type_name(item));
        else
            return item->string.len_bytes == 0 || memmem(in->string.bytes, in->string.len_bytes, item->string.bytes, item->string.len_bytes) != NULL;
    } else if (in->type == JINJA_DICT) {
        return jinja_dict_get(in->dict, *item) != NULL;
    } else if (in->type == JINJA_LIST) {
        for (int i = 0; i < in->list->n; i++)
            if (jinja_equal(&in->list->items[i], item))
                return true;
    } else if (in->type != JINJA_UNDEFINED) {
        jinja_fail(run, "argument of type '%s' is not iterable", jinja_type_name(in));
    }
    return false;
}

static struct jinja_value wrong_operands(struct jinja_run *run, const struct jinja_string *op, const struct jinja_value *a, const struct jinja_value *b) {
    if (a->type == JINJA_UNDEFINED)
        return undefined_of(run, a);
    if (b->type == JINJA_UNDEFINED)
        return undefined_of(run, b);
    return jinja_fail(run, "unsupported operand type(s) for %.*s: '%s' and '%s'", (int)op->len_bytes, op->bytes, jinja_type_name(a), jinja_type_name(b));
}

static struct jinja_value join(struct jinja_run *run, const struct jinja_value *a, const struct jinja_value *b) {
    struct buf text = jinja_new_buf(run);
    jinja_print(a, &text);
    jinja_print(b, &text);
    return jinja_take_buf(run, &text);
}

static struct jinja_value repeat(struct jinja_run *run, const struct jinja_value *what, int64_t times) {
    if (what->type == JINJA_STRING) {
        struct buf text = jinja_new_buf(run);
        for (int64_t i = 0; i < times && what->string.len_bytes > 0 && !text.failed; i++)
            buf_append(&text, what->string.bytes, what->string.len_bytes);
        return jinja_take_buf(run, &text);
    }
    struct jinja_value list = jinja_new_list(&run->arena);
    list.is_tuple = what->is_tuple;
    for (int64_t i = 0; i < times && what->list->n > 0 && !run->arena.failed; i++)
        for (int k = 0; k < what->list->n; k++)
            jinja_list_add(&run->arena, list.list, what->list->items[k]);
    return list;
}

static struct jinja_value int_math(struct jinja_run *run, const struct jinja_string *op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflows = false;
    char c = op->bytes[0];
    bool is_double = op->len_bytes == 2;
    if ((c == '/' || c == '%') && b == 0)
        return jinja_fail(run, "division by zero");
    if (c == '/' && !is_double)
        return jinja_real((double)a / (double)b);
    if ((c == '/' || c == '%') && b == -1) { /* the one division that overflows */
        overflows = a == INT64_MIN;
        return overflows ? jinja_fail(run, "number out of range") : jinja_int(c == '/' ? -a : 0);
    }
    if (c == '+')
        overflows = __builtin_add_overflow(a, b, &result);
    else if (c == '-')
        overflows = __builtin_sub_overflow(a, b, &result);
    else if (c == '*' && !is_double)
        overflows = __builtin_mul_overflow(a, b, &result);
    else if (c == '/')
        result = a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
    else if (c == '%')
        result = a % b + ((a % b != 0) && ((a < 0) != (b < 0)) ? b : 0);
    else if (b < 0)
        return jinja_real(pow((double)a, (double)b));
    else
        for (result = 1; b > 0 && !overflows; b--)
            overflows = __builtin_mul_overflow(result, a, &result) || --run->steps_left < 0;
    return overflows ? jinja_fail(run, "number out of range") : jinja_int(result);
}

static struct jinja_value real_math(struct jinja_run *run, const struct jinja_string *op, double a, double b) {
    char c = op->bytes[0];
    if ((c == '/' || c == '%') && b == 0)
        return jinja_fail(run, "float division by zero");
    switch (c) {
    case '+': return jinja_real(a + b);
    case '-': return jinja_real(a - b);
    case '*': return jinja_real(op->len_bytes == 2 ? pow(a, b) : a * b);
    case '/': return jinja_real(op->len_bytes == 2 ? floor(a / b) : a / b);
    default: {
        double rest = fmod(a, b);
        return jinja_real(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
    }
    }
}

struct jinja_value jinja_binary(struct jinja_run *run, const struct jinja_string *op, const struct jinja_value *a, const struct jinja_value *b) {
    if (op->bytes[0] == '~')
        return join(run, a, b);
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (a->type == JINJA_FLOAT || b->type == JINJA_FLOAT)
            return real_math(run, op, jinja_number(a), jinja_number(b));
        return int_math(run, op, (int64_t)jinja_number(a) == 0 && a->type == JINJA_BOOL ? 0 : a->type == JINJA_BOOL ? 1 : a->integer,
                        b->type == JINJA_BOOL ? b->boolean : b->integer);
    }
    if (jinja_text_is(op, "+") && a->type == JINJA_STRING && b->type == JINJA_STRING)
        return join(run, a, b);
    if (jinja_text_is(op, "+") && a->type == JINJA_LIST && b->type == JINJA_LIST && a->is_tuple == b->is_tuple) {
        struct jinja_value list = repeat(run, a, 1);
        for (int i = 0; i < b->list->n; i++)
            jinja_list_add(&run->arena, list.list, b->list->items[i]);
        return list;
    }
    if (jinja_text_is(op, "*") && (a->type == JINJA_STRING || a->type == JINJA_LIST) && b->type == JINJA_INT)
        return repeat(run, a, b->integer);
    if (jinja_text_is(op, "*") && a->type == JINJA_INT && (b->type == JINJA_STRING || b->type == JINJA_LIST))
        return repeat(run, b, a->integer);
    if (jinja_text_is(op, "%") && a->type == JINJA_STRING) {
        struct jinja_args args = {.n_positional = 1, .positional = {*b}};
        struct jinja_string name = {"format", 6};
        if (b->type == JINJA_LIST && b->is_tuple) {
            args.n_positional = b->list->n < JINJA_MAX_ARGS ? b->list->n : JINJA_MAX_ARGS;
            for (int i = 0; i < args.n_positional; i++)
                args.positional[i] = b->list->items[i];
        }
        return jinja_filter(run, &name, a, &args);
    }
    return wrong_operands(run, op, a, b);
}

static struct jinja_value eval_binary(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value a = jinja_eval(run, node->a);
    if (jinja_text_is(&node->text, "and"))
        return jinja_truth(&a) ? jinja_eval(run, node->b) : a;
    if (jinja_text_is(&node->text, "or"))
        return jinja_truth(&a) ? a : jinja_eval(run, node->b);
    struct jinja_value b = jinja_eval(run, node->b);
    return run->failed ? jinja_none() : jinja_binary(run, &node->text, &a, &b);
}

static bool compare_one(struct jinja_run *run, const struct jinja_string *op, const struct jinja_value *a, const struct jinja_value *b) {
    if (jinja_text_is(op, "=="))
        return jinja_equal(a, b);
    if (jinja_text_is(op, "!="))
        return !jinja_equal(a, b);
    if (jinja_text_is(op, "in"))
        return jinja_contains(run, b, a);
    if (jinja_text_is(op, "not in"))
        return !jinja_contains(run, b, a);
    bool ok;
    int order = jinja_compare(a, b, &ok);
    if (!ok) {
        if (a->type == JINJA_UNDEFINED || b->type == JINJA_UNDEFINED)
            undefined_of(run, a->type == JINJA_UNDEFINED ? a : b);
        else
            jinja_fail(run, "'%.*s' not supported between instances of '%s' and '%s'", (int)op->len_bytes, op->bytes, jinja_type_name(a), jinja_type_name(b));
        return false;
    }
    bool or_equal = op->len_bytes == 2 && order == 0;
    return or_equal || (op->bytes[0] == '<' ? order < 0 : order > 0);
}

static struct jinja_value eval_compare(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value left = jinja_eval(run, node->a);
    for (const struct jinja_node *operand = node->b; operand != NULL; operand = operand->next) {
        struct jinja_value right = jinja_eval(run, operand->a);
        if (run->failed || !compare_one(run, &operand->text, &left, &right))
            return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_unary(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value a = jinja_eval(run, node->a);
    if (jinja_text_is(&node->text, "not"))
        return jinja_bool(!jinja_truth(&a));
    if (a.type == JINJA_UNDEFINED)
        return undefined_of(run, &a);
    if (!jinja_is_number(&a))
        return jinja_fail(run, "bad operand type for unary %c: '%s'", node->text.bytes[0], jinja_type_name(&a));
    if (a.type == JINJA_FLOAT)
        return jinja_real(node->text.bytes[0] == '-' ? -a.real : a.real);
    int64_t whole = a.type == JINJA_BOOL ? a.boolean : a.integer;
    return jinja_int(node->text.bytes[0] == '-' && whole != INT64_MIN ? -whole : whole);
}

/* ---- Calls ---- */

static bool eval_args(struct jinja_run *run, const struct jinja_node *args, struct jinja_args *ret) {
    ret->n_positional = ret->n_named = 0;
    for (const struct jinja_node *arg = args; arg != NULL; arg = arg->next) {
        struct jinja_value value = jinja_eval(run, arg->a);
        if (ret->n_positional == JINJA_MAX_ARGS || ret->n_named == JINJA_MAX_ARGS) {
            jinja_fail(run, "more than %d arguments", JINJA_MAX_ARGS);
        } else if (arg->text.len_bytes > 0) {
            ret->names[ret->n_named] = arg->text;
            ret->named[ret->n_named++] = value;
        } else {
            ret->positional[ret->n_positional++] = value;
        }
    }
    return !run->failed;
}

/* Runs a body into a buffer of its own. */
static struct jinja_value capture(struct jinja_run *run, const struct jinja_node *body) {
    struct buf text = jinja_new_buf(run), *out = run->out;
    run->out = &text;
    jinja_exec(run, body);
    run->out = out;
    return jinja_take_buf(run, &text);
}

struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro, const struct jinja_args *args, const struct jinja_value *caller) {
    struct jinja_scope *outer = run->scope, *scope;
    int index = 0;
    if (++run->depth > JINJA_MAX_DEPTH)
        return jinja_fail(run, "calls are nested deeper than %d", JINJA_MAX_DEPTH);
    scope = push_scope(run, macro->scope);
    if (caller != NULL)
        jinja_dict_set(&run->arena, &scope->vars, jinja_string("caller", 6), *caller);
    for (const struct jinja_node *parameter = macro->parameters; parameter != NULL; parameter = parameter->next, index++) {
        const struct jinja_value *given = index < args->n_positional ? &args->positional[index] : NULL;
        for (int i = 0; i < args->n_named && given == NULL; i++)
            if (args->names[i].len_bytes == parameter->text.len_bytes && memcmp(args->names[i].bytes, parameter->text.bytes, parameter->text.len_bytes) == 0)
                given = &args->named[i];
        assign(run, &parameter->text, given != NULL           ? *given
                                      : parameter->a != NULL ? jinja_eval(run, parameter->a)
                                                             : jinja_undefined(parameter->text.bytes, parameter->text.len_bytes));
    }
    if (args->n_positional > index)
        jinja_fail(run, "macro '%.*s' takes not more than %d argument(s)", (int)macro->name.len_bytes, macro->name.bytes, index);
    struct jinja_value result = run->failed ? jinja_none() : capture(run, macro->body);
    run->scope = outer;
    run->depth--;
    return result;
}

static struct jinja_value call(struct jinja_run *run, const struct jinja_value *callee, const struct jinja_args *args, const struct jinja_value *caller) {
    switch (callee->type) {
    case JINJA_MACRO: return jinja_call_macro(run, callee->macro, args, caller);
    case JINJA_BUILTIN: return jinja_call_builtin(run, &callee->string, args);
    case JINJA_METHOD: return jinja_call_method(run, &callee->method->self, &callee->method->name, args);
    case JINJA_UNDEFINED: return undefined_of(run, callee);
    default: return jinja_fail(run, "'%s' object is not callable", jinja_type_name(callee));
    }
}

static struct jinja_value eval_call(struct jinja_run *run, const struct jinja_node *node, const struct jinja_value *caller) {
    struct jinja_value callee = jinja_eval(run, node->a);
    struct jinja_args args;
    if (run->failed || !eval_args(run, node->b, &args))
        return jinja_none();
    run->line = node->line;
    return call(run, &callee, &args, caller);
}

static struct jinja_value apply_filter(struct jinja_run *run, const struct jinja_node *node, struct jinja_value value) {
    struct jinja_args args;
    if (run->failed || !eval_args(run, node->b, &args))
        return jinja_none();
    run->line = node->line;
    return jinja_filter(run, &node->text, &value, &args);
}

static struct jinja_value eval_test(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value value = jinja_eval(run, node->a);
    struct jinja_args args;
    if (run->failed || !eval_args(run, node->b, &args))
        return jinja_none();
    return jinja_bool(jinja_test(run, &node->text, &value, &args));
}

static struct jinja_value eval_items(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value list = jinja_new_list(&run->arena);
    list.is_tuple = node->kind == NODE_TUPLE;
    for (const struct jinja_node *item = node->a; item != NULL && !run->failed; item = item->next)
        jinja_list_add(&run->arena, list.list, jinja_eval(run, item));
    return list;
}

static struct jinja_value eval_dict(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value dict = jinja_new_dict(&run->arena);
    for (const struct jinja_node *pair = node->a; pair != NULL && !run->failed; pair = pair->next) {
        struct jinja_value key = jinja_eval(run, pair->a);
        jinja_dict_set(&run->arena, dict.dict, key, jinja_eval(run, pair->b));
    }
    return dict;
}

static struct jinja_value eval_kind(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value a, b;
    switch (node->kind) {
    case NODE_CONST: return node->value;
    case NODE_NAME: return look_up(run, &node->text);
    case NODE_LIST:
    case NODE_TUPLE: return eval_items(run, node);
    case NODE_DICT: return eval_dict(run, node);
    case NODE_UNARY: return eval_unary(run, node);
    case NODE_BINARY: return eval_binary(run, node);
    case NODE_COMPARE: return eval_compare(run, node);
    case NODE_IF_EXPR:
        b = jinja_eval(run, node->b);
        return jinja_truth(&b) ? jinja_eval(run, node->a) : node->c != NULL ? jinja_eval(run, node->c) : jinja_undefined("if", 2);
    case NODE_ATTR:
        a = jinja_eval(run, node->a);
        return run->failed ? a : jinja_get_attr(run, &a, node->text);
    case NODE_ITEM:
        a = jinja_eval(run, node->a);
        b = jinja_eval(run, node->b);
        return run->failed ? a : jinja_get_item(run, &a, &b);
    case NODE_SLICE: return eval_slice(run, node);
    case NODE_CALL: return eval_call(run, node, NULL);
    case NODE_FILTER: return apply_filter(run, node, jinja_eval(run, node->a));
    case NODE_TEST: return eval_test(run, node);
    default: return jinja_fail(run, "this is no expression");
    }
}

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_node *node) {
    if (!step(run, node))
        return jinja_none();
    if (++run->depth > JINJA_MAX_DEPTH)
        return jinja_fail(run, "nested deeper than %d", JINJA_MAX_DEPTH);
    struct jinja_value value = eval_kind(run, node);
    run->depth--;
    return value;
}

/* ---- Statements ---- */

/* The items that the loop's filter lets through. */
static const struct jinja_list *filtered(struct jinja_run *run, const struct jinja_node *node, const struct jinja_list *items) {
    struct jinja_value kept = jinja_new_list(&run->arena);
    for (int i = 0; i < items->n && step(run, node); i++) {
        struct jinja_scope *outer = run->scope;
        push_scope(run, outer);
        assign_target(run, node->a, items->items[i]);
        struct jinja_value passes = jinja_eval(run, node->e);
        run->scope = outer;
        if (jinja_truth(&passes))
            jinja_list_add(&run->arena, kept.list, items->items[i]);
    }
    return kept.list;
}

static void exec_for(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value over = jinja_eval(run, node->b);
    const struct jinja_list *items;
    struct jinja_loop *loop = jinja_alloc(&run->arena, sizeof *loop);
    if (run->failed || loop == NULL)
        return;
    if (!jinja_iterate(&run->arena, &over, &items)) {
        jinja_fail(run, "'%s' object is not iterable", jinja_type_name(&over));
        return;
    }
    if (node->e != NULL)
        items = filtered(run, node, items);
    loop->items = items;
    for (int i = 0; i < items->n && run->flow != JINJA_BREAKS && step(run, node); i++) {
        struct jinja_scope *outer = run->scope, *scope = push_scope(run, outer);
        loop->index = i;
        jinja_dict_set(&run->arena, &scope->vars, jinja_string("loop", 4), (struct jinja_value){.type = JINJA_LOOP, .loop = loop});
        assign_target(run, node->a, items->items[i]);
        jinja_exec(run, node->c);
        run->scope = outer;
        if (run->flow == JINJA_CONTINUES)
            run->flow = JINJA_GOES_ON;
    }
    run->flow = JINJA_GOES_ON;
    if (items->n == 0 && node->d != NULL)
        jinja_exec(run, node->d);
}

static struct jinja_value run_filters(struct jinja_run *run, const struct jinja_node *filter, struct jinja_value value) {
    return filter == NULL ? value : apply_filter(run, filter, run_filters(run, filter->a, value));
}

static void exec_set(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value value = node->b != NULL ? jinja_eval(run, node->b) : run_filters(run, node->d, capture(run, node->c));
    if (!run->failed)
        assign_target(run, node->a, value);
}

static struct jinja_value new_macro(struct jinja_run *run, const struct jinja_node *node, const struct jinja_node *parameters, struct jinja_string name) {
    struct jinja_macro *macro = jinja_alloc(&run->arena, sizeof *macro);
    if (macro == NULL)
        return jinja_none();
    *macro = (struct jinja_macro){.parameters = parameters, .body = node->b, .scope = run->scope, .name = name};
    return (struct jinja_value){.type = JINJA_MACRO, .macro = macro};
}

static void exec_print(struct jinja_run *run, struct jinja_value value) {
    if (!run->failed)
        jinja_print(&value, run->out);
}

static void exec_one(struct jinja_run *run, const struct jinja_node *node) {
    struct jinja_value value;
    switch (node->kind) {
    case NODE_TEXT: buf_append(run->out, node->value.string.bytes, node->value.string.len_bytes); return;
    case NODE_PRINT: exec_print(run, jinja_eval(run, node->a)); return;
    case NODE_IF:
        value = jinja_eval(run, node->a);
        if (!run->failed)
            jinja_exec(run, jinja_truth(&value) ? node->b : node->c);
        return;
    case NODE_FOR: exec_for(run, node); return;
    case NODE_SET: exec_set(run, node); return;
    case NODE_MACRO: assign(run, &node->text, new_macro(run, node, node->a, node->text)); return;
    case NODE_CALL_BLOCK:
        value = new_macro(run, node, node->c, (struct jinja_string){"caller", 6});
        exec_print(run, eval_call(run, node->a, &value));
        return;
    case NODE_FILTER_BLOCK: exec_print(run, run_filters(run, node->a, capture(run, node->b))); return;
    case NODE_BREAK: run->flow = JINJA_BREAKS; return;
    case NODE_CONTINUE: run->flow = JINJA_CONTINUES; return;
    default: jinja_fail(run, "this is no statement"); return;
    }
}

void jinja_exec(struct jinja_run *run, const struct jinja_node *body) {
    if (++run->depth > JINJA_MAX_DEPTH)
        jinja_fail(run, "nested deeper than %d", JINJA_MAX_DEPTH);
    for (const struct jinja_node *node = body; node != NULL && run->flow == JINJA_GOES_ON && step(run, node); node = node->next)
        exec_one(run, node);
    run->depth--;
}
