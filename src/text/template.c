/* Compiling and rendering of chat templates; see template.h. The engine is in jinja_*.c. */
#include "text/template.h"

#include <stdlib.h>
#include <string.h>

#include "text/jinja_ast.h"
#include "text/jinja_eval.h"

enum { MAX_SOURCE_BYTES = 1 << 20, MAX_STEPS = 20000000 };
static const size_t COMPILE_BYTES = 64 << 20, RENDER_BYTES = 256 << 20;

struct text_template {
    char *source; /* the nodes borrow their texts from it */
    struct jinja_arena arena;
    struct jinja_node *body;
};

/* Line breaks become "\n", and one at the very end is dropped, as Jinja2 does. Returns the new length. */
static size_t normalise(const char *source, size_t len_bytes, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < len_bytes; i++) {
        if (source[i] == '\r' && i + 1 < len_bytes && source[i + 1] == '\n')
            continue;
        out[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    return n > 0 && out[n - 1] == '\n' ? n - 1 : n;
}

int text_template_compile(const char *source, size_t len_bytes, struct text_template **ret, struct err *err) {
    if (len_bytes > MAX_SOURCE_BYTES)
        return err_set(err, ERR_LIMIT, "a template of %zu bytes; at most %d are possible", len_bytes, MAX_SOURCE_BYTES);
    struct text_template *tmpl = calloc(1, sizeof *tmpl);
    if (tmpl == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a template");
    jinja_arena_init(&tmpl->arena, COMPILE_BYTES);
    tmpl->source = malloc(len_bytes + 1);
    if (tmpl->source == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a template");
        goto destroy_template;
    }
    size_t n = normalise(source, len_bytes, tmpl->source);
    tmpl->source[n] = '\0';
    if (jinja_parse(tmpl->source, n, &tmpl->arena, &tmpl->body, err) != 0)
        goto destroy_template;
    *ret = tmpl;
    return 0;
destroy_template:
    text_template_destroy(tmpl);
    return -1;
}

void text_template_destroy(struct text_template *tmpl) {
    if (tmpl == NULL)
        return;
    jinja_arena_finish(&tmpl->arena);
    free(tmpl->source);
    free(tmpl);
}

int text_template_render(const struct text_template *tmpl, const json_t *variables, struct buf *out, struct err *err) {
    struct err unheard;
    struct jinja_scope scope = {0};
    struct jinja_run run = {.scope = &scope, .out = out, .err = err != NULL ? err : &unheard, .steps_left = MAX_STEPS, .line = 1};
    const char *key;
    json_t *value;
    jinja_arena_init(&run.arena, RENDER_BYTES);
    json_object_foreach((json_t *)variables, key, value)
        jinja_dict_set(&run.arena, &scope.vars, jinja_string(key, strlen(key)), jinja_from_json(&run.arena, value, 0));
    jinja_exec(&run, tmpl->body);
    if (!run.failed && run.arena.failed)
        jinja_fail(&run, "the template takes more than %zu bytes of memory", RENDER_BYTES);
    if (!run.failed && out->failed)
        jinja_fail(&run, "the template writes more than %zu bytes", out->limit_bytes);
    jinja_arena_finish(&run.arena);
    return run.failed ? -1 : 0;
}
