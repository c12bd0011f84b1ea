/* Parts of a row, and what they come to together; see candidates.h. */
#include "exec/candidates.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/vector.h"

enum { BLOCK = 1024 /* tokens whose exponentials are made at once: stays in the first-level cache */ };

/* Better first; lower ids first among equals. Of two tokens one is always better. */
static bool is_better(const struct exec_candidate *a, const struct exec_candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static void swap(struct exec_candidate *a, struct exec_candidate *b) {
    struct exec_candidate kept = *a;
    *a = *b;
    *b = kept;
}

/* Splits list[n], n ≥ 2, so that each of the first [0, at) is better than or the same as each behind; 0 < at < n (Hoare 1961). */
static int split(struct exec_candidate *list, int n) {
    struct exec_candidate pivot = list[(n - 1) / 2];
    int i = -1, j = n;
    for (;;) {
        do
            i++;
        while (is_better(&list[i], &pivot));
        do
            j--;
        while (is_better(&pivot, &list[j]));
        if (i >= j)
            return j + 1;
        swap(&list[i], &list[j]);
    }
}

/* Moves the k best of list[n] to its front, in no order. */
static void select_best(struct exec_candidate *list, int n, int k) {
    while (n > 1 && k > 0 && k < n) {
        int at = split(list, n);
        if (k <= at) {
            n = at;
        } else {
            list += at;
            n -= at;
            k -= at;
        }
    }
}

static void sort_best(struct exec_candidate *list, int n) {
    while (n > 8) {
        int at = split(list, n);
        sort_best(list, at);
        list += at;
        n -= at;
    }
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && is_better(&list[k], &list[k - 1]); k--)
            swap(&list[k], &list[k - 1]);
}

static double mass_of(const struct exec_candidate *list, int n, float max) {
    double mass = 0;
    for (int i = 0; i < n; i++)
        mass += exp((double)(list[i].logit - max));
    return mass;
}

/*
 * The nucleus (Holtzman 2020): moves the fewest best of list[n] that reach `mass` to its front and returns how many; n + 1 when all
 * together do not. A selection by weight: nothing is sorted.
 */
static int select_nucleus(struct exec_candidate *list, int n, float max, double mass) {
    int kept = 0, n_open = n;
    while (n_open > 1) {
        int at = split(list + kept, n_open);
        double better = mass_of(list + kept, at, max);
        if (better >= mass) {
            n_open = at;
        } else {
            mass -= better;
            kept += at;
            n_open -= at;
        }
    }
    bool is_reached = kept + n_open < n || mass_of(list + kept, n_open, max) >= mass;
    return kept + n_open + !is_reached;
}

/* Asking */

static bool is_greedy(const struct exec_sampling *params) { return params->temperature == 0; }

static bool is_truncated(const struct exec_sampling *params) { return params->top_k > 0 || params->top_p < 1 || params->min_p > 0; }

struct exec_ask exec_ask_sample(const struct exec_sampling *params, const int32_t *tokens, int n_tokens) {
    int most = params->top_k > 0 && params->top_k < EXEC_MAX_CANDIDATES ? params->top_k : EXEC_MAX_CANDIDATES;
    bool has_ids = params->n_logprob_ids > 0;
    return (struct exec_ask){.params = params,
                             .tokens = tokens,
                             .n_tokens = n_tokens,
                             .wants_logprobs = params->n_logprobs >= 0,
                             .known_token = -1,
                             .n_candidates = is_greedy(params) || !is_truncated(params) ? 1 : most,
                             .n_top = has_ids || params->n_logprobs < 0 ? 0 : params->n_logprobs,
                             .n_ids = params->n_logprob_ids};
}

struct exec_ask exec_ask_prompt(const struct exec_sampling *params, int32_t token) {
    return (struct exec_ask){.params = params, .wants_logprobs = true, .known_token = token, .n_top = params->n_prompt_logprobs};
}

/* Layout */

size_t exec_part_bytes(const struct exec_ask *ask) {
    size_t bytes = sizeof(struct exec_part) + (size_t)(ask->n_candidates + ask->n_top) * sizeof(struct exec_candidate) +
                   (size_t)ask->n_ids * sizeof(float);
    return (bytes + 7) / 8 * 8;
}

static struct exec_candidate *candidates_of(const void *part) { return (struct exec_candidate *)((struct exec_part *)part + 1); }
static struct exec_candidate *tops_of(const struct exec_ask *ask, const void *part) { return candidates_of(part) + ask->n_candidates; }
static float *ids_of(const struct exec_ask *ask, const void *part) { return (float *)(tops_of(ask, part) + ask->n_top); }

/* A number that came from another rank is never trusted as an index. */
static int within(int32_t n, int most) { return n < 0 ? 0 : n > most ? most : n; }

/* One part */

int exec_workspace_init(struct exec_workspace *space, int part_most) {
    size_t n = (size_t)part_most + 1;
    *space = (struct exec_workspace){.row = malloc(n * sizeof *space->row), .counts = calloc(n, sizeof *space->counts)};
    return space->row == NULL || space->counts == NULL ? -1 : 0;
}

void exec_workspace_finish(struct exec_workspace *space) {
    free(space->row);
    free(space->counts);
    free(space->list);
    *space = (struct exec_workspace){0};
}

static int reserve_list(struct exec_workspace *space, int n) {
    if (n <= space->cap_list)
        return 0;
    free(space->list);
    space->list = malloc((size_t)n * sizeof *space->list);
    space->cap_list = space->list == NULL ? 0 : n;
    return space->list == NULL ? -1 : 0;
}

void exec_row_finish(const struct exec_ask *ask, const float *raw, int begin, int len, struct exec_workspace *space, float *row) {
    float temperature = is_greedy(ask->params) ? 1 : ask->params->temperature;
    memcpy(row, raw, (size_t)len * sizeof *row);
    exec_sampling_apply(ask->params, ask->tokens, ask->n_tokens, begin, len, row, space->counts);
    for (int i = 0; i < len && temperature != 1; i++)
        row[i] /= temperature;
}

static double sum_of_exp(const float *row, int len, float max) {
    float powers[BLOCK];
    double sum = 0;
    for (int at = 0; at < len; at += BLOCK)
        sum += kernels_exp(row + at, max, len - at < BLOCK ? len - at : BLOCK, powers);
    return sum;
}

/* The k best of a row above -inf, best first. list: room for 4 · k. Returns how many there are. */
static int best_of(const float *row, int len, int begin, int k, struct exec_candidate *list) {
    float floor = -INFINITY;
    int n = 0;
    for (int i = 0; i < len && k > 0; i++) {
        if (!(row[i] > floor))
            continue;
        list[n++] = (struct exec_candidate){row[i], 0, begin + i};
        if (n < 4 * k)
            continue;
        select_best(list, n, k);
        n = k;
        floor = list[0].logit;
        for (int j = 1; j < k; j++)
            floor = list[j].logit < floor ? list[j].logit : floor;
    }
    if (n > k) {
        select_best(list, n, k);
        n = k;
    }
    sort_best(list, n);
    return n;
}

/* Four sums side by side, then together: an order that does not depend on where the panel stands. */
static double panel_mass(const float *powers, int n) {
    float sums[4] = {0};
    for (int i = 0; i < n; i++)
        sums[i % 4] += powers[i];
    return (double)((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/* The token of a panel, by its share of the panel's mass. */
static int draw_within(const float *powers, int n, double noise) {
    double left = noise * panel_mass(powers, n);
    int last = 0;
    for (int i = 0; i < n; i++) {
        if (powers[i] == 0)
            continue;
        last = i;
        if ((left -= (double)powers[i]) < 0)
            break;
    }
    return last;
}

/*
 * Draws from the whole part, max its greatest logit: a panel of tokens has one noise, for its mass, and then the token within it is drawn.
 * That is a draw from the softmax just as with a noise for each token, and sixteen times fewer of them. -log(1 - v) ≥ v spares nearly all
 * logarithms. Returns the token's place; *ret_score tells which part's draw counts.
 */
static int draw_of(const struct exec_ask *ask, const float *row, int len, int begin, float max, double *ret_score) {
    uint64_t key = exec_noise_key(ask->params, ask->n_tokens);
    float powers[BLOCK];
    double least = INFINITY;
    int best = 0;
    for (int at = 0; at < len; at += BLOCK) {
        int n_block = len - at < BLOCK ? len - at : BLOCK;
        kernels_exp(row + at, max, n_block, powers);
        for (int i = 0; i < n_block; i += EXEC_PANEL_TOKENS) {
            double mass = panel_mass(powers + i, n_block - i < EXEC_PANEL_TOKENS ? n_block - i : EXEC_PANEL_TOKENS);
            double noise = exec_noise(key, (begin + at + i) / EXEC_PANEL_TOKENS);
            if (!(noise < least * mass))
                continue;
            double variable = -log1p(-noise);
            if (variable < least * mass) {
                least = variable / mass;
                best = at + i;
            }
        }
    }
    int n = len - best < EXEC_PANEL_TOKENS ? len - best : EXEC_PANEL_TOKENS;
    kernels_exp(row + best, max, n, powers);
    *ret_score = (double)max - log(least);
    return best + draw_within(powers, n, exec_noise(key, ~((begin + best) / EXEC_PANEL_TOKENS)));
}

/* The first candidate is there in any case; raw logits are left to the caller. Returns 0, or -1 without memory. */
static int fill_candidates(const struct exec_ask *ask, const float *row, int len, int begin, struct exec_workspace *space,
                           struct exec_part *part) {
    struct exec_candidate *candidates = candidates_of(part);
    int at_max = kernels_argmax(row, len, &part->max);
    if (is_greedy(ask->params) || !(part->max > -INFINITY)) {
        candidates[0] = (struct exec_candidate){part->max, 0, begin + at_max};
        part->n = is_greedy(ask->params);
        return 0;
    }
    if (!is_truncated(ask->params)) {
        int at = draw_of(ask, row, len, begin, part->max, &part->sum);
        candidates[0] = (struct exec_candidate){row[at], 0, begin + at};
        part->n = 1;
        return 0;
    }
    if (reserve_list(space, 4 * ask->n_candidates) != 0)
        return -1;
    part->n = best_of(row, len, begin, ask->n_candidates, space->list);
    memcpy(candidates, space->list, (size_t)part->n * sizeof *candidates);
    if (ask->params->top_p < 1 && ask->params->top_k == 0)
        part->sum = sum_of_exp(row, len, part->max);
    return 0;
}

static int fill_logprobs(const struct exec_ask *ask, const float *raw, int begin, int len, struct exec_workspace *space,
                         struct exec_part *part) {
    kernels_argmax(raw, len, &part->raw_max);
    part->raw_sum = sum_of_exp(raw, len, part->raw_max);
    if (ask->known_token >= begin && ask->known_token < begin + len)
        part->raw_known = raw[ask->known_token - begin];
    for (int i = 0; i < ask->n_ids; i++) {
        int32_t id = ask->params->logprob_ids[i];
        ids_of(ask, part)[i] = id >= begin && id < begin + len ? raw[id - begin] : -INFINITY;
    }
    if (ask->n_top == 0)
        return 0;
    if (reserve_list(space, 4 * ask->n_top) != 0)
        return -1;
    part->n_top = best_of(raw, len, begin, ask->n_top, space->list);
    memcpy(tops_of(ask, part), space->list, (size_t)part->n_top * sizeof *space->list);
    return 0;
}

int exec_part_fill(const struct exec_ask *ask, const float *raw, int begin, int len, struct exec_workspace *space, void *ret_part) {
    struct exec_part *part = ret_part;
    memset(part, 0, exec_part_bytes(ask));
    part->max = part->raw_max = part->raw_known = -INFINITY;
    if (len == 0)
        return 0;
    if (ask->tokens != NULL) {
        const struct exec_sampling *params = ask->params;
        const float *row = raw;
        if (exec_sampling_changes_logits(params, ask->n_tokens - params->n_prompt) || !(is_greedy(params) || params->temperature == 1)) {
            exec_row_finish(ask, raw, begin, len, space, space->row);
            row = space->row;
        }
        if (fill_candidates(ask, row, len, begin, space, part) != 0)
            return -1;
        for (int i = 0; i < part->n || i == 0; i++)
            candidates_of(part)[i].raw = raw[candidates_of(part)[i].token - begin];
    }
    return ask->wants_logprobs ? fill_logprobs(ask, raw, begin, len, space, part) : 0;
}

/* Together */

/* The best score among list[n], n ≥ 1. */
static struct exec_candidate draw(const struct exec_ask *ask, const struct exec_candidate *list, int n) {
    uint64_t key = exec_noise_key(ask->params, ask->n_tokens);
    struct exec_candidate best = list[0];
    double best_score = -INFINITY;
    for (int i = 0; i < n; i++) {
        double score = exec_score(list[i].logit, exec_noise(key, list[i].token));
        if (score > best_score || (score == best_score && list[i].token < best.token)) {
            best = list[i];
            best_score = score;
        }
    }
    return best;
}

static float min_p_cut(const struct exec_sampling *params, float max) { return params->min_p > 0 ? max + logf(params->min_p) : -INFINITY; }

/*
 * What top_k and top_p leave of list[n], moved to its front: *ret_n of them. `total`: the mass of all tokens, for top_p without top_k. True
 * when one of the two has cut, so that tokens which are worse than all that is left cannot change it.
 */
static bool truncate_list(const struct exec_sampling *params, struct exec_candidate *list, int n, float max, double total, int *ret_n) {
    bool is_cut = false;
    if (params->top_k > 0 && n >= params->top_k) {
        select_best(list, n, params->top_k);
        n = params->top_k;
        is_cut = true;
    }
    if (params->top_p < 1) {
        int kept = select_nucleus(list, n, max, (double)params->top_p * (params->top_k > 0 ? mass_of(list, n, max) : total));
        is_cut = is_cut || kept <= n;
        n = kept <= n ? kept : n;
    }
    *ret_n = n;
    return is_cut;
}

/* Whether no token that a part did not send is better than the worst of list[n]. */
static bool covers(const struct exec_ask *ask, const void *const *parts, int n_parts, const struct exec_candidate *list, int n) {
    struct exec_candidate worst = list[0];
    for (int i = 1; i < n; i++)
        if (is_better(&worst, &list[i]))
            worst = list[i];
    for (int p = 0; p < n_parts; p++) {
        const struct exec_part *part = parts[p];
        if (part->n == ask->n_candidates && is_better(&candidates_of(part)[part->n - 1], &worst))
            return false;
    }
    return true;
}

static int choose_truncated(const struct exec_ask *ask, const void *const *parts, int n_parts, float max, struct exec_workspace *space,
                            struct exec_candidate *ret) {
    const struct exec_sampling *params = ask->params;
    float cut = min_p_cut(params, max);
    bool is_all = true; /* every token that min_p leaves is among the candidates */
    double total = 0;
    int n = 0;
    if (reserve_list(space, n_parts * ask->n_candidates) != 0)
        return -1;
    for (int p = 0; p < n_parts; p++) {
        const struct exec_part *part = parts[p];
        const struct exec_candidate *candidates = candidates_of(part);
        int n_sent = within(part->n, ask->n_candidates), n_before = n;
        for (int i = 0; i < n_sent && candidates[i].logit >= cut; i++)
            space->list[n++] = candidates[i];
        is_all = is_all && (n_sent < ask->n_candidates || n - n_before < n_sent);
        total += n_sent > 0 ? part->sum * exp((double)(part->max - max)) : 0;
    }
    if (is_all)
        total = mass_of(space->list, n, max);
    else if (params->top_k > 0 ? n < params->top_k : params->min_p > 0)
        return 0;
    bool is_cut = truncate_list(params, space->list, n, max, total, &n);
    if (!is_all && !(is_cut && covers(ask, parts, n_parts, space->list, n)))
        return 0;
    *ret = draw(ask, space->list, n);
    return 1;
}

int exec_choose(const struct exec_ask *ask, const void *const *parts, int n_parts, struct exec_workspace *space,
                struct exec_candidate *ret) {
    float max = -INFINITY;
    for (int p = 0; p < n_parts; p++)
        max = ((const struct exec_part *)parts[p])->max > max ? ((const struct exec_part *)parts[p])->max : max;
    if (max > -INFINITY && is_truncated(ask->params) && !is_greedy(ask->params))
        return choose_truncated(ask, parts, n_parts, max, space, ret);
    /* One from each part. Where no token may come: the first. */
    struct exec_candidate best = *candidates_of(parts[0]);
    double best_score = -INFINITY;
    for (int p = 0; p < n_parts; p++) {
        const struct exec_part *part = parts[p];
        const struct exec_candidate *one = candidates_of(part);
        double score = is_greedy(ask->params) ? (double)one->logit : part->sum;
        if (part->n == 1 && score > best_score) { /* parts are in the order of tokens: the lower id stays */
            best = *one;
            best_score = score;
        }
    }
    *ret = best;
    return 1;
}

int exec_choose_whole(const struct exec_ask *ask, const float *row, int n_vocab, struct exec_workspace *space, struct exec_candidate *ret) {
    const struct exec_sampling *params = ask->params;
    float max;
    int n = 0, at_max = kernels_argmax(row, n_vocab, &max);
    *ret = (struct exec_candidate){max, 0, at_max};
    if (reserve_list(space, n_vocab) != 0)
        return -1;
    float cut = min_p_cut(params, max);
    double total = sum_of_exp(row, n_vocab, max);
    if (params->top_k == 0 && params->top_p < 1 && params->min_p == 0) {
        /* All tokens below this share have less than 1 - top_p together, so none of them is in the nucleus. */
        double share = (1 - (double)params->top_p) / n_vocab * total;
        cut = max + (float)log(share) - 1e-3f;
    }
    for (int i = 0; i < n_vocab; i++)
        if (row[i] >= cut && row[i] > -INFINITY)
            space->list[n++] = (struct exec_candidate){row[i], 0, i};
    if (n == 0) /* nothing is a number above -inf */
        return 0;
    if (params->min_p > 0)
        total = mass_of(space->list, n, max);
    truncate_list(params, space->list, n, max, total, &n);
    *ret = draw(ask, space->list, n);
    return 0;
}

float exec_raw_known(const void *const *parts, int n_parts) {
    float raw = -INFINITY;
    for (int p = 0; p < n_parts; p++)
        raw = ((const struct exec_part *)parts[p])->raw_known > raw ? ((const struct exec_part *)parts[p])->raw_known : raw;
    return raw;
}

void exec_logprobs_merge(const struct exec_ask *ask, const void *const *parts, int n_parts, float raw, struct exec_logprobs *ret) {
    double max = -INFINITY, sum = 0;
    struct exec_candidate best[2 * EXEC_MAX_TOP_LOGPROBS];
    int n = 0;
    for (int p = 0; p < n_parts; p++)
        max = ((const struct exec_part *)parts[p])->raw_max > max ? ((const struct exec_part *)parts[p])->raw_max : max;
    for (int p = 0; p < n_parts; p++) {
        const struct exec_part *part = parts[p];
        int n_sent = within(part->n_top, ask->n_top);
        sum += part->raw_sum > 0 ? part->raw_sum * exp((double)part->raw_max - max) : 0;
        memcpy(best + n, tops_of(ask, part), (size_t)n_sent * sizeof *best);
        sort_best(best, n + n_sent);
        n = n + n_sent < ask->n_top ? n + n_sent : ask->n_top;
    }
    double log_sum = max + log(sum);
    *ret = (struct exec_logprobs){.logprob = (float)(raw - log_sum), .rank = 1, .n_top = ask->n_ids > 0 ? ask->n_ids : n};
    for (int i = 0; i < n && ask->n_ids == 0; i++) {
        ret->top_ids[i] = best[i].token;
        ret->top_logprobs[i] = (float)(best[i].logit - log_sum);
    }
    for (int i = 0; i < ask->n_ids; i++) {
        float of_id = -INFINITY;
        for (int p = 0; p < n_parts; p++)
            of_id = ids_of(ask, parts[p])[i] > of_id ? ids_of(ask, parts[p])[i] : of_id;
        ret->top_ids[i] = ask->params->logprob_ids[i];
        ret->top_logprobs[i] = (float)(of_id - log_sum);
    }
}

int32_t exec_count_above(const float *raw, int len, float value) {
    int32_t n = 0;
    for (int i = 0; i < len; i++)
        n += raw[i] > value;
    return n;
}
