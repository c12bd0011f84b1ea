/*
 * Sampling: what parameters do to a row, draws from a vocabulary in any number of parts against a plain reference that sorts everything,
 * and the same over ranks, with the bytes that travel counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "comm/world_kit.h"
#include "exec/candidates.h"
#include "exec/head.h"

enum { MOST_PARTS = 7, PART_BYTES_MOST = 1 << 14 };

static struct exec_sampling greedy(void) {
    return (struct exec_sampling){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .n_prompt_logprobs = -1};
}

/* Logits as a model's: most far below a few. `peak` says how far, `power` how few. */
static void fill_logits(float *row, int n, uint64_t seed, double peak, double power) {
    for (int i = 0; i < n; i++) {
        double u = rand_ctr_unit(seed, (uint64_t)i);
        row[i] = (float)(peak * pow(u, power) + 3 * rand_ctr_unit(seed + 1, (uint64_t)i) - 4);
    }
}

/* Parts */

/* Parts of unequal length, some of them empty; each begins at a multiple of EXEC_PANEL_TOKENS. */
static int part_begin(int n_vocab, int part, int n_parts) {
    int at = (int)((int64_t)n_vocab * part * part / (n_parts * n_parts));
    return part == n_parts ? n_vocab : at / EXEC_PANEL_TOKENS * EXEC_PANEL_TOKENS;
}

/* The token behind tokens[n_tokens], from a row in n_parts unequal parts. *ret_whole: the parts did not suffice. */
static int32_t sample_in_parts(const float *logits, int n_vocab, const struct exec_sampling *params, const int32_t *tokens, int n_tokens,
                               int n_parts, bool *ret_whole, struct exec_logprobs *ret_logprobs) {
    static _Alignas(8) char bytes[MOST_PARTS][PART_BYTES_MOST];
    const void *parts[MOST_PARTS];
    struct exec_ask ask = exec_ask_sample(params, tokens, n_tokens);
    struct exec_workspace space;
    struct exec_candidate chosen;
    assert_int_equal(exec_workspace_init(&space, n_vocab), 0);
    assert_true(exec_part_bytes(&ask) <= PART_BYTES_MOST);
    for (int p = 0; p < n_parts; p++) {
        int begin = part_begin(n_vocab, p, n_parts), end = part_begin(n_vocab, p + 1, n_parts);
        assert_int_equal(exec_part_fill(&ask, logits + begin, begin, end - begin, &space, bytes[p]), 0);
        parts[p] = bytes[p];
    }
    int found = exec_choose(&ask, parts, n_parts, &space, &chosen);
    assert_true(found >= 0);
    if (found == 0) {
        float *row = malloc((size_t)n_vocab * sizeof *row);
        exec_row_finish(&ask, logits, 0, n_vocab, &space, row);
        assert_int_equal(exec_choose_whole(&ask, row, n_vocab, &space, &chosen), 0);
        free(row);
        chosen.raw = logits[chosen.token];
    }
    assert_true(chosen.raw == logits[chosen.token]);
    if (ret_whole != NULL)
        *ret_whole = found == 0;
    if (ret_logprobs != NULL) {
        exec_logprobs_merge(&ask, parts, n_parts, chosen.raw, ret_logprobs);
        ret_logprobs->rank += exec_count_above(logits, n_vocab, chosen.raw);
    }
    exec_workspace_finish(&space);
    return chosen.token;
}

static int32_t sample(const float *logits, int n_vocab, const struct exec_sampling *params, const int32_t *tokens, int n_tokens) {
    return sample_in_parts(logits, n_vocab, params, tokens, n_tokens, 1, NULL, NULL);
}

enum { N_VOCAB = 50, N_DRAWS = 20000 };

static void draw_many(const float *logits, struct exec_sampling *params, int n_parts, int *counts) {
    int32_t tokens[1] = {0};
    memset(counts, 0, N_VOCAB * sizeof *counts);
    for (int i = 0; i < N_DRAWS; i++) {
        params->seed = (uint64_t)i;
        counts[sample_in_parts(logits, N_VOCAB, params, tokens, 1, n_parts, NULL, NULL)]++;
    }
}

static void test_draws_follow_the_distribution(void **state) {
    (void)state;
    float logits[N_VOCAB];
    double p[N_VOCAB], sum = 0, best = 0;
    int counts[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++)
        logits[i] = 4 * (float)rand_ctr_unit(1, (uint64_t)i);
    struct exec_sampling params = greedy();
    params.temperature = 0.7f;
    for (int i = 0; i < N_VOCAB; i++) {
        sum += p[i] = exp(logits[i] / 0.7);
        best = fmax(best, p[i]);
    }
    draw_many(logits, &params, 3, counts);
    for (int i = 0; i < N_VOCAB; i++) {
        double wanted = p[i] / sum * N_DRAWS;
        assert_true(fabs(counts[i] - wanted) < 5 * sqrt(wanted) + 5); /* five standard deviations */
    }
    /* top_k, top_p and min_p cut exactly the tokens that they should; what is left keeps its proportions. */
    params.top_k = 5;
    draw_many(logits, &params, 2, counts);
    double left = 0;
    for (int i = 0; i < N_VOCAB; i++)
        left += counts[i] > 0 ? p[i] : 0;
    for (int i = 0; i < N_VOCAB; i++) {
        int n_better = 0;
        for (int j = 0; j < N_VOCAB; j++)
            n_better += logits[j] > logits[i];
        assert_int_equal(counts[i] > 0, n_better < 5);
        double wanted = counts[i] > 0 ? p[i] / left * N_DRAWS : 0;
        assert_true(fabs(counts[i] - wanted) < 5 * sqrt(wanted) + 5);
    }
    params.top_k = 0;
    params.top_p = 0.5f;
    draw_many(logits, &params, 4, counts);
    for (int i = 0; i < N_VOCAB; i++) {
        double better = 0;
        for (int j = 0; j < N_VOCAB; j++)
            better += logits[j] > logits[i] ? p[j] / sum : 0;
        assert_int_equal(counts[i] > 0, better < 0.5);
    }
    params.top_p = 1;
    params.min_p = 0.3f;
    draw_many(logits, &params, 1, counts);
    for (int i = 0; i < N_VOCAB; i++)
        assert_int_equal(counts[i] > 0, p[i] >= 0.3 * best);
}

/* A draw from the whole row: the panel with the best score by its mass, then a token by its share of it. */
static int32_t draw_from_panels(const float *row, int n_vocab, const struct exec_sampling *params, int index) {
    uint64_t key = exec_noise_key(params, index);
    double best_score = -INFINITY;
    int best = 0;
    for (int at = 0; at < n_vocab; at += EXEC_PANEL_TOKENS) {
        double mass = 0;
        for (int i = at; i < n_vocab && i < at + EXEC_PANEL_TOKENS; i++)
            mass += exp(row[i] / params->temperature);
        double score = exec_score(log(mass), exec_noise(key, at / EXEC_PANEL_TOKENS));
        if (score > best_score) {
            best_score = score;
            best = at;
        }
    }
    double mass = 0, sum = 0, noise = exec_noise(key, ~(best / EXEC_PANEL_TOKENS));
    for (int i = best; i < n_vocab && i < best + EXEC_PANEL_TOKENS; i++)
        mass += exp(row[i] / params->temperature);
    for (int i = best; i < n_vocab; i++)
        if ((sum += exp(row[i] / params->temperature)) > noise * mass)
            return i;
    return n_vocab - 1;
}

/* The whole of it in plain steps: sort, cut, draw. */
struct ranked {
    float logit;
    int32_t token;
};

static int by_logit(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

static int32_t reference(const float *row, int n_vocab, const struct exec_sampling *params, int index) {
    if (params->temperature > 0 && params->top_k == 0 && params->top_p == 1 && params->min_p == 0)
        return draw_from_panels(row, n_vocab, params, index);
    struct ranked *list = malloc((size_t)n_vocab * sizeof *list);
    for (int i = 0; i < n_vocab; i++)
        list[i] = (struct ranked){row[i] / (params->temperature == 0 ? 1 : params->temperature), i};
    qsort(list, (size_t)n_vocab, sizeof *list, by_logit);
    float max = list[0].logit;
    int n = 0;
    while (n < n_vocab && list[n].logit >= (params->min_p > 0 ? max + logf(params->min_p) : -INFINITY))
        n++;
    n = params->top_k > 0 && params->top_k < n ? params->top_k : n;
    double total = 0, mass = 0;
    for (int i = 0; i < n; i++)
        total += exp((double)(list[i].logit - max));
    int kept = 0;
    while (kept < n && mass < (double)params->top_p * total)
        mass += exp((double)(list[kept++].logit - max));
    kept = params->top_p < 1 ? kept : n;
    int best = 0;
    for (int i = 1; i < kept && params->temperature > 0; i++) {
        uint64_t key = exec_noise_key(params, index);
        double score = exec_score(list[i].logit, exec_noise(key, list[i].token));
        double against = exec_score(list[best].logit, exec_noise(key, list[best].token));
        if (score > against || (score == against && list[i].token < list[best].token))
            best = i;
    }
    int32_t token = list[best].token;
    free(list);
    return token;
}

/* Many parameters, flat and peaked rows, any number of parts: always the reference's token. */
static void test_parts_give_what_the_whole_gives(void **state) {
    (void)state;
    enum { N = 5000 };
    static float row[N];
    static const float temperatures[] = {0, 0.5f, 1, 2}, top_ps[] = {1, 0.3f, 0.9f, 0.999f}, min_ps[] = {0, 0.02f, 0.5f};
    static const int top_ks[] = {0, 1, 20, 128, 129, 400};
    int n_whole = 0, n_cases = 0;
    for (int c = 0; c < 4 * 4 * 3 * 6; c++) {
        struct exec_sampling params = greedy();
        params.temperature = temperatures[c % 4];
        params.top_p = top_ps[c / 4 % 4];
        params.min_p = min_ps[c / 16 % 3];
        params.top_k = top_ks[c / 48];
        params.seed = (uint64_t)c;
        fill_logits(row, N, (uint64_t)c * 7, c % 3 == 0 ? 2 : c % 3 == 1 ? 12 : 30, 4);
        if (c % 5 == 0) /* equal logits: the lower id counts as better */
            for (int i = 0; i < N; i++)
                row[i] = roundf(row[i]);
        int32_t wanted = reference(row, N, &params, 11), tokens[11] = {0};
        for (int n_parts = 1; n_parts <= MOST_PARTS; n_parts += n_parts < 4 ? 1 : 3) {
            bool is_whole;
            assert_int_equal(sample_in_parts(row, N, &params, tokens, 11, n_parts, &is_whole, NULL), wanted);
            n_whole += is_whole;
            n_cases++;
        }
    }
    printf("%d of %d draws needed the whole row\n", n_whole, n_cases);
    assert_true(n_whole > 0 && n_whole < n_cases / 3);
}

/* What parameters do to a row */

static void test_masks_and_penalties(void **state) {
    (void)state;
    const float row[4] = {1, 4, 3, 2};
    float changed[4];
    int32_t tokens[] = {1, 1, 2}; /* one of prompt, two generated */
    int32_t counts[4] = {0};
    struct exec_sampling params = greedy();
    params.n_prompt = 1;
    assert_int_equal(sample(row, 4, &params, tokens, 3), 1);
    params.n_stop_ids = 1;
    params.stop_ids[0] = 1;
    params.min_tokens = 3; /* only two are generated: the stop id is masked */
    assert_int_equal(sample(row, 4, &params, tokens, 3), 2);
    params.min_tokens = 2;
    assert_int_equal(sample(row, 4, &params, tokens, 3), 1);
    params.min_tokens = 0;
    params.repetition_penalty = 4; /* prompt and output: 1 → 1, 2 → 0.75, so 3 wins */
    assert_int_equal(sample(row, 4, &params, tokens, 3), 3);
    params.repetition_penalty = 1;
    params.frequency_penalty = 1;
    params.presence_penalty = 1.5f; /* output alone, and by how often */
    memcpy(changed, row, sizeof row);
    exec_sampling_apply(&params, (int32_t[]){1, 2, 1, 2, 3}, 5, 0, 4, changed, counts);
    assert_true(changed[0] == 1 && changed[1] == 1.5f && changed[2] == -0.5f && changed[3] == -0.5f);
    params.repetition_penalty = 2; /* first, and a negative logit moves down too */
    memcpy(changed, (float[]){-1, 4, 3, 2}, sizeof row);
    exec_sampling_apply(&params, (int32_t[]){0, 2, 2}, 3, 0, 4, changed, counts);
    assert_true(changed[0] == -2 && changed[1] == 4 && changed[2] == -2 && changed[3] == 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(counts[i], 0);
    params = greedy();
    params.n_bias = 1;
    params.bias[0] = (struct exec_bias){0, 100};
    assert_int_equal(sample(row, 4, &params, tokens, 3), 0);
    /* a part applies what concerns its own tokens */
    params.presence_penalty = 1;
    memcpy(changed, row, sizeof row);
    exec_sampling_apply(&params, tokens, 3, 2, 2, changed + 2, counts);
    assert_true(changed[0] == 1 && changed[1] == 4 && changed[2] == 2 && changed[3] == 2);
}

static void test_allowed_and_bad(void **state) {
    (void)state;
    const float row[4] = {1, 4, 3, 2};
    int32_t tokens[] = {3, 0, 2};
    struct exec_sampling params = greedy();
    params.n_prompt = 1;
    params.n_allowed = 2;
    params.allowed[0] = 3;
    params.allowed[1] = 0;
    assert_int_equal(sample(row, 4, &params, tokens, 3), 3);
    params.bias[0] = (struct exec_bias){1, 100}; /* no bias lifts a mask */
    params.n_bias = 1;
    assert_int_equal(sample(row, 4, &params, tokens, 3), 3);
    params = greedy();
    params.n_prompt = 1;
    memcpy(params.bad, (int32_t[]){1, 1, 3, 0, 2, 2}, 6 * sizeof(int32_t)); /* 1; 0 2 2 */
    params.n_bad = 6;
    assert_int_equal(sample(row, 4, &params, tokens, 3), 3); /* 1 never, 2 not behind 0 2 */
    assert_int_equal(sample(row, 4, &params, tokens, 2), 2);
    params.n_prompt = 2; /* the prompt is no beginning of a word */
    assert_int_equal(sample(row, 4, &params, tokens, 3), 2);
    /* nothing may come at all: the first token rather than nothing */
    params.n_allowed = 1;
    params.allowed[0] = 1;
    params.temperature = 1;
    assert_int_equal(sample(row, 4, &params, tokens, 3), 0);
}

static void test_logprobs(void **state) {
    (void)state;
    const float row[4] = {0, 2, 1, 2};
    struct exec_logprobs lp;
    struct exec_sampling params = greedy();
    double sum = log(1 + 2 * exp(2) + exp(1));
    params.n_logprobs = 3;
    params.temperature = 0.01f;
    params.n_allowed = 1;
    params.allowed[0] = 2;
    for (int n_parts = 1; n_parts <= 4; n_parts++) { /* of the raw logits, whatever is done to the row */
        assert_int_equal(sample_in_parts(row, 4, &params, (int32_t[]){0}, 1, n_parts, NULL, &lp), 2);
        assert_true(fabs(lp.logprob - (1 - sum)) < 1e-6);
        assert_int_equal(lp.rank, 3);
        assert_int_equal(lp.n_top, 3);
        assert_int_equal(lp.top_ids[0], 1);
        assert_int_equal(lp.top_ids[1], 3);
        assert_int_equal(lp.top_ids[2], 2);
        assert_true(fabs(lp.top_logprobs[1] - (2 - sum)) < 1e-6);
    }
    params.n_logprobs = 0;
    params.n_logprob_ids = 2;
    params.logprob_ids[0] = 3;
    params.logprob_ids[1] = 0;
    sample_in_parts(row, 4, &params, (int32_t[]){0}, 1, 3, NULL, &lp);
    assert_int_equal(lp.n_top, 2);
    assert_int_equal(lp.top_ids[1], 0);
    assert_true(fabs(lp.top_logprobs[0] - (2 - sum)) < 1e-6 && fabs(lp.top_logprobs[1] + sum) < 1e-6);
}

/* Over ranks */

enum { BIG_VOCAB = 151936, N_SEQS = 12, N_PROMPT = 5 };

static float *big_rows; /* [N_SEQS + N_PROMPT - 1][BIG_VOCAB]: sequence 0 wants its prompt's log-probabilities */

static struct exec_sampling seq_params(int seq) {
    struct exec_sampling p = greedy();
    p.n_prompt = N_PROMPT;
    p.seed = (uint64_t)seq;
    if (seq % 4 > 0)
        p.temperature = 0.6f + 0.1f * (float)seq;
    if (seq % 4 == 2)
        p.top_k = 40;
    if (seq % 4 >= 2)
        p.top_p = 0.95f;
    if (seq == 5)
        p.min_p = 0.1f;
    if (seq == 6 || seq == 4)
        p.repetition_penalty = 1.3f;
    if (seq == 7 || seq == 0)
        p.n_logprobs = 20;
    if (seq == 9) {
        p.n_logprobs = 0;
        p.n_logprob_ids = 1;
        p.logprob_ids[0] = BIG_VOCAB - 1;
    }
    if (seq == 0)
        p.n_prompt_logprobs = 3;
    return p;
}

struct outcome {
    struct exec_result results[MOST_PARTS + 1]; /* by rank */
    uint64_t bytes[MOST_PARTS + 1], whole_rows;
};

static int head_rank(struct kit_seat *seat) {
    struct outcome *outcome = seat->arg;
    int tp = seat->kit->n_ranks, members[COMM_MAX_RANKS], rc = -1;
    struct model_config config = {
        .n_vocab = BIG_VOCAB, .n_layers = 1, .n_heads = 28, .n_kv_heads = 28, .intermediate = 28 * 32, .weight_block = 1};
    struct model_split split;
    struct comm_group *group = NULL;
    struct team *team = NULL;
    struct exec_head *head = NULL;
    struct exec_slots slots = {0};
    struct exec_entry entries[N_SEQS];
    struct exec_sampling *params = calloc(N_SEQS, sizeof *params);
    for (int i = 0; i < tp; i++)
        members[i] = i;
    if (model_split_compute(&config, tp, 1, false, NULL, seat->rank, &split, &seat->err) != 0 ||
        comm_group_join(seat->world, seat->rank, members, tp, 16, &group, &seat->err) != 0 ||
        team_create(1 + seat->rank % 2, NULL, &team, &seat->err) != 0 ||
        exec_head_create(&config, &split, team, group, &head, &seat->err) != 0 ||
        exec_slots_init(&slots, N_SEQS, 64, 16, N_SEQS, &seat->err) != 0)
        goto done;
    int n_rows = N_SEQS + N_PROMPT - 1;
    int32_t prompt[N_PROMPT] = {10, 60000, 3, 151000, 77}, blocks[N_SEQS];
    for (int i = 0; i < N_SEQS; i++) {
        params[i] = seq_params(i);
        blocks[i] = i;
        entries[i] = (struct exec_entry){.slot = i, .fresh = true, .samples = true, .n_tokens = N_PROMPT,
                                         .tokens = prompt, .cached = prompt,
                                         .n_new_blocks = 1, .new_blocks = &blocks[i], .next_token = -1, .sampling = &params[i]};
        if (exec_slots_apply(&slots, &entries[i], &seat->err) != 0)
            goto done;
    }
    struct exec_step step = {.number = 1, .n_entries = N_SEQS, .n_tokens = N_SEQS * N_PROMPT, .entries = entries};
    float *rows = exec_head_rows(head, n_rows);
    for (int r = 0; r < n_rows; r++)
        memcpy(rows + (size_t)r * (size_t)split.vocab_len, big_rows + (size_t)r * BIG_VOCAB + split.vocab_begin,
               (size_t)split.vocab_len * sizeof *rows);
    if (exec_head_sample(head, &step, &slots, rows, n_rows, &outcome->results[seat->rank], &seat->err) != 0)
        goto done;
    outcome->bytes[seat->rank] = exec_head_traffic(head).bytes;
    if (seat->rank == 0)
        outcome->whole_rows = exec_head_traffic(head).whole_rows;
    rc = 0;
done:
    exec_slots_finish(&slots);
    exec_head_destroy(head);
    team_destroy(team);
    comm_group_leave(group);
    free(params);
    return rc;
}

static void compare_results(const struct exec_result *one, const struct exec_result *other) {
    assert_int_equal(one->n_tokens, other->n_tokens);
    for (int i = 0; i < one->n_tokens; i++) {
        const struct exec_token *a = &one->tokens[i], *b = &other->tokens[i];
        assert_true(a->entry == b->entry && a->index == b->index && a->token == b->token && a->is_prompt == b->is_prompt);
        assert_int_equal(a->has_logprobs, b->has_logprobs);
        assert_true(fabsf(a->logprobs.logprob - b->logprobs.logprob) < 1e-5f);
        assert_int_equal(a->logprobs.rank, b->logprobs.rank);
        assert_int_equal(a->logprobs.n_top, b->logprobs.n_top);
        assert_memory_equal(a->logprobs.top_ids, b->logprobs.top_ids, sizeof a->logprobs.top_ids);
        for (int k = 0; k < a->logprobs.n_top; k++)
            assert_true(fabsf(a->logprobs.top_logprobs[k] - b->logprobs.top_logprobs[k]) < 1e-5f);
    }
}

static void test_ranks_agree_and_send_little(void **state) {
    (void)state;
    static const int layouts[][8] = {{1}, {2}, {4}, {7}, {2, 2}, {1, 1, 2}};
    struct outcome outcomes[6] = {0};
    int n_rows = N_SEQS + N_PROMPT - 1;
    big_rows = malloc((size_t)n_rows * BIG_VOCAB * sizeof *big_rows);
    for (int r = 0; r < n_rows; r++)
        fill_logits(big_rows + (size_t)r * BIG_VOCAB, BIG_VOCAB, 100 + (uint64_t)r, 40, 400);
    for (int l = 0; l < 6; l++) {
        struct kit kit;
        struct outcome *o = &outcomes[l];
        kit_create(&kit, layouts[l], 0, 60000);
        kit_connect(&kit);
        kit_run(&kit, head_rank, o);
        /* all members know all samples */
        for (int rank = 1; rank < kit.n_ranks; rank++)
            for (int i = 0, k = 0; i < o->results[0].n_tokens; i++) {
                const struct exec_token *first = &o->results[0].tokens[i];
                if (first->is_prompt)
                    continue;
                const struct exec_token *here = &o->results[rank].tokens[k++];
                assert_true(here->entry == first->entry && here->index == first->index && here->token == first->token);
            }
        assert_int_equal(o->results[0].n_tokens, n_rows);
        compare_results(&outcomes[0].results[0], &o->results[0]);
        uint64_t bytes = 0;
        for (int rank = 0; rank < kit.n_ranks; rank++)
            bytes += o->bytes[rank];
        printf("tp %d: %llu bytes for each row\n", kit.n_ranks, (unsigned long long)bytes / (unsigned)n_rows);
        assert_int_equal(o->whole_rows, 0);
        assert_true(bytes / (unsigned)n_rows < (unsigned)kit.n_ranks * 2048); /* a row is 600 KB */
        if (kit.n_ranks == 1)
            assert_int_equal(bytes, 0);
        kit_destroy(&kit);
    }
    for (int l = 0; l < 6; l++)
        for (int rank = 0; rank <= MOST_PARTS; rank++)
            exec_result_finish(&outcomes[l].results[rank]);
    free(big_rows);
}

/* Flat rows: the candidates do not suffice, the whole rows come, and the tokens are the same. */
static void test_ranks_agree_on_flat_rows(void **state) {
    (void)state;
    static const int layouts[][8] = {{1}, {4}, {1, 1}};
    struct outcome outcomes[3] = {0};
    int n_rows = N_SEQS + N_PROMPT - 1;
    big_rows = malloc((size_t)n_rows * BIG_VOCAB * sizeof *big_rows);
    for (int r = 0; r < n_rows; r++)
        fill_logits(big_rows + (size_t)r * BIG_VOCAB, BIG_VOCAB, 100 + (uint64_t)r, 1, 4);
    for (int l = 0; l < 3; l++) {
        struct kit kit;
        kit_create(&kit, layouts[l], 0, 60000);
        kit_connect(&kit);
        kit_run(&kit, head_rank, &outcomes[l]);
        compare_results(&outcomes[0].results[0], &outcomes[l].results[0]);
        assert_true(kit.n_ranks == 1 || outcomes[l].whole_rows > 0);
        kit_destroy(&kit);
    }
    for (int l = 0; l < 3; l++)
        for (int rank = 0; rank <= MOST_PARTS; rank++)
            exec_result_finish(&outcomes[l].results[rank]);
    free(big_rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_distribution), cmocka_unit_test(test_parts_give_what_the_whole_gives),
        cmocka_unit_test(test_masks_and_penalties),           cmocka_unit_test(test_allowed_and_bad),
        cmocka_unit_test(test_logprobs),                      cmocka_unit_test(test_ranks_agree_and_send_little),
        cmocka_unit_test(test_ranks_agree_on_flat_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
