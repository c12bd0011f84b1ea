/*
 * From a step's logits to its tokens, on the ranks of the last stage: each part of the vocabulary tells its candidates, the group's first
 * member merges them and tells the tokens to all. Whole rows travel only where candidates do not suffice (candidates.h).
 * Owned by one rank's thread; rows are shared among the threads of its team.
 */
#ifndef EXEC_HEAD_H
#define EXEC_HEAD_H

#include "base/team.h"
#include "comm/group.h"
#include "exec/slots.h"
#include "model/split.h"

struct exec_head;

/* config and split decide the parts. team and group are borrowed. */
int exec_head_create(const struct model_config *config, const struct model_split *split, struct team *team, struct comm_group *group,
                     struct exec_head **ret, struct err *err);
void exec_head_destroy(struct exec_head *head); /* accepts NULL */

/* First position of the entry's chunk whose logits are wanted: n_tokens for none. slot: after the entry was applied. */
int exec_head_first_logit(const struct exec_entry *entry, const struct exec_slot *slot);

/* Room for n_rows rows of this rank's part [n_rows, vocab_len], valid until the next call; NULL when memory is out. */
float *exec_head_rows(struct exec_head *head, int n_rows);

/*
 * Every member calls it with its rows, in step order, from the team's thread 0 outside of team_run. *ret (exec_result_finish it) gets one
 * token for each entry that samples, in their order, the same on all members, and the log-probabilities that are wanted, on the first
 * member alone. Not blocking but for the other members.
 */
int exec_head_sample(struct exec_head *head, const struct exec_step *step, const struct exec_slots *slots, const float *logits, int n_rows,
                     struct exec_result *ret, struct err *err);

/* Bytes that this member has put into exchanges, and rows that had to travel whole, since exec_head_create. */
struct exec_head_traffic {
    uint64_t bytes, whole_rows;
};
struct exec_head_traffic exec_head_traffic(const struct exec_head *head);

#endif
