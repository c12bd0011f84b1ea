/*
 * From what a request says to tokens: text, ids and lists of both for completions, rendered messages for chats.
 * One request, one thread.
 */
#ifndef API_PROMPT_H
#define API_PROMPT_H

#include <jansson.h>

#include "api/answer.h"
#include "api/fields.h"
#include "api/params.h"
#include "text/tokenizer.h"

enum { API_MAX_PROMPTS = 256 };

struct api_prompt {
    struct text_ids ids;
    char *text; /* NULL for a prompt of ids; malloc'd, NUL-terminated */
    size_t text_bytes;
};

struct api_prompts {
    struct api_prompt *items;
    int n;
};

void api_prompts_finish(struct api_prompts *prompts);
/* The ids as a JSON list, a new reference. */
json_t *api_prompt_ids(const struct api_prompt *prompt);

/* A wrong shape of the completion's "prompt" goes to fields; what vLLM refuses before its schema is an error. */
int api_prompt_check_raw(const json_t *body, struct api_error *error);
void api_prompt_check_type(struct api_fields *fields);
/* "messages", "tools" and what belongs to them, likewise. */
int api_chat_check_raw(const json_t *body, struct api_error *error);
void api_chat_check_type(struct api_fields *fields);

/* Tokens of the checked body, within the model's length. */
int api_prompts_of_completion(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret,
                              struct api_error *error);
int api_prompts_of_chat(const struct api *api, const struct api_params *params, const json_t *body, struct api_prompts *ret,
                        struct api_error *error);

/* Tokens of one text without any check of length (limit: tokens). For /tokenize. */
int api_prompt_encode(const struct api *api, const char *text, size_t text_bytes, bool add_special, int limit, struct api_prompt *ret,
                      struct api_error *error);
/* The rendered text of "messages", malloc'd. */
int api_chat_render(const struct api *api, const json_t *body, char **ret_text, size_t *ret_bytes, struct api_error *error);
/* The content of a message as text, parts joined by line breaks, malloc'd; "" for null. */
char *api_chat_content(const json_t *message);

#endif
