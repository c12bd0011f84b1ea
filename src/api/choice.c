/* From events to text; see choice.h. */
#include "api/choice.h"

#include <string.h>

#include "base/clock.h"

enum { TEXT_LIMIT_BYTES = 64 << 20, DETOK_LIMIT_BYTES = 1 << 20 };

int api_choice_init(struct api_choice *choice, struct api *api, const struct api_params *params, const struct api_prompt *prompt,
                    int64_t start_ns, struct api_error *error) {
    struct err err = {0};
    *choice = (struct api_choice){.prompt = prompt, .params = params, .api = api, .start_ns = start_ns};
    buf_init(&choice->text, TEXT_LIMIT_BYTES);
    struct text_detok_opts opts = {.skip_special = params->skip_special,
                                   .stops = params->stops,
                                   .n_stops = params->n_stops,
                                   .include_stop = params->include_stop,
                                   .min_tokens = (int)params->min_tokens,
                                   .limit_bytes = DETOK_LIMIT_BYTES};
    if (text_detok_create(api->opts.tokenizer, &opts, &choice->detok, &err) != 0)
        return api_fail(error, err.code == ERR_NOMEM ? 500 : 400, err.code == ERR_NOMEM ? "InternalServerError" : NULL, "stop", "%s",
                        err.msg);
    if (params->return_token_ids && (choice->token_ids = json_array()) == NULL)
        return api_fail_memory(error);
    if (params->n_prompt_logprobs >= 0) {
        choice->prompt_logprobs = json_array();
        if (json_array_append_new(choice->prompt_logprobs, json_null()) != 0)
            return api_fail_memory(error);
    }
    choice->has_logprobs = params->n_logprobs >= 0;
    /* A chat's list of the best has the token itself first: given tokens come besides. */
    int n_top = (int)params->n_logprobs + (params->is_chat && params->tokens.logprob_ids != NULL);
    if (choice->has_logprobs &&
        api_logprobs_init(&choice->logprobs, api->opts.tokenizer, params->is_chat, n_top, params->tokens_as_ids) != 0)
        return api_fail_memory(error);
    if (choice->has_logprobs && params->echo && !params->is_chat)
        api_logprobs_add(&choice->logprobs, prompt->ids.ids[0], NULL);
    return 0;
}

void api_choice_destroy(struct api_choice *choice) {
    text_detok_destroy(choice->detok);
    buf_finish(&choice->text);
    json_decref(choice->token_ids);
    if (choice->has_logprobs)
        api_logprobs_finish(&choice->logprobs);
    json_decref(choice->prompt_logprobs);
    json_decref(choice->stop_reason);
    *choice = (struct api_choice){0};
}

static bool echoes_prompt_only(const struct api_choice *choice) {
    return choice->params->echo && !choice->params->is_chat && choice->params->max_tokens == 0;
}

static void finish(struct api_choice *choice, enum api_finish why, json_t *stop_reason) {
    struct api_metrics *metrics = choice->api->metrics;
    choice->is_finished = true;
    choice->finish = why;
    choice->stop_reason = stop_reason;
    api_metrics_finish(metrics, why);
    api_metrics_observe(metrics, API_E2E_LATENCY, (double)(clock_mono_ns() - choice->start_ns) * 1e-9);
    api_metrics_observe(metrics, API_PROMPT_TOKENS, choice->prompt->ids.n_ids);
    api_metrics_observe(metrics, API_GENERATION_TOKENS, choice->n_tokens);
    if (choice->started_ns != 0)
        api_metrics_observe(metrics, API_QUEUE_TIME, (double)(choice->started_ns - choice->start_ns) * 1e-9);
    if (choice->started_ns != 0 && choice->n_tokens > 0) {
        api_metrics_observe(metrics, API_PREFILL_TIME, (double)(choice->first_ns - choice->started_ns) * 1e-9);
        api_metrics_observe(metrics, API_DECODE_TIME, (double)(choice->last_ns - choice->first_ns) * 1e-9);
        api_metrics_observe(metrics, API_INFERENCE_TIME, (double)(choice->last_ns - choice->started_ns) * 1e-9);
    }
    if (choice->n_tokens > 1)
        api_metrics_observe(metrics, API_TIME_PER_OUTPUT_TOKEN,
                            (double)(choice->last_ns - choice->first_ns) * 1e-9 / (choice->n_tokens - 1));
}

/* Everything about a generated token but its text. */
static void count_token(struct api_choice *choice, int32_t token, const struct engine_event *event) {
    int64_t now_ns = clock_mono_ns();
    if (choice->n_tokens == 0) {
        choice->first_ns = now_ns;
        api_metrics_observe(choice->api->metrics, API_TIME_TO_FIRST_TOKEN, (double)(now_ns - choice->start_ns) * 1e-9);
    } else {
        api_metrics_observe(choice->api->metrics, API_INTER_TOKEN_LATENCY, (double)(now_ns - choice->last_ns) * 1e-9);
    }
    choice->last_ns = now_ns;
    choice->n_tokens++;
    choice->n_fresh_tokens++;
    if (choice->token_ids != NULL)
        json_array_append_new(choice->token_ids, json_integer(token));
    if (choice->has_logprobs && event->has_logprobs && !echoes_prompt_only(choice))
        api_logprobs_add(&choice->logprobs, token, &event->logprobs);
}

/* Returns 1 when a stop string was found, 0, or -1. */
static int push_text(struct api_choice *choice, int32_t token) {
    if (echoes_prompt_only(choice))
        return 0;
    int stop = text_detok_push(choice->detok, token, &choice->text);
    if (stop >= 0 && !choice->is_finished)
        finish(choice, API_FINISH_STOP, json_string(choice->params->stops[stop]));
    return stop == -2 ? -1 : stop >= 0;
}

static int take_token(struct api_choice *choice, const struct engine_event *event, bool *ret_cancel) {
    count_token(choice, event->token, event);
    int stopped = push_text(choice, event->token);
    *ret_cancel = stopped > 0;
    if (stopped != 0)
        return stopped;
    /* The end by length follows at once: it goes into the same chunk. */
    bool is_last = choice->n_tokens >= choice->max_tokens;
    return !is_last && (!choice->is_begun || choice->n_fresh_tokens >= choice->params->stream_interval);
}

static int take_finish(struct api_choice *choice, const struct engine_event *event) {
    static const enum api_finish reasons[] = {[ENGINE_FINISH_STOP] = API_FINISH_STOP,
                                              [ENGINE_FINISH_LENGTH] = API_FINISH_LENGTH,
                                              [ENGINE_FINISH_ABORT] = API_FINISH_ABORT,
                                              [ENGINE_FINISH_ERROR] = API_FINISH_ERROR};
    json_t *stop_reason = NULL;
    if (event->finish == ENGINE_FINISH_STOP && event->stop_token >= 0) {
        count_token(choice, event->stop_token, event);
        if (choice->params->include_stop && push_text(choice, event->stop_token) < 0)
            return -1;
        if (!event->stop_is_eos)
            stop_reason = json_integer(event->stop_token);
    }
    if (choice->is_finished) { /* by a stop string that the stop token completed */
        json_decref(stop_reason);
        return 1;
    }
    if (!echoes_prompt_only(choice) && text_detok_flush(choice->detok, &choice->text) != 0) {
        json_decref(stop_reason);
        return -1;
    }
    finish(choice, reasons[event->finish], stop_reason);
    return 1;
}

int api_choice_take(struct api_choice *choice, const struct engine_event *event, bool *ret_cancel) {
    *ret_cancel = false;
    if (choice->is_finished)
        return 0;
    choice->n_cached = event->n_cached;
    choice->started_ns = event->started_ns;
    switch (event->type) {
    case ENGINE_EVENT_PROMPT:
        if (choice->prompt_logprobs != NULL && event->has_logprobs)
            json_array_append_new(choice->prompt_logprobs,
                                  api_logprobs_prompt(choice->api->opts.tokenizer, event->token, &event->logprobs));
        if (choice->has_logprobs && choice->params->echo && !choice->params->is_chat)
            api_logprobs_add(&choice->logprobs, event->token, event->has_logprobs ? &event->logprobs : NULL);
        return 0;
    case ENGINE_EVENT_TOKEN: return take_token(choice, event, ret_cancel);
    case ENGINE_EVENT_FINISH: return take_finish(choice, event);
    }
    return 0;
}

json_t *api_choice_reason(const struct api_choice *choice) {
    static const char *const names[] = {"stop", "length", "abort", "error"};
    return choice->is_finished ? json_string(names[choice->finish]) : json_null();
}

json_t *api_choice_take_text(struct api_choice *choice) {
    json_t *text = json_stringn(buf_str(&choice->text), choice->text.len_bytes);
    buf_clear(&choice->text);
    choice->n_fresh_tokens = 0;
    return text;
}

json_t *api_choice_take_ids(struct api_choice *choice) {
    if (choice->token_ids == NULL)
        return json_null();
    json_t *ids = choice->token_ids;
    choice->token_ids = json_array();
    return ids;
}

json_t *api_choice_take_logprobs(struct api_choice *choice) {
    return choice->has_logprobs ? api_logprobs_take(&choice->logprobs) : json_null();
}

json_t *api_choice_stop_reason(const struct api_choice *choice) {
    return choice->stop_reason == NULL ? json_null() : json_incref(choice->stop_reason);
}

json_t *api_choice_prompt_logprobs(const struct api_choice *choice) {
    return choice->prompt_logprobs == NULL ? json_null() : json_incref(choice->prompt_logprobs);
}
