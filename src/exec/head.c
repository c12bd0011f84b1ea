/* Gathering of vocabulary parts and sampling; see head.h. */
#include "exec/head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/vector.h"

struct exec_head {
    struct comm_group *group;
    int n_members, index;
    int n_vocab;
    int part_begin[COMM_MAX_RANKS], part_len[COMM_MAX_RANKS]; /* by group index */
    int part_most;   /* longest part: rows travel padded to it */
    float *rows;     /* this rank's logits */
    size_t cap_rows_floats;
    float *padded;   /* what this rank sends */
    float *gathered; /* first member: [members, rows, part_most] */
    size_t cap_padded_floats;
    float *whole;    /* first member: one row [n_vocab] */
    void *scratch;
};

/* A part's best token of one row. */
struct best {
    float logit;
    int32_t token;
};

int exec_head_create(const struct model_config *config, const struct model_split *split, struct comm_group *group, struct exec_head **ret,
                     struct err *err) {
    struct exec_head *head = calloc(1, sizeof *head);
    if (head == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the output head");
    head->group = group;
    head->n_members = split->tp_size;
    head->index = split->tp_rank;
    head->n_vocab = config->n_vocab;
    for (int i = 0; i < split->tp_size; i++) {
        struct model_split part;
        int layers[COMM_MAX_RANKS] = {0};
        /* The vocabulary's parts do not depend on the layers: any valid distribution of them will do. */
        for (int s = 0; s < split->pp_size; s++)
            layers[s] = config->n_layers / split->pp_size + (s < config->n_layers % split->pp_size);
        if (model_split_compute(config, split->tp_size, split->pp_size, split->expert_parallel, layers, split->pp_rank * split->tp_size + i, &part,
                                err) != 0)
            goto destroy_head;
        head->part_begin[i] = part.vocab_begin;
        head->part_len[i] = part.vocab_len;
        if (part.vocab_len > head->part_most)
            head->part_most = part.vocab_len;
    }
    if (head->index == 0) {
        head->whole = malloc((size_t)head->n_vocab * sizeof *head->whole);
        head->scratch = malloc(exec_sampling_scratch_bytes(head->n_vocab));
        if (head->whole == NULL || head->scratch == NULL) {
            err_set(err, ERR_NOMEM, "no memory for a row of %d logits", head->n_vocab);
            goto destroy_head;
        }
    }
    *ret = head;
    return 0;
destroy_head:
    exec_head_destroy(head);
    return -1;
}

void exec_head_destroy(struct exec_head *head) {
    if (head == NULL)
        return;
    free(head->rows);
    free(head->padded);
    free(head->gathered);
    free(head->whole);
    free(head->scratch);
    free(head);
}

int exec_head_first_logit(const struct exec_entry *entry, const struct exec_slot *slot) {
    /* Position p tells of token p + 1, so prompt positions up to n_prompt - 2 have a log-probability to give. */
    if (slot->sampling.n_prompt_logprobs >= 0 && entry->position < slot->sampling.n_prompt - 1)
        return 0;
    return entry->samples ? entry->n_tokens - 1 : entry->n_tokens;
}

float *exec_head_rows(struct exec_head *head, int n_rows) {
    size_t floats = (size_t)n_rows * (size_t)head->part_len[head->index];
    if (floats > head->cap_rows_floats) {
        free(head->rows);
        head->rows = malloc(floats * sizeof *head->rows);
        head->cap_rows_floats = head->rows == NULL ? 0 : floats;
    }
    return head->rows;
}

/* Each part's best, gathered: *ret_tokens[n_rows] on the first member. Lower ids win among equals, as in one arg max. */
static int gather_best(struct exec_head *head, const float *logits, int n_rows, int32_t *ret_tokens, struct err *err) {
    int part_len = head->part_len[head->index];
    struct best *mine = malloc((size_t)n_rows * sizeof *mine);
    struct best *all = malloc((size_t)n_rows * (size_t)head->n_members * sizeof *all);
    int result = -1;
    if (mine == NULL || all == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %d candidates", n_rows);
        goto free_both;
    }
    for (int r = 0; r < n_rows; r++) {
        mine[r] = (struct best){-INFINITY, head->n_vocab};
        if (part_len > 0)
            mine[r].token = head->part_begin[head->index] + kernels_argmax(logits + (size_t)r * (size_t)part_len, part_len, &mine[r].logit);
    }
    if (comm_gather(head->group, 0, mine, (size_t)n_rows * sizeof *mine, all, err) != 0)
        goto free_both;
    if (head->index == 0)
        for (int r = 0; r < n_rows; r++) {
            struct best best = all[r];
            for (int m = 1; m < head->n_members; m++) {
                const struct best *other = &all[(size_t)m * (size_t)n_rows + (size_t)r];
                if (other->logit > best.logit || (other->logit == best.logit && other->token < best.token))
                    best = *other;
            }
            ret_tokens[r] = best.token < head->n_vocab ? best.token : 0;
        }
    result = 0;
free_both:
    free(mine);
    free(all);
    return result;
}

/* Brings all rows, padded to the longest part, to the first member. */
static int gather_rows(struct exec_head *head, const float *logits, int n_rows, struct err *err) {
    size_t part_len = (size_t)head->part_len[head->index], most = (size_t)head->part_most;
    size_t floats = (size_t)n_rows * most;
    if (floats > head->cap_padded_floats) {
        free(head->padded);
        free(head->gathered);
        head->padded = calloc(floats, sizeof *head->padded);
        head->gathered = head->index == 0 ? malloc(floats * (size_t)head->n_members * sizeof *head->gathered) : NULL;
        head->cap_padded_floats = floats;
        if (head->padded == NULL || (head->index == 0 && head->gathered == NULL)) {
            head->cap_padded_floats = 0;
            return err_set(err, ERR_NOMEM, "no memory for %d rows of logits", n_rows);
        }
    }
    for (int r = 0; r < n_rows; r++)
        memcpy(head->padded + (size_t)r * most, logits + (size_t)r * part_len, part_len * sizeof *logits);
    return comm_gather(head->group, 0, head->padded, floats * sizeof *head->padded, head->gathered, err);
}

static float *whole_row(struct exec_head *head, float *logits, int n_rows, int row) {
    if (head->n_members == 1)
        return logits + (size_t)row * (size_t)head->n_vocab;
    for (int m = 0; m < head->n_members; m++)
        memcpy(head->whole + head->part_begin[m], head->gathered + ((size_t)m * (size_t)n_rows + (size_t)row) * (size_t)head->part_most,
               (size_t)head->part_len[m] * sizeof *head->whole);
    return head->whole;
}

static void emit_prompt_logprobs(struct exec_head *head, const struct exec_entry *e, int index, const struct exec_slot *slot, int position,
                                 const float *row, struct exec_result *ret) {
    int32_t token = position + 1 < e->position + e->n_tokens ? slot->tokens[position + 1] : e->next_token;
    if (position + 1 >= slot->sampling.n_prompt || token < 0 || token >= head->n_vocab)
        return;
    struct exec_token *out = &ret->tokens[ret->n_tokens++];
    *out = (struct exec_token){.entry = index, .index = position + 1, .token = token, .is_prompt = true, .has_logprobs = true};
    exec_logprobs_of(row, head->n_vocab, token, slot->sampling.n_prompt_logprobs, &out->logprobs);
}

static void emit_sample(struct exec_head *head, const struct exec_entry *e, int index, const struct exec_slot *slot, float *row,
                        struct exec_result *ret) {
    const struct exec_sampling *params = &slot->sampling;
    struct exec_token *out = &ret->tokens[ret->n_tokens++];
    *out = (struct exec_token){.entry = index, .index = e->position + e->n_tokens, .has_logprobs = params->n_logprobs >= 0};
    if (!out->has_logprobs) {
        out->token = exec_sample(row, head->n_vocab, params, slot->tokens, slot->n_tokens, head->scratch);
        return;
    }
    /* Sampling changes the row; the log-probabilities are those of the raw one. */
    float *changed = malloc((size_t)head->n_vocab * sizeof *changed);
    if (changed == NULL) {
        out->has_logprobs = false;
        out->token = exec_sample(row, head->n_vocab, params, slot->tokens, slot->n_tokens, head->scratch);
        return;
    }
    memcpy(changed, row, (size_t)head->n_vocab * sizeof *changed);
    out->token = exec_sample(changed, head->n_vocab, params, slot->tokens, slot->n_tokens, head->scratch);
    exec_logprobs_of(row, head->n_vocab, out->token, params->n_logprobs, &out->logprobs);
    free(changed);
}

static bool step_is_plain_greedy(const struct exec_step *step, const struct exec_slots *slots) {
    for (int i = 0; i < step->n_entries; i++)
        if (!exec_sampling_is_plain_greedy(&slots->slots[step->entries[i].slot].sampling))
            return false;
    return true;
}

int exec_head_sample(struct exec_head *head, const struct exec_step *step, const struct exec_slots *slots, float *logits, int n_rows,
                     struct exec_result *ret, struct err *err) {
    struct exec_result result = {.number = step->number};
    *ret = result;
    if (n_rows == 0)
        return 0;
    bool plain_greedy = step_is_plain_greedy(step, slots);
    int32_t *greedy = NULL;
    int status = -1;
    if (head->index == 0) {
        result.tokens = calloc((size_t)n_rows + (size_t)step->n_entries, sizeof *result.tokens);
        greedy = malloc((size_t)n_rows * sizeof *greedy);
        if (result.tokens == NULL || greedy == NULL) {
            err_set(err, ERR_NOMEM, "no memory for a step's tokens");
            goto free_greedy;
        }
    }
    if (plain_greedy ? gather_best(head, logits, n_rows, greedy, err) != 0
                     : head->n_members > 1 && gather_rows(head, logits, n_rows, err) != 0)
        goto free_greedy;
    for (int i = 0, row = 0; head->index == 0 && i < step->n_entries; i++) {
        const struct exec_entry *e = &step->entries[i];
        const struct exec_slot *slot = &slots->slots[e->slot];
        for (int t = exec_head_first_logit(e, slot); t < e->n_tokens; t++, row++) {
            if (plain_greedy) {
                result.tokens[result.n_tokens++] =
                    (struct exec_token){.entry = i, .index = e->position + e->n_tokens, .token = greedy[row]};
                continue;
            }
            float *whole = whole_row(head, logits, n_rows, row);
            if (slot->sampling.n_prompt_logprobs >= 0)
                emit_prompt_logprobs(head, e, i, slot, e->position + t, whole, &result);
            if (e->samples && t == e->n_tokens - 1)
                emit_sample(head, e, i, slot, whole, &result);
        }
    }
    *ret = result;
    result.tokens = NULL;
    status = 0;
free_greedy:
    free(greedy);
    exec_result_finish(&result);
    return status;
}
