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
    int (*prompts)(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret,
                   struct api_error *error);
    const char *chunk_object; /* "object" of chunks */
    /* Each returns a new reference, or NULL when memory is out. */
    json_t *(*full)(struct api_generation *generation);                             /* the whole answer */
    json_t *(*chunk)(struct api_generation *generation, struct api_choice *choice); /* the choice of a chunk */
    /* Optional: chunks before a choice's first, at = 0, 1, …; NULL: no more. What it adds to `whole` stands beside "choices". */
    json_t *(*opening)(struct api_generation *generation, struct api_choice *choice, int at, json_t *whole);
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
void api_generate(struct api *api, const struct http_request *request, json_t *body, const struct api_shape *shape,
                  struct http_response *ret);

/* {"prompt_tokens":…,…} over all choices, with the null details that an answer in one piece has. A new reference. */
json_t *api_generation_full_usage(const struct api_generation *generation);

#endif
