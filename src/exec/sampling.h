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

enum { EXEC_MAX_TOP_LOGPROBS = 20, EXEC_MAX_BIAS = 300, EXEC_MAX_STOP_IDS = 72 };

struct exec_bias {
    int32_t token;
    float bias;
};

struct exec_sampling {
    float temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    int32_t top_k;             /* 0: all */
    uint64_t seed;
    int32_t n_prompt;          /* tokens before this index are the prompt: penalties tell them apart */
    int32_t min_tokens;        /* stop ids are masked until so many tokens are generated */
    int32_t n_logprobs;        /* -1: none */
    int32_t n_prompt_logprobs; /* -1: none */
    int32_t n_stop_ids;        /* EOS included, for min_tokens */
    int32_t n_bias;
    int32_t stop_ids[EXEC_MAX_STOP_IDS];
    struct exec_bias bias[EXEC_MAX_BIAS];
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
