/* /v1/completions: what is its own in checks and in the shape of answers. On connection threads. */
#include <string.h>

#include "api/generation.h"

/* The text before the first token of an echoing choice: its prompt. A new reference. */
static json_t *echoed_text(const struct api_generation *generation, const struct api_choice *choice, json_t *text) {
    if (generation->params.return_token_ids) /* the ids say it already */
        return text;
    struct buf whole;
    buf_init(&whole, (size_t)256 << 20);
    if (choice->prompt->text != NULL)
        buf_append(&whole, choice->prompt->text, choice->prompt->text_bytes);
    else
        text_tokenizer_decode(generation->api->opts.tokenizer, choice->prompt->ids.ids, choice->prompt->ids.n_ids, false, &whole);
    buf_append(&whole, json_string_value(text), json_string_length(text));
    json_decref(text);
    text = whole.failed ? NULL : json_stringn(buf_str(&whole), whole.len_bytes);
    buf_finish(&whole);
    return text;
}

static json_t *full(struct api_generation *generation) {
    json_t *choices = json_array();
    for (int i = 0; i < generation->n_choices; i++) {
        struct api_choice *choice = &generation->choices[i];
        json_t *text = api_choice_take_text(choice);
        if (generation->params.echo)
            text = echoed_text(generation, choice, text);
        json_t *prompt_ids = generation->params.return_token_ids ? api_prompt_ids(choice->prompt) : json_null();
        json_array_append_new(choices,
                              json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:n}", "index", choice->index, "text", text, "logprobs",
                                        api_choice_take_logprobs(choice), "finish_reason", api_choice_reason(choice), "stop_reason",
                                        api_choice_stop_reason(choice), "token_ids", api_choice_take_ids(choice), "prompt_logprobs",
                                        api_choice_prompt_logprobs(choice), "prompt_token_ids", prompt_ids, "routed_experts"));
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:n, s:s, s:o, s:n, s:n, s:n}", "id", generation->id, "object", "text_completion",
                     "created", (json_int_t)generation->created_s, "model", generation->api->opts.served_names[0], "choices", choices,
                     "service_tier", "system_fingerprint", generation->api->fingerprint, "usage", api_generation_full_usage(generation),
                     "kv_transfer_params", "ec_transfer_params", "metrics");
}

static json_t *chunk(struct api_generation *generation, struct api_choice *choice) {
    const struct api_params *params = &generation->params;
    json_t *text = api_choice_take_text(choice), *prompt_ids = json_null();
    if (!choice->is_begun && params->echo)
        text = echoed_text(generation, choice, text);
    if (!choice->is_begun && (params->echo || params->return_token_ids))
        prompt_ids = api_prompt_ids(choice->prompt);
    return json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o}", "index", choice->index, "text", text, "logprobs",
                     api_choice_take_logprobs(choice), "finish_reason", api_choice_reason(choice), "stop_reason",
                     api_choice_stop_reason(choice), "prompt_token_ids", prompt_ids, "token_ids", api_choice_take_ids(choice));
}

static int prompts(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret,
                   struct api_error *error) {
    const json_t *suffix = json_object_get(body, "suffix");
    if (json_is_string(suffix) && json_string_length(suffix) > 0)
        return api_fail(error, 400, NULL, "suffix", "suffix is only supported for models with FIM completion rendering");
    return api_prompts_of_completion(api, params, body, ret, error);
}

static const struct api_shape shape = {.is_chat = false,
                                       .id_prefix = "cmpl",
                                       .check_raw = api_prompt_check_raw,
                                       .check_type = api_prompt_check_type,
                                       .prompts = prompts,
                                       .chunk_object = "text_completion",
                                       .full = full,
                                       .chunk = chunk};

void api_completions(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    api_generate(api, request, body, &shape, ret);
}
