/*
 * Sampling parameters of a sequence, what they do to its logits, and the noise of its draws. Pure; any thread.
 *
 * Order as in vLLM: allowed tokens, bad words, min_tokens, biases, penalties, temperature, min_p, top_k, top_p, then the draw among what is
 * left (candidates.h). Log-probabilities are those of the raw logits.
 */
#ifndef EXEC_SAMPLING_H
#define EXEC_SAMPLING_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rand.h"

enum {
    EXEC_MAX_TOP_LOGPROBS = 20,
    EXEC_MAX_STOP_IDS = 128,
    EXEC_MAX_BIAS = 1024,
    EXEC_MAX_ALLOWED = 1024,
    EXEC_MAX_BAD = 1024
};

struct exec_bias {
    int32_t token;
    float bias;
};

/* Greedy without anything: zero, but top_p 1, repetition_penalty 1, n_logprobs and n_prompt_logprobs -1. */
struct exec_sampling {
    float temperature;         /* 0: greedy */
    float top_p;               /* (0, 1], 1: off */
    float min_p;               /* [0, 1], 0: off */
    float presence_penalty, frequency_penalty; /* [-2, 2], 0: none */
    float repetition_penalty;  /* > 0, 1: none */
    int32_t top_k;             /* 0: all */
    int32_t n_prompt;          /* tokens before this index are the prompt: penalties tell them apart */
    uint64_t seed;             /* always set */
    int32_t min_tokens;        /* stop ids are masked until so many tokens are generated */
    int32_t n_logprobs;        /* -1: none, 0: of the chosen token, k: also of the k best */
    int32_t n_prompt_logprobs; /* likewise for each prompt token */
    int32_t n_logprob_ids;     /* > 0: these tokens take the place of the best; n_logprobs is ≥ 0 */
    int32_t n_stop_ids;        /* EOS included */
    int32_t n_bias, n_allowed, n_bad;
    int32_t stop_ids[EXEC_MAX_STOP_IDS];
    int32_t logprob_ids[EXEC_MAX_TOP_LOGPROBS];
    struct exec_bias bias[EXEC_MAX_BIAS];
    int32_t allowed[EXEC_MAX_ALLOWED]; /* n_allowed > 0: no other token may come */
    int32_t bad[EXEC_MAX_BAD];         /* words that must not come: each its length, then its tokens; n_bad numbers in all */
    /* Read by the engine alone: these do not travel. */
    int32_t max_tokens;
    bool ignore_eos;
};

struct exec_logprobs {
    float logprob;
    int32_t rank;  /* 1: no token is more likely */
    int32_t n_top;
    int32_t top_ids[EXEC_MAX_TOP_LOGPROBS];
    float top_logprobs[EXEC_MAX_TOP_LOGPROBS];
};

/* Whether anything but the temperature changes the logits of the token that comes after n_generated. */
bool exec_sampling_changes_logits(const struct exec_sampling *params, int n_generated);

/*
 * Allowed tokens, bad words, min_tokens, biases and penalties, in vLLM's order, on a part of the vocabulary: row[len] are the logits of the
 * tokens from `begin` on, for the one with index n_tokens of the sequence tokens[n_tokens]. counts: [len] zeros, before and after.
 */
void exec_sampling_apply(const struct exec_sampling *params, const int32_t *tokens, int n_tokens, int begin, int len, float *row,
                         int32_t *counts);

/*
 * The draw. Every token has its own noise, which depends on (seed, index in the sequence, token) alone, and the token with the best score
 * among those that may come is drawn: with Gumbel noise that is a draw from the softmax (Gumbel 1954). So a draw does not depend on who
 * adds up what, on the order of tokens, or on how the vocabulary is split. (Where all may come, panels of tokens take the place of tokens:
 * candidates.c.)
 */
static inline uint64_t exec_noise_key(const struct exec_sampling *params, int index) { return rand_ctr_u64(params->seed, (uint64_t)index); }

/* Uniform in (0, 1). `of`: a token, or whatever else has noise of its own. */
static inline double exec_noise(uint64_t key, int32_t of) {
    return ((double)(int64_t)(rand_mix64(key + ((uint64_t)of + 1) * 0x9e3779b97f4a7c15u) >> 11) + 0.5) * 0x1.0p-53;
}

/* logit: over the temperature. -log(1 - noise) is an exponential variable; the least variable / probability is the best score. */
static inline double exec_score(double logit, double noise) { return logit - log(-log1p(-noise)); }

#endif
