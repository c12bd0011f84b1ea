/* /v1/chat/completions: what is its own in checks and in the shape of answers. On connection threads. */
#include <stdlib.h>
#include <string.h>

#include "api/generation.h"

static json_t *last_message(const struct api_generation *generation) {
    const json_t *messages = json_object_get(generation->body, "messages");
    return json_array_get(messages, json_array_size(messages) - 1);
}

/* The role that answers: the last message's own where that one is continued. */
static const char *role_of(const struct api_generation *generation) {
    bool continues = json_is_false(json_object_get(generation->body, "add_generation_prompt"));
    return continues ? json_string_value(json_object_get(last_message(generation), "role")) : generation->api->opts.response_role;
}

/* What "echo" puts before the answer, malloc'd: the last message's text where it is of the same role; else NULL. */
static char *echoed(const struct api_generation *generation) {
    const json_t *last = last_message(generation);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!generation->params.echo || role == NULL || strcmp(role, role_of(generation)) != 0)
        return NULL;
    return api_chat_content(last);
}

static json_t *prompt_ids(const struct api_generation *generation) {
    return generation->params.return_token_ids ? api_prompt_ids(&generation->prompts.items[0]) : json_null();
}

static json_t *prompt_text(const struct api_generation *generation) {
    const struct api_prompt *prompt = &generation->prompts.items[0];
    return generation->params.return_prompt_text ? json_stringn(prompt->text, prompt->text_bytes) : json_null();
}

static json_t *full_content(const struct api_generation *generation, struct api_choice *choice) {
    json_t *text = api_choice_take_text(choice);
    char *before = echoed(generation);
    if (before != NULL && before[0] != '\0') {
        json_t *whole = json_sprintf("%s%s", before, json_string_value(text));
        json_decref(text);
        text = whole;
    }
    free(before);
    return text;
}

static json_t *full(struct api_generation *generation) {
    json_t *choices = json_array();
    for (int i = 0; i < generation->n_choices; i++) {
        struct api_choice *choice = &generation->choices[i];
        json_t *message = json_pack("{s:s, s:o, s:n, s:n, s:n, s:n, s:n}", "role", role_of(generation), "content",
                                    full_content(generation, choice), "refusal", "annotations", "audio", "function_call", "reasoning");
        json_array_append_new(choices,
                              json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:n}", "index", choice->index, "message", message, "logprobs",
                                        api_choice_take_logprobs(choice), "finish_reason", api_choice_reason(choice), "stop_reason",
                                        api_choice_stop_reason(choice), "token_ids", api_choice_take_ids(choice), "routed_experts"));
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:n, s:s, s:o, s:o, s:o, s:o, s:n, s:n, s:n}", "id", generation->id, "object",
                     "chat.completion", "created", (json_int_t)generation->created_s, "model", generation->api->opts.served_names[0],
                     "choices", choices, "service_tier", "system_fingerprint", generation->api->fingerprint, "usage",
                     api_generation_full_usage(generation), "prompt_logprobs", api_choice_prompt_logprobs(&generation->choices[0]),
                     "prompt_token_ids", prompt_ids(generation), "prompt_text", prompt_text(generation), "kv_transfer_params",
                     "ec_transfer_params", "metrics");
}

/* The chunk that names the role, and with "echo" one more with the last message. */
static json_t *opening(struct api_generation *generation, struct api_choice *choice, int at, json_t *whole) {
    json_t *delta = NULL;
    if (at == 0) {
        delta = json_pack("{s:s, s:s}", "role", role_of(generation), "content", "");
        json_object_set_new(whole, "prompt_token_ids", prompt_ids(generation));
        json_object_set_new(whole, "prompt_text", prompt_text(generation));
    } else if (at == 1) {
        char *before = echoed(generation);
        if (before != NULL && before[0] != '\0')
            delta = json_pack("{s:s}", "content", before);
        free(before);
    }
    return delta == NULL ? NULL : json_pack("{s:i, s:o, s:n, s:n}", "index", choice->index, "delta", delta, "logprobs", "finish_reason");
}

static json_t *chunk(struct api_generation *generation, struct api_choice *choice) {
    (void)generation;
    json_t *delta = json_pack("{s:o}", "content", api_choice_take_text(choice));
    json_t *one = json_pack("{s:i, s:o, s:o, s:o}", "index", choice->index, "delta", delta, "logprobs", api_choice_take_logprobs(choice),
                            "finish_reason", api_choice_reason(choice));
    if (choice->is_finished)
        json_object_set_new(one, "stop_reason", api_choice_stop_reason(choice));
    json_object_set_new(one, "token_ids", api_choice_take_ids(choice));
    return one;
}

static const struct api_shape shape = {.is_chat = true,
                                       .id_prefix = "chatcmpl",
                                       .check_raw = api_chat_check_raw,
                                       .check_type = api_chat_check_type,
                                       .prompts = api_prompts_of_chat,
                                       .chunk_object = "chat.completion.chunk",
                                       .full = full,
                                       .chunk = chunk,
                                       .opening = opening};

void api_chat_completions(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    api_generate(api, request, body, &shape, ret);
}
