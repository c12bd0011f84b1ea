/*
 * What a rank remembers of the sequences between steps: per slot the block table, the tokens and the sampling parameters.
 * Owned by one rank's thread.
 */
#ifndef EXEC_SLOTS_H
#define EXEC_SLOTS_H

#include "base/err.h"
#include "exec/step.h"

struct exec_slot {
    int32_t *blocks; /* [cap_blocks] */
    int n_blocks;
    int32_t *tokens; /* [max_model_len]: all that has been in steps, or was cached */
    int n_tokens;
    int32_t sampled; /* the latest sample and its index in the sequence; -1: none */
    int sampled_index;
    struct exec_sampling sampling;
};

struct exec_slots {
    int n_slots, cap_blocks, max_model_len, block_size, n_blocks;
    struct exec_slot *slots; /* memory of a slot comes with its first use */
};

int exec_slots_init(struct exec_slots *slots, int n_slots, int max_model_len, int block_size, int n_blocks, struct err *err);
void exec_slots_finish(struct exec_slots *slots);

/*
 * Applies an entry. A step that does not fit what the slot holds (a gap in the positions, a block that does not exist, a table that does
 * not cover the tokens, EXEC_TOKEN_SAMPLED without a sample for that place) is ERR_PEER and changes nothing.
 */
int exec_slots_apply(struct exec_slots *slots, const struct exec_entry *entry, struct err *err);
/* Keeps what an applied entry sampled, for a next entry that says EXEC_TOKEN_SAMPLED. */
void exec_slots_keep_sample(struct exec_slots *slots, const struct exec_entry *entry, int32_t token);

#endif
