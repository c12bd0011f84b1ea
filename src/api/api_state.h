/*
 * What the files of this layer share: the api itself, one handler per route. Private to src/api.
 */
#ifndef API_API_STATE_H
#define API_API_STATE_H

#include "api/api.h"
#include "api/answer.h"
#include "api/metrics.h"

enum { API_ID_BYTES = 256 };

struct api {
    struct api_opts opts;
    int max_logprobs; /* of the options, within what the engine gives */
    char fingerprint[64];
    struct api_metrics *metrics;
};

/* Each fills *ret. body is the parsed object of a POST, NULL for GET. */
void api_completions(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret);
void api_chat_completions(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret);
void api_tokenize(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret);
void api_detokenize(struct api *api, const struct http_request *request, json_t *body, struct http_response *ret);
void api_models_list(struct api *api, struct http_response *ret);
void api_models_one(struct api *api, const char *name, struct http_response *ret);

/* 0 when `model` (NULL: not given) is served here, else the 404. */
int api_check_model(const struct api *api, const char *model, struct api_error *error);
/* "prefix-<the client's X-Request-Id, the body's request_id, or 16 random hex digits>" */
void api_make_id(const struct http_request *request, const char *prefix, const char *body_id, char ret_id[API_ID_BYTES]);

#endif
