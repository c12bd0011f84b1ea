/*
 * Collectives over a group of ranks (a tensor-parallel group). Every member calls the same operations in the same
 * order; each call blocks until its part is done. All members end with the same bits.
 */
#ifndef COMM_GROUP_H
#define COMM_GROUP_H

#include <stddef.h>

#include "base/err.h"
#include "comm/world.h"

struct comm_group;

/*
 * Every member calls this with the same list (ascending ranks, `rank` among them). A group of one does nothing.
 * max_floats: the longest vector that comm_allreduce will get; longer ones are cut into pieces of it.
 */
int comm_group_join(struct comm_world *world, int rank, const int *members, int n_members, size_t max_floats, struct comm_group **ret_group,
                    struct err *err);
void comm_group_leave(struct comm_group *group); /* accepts NULL */
int comm_group_size(const struct comm_group *group);
int comm_group_index(const struct comm_group *group); /* this rank's place in members */

/* data[n] becomes the sum over all members, in place. The order of addition is the group's: data[i] does not depend on n or i. */
int comm_allreduce(struct comm_group *group, float *data, size_t n, struct err *err);
/* Member i's len_bytes land at ret_all + i · len_bytes on the member with index `root` (ret_all is ignored elsewhere). */
int comm_gather(struct comm_group *group, int root, const void *bytes, size_t len_bytes, void *ret_all, struct err *err);
/* The root's bytes reach all. */
int comm_broadcast(struct comm_group *group, int root, void *bytes, size_t len_bytes, struct err *err);

#endif
