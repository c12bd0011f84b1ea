/*
 * Other splits than the one that is asked for: the smallest that fits, and the fastest of as many ranks. Pure; any thread.
 * Some tenths of a second at most.
 */
#ifndef PLAN_SEARCH_H
#define PLAN_SEARCH_H

#include "plan/pace.h"

struct plan_choice {
    int tp_size, pp_size, n_nodes;
    bool expert_parallel;
    struct plan_pace pace; /* of plan_search_fastest alone */
};

/*
 * The fewest nodes, each as the smallest of those asked for, and on them the fewest ranks, that hold the weights and one sequence
 * of the greatest length. Expert parallel if that was asked for. False when not even COMM_MAX_NODES nodes do.
 */
bool plan_search_smallest(const struct plan_ask *ask, struct plan_choice *ret);
/* The split of as many ranks on the same nodes that fits and has the least token_s; false when none is known to be better than the pace given. */
bool plan_search_fastest(const struct plan_ask *ask, const struct plan_load *load, const struct plan_pace *pace, struct plan_choice *ret);

#endif
