/*
 * OpenAI's routes as vLLM serves them: validation, prompts to tokens, events to JSON and SSE, metrics. Runs on the
 * HTTP server's connection threads. Knows the engine's streams, not its thread or the ranks.
 */
#ifndef API_API_H
#define API_API_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/engine.h"
#include "http/server.h"
#include "text/template.h"
#include "text/tokenizer.h"

struct api;

struct api_opts {
    struct engine *engine;                  /* all borrowed, and longer-lived than the api */
    const struct text_tokenizer *tokenizer;
    const struct text_template *chat_template; /* NULL: /v1/chat/completions answers 400 as vLLM does */
    const char *const *served_names;        /* the first is the one in answers */
    int n_served_names;
    const char *model_root;                 /* "root" in /v1/models */
    int max_model_len;
    int n_vocab;                            /* token ids in prompts must be below */
    int max_logprobs;
    const int32_t *eos;                     /* the model's own, to tell "stop" by EOS */
    int n_eos;
    const json_t *generation_defaults;      /* object with temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens; or NULL */
    const char *const *api_keys;            /* NULL-terminated, or NULL */
    const char *response_role;              /* "assistant" */
    const char *version;                    /* "0.1.0" */
    bool log_requests;
    bool prompt_tokens_details;             /* usage tells how many tokens of a prompt were cached */
    int stream_interval;                    /* tokens between two chunks, ≥ 1 */
};

int api_create(const struct api_opts *opts, struct api **ret, struct err *err);
void api_destroy(struct api *api); /* accepts NULL; after the server has stopped */
/* ctx is the struct api. Give it to http_server_opts.handler. */
void api_handle(void *ctx, const struct http_request *request, struct http_response *ret);

#endif
