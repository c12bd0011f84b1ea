/*
 * Chat templates: the part of Jinja2 that Hugging Face's chat templates use, with limits on steps, depth and output.
 * A template is immutable once compiled: any number of threads may render it at once.
 */
#ifndef TEXT_TEMPLATE_H
#define TEXT_TEMPLATE_H

#include <jansson.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct text_template;

/* trim_blocks and lstrip_blocks are on, as in transformers. Errors name the line. */
int text_template_compile(const char *source, size_t len_bytes, struct text_template **ret, struct err *err);
void text_template_destroy(struct text_template *tmpl); /* accepts NULL */

/*
 * Renders with the object's keys as variables (messages, tools, add_generation_prompt, bos_token, …) into `out`,
 * whose limit is the limit on output. raise_exception('…') in the template is ERR_INVALID with its text.
 */
int text_template_render(const struct text_template *tmpl, const json_t *variables, struct buf *out, struct err *err);

#endif
