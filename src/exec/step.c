/* STEP and RESULT frame bodies; see step.h. Little-endian, as every machine that shoal runs on. */
#include "exec/step.h"

#include <stdlib.h>
#include <string.h>

/* Fixed parts as they travel; arrays follow in the order of their counts. Every field is 4 or 8 bytes: no padding. */
struct wire_step {
    uint64_t number;
    uint32_t n_entries, n_tokens;
};
struct wire_entry {
    int32_t slot, flags, position, n_tokens, first_block, n_new_blocks, next_token;
};
enum { ENTRY_FRESH = 1, ENTRY_SAMPLES = 2 };
/* The fixed head of exec_sampling travels as it is; the lists follow, only what is in them. */
enum { SAMPLING_HEAD_BYTES = offsetof(struct exec_sampling, stop_ids) };
struct wire_result {
    uint64_t number;
    int64_t compute_ns;
    uint32_t n_tokens, reserved;
};
struct wire_token {
    int32_t entry, index, token, flags;
    float logprob;
    int32_t rank, n_top;
};
enum { TOKEN_PROMPT = 1, TOKEN_LOGPROBS = 2 };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian");

int exec_step_encode(const struct exec_step *step, struct buf *out) {
    struct wire_step head = {step->number, (uint32_t)step->n_entries, (uint32_t)step->n_tokens};
    buf_append(out, &head, sizeof head);
    for (int i = 0; i < step->n_entries; i++) {
        const struct exec_entry *e = &step->entries[i];
        int32_t flags = (e->fresh ? ENTRY_FRESH : 0) | (e->samples ? ENTRY_SAMPLES : 0);
        struct wire_entry fixed = {e->slot, flags, e->position, e->n_tokens, e->first_block, e->n_new_blocks, e->next_token};
        buf_append(out, &fixed, sizeof fixed);
        if (e->fresh)
            buf_append(out, e->cached, (size_t)e->position * sizeof *e->cached);
        buf_append(out, e->tokens, (size_t)e->n_tokens * sizeof *e->tokens);
        buf_append(out, e->new_blocks, (size_t)e->n_new_blocks * sizeof *e->new_blocks);
        if (e->fresh) {
            buf_append(out, e->sampling, SAMPLING_HEAD_BYTES);
            buf_append(out, e->sampling->stop_ids, (size_t)e->sampling->n_stop_ids * sizeof e->sampling->stop_ids[0]);
            buf_append(out, e->sampling->logprob_ids, (size_t)e->sampling->n_logprob_ids * sizeof e->sampling->logprob_ids[0]);
            buf_append(out, e->sampling->bias, (size_t)e->sampling->n_bias * sizeof e->sampling->bias[0]);
            buf_append(out, e->sampling->allowed, (size_t)e->sampling->n_allowed * sizeof e->sampling->allowed[0]);
            buf_append(out, e->sampling->bad, (size_t)e->sampling->n_bad * sizeof e->sampling->bad[0]);
        }
    }
    return out->failed ? -1 : 0;
}

/* A reader that never passes the end. */
struct reader {
    const char *at;
    size_t left;
};

static const void *take(struct reader *in, size_t n_items, size_t item_bytes) {
    if (n_items > in->left / item_bytes)
        return NULL;
    const void *bytes = in->at;
    in->at += n_items * item_bytes;
    in->left -= n_items * item_bytes;
    return bytes;
}

static bool take_copy(struct reader *in, size_t n_items, size_t item_bytes, void *dst) {
    const void *bytes = take(in, n_items, item_bytes);
    if (bytes == NULL)
        return false;
    memcpy(dst, bytes, n_items * item_bytes);
    return true;
}

static int malformed(const char *what, struct err *err) { return err_set(err, ERR_PEER, "malformed frame: %s", what); }

static bool is_count(int32_t n, int32_t most) { return n >= 0 && n <= most; }

/* The lengths of the bad words must add up to what there is. */
static bool bad_words_fit(const struct exec_sampling *sampling) {
    int32_t at = 0;
    while (at < sampling->n_bad && sampling->bad[at] > 0 && sampling->bad[at] < sampling->n_bad - at)
        at += 1 + sampling->bad[at];
    return at == sampling->n_bad;
}

static int decode_sampling(struct reader *in, struct exec_sampling *sampling, struct err *err) {
    memset(sampling, 0, sizeof *sampling);
    if (!take_copy(in, 1, SAMPLING_HEAD_BYTES, sampling))
        return malformed("sampling parameters are cut off", err);
    if (!is_count(sampling->n_stop_ids, EXEC_MAX_STOP_IDS) || !is_count(sampling->n_logprob_ids, EXEC_MAX_TOP_LOGPROBS) ||
        !is_count(sampling->n_bias, EXEC_MAX_BIAS) || !is_count(sampling->n_allowed, EXEC_MAX_ALLOWED) ||
        !is_count(sampling->n_bad, EXEC_MAX_BAD) || !is_count(sampling->n_prompt, EXEC_MAX_CONTEXT) ||
        sampling->n_logprobs > EXEC_MAX_TOP_LOGPROBS || sampling->n_prompt_logprobs > EXEC_MAX_TOP_LOGPROBS)
        return malformed("sampling parameters out of range", err);
    if (!take_copy(in, (size_t)sampling->n_stop_ids, sizeof sampling->stop_ids[0], sampling->stop_ids) ||
        !take_copy(in, (size_t)sampling->n_logprob_ids, sizeof sampling->logprob_ids[0], sampling->logprob_ids) ||
        !take_copy(in, (size_t)sampling->n_bias, sizeof sampling->bias[0], sampling->bias) ||
        !take_copy(in, (size_t)sampling->n_allowed, sizeof sampling->allowed[0], sampling->allowed) ||
        !take_copy(in, (size_t)sampling->n_bad, sizeof sampling->bad[0], sampling->bad))
        return malformed("sampling parameters are cut off", err);
    if (!bad_words_fit(sampling))
        return malformed("bad words that do not add up", err);
    return 0;
}

static int decode_entry(struct reader *in, struct exec_entry *e, struct err *err) {
    struct wire_entry fixed;
    if (!take_copy(in, 1, sizeof fixed, &fixed))
        return malformed("an entry is cut off", err);
    if (fixed.slot < 0 || fixed.slot >= EXEC_MAX_SEQS || fixed.n_tokens < 1 || fixed.n_tokens > EXEC_MAX_STEP_TOKENS || fixed.position < 0 ||
        fixed.position > EXEC_MAX_CONTEXT - fixed.n_tokens || fixed.first_block < 0 || fixed.first_block > EXEC_MAX_CONTEXT ||
        fixed.n_new_blocks < 0 || fixed.n_new_blocks > EXEC_MAX_CONTEXT)
        return malformed("an entry's numbers are out of range", err);
    *e = (struct exec_entry){.slot = fixed.slot,
                             .fresh = (fixed.flags & ENTRY_FRESH) != 0,
                             .samples = (fixed.flags & ENTRY_SAMPLES) != 0,
                             .position = fixed.position,
                             .n_tokens = fixed.n_tokens,
                             .first_block = fixed.first_block,
                             .n_new_blocks = fixed.n_new_blocks,
                             .next_token = fixed.next_token};
    e->cached = take(in, e->fresh ? (size_t)fixed.position : 0, sizeof *e->cached);
    e->tokens = take(in, (size_t)fixed.n_tokens, sizeof *e->tokens);
    e->new_blocks = take(in, (size_t)fixed.n_new_blocks, sizeof *e->new_blocks);
    if (e->cached == NULL || e->tokens == NULL || e->new_blocks == NULL)
        return malformed("an entry's tokens or blocks are cut off", err);
    if (!e->fresh)
        return 0;
    struct exec_sampling *sampling = malloc(sizeof *sampling);
    if (sampling == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a step");
    e->sampling = sampling;
    return decode_sampling(in, sampling, err);
}

int exec_step_decode(const struct buf *body, struct exec_step *ret, struct err *err) {
    struct reader in = {buf_str(body), body->len_bytes};
    struct wire_step head;
    if (!take_copy(&in, 1, sizeof head, &head))
        return malformed("a step is cut off", err);
    if (head.n_entries < 1 || head.n_entries > EXEC_MAX_SEQS)
        return malformed("a step's number of entries is out of range", err);
    struct exec_step step = {.number = head.number, .entries = calloc(head.n_entries, sizeof *step.entries)};
    if (step.entries == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a step");
    for (; step.n_entries < (int)head.n_entries; step.n_entries++) {
        struct exec_entry *e = &step.entries[step.n_entries];
        if (decode_entry(&in, e, err) != 0) {
            free((void *)e->sampling);
            goto finish_step;
        }
        step.n_tokens += e->n_tokens;
    }
    if (step.n_tokens != (int)head.n_tokens || in.left != 0) {
        malformed("a step's length is not the sum of its parts", err);
        goto finish_step;
    }
    *ret = step;
    return 0;
finish_step:
    exec_step_finish(&step);
    return -1;
}

void exec_step_finish(struct exec_step *step) {
    for (int i = 0; i < step->n_entries; i++)
        free((void *)step->entries[i].sampling);
    free(step->entries);
    *step = (struct exec_step){0};
}

int exec_result_encode(const struct exec_result *result, struct buf *out) {
    struct wire_result head = {result->number, result->compute_ns, (uint32_t)result->n_tokens, 0};
    buf_append(out, &head, sizeof head);
    for (int i = 0; i < result->n_tokens; i++) {
        const struct exec_token *t = &result->tokens[i];
        struct wire_token fixed = {.entry = t->entry,
                                   .index = t->index,
                                   .token = t->token,
                                   .flags = (t->is_prompt ? TOKEN_PROMPT : 0) | (t->has_logprobs ? TOKEN_LOGPROBS : 0)};
        if (t->has_logprobs) {
            fixed.logprob = t->logprobs.logprob;
            fixed.rank = t->logprobs.rank;
            fixed.n_top = t->logprobs.n_top;
        }
        buf_append(out, &fixed, sizeof fixed);
        buf_append(out, t->logprobs.top_ids, (size_t)fixed.n_top * sizeof t->logprobs.top_ids[0]);
        buf_append(out, t->logprobs.top_logprobs, (size_t)fixed.n_top * sizeof t->logprobs.top_logprobs[0]);
    }
    return out->failed ? -1 : 0;
}

int exec_result_decode(const struct buf *body, struct exec_result *ret, struct err *err) {
    struct reader in = {buf_str(body), body->len_bytes};
    struct wire_result head;
    if (!take_copy(&in, 1, sizeof head, &head) || head.n_tokens > in.left / sizeof(struct wire_token))
        return malformed("a result is cut off", err);
    struct exec_result result = {.number = head.number, .compute_ns = head.compute_ns, .n_tokens = (int)head.n_tokens};
    result.tokens = calloc(head.n_tokens > 0 ? head.n_tokens : 1, sizeof *result.tokens);
    if (result.tokens == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a result");
    for (int i = 0; i < result.n_tokens; i++) {
        struct exec_token *t = &result.tokens[i];
        struct wire_token fixed;
        if (!take_copy(&in, 1, sizeof fixed, &fixed) || fixed.n_top < 0 || fixed.n_top > EXEC_MAX_TOP_LOGPROBS)
            goto finish_result;
        *t = (struct exec_token){.entry = fixed.entry,
                                 .index = fixed.index,
                                 .token = fixed.token,
                                 .is_prompt = (fixed.flags & TOKEN_PROMPT) != 0,
                                 .has_logprobs = (fixed.flags & TOKEN_LOGPROBS) != 0,
                                 .logprobs = {.logprob = fixed.logprob, .rank = fixed.rank, .n_top = fixed.n_top}};
        if (!take_copy(&in, (size_t)fixed.n_top, sizeof t->logprobs.top_ids[0], t->logprobs.top_ids) ||
            !take_copy(&in, (size_t)fixed.n_top, sizeof t->logprobs.top_logprobs[0], t->logprobs.top_logprobs))
            goto finish_result;
    }
    if (in.left != 0)
        goto finish_result;
    *ret = result;
    return 0;
finish_result:
    exec_result_finish(&result);
    return malformed("a result's length is not the sum of its parts", err);
}

void exec_result_finish(struct exec_result *result) {
    free(result->tokens);
    *result = (struct exec_result){0};
}
