/* Prompts of completions, and the check of every prompt's length; see prompt.h. */
#include "api/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_state.h"

enum { TRUNCATED_PROMPT_LIMIT = 1 << 24 /* tokens, of a prompt that will be cut */ };

void api_prompts_finish(struct api_prompts *prompts) {
    for (int i = 0; i < prompts->n; i++) {
        text_ids_finish(&prompts->items[i].ids);
        free(prompts->items[i].text);
    }
    free(prompts->items);
    *prompts = (struct api_prompts){0};
}

json_t *api_prompt_ids(const struct api_prompt *prompt) {
    json_t *list = json_array();
    for (int i = 0; i < prompt->ids.n_ids; i++)
        json_array_append_new(list, json_integer(prompt->ids.ids[i]));
    return list;
}

int api_prompt_check_raw(const json_t *body, struct api_error *error) {
    const json_t *prompt = json_object_get(body, "prompt");
    if (json_is_array(prompt) && json_array_size(prompt) > API_MAX_PROMPTS && !json_is_integer(json_array_get(prompt, 0)))
        return api_refuse(error, "prompt", NULL, "prompt list length %zu exceeds the maximum allowed count of %d.", json_array_size(prompt),
                          API_MAX_PROMPTS);
    if (prompt == NULL || json_is_null(prompt) || (json_is_string(prompt) && json_string_length(prompt) == 0))
        return api_refuse(error, "prompt", NULL, "Either prompt or prompt_embeds must be provided and non-empty.");
    return 0;
}

/* Reports the first item that is no token. */
static void check_ids(struct api_fields *fields, const char *where, const json_t *list) {
    size_t i = 0, n = json_array_size(list);
    while (i < n && json_is_integer(json_array_get(list, i)) && json_integer_value(json_array_get(list, i)) >= 0)
        i++;
    if (i == n)
        return;
    char loc[96];
    const json_t *item = json_array_get(list, i);
    snprintf(loc, sizeof loc, "%s.%zu", where, i);
    if (json_is_integer(item))
        api_field_error(fields, "greater_than_equal", loc, "Input should be greater than or equal to 0", item, "{'ge': 0}");
    else
        api_field_error(fields, "int_type", loc, "Input should be a valid integer", item, NULL);
}

void api_prompt_check_type(struct api_fields *fields) {
    const json_t *prompt = json_object_get(fields->body, "prompt");
    if (json_is_string(prompt))
        return;
    if (!json_is_array(prompt)) {
        api_field_error(fields, "list_type", "prompt.list[constrained-int]", "Input should be a valid list", prompt, NULL);
        api_field_error(fields, "list_type", "prompt.list[list[constrained-int]]", "Input should be a valid list", prompt, NULL);
        api_field_error(fields, "string_type", "prompt.str", "Input should be a valid string", prompt, NULL);
        api_field_error(fields, "list_type", "prompt.list[str]", "Input should be a valid list", prompt, NULL);
        return;
    }
    const json_t *first = json_array_get(prompt, 0);
    if (first == NULL)
        return;
    if (!json_is_string(first) && !json_is_array(first)) {
        check_ids(fields, "prompt.list[constrained-int]", prompt);
        return;
    }
    for (size_t i = 0; i < json_array_size(prompt); i++) {
        const json_t *item = json_array_get(prompt, i);
        char loc[96];
        if (json_is_string(first) && !json_is_string(item)) {
            snprintf(loc, sizeof loc, "prompt.list[str].%zu", i);
            api_field_error(fields, "string_type", loc, "Input should be a valid string", item, NULL);
            return;
        }
        snprintf(loc, sizeof loc, "prompt.list[list[constrained-int]].%zu", i);
        if (json_is_array(first) && !json_is_array(item)) {
            api_field_error(fields, "list_type", loc, "Input should be a valid list", item, NULL);
            return;
        }
        if (json_is_array(first))
            check_ids(fields, loc, item);
        if (fields->n_errors > 0)
            return;
    }
}

int api_prompt_encode(const struct api *api, const char *text, size_t text_bytes, bool add_special, int limit, struct api_prompt *ret,
                      struct api_error *error) {
    struct err err = {0};
    struct api_prompt prompt = {.text = malloc(text_bytes + 1), .text_bytes = text_bytes};
    if (prompt.text == NULL)
        return api_fail_memory(error);
    memcpy(prompt.text, text, text_bytes);
    prompt.text[text_bytes] = '\0';
    text_ids_init(&prompt.ids, limit);
    unsigned flags = TEXT_PARSE_SPECIAL | (add_special ? TEXT_ADD_SPECIAL : 0);
    if (text_tokenizer_encode(api->opts.tokenizer, text, text_bytes, flags, &prompt.ids, &err) == 0) {
        *ret = prompt;
        return 0;
    }
    text_ids_finish(&prompt.ids);
    free(prompt.text);
    if (err.code == ERR_LIMIT)
        return api_refuse(error, "input_tokens", NULL, "The text has more than %d tokens.", limit);
    return api_fail(error, err.code == ERR_INVALID ? 400 : 500, err.code == ERR_INVALID ? NULL : "InternalServerError", NULL, "%s",
                    err.msg);
}

static int too_long(const struct api *api, const struct api_params *params, bool at_least, int n, struct api_error *error) {
    char text[32];
    int max_model_len = api->opts.max_model_len;
    snprintf(text, sizeof text, "%d", n);
    if (n > max_model_len)
        return api_refuse(
            error, "input_tokens", text,
            "This model's maximum context length is %d tokens. However, your prompt contains %s%d input tokens, which exceeds this "
            "limit even without any output tokens. Please reduce the length of the input prompt.",
            max_model_len, at_least ? "at least " : "", n);
    return api_refuse(
        error, "input_tokens", text,
        "This model's maximum context length is %d tokens. However, you requested %lld output tokens and your prompt contains %d "
        "input tokens, for a total of %lld tokens. Please reduce the length of the input prompt or the number of requested output "
        "tokens.",
        max_model_len, (long long)params->max_tokens, n, (long long)n + params->max_tokens);
}

/* Cuts as asked and checks the length of a prompt that was encoded within encode_limit(). */
static int fit(const struct api *api, const struct api_params *params, struct api_prompt *prompt, struct api_error *error) {
    int64_t output = params->has_max_tokens && params->max_tokens > 0 ? params->max_tokens : 0;
    int64_t keep = params->truncate == -1 ? api->opts.max_model_len - output : params->truncate;
    if (params->truncate != API_NO_TRUNCATION && keep < prompt->ids.n_ids) {
        if (!params->truncate_right)
            memmove(prompt->ids.ids, prompt->ids.ids + prompt->ids.n_ids - keep, (size_t)keep * sizeof *prompt->ids.ids);
        prompt->ids.n_ids = (int)keep;
    }
    if (prompt->ids.n_ids == 0)
        return api_fail(error, 400, NULL, NULL, "The decoder prompt cannot be empty");
    if (prompt->ids.n_ids + output > api->opts.max_model_len || prompt->ids.n_ids > api->opts.max_model_len)
        return too_long(api, params, prompt->text != NULL, prompt->ids.n_ids, error);
    return 0;
}

static int check_lengths_asked(const struct api *api, const struct api_params *params, struct api_error *error) {
    char text[32];
    int max_model_len = api->opts.max_model_len;
    snprintf(text, sizeof text, "%lld", (long long)params->max_tokens);
    if (params->has_max_tokens && params->max_tokens > max_model_len)
        return api_refuse(error, params->max_tokens_name, text,
                          "%s=%s cannot be greater than max_model_len=%d. Please request fewer output tokens.", params->max_tokens_name,
                          text, max_model_len);
    snprintf(text, sizeof text, "%lld", (long long)params->truncate);
    if (params->truncate > max_model_len)
        return api_refuse(error, "truncate_prompt_tokens", text,
                          "truncate_prompt_tokens=%s cannot be greater than max_model_len=%d. Please request a smaller truncation size.",
                          text, max_model_len);
    return 0;
}

static int encode_text(const struct api *api, const struct api_params *params, const char *text, size_t text_bytes, struct api_prompt *ret,
                       struct api_error *error) {
    int limit = params->truncate == API_NO_TRUNCATION ? api->opts.max_model_len : TRUNCATED_PROMPT_LIMIT;
    if (api_prompt_encode(api, text, text_bytes, params->add_special_tokens, limit, ret, error) != 0) {
        if (error->status == 400 && strcmp(error->param, "input_tokens") == 0)
            return too_long(api, params, true, limit + 1, error);
        return -1;
    }
    return 0;
}

static int take_ids(const struct api *api, const json_t *list, struct api_prompt *ret, struct api_error *error) {
    size_t n = json_array_size(list);
    if (n > TRUNCATED_PROMPT_LIMIT)
        return api_refuse(error, "input_tokens", NULL, "A prompt of %zu tokens is too long for any model.", n);
    struct api_prompt prompt = {0};
    text_ids_init(&prompt.ids, (int)n);
    prompt.ids.ids = malloc((n + 1) * sizeof *prompt.ids.ids);
    if (prompt.ids.ids == NULL)
        return api_fail_memory(error);
    prompt.ids.cap = (int)n + 1;
    for (size_t i = 0; i < n; i++) {
        json_int_t id = json_integer_value(json_array_get(list, i));
        if (id < 0 || id >= api->opts.n_vocab) {
            free(prompt.ids.ids);
            return api_fail(error, 400, NULL, NULL, "Token id %lld is out of vocabulary", (long long)id);
        }
        prompt.ids.ids[prompt.ids.n_ids++] = (int32_t)id;
    }
    *ret = prompt;
    return 0;
}

int api_prompts_of_completion(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret,
                              struct api_error *error) {
    const json_t *prompt = json_object_get(body, "prompt"), *first = json_array_get(prompt, 0);
    bool is_many = json_is_string(first) || json_is_array(first);
    int n = is_many ? (int)json_array_size(prompt) : 1;
    if (json_is_array(prompt) && json_array_size(prompt) == 0)
        return api_fail(error, 400, NULL, NULL, "You must pass at least one prompt");
    if (check_lengths_asked(api, params, error) != 0)
        return -1;
    struct api_prompts prompts = {.items = calloc((size_t)n, sizeof *prompts.items)};
    if (prompts.items == NULL)
        return api_fail_memory(error);
    for (int i = 0; i < n; i++) {
        const json_t *one = is_many ? json_array_get(prompt, (size_t)i) : prompt;
        struct api_prompt *item = &prompts.items[i];
        if (json_is_string(one) ? encode_text(api, params, json_string_value(one), json_string_length(one), item, error) != 0
                                : take_ids(api, one, item, error) != 0)
            goto finish_prompts;
        prompts.n++;
        if (fit(api, params, item, error) != 0)
            goto finish_prompts;
    }
    *ret = prompts;
    return 0;
finish_prompts:
    api_prompts_finish(&prompts);
    return -1;
}

int api_prompts_of_chat(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret,
                        struct api_error *error) {
    char *text = NULL;
    size_t text_bytes = 0;
    struct api_prompts prompts = {0};
    if (check_lengths_asked(api, params, error) != 0 || api_chat_render(api, body, &text, &text_bytes, error) != 0)
        return -1;
    prompts.items = calloc(1, sizeof *prompts.items);
    if (prompts.items == NULL)
        api_fail_memory(error);
    if (prompts.items == NULL || encode_text(api, params, text, text_bytes, &prompts.items[0], error) != 0)
        goto free_text;
    prompts.n = 1;
    if (fit(api, params, &prompts.items[0], error) != 0)
        goto free_text;
    free(text);
    *ret = prompts;
    return 0;
free_text:
    free(text);
    api_prompts_finish(&prompts);
    return -1;
}
