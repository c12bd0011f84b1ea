/*
 * A generating request from its body to its answer: parse, check, submit, read events, answer whole or as a stream of
 * server-sent events. What differs between the endpoints is in their shape. One request, on its connection's thread.
 */
#ifndef API_GENERATION_H
#define API_GENERATION_H

#include <jansson.h>
#include <stdint.h>

#include "api/api_state.h"
#include "api/choice.h"
#include "api/params.h"
#include "api/prompt.h"

struct api_generation;

struct api_shape {
    bool is_chat;
    const char *id_prefix;
    int (*check_raw)(const json_t *body, struct api_error *error);
    void (*check_type)(struct api_fields *fields);
    int (*prompts)(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret, struct api_error *error);
    /* Each returns a new reference, or NULL when memory is out. */
    json_t *(*full)(struct api_generation *generation);
    json_t *(*opening)(struct api_generation *generation, struct api_choice *choice, int at); /* chunks at = 0, 1, … before the first; NULL: no more */
    json_t *(*chunk)(struct api_generation *generation, struct api_choice *choice);
    json_t *(*usage_chunk)(struct api_generation *generation);
};

struct api_generation {
    struct api *api;
    json_t *body;
    const struct api_shape *shape;
    struct api_params params;
    struct api_prompts prompts;
    struct engine_stream *stream;
    struct api_choice *choices; /* prompt by prompt */
    int n_choices, n_open;
    char id[API_ID_BYTES];
    int64_t created_s, start_ns;
    bool is_begun, is_ended;
    struct buf out; /* events not yet sent */
};

/* Answers the request, whatever becomes of it. */
void api_generate(struct api *api, const struct http_request *request, json_t *body, const struct api_shape *shape, struct http_response *ret);

/* {"prompt_tokens":…,"total_tokens":…,"completion_tokens":…} over all choices, or of one choice alone. */
json_t *api_generation_usage(const struct api_generation *generation, const struct api_choice *only);
/* The same with the null details that an answer in one piece has. */
json_t *api_generation_full_usage(const struct api_generation *generation);

#endif
