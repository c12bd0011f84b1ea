/* Templates from anybody: compiled and rendered, or refused, within the engine's limits. */
#include <stdint.h>
#include <stdlib.h>

#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct text_template *tmpl;
    struct err err;
    struct buf out;
    if (text_template_compile((const char *)data, size, &tmpl, &err) != 0)
        return 0;
    json_t *variables = json_pack("{s:[{s:s,s:s},{s:s,s:n}], s:b, s:s}", "messages", "role", "user", "content", "hi", "role", "assistant", "content",
                                  "add_generation_prompt", 1, "bos_token", "<s>");
    buf_init(&out, 1 << 16);
    text_template_render(tmpl, variables, &out, &err);
    buf_finish(&out);
    json_decref(variables);
    text_template_destroy(tmpl);
    return 0;
}
