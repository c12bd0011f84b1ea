/*
 * What the driver tells the ranks to compute in one step, what comes back, and both as frame bodies (docs/wire.md).
 * Everything that a rank needs is in the frames: a sequence's slot keeps only its block table, tokens and sampling
 * parameters between steps, and a fresh entry starts a slot anew.
 */
#ifndef EXEC_STEP_H
#define EXEC_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "exec/sampling.h"

enum { EXEC_MAX_SEQS = 1024, EXEC_MAX_STEP_TOKENS = 65536, EXEC_MAX_CONTEXT = 1 << 20 };
enum { EXEC_TOKEN_SAMPLED = -1 }; /* the token that the slot sampled in its latest step: the driver does not know it yet */

struct exec_entry {
    int32_t slot;
    bool fresh;    /* a new sequence: `sampling` is sent along */
    bool samples;  /* the next token is wanted */
    int32_t position, n_tokens;
    const int32_t *cached;      /* when fresh: [position] the tokens before, whose keys and values are in the blocks already */
    const int32_t *tokens;      /* [n_tokens]; a single one may be EXEC_TOKEN_SAMPLED (only with one pipeline stage) */
    int32_t first_block, n_new_blocks; /* the block table from first_block on */
    const int32_t *new_blocks;
    int32_t next_token;         /* the known token behind this chunk (for its log-probability), -1: none */
    const struct exec_sampling *sampling; /* when fresh */
};

struct exec_step {
    uint64_t number; /* counts from 1, without gaps */
    int n_entries, n_tokens;
    struct exec_entry *entries;
};

/* Appends the body of a STEP frame. Returns 0, or -1 when `out` failed. */
int exec_step_encode(const struct exec_step *step, struct buf *out);
/* Pointers in *ret go into `body` and into memory that *ret owns: keep body until exec_step_finish. Malformed bytes are ERR_PEER. */
int exec_step_decode(const struct buf *body, struct exec_step *ret, struct err *err);
void exec_step_finish(struct exec_step *step);

/* One sampled token, or the log-probabilities of one prompt token. */
struct exec_token {
    int32_t entry;  /* index in the step */
    int32_t index;  /* its index in the sequence */
    int32_t token;
    bool is_prompt, has_logprobs;
    struct exec_logprobs logprobs;
};

struct exec_result {
    uint64_t number; /* of the step */
    int64_t compute_ns; /* on the last stage */
    int n_tokens;
    struct exec_token *tokens; /* owned */
};

int exec_result_encode(const struct exec_result *result, struct buf *out);
int exec_result_decode(const struct buf *body, struct exec_result *ret, struct err *err);
void exec_result_finish(struct exec_result *result);

#endif
