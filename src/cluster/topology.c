/* Ranks to nodes; see topology.h. Pure; any thread. */
#include "cluster/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The nodes in order of preference. */
struct candidate {
    int offer;
    bool is_own;
    int n_free;  /* whole CPUs */
    int n_room;  /* ranks that fit */
    int n_units; /* given to it: ranks or stages */
};

struct plan {
    const struct cluster_want *want;
    struct candidate candidates[CLUSTER_MAX_OFFERS];
    int n;
};

static int order(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->is_own != y->is_own)
        return x->is_own ? -1 : 1;
    if (x->n_free != y->n_free)
        return x->n_free > y->n_free ? -1 : 1;
    return x->offer - y->offer;
}

/* By room alone: what a choice of the fewest nodes looks at. */
static int order_by_room(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return x->n_room != y->n_room ? (x->n_room > y->n_room ? -1 : 1) : order(a, b);
}

static void plan_init(struct plan *plan, const struct cluster_want *want, const struct cluster_offer *offers, int n_offers, bool as_empty,
                      int ranks_per_cpu) {
    int per_rank = want->threads_per_rank > 0 ? want->threads_per_rank : 1;
    *plan = (struct plan){.want = want};
    for (int i = 0; i < n_offers && plan->n < CLUSTER_MAX_OFFERS; i++) {
        double left = offers[i].cpus_total - (as_empty ? 0 : offers[i].cpus_used) + 1e-6; /* Ray counts in ten-thousandths */
        int n_free = left < 0 ? 0 : (int)left;
        plan->candidates[plan->n++] =
            (struct candidate){.offer = i, .is_own = offers[i].is_own, .n_free = n_free, .n_room = n_free / per_rank * ranks_per_cpu};
    }
    qsort(plan->candidates, (size_t)plan->n, sizeof plan->candidates[0], order);
}

/* Units of unit_ranks ranks that fit on candidate i. */
static int room_in_units(const struct plan *plan, int i, int unit_ranks) { return plan->candidates[i].n_room / unit_ranks; }

/*
 * Gives n_units to the first n_nodes candidates, one at a time to whoever has the fewest and still has room, so that they end as
 * even as their room allows; each gets at least one. False when that cannot be.
 */
static bool spread(struct plan *plan, int n_nodes, int n_units, int unit_ranks) {
    if (n_nodes > plan->n || n_nodes > n_units || n_nodes > CLUSTER_MAX_NODES)
        return false;
    for (int i = 0; i < plan->n; i++)
        plan->candidates[i].n_units = 0;
    for (int given = 0; given < n_units; given++) {
        int best = -1;
        for (int i = 0; i < n_nodes; i++) {
            const struct candidate *c = &plan->candidates[i];
            if (c->n_units < room_in_units(plan, i, unit_ranks) && (best < 0 || c->n_units < plan->candidates[best].n_units))
                best = i;
        }
        if (best < 0)
            return false;
        plan->candidates[best].n_units++;
    }
    for (int i = 0; i < n_nodes; i++)
        if (plan->candidates[i].n_units == 0)
            return false;
    return true;
}

/* Moves candidates with room for a unit to the front, keeping their order; returns how many. */
static int with_room(struct plan *plan, int unit_ranks) {
    struct candidate kept[CLUSTER_MAX_OFFERS];
    int n_kept = 0, n_with = 0;
    for (int i = 0; i < plan->n; i++)
        if (room_in_units(plan, i, unit_ranks) > 0)
            kept[n_kept++] = plan->candidates[i];
    n_with = n_kept;
    for (int i = 0; i < plan->n; i++)
        if (room_in_units(plan, i, unit_ranks) == 0)
            kept[n_kept++] = plan->candidates[i];
    memcpy(plan->candidates, kept, (size_t)n_kept * sizeof kept[0]);
    return n_with;
}

/* Back to the order of preference among the first n. */
static void reorder(struct plan *plan, int n) { qsort(plan->candidates, (size_t)n, sizeof plan->candidates[0], order); }

/* The ranks of a unit, or 0 when it does not fit; the candidates then hold their units. ret_nodes: candidates in use. */
static int choose(struct plan *plan, int *ret_nodes) {
    const struct cluster_want *want = plan->want;
    int tp = want->tp_size, pp = want->pp_size, n_ranks = tp * pp;
    if (want->n_nodes > 0) {
        int n = want->n_nodes;
        *ret_nodes = n;
        /* The roomiest n; whole stages if that works out evenly, or at all; else ranks. */
        qsort(plan->candidates, (size_t)plan->n, sizeof plan->candidates[0], order_by_room);
        if (n <= plan->n)
            reorder(plan, n);
        if (spread(plan, n, pp, tp))
            return tp;
        return spread(plan, n, n_ranks, 1) ? 1 : 0;
    }
    int n_whole = with_room(plan, tp);
    if (n_whole >= pp && spread(plan, pp, pp, tp)) {
        *ret_nodes = pp;
        return tp;
    }
    for (int n = n_whole < pp ? n_whole : pp; n > 0; n--) {
        if (spread(plan, n, pp, tp)) {
            *ret_nodes = n;
            return tp;
        }
    }
    qsort(plan->candidates, (size_t)plan->n, sizeof plan->candidates[0], order_by_room);
    for (int n = 1; n <= plan->n && n <= n_ranks; n++) {
        struct plan attempt = *plan;
        reorder(&attempt, n);
        if (spread(&attempt, n, n_ranks, 1)) {
            *plan = attempt;
            *ret_nodes = n;
            return 1;
        }
    }
    return 0;
}

/* Several ranks count on a CPU where they may and must. Returns as choose(). */
static int choose_shared(struct plan *plan, const struct cluster_want *want, const struct cluster_offer *offers, int n_offers, bool as_empty,
                         int *ret_nodes) {
    int unit_ranks = 0, most_per_cpu = want->may_share_cpus && want->threads_per_rank == 0 ? want->tp_size * want->pp_size : 1;
    for (int per_cpu = 1; per_cpu <= most_per_cpu && unit_ranks == 0; per_cpu++) {
        plan_init(plan, want, offers, n_offers, as_empty, per_cpu);
        unit_ranks = choose(plan, ret_nodes);
    }
    return unit_ranks;
}

bool cluster_topology_fits_empty(const struct cluster_want *want, const struct cluster_offer *offers, int n_offers) {
    struct plan plan;
    int n_nodes;
    return choose_shared(&plan, want, offers, n_offers, true, &n_nodes) > 0;
}

static int too_small(const struct cluster_want *want, const struct cluster_offer *offers, int n_offers, struct err *err) {
    char nodes[ERR_MSG_BYTES - 256], asked_nodes[32] = "";
    size_t used = 0;
    nodes[0] = '\0';
    for (int i = 0; i < n_offers && used < sizeof nodes; i++)
        used += (size_t)snprintf(nodes + used, sizeof nodes - used, "\n  %s%s%s: %g CPUs, %g used, %g free", offers[i].host,
                                 offers[i].is_head ? " (head)" : "", offers[i].is_own ? " (this host)" : "", offers[i].cpus_total,
                                 offers[i].cpus_used, offers[i].cpus_total - offers[i].cpus_used);
    if (want->n_nodes > 0)
        snprintf(asked_nodes, sizeof asked_nodes, " on %d node%s", want->n_nodes, want->n_nodes == 1 ? "" : "s");
    return err_set(err, ERR_LIMIT,
                   "the cluster has no room for %d ranks (tensor parallel %d, pipeline parallel %d)%s with %s%d CPU%s each:%s",
                   want->tp_size * want->pp_size, want->tp_size, want->pp_size, asked_nodes, want->threads_per_rank > 0 ? "" : "at least ",
                   want->threads_per_rank > 0 ? want->threads_per_rank : 1, want->threads_per_rank > 1 ? "s" : "",
                   n_offers == 0 ? " it has no nodes" : nodes);
}

int cluster_topology_plan(const struct cluster_want *want, const struct cluster_offer *offers, int n_offers, struct cluster_share *ret,
                          int *ret_n, struct err *err) {
    struct plan plan;
    int n_nodes, first_rank = 0;
    if (want->n_nodes > want->tp_size * want->pp_size)
        return err_set(err, ERR_INVALID, "--nnodes %d is more than the %d ranks (tensor parallel %d, pipeline parallel %d)", want->n_nodes,
                       want->tp_size * want->pp_size, want->tp_size, want->pp_size);
    int unit_ranks = choose_shared(&plan, want, offers, n_offers, false, &n_nodes);
    if (unit_ranks == 0)
        return too_small(want, offers, n_offers, err);
    for (int i = 0; i < n_nodes; i++) {
        const struct candidate *c = &plan.candidates[i];
        ret[i] = (struct cluster_share){.offer = c->offer, .first_rank = first_rank, .n_ranks = c->n_units * unit_ranks};
        ret[i].n_threads = want->threads_per_rank > 0 ? want->threads_per_rank : c->n_free > ret[i].n_ranks ? c->n_free / ret[i].n_ranks : 1;
        ret[i].n_cpus = ret[i].n_ranks * ret[i].n_threads < c->n_free ? ret[i].n_ranks * ret[i].n_threads : c->n_free;
        first_rank += ret[i].n_ranks;
    }
    *ret_n = n_nodes;
    return 0;
}
