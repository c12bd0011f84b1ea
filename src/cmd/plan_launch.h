/* What a launch would take, from its options: for `shoal plan` and for the check before a start. Main thread. */
#ifndef CMD_PLAN_LAUNCH_H
#define CMD_PLAN_LAUNCH_H

#include "cmd/launch.h"
#include "plan/fit.h"

/* Everything but the nodes' memory, for a launch that cmd_launch_check has passed. n_nodes: at least 1. */
void cmd_plan_ask(const struct cmd_launch *launch, int n_nodes, struct plan_ask *ret);
/*
 * Refuses (ERR_LIMIT) a launch that these nodes cannot hold, and names the smallest split that would do. node_of_rank: NULL where nothing is
 * placed yet. Less than a second.
 */
int cmd_plan_check(const struct cmd_launch *launch, const struct plan_node *nodes, int n_nodes, const int *node_of_rank, struct err *err);

#endif
