/*
 * From a step's logits to its tokens, on the ranks of the last stage: the parts of the vocabulary come together on the
 * group's first member, which samples. Greedy steps exchange only each part's best candidate. Owned by one rank's thread.
 */
#ifndef EXEC_HEAD_H
#define EXEC_HEAD_H

#include "comm/group.h"
#include "exec/slots.h"
#include "model/split.h"

struct exec_head;

/* config and settings' tp_size, pp_size decide the parts; group is borrowed. */
int exec_head_create(const struct model_config *config, const struct model_split *split, struct comm_group *group, struct exec_head **ret,
                     struct err *err);
void exec_head_destroy(struct exec_head *head); /* accepts NULL */

/* First position of the entry's chunk whose logits are wanted: n_tokens for none. slot: after the entry was applied. */
int exec_head_first_logit(const struct exec_entry *entry, const struct exec_slot *slot);

/* Room for n_rows rows of this rank's part [n_rows, vocab_len], valid until the next call; NULL when memory is out. */
float *exec_head_rows(struct exec_head *head, int n_rows);

/*
 * Every member calls it with its rows, in step order. On the group's first member *ret gets the tokens (exec_result_finish it);
 * elsewhere it stays empty. logits are changed.
 */
int exec_head_sample(struct exec_head *head, const struct exec_step *step, const struct exec_slots *slots, float *logits, int n_rows,
                     struct exec_result *ret, struct err *err);

#endif
