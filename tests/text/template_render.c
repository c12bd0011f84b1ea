/*
 * For the differential test: reads lines {"template": text, "variables": object} from stdin, writes a line {"text": …} or {"error": …} for each.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/template.h"

static json_t *render(const json_t *line) {
    const json_t *source = json_object_get(line, "template");
    struct text_template *tmpl;
    struct err err;
    struct buf out;
    if (text_template_compile(json_string_value(source), json_string_length(source), &tmpl, &err) != 0)
        return json_pack("{s:s}", "error", err.msg);
    buf_init(&out, 16 << 20);
    json_t *answer = text_template_render(tmpl, json_object_get(line, "variables"), &out, &err) == 0
                         ? json_pack("{s:o}", "text", json_stringn(buf_str(&out), out.len_bytes))
                         : json_pack("{s:s}", "error", err.msg);
    buf_finish(&out);
    text_template_destroy(tmpl);
    return answer;
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    while ((len = getline(&line, &cap, stdin)) > 0) {
        struct err err;
        json_t *request = json_parse(line, (size_t)len, &err);
        if (request == NULL) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        json_t *answer = render(request);
        char *text = json_text(answer);
        puts(text);
        free(text);
        json_decref(answer);
        json_decref(request);
    }
    free(line);
    return 0;
}
