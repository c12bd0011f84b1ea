/*
 * Fields of a request that speak of single tokens: logit_bias, allowed_token_ids, bad_words, logprob_token_ids, with vLLM's checks and
 * words. One request, one thread; lists are borrowed from the body.
 */
#ifndef API_TOKEN_PARAMS_H
#define API_TOKEN_PARAMS_H

#include <jansson.h>

#include "api/answer.h"
#include "api/fields.h"
#include "engine/engine.h"

struct api;

struct api_token_params {
    const json_t *bias;                              /* object or NULL */
    const json_t *allowed, *bad_words, *logprob_ids; /* lists or NULL */
};

/* Wrong types go to fields. */
void api_token_params_read(struct api_fields *fields, struct api_token_params *ret);
/* What needs no model. */
int api_token_params_check(const struct api_token_params *params, struct api_error *error);
/* Fills the lists of *ret; words become tokens. */
int api_token_params_sampling(const struct api *api, const struct api_token_params *params, struct exec_sampling *ret,
                              struct api_error *error);

#endif
