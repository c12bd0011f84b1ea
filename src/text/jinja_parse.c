/* Recursive descent over the grammar of Jinja2's templates; see jinja_ast.h. Depth is bounded, so that no template overflows the stack. */
#include <string.h>

#include "text/jinja_ast.h"
#include "text/jinja_lex.h"

enum { MAX_DEPTH = 120 };

struct parser {
    struct jinja_lexer lexer;
    struct jinja_token token; /* the one to be looked at */
    struct jinja_arena *arena;
    struct err *err;
    int depth;
    bool failed;
};

static struct jinja_node *parse_expr(struct parser *p);
static struct jinja_node *parse_unary(struct parser *p, bool with_filters);
static struct jinja_node *parse_body(struct parser *p, const char *const *ends, struct jinja_string *ret_end);

static void *fail(struct parser *p, int line, const char *what, const struct jinja_string *text) {
    if (!p->failed)
        err_set(p->err, ERR_INVALID, "line %d: %s%s%.*s%s", line, what, text != NULL ? " '" : "", text != NULL ? (int)(text->len_bytes < 60 ? text->len_bytes : 60) : 0,
                text != NULL ? text->bytes : "", text != NULL ? "'" : "");
    p->failed = true;
    return NULL;
}

static void advance(struct parser *p) {
    if (!p->failed && jinja_lexer_next(&p->lexer, &p->token) != 0)
        p->failed = true;
    if (p->failed)
        p->token = (struct jinja_token){.kind = TOKEN_END, .line = p->token.line};
}

static struct jinja_node *new_node(struct parser *p, enum jinja_node_kind kind, int line) {
    static struct jinja_node spare; /* handed out when memory is out; the parser has failed then and nobody looks at it */
    struct jinja_node *node = jinja_alloc(p->arena, sizeof *node);
    if (node == NULL) {
        if (!p->failed)
            err_set(p->err, ERR_LIMIT, "line %d: the template takes more than %zu bytes of memory", line, p->arena->limit_bytes);
        p->failed = true;
        return &spare;
    }
    node->kind = kind;
    node->line = line;
    return node;
}

static bool is_op(const struct parser *p, const char *op) { return p->token.kind == TOKEN_OPERATOR && jinja_text_is(&p->token.text, op); }
static bool is_name(const struct parser *p, const char *name) { return p->token.kind == TOKEN_NAME && jinja_text_is(&p->token.text, name); }

static bool take_op(struct parser *p, const char *op) {
    if (!is_op(p, op))
        return false;
    advance(p);
    return true;
}

static bool take_name(struct parser *p, const char *name) {
    if (!is_name(p, name))
        return false;
    advance(p);
    return true;
}

static void expect_op(struct parser *p, const char *op) {
    if (!take_op(p, op)) {
        struct jinja_string wanted = {op, strlen(op)};
        fail(p, p->token.line, "expected", &wanted);
    }
}

static struct jinja_string expect_name(struct parser *p) {
    struct jinja_string name = p->token.text;
    if (p->token.kind != TOKEN_NAME)
        fail(p, p->token.line, "expected a name", NULL);
    advance(p);
    return name;
}

static bool enter(struct parser *p) {
    if (++p->depth > MAX_DEPTH)
        fail(p, p->token.line, "nested too deeply", NULL);
    return !p->failed;
}

/* Appends to a linked list; *tail is where the next goes. */
static void link_node(struct jinja_node ***tail, struct jinja_node *node) {
    if (node == NULL)
        return;
    **tail = node;
    *tail = &node->next;
}

/* ---- Expressions ---- */

static struct jinja_node *parse_args(struct parser *p) {
    struct jinja_node *first = NULL, **tail = &first;
    while (!p->failed && !is_op(p, ")")) {
        struct jinja_node *arg = new_node(p, NODE_ARG, p->token.line);
        if (is_op(p, "*") || is_op(p, "**"))
            return fail(p, p->token.line, "argument lists with * or ** are not supported", NULL);
        arg->a = parse_expr(p);
        if (arg->a != NULL && arg->a->kind == NODE_NAME && is_op(p, "=")) {
            arg->text = arg->a->text;
            advance(p);
            arg->a = parse_expr(p);
        }
        link_node(&tail, arg);
        if (!take_op(p, ","))
            break;
    }
    expect_op(p, ")");
    return first;
}

static struct jinja_node *parse_items(struct parser *p, enum jinja_node_kind kind, const char *close, int line) {
    struct jinja_node *node = new_node(p, kind, line), **tail = &node->a;
    while (!p->failed && !is_op(p, close)) {
        link_node(&tail, parse_expr(p));
        if (!take_op(p, ","))
            break;
    }
    expect_op(p, close);
    return node;
}

static struct jinja_node *parse_dict(struct parser *p, int line) {
    struct jinja_node *node = new_node(p, NODE_DICT, line), **tail = &node->a;
    while (!p->failed && !is_op(p, "}")) {
        struct jinja_node *pair = new_node(p, NODE_PAIR, p->token.line);
        pair->a = parse_expr(p);
        expect_op(p, ":");
        pair->b = parse_expr(p);
        link_node(&tail, pair);
        if (!take_op(p, ","))
            break;
    }
    expect_op(p, "}");
    return node;
}

/* "(a)", "(a, b)", "()". */
static struct jinja_node *parse_parens(struct parser *p, int line) {
    if (take_op(p, ")"))
        return new_node(p, NODE_TUPLE, line);
    struct jinja_node *first = parse_expr(p);
    if (!is_op(p, ",")) {
        expect_op(p, ")");
        return first;
    }
    struct jinja_node *tuple = new_node(p, NODE_TUPLE, line), **tail = &tuple->a;
    link_node(&tail, first);
    while (!p->failed && take_op(p, ",") && !is_op(p, ")"))
        link_node(&tail, parse_expr(p));
    expect_op(p, ")");
    return tuple;
}

static struct jinja_node *constant(struct parser *p, int line, struct jinja_value value) {
    struct jinja_node *node = new_node(p, NODE_CONST, line);
    node->value = value;
    return node;
}

/* Neighbouring strings are one. */
static struct jinja_node *parse_string(struct parser *p, int line) {
    struct jinja_string whole = p->token.text;
    advance(p);
    while (p->token.kind == TOKEN_STRING && !p->failed) {
        char *joined = jinja_alloc(p->arena, whole.len_bytes + p->token.text.len_bytes + 1);
        if (joined == NULL)
            return fail(p, line, "the template takes too much memory", NULL);
        memcpy(joined, whole.bytes, whole.len_bytes);
        memcpy(joined + whole.len_bytes, p->token.text.bytes, p->token.text.len_bytes);
        whole = (struct jinja_string){joined, whole.len_bytes + p->token.text.len_bytes};
        advance(p);
    }
    return constant(p, line, jinja_string(whole.bytes, whole.len_bytes));
}

static struct jinja_node *parse_primary(struct parser *p) {
    struct jinja_token token = p->token;
    if (token.kind == TOKEN_STRING)
        return parse_string(p, token.line);
    advance(p);
    if (token.kind == TOKEN_INT)
        return constant(p, token.line, jinja_int(token.integer));
    if (token.kind == TOKEN_FLOAT)
        return constant(p, token.line, jinja_real(token.real));
    if (token.kind == TOKEN_NAME) {
        const struct jinja_string *name = &token.text;
        if (jinja_text_is(name, "true") || jinja_text_is(name, "True") || jinja_text_is(name, "false") || jinja_text_is(name, "False"))
            return constant(p, token.line, jinja_bool(name->bytes[0] == 't' || name->bytes[0] == 'T'));
        if (jinja_text_is(name, "none") || jinja_text_is(name, "None"))
            return constant(p, token.line, jinja_none());
        struct jinja_node *node = new_node(p, NODE_NAME, token.line);
        node->text = token.text;
        return node;
    }
    if (token.kind == TOKEN_OPERATOR && token.text.bytes[0] == '(')
        return parse_parens(p, token.line);
    if (token.kind == TOKEN_OPERATOR && token.text.bytes[0] == '[')
        return parse_items(p, NODE_LIST, "]", token.line);
    if (token.kind == TOKEN_OPERATOR && token.text.bytes[0] == '{')
        return parse_dict(p, token.line);
    return fail(p, token.line, "expected an expression, found", token.kind == TOKEN_OPERATOR ? &token.text : NULL);
}

/* After "[": an index or a slice. */
static struct jinja_node *parse_subscript(struct parser *p, struct jinja_node *of, int line) {
    struct jinja_node *parts[3] = {NULL}, *node;
    int n = 0;
    while (!p->failed && n < 3) {
        if (!is_op(p, ":") && !is_op(p, "]"))
            parts[n] = parse_expr(p);
        n++;
        if (!take_op(p, ":"))
            break;
        if (n == 3)
            return fail(p, line, "a slice has three parts at most", NULL);
        if (is_op(p, "]")) {
            n++;
            break;
        }
    }
    expect_op(p, "]");
    node = new_node(p, n > 1 ? NODE_SLICE : NODE_ITEM, line);
    node->a = of;
    node->b = parts[0];
    node->c = parts[1];
    node->d = parts[2];
    if (n == 1 && parts[0] == NULL)
        return fail(p, line, "an index is missing", NULL);
    return node;
}

static struct jinja_node *parse_postfix(struct parser *p, struct jinja_node *node) {
    while (!p->failed) {
        int line = p->token.line;
        if (take_op(p, ".")) {
            struct jinja_token token = p->token;
            struct jinja_node *attr = new_node(p, token.kind == TOKEN_INT ? NODE_ITEM : NODE_ATTR, line);
            attr->a = node;
            if (token.kind == TOKEN_INT) {
                attr->b = constant(p, line, jinja_int(token.integer));
                advance(p);
            } else {
                attr->text = expect_name(p);
            }
            node = attr;
        } else if (take_op(p, "[")) {
            node = parse_subscript(p, node, line);
        } else if (take_op(p, "(")) {
            struct jinja_node *call = new_node(p, NODE_CALL, line);
            call->a = node;
            call->b = parse_args(p);
            node = call;
        } else {
            return node;
        }
    }
    return NULL;
}

static struct jinja_node *parse_one_filter(struct parser *p, struct jinja_node *of, int line) {
    struct jinja_node *filter = new_node(p, NODE_FILTER, line);
    filter->a = of;
    filter->text = expect_name(p);
    if (take_op(p, "("))
        filter->b = parse_args(p);
    return filter;
}

/* A test's argument may stand without brackets: "is divisibleby 3". */
static bool starts_argument(const struct parser *p) {
    if (p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_INT || p->token.kind == TOKEN_FLOAT)
        return true;
    if (p->token.kind == TOKEN_NAME)
        return !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "is") && !is_name(p, "if") && !is_name(p, "in") &&
               !is_name(p, "not");
    return is_op(p, "[") || is_op(p, "{");
}

static struct jinja_node *parse_test(struct parser *p, struct jinja_node *of, int line) {
    bool is_negated = take_name(p, "not");
    struct jinja_node *test = new_node(p, NODE_TEST, line);
    test->a = of;
    test->text = expect_name(p);
    if (take_op(p, "(")) {
        test->b = parse_args(p);
    } else if (starts_argument(p)) {
        test->b = new_node(p, NODE_ARG, line);
        test->b->a = parse_postfix(p, parse_primary(p));
    }
    if (!is_negated)
        return test;
    struct jinja_node *negated = new_node(p, NODE_UNARY, line);
    negated->text = (struct jinja_string){"not", 3};
    negated->a = test;
    return negated;
}

static struct jinja_node *parse_filters(struct parser *p, struct jinja_node *node) {
    while (!p->failed) {
        int line = p->token.line;
        if (take_op(p, "|")) {
            node = parse_one_filter(p, node, line);
        } else if (take_name(p, "is")) {
            node = parse_test(p, node, line);
        } else if (take_op(p, "(")) { /* the result of a filter, called */
            struct jinja_node *call = new_node(p, NODE_CALL, line);
            call->a = node;
            call->b = parse_args(p);
            node = call;
        } else {
            return node;
        }
    }
    return NULL;
}

static struct jinja_node *parse_unary(struct parser *p, bool with_filters) {
    struct jinja_node *node;
    int line = p->token.line;
    if (!enter(p))
        return NULL;
    if (is_op(p, "-") || is_op(p, "+")) {
        node = new_node(p, NODE_UNARY, line);
        node->text = p->token.text;
        advance(p);
        node->a = parse_unary(p, false);
    } else {
        node = parse_primary(p);
    }
    if (!p->failed)
        node = parse_postfix(p, node);
    if (with_filters && !p->failed)
        node = parse_filters(p, node);
    p->depth--;
    return p->failed ? NULL : node;
}

/* Binary operators by level, loosest first. */
static const char *const levels[][5] = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static struct jinja_node *parse_binary(struct parser *p, int level) {
    if (level == N_LEVELS)
        return parse_unary(p, true);
    struct jinja_node *left = parse_binary(p, level + 1);
    for (;;) {
        const char *op = NULL;
        for (int i = 0; i < 5 && levels[level][i] != NULL && op == NULL; i++)
            op = is_op(p, levels[level][i]) ? levels[level][i] : NULL;
        if (op == NULL || p->failed)
            return left;
        struct jinja_node *node = new_node(p, NODE_BINARY, p->token.line);
        advance(p);
        node->text = (struct jinja_string){op, strlen(op)};
        node->a = left;
        node->b = parse_binary(p, level + 1);
        left = node;
    }
}

static struct jinja_node *parse_compare(struct parser *p) {
    static const char *const operators[] = {"==", "!=", "<=", ">=", "<", ">"};
    struct jinja_node *left = parse_binary(p, 0), *compare = NULL, **tail = NULL;
    for (;;) {
        struct jinja_string op = {NULL, 0};
        int line = p->token.line;
        for (size_t i = 0; i < sizeof operators / sizeof operators[0] && op.bytes == NULL; i++)
            if (is_op(p, operators[i]))
                op = p->token.text;
        if (op.bytes != NULL) {
            advance(p);
        } else if (take_name(p, "in")) {
            op = (struct jinja_string){"in", 2};
        } else if (is_name(p, "not")) {
            advance(p);
            if (!take_name(p, "in"))
                return fail(p, line, "expected 'in' behind 'not'", NULL);
            op = (struct jinja_string){"not in", 6};
        } else {
            return compare != NULL ? compare : left;
        }
        if (compare == NULL) {
            compare = new_node(p, NODE_COMPARE, line);
            compare->a = left;
            tail = &compare->b;
        }
        struct jinja_node *operand = new_node(p, NODE_OPERAND, line);
        operand->text = op;
        operand->a = parse_binary(p, 0);
        link_node(&tail, operand);
        if (p->failed)
            return NULL;
    }
}

static struct jinja_node *parse_not(struct parser *p) {
    int line = p->token.line;
    if (!is_name(p, "not"))
        return parse_compare(p);
    if (!enter(p))
        return NULL;
    advance(p);
    struct jinja_node *node = new_node(p, NODE_UNARY, line);
    node->text = (struct jinja_string){"not", 3};
    node->a = parse_not(p);
    p->depth--;
    return node;
}

static struct jinja_node *parse_logic(struct parser *p, bool is_or) {
    const char *word = is_or ? "or" : "and";
    struct jinja_node *left = is_or ? parse_logic(p, false) : parse_not(p);
    while (!p->failed && is_name(p, word)) {
        struct jinja_node *node = new_node(p, NODE_BINARY, p->token.line);
        advance(p);
        node->text = (struct jinja_string){word, strlen(word)};
        node->a = left;
        node->b = is_or ? parse_logic(p, false) : parse_not(p);
        left = node;
    }
    return left;
}

static struct jinja_node *parse_expr(struct parser *p) {
    if (!enter(p))
        return NULL;
    struct jinja_node *node = parse_logic(p, true);
    while (!p->failed && is_name(p, "if")) {
        struct jinja_node *choice = new_node(p, NODE_IF_EXPR, p->token.line);
        advance(p);
        choice->a = node;
        choice->b = parse_logic(p, true);
        if (take_name(p, "else"))
            choice->c = parse_expr(p);
        node = choice;
    }
    p->depth--;
    return p->failed ? NULL : node;
}

/* "a, b" without brackets is a tuple, where a statement allows it. */
static struct jinja_node *parse_tuple(struct parser *p) {
    int line = p->token.line;
    struct jinja_node *first = parse_expr(p);
    if (!is_op(p, ","))
        return first;
    struct jinja_node *tuple = new_node(p, NODE_TUPLE, line), **tail = &tuple->a;
    link_node(&tail, first);
    while (!p->failed && take_op(p, ",") && p->token.kind != TOKEN_BLOCK_END && p->token.kind != TOKEN_PRINT_END && !is_op(p, "="))
        link_node(&tail, parse_expr(p));
    return tuple;
}

/* ---- Statements ---- */

static void expect_block_end(struct parser *p) {
    if (p->token.kind != TOKEN_BLOCK_END)
        fail(p, p->token.line, "expected the end of the tag, found", p->token.text.bytes != NULL ? &p->token.text : NULL);
    else
        advance(p);
}

static struct jinja_node *parse_if(struct parser *p, int line) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct jinja_node *node = new_node(p, NODE_IF, line);
    struct jinja_string end;
    node->a = parse_tuple(p);
    expect_block_end(p);
    node->b = parse_body(p, ends, &end);
    if (p->failed)
        return NULL;
    if (jinja_text_is(&end, "elif")) {
        if (!enter(p))
            return NULL;
        node->c = parse_if(p, p->token.line);
        p->depth--;
        return node;
    }
    if (jinja_text_is(&end, "else")) {
        expect_block_end(p);
        node->c = parse_body(p, last, &end);
    }
    expect_block_end(p);
    return node;
}

/* A loop's or assignment's target: a name, an attribute of a namespace, or several of them, nested with brackets. */
static struct jinja_node *parse_target(struct parser *p) {
    struct jinja_node *tuple = new_node(p, NODE_TUPLE, p->token.line), **tail = &tuple->a;
    bool is_tuple = false;
    if (!enter(p))
        return NULL;
    do {
        struct jinja_node *part = new_node(p, NODE_NAME, p->token.line);
        if (take_op(p, "(")) {
            part = parse_target(p);
            expect_op(p, ")");
        } else {
            part->text = expect_name(p);
            if (take_op(p, ".")) {
                struct jinja_node *attr = new_node(p, NODE_ATTR, part->line);
                attr->a = part;
                attr->text = expect_name(p);
                part = attr;
            }
        }
        link_node(&tail, part);
        if (!take_op(p, ","))
            break;
        is_tuple = true;
    } while (!p->failed && (is_op(p, "(") || (p->token.kind == TOKEN_NAME && !is_name(p, "in"))));
    p->depth--;
    return p->failed ? NULL : is_tuple ? tuple : tuple->a;
}

static struct jinja_node *parse_for(struct parser *p, int line) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct jinja_node *node = new_node(p, NODE_FOR, line);
    struct jinja_string end;
    node->a = parse_target(p);
    if (!take_name(p, "in"))
        return fail(p, line, "expected 'in' in a for loop", NULL);
    /* Without the conditional expression: "if" is the loop's own filter here. */
    node->b = parse_logic(p, true);
    if (is_op(p, ",")) {
        struct jinja_node *tuple = new_node(p, NODE_TUPLE, line), **tail = &tuple->a;
        link_node(&tail, node->b);
        while (!p->failed && take_op(p, ","))
            link_node(&tail, parse_logic(p, true));
        node->b = tuple;
    }
    if (take_name(p, "if"))
        node->e = parse_expr(p);
    if (take_name(p, "recursive"))
        return fail(p, line, "recursive loops are not supported", NULL);
    expect_block_end(p);
    node->c = parse_body(p, ends, &end);
    if (!p->failed && jinja_text_is(&end, "else")) {
        expect_block_end(p);
        node->d = parse_body(p, last, &end);
    }
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_set(struct parser *p, int line) {
    static const char *const ends[] = {"endset", NULL};
    struct jinja_node *node = new_node(p, NODE_SET, line);
    struct jinja_string end;
    node->a = parse_target(p);
    if (take_op(p, "=")) {
        node->b = parse_tuple(p);
        expect_block_end(p);
        return node;
    }
    if (is_op(p, "|")) { /* {% set x | upper %}…: the filters take the body */
        struct jinja_node *filters = NULL;
        while (!p->failed && take_op(p, "|"))
            filters = parse_one_filter(p, filters, line);
        node->d = filters;
    }
    expect_block_end(p);
    node->c = parse_body(p, ends, &end);
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_parameters(struct parser *p) {
    struct jinja_node *first = NULL, **tail = &first;
    expect_op(p, "(");
    while (!p->failed && !is_op(p, ")")) {
        struct jinja_node *parameter = new_node(p, NODE_ARG, p->token.line);
        parameter->text = expect_name(p);
        if (take_op(p, "="))
            parameter->a = parse_expr(p);
        link_node(&tail, parameter);
        if (!take_op(p, ","))
            break;
    }
    expect_op(p, ")");
    return first;
}

static struct jinja_node *parse_macro(struct parser *p, int line) {
    static const char *const ends[] = {"endmacro", NULL};
    struct jinja_node *node = new_node(p, NODE_MACRO, line);
    struct jinja_string end;
    node->text = expect_name(p);
    node->a = parse_parameters(p);
    expect_block_end(p);
    node->b = parse_body(p, ends, &end);
    if (p->token.kind == TOKEN_NAME) /* {% endmacro name %} */
        advance(p);
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_call_block(struct parser *p, int line) {
    static const char *const ends[] = {"endcall", NULL};
    struct jinja_node *node = new_node(p, NODE_CALL_BLOCK, line);
    struct jinja_string end;
    if (is_op(p, "("))
        node->c = parse_parameters(p);
    node->a = parse_expr(p);
    if (node->a != NULL && node->a->kind != NODE_CALL)
        return fail(p, line, "expected a call", NULL);
    expect_block_end(p);
    node->b = parse_body(p, ends, &end);
    expect_block_end(p);
    return node;
}

static struct jinja_node *parse_filter_block(struct parser *p, int line) {
    static const char *const ends[] = {"endfilter", NULL};
    struct jinja_node *node = new_node(p, NODE_FILTER_BLOCK, line);
    struct jinja_string end;
    do
        node->a = parse_one_filter(p, node->a, line);
    while (!p->failed && take_op(p, "|"));
    expect_block_end(p);
    node->b = parse_body(p, ends, &end);
    expect_block_end(p);
    return node;
}

/* {% generation %} marks what the assistant says: nothing but its body here. The body's nodes are linked in. */
static struct jinja_node *parse_generation(struct parser *p) {
    static const char *const ends[] = {"endgeneration", NULL};
    struct jinja_string end;
    expect_block_end(p);
    struct jinja_node *body = parse_body(p, ends, &end);
    expect_block_end(p);
    return body;
}

static struct jinja_node *parse_statement(struct parser *p, struct jinja_string name, int line) {
    if (jinja_text_is(&name, "if"))
        return parse_if(p, line);
    if (jinja_text_is(&name, "for"))
        return parse_for(p, line);
    if (jinja_text_is(&name, "set"))
        return parse_set(p, line);
    if (jinja_text_is(&name, "macro"))
        return parse_macro(p, line);
    if (jinja_text_is(&name, "call"))
        return parse_call_block(p, line);
    if (jinja_text_is(&name, "filter"))
        return parse_filter_block(p, line);
    if (jinja_text_is(&name, "generation"))
        return parse_generation(p);
    if (jinja_text_is(&name, "break") || jinja_text_is(&name, "continue")) {
        struct jinja_node *node = new_node(p, name.bytes[0] == 'b' ? NODE_BREAK : NODE_CONTINUE, line);
        expect_block_end(p);
        return node;
    }
    return fail(p, line, "unknown tag", &name);
}

static bool is_end(const struct jinja_string *name, const char *const *ends) {
    for (; ends != NULL && *ends != NULL; ends++)
        if (jinja_text_is(name, *ends))
            return true;
    return false;
}

static struct jinja_node *parse_raw(struct parser *p, int line) {
    struct jinja_token raw;
    struct jinja_node *node = new_node(p, NODE_TEXT, line);
    /* The tag's end is the token at hand: the text behind it has not been looked at. */
    if (p->token.kind != TOKEN_BLOCK_END)
        return fail(p, line, "expected the end of the tag behind 'raw'", NULL);
    if (jinja_lexer_raw(&p->lexer, &raw) != 0) {
        p->failed = true;
        return NULL;
    }
    node->value = jinja_string(raw.text.bytes, raw.text.len_bytes);
    advance(p);
    return node;
}

/* Statements up to one of `ends`, whose name is passed over and told; NULL ends: up to the end of the source. */
static struct jinja_node *parse_body(struct parser *p, const char *const *ends, struct jinja_string *ret_end) {
    struct jinja_node *first = NULL, **tail = &first;
    if (!enter(p))
        return NULL;
    while (!p->failed) {
        struct jinja_token token = p->token;
        if (token.kind == TOKEN_END) {
            if (ends != NULL) {
                struct jinja_string wanted = {ends[0], strlen(ends[0])};
                fail(p, token.line, "the template ends where it should go on to", &wanted);
            }
            break;
        }
        advance(p);
        struct jinja_node *node = NULL;
        if (token.kind == TOKEN_TEXT) {
            node = new_node(p, NODE_TEXT, token.line);
            node->value = jinja_string(token.text.bytes, token.text.len_bytes);
        } else if (token.kind == TOKEN_PRINT_BEGIN) {
            node = new_node(p, NODE_PRINT, token.line);
            node->a = parse_tuple(p);
            if (p->token.kind != TOKEN_PRINT_END)
                fail(p, p->token.line, "expected '}}', found", p->token.text.bytes != NULL ? &p->token.text : NULL);
            advance(p);
        } else {
            struct jinja_string name = expect_name(p);
            if (!p->failed && is_end(&name, ends)) {
                *ret_end = name;
                break;
            }
            if (!p->failed)
                node = jinja_text_is(&name, "raw") ? parse_raw(p, token.line) : parse_statement(p, name, token.line);
        }
        link_node(&tail, node);
        while (*tail != NULL) /* a statement may be several nodes */
            tail = &(*tail)->next;
    }
    p->depth--;
    return first;
}

int jinja_parse(const char *source, size_t len_bytes, struct jinja_arena *arena, struct jinja_node **ret_body, struct err *err) {
    struct err unheard;
    struct parser p = {.arena = arena, .err = err != NULL ? err : &unheard};
    struct jinja_string end;
    jinja_lexer_init(&p.lexer, source, len_bytes, arena, p.err);
    advance(&p);
    struct jinja_node *body = parse_body(&p, NULL, &end);
    if (p.failed)
        return -1;
    *ret_body = body;
    return 0;
}
