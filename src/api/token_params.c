/* Single tokens in requests; see token_params.h. */
#include "api/token_params.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_state.h"

enum { LIST_TEXT_LIMIT_BYTES = 512 };

/* A list as Python prints it, cut where it gets long. */
static const char *list_text(const json_t *list, char ret_text[LIST_TEXT_LIMIT_BYTES + 8]) {
    struct buf text;
    size_t len = 0;
    ret_text[len++] = '[';
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        buf_init(&text, 4096);
        if (json_is_string(item))
            api_repr(&text, item);
        else
            buf_printf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(item));
        size_t more = text.len_bytes + (i > 0 ? 2 : 0);
        bool fits = len + more <= LIST_TEXT_LIMIT_BYTES;
        len += (size_t)sprintf(ret_text + len, "%s%s", i > 0 ? ", " : "", fits ? buf_str(&text) : "...");
        buf_finish(&text);
        if (!fits)
            break;
    }
    ret_text[len] = ']';
    ret_text[len + 1] = '\0';
    return ret_text;
}

static const json_t *read_ids(struct api_fields *fields, const char *key) {
    const json_t *list = api_field_list(fields, key);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char loc[64];
        if (json_is_integer(json_array_get(list, i)))
            continue;
        snprintf(loc, sizeof loc, "%s.%zu", key, i);
        api_field_error(fields, "int_type", loc, "Input should be a valid integer", json_array_get(list, i), NULL);
        return NULL;
    }
    return list;
}

void api_token_params_read(struct api_fields *fields, struct api_token_params *ret) {
    *ret = (struct api_token_params){.bias = api_field_object(fields, "logit_bias"),
                                     .allowed = read_ids(fields, "allowed_token_ids"),
                                     .bad_words = api_field_list(fields, "bad_words"),
                                     .logprob_ids = read_ids(fields, "logprob_token_ids")};
    for (size_t i = 0; i < json_array_size(ret->bad_words); i++) {
        char loc[64];
        snprintf(loc, sizeof loc, "bad_words.%zu", i);
        if (!json_is_string(json_array_get(ret->bad_words, i)))
            api_field_error(fields, "string_type", loc, "Input should be a valid string", json_array_get(ret->bad_words, i), NULL);
    }
    if (json_array_size(ret->logprob_ids) == 0)
        ret->logprob_ids = NULL;
}

int api_token_params_check(const struct api_token_params *params, struct api_error *error) {
    char text[LIST_TEXT_LIMIT_BYTES + 8];
    for (size_t i = 0; i < json_array_size(params->bad_words); i++)
        if (json_string_length(json_array_get(params->bad_words, i)) == 0)
            return api_fail(error, 400, NULL, NULL, "bad_words cannot contain an empty string. Got bad_words=%s",
                            list_text(params->bad_words, text));
    for (size_t i = 0; i < json_array_size(params->bad_words); i++)
        if (strlen(json_string_value(json_array_get(params->bad_words, i))) < json_string_length(json_array_get(params->bad_words, i)))
            return api_fail(error, 400, NULL, NULL, "bad_words with a NUL character are not supported.");
    return 0;
}

static int sampling_bias(const struct api *api, const json_t *bias, struct exec_sampling *sampling, struct api_error *error) {
    const char *key;
    json_t *value;
    if (json_object_size(bias) > EXEC_MAX_BIAS)
        return api_refuse(error, "logit_bias", NULL, "logit_bias has %zu entries; at most %d are possible.", json_object_size(bias),
                          EXEC_MAX_BIAS);
    json_object_foreach((json_t *)bias, key, value) {
        char *end;
        errno = 0;
        long long token = strtoll(key, &end, 10);
        if (end == key || *end != '\0' || errno != 0)
            return api_refuse(error, "logit_bias", NULL,
                              "logit_bias contains key(s) that cannot be converted to integer token IDs: ['%.100s']", key);
        if (!json_is_number(value))
            return api_refuse(error, "logit_bias", NULL, "logit_bias of token %lld must be a number.", token);
        if (token < 0 || token >= api->opts.n_vocab)
            return api_refuse(error, "logit_bias", key,
                              "token_id(s) [%lld] in logit_bias contain out-of-vocab token ids. Vocabulary size: %d", token,
                              api->opts.n_vocab);
        sampling->bias[sampling->n_bias++] = (struct exec_bias){(int32_t)token, (float)fmin(100, fmax(-100, json_number_value(value)))};
    }
    return 0;
}

/* A list of those ids that no token has; a new reference. */
static json_t *ids_outside(const struct api *api, const json_t *list) {
    json_t *outside = json_array();
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_int_t id = json_integer_value(json_array_get(list, i));
        if (id < 0 || id >= api->opts.n_vocab)
            json_array_append(outside, json_array_get(list, i));
    }
    return outside;
}

/* At most `most` ids, all of them in the vocabulary, into ids. */
static int sampling_ids(const struct api *api, const char *key, const json_t *list, int most, int32_t *ids, int32_t *ret_n,
                        struct api_error *error) {
    char text[LIST_TEXT_LIMIT_BYTES + 8], number[24];
    bool is_allowed = strcmp(key, "allowed_token_ids") == 0;
    size_t n = json_array_size(list);
    snprintf(number, sizeof number, "%zu", n);
    if (n > (size_t)most)
        return api_refuse(error, key, number, "Requested %s of length %zu, which is greater than max allowed: %d", key, n, most);
    json_t *outside = ids_outside(api, list);
    size_t n_outside = json_array_size(outside);
    list_text(outside, text);
    json_decref(outside);
    if (n_outside > 0 && is_allowed)
        return api_refuse(error, key, text, "allowed_token_ids contains out-of-vocab token id!");
    if (n_outside > 0)
        return api_refuse(error, key, text, "token_id(s) %s in %s contain out-of-vocab token ids. Vocabulary size: %d", text, key,
                          api->opts.n_vocab);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    *ret_n = (int32_t)n;
    return 0;
}

/* Appends a word's length and tokens. */
static bool add_bad_word(struct exec_sampling *sampling, const struct text_ids *ids) {
    if (ids->n_ids > EXEC_MAX_BAD - sampling->n_bad - 1)
        return false;
    sampling->bad[sampling->n_bad++] = ids->n_ids;
    memcpy(sampling->bad + sampling->n_bad, ids->ids, (size_t)ids->n_ids * sizeof *ids->ids);
    sampling->n_bad += ids->n_ids;
    return true;
}

/* As at the beginning of a text, and with a space before it where that is a word of its own of as many tokens: vLLM's rule. */
static int sampling_bad_word(const struct api *api, const json_t *list, const char *word, struct exec_sampling *sampling,
                             struct api_error *error) {
    char text[LIST_TEXT_LIMIT_BYTES + 8];
    struct text_ids plain, spaced;
    struct err err = {0};
    word += strspn(word, " \t\n\v\f\r");
    size_t len = strlen(word);
    char *with_space = malloc(len + 2);
    int status = -1;
    text_ids_init(&plain, EXEC_MAX_BAD);
    text_ids_init(&spaced, EXEC_MAX_BAD);
    if (with_space == NULL) {
        api_fail_memory(error);
        goto finish_ids;
    }
    with_space[0] = ' ';
    memcpy(with_space + 1, word, len + 1);
    if (text_tokenizer_encode(api->opts.tokenizer, word, len, TEXT_PARSE_SPECIAL, &plain, &err) != 0 ||
        text_tokenizer_encode(api->opts.tokenizer, with_space, len + 1, TEXT_PARSE_SPECIAL, &spaced, &err) != 0) {
        if (err.code == ERR_NOMEM)
            api_fail_memory(error);
        else
            api_refuse(error, "bad_words", NULL, "bad_words have more than %d tokens.", EXEC_MAX_BAD);
        goto finish_ids;
    }
    if (plain.n_ids == 0) {
        api_refuse(error, "bad_words", list_text(list, text), "bad_words entries must tokenize to at least one token.");
        goto finish_ids;
    }
    bool is_other = spaced.n_ids == plain.n_ids && spaced.ids[0] != plain.ids[0];
    if (!add_bad_word(sampling, &plain) || (is_other && !add_bad_word(sampling, &spaced))) {
        api_refuse(error, "bad_words", NULL, "bad_words have more than %d tokens.", EXEC_MAX_BAD);
        goto finish_ids;
    }
    status = 0;
finish_ids:
    free(with_space);
    text_ids_finish(&plain);
    text_ids_finish(&spaced);
    return status;
}

int api_token_params_sampling(const struct api *api, const struct api_token_params *params, struct exec_sampling *ret,
                              struct api_error *error) {
    if (sampling_ids(api, "logprob_token_ids", params->logprob_ids, EXEC_MAX_TOP_LOGPROBS, ret->logprob_ids, &ret->n_logprob_ids,
                     error) != 0 ||
        sampling_bias(api, params->bias, ret, error) != 0)
        return -1;
    if (params->allowed != NULL && json_array_size(params->allowed) == 0)
        return api_refuse(error, "allowed_token_ids", "[]", "allowed_token_ids is not None and empty!");
    if (sampling_ids(api, "allowed_token_ids", params->allowed, EXEC_MAX_ALLOWED, ret->allowed, &ret->n_allowed, error) != 0)
        return -1;
    for (size_t i = 0; i < json_array_size(params->bad_words); i++)
        if (sampling_bad_word(api, params->bad_words, json_string_value(json_array_get(params->bad_words, i)), ret, error) != 0)
            return -1;
    return 0;
}
