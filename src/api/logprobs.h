/*
 * Log-probabilities in the shapes of both endpoints. Tokens come one by one; what has gathered is taken as JSON, at
 * the end or with each chunk. One choice, one thread.
 */
#ifndef API_LOGPROBS_H
#define API_LOGPROBS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "text/tokenizer.h"

struct api_logprobs {
    const struct text_tokenizer *tokenizer;
    bool is_chat, tokens_as_ids;
    int n_top;                                /* asked for; the token itself comes besides */
    int64_t offset;                           /* characters before the next token, completions only */
    json_t *content;                          /* chat: list */
    json_t *offsets, *values, *tokens, *tops; /* completions: lists */
};

/* Returns 0, or -1 when memory is out. */
int api_logprobs_init(struct api_logprobs *logprobs, const struct text_tokenizer *tokenizer, bool is_chat, int n_top, bool tokens_as_ids);
void api_logprobs_finish(struct api_logprobs *logprobs);
/* values NULL: a token that has none (the first of the prompt). */
void api_logprobs_add(struct api_logprobs *logprobs, int32_t token, const struct exec_logprobs *values);
/* The JSON object of all tokens since the last take; a new reference. */
json_t *api_logprobs_take(struct api_logprobs *logprobs);

/* One entry of "prompt_logprobs": {"752":{"logprob":…,"rank":…,"decoded_token":…},…}. */
json_t *api_logprobs_prompt(const struct text_tokenizer *tokenizer, int32_t token, const struct exec_logprobs *values);
/* The text of one token, ill-formed bytes repaired. */
json_t *api_logprobs_token(const struct text_tokenizer *tokenizer, int32_t token, bool as_id);

#endif
