/* What sampling parameters do to logits; see sampling.h. */
#include "exec/sampling.h"

#include <string.h>

static bool has_penalties(const struct exec_sampling *params) {
    return params->presence_penalty != 0 || params->frequency_penalty != 0 || params->repetition_penalty != 1;
}

bool exec_sampling_changes_logits(const struct exec_sampling *params, int n_generated) {
    return params->n_allowed > 0 || params->n_bad > 0 || params->n_bias > 0 || has_penalties(params) ||
           (n_generated < params->min_tokens && params->n_stop_ids > 0);
}

/* A part of the vocabulary. */
struct part {
    int begin, len;
    float *row;
};

/* The logit of a token, NULL where another part has it. */
static float *logit_of(const struct part *part, int32_t token) {
    return token >= part->begin && token < part->begin + part->len ? &part->row[token - part->begin] : NULL;
}

static void allow(const struct part *part, const struct exec_sampling *params) {
    float kept[EXEC_MAX_ALLOWED];
    for (int i = 0; i < params->n_allowed; i++) {
        const float *logit = logit_of(part, params->allowed[i]);
        kept[i] = logit == NULL ? 0 : *logit;
    }
    for (int i = 0; i < part->len; i++)
        part->row[i] = -INFINITY;
    for (int i = 0; i < params->n_allowed; i++) {
        float *logit = logit_of(part, params->allowed[i]);
        if (logit != NULL)
            *logit = kept[i];
    }
}

static void forbid(const struct part *part, int32_t token) {
    float *logit = logit_of(part, token);
    if (logit != NULL)
        *logit = -INFINITY;
}

/* The last token of a word may not come where the output ends in the tokens before. */
static void forbid_bad_words(const struct part *part, const struct exec_sampling *params, const int32_t *output, int n_output) {
    for (int at = 0; at < params->n_bad; at += 1 + params->bad[at]) {
        const int32_t *word = &params->bad[at + 1];
        int n_before = params->bad[at] - 1;
        if (n_before <= n_output && memcmp(output + n_output - n_before, word, (size_t)n_before * sizeof *word) == 0)
            forbid(part, word[n_before]);
    }
}

/* Repetition (Keskar 2019) over prompt and output, presence and frequency (OpenAI) over the output. */
static void apply_penalties(const struct part *part, const struct exec_sampling *params, const int32_t *tokens, int n_tokens,
                            int32_t *counts) {
    for (int i = 0; i < n_tokens; i++) {
        float *logit = logit_of(part, tokens[i]);
        if (logit == NULL)
            continue;
        /* Bit 0: seen at all; the rest: times in the output. */
        int32_t *count = &counts[tokens[i] - part->begin];
        if (*count == 0)
            *logit = *logit > 0 ? *logit / params->repetition_penalty : *logit * params->repetition_penalty;
        *count = (*count | 1) + (i >= params->n_prompt ? 2 : 0);
    }
    for (int i = 0; i < n_tokens; i++) {
        float *logit = logit_of(part, tokens[i]);
        if (logit == NULL)
            continue;
        int32_t *count = &counts[tokens[i] - part->begin];
        if (*count >= 2)
            *logit -= params->frequency_penalty * (float)(*count >> 1) + params->presence_penalty;
        *count = 0; /* once for each token */
    }
}

void exec_sampling_apply(const struct exec_sampling *params, const int32_t *tokens, int n_tokens, int begin, int len, float *row,
                         int32_t *counts) {
    const struct part part = {begin, len, row};
    int n_prompt = params->n_prompt < n_tokens ? params->n_prompt : n_tokens;
    if (params->n_allowed > 0)
        allow(&part, params);
    forbid_bad_words(&part, params, tokens + n_prompt, n_tokens - n_prompt);
    if (n_tokens - params->n_prompt < params->min_tokens)
        for (int i = 0; i < params->n_stop_ids; i++)
            forbid(&part, params->stop_ids[i]);
    for (int i = 0; i < params->n_bias; i++) {
        float *logit = logit_of(&part, params->bias[i].token);
        if (logit != NULL)
            *logit += params->bias[i].bias;
    }
    if (has_penalties(params))
        apply_penalties(&part, params, tokens, n_tokens, counts);
}
