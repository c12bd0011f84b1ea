/*
 * The prompt of a chat: messages and tools checked and brought into the shape that templates expect, and rendered.
 * See prompt.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_state.h"
#include "api/prompt.h"
#include "base/json.h"

enum { RENDERED_LIMIT_BYTES = 64 << 20 };

#define TOOL_USAGE "Correct usage: `{\"type\": \"function\", \"function\": {\"name\": \"my_function\"}}`"

static bool has_tool(const json_t *tools, const char *name) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *found = json_string_value(json_object_get(json_object_get(json_array_get(tools, i), "function"), "name"));
        if (found != NULL && strcmp(found, name) == 0)
            return true;
    }
    return false;
}

static int check_named_tool(const json_t *choice, const json_t *tools, struct api_error *error) {
    const json_t *function = json_object_get(choice, "function");
    if (!json_is_object(function))
        return api_refuse(error, "tool_choice.function", NULL, "Invalid value for `function` in `tool_choice`! " TOOL_USAGE);
    const json_t *name = json_object_get(function, "name");
    if (name == NULL)
        return api_refuse(error, "tool_choice.function.name", NULL, "Expected field `name` in `function` in `tool_choice`! " TOOL_USAGE);
    if (!json_is_string(name) || json_string_length(name) == 0)
        return api_refuse(error, "tool_choice.function.name", NULL, "Invalid `name` in `function` in `tool_choice`! " TOOL_USAGE);
    if (!has_tool(tools, json_string_value(name)))
        return api_refuse(error, "tool_choice", NULL, "The tool specified in `tool_choice` does not match any of the specified `tools`");
    return 0;
}

static int check_tools(const json_t *body, struct api_error *error) {
    const json_t *tools = json_object_get(body, "tools"), *choice = json_object_get(body, "tool_choice");
    bool has_tools = json_is_array(tools);
    const char *word = json_string_value(choice);
    if (has_tools && json_array_size(tools) == 0)
        return api_refuse(error, "tools", NULL,
                          "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.");
    if (word != NULL && strcmp(word, "none") == 0)
        return 0;
    if (choice != NULL && !json_is_null(choice)) {
        if (!has_tools)
            return api_refuse(error, "tool_choice", NULL, "When using `tool_choice`, `tools` must be set.");
        if (!json_is_object(choice) && (word == NULL || (strcmp(word, "auto") != 0 && strcmp(word, "required") != 0)))
            return api_refuse(
                error, "tool_choice", NULL,
                "Invalid value for `tool_choice`: %.100s! Only named tools, \"none\", \"auto\" or \"required\" are supported.",
                word == NULL ? json_type_name(choice) : word);
        if (json_is_object(choice) && check_named_tool(choice, tools, error) != 0)
            return -1;
    }
    return 0;
}

int api_chat_check_raw(const json_t *body, struct api_error *error) {
    if (json_is_true(json_object_get(body, "continue_final_message")) && json_is_true(json_object_get(body, "add_generation_prompt")))
        return api_fail(error, 400, NULL, NULL, "Cannot set both `continue_final_message` and `add_generation_prompt` to True.");
    return check_tools(body, error);
}

static void check_parts(struct api_fields *fields, size_t at, const json_t *parts) {
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        char loc[64];
        snprintf(loc, sizeof loc, "messages.%zu.content.%zu", at, i);
        if (!json_is_object(part) && !json_is_string(part))
            api_field_error(fields, "dict_type", loc, "Input should be a valid dictionary", part, NULL);
    }
}

static void check_message(struct api_fields *fields, size_t at, const json_t *message) {
    char loc[64];
    snprintf(loc, sizeof loc, "messages.%zu", at);
    if (!json_is_object(message)) {
        api_field_error(fields, "dict_type", loc, "Input should be a valid dictionary", message, NULL);
        return;
    }
    const json_t *role = json_object_get(message, "role"), *content = json_object_get(message, "content");
    snprintf(loc, sizeof loc, "messages.%zu.role", at);
    if (role == NULL)
        api_field_error(fields, "missing", loc, "Field required", message, NULL);
    else if (!json_is_string(role))
        api_field_error(fields, "string_type", loc, "Input should be a valid string", role, NULL);
    snprintf(loc, sizeof loc, "messages.%zu.content", at);
    if (json_is_array(content))
        check_parts(fields, at, content);
    else if (content != NULL && !json_is_null(content) && !json_is_string(content))
        api_field_error(fields, "string_type", loc, "Input should be a valid string", content, NULL);
}

void api_chat_check_type(struct api_fields *fields) {
    const json_t *messages = json_object_get(fields->body, "messages"), *tools = json_object_get(fields->body, "tools");
    if (messages == NULL)
        api_field_error(fields, "missing", "messages", "Field required", fields->body, NULL);
    else if (!json_is_array(messages))
        api_field_error(fields, "list_type", "messages", "Input should be a valid list", messages, NULL);
    for (size_t i = 0; i < json_array_size(messages); i++)
        check_message(fields, i, json_array_get(messages, i));
    api_field_list(fields, "tools");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        char loc[64];
        snprintf(loc, sizeof loc, "tools.%zu.function", i);
        if (!json_is_object(function))
            api_field_error(fields, "missing", loc, "Field required", json_array_get(tools, i), NULL);
    }
    api_field_object(fields, "chat_template_kwargs");
    const char *text;
    api_field_str(fields, "chat_template", &text);
    api_field_str(fields, "reasoning_effort", &text);
}

/* The text of one part, borrowed; NULL when it is not text. */
static const char *part_text(const json_t *part) {
    if (json_is_string(part))
        return json_string_value(part);
    const char *type = json_string_value(json_object_get(part, "type"));
    if (type == NULL || strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0 || strcmp(type, "output_text") == 0)
        return json_string_value(json_object_get(part, "text"));
    if (strcmp(type, "refusal") == 0)
        return json_string_value(json_object_get(part, "refusal"));
    return NULL;
}

static int check_part(const json_t *part, struct api_error *error) {
    if (part_text(part) != NULL)
        return 0;
    const char *type = json_string_value(json_object_get(part, "type"));
    static const char *const media[] = {"image", "audio", "video"};
    for (size_t i = 0; type != NULL && i < sizeof media / sizeof media[0]; i++)
        if (strstr(type, media[i]) != NULL)
            return api_fail(error, 400, NULL, NULL, "At most 0 %s(s) may be provided in one prompt.", media[i]);
    return api_fail(error, 400, NULL, NULL, "Unknown part type: %.100s", type == NULL ? "None" : type);
}

char *api_chat_content(const json_t *message) {
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content))
        return strdup(json_string_value(content));
    struct buf text;
    buf_init(&text, RENDERED_LIMIT_BYTES);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const char *part = part_text(json_array_get(content, i));
        if (i > 0)
            buf_append_char(&text, '\n');
        buf_append_str(&text, part == NULL ? "" : part);
    }
    char *joined = buf_steal(&text);
    buf_finish(&text);
    return joined;
}

/* Templates take the arguments of an earlier call as an object, clients send them as a string. */
static void parse_arguments(json_t *message) {
    json_t *calls = json_object_get(message, "tool_calls");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *function = json_object_get(json_array_get(calls, i), "function"), *arguments = json_object_get(function, "arguments");
        json_t *parsed = NULL;
        if (json_is_string(arguments) && json_string_length(arguments) > 0)
            parsed = json_parse(json_string_value(arguments), json_string_length(arguments), NULL);
        else if (arguments == NULL || json_is_null(arguments) || json_is_string(arguments))
            parsed = json_object();
        if (function != NULL && parsed != NULL)
            json_object_set_new(function, "arguments", parsed);
        else
            json_decref(parsed);
    }
}

/* A copy of the messages with text for content; NULL with the error. */
static json_t *plain_messages(const json_t *messages, struct api_error *error) {
    json_t *copy = json_deep_copy(messages);
    for (size_t i = 0; i < json_array_size(copy); i++) {
        json_t *message = json_array_get(copy, i), *content = json_object_get(message, "content");
        for (size_t k = 0; k < json_array_size(content); k++)
            if (check_part(json_array_get(content, k), error) != 0)
                goto drop_copy;
        if (!json_is_string(content)) {
            char *text = api_chat_content(message);
            json_object_set_new(message, "content", text == NULL ? NULL : json_string(text));
            free(text);
        }
        json_t *thought = json_object_get(message, "reasoning"), *thought_content = json_object_get(message, "reasoning_content");
        if (thought != NULL && thought_content == NULL) /* older templates know the older name */
            json_object_set(message, "reasoning_content", thought);
        else if (thought == NULL && thought_content != NULL)
            json_object_set(message, "reasoning", thought_content);
        parse_arguments(message);
    }
    if (copy == NULL)
        api_fail_memory(error);
    return copy;
drop_copy:
    json_decref(copy);
    return NULL;
}

static void set_token(const struct api *api, json_t *variables, const char *key, int32_t id) {
    size_t len_bytes = 0;
    const char *bytes = id < 0 ? NULL : text_tokenizer_token_bytes(api->opts.tokenizer, id, &len_bytes);
    if (bytes != NULL)
        json_object_set_new(variables, key, json_stringn(bytes, len_bytes));
}

static json_t *make_variables(const struct api *api, const json_t *body, json_t *messages) {
    static const char *const passed[] = {"tools", "documents", "reasoning_effort"};
    json_t *variables = json_object();
    const json_t *effort = json_object_get(body, "reasoning_effort"), *wanted = json_object_get(body, "add_generation_prompt");
    set_token(api, variables, "bos_token", text_tokenizer_bos(api->opts.tokenizer));
    set_token(api, variables, "eos_token", text_tokenizer_eos(api->opts.tokenizer));
    for (size_t i = 0; i < sizeof passed / sizeof passed[0]; i++) {
        json_t *value = json_object_get(body, passed[i]);
        if (value != NULL && !json_is_null(value))
            json_object_set(variables, passed[i], value);
    }
    json_object_set_new(variables, "add_generation_prompt",
                        json_boolean(!json_is_false(wanted) && !json_is_true(json_object_get(body, "continue_final_message"))));
    if (json_is_string(effort))
        json_object_set_new(variables, "enable_thinking", json_boolean(strcmp(json_string_value(effort), "none") != 0));
    json_t *more = json_object_get(body, "chat_template_kwargs");
    if (json_is_object(more))
        json_object_update(variables, more);
    json_object_set(variables, "messages", messages); /* last: no keyword replaces it */
    return variables;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/*
 * Cuts everything behind the last message's content, so that the model goes on with it. Templates may trim content:
 * it is found without the white space around it, and keeps what the template kept of the white space behind it.
 */
static void cut_after_last(const json_t *messages, struct buf *text) {
    const json_t *last = json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content");
    const char *content = json_string_value(last);
    size_t len = json_string_length(last), n_behind = 0;
    while (len > 0 && is_space(content[0])) {
        content++;
        len--;
    }
    while (len > 0 && is_space(content[len - 1])) {
        len--;
        n_behind++;
    }
    if (len == 0 || len > text->len_bytes)
        return;
    for (size_t at = text->len_bytes - len + 1; at-- > 0;) {
        if (memcmp(text->data + at, content, len) != 0)
            continue;
        size_t end = at + len;
        if (text->len_bytes - end >= n_behind && memcmp(text->data + end, content + len, n_behind) == 0)
            end += n_behind;
        text->len_bytes = end;
        text->data[end] = '\0';
        return;
    }
}

static int check_tool_choice_served(const json_t *body, struct api_error *error) {
    const json_t *choice = json_object_get(body, "tool_choice");
    const char *word = json_string_value(choice);
    if (!json_is_array(json_object_get(body, "tools")) || (word != NULL && strcmp(word, "none") == 0))
        return 0;
    if (choice == NULL || json_is_null(choice) || (word != NULL && strcmp(word, "auto") == 0))
        return api_fail(error, 400, NULL, NULL, "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set");
    return api_fail(error, 400, NULL, "tool_choice", "`tool_choice` other than \"none\" and \"auto\" is not supported yet.");
}

int api_chat_render(const struct api *api, const json_t *body, char **ret_text, size_t *ret_bytes, struct api_error *error) {
    const json_t *messages = json_object_get(body, "messages");
    const struct text_template *tmpl = api->opts.chat_template;
    struct err err = {0};
    struct buf text;
    int status = -1;
    if (json_array_size(messages) == 0)
        return api_fail(error, 400, NULL, NULL, "Cannot apply chat template to an empty conversation. Provide at least one message.");
    if (check_tool_choice_served(body, error) != 0)
        return -1;
    /* A template is a program: only those that whoever runs the server chose are run. */
    if (json_is_string(json_object_get(body, "chat_template")))
        return api_fail(error, 400, NULL, "chat_template",
                        "Chat template is passed with request, but templates of requests are not trusted; start the server with --chat-template.");
    if (tmpl == NULL)
        return api_fail(
            error, 400, NULL, NULL,
            "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the tokenizer "
            "does not define one.");
    json_t *plain = plain_messages(messages, error);
    if (plain == NULL)
        return -1;
    json_t *variables = make_variables(api, body, plain);
    buf_init(&text, RENDERED_LIMIT_BYTES);
    if (variables == NULL || text_template_render(tmpl, variables, &text, &err) != 0) {
        bool is_theirs = err.code == ERR_INVALID || err.code == ERR_LIMIT || err.code == ERR_UNSUPPORTED;
        api_fail(error, is_theirs ? 400 : 500, is_theirs ? NULL : "InternalServerError", NULL, "%s", err.msg);
        goto finish_text;
    }
    if (json_is_true(json_object_get(body, "continue_final_message")))
        cut_after_last(plain, &text);
    *ret_bytes = text.len_bytes;
    *ret_text = buf_steal(&text);
    status = *ret_text == NULL ? api_fail_memory(error) : 0;
finish_text:
    buf_finish(&text);
    json_decref(variables);
    json_decref(plain);
    return status;
}
