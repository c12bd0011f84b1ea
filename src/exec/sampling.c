/* The choice of a token from logits; see sampling.h. */
#include "exec/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rand.h"
#include "kernels/vector.h"

struct candidate {
    float logit;
    int32_t id;
};

size_t exec_sampling_scratch_bytes(int n_vocab) { return (size_t)n_vocab * sizeof(struct candidate); }

bool exec_sampling_is_plain_greedy(const struct exec_sampling *params) {
    return params->temperature == 0 && params->n_logprobs < 0 && params->n_prompt_logprobs < 0 && params->n_bias == 0 &&
           params->min_tokens == 0 && params->presence_penalty == 0 && params->frequency_penalty == 0 && params->repetition_penalty == 1;
}

static void apply_bias(float *logits, int n_vocab, const struct exec_sampling *params, int n_generated) {
    for (int i = 0; i < params->n_bias; i++)
        if (params->bias[i].token >= 0 && params->bias[i].token < n_vocab)
            logits[params->bias[i].token] += params->bias[i].bias;
    if (n_generated < params->min_tokens)
        for (int i = 0; i < params->n_stop_ids; i++)
            if (params->stop_ids[i] >= 0 && params->stop_ids[i] < n_vocab)
                logits[params->stop_ids[i]] = -INFINITY;
}

/* Repetition (Keskar 2019) over prompt and output, presence and frequency (OpenAI) over the output. `counts`: [n_vocab]. */
static void apply_penalties(float *logits, int n_vocab, const struct exec_sampling *params, const int32_t *tokens, int n_tokens, int32_t *counts) {
    if (params->presence_penalty == 0 && params->frequency_penalty == 0 && params->repetition_penalty == 1)
        return;
    memset(counts, 0, (size_t)n_vocab * sizeof *counts);
    for (int i = 0; i < n_tokens; i++) {
        int32_t id = tokens[i];
        if (id < 0 || id >= n_vocab)
            continue;
        /* Bit 0: seen at all; the rest: times in the output. */
        if ((counts[id] & 1) == 0) {
            logits[id] = logits[id] > 0 ? logits[id] / params->repetition_penalty : logits[id] * params->repetition_penalty;
            counts[id] |= 1;
        }
        if (i >= params->n_prompt)
            counts[id] += 2;
    }
    for (int i = params->n_prompt; i < n_tokens; i++) {
        int32_t id = tokens[i];
        if (id < 0 || id >= n_vocab || counts[id] < 2)
            continue;
        logits[id] -= params->frequency_penalty * (float)(counts[id] >> 1) + params->presence_penalty;
        counts[id] = 1; /* once per token */
    }
}

static int by_logit(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Moves the k best of list[n] to its front, in no order (quickselect; Hoare 1961). */
static void select_best(struct candidate *list, int n, int k) {
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        struct candidate pivot = list[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (by_logit(&list[i], &pivot) < 0)
                i++;
            while (by_logit(&list[j], &pivot) > 0)
                j--;
            if (i <= j) {
                struct candidate swap = list[i];
                list[i++] = list[j];
                list[j--] = swap;
            }
        }
        if (k - 1 <= j)
            hi = j;
        else if (k - 1 >= i)
            lo = i;
        else
            return;
    }
}

/* The nucleus (Holtzman 2020): sorts list and returns how many of its best reach top_p of the mass. */
static int keep_nucleus(struct candidate *list, int n, float max_logit, float top_p) {
    double total = 0;
    for (int i = 0; i < n; i++)
        total += exp((double)(list[i].logit - max_logit));
    /* All tokens below this share together stay under 1 - top_p, so none of them is in the nucleus: no need to sort them. */
    double floor = (1 - (double)top_p) / n * total;
    int n_kept = 0;
    for (int i = 0; i < n; i++)
        if (exp((double)(list[i].logit - max_logit)) >= floor)
            list[n_kept++] = list[i];
    qsort(list, (size_t)n_kept, sizeof *list, by_logit);
    double sum = 0;
    for (int i = 0; i < n_kept; i++) {
        sum += exp((double)(list[i].logit - max_logit));
        if (sum >= (double)top_p * total)
            return i + 1;
    }
    return n_kept;
}

int32_t exec_sample(float *logits, int n_vocab, const struct exec_sampling *params, const int32_t *tokens, int n_tokens, void *scratch) {
    apply_bias(logits, n_vocab, params, n_tokens - params->n_prompt);
    apply_penalties(logits, n_vocab, params, tokens, n_tokens, scratch);
    int32_t best = kernels_argmax(logits, n_vocab, NULL);
    if (params->temperature == 0)
        return best;

    struct candidate *list = scratch;
    float max_logit = logits[best] / params->temperature;
    float cut = params->min_p > 0 ? max_logit + logf(params->min_p) : -INFINITY;
    int n = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        float logit = logits[i] / params->temperature;
        if (logit >= cut && logit > -INFINITY)
            list[n++] = (struct candidate){logit, i};
    }
    if (n == 0) /* every logit is -inf or not a number */
        return best;
    if (params->top_k > 0 && params->top_k < n) {
        select_best(list, n, params->top_k);
        n = params->top_k;
    }
    if (params->top_p < 1)
        n = keep_nucleus(list, n, max_logit, params->top_p);

    double total = 0;
    for (int i = 0; i < n; i++)
        total += exp((double)(list[i].logit - max_logit));
    double left = rand_ctr_unit(params->seed, (uint64_t)n_tokens) * total;
    for (int i = 0; i < n; i++) {
        left -= exp((double)(list[i].logit - max_logit));
        if (left < 0)
            return list[i].id;
    }
    return list[n - 1].id;
}

void exec_logprobs_of(const float *logits, int n_vocab, int32_t token, int n_top, struct exec_logprobs *ret) {
    float max;
    double sum = 0;
    kernels_argmax(logits, n_vocab, &max);
    for (int i = 0; i < n_vocab; i++)
        sum += exp((double)(logits[i] - max));
    float log_sum = max + (float)log(sum);
    ret->logprob = logits[token] - log_sum;
    ret->rank = 1;
    ret->n_top = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        ret->rank += logits[i] > logits[token];
        float logprob = logits[i] - log_sum;
        if (ret->n_top == n_top && (n_top == 0 || logprob <= ret->top_logprobs[n_top - 1]))
            continue;
        int at = ret->n_top < n_top ? ret->n_top++ : n_top - 1;
        for (; at > 0 && ret->top_logprobs[at - 1] < logprob; at--) {
            ret->top_logprobs[at] = ret->top_logprobs[at - 1];
            ret->top_ids[at] = ret->top_ids[at - 1];
        }
        ret->top_logprobs[at] = logprob;
        ret->top_ids[at] = i;
    }
}
