/* The course of a generating request; see generation.h. */
#include "api/generation.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

enum {
    OUT_LIMIT_BYTES = 256 << 20,
    OUT_ENOUGH_BYTES = 4096, /* events that are there already are sent together up to this */
    WAIT_MS = 100
};

static void generation_destroy(struct api_generation *generation) {
    engine_stream_close(generation->stream);
    for (int i = 0; i < generation->n_choices; i++) {
        struct api_choice *choice = &generation->choices[i];
        if (generation->stream != NULL && !choice->is_finished) /* the client left, or the answer failed */
            api_metrics_finish(generation->api->metrics, API_FINISH_ABORT);
        api_choice_destroy(choice);
    }
    if (generation->stream != NULL)
        api_metrics_load(generation->api->metrics, -1);
    free(generation->choices);
    api_prompts_finish(&generation->prompts);
    buf_finish(&generation->out);
    json_decref(generation->body);
    free(generation);
}

static int read_body(struct api_generation *generation, struct api_error *error) {
    const struct api_shape *shape = generation->shape;
    struct api_fields fields;
    if (shape->check_raw(generation->body, error) != 0 || api_params_check_raw(generation->body, shape->is_chat, error) != 0)
        return -1;
    api_fields_init(&fields, generation->body);
    shape->check_type(&fields);
    api_params_read(generation->api, &fields, shape->is_chat, &generation->params);
    int status = api_fields_check(&fields, error);
    api_fields_finish(&fields);
    if (status != 0 || api_params_check_supported(generation->body, error) != 0 ||
        api_check_model(generation->api, generation->params.model, error) != 0)
        return -1;
    return shape->prompts(generation->api, &generation->params, generation->body, &generation->prompts, error);
}

static int make_choices(struct api_generation *generation, const struct exec_sampling *sampling, struct api_error *error) {
    int n = generation->params.n, n_prompts = generation->prompts.n;
    if (n > API_MAX_CHOICES / n_prompts)
        return api_fail(error, 400, NULL, "n",
                        "%d prompts with n=%d are more than %d continuations, the most that one request may ask for.", n_prompts, n,
                        API_MAX_CHOICES);
    generation->choices = calloc((size_t)n * (size_t)n_prompts, sizeof *generation->choices);
    if (generation->choices == NULL)
        return api_fail_memory(error);
    for (int i = 0; i < n * n_prompts; i++) {
        struct api_choice *choice = &generation->choices[generation->n_choices++];
        if (api_choice_init(choice, generation->api, &generation->params, &generation->prompts.items[i / n], generation->start_ns, error) !=
            0)
            return -1;
        choice->index = i;
        choice->prompt_index = i / n;
        choice->sub_index = i % n;
        choice->max_tokens = sampling[i / n].max_tokens;
    }
    generation->n_open = generation->n_choices;
    return 0;
}

static int submit_error(const struct err *err, struct api_error *error) {
    switch (err->code) {
    case ERR_INVALID: return api_fail(error, 400, NULL, NULL, "%s", err->msg);
    case ERR_LIMIT: return api_fail(error, 503, "ServiceUnavailableError", NULL, "%s", err->msg);
    default: return api_fail(error, 500, "InternalServerError", NULL, "%s", err->msg);
    }
}

static int submit(struct api_generation *generation, struct api_error *error) {
    const struct api_params *params = &generation->params;
    int n_prompts = generation->prompts.n, status = -1;
    struct exec_sampling *sampling = calloc((size_t)n_prompts, sizeof *sampling);
    struct engine_request *requests = calloc((size_t)n_prompts, sizeof *requests);
    struct err err = {0};
    if (sampling == NULL || requests == NULL) {
        api_fail_memory(error);
        goto free_requests;
    }
    for (int i = 0; i < n_prompts; i++) {
        const struct text_ids *ids = &generation->prompts.items[i].ids;
        if (api_params_sampling(generation->api, params, ids->n_ids, &sampling[i], error) != 0)
            goto free_requests;
        requests[i] = (struct engine_request){.prompt = ids->ids,
                                              .n_prompt = ids->n_ids,
                                              .n_choices = params->n,
                                              .priority = params->priority,
                                              .cache_salt = params->cache_salt,
                                              .sampling = &sampling[i]};
    }
    if (make_choices(generation, sampling, error) != 0)
        goto free_requests;
    if (engine_submit(generation->api->opts.engine, requests, n_prompts, &generation->stream, &err) != 0) {
        submit_error(&err, error);
        goto free_requests;
    }
    api_metrics_load(generation->api->metrics, 1);
    api_metrics_observe(generation->api->metrics, API_PARAMS_N, params->n);
    for (int i = 0; i < n_prompts; i++)
        api_metrics_observe(generation->api->metrics, API_PARAMS_MAX_TOKENS, sampling[i].max_tokens);
    status = 0;
free_requests:
    free(sampling);
    free(requests);
    return status;
}

static void log_request(const struct api_generation *generation) {
    const struct api_params *params = &generation->params;
    int n_tokens = 0;
    for (int i = 0; i < generation->prompts.n; i++)
        n_tokens += generation->prompts.items[i].ids.n_ids;
    log_info("Received request %s: %d prompt(s) of %d tokens, n=%d, max_tokens=%lld, temperature=%g, stream=%s", generation->id,
             generation->prompts.n, n_tokens, params->n, params->has_max_tokens ? (long long)params->max_tokens : -1, params->temperature,
             params->stream ? "yes" : "no");
}

static struct api_generation *generation_create(struct api *api, const struct http_request *request, json_t *body,
                                                const struct api_shape *shape, struct api_error *error) {
    struct api_generation *generation = calloc(1, sizeof *generation);
    if (generation == NULL) {
        api_fail_memory(error);
        return NULL;
    }
    *generation = (struct api_generation){
        .api = api, .body = json_incref(body), .shape = shape, .start_ns = clock_mono_ns(), .created_s = clock_wall_s()};
    buf_init(&generation->out, OUT_LIMIT_BYTES);
    if (read_body(generation, error) != 0)
        goto destroy_generation;
    api_make_id(request, shape->id_prefix, generation->params.request_id, generation->id);
    if (submit(generation, error) != 0)
        goto destroy_generation;
    if (api->opts.log_requests)
        log_request(generation);
    return generation;
destroy_generation:
    generation_destroy(generation);
    return NULL;
}

/* Over all choices, or of one alone. */
static json_t *usage_of(const struct api_generation *generation, const struct api_choice *only) {
    int n_prompt = 0, n_completion = 0;
    for (int i = 0; i < generation->n_choices; i++) {
        const struct api_choice *choice = &generation->choices[i];
        if (only != NULL && choice != only)
            continue;
        n_completion += choice->n_tokens;
        if (only != NULL || choice->sub_index == 0)
            n_prompt += choice->prompt->ids.n_ids;
    }
    return json_pack("{s:i, s:i, s:i}", "prompt_tokens", n_prompt, "total_tokens", n_prompt + n_completion, "completion_tokens",
                     n_completion);
}

/* {"cached_tokens":…} with --enable-prompt-tokens-details when there are any; NULL otherwise. */
static json_t *prompt_details(const struct api_generation *generation) {
    int n_cached = 0;
    for (int i = 0; i < generation->n_choices; i++)
        if (generation->choices[i].sub_index == 0)
            n_cached += generation->choices[i].n_cached;
    return generation->api->opts.prompt_tokens_details && n_cached > 0 ? json_pack("{s:i}", "cached_tokens", n_cached) : NULL;
}

json_t *api_generation_full_usage(const struct api_generation *generation) {
    json_t *usage = usage_of(generation, NULL), *details = prompt_details(generation);
    json_object_set_new(usage, "prompt_tokens_details", details == NULL ? json_null() : details);
    json_object_set_new(usage, "completion_tokens_details", json_null());
    return usage;
}

static void send_json(struct api_generation *generation, json_t *value) {
    char *text = value == NULL ? NULL : api_text(value);
    if (text == NULL)
        generation->out.failed = true;
    else
        buf_printf(&generation->out, "data: %s\n\n", text);
    free(text);
    json_decref(value);
}

/* A chunk around at most one choice, whose reference it takes over. */
static json_t *envelope(const struct api_generation *generation, json_t *choice) {
    json_t *choices = json_array();
    if (choice != NULL)
        json_array_append_new(choices, choice);
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", generation->id, "object", generation->shape->chunk_object, "created",
                     (json_int_t)generation->created_s, "model", generation->api->opts.served_names[0], "choices", choices);
}

static void sign(const struct api_generation *generation, json_t *whole) {
    json_object_set_new(whole, "system_fingerprint", json_string(generation->api->fingerprint));
}

static void send_openings(struct api_generation *generation) {
    generation->is_begun = true;
    for (int i = 0; generation->shape->opening != NULL && i < generation->n_choices; i++) {
        struct api_choice *choice = &generation->choices[i];
        for (int at = 0;; at++) {
            json_t *beside = json_object(), *one = generation->shape->opening(generation, choice, at, beside);
            json_t *whole = one == NULL ? NULL : envelope(generation, one);
            if (generation->params.continuous_usage && whole != NULL)
                json_object_set_new(whole, "usage", usage_of(generation, choice));
            if (whole != NULL) {
                json_object_update(whole, beside);
                send_json(generation, whole);
            }
            json_decref(beside);
            if (one == NULL)
                break;
        }
    }
}

static void send_chunk(struct api_generation *generation, struct api_choice *choice) {
    json_t *whole = envelope(generation, generation->shape->chunk(generation, choice));
    if (generation->params.continuous_usage)
        json_object_set_new(whole, "usage", usage_of(generation, choice));
    if (!generation->params.include_usage && choice->is_finished)
        sign(generation, whole);
    send_json(generation, whole);
    choice->is_begun = true;
}

static void send_usage(struct api_generation *generation) {
    json_t *whole = envelope(generation, NULL), *usage = usage_of(generation, NULL), *details = prompt_details(generation);
    if (details != NULL)
        json_object_set_new(usage, "prompt_tokens_details", details);
    json_object_set_new(whole, "usage", usage);
    sign(generation, whole);
    send_json(generation, whole);
}

/*
 * Reads one event, waiting at most timeout_ms. Returns 1 when there was one, 0 when not, and -1 with the error when
 * the request cannot go on. With `streams`, chunks go to generation->out.
 */
static int generation_step(struct api_generation *generation, int timeout_ms, bool streams, struct api_error *error) {
    struct engine_event event;
    struct err err = {0};
    int found = engine_stream_next(generation->stream, timeout_ms, &event, &err);
    if (found == 0)
        return 0;
    if (found == -2)
        return api_fail(error, 500, "InternalServerError", NULL, "%s", err.msg);
    int at = found == 1 ? event.request * generation->params.n + event.choice : -1;
    if (at < 0 || at >= generation->n_choices)
        return api_fail(error, 500, "InternalServerError", NULL, "The engine ended a request before its choices.");
    if (streams && !generation->is_begun)
        send_openings(generation);
    struct api_choice *choice = &generation->choices[at];
    bool cancel = false, was_finished = choice->is_finished;
    int wants_chunk = api_choice_take(choice, &event, &cancel);
    if (cancel)
        engine_stream_cancel(generation->stream, event.request, event.choice);
    generation->n_open -= choice->is_finished && !was_finished;
    if (wants_chunk < 0)
        return api_fail(error, 500, "InternalServerError", NULL, "The text of an answer grew past what the server holds.");
    if (choice->is_finished && choice->finish == API_FINISH_ERROR)
        return api_fail(error, 500, "InternalServerError", NULL, "The request failed while it was computed.");
    if (streams && wants_chunk > 0)
        send_chunk(generation, choice);
    return 1;
}

static void stream_end(struct api_generation *generation, const struct api_error *error) {
    if (error != NULL)
        send_json(generation, api_error_json(error));
    else if (generation->params.include_usage)
        send_usage(generation);
    buf_append_str(&generation->out, "data: [DONE]\n\n");
    generation->is_ended = true;
}

static ssize_t stream_next(void *ctx, char *room, size_t room_bytes) {
    struct api_generation *generation = ctx;
    struct buf *out = &generation->out;
    while (!generation->is_ended && !out->failed && out->len_bytes < OUT_ENOUGH_BYTES) {
        struct api_error error;
        int found = generation_step(generation, out->len_bytes == 0 ? WAIT_MS : 0, true, &error);
        if (found == 0)
            break;
        if (found < 0 || generation->n_open == 0)
            stream_end(generation, found < 0 ? &error : NULL);
    }
    if (out->failed)
        return HTTP_STREAM_ABORT;
    if (out->len_bytes == 0)
        return generation->is_ended ? HTTP_STREAM_END : 0;
    size_t n = out->len_bytes < room_bytes ? out->len_bytes : room_bytes;
    memcpy(room, out->data, n);
    buf_consume(out, n);
    return (ssize_t)n;
}

static void stream_finish(void *ctx) { generation_destroy(ctx); }

static void answer_whole(struct api_generation *generation, const struct http_request *request, struct http_response *ret) {
    struct api_error error;
    while (generation->n_open > 0) {
        if (generation_step(generation, WAIT_MS, false, &error) < 0) {
            api_answer_error(ret, &error);
            return;
        }
        if (http_request_client_gone(request)) {
            api_fail(&error, 499, NULL, NULL, "Client disconnected"); /* for the log and the counters: nobody reads it */
            api_answer_error(ret, &error);
            return;
        }
    }
    api_answer_json(ret, 200, generation->shape->full(generation));
}

void api_generate(struct api *api, const struct http_request *request, json_t *body, const struct api_shape *shape,
                  struct http_response *ret) {
    struct api_error error;
    struct api_generation *generation = generation_create(api, request, body, shape, &error);
    if (generation == NULL) {
        api_answer_error(ret, &error);
    } else if (generation->params.stream) {
        *ret = (struct http_response){.status = 200,
                                      .content_type = "text/event-stream; charset=utf-8",
                                      .next = stream_next,
                                      .finish = stream_finish,
                                      .ctx = generation};
    } else {
        answer_whole(generation, request, ret);
        generation_destroy(generation);
    }
}
