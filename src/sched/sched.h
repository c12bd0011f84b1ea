/*
 * The scheduler: which sequences compute which tokens in the next step. Pure logic: no I/O, no clock, no threads; the
 * same calls give the same plans. Owned by the engine thread.
 *
 * A sequence is WAITING (no slot, no blocks), RUNNING (a slot, blocks for what is computed) or DONE. Its tokens
 * [0, n_scheduled) have been put into steps or were found in the prefix cache; it can be scheduled whenever
 * n_scheduled < n_tokens. A step that reaches the last token samples the next one, which comes back through
 * sched_seq_append. So prompts in chunks, decode and recomputation after preemption are one rule.
 *
 * Running ahead. With max_awaited 2 a sequence may be put into the next step while its latest sample is still under way: the token
 * is SCHED_UNKNOWN in that entry, and the ranks take what they sampled themselves. When the sample then turns out to
 * end the sequence, the step that ran ahead computes one row for nothing, and sched_seq_append drops its token.
 *
 * Order. Steps may overlap. Every rank computes steps in the order in which they were planned, so blocks and slots can be given
 * to another sequence as soon as their owner leaves, while a step that reads them is under way. For the same reason a full block
 * can be shared as soon as the step that fills it has been planned, even within that step (the ranks store all keys and
 * values of a layer before they read any): whoever reads it is computed with it or after it. A step that was planned is always computed,
 * so neither the end nor the preemption of the sequence that fills a block takes the content away. A block that ends in a token
 * still under way is published when that token is known.
 *
 * Prefix cache. Only full blocks are shared, and at least one token of a sequence is always computed, so nobody writes into a shared
 * block. Blocks of an ended or preempted sequence stay findable until they are needed, its last ones being taken first.
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum sched_policy { SCHED_FCFS, SCHED_PRIORITY };

enum { SCHED_UNKNOWN = -1 }; /* a token whose sample is under way */
enum { SCHED_MIXED_AUTO = -1, SCHED_MIXED_LEAST = 16, SCHED_MIXED_MOST = 32 };

struct sched_opts {
    int max_seqs;        /* slots: most RUNNING sequences */
    int max_step_tokens; /* token budget of a step */
    int max_mixed_tokens; /* prompt tokens in a step that others decode in, who wait for them; 0: as many as the budget has;
                             SCHED_MIXED_AUTO: two for each of the others, at least SCHED_MIXED_LEAST and at most SCHED_MIXED_MOST, but the whole
                             budget while more sequences wait for their prompts than for the tokens that follow */
    int max_model_len;   /* most tokens of a sequence */
    int block_size;      /* tokens in a KV block */
    int n_blocks;
    int n_stages;        /* steps that should be under way at once: ready sequences are spread over them */
    int max_awaited;     /* samples of a sequence that may be under way: 1, or 2 to run ahead of the latest */
    bool prefix_caching;
    enum sched_policy policy;
};

enum sched_state { SCHED_WAITING, SCHED_RUNNING, SCHED_DONE };

/* Read by the engine, written by the scheduler alone. */
struct sched_seq {
    void *owner;          /* the engine's, untouched */
    enum sched_state state;
    int priority;         /* lower first, with SCHED_PRIORITY */
    uint64_t number;      /* order of arrival */
    int32_t *tokens;      /* [cap_tokens] prompt, then what was generated */
    int n_tokens, n_prompt, cap_tokens;
    int n_scheduled;      /* tokens that were put into steps since the last admission, or found in the cache then */
    int n_awaited;        /* samples asked for that have not come back */
    int slot;             /* RUNNING: its slot on the ranks, else -1 */
    int32_t *blocks;      /* [n_blocks] block table, covers the scheduled tokens */
    int n_blocks, cap_blocks;
    int n_preemptions;
    uint64_t root;        /* of its blocks' identities: the cache salt */
    bool skips_cache;     /* computes all of its prompt */
    int n_cached;         /* tokens that were found in the cache at its first admission */
    int n_published;      /* blocks whose content is known to the cache, here or in an equal block */
    uint64_t last_id;     /* identity of the last of them, or root */
    uint64_t planned;     /* number of the plan that last held it */
    bool fresh;           /* admitted, but in no step yet: the ranks know nothing of it */
    struct sched_seq *prev, *next; /* in the waiting or the running list */
};

struct sched;

int sched_create(const struct sched_opts *opts, struct sched **ret, struct err *err);
void sched_destroy(struct sched *sched); /* frees what is WAITING or RUNNING; DONE sequences are their owner's. Accepts NULL */

struct sched_request {
    const int32_t *prompt; /* [n_prompt], copied */
    int n_prompt;          /* ≥ 1 */
    int max_tokens;        /* the sequence will never grow past that many, prompt included */
    int priority;
    uint64_t root;         /* sched_blocks_root of the cache salt */
    bool skips_cache;      /* its log-probabilities of prompt tokens are wanted: all are computed */
    void *owner;
};

/* Takes a new sequence. ERR_INVALID, with the numbers, when it can never fit. */
int sched_seq_add(struct sched *sched, const struct sched_request *request, struct sched_seq **ret, struct err *err);
/* The sampled token of a step that had `samples` set for this sequence. Nothing happens to a DONE one but the count. */
void sched_seq_append(struct sched *sched, struct sched_seq *seq, int32_t token);
/* Ends a sequence in any state: slot and blocks are free at once. */
void sched_seq_end(struct sched *sched, struct sched_seq *seq);
/* True when DONE and no sample is awaited: sched_seq_free may be called. */
bool sched_seq_idle(const struct sched_seq *seq);
void sched_seq_free(struct sched *sched, struct sched_seq *seq);

/* One sequence's part of a planned step. */
struct sched_entry {
    struct sched_seq *seq;
    int slot;
    bool fresh;           /* first entry since admission: the ranks forget what the slot held; tokens before position are cached */
    int position;         /* of the first token */
    int n_tokens;         /* tokens [position, position + n_tokens) of seq->tokens; a single one may be SCHED_UNKNOWN */
    int first_new_block;  /* blocks [first_new_block, n_blocks) of seq->blocks are new to the ranks */
    int n_blocks;
    bool samples;         /* reaches the last token: the next one is sampled */
};

struct sched_plan {
    struct sched_entry *entries; /* owned by the scheduler, valid until the next plan */
    int n_entries;
    int n_tokens;
};

/* Plans the next step. n_open ≥ 1: steps that may be planned before a result comes, this one included. False when nothing can be computed now. */
bool sched_plan_next(struct sched *sched, int n_open, struct sched_plan *ret);

/* Forgets all cached content. False, and nothing happens, while sequences hold blocks. */
bool sched_cache_reset(struct sched *sched);

int sched_n_running(const struct sched *sched);
int sched_n_waiting(const struct sched *sched);
int sched_n_free_blocks(const struct sched *sched); /* idle cached ones included */
uint64_t sched_n_preemptions(const struct sched *sched);
/* Tokens that first admissions looked for in the cache, and those that were found. */
void sched_cache_counts(const struct sched *sched, uint64_t *ret_queries, uint64_t *ret_hits);

#endif
