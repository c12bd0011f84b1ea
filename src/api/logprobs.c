/* Log-probabilities as JSON; see logprobs.h. */
#include "api/logprobs.h"

#include <math.h>
#include <stdio.h>

#include "base/buf.h"

enum { TOKEN_LIMIT_BYTES = 1 << 16, MAX_CANDIDATES = EXEC_MAX_TOP_LOGPROBS + 1 };

/* JSON has no infinity; this is what OpenAI's servers write. */
static double clamped(float logprob) { return isfinite(logprob) && logprob > -9999.0f ? logprob : -9999.0; }

json_t *api_logprobs_token(const struct text_tokenizer *tokenizer, int32_t token, bool as_id) {
    if (as_id)
        return json_sprintf("token_id:%d", (int)token);
    struct buf text;
    buf_init(&text, TOKEN_LIMIT_BYTES);
    text_tokenizer_decode(tokenizer, &token, 1, false, &text);
    json_t *value = json_stringn(buf_str(&text), text.len_bytes);
    buf_finish(&text);
    return value;
}

static json_t *token_bytes(const struct text_tokenizer *tokenizer, int32_t token) {
    size_t len_bytes = 0;
    const char *bytes = text_tokenizer_token_bytes(tokenizer, token, &len_bytes);
    json_t *list = json_array();
    for (size_t i = 0; bytes != NULL && i < len_bytes; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return list;
}

static int64_t count_characters(const json_t *string) {
    const char *text = json_string_value(string);
    int64_t n = 0;
    for (size_t i = 0; i < json_string_length(string); i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

struct candidate {
    int32_t token;
    float logprob;
    int rank;
};

/* vLLM's order: the token itself, then the best without it. Returns how many. */
static int list_candidates(int32_t token, const struct exec_logprobs *values, struct candidate ret[MAX_CANDIDATES]) {
    int n = 0;
    ret[n++] = (struct candidate){token, values->logprob, values->rank};
    for (int i = 0; i < values->n_top && i < EXEC_MAX_TOP_LOGPROBS; i++)
        if (values->top_ids[i] != token)
            ret[n++] = (struct candidate){values->top_ids[i], values->top_logprobs[i], i + 1};
    return n;
}

static int lists_create(struct api_logprobs *logprobs) {
    if (logprobs->is_chat) {
        logprobs->content = json_array();
        return logprobs->content == NULL ? -1 : 0;
    }
    logprobs->offsets = json_array();
    logprobs->values = json_array();
    logprobs->tokens = json_array();
    logprobs->tops = json_array();
    return logprobs->offsets == NULL || logprobs->values == NULL || logprobs->tokens == NULL || logprobs->tops == NULL ? -1 : 0;
}

int api_logprobs_init(struct api_logprobs *logprobs, const struct text_tokenizer *tokenizer, bool is_chat, int n_top, bool tokens_as_ids) {
    *logprobs = (struct api_logprobs){.tokenizer = tokenizer, .is_chat = is_chat, .n_top = n_top, .tokens_as_ids = tokens_as_ids};
    return lists_create(logprobs);
}

void api_logprobs_finish(struct api_logprobs *logprobs) {
    json_decref(logprobs->content);
    json_decref(logprobs->offsets);
    json_decref(logprobs->values);
    json_decref(logprobs->tokens);
    json_decref(logprobs->tops);
    *logprobs = (struct api_logprobs){0};
}

static json_t *chat_entry(const struct api_logprobs *logprobs, const struct candidate *candidate) {
    return json_pack("{s:o, s:f, s:o}", "token", api_logprobs_token(logprobs->tokenizer, candidate->token, logprobs->tokens_as_ids),
                     "logprob", clamped(candidate->logprob), "bytes", token_bytes(logprobs->tokenizer, candidate->token));
}

static void add_chat(struct api_logprobs *logprobs, const struct candidate *candidates, int n) {
    json_t *entry = chat_entry(logprobs, &candidates[0]), *top = json_array();
    for (int i = 0; i < n && i < logprobs->n_top; i++)
        json_array_append_new(top, chat_entry(logprobs, &candidates[i]));
    json_object_set_new(entry, "top_logprobs", top);
    json_array_append_new(logprobs->content, entry);
}

void api_logprobs_add(struct api_logprobs *logprobs, int32_t token, const struct exec_logprobs *values) {
    struct candidate candidates[MAX_CANDIDATES];
    int n = values == NULL ? 0 : list_candidates(token, values, candidates);
    if (logprobs->is_chat) {
        if (n > 0)
            add_chat(logprobs, candidates, n);
        return;
    }
    json_t *text = api_logprobs_token(logprobs->tokenizer, token, logprobs->tokens_as_ids), *tops = n == 0 ? json_null() : json_object();
    for (int i = 0; i < n && i <= logprobs->n_top; i++) {
        json_t *key = api_logprobs_token(logprobs->tokenizer, candidates[i].token, logprobs->tokens_as_ids);
        json_object_setn_new(tops, json_string_value(key), json_string_length(key), json_real(clamped(candidates[i].logprob)));
        json_decref(key);
    }
    json_array_append_new(logprobs->offsets, json_integer(logprobs->offset));
    json_array_append_new(logprobs->values, n == 0 ? json_null() : json_real(clamped(candidates[0].logprob)));
    logprobs->offset += count_characters(text);
    json_array_append_new(logprobs->tokens, text);
    json_array_append_new(logprobs->tops, tops);
}

json_t *api_logprobs_take(struct api_logprobs *logprobs) {
    json_t *taken = logprobs->is_chat ? json_pack("{s:o}", "content", logprobs->content)
                                      : json_pack("{s:o, s:o, s:o, s:o}", "text_offset", logprobs->offsets, "token_logprobs",
                                                  logprobs->values, "tokens", logprobs->tokens, "top_logprobs", logprobs->tops);
    lists_create(logprobs);
    return taken;
}

json_t *api_logprobs_prompt(const struct text_tokenizer *tokenizer, int32_t token, const struct exec_logprobs *values) {
    struct candidate candidates[MAX_CANDIDATES];
    int n = list_candidates(token, values, candidates);
    json_t *entry = json_object();
    for (int i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", (int)candidates[i].token);
        json_object_set_new(entry, key,
                            json_pack("{s:f, s:i, s:o}", "logprob", clamped(candidates[i].logprob), "rank", candidates[i].rank,
                                      "decoded_token", api_logprobs_token(tokenizer, candidates[i].token, false)));
    }
    return entry;
}
