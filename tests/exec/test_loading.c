/* Reports of loading: there and back, one rate and time left for all ranks, and KV blocks for nodes of different memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "exec/loading.h"

static const uint64_t GB = 1000000000;

static void test_there_and_back(void **state) {
    (void)state;
    struct err err;
    struct exec_load_report reports[2] = {{1, 2, 3, 4, 5, 6, 7}, {.done_bytes = INT64_MAX, .elapsed_ms = INT64_MAX}}, back[2], kept[2];
    json_t *json = exec_load_reports_to_json(reports, 2);
    assert_non_null(json);
    assert_int_equal(exec_load_reports_from_json(json, 2, back, &err), 0);
    assert_memory_equal(back, reports, sizeof reports);
    memcpy(kept, back, sizeof kept);
    assert_int_equal(exec_load_reports_from_json(json, 1, back, &err), -1);
    assert_int_equal(exec_load_reports_from_json(NULL, 2, back, &err), -1);
    json_array_set_new(json, 1, json_string("x"));
    assert_int_equal(exec_load_reports_from_json(json, 2, kept, &err), -1);
    json_array_set_new(json, 1, json_pack("{s:i}", "done", -1));
    assert_int_equal(exec_load_reports_from_json(json, 2, kept, &err), -1);
    json_decref(json);
}

static void test_one_rate(void **state) {
    (void)state;
    /* Three ranks are done after 10 s, the fourth is at a quarter after 40 s. */
    struct exec_load_report reports[4] = {
        {.done_bytes = 10 * GB, .total_bytes = 10 * GB, .read_bytes = 10 * GB, .elapsed_ms = 10000},
        {.done_bytes = 10 * GB, .total_bytes = 10 * GB, .read_bytes = 10 * GB, .elapsed_ms = 10000},
        {.done_bytes = 10 * GB, .total_bytes = 10 * GB, .saved_bytes = GB, .elapsed_ms = 10000},
        {.done_bytes = 2 * GB, .total_bytes = 8 * GB, .elapsed_ms = 40000},
    };
    struct exec_load_summary sum;
    exec_load_sum(reports, 4, &sum);
    assert_int_equal(sum.done_bytes, 32 * GB);
    assert_int_equal(sum.total_bytes, 38 * GB);
    assert_int_equal(sum.read_bytes, 20 * GB);
    assert_int_equal(sum.saved_bytes, GB);
    assert_true(sum.rate_bps > 3.049e9 && sum.rate_bps < 3.051e9); /* not 32 GB over 40 s */
    assert_true(sum.left_s > 119.9 && sum.left_s < 120.1);         /* 6 GB at 50 MB/s */
    assert_int_equal(sum.slowest, 3);
    assert_true(sum.slowest_share == 0.25);
    assert_int_equal(sum.n_cached, 1);
    /* All done: the one that took longest. */
    reports[3] = (struct exec_load_report){.done_bytes = 8 * GB, .total_bytes = 8 * GB, .read_bytes = 8 * GB, .elapsed_ms = 160000};
    exec_load_sum(reports, 4, &sum);
    assert_int_equal(sum.slowest, 3);
    assert_true(sum.left_s == 0 && sum.rate_bps > 3.049e9 && sum.rate_bps < 3.051e9);
    /* Nothing is known yet. */
    memset(reports, 0, sizeof reports);
    exec_load_sum(reports, 4, &sum);
    assert_true(sum.rate_bps == 0 && sum.left_s == 0 && sum.total_bytes == 0 && sum.n_cached == 0 && sum.slowest == 0);
}

/* Two stages of four ranks over three nodes: 0-3, 4-5, 6-7. */
static const int node_of_rank[8] = {0, 0, 0, 0, 1, 1, 2, 2};

static void test_tightest_node(void **state) {
    (void)state;
    struct exec_load_report reports[8];
    struct exec_node_memory nodes[3] = {{100 * GB, 50 * GB}, {100 * GB, 50 * GB}, {100 * GB, 50 * GB}};
    int tightest;
    memset(reports, 0, sizeof reports);
    for (int i = 0; i < 8; i++)
        reports[i].block_bytes = GB / 100;
    /* Four ranks share the first node: half as many blocks fit there. */
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 1}, 1 << 30, &tightest), 1250);
    assert_int_equal(tightest, 0);
    /* What must stay free is a share of the whole node. */
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 0.9}, 1 << 30, &tightest), 1000);
    /* Nodes of different sizes: the least room for its own ranks decides, not the least memory. */
    nodes[1] = (struct exec_node_memory){40 * GB, 30 * GB};
    nodes[2] = (struct exec_node_memory){32 * GB, 21 * GB};
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 1}, 1 << 30, &tightest), 1050);
    assert_int_equal(tightest, 2);
    /* A stage with more layers has larger blocks. */
    reports[4].block_bytes = reports[5].block_bytes = GB / 50;
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 1}, 1 << 30, &tightest), 750);
    assert_int_equal(tightest, 1);
    /* Buffers that steps will touch are kept free. */
    for (int i = 0; i < 4; i++)
        reports[i].idle_bytes = 10 * GB;
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 1}, 1 << 30, &tightest), 250);
    assert_int_equal(tightest, 0);
    /* Bytes given by hand are for each node, whatever else it has. */
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 0.9, .cache_bytes = (int64_t)(2 * GB)}, 1 << 30, &tightest), 50);
    /* No more than are wanted; none where there is no room. */
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 1}, 200, &tightest), 200);
    assert_int_equal(tightest, -1);
    nodes[1].available_bytes = 0;
    assert_int_equal(exec_kv_blocks_fit(reports, node_of_rank, 8, nodes, 3, &(struct plan_kv_limits){.share = 1}, 200, &tightest), 0);
    assert_int_equal(tightest, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_one_rate),
        cmocka_unit_test(test_tightest_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
