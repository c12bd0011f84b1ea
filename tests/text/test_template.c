/* text: templates that are wrong or hostile end with an error that says where; what they print is checked against jinja2 elsewhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/json.h"
#include "text/template.h"

static void check_refused(const char *source, const char *message) {
    struct text_template *tmpl = NULL;
    struct err err = {0};
    struct buf out;
    json_t *variables = json_pack("{s:[i,i,i], s:s}", "l", 1, 2, 3, "s", "text");
    buf_init(&out, 1 << 20);
    int result = text_template_compile(source, strlen(source), &tmpl, &err);
    if (result == 0)
        result = text_template_render(tmpl, variables, &out, &err);
    assert_int_equal(result, -1);
    if (strstr(err.msg, message) == NULL)
        fail_msg("'%s' gave '%s', not '%s'", source, err.msg, message);
    buf_finish(&out);
    text_template_destroy(tmpl);
    json_decref(variables);
}

static void test_errors_name_the_line(void **state) {
    (void)state;
    check_refused("a\nb {{ missing.x }}", "line 2: 'missing' is undefined");
    check_refused("\n\n{% if %}", "line 3: expected an expression");
    check_refused("{% for x in l %}\n{{ x + 'a' }}{% endfor %}", "line 2: unsupported operand type(s) for +: 'int' and 'str'");
    check_refused("{% if s %}", "the template ends where it should go on to 'elif'");
    check_refused("{{ raise_exception('no tools here') }}", "no tools here");
    check_refused("{{ s | nofilter }}", "No filter named 'nofilter'.");
}

static void test_hostile_templates_are_bounded(void **state) {
    (void)state;
    char nested[4096];
    memset(nested, '(', sizeof nested - 1);
    memcpy(nested, "{{ ", 3);
    nested[sizeof nested - 1] = '\0';
    check_refused(nested, "nested too deeply");
    check_refused("{{ range(10 ** 12) | list }}", "the template takes");
    check_refused("{{ 'a' * 10 ** 12 }}", "the template takes");
    check_refused("{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}", "the template takes");
    check_refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper");
    check_refused("{% for i in range(100000) %}{{ s * 1000 }}{% endfor %}", "the template");
    check_refused("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "the template takes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_hostile_templates_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
