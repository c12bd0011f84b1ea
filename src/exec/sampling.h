/*
 * Sampling parameters of a sequence, and the choice of a token from one row of logits. Pure; any thread.
 *
 * Order as in vLLM: bias and masks, penalties, temperature, min_p, top_k, top_p, then one draw that depends on
 * (seed, index of the token in the sequence) alone. Log-probabilities are those of the raw logits.
 */
#ifndef EXEC_SAMPLING_H
#define EXEC_SAMPLING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    int32_t n_stop_ids;        /* EOS included unless ignore_eos */
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

/* True when the token is the arg max of the raw logits whatever else is asked: then no whole rows need to travel. */
bool exec_sampling_is_plain_greedy(const struct exec_sampling *params);

/*
 * Chooses the token with index n_tokens of the sequence tokens[n_tokens]. logits: [n_vocab], changed in place. Memory that it
 * needs: scratch of exec_sampling_scratch_bytes(n_vocab).
 */
int32_t exec_sample(float *logits, int n_vocab, const struct exec_sampling *params, const int32_t *tokens, int n_tokens, void *scratch);
size_t exec_sampling_scratch_bytes(int n_vocab);

/* Log-probability and rank of `token` and the n_top best of a row of raw logits [n_vocab]. */
void exec_logprobs_of(const float *logits, int n_vocab, int32_t token, int n_top, struct exec_logprobs *ret);

#endif
