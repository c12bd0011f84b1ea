/* The tests of Jinja2 ("x is defined"); see jinja_eval.h. */
#include "text/jinja_eval.h"

#include <ctype.h>
#include <string.h>

static bool is_cased(const struct jinja_value *v, bool wants_upper) {
    bool has_letter = false;
    if (v->type != JINJA_STRING)
        return false;
    for (size_t i = 0; i < v->string.len_bytes; i++) {
        unsigned char c = (unsigned char)v->string.bytes[i];
        if (wants_upper ? islower(c) : isupper(c))
            return false;
        has_letter = has_letter || isalpha(c);
    }
    return has_letter;
}

/* Tests with one argument: the comparison operators by name and by sign. */
static bool compare(struct jinja_run *run, const struct jinja_string *name, const struct jinja_value *a, const struct jinja_value *b, bool *ret) {
    static const struct {
        const char *names[4];
        int least, most; /* of the order */
    } orders[] = {{{"lt", "lessthan", "<"}, -1, -1}, {{"le", "<="}, -1, 0}, {{"gt", "greaterthan", ">"}, 1, 1}, {{"ge", ">="}, 0, 1}};
    if (jinja_text_is(name, "eq") || jinja_text_is(name, "equalto") || jinja_text_is(name, "==")) {
        *ret = jinja_equal(a, b);
        return true;
    }
    if (jinja_text_is(name, "ne") || jinja_text_is(name, "!=")) {
        *ret = !jinja_equal(a, b);
        return true;
    }
    if (jinja_text_is(name, "in")) {
        *ret = jinja_contains(run, b, a);
        return true;
    }
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++)
        for (int n = 0; n < 4 && orders[i].names[n] != NULL; n++)
            if (jinja_text_is(name, orders[i].names[n])) {
                bool ok;
                int order = jinja_compare(a, b, &ok);
                if (!ok)
                    jinja_fail(run, "a %s and a %s have no order", jinja_type_name(a), jinja_type_name(b));
                *ret = order >= orders[i].least && order <= orders[i].most;
                return true;
            }
    return false;
}

bool jinja_test(struct jinja_run *run, const struct jinja_string *name, const struct jinja_value *v, const struct jinja_args *args) {
    const struct jinja_value *arg = jinja_arg(args, 0, NULL);
    bool result = false;
    if (jinja_text_is(name, "defined"))
        return v->type != JINJA_UNDEFINED;
    if (jinja_text_is(name, "undefined"))
        return v->type == JINJA_UNDEFINED;
    if (jinja_text_is(name, "none"))
        return v->type == JINJA_NONE;
    if (jinja_text_is(name, "string"))
        return v->type == JINJA_STRING;
    if (jinja_text_is(name, "mapping"))
        return v->type == JINJA_DICT;
    if (jinja_text_is(name, "number"))
        return jinja_is_number(v);
    if (jinja_text_is(name, "integer"))
        return v->type == JINJA_INT;
    if (jinja_text_is(name, "float"))
        return v->type == JINJA_FLOAT;
    if (jinja_text_is(name, "boolean"))
        return v->type == JINJA_BOOL;
    if (jinja_text_is(name, "true"))
        return v->type == JINJA_BOOL && v->boolean;
    if (jinja_text_is(name, "false"))
        return v->type == JINJA_BOOL && !v->boolean;
    if (jinja_text_is(name, "iterable") || jinja_text_is(name, "sequence"))
        return v->type == JINJA_LIST || v->type == JINJA_DICT || v->type == JINJA_STRING || v->type == JINJA_UNDEFINED;
    if (jinja_text_is(name, "callable"))
        return v->type == JINJA_MACRO || v->type == JINJA_BUILTIN || v->type == JINJA_METHOD;
    if (jinja_text_is(name, "upper") || jinja_text_is(name, "lower"))
        return is_cased(v, name->bytes[0] == 'u');
    if (jinja_text_is(name, "sameas") && arg != NULL)
        return v->type == arg->type && jinja_equal(v, arg);
    if ((jinja_text_is(name, "odd") || jinja_text_is(name, "even") || jinja_text_is(name, "divisibleby")) && v->type == JINJA_INT) {
        int64_t by = jinja_text_is(name, "divisibleby") && arg != NULL && arg->type == JINJA_INT ? arg->integer : 2;
        if (by == 0)
            jinja_fail(run, "integer modulo by zero");
        bool divides = by != 0 && (by == -1 || v->integer % by == 0);
        return jinja_text_is(name, "odd") ? !divides : divides;
    }
    if (arg != NULL && compare(run, name, v, arg, &result))
        return result;
    jinja_fail(run, "No test named '%.*s'.", (int)name->len_bytes, name->bytes);
    return false;
}
