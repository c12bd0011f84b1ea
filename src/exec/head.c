/* Sampling over a vocabulary in parts; see head.h. */
#include "exec/head.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "exec/candidates.h"
#include "kernels/matrix.h"

_Static_assert(KERNELS_PANEL_ROWS % EXEC_PANEL_TOKENS == 0, "parts of the vocabulary begin where panels of tokens begin");

enum { WHOLE_AT_ONCE = 8 /* rows that travel whole in one exchange: bounds its memory */ };

/* A wanted row of the step. */
struct row {
    struct exec_ask ask;
    int entry, index; /* in the step; of the wanted token in the sequence */
    size_t at;        /* of its part in the exchange */
};

/* What becomes of a row: from the first member to all. token -1: the whole row is needed. */
struct verdict {
    int32_t token;
    float raw; /* its raw logit, where log-probabilities are wanted */
};

struct buffer {
    void *bytes;
    size_t cap_bytes;
};

struct exec_head {
    struct team *team;
    struct comm_group *group;
    int n_members, index;
    int n_vocab;
    int part_begin[COMM_MAX_RANKS], part_len[COMM_MAX_RANKS]; /* by group index */
    int part_most;                /* longest part: whole rows travel padded to it */
    struct exec_workspace *space; /* [team size] */
    struct buffer logits, rows, verdicts, mine, all, counts, whole_mine, whole_all, whole;
    struct exec_head_traffic traffic;
};

int exec_head_create(const struct model_config *config, const struct model_split *split, struct team *team, struct comm_group *group,
                     struct exec_head **ret, struct err *err) {
    struct exec_head *head = calloc(1, sizeof *head);
    if (head == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the output head");
    head->team = team;
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
        int rank = split->pp_rank * split->tp_size + i;
        if (model_split_compute(config, split->tp_size, split->pp_size, split->expert_parallel, layers, rank, &part, err) != 0)
            goto destroy_head;
        head->part_begin[i] = part.vocab_begin;
        head->part_len[i] = part.vocab_len;
        if (part.vocab_len > head->part_most)
            head->part_most = part.vocab_len;
    }
    head->space = calloc((size_t)team_size(team), sizeof *head->space);
    bool has_memory = head->space != NULL;
    for (int t = 0; has_memory && t < team_size(team); t++)
        has_memory = exec_workspace_init(&head->space[t], head->part_most) == 0;
    if (!has_memory) {
        err_set(err, ERR_NOMEM, "no memory for sampling from %d tokens on %d threads", head->part_most, team_size(team));
        goto destroy_head;
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
    for (int t = 0; head->space != NULL && t < team_size(head->team); t++)
        exec_workspace_finish(&head->space[t]);
    free(head->space);
    free(head->logits.bytes);
    free(head->rows.bytes);
    free(head->verdicts.bytes);
    free(head->mine.bytes);
    free(head->all.bytes);
    free(head->counts.bytes);
    free(head->whole_mine.bytes);
    free(head->whole_all.bytes);
    free(head->whole.bytes);
    free(head);
}

struct exec_head_traffic exec_head_traffic(const struct exec_head *head) { return head->traffic; }

static int no_memory(int n_rows, struct err *err) {
    return err_set(err, ERR_NOMEM, "no memory for sampling from %d rows of logits", n_rows);
}

/* What was in the buffer is lost when it grows. NULL when memory is out. */
static void *reserve(struct buffer *buffer, size_t bytes) {
    if (bytes > buffer->cap_bytes) {
        free(buffer->bytes);
        buffer->bytes = malloc(bytes);
        buffer->cap_bytes = buffer->bytes == NULL ? 0 : bytes;
    }
    return buffer->bytes;
}

int exec_head_first_logit(const struct exec_entry *entry, const struct exec_slot *slot) {
    /* Position p tells of token p + 1, so prompt positions up to n_prompt - 2 have a log-probability to give. */
    if (slot->sampling.n_prompt_logprobs >= 0 && entry->position < slot->sampling.n_prompt - 1)
        return 0;
    return entry->samples ? entry->n_tokens - 1 : entry->n_tokens;
}

float *exec_head_rows(struct exec_head *head, int n_rows) {
    return reserve(&head->logits, ((size_t)n_rows * (size_t)head->part_len[head->index] + 1) * sizeof(float));
}

static int gather(struct exec_head *head, const void *bytes, size_t len_bytes, void *all, struct err *err) {
    head->traffic.bytes += head->n_members > 1 ? len_bytes : 0;
    return comm_gather(head->group, 0, bytes, len_bytes, all, err);
}

static int broadcast(struct exec_head *head, void *bytes, size_t len_bytes, struct err *err) {
    head->traffic.bytes += head->n_members > 1 && head->index == 0 ? len_bytes : 0;
    return comm_broadcast(head->group, 0, bytes, len_bytes, err);
}

/* One call of exec_head_sample. */
struct run {
    struct exec_head *head;
    const struct exec_step *step;
    const struct exec_slots *slots;
    const float *logits;
    int n_rows;
    struct row *rows;
    struct verdict *verdicts;
    size_t part_bytes;    /* of all rows' parts */
    char *mine;           /* this member's parts */
    const char *all;      /* first member: [members][part_bytes] */
    int32_t *counts, *all_counts; /* [n_rows] of this member; first member: [members][n_rows] */
    /* Rows that are needed whole, some at a time. */
    int whole_rows[WHOLE_AT_ONCE], n_whole;
    size_t whole_floats;          /* of one row of one member: its logits, padded, and as many raw ones where they are wanted */
    float *whole_mine, *whole_all, *whole; /* [n_whole][whole_floats]; first member: [members] of those; [n_whole][n_vocab] */
    /* What is being done to each of n_items. */
    void (*do_item)(struct run *run, int item, struct exec_workspace *space);
    int n_items;
    atomic_bool is_out_of_memory;
};

static const float *row_logits(const struct run *run, int row) {
    return run->logits + (size_t)row * (size_t)run->head->part_len[run->head->index];
}

/* Every member's part of a row, on the first. */
static void row_parts(const struct run *run, int row, const void **ret_parts) {
    for (int m = 0; m < run->head->n_members; m++)
        ret_parts[m] = run->all + (size_t)m * run->part_bytes + run->rows[row].at;
}

static void items_on_thread(void *arg, int thread) {
    struct run *run = arg;
    for (int item; (item = team_take(run->head->team)) < run->n_items;)
        run->do_item(run, item, &run->head->space[thread]);
}

/* Does n items, rows as a rule, on all threads of the team where it is worth waking them. */
static int for_each(struct run *run, int n, bool is_light, void (*do_item)(struct run *run, int item, struct exec_workspace *space),
                    struct err *err) {
    run->do_item = do_item;
    run->n_items = n;
    if (is_light || n == 1 || team_size(run->head->team) == 1)
        for (int item = 0; item < n; item++)
            do_item(run, item, &run->head->space[0]);
    else
        team_run(run->head->team, items_on_thread, run);
    return atomic_load(&run->is_out_of_memory) ? no_memory(run->n_rows, err) : 0;
}

/* The known token behind a position, -1 where there is none whose log-probability is wanted. */
static int32_t prompt_token(const struct exec_head *head, const struct exec_entry *e, const struct exec_slot *slot, int position) {
    int32_t token = position + 1 < e->position + e->n_tokens ? slot->tokens[position + 1] : e->next_token;
    return position + 1 < slot->sampling.n_prompt && token >= 0 && token < head->n_vocab ? token : -1;
}

/* Lists the wanted rows: the same on every member. */
static void list_rows(struct run *run) {
    int row = 0;
    for (int i = 0; i < run->step->n_entries; i++) {
        const struct exec_entry *e = &run->step->entries[i];
        const struct exec_slot *slot = &run->slots->slots[e->slot];
        for (int t = exec_head_first_logit(e, slot); t < e->n_tokens; t++) {
            bool is_sample = e->samples && t == e->n_tokens - 1;
            struct row *r = &run->rows[row++];
            *r = (struct row){.entry = i, .index = e->position + t + 1, .at = run->part_bytes};
            r->ask = is_sample ? exec_ask_sample(&slot->sampling, slot->tokens, slot->n_tokens)
                               : exec_ask_prompt(&slot->sampling, prompt_token(run->head, e, slot, e->position + t));
            run->part_bytes += exec_part_bytes(&r->ask);
        }
    }
}

static void fill_row(struct run *run, int row, struct exec_workspace *space) {
    const struct exec_head *head = run->head;
    if (exec_part_fill(&run->rows[row].ask, row_logits(run, row), head->part_begin[head->index], head->part_len[head->index], space,
                       run->mine + run->rows[row].at) != 0)
        atomic_store(&run->is_out_of_memory, true);
}

static void choose_row(struct run *run, int row, struct exec_workspace *space) {
    const struct exec_ask *ask = &run->rows[row].ask;
    const void *parts[COMM_MAX_RANKS];
    row_parts(run, row, parts);
    if (ask->tokens == NULL) {
        run->verdicts[row] = (struct verdict){ask->known_token < 0 ? 0 : ask->known_token, exec_raw_known(parts, run->head->n_members)};
        return;
    }
    struct exec_candidate chosen = {0};
    int found = exec_choose(ask, parts, run->head->n_members, space, &chosen);
    if (found == 0 && run->head->n_members == 1) { /* the whole row is here */
        exec_row_finish(ask, row_logits(run, row), 0, run->head->n_vocab, space, space->row);
        found = exec_choose_whole(ask, space->row, run->head->n_vocab, space, &chosen) == 0 ? 1 : -1;
        chosen.raw = row_logits(run, row)[chosen.token];
    }
    run->verdicts[row] = (struct verdict){found == 1 ? chosen.token : -1, chosen.raw};
    if (found < 0)
        atomic_store(&run->is_out_of_memory, true);
}

static void finish_whole_row(struct run *run, int item, struct exec_workspace *space) {
    const struct exec_head *head = run->head;
    int row = run->whole_rows[item], len = head->part_len[head->index];
    float *mine = run->whole_mine + (size_t)item * run->whole_floats;
    memset(mine, 0, run->whole_floats * sizeof *mine);
    exec_row_finish(&run->rows[row].ask, row_logits(run, row), head->part_begin[head->index], len, space, mine);
    if (run->whole_floats > (size_t)head->part_most)
        memcpy(mine + head->part_most, row_logits(run, row), (size_t)len * sizeof *mine);
}

static void choose_whole_row(struct run *run, int item, struct exec_workspace *space) {
    const struct exec_head *head = run->head;
    const struct exec_ask *ask = &run->rows[run->whole_rows[item]].ask;
    float *whole = run->whole + (size_t)item * (size_t)head->n_vocab, raw = 0;
    struct exec_candidate chosen;
    for (int m = 0; m < head->n_members; m++)
        memcpy(whole + head->part_begin[m], run->whole_all + (size_t)(m * run->n_whole + item) * run->whole_floats,
               (size_t)head->part_len[m] * sizeof *whole);
    if (exec_choose_whole(ask, whole, head->n_vocab, space, &chosen) != 0) {
        atomic_store(&run->is_out_of_memory, true);
        return;
    }
    for (int m = 0; m < head->n_members && ask->wants_logprobs; m++) {
        int place = chosen.token - head->part_begin[m];
        if (place >= 0 && place < head->part_len[m])
            raw = run->whole_all[(size_t)(m * run->n_whole + item) * run->whole_floats + (size_t)(head->part_most + place)];
    }
    run->verdicts[run->whole_rows[item]] = (struct verdict){chosen.token, raw};
}

/* Brings the rows in whole_rows together on the first member, which chooses from them. */
static int choose_from_whole(struct run *run, struct err *err) {
    struct exec_head *head = run->head;
    size_t n = (size_t)run->n_whole;
    run->whole_floats = (size_t)head->part_most;
    for (int i = 0; i < run->n_whole; i++)
        if (run->rows[run->whole_rows[i]].ask.wants_logprobs)
            run->whole_floats = 2 * (size_t)head->part_most;
    size_t len_bytes = n * run->whole_floats * sizeof(float);
    run->whole_mine = reserve(&head->whole_mine, len_bytes);
    run->whole_all = reserve(&head->whole_all, head->index == 0 ? len_bytes * (size_t)head->n_members : 1);
    run->whole = reserve(&head->whole, head->index == 0 ? n * (size_t)head->n_vocab * sizeof(float) : 1);
    if (run->whole_mine == NULL || run->whole_all == NULL || run->whole == NULL)
        return no_memory(run->n_whole, err);
    head->traffic.whole_rows += n;
    if (for_each(run, run->n_whole, false, finish_whole_row, err) != 0 ||
        gather(head, run->whole_mine, len_bytes, run->whole_all, err) != 0)
        return -1;
    return head->index == 0 ? for_each(run, run->n_whole, false, choose_whole_row, err) : 0;
}

/* least: -1 while whole rows may still be asked for, then 0. */
static int broadcast_verdicts(struct run *run, int32_t least, struct err *err) {
    if (broadcast(run->head, run->verdicts, (size_t)run->n_rows * sizeof *run->verdicts, err) != 0)
        return -1;
    for (int row = 0; row < run->n_rows; row++)
        if (run->verdicts[row].token < least || run->verdicts[row].token >= run->head->n_vocab)
            return err_set(err, ERR_PEER, "the first rank chose token %d; the model has %d", run->verdicts[row].token, run->head->n_vocab);
    return 0;
}

/* Everybody gets to know every row's token, and where log-probabilities are wanted its raw logit. */
static int choose_tokens(struct run *run, struct err *err) {
    struct exec_head *head = run->head;
    bool is_light = true, has_whole = false;
    for (int row = 0; row < run->n_rows; row++)
        is_light = is_light && run->rows[row].ask.n_candidates <= 1;
    if (gather(head, run->mine, run->part_bytes, (char *)run->all, err) != 0 ||
        (head->index == 0 && for_each(run, run->n_rows, is_light, choose_row, err) != 0) || broadcast_verdicts(run, -1, err) != 0)
        return -1;
    for (int row = 0; row < run->n_rows;) {
        run->n_whole = 0;
        for (; row < run->n_rows && run->n_whole < WHOLE_AT_ONCE; row++)
            if (run->verdicts[row].token < 0)
                run->whole_rows[run->n_whole++] = row;
        if (run->n_whole > 0 && choose_from_whole(run, err) != 0)
            return -1;
        has_whole = has_whole || run->n_whole > 0;
    }
    return has_whole ? broadcast_verdicts(run, 0, err) : 0;
}

static bool wants_logprobs(const struct run *run, int row) {
    const struct exec_ask *ask = &run->rows[row].ask;
    return ask->wants_logprobs && (ask->tokens != NULL || ask->known_token >= 0);
}

static void count_row(struct run *run, int row, struct exec_workspace *space) {
    (void)space;
    run->counts[row] = wants_logprobs(run, row)
                           ? exec_count_above(row_logits(run, row), run->head->part_len[run->head->index], run->verdicts[row].raw)
                           : 0;
}

/* Counts the tokens that are more likely than each chosen one: their sum over the parts is its rank. */
static int count_ranks(struct run *run, struct err *err) {
    struct exec_head *head = run->head;
    size_t n = (size_t)run->n_rows;
    bool is_wanted = false;
    for (int row = 0; row < run->n_rows; row++)
        is_wanted = is_wanted || wants_logprobs(run, row);
    if (!is_wanted)
        return 0;
    run->all_counts = reserve(&head->counts, n * (size_t)(head->n_members + 1) * sizeof *run->all_counts);
    if (run->all_counts == NULL)
        return no_memory(run->n_rows, err);
    run->counts = run->all_counts + n * (size_t)head->n_members;
    if (for_each(run, run->n_rows, false, count_row, err) != 0)
        return -1;
    return gather(head, run->counts, n * sizeof *run->counts, run->all_counts, err);
}

static void emit_row(const struct run *run, int row, struct exec_result *result) {
    const struct row *r = &run->rows[row];
    bool is_sample = r->ask.tokens != NULL, has_logprobs = run->head->index == 0 && wants_logprobs(run, row);
    if (!is_sample && !has_logprobs)
        return;
    struct exec_token *out = &result->tokens[result->n_tokens++];
    *out = (struct exec_token){
        .entry = r->entry, .index = r->index, .token = run->verdicts[row].token, .is_prompt = !is_sample, .has_logprobs = has_logprobs};
    if (!has_logprobs)
        return;
    const void *parts[COMM_MAX_RANKS];
    row_parts(run, row, parts);
    exec_logprobs_merge(&r->ask, parts, run->head->n_members, run->verdicts[row].raw, &out->logprobs);
    for (int m = 0; m < run->head->n_members; m++)
        out->logprobs.rank += run->all_counts[m * run->n_rows + row];
}

int exec_head_sample(struct exec_head *head, const struct exec_step *step, const struct exec_slots *slots, const float *logits, int n_rows,
                     struct exec_result *ret, struct err *err) {
    struct run run = {.head = head, .step = step, .slots = slots, .logits = logits, .n_rows = n_rows};
    struct exec_result result = {.number = step->number};
    *ret = result;
    if (n_rows == 0)
        return 0;
    run.rows = reserve(&head->rows, (size_t)n_rows * sizeof *run.rows);
    run.verdicts = reserve(&head->verdicts, (size_t)n_rows * sizeof *run.verdicts);
    result.tokens = calloc((size_t)n_rows, sizeof *result.tokens);
    if (run.rows == NULL || run.verdicts == NULL || result.tokens == NULL) {
        no_memory(n_rows, err);
        goto finish_result;
    }
    list_rows(&run);
    run.mine = reserve(&head->mine, run.part_bytes);
    run.all = reserve(&head->all, head->index == 0 ? run.part_bytes * (size_t)head->n_members : 1);
    if (run.mine == NULL || run.all == NULL) {
        no_memory(n_rows, err);
        goto finish_result;
    }
    if (for_each(&run, n_rows, false, fill_row, err) != 0 || choose_tokens(&run, err) != 0 || count_ranks(&run, err) != 0)
        goto finish_result;
    for (int row = 0; row < n_rows; row++)
        emit_row(&run, row, &result);
    *ret = result;
    return 0;
finish_result:
    exec_result_finish(&result);
    return -1;
}
