/*
 * What both generating endpoints understand of a request: the checks that vLLM makes before and after its schema,
 * the fields that both share, and the sampling of one prompt. One request, one thread; strings are borrowed from the
 * body.
 */
#ifndef API_PARAMS_H
#define API_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/answer.h"
#include "api/fields.h"
#include "api/token_params.h"
#include "engine/engine.h"

enum { API_MAX_STOPS = 64, API_MAX_CHOICES = 1024, API_NO_TRUNCATION = -2 };

struct api;

struct api_params {
    bool is_chat;
    const char *model, *request_id; /* or NULL */
    int n;                          /* checked with the sampling, as vLLM does: may be out of range before */
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    int64_t top_k, seed, min_tokens;
    bool has_seed;
    int64_t max_tokens; /* when has_max_tokens; for completions always */
    bool has_max_tokens;
    const char *max_tokens_name; /* the field that it came from */
    bool ignore_eos;
    int64_t stop_ids[ENGINE_MAX_STOP_IDS];
    int n_stop_ids;
    const char *stops[API_MAX_STOPS];
    int n_stops;
    bool has_empty_stop, has_cut_stop; /* "", and one with a NUL in it */
    bool include_stop, skip_special;
    struct api_token_params tokens;
    int64_t n_logprobs, n_prompt_logprobs; /* -1: none; n_logprobs: as many as logprob_token_ids where there are some */
    bool echo;
    bool stream, include_usage, continuous_usage;
    int stream_interval;
    bool return_token_ids, return_prompt_text, tokens_as_ids;
    bool add_special_tokens;
    int64_t truncate; /* keep that many tokens of the prompt; -1: as many as fit; API_NO_TRUNCATION */
    bool truncate_right;
    int priority;
    const char *cache_salt; /* or NULL */
};

/* vLLM's checks of the raw body. body is an object. */
int api_params_check_raw(const json_t *body, bool is_chat, struct api_error *error);
/* Fills *ret from the body, generation defaults and vLLM's own; wrong types go to fields. */
void api_params_read(const struct api *api, struct api_fields *fields, bool is_chat, struct api_params *ret);
/* Fields that would change the output but that shoal does not have yet: refused rather than ignored. */
int api_params_check_supported(const json_t *body, struct api_error *error);
/*
 * The sampling of a prompt of n_prompt tokens, checked in vLLM's order. The seed is drawn here when there is none.
 */
int api_params_sampling(const struct api *api, const struct api_params *params, int n_prompt, struct exec_sampling *ret,
                        struct api_error *error);

#endif
