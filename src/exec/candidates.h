/*
 * From one row of logits, which lies in parts on several ranks, to a token and its log-probabilities, without bringing the row together:
 * each part tells its best candidates and its sums, and whoever merges them sees whether that was enough. Exact in any case: where it was
 * not enough, the whole row is asked for. Pure; any thread.
 */
#ifndef EXEC_CANDIDATES_H
#define EXEC_CANDIDATES_H

#include "exec/sampling.h"

enum {
    EXEC_MAX_CANDIDATES = 128,
    EXEC_PANEL_TOKENS = 16 /* every part begins at a multiple of it */
};

/* What is wanted of a row: the same on every rank. */
struct exec_ask {
    const struct exec_sampling *params;
    const int32_t *tokens; /* [n_tokens] of the sequence before the wanted token; NULL: none is wanted */
    int n_tokens;
    bool wants_logprobs;
    int32_t known_token;   /* without `tokens`: whose log-probability is wanted */
    /* What a part sends: candidates for the token; the n_top best of the raw row, raw logits of n_ids given tokens. */
    int n_candidates, n_top, n_ids;
};

/* A sample of the token behind tokens[n_tokens], or the log-probability of a prompt's token. */
struct exec_ask exec_ask_sample(const struct exec_sampling *params, const int32_t *tokens, int n_tokens);
struct exec_ask exec_ask_prompt(const struct exec_sampling *params, int32_t token);

struct exec_candidate {
    float logit; /* after everything, the temperature included */
    float raw;
    int32_t token;
};

/* What one part tells of a row, as it travels: this, then its candidates, its best raw ones, and the raw logits of given tokens. */
struct exec_part {
    double sum;      /* of e^(logit - max) over the part; for a draw without top_k, top_p and min_p its score */
    double raw_sum;  /* of e^(raw - raw_max) */
    float max, raw_max;
    float raw_known; /* of the known token; -inf when it is not in this part */
    int32_t n;       /* candidates that there are, best first unless one is all that is asked; fewer than asked: no other may come */
    int32_t n_top, reserved;
};

size_t exec_part_bytes(const struct exec_ask *ask);

/* Memory of one thread for parts of at most part_most tokens. */
struct exec_workspace {
    float *row;                  /* [part_most] */
    int32_t *counts;             /* [part_most], zeros between uses */
    struct exec_candidate *list; /* grows */
    int cap_list;
};

int exec_workspace_init(struct exec_workspace *space, int part_most); /* 0, or -1 without memory; finish it in any case */
void exec_workspace_finish(struct exec_workspace *space);

/* raw: [len], the logits of the tokens from `begin` on. ret_part: exec_part_bytes, aligned to 8. Returns 0, or -1 without memory. */
int exec_part_fill(const struct exec_ask *ask, const float *raw, int begin, int len, struct exec_workspace *space, void *ret_part);

/* The logits after everything, the temperature included, into row[len]. */
void exec_row_finish(const struct exec_ask *ask, const float *raw, int begin, int len, struct exec_workspace *space, float *row);

/* Returns 1 when *ret is the token, 0 when the parts do not tell enough, -1 without memory. */
int exec_choose(const struct exec_ask *ask, const void *const *parts, int n_parts, struct exec_workspace *space,
                struct exec_candidate *ret);
/* From the whole row after exec_row_finish. ret->raw stays 0. Returns 0, or -1 without memory. */
int exec_choose_whole(const struct exec_ask *ask, const float *row, int n_vocab, struct exec_workspace *space, struct exec_candidate *ret);

/* All but the rank, which is 1 + the tokens of all parts whose raw logits are above the token's. raw: the token's. */
void exec_logprobs_merge(const struct exec_ask *ask, const void *const *parts, int n_parts, float raw, struct exec_logprobs *ret);
/* The known token's raw logit. */
float exec_raw_known(const void *const *parts, int n_parts);
int32_t exec_count_above(const float *raw, int len, float value);

#endif
