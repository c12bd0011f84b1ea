/*
 * The API's front door: keys, routes, bodies to JSON, and the small routes that need no file of their own. On
 * connection threads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/api_state.h"
#include "api/fields.h"
#include "base/hash.h"
#include "base/log.h"

enum {
    METRICS_LIMIT_BYTES = 1 << 20,
    MAX_COMMAS = 2 << 20 /* in a body: a parsed value takes some twenty times its bytes, and no model reads that many tokens at once */
};

static void empty(struct http_response *ret, int status) { *ret = (struct http_response){.status = status}; }

static void get_health(struct api *api, struct http_response *ret) { empty(ret, engine_failure(api->opts.engine) == NULL ? 200 : 503); }

static void get_version(struct api *api, struct http_response *ret) {
    api_answer_json(ret, 200, json_pack("{s:s}", "version", api->opts.version));
}

static void get_load(struct api *api, struct http_response *ret) {
    api_answer_json(ret, 200, json_pack("{s:i}", "server_load", api_metrics_load_read(api->metrics)));
}

static void get_metrics(struct api *api, struct http_response *ret) {
    struct engine_stats stats = {0};
    struct buf text;
    engine_stats_read(api->opts.engine, &stats);
    buf_init(&text, METRICS_LIMIT_BYTES);
    api_metrics_text(api->metrics, &stats, &text);
    *ret = (struct http_response){.status = 200, .content_type = "text/plain; version=1.0.0; charset=utf-8", .body_bytes = text.len_bytes};
    ret->body = buf_steal(&text);
    buf_finish(&text);
    if (ret->body == NULL)
        empty(ret, 500);
}

/* The route of hosted endpoints: a chat where there are messages, else a completion. */
static void post_invocations(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    if (json_object_get(body, "messages") != NULL)
        api_chat_completions(api, request, body, ret);
    else
        api_completions(api, request, body, ret);
}

static void post_ping(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    (void)request;
    (void)body;
    get_health(api, ret);
}

/* For benches; vLLM has it under the same condition. */
static void post_reset_prefix_cache(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret) {
    const char *mode = getenv("VLLM_SERVER_DEV_MODE");
    (void)request;
    (void)body;
    if (mode == NULL || strcmp(mode, "1") != 0) {
        api_answer_detail(ret, 404, "Not Found");
        return;
    }
    engine_cache_reset(api->opts.engine);
    empty(ret, 200);
}

static const struct route {
    const char *path;
    void (*get)(struct api *api, struct http_response *ret);
    void (*post)(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret);
    bool without_body; /* a POST whose body does not matter */
} routes[] = {
    {"/health", get_health, NULL, false},
    {"/ping", get_health, post_ping, true},
    {"/version", get_version, NULL, false},
    {"/load", get_load, NULL, false},
    {"/metrics", get_metrics, NULL, false},
    {"/v1/models", api_models_list, NULL, false},
    {"/v1/completions", NULL, api_completions, false},
    {"/v1/chat/completions", NULL, api_chat_completions, false},
    {"/invocations", NULL, post_invocations, false},
    {"/tokenize", NULL, api_tokenize, false},
    {"/detokenize", NULL, api_detokenize, false},
    {"/reset_prefix_cache", NULL, post_reset_prefix_cache, true},
};

static const char models_prefix[] = "/v1/models/";

int api_create(const struct api_opts *opts, struct api **ret, struct err *err) {
    if (opts->n_served_names < 1 || opts->max_model_len < 1 || opts->n_vocab < 1)
        return err_set(err, ERR_INTERNAL, "the API needs a name, a length and a vocabulary");
    struct api *api = calloc(1, sizeof *api);
    if (api == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the API");
    api->opts = *opts;
    if (api->opts.stream_interval < 1)
        api->opts.stream_interval = 1;
    if (api->opts.response_role == NULL)
        api->opts.response_role = "assistant";
    if (api->opts.model_root == NULL)
        api->opts.model_root = opts->served_names[0];
    api->max_logprobs =
        opts->max_logprobs < 0 || opts->max_logprobs > EXEC_MAX_TOP_LOGPROBS ? EXEC_MAX_TOP_LOGPROBS : opts->max_logprobs;
    uint64_t mark = hash_xxh64(api->opts.model_root, strlen(api->opts.model_root), (uint64_t)opts->max_model_len);
    snprintf(api->fingerprint, sizeof api->fingerprint, "shoal-%.30s-%08x", opts->version, (unsigned)mark);
    if (api_metrics_create(opts->served_names[0], &api->metrics, err) != 0) {
        free(api);
        return -1;
    }
    *ret = api;
    return 0;
}

void api_destroy(struct api *api) {
    if (api == NULL)
        return;
    api_metrics_destroy(api->metrics);
    free(api);
}

/* Compares digests, so that neither length nor place of a difference shows in the time taken. */
static bool key_matches(const char *given, const char *key) {
    uint8_t a[HASH_SHA256_BYTES], b[HASH_SHA256_BYTES];
    hash_hmac_sha256("key", 3, given, strlen(given), a);
    hash_hmac_sha256("key", 3, key, strlen(key), b);
    return hash_equal(a, b, sizeof a) != 0;
}

static bool is_allowed(const struct api *api, const struct http_request *request) {
    if (api->opts.api_keys == NULL || api->opts.api_keys[0] == NULL || strcmp(request->path, "/health") == 0 ||
        strcmp(request->method, "OPTIONS") == 0)
        return true;
    const char *header = http_request_header(request, "Authorization");
    if (header == NULL || strncasecmp(header, "Bearer ", 7) != 0)
        return false;
    bool found = false;
    for (const char *const *key = api->opts.api_keys; *key != NULL; key++)
        found |= key_matches(header + 7, *key);
    return found;
}

/* The body as an object, a new reference; NULL with the 400. */
static json_t *parse_body(const struct http_request *request, struct api_error *error) {
    json_error_t where;
    int n_commas = 0;
    for (size_t i = 0; i < request->body_bytes; i++)
        n_commas += request->body[i] == ',';
    if (n_commas > MAX_COMMAS) {
        api_fail(error, 400, NULL, NULL, "The request has more than %d values.", MAX_COMMAS);
        return NULL;
    }
    json_t *body = json_loadb(request->body, request->body_bytes, JSON_ALLOW_NUL | JSON_DECODE_ANY, &where);
    if (body == NULL) {
        char param[48];
        snprintf(param, sizeof param, "body.%d", where.position < 0 ? 0 : where.position);
        api_fail(error, 400, "Bad Request", param,
                 "1 validation error:\n  {'type': 'json_invalid', 'loc': '%s', 'msg': 'JSON decode error', 'input': {}, 'ctx': {'error': "
                 "\"line %d "
                 "column %d: %s\"}}",
                 param, where.line, where.column, where.text);
        for (char *c = error->message; *c != '\0'; c++) /* the parser quotes what it could not read */
            if ((unsigned char)*c >= 0x80 || ((unsigned char)*c < 0x20 && *c != '\n'))
                *c = '?';
        return NULL;
    }
    if (json_is_object(body))
        return body;
    struct api_fields fields;
    api_fields_init(&fields, body);
    api_field_error(&fields, "model_attributes_type", NULL, "Input should be a valid dictionary or object to extract fields from", body,
                    NULL);
    api_fields_check(&fields, error);
    api_fields_finish(&fields);
    json_decref(body);
    return NULL;
}

static void handle_post(struct api *api, const struct route *route, const struct http_request *request, struct http_response *ret) {
    struct api_error error;
    json_t *body = route->without_body ? json_object() : parse_body(request, &error);
    if (body == NULL) {
        api_answer_error(ret, &error);
        return;
    }
    route->post(api, request, body, ret);
    json_decref(body);
}

static void refuse_method(struct http_response *ret, bool has_get, bool has_post) {
    api_answer_detail(ret, 405, "Method Not Allowed");
    http_response_header(ret, "allow", has_get && has_post ? "GET, POST" : has_get ? "GET" : "POST");
}

/* Returns the route's name for the counters. */
static const char *dispatch(struct api *api, const struct http_request *request, struct http_response *ret) {
    bool is_get = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0,
         is_post = strcmp(request->method, "POST") == 0;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const struct route *route = &routes[i];
        if (strcmp(request->path, route->path) != 0)
            continue;
        if (is_get && route->get != NULL)
            route->get(api, ret);
        else if (is_post && route->post != NULL)
            handle_post(api, route, request, ret);
        else
            refuse_method(ret, route->get != NULL, route->post != NULL);
        return route->path;
    }
    if (strncmp(request->path, models_prefix, sizeof models_prefix - 1) == 0 && request->path[sizeof models_prefix - 1] != '\0') {
        if (is_get)
            api_models_one(api, request->path + sizeof models_prefix - 1, ret);
        else
            refuse_method(ret, true, false);
        return "/v1/models/{model}";
    }
    api_answer_detail(ret, 404, "Not Found");
    return "none";
}

void api_handle(void *ctx, const struct http_request *request, struct http_response *ret) {
    struct api *api = ctx;
    const char *route = "none";
    if (!is_allowed(api, request))
        api_answer_json(ret, 401, json_pack("{s:s}", "error", "Unauthorized"));
    else
        route = dispatch(api, request, ret);
    api_metrics_http(api->metrics, route, request->method, ret->status);
    if (ret->status >= 500 && ret->status != 503 && ret->body != NULL) /* a full queue is no error of ours */
        log_error("%s %s was answered with %d: %s", request->method, request->path, ret->status, ret->body);
}
