/* /tokenize and /detokenize. On connection threads. */
#include <stdio.h>
#include <stdlib.h>

#include "api/api_state.h"
#include "api/fields.h"
#include "api/logprobs.h"
#include "api/prompt.h"

enum { TOKENIZE_LIMIT = 1 << 24, TEXT_LIMIT_BYTES = 256 << 20 };

static int read_common(struct api *api, struct api_fields *fields, struct api_error *error) {
    const char *model = NULL;
    api_field_str(fields, "model", &model);
    if (api_fields_check(fields, error) != 0)
        return -1;
    return api_check_model(api, model, error);
}

static void check_source(struct api_fields *fields) {
    const json_t *prompt = json_object_get(fields->body, "prompt"), *messages = json_object_get(fields->body, "messages");
    if (prompt == NULL && messages == NULL) {
        api_field_error(fields, "missing", "prompt", "Field required", fields->body, NULL);
        api_field_error(fields, "missing", "messages", "Field required", fields->body, NULL);
    } else if (prompt != NULL && !json_is_string(prompt)) {
        api_field_error(fields, "string_type", "prompt", "Input should be a valid string", prompt, NULL);
    } else if (prompt == NULL) {
        api_chat_check_type(fields);
    }
}

static int tokenize(struct api *api, json_t *body, struct api_prompt *ret, bool *ret_with_strings, struct api_error *error) {
    const json_t *prompt = json_object_get(body, "prompt");
    struct api_fields fields;
    bool add_special = prompt != NULL, with_strings = false;
    api_fields_init(&fields, body);
    check_source(&fields);
    api_field_bool(&fields, "add_special_tokens", &add_special);
    api_field_bool(&fields, "return_token_strs", &with_strings);
    int status = read_common(api, &fields, error);
    api_fields_finish(&fields);
    if (status != 0)
        return -1;
    *ret_with_strings = with_strings;
    if (prompt != NULL)
        return api_prompt_encode(api, json_string_value(prompt), json_string_length(prompt), add_special, TOKENIZE_LIMIT, ret, error);
    char *text = NULL;
    size_t text_bytes = 0;
    if (api_chat_check_raw(body, error) != 0 || api_chat_render(api, body, &text, &text_bytes, error) != 0)
        return -1;
    status = api_prompt_encode(api, text, text_bytes, add_special, TOKENIZE_LIMIT, ret, error);
    free(text);
    return status;
}

void api_tokenize(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    struct api_prompt prompt;
    struct api_error error;
    bool with_strings = false;
    (void)request;
    if (tokenize(api, body, &prompt, &with_strings, &error) != 0) {
        api_answer_error(ret, &error);
        return;
    }
    json_t *strings = with_strings ? json_array() : json_null();
    for (int i = 0; with_strings && i < prompt.ids.n_ids; i++)
        json_array_append_new(strings, api_logprobs_token(api->opts.tokenizer, prompt.ids.ids[i], false));
    api_answer_json(ret, 200,
                    json_pack("{s:i, s:i, s:o, s:o}", "count", prompt.ids.n_ids, "max_model_len", api->opts.max_model_len, "tokens",
                              api_prompt_ids(&prompt), "token_strs", strings));
    text_ids_finish(&prompt.ids);
    free(prompt.text);
}

/* Reads "tokens" into a malloc'd list. */
static int read_tokens(struct api *api, json_t *body, int32_t **ret_ids, int *ret_n, struct api_error *error) {
    struct api_fields fields;
    api_fields_init(&fields, body);
    const json_t *tokens = json_object_get(body, "tokens");
    if (tokens == NULL)
        api_field_error(&fields, "missing", "tokens", "Field required", body, NULL);
    else if (!json_is_array(tokens))
        api_field_error(&fields, "list_type", "tokens", "Input should be a valid list", tokens, NULL);
    size_t n = json_array_size(tokens);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    int64_t foreign = -1;
    for (size_t i = 0; ids != NULL && i < n && fields.n_errors == 0; i++) {
        char loc[48];
        int64_t id = 0;
        snprintf(loc, sizeof loc, "tokens.%zu", i);
        if (api_value_int(&fields, loc, json_array_get(tokens, i), &id) && id < 0)
            api_field_error(&fields, "greater_than_equal", loc, "Input should be greater than or equal to 0", json_array_get(tokens, i),
                            "{'ge': 0}");
        if (id >= api->opts.n_vocab)
            foreign = id;
        ids[i] = (int32_t)id;
    }
    int status = read_common(api, &fields, error);
    api_fields_finish(&fields);
    if (status == 0 && ids == NULL)
        status = api_fail_memory(error);
    if (status == 0 && foreign >= 0)
        status = api_fail(error, 400, NULL, NULL, "Token id %lld is out of vocabulary", (long long)foreign);
    if (status != 0) {
        free(ids);
        return -1;
    }
    *ret_ids = ids;
    *ret_n = (int)n;
    return 0;
}

void api_detokenize(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    int32_t *ids = NULL;
    int n = 0;
    struct api_error error;
    (void)request;
    if (read_tokens(api, body, &ids, &n, &error) != 0) {
        api_answer_error(ret, &error);
        return;
    }
    struct buf text;
    buf_init(&text, TEXT_LIMIT_BYTES);
    text_tokenizer_decode(api->opts.tokenizer, ids, n, false, &text);
    api_answer_json(ret, 200, text.failed ? NULL : json_pack("{s:o}", "prompt", json_stringn(buf_str(&text), text.len_bytes)));
    buf_finish(&text);
    free(ids);
}
