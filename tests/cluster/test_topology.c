/* Ranks to nodes: the arithmetic of placement, by examples and by properties over all small clusters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/topology.h"

enum { MAX = 8 };

/* Offers with these free CPUs; the first is the driver's own. */
static int make_offers(struct cluster_offer *offers, int n, const int *free) {
    memset(offers, 0, (size_t)n * sizeof offers[0]);
    for (int i = 0; i < n; i++) {
        snprintf(offers[i].id, sizeof offers[i].id, "id%d", i);
        snprintf(offers[i].host, sizeof offers[i].host, "10.77.0.%d", i + 1);
        offers[i].is_own = offers[i].is_head = i == 0;
        offers[i].cpus_total = free[i];
    }
    return n;
}

/* "offer:first+n*threads …", with "/CPUs" where ranks share them. */
static const char *plan_text(int tp, int pp, int n_nodes, int threads, bool may_share, int n, const int *free, char ret[512]) {
    struct cluster_offer offers[MAX];
    struct cluster_share shares[CLUSTER_MAX_NODES];
    struct err err;
    int n_shares;
    make_offers(offers, n, free);
    struct cluster_want want = {.tp_size = tp, .pp_size = pp, .n_nodes = n_nodes, .threads_per_rank = threads, .may_share_cpus = may_share};
    if (cluster_topology_plan(&want, offers, n, shares, &n_shares, &err) != 0)
        return "no";
    size_t used = 0;
    for (int i = 0; i < n_shares; i++) {
        used += (size_t)snprintf(ret + used, 512 - used, "%s%d:%d+%d*%d", i > 0 ? " " : "", shares[i].offer, shares[i].first_rank,
                                 shares[i].n_ranks, shares[i].n_threads);
        if (shares[i].n_cpus != shares[i].n_ranks * shares[i].n_threads)
            used += (size_t)snprintf(ret + used, 512 - used, "/%d", shares[i].n_cpus);
    }
    return ret;
}

#define assert_plan(tp, pp, n_nodes, threads, text, ...)                                                                                   \
    do {                                                                                                                                   \
        int free_cpus[] = {__VA_ARGS__};                                                                                                   \
        char plan[512];                                                                                                                    \
        assert_string_equal(plan_text(tp, pp, n_nodes, threads, false, sizeof free_cpus / sizeof free_cpus[0], free_cpus, plan), text);           \
    } while (0)

#define assert_shared(tp, pp, n_nodes, threads, text, ...)                                                                                 \
    do {                                                                                                                                   \
        int free_cpus[] = {__VA_ARGS__};                                                                                                   \
        char plan[512];                                                                                                                    \
        assert_string_equal(plan_text(tp, pp, n_nodes, threads, true, sizeof free_cpus / sizeof free_cpus[0], free_cpus, plan), text);     \
    } while (0)

/* The two commands of the guide over two nodes: 16 ranks each. */
static void test_sixteen_ranks(void **state) {
    (void)state;
    assert_plan(8, 2, 0, 0, "0:0+8*1 1:8+8*1", 8, 8);
    assert_plan(16, 1, 0, 0, "0:0+8*1 1:8+8*1", 8, 8);
    assert_plan(8, 2, 2, 0, "0:0+8*1 1:8+8*1", 8, 8);
    assert_plan(16, 1, 2, 0, "0:0+8*1 1:8+8*1", 8, 8);
    /* A node that has room for the stage takes it whole; --nnodes spreads it. */
    assert_plan(16, 1, 0, 0, "0:0+16*3", 48, 48);
    assert_plan(16, 1, 2, 0, "0:0+8*6 1:8+8*6", 48, 48);
}

static void test_ranks_that_share_cpus(void **state) {
    (void)state;
    /* Where there are enough, nothing is shared. */
    assert_shared(8, 2, 0, 0, "0:0+8*1 1:8+8*1", 8, 8);
    assert_shared(2, 1, 0, 0, "0:0+2*2", 4, 4);
    assert_shared(4, 1, 0, 0, "0:0+2*1 1:2+2*1", 2, 2);
    /* Two cores on each node. */
    assert_shared(8, 2, 0, 0, "0:0+8*1/2 1:8+8*1/2", 2, 2);
    assert_shared(16, 1, 0, 0, "0:0+8*1/2 1:8+8*1/2", 2, 2);
    assert_shared(8, 2, 2, 0, "0:0+8*1/2 1:8+8*1/2", 2, 2);
    assert_shared(16, 1, 2, 0, "0:0+8*1/2 1:8+8*1/2", 2, 2);
    assert_shared(8, 2, 0, 0, "0:0+8*1/6 1:8+8*1/4", 6, 4);
    /* A node without CPUs gets none; with --threads nothing is shared. */
    assert_shared(4, 1, 0, 0, "1:0+4*1/1", 0, 1);
    assert_shared(4, 1, 0, 0, "no", 0, 0);
    assert_shared(4, 1, 0, 1, "no", 2, 1);
    assert_shared(4, 1, 3, 0, "no", 2, 2);
}

static void test_examples(void **state) {
    (void)state;
    /* One rank: the driver's own node, with all its CPUs. */
    assert_plan(1, 1, 0, 0, "0:0+1*4", 4, 8);
    /* One stage per node, TP inside a node. */
    assert_plan(2, 2, 0, 0, "0:0+2*2 1:2+2*2", 4, 4);
    assert_plan(8, 2, 0, 0, "0:0+8*2 2:8+8*1", 16, 7, 8);
    /* The driver's node comes first even if others have more; then the freest. */
    assert_plan(1, 2, 0, 0, "0:0+1*2 2:1+1*9", 2, 4, 9);
    /* No room on the driver's node: it is left out. */
    assert_plan(4, 1, 0, 0, "1:0+4*1", 2, 4);
    /* Fewer nodes than stages: whole stages together, evenly. */
    assert_plan(2, 4, 0, 0, "0:0+4*1 1:4+4*1", 4, 4);
    assert_plan(1, 3, 0, 0, "0:0+2*1 1:2+1*2", 2, 2);
    assert_plan(2, 3, 0, 0, "0:0+2*1 1:2+4*1", 2, 4);
    /* A stage that fits no node is cut over the fewest nodes. */
    assert_plan(2, 1, 0, 0, "0:0+1*1 1:1+1*1", 1, 1);
    assert_plan(4, 1, 0, 0, "0:0+2*1 1:2+2*1", 2, 2);
    assert_plan(4, 1, 0, 0, "0:0+1*1 1:1+3*1", 1, 3);
    assert_plan(2, 2, 0, 0, "0:0+3*1 1:3+1*1", 3, 1);
    assert_plan(4, 1, 0, 0, "2:0+2*1 1:2+2*1", 1, 2, 3); /* two nodes suffice: the roomiest */
    /* --nnodes. */
    assert_plan(2, 1, 2, 0, "0:0+1*4 1:1+1*4", 4, 4);
    assert_plan(4, 1, 2, 0, "0:0+2*2 1:2+2*2", 4, 4);
    assert_plan(1, 4, 2, 0, "0:0+2*2 1:2+2*2", 4, 4);
    assert_plan(2, 2, 1, 0, "0:0+4*1", 4, 4);
    assert_plan(4, 1, 3, 0, "0:0+2*1 1:2+1*3 2:3+1*3", 3, 3, 3);
    /* --threads. */
    assert_plan(2, 1, 0, 3, "1:0+2*3", 4, 8);
    assert_plan(2, 1, 0, 4, "0:0+1*4 1:1+1*4", 4, 4);
    /* Too little. */
    assert_plan(4, 2, 0, 0, "no", 4, 3);
    assert_plan(2, 1, 0, 5, "no", 4, 4);
    assert_plan(2, 1, 3, 0, "no", 4, 4, 4);
    assert_plan(4, 1, 3, 0, "no", 4, 4);
    assert_plan(1, 1, 0, 0, "no", 0);
}

static void test_error_lists_all_nodes(void **state) {
    (void)state;
    struct cluster_offer offers[2];
    struct cluster_share shares[CLUSTER_MAX_NODES];
    struct err err = {0};
    int n;
    make_offers(offers, 2, (int[]){4, 8});
    offers[1].cpus_used = 7.5;
    struct cluster_want want = {.tp_size = 8, .pp_size = 2};
    assert_int_equal(cluster_topology_plan(&want, offers, 2, shares, &n, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_string_equal(err.msg, "the cluster has no room for 16 ranks (tensor parallel 8, pipeline parallel 2) with at least 1 CPU each:\n"
                                 "  10.77.0.1 (head) (this host): 4 CPUs, 0 used, 4 free\n"
                                 "  10.77.0.2: 8 CPUs, 7.5 used, 0.5 free");
    assert_false(cluster_topology_fits_empty(&want, offers, 2));
    want.may_share_cpus = true;
    assert_true(cluster_topology_fits_empty(&want, offers, 2));
    want.may_share_cpus = false;
    want.pp_size = 1;
    assert_int_equal(cluster_topology_plan(&want, offers, 2, shares, &n, &err), -1);
    assert_true(cluster_topology_fits_empty(&want, offers, 2));
    assert_int_equal(cluster_topology_plan(&want, offers, 0, shares, &n, &err), -1);
    assert_non_null(strstr(err.msg, "it has no nodes"));
}

/* Every cluster of up to 3 nodes with up to 5 free CPUs, every split of up to 8 ranks. */
static void test_properties(void **state) {
    (void)state;
    for (int code = 0; code < 6 * 6 * 6; code++) {
        int free[3] = {code % 6, code / 6 % 6, code / 36};
        struct cluster_offer offers[3];
        make_offers(offers, 3, free);
        for (int tp = 1; tp <= 4; tp++) {
            for (int pp = 1; tp * pp <= 8; pp++) {
                for (int n_nodes = 0; n_nodes <= 3; n_nodes++) {
                    struct cluster_want want = {.tp_size = tp, .pp_size = pp, .n_nodes = n_nodes};
                    struct cluster_share shares[CLUSTER_MAX_NODES];
                    struct err err;
                    int n, next_rank = 0, seen = 0;
                    bool fits = cluster_topology_plan(&want, offers, 3, shares, &n, &err) == 0;
                    if (n_nodes == 0) /* without a wish for nodes, what fits in all is placed */
                        assert_int_equal(fits, free[0] + free[1] + free[2] >= tp * pp);
                    if (!fits)
                        continue;
                    if (n_nodes > 0)
                        assert_int_equal(n, n_nodes);
                    for (int i = 0; i < n; i++) {
                        assert_int_equal(shares[i].first_rank, next_rank);
                        assert_true(shares[i].n_ranks >= 1 && shares[i].n_threads >= 1);
                        assert_true(shares[i].n_ranks * shares[i].n_threads <= free[shares[i].offer]);
                        assert_int_equal(shares[i].n_cpus, shares[i].n_ranks * shares[i].n_threads);
                        assert_false(seen & 1 << shares[i].offer);
                        seen |= 1 << shares[i].offer;
                        next_rank += shares[i].n_ranks;
                    }
                    assert_int_equal(next_rank, tp * pp);
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_sixteen_ranks),
        cmocka_unit_test(test_ranks_that_share_cpus),
        cmocka_unit_test(test_error_lists_all_nodes),
        cmocka_unit_test(test_properties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
