/* Trying out other splits; see search.h. */
#include "plan/search.h"

#include <stdlib.h>

enum { MOST_RANKS_PER_NODE = 8 };
static const double WORTH_TELLING = 0.98; /* of the time: what is less than 2 % faster is not */

/* A copy that is split evenly over nodes like the smallest of those asked for. */
static struct plan_ask on_like_nodes(const struct plan_ask *ask) {
    struct plan_ask copy = *ask;
    int least = 0;
    for (int i = 1; i < ask->n_nodes; i++)
        if (ask->nodes[i].available_bytes < ask->nodes[least].available_bytes)
            least = i;
    for (int i = 0; i < COMM_MAX_NODES; i++)
        copy.nodes[i] = ask->nodes[least];
    copy.node_of_rank = NULL;
    copy.layers_per_stage[0] = 0;
    return copy;
}

static bool fits(const struct plan_ask *ask, struct plan_fit *fit) { return plan_fit_compute(ask, fit, NULL) == 0 && fit->fits; }

/* Splits of n_ranks on as->n_nodes, those with most stages first: they send least. */
static bool try_ranks(struct plan_ask *as, int n_ranks, struct plan_fit *fit) {
    for (int tp = 1; tp <= n_ranks; tp++) {
        as->tp_size = tp;
        as->pp_size = n_ranks / tp;
        if (n_ranks % tp == 0 && as->pp_size <= as->config->n_layers && fits(as, fit))
            return true;
    }
    return false;
}

/* Nodes below which the weights of one rank, cut into whatever parts, are too much. */
static int fewest_nodes(const struct plan_ask *as, struct plan_fit *fit) {
    struct plan_ask one = *as;
    one.tp_size = one.pp_size = one.n_nodes = 1;
    if (plan_fit_compute(&one, fit, NULL) != 0)
        return 1;
    double n = (double)fit->ranks[0].sizes.weights_bytes / ((double)as->nodes[0].available_bytes + 1);
    return n < COMM_MAX_NODES ? (int)n + 1 : COMM_MAX_NODES + 1;
}

bool plan_search_smallest(const struct plan_ask *ask, struct plan_choice *ret) {
    struct plan_ask as = on_like_nodes(ask);
    struct plan_fit *fit = malloc(sizeof *fit);
    bool found = false;
    for (as.n_nodes = fit == NULL ? COMM_MAX_NODES + 1 : fewest_nodes(&as, fit); as.n_nodes <= COMM_MAX_NODES; as.n_nodes++) {
        for (int each = 1; each <= MOST_RANKS_PER_NODE && each * as.n_nodes <= COMM_MAX_RANKS && !found; each++)
            found = try_ranks(&as, each * as.n_nodes, fit);
        if (found)
            break;
    }
    free(fit);
    if (found)
        *ret = (struct plan_choice){as.tp_size, as.pp_size, as.n_nodes, as.expert_parallel};
    return found;
}

bool plan_search_fastest(const struct plan_ask *ask, const struct plan_load *load, const struct plan_pace *pace, struct plan_choice *ret) {
    struct plan_ask as = *ask;
    struct plan_fit *fit = malloc(sizeof *fit);
    int n_ranks = ask->tp_size * ask->pp_size;
    double best_s = pace->token_s * WORTH_TELLING;
    bool found = false;
    as.node_of_rank = NULL;
    as.layers_per_stage[0] = 0;
    for (int tp = 1; fit != NULL && tp <= n_ranks; tp++) {
        for (int other_way = 0; n_ranks % tp == 0 && other_way <= (ask->config->n_experts > 0); other_way++) {
            struct plan_pace other;
            as.tp_size = tp;
            as.pp_size = n_ranks / tp;
            as.expert_parallel = ask->expert_parallel != other_way;
            if (!fits(&as, fit))
                continue;
            plan_pace_compute(&as, fit, load, &other);
            if (other.token_s > 0 && other.token_s < best_s) {
                best_s = other.token_s;
                *ret = (struct plan_choice){as.tp_size, as.pp_size, as.n_nodes, as.expert_parallel, other};
                found = true;
            }
        }
    }
    free(fit);
    return found;
}
