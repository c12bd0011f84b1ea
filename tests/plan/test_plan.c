/* Plans: the flagship's sizes counted by hand, KV blocks, fits, the floor of the decode time, other splits. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "plan/explain.h"

static const double GB = 1e9;
static struct model_config flagship, dense;
static struct plan_fit fit;

static struct plan_ask ask_for(const struct model_config *config, int tp, int pp, bool expert_parallel, int n_nodes, double memory_bytes) {
    struct plan_ask ask = {.config = config, .floats = config->dtype, .tp_size = tp, .pp_size = pp, .expert_parallel = expert_parallel,
                           .kv_dtype = DTYPE_BF16, .block_size = 16, .max_model_len = 8192, .max_seqs = 25, .max_step_tokens = 512, .n_threads = 4,
                           .limits = {.share = 0.9}, .n_nodes = n_nodes};
    for (int i = 0; i < n_nodes; i++)
        ask.nodes[i] = (struct plan_node){.total_bytes = (uint64_t)memory_bytes, .available_bytes = (uint64_t)memory_bytes, .bandwidth_bps = 40 * GB};
    return ask;
}

static void compute(const struct plan_ask *ask) {
    struct err err;
    if (plan_fit_compute(ask, &fit, &err) != 0)
        fail_msg("%s", err.msg);
}

static uint64_t sum_params(void) {
    uint64_t sum = 0;
    for (int i = 0; i < fit.n_ranks; i++)
        sum += fit.ranks[i].sizes.n_params;
    return sum;
}

static uint64_t sum_weights(void) {
    uint64_t sum = 0;
    for (int i = 0; i < fit.n_ranks; i++)
        sum += fit.ranks[i].sizes.weights_bytes;
    return sum;
}

/* Qwen3-235B-A22B has 235,093,634,560 weights, 470,187,269,120 bytes in BF16. */
static void test_flagship_whole(void **state) {
    (void)state;
    /* A layer: two norms, q and k norms, q, k, v, o, router, experts. */
    const uint64_t vectors = 2 * 4096 + 2 * 128, attention = (2 * 64 + 2 * 4) * 128 * 4096ull, router = 128 * 4096;
    const uint64_t experts = 128 * 3 * 4096 * 1536ull;
    const uint64_t n_params = 94 * (vectors + attention + router + experts) + 2 * 151936 * 4096ull + 4096;
    assert_int_equal(n_params, 235093634560ull);
    struct plan_ask ask = ask_for(&flagship, 1, 1, false, 1, 600 * GB);
    compute(&ask);
    const struct model_sizes *s = &fit.ranks[0].sizes;
    assert_int_equal(s->n_params, n_params);
    assert_int_equal(s->plain_bytes, 470187269120ull);
    /* Vectors and routers are kept in F32; all rows fill their panels, and each row of BF16 has a scale. */
    const uint64_t expert_rows = 128 * (2 * 1536 + 4096ull), rows = 94 * ((64 + 2 * 4) * 128 + 4096 + expert_rows) + 2 * 151936;
    assert_int_equal(s->weights_bytes, 2 * n_params + 2 * (94 * (vectors + router) + 4096) + 4 * rows);
    assert_int_equal(s->experts_bytes, 94 * (experts * 2 + expert_rows * 4));
    assert_int_equal(s->lookup_bytes, 151936 * (4096ull * 2 + 4));
    assert_int_equal(s->kv_block_bytes, 94 * 4 * 2 * 16 * 128 * 2);
}

/* 16 ranks have each weight once, but for what every rank of a stage needs: norms, routers, and two ranks each KV head. */
static void test_flagship_split(void **state) {
    (void)state;
    const uint64_t vectors = 2 * 4096 + 2 * 128, router = 128 * 4096, kv = 2 * 4 * 128 * 4096ull;
    struct plan_ask ask = ask_for(&flagship, 8, 2, true, 2, 320 * GB);
    compute(&ask);
    const uint64_t replicated = 94 * (7 * (vectors + router) + kv) + 7 * 4096;
    assert_int_equal(sum_params(), 235093634560ull + replicated);
    /* Rows are split but for those of o, whose columns are; two ranks have each KV head. */
    const uint64_t rows = 94 * ((64 + 2 * 2 * 4) * 128 + 8 * 4096 + 128 * (2 * 1536 + 4096ull)) + 2 * 151936;
    assert_int_equal(sum_weights(), 2 * sum_params() + 2 * 8 * (94 * (vectors + router) + 4096) + 4 * rows);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(fit.ranks[i].node, i / 8);
        assert_int_equal(fit.ranks[i].sizes.kv_block_bytes, 47 * 1 * 2 * 16 * 128 * 2);
        assert_int_equal(fit.ranks[i].split.n_experts, 16);
    }
    assert_int_equal(fit.rooms[0].block_bytes, 8 * 47 * 2 * 16 * 128 * 2);
    assert_true(fit.fits);
    assert_int_equal(fit.n_blocks, 25 * 512);
    assert_int_equal(fit.tightest, -1);
    /* Slices instead of whole experts hold the same weights; each of the 8 ranks then has scales for all rows of down. */
    uint64_t whole = sum_weights();
    ask.expert_parallel = false;
    compute(&ask);
    assert_int_equal(sum_weights(), whole + 4 * 94 * 128 * 7 * 4096ull);
}

static void test_kv_blocks(void **state) {
    (void)state;
    int tightest;
    const struct plan_room nodes[] = {{1000, 900, 100, 10}, {1000, 800, 100, 5}, {2000, 600, 0, 4}};
    struct plan_kv_limits limits = {.share = 1};
    assert_int_equal(plan_kv_blocks(nodes, 3, &limits, 1000, &tightest), 80);
    assert_int_equal(tightest, 0);
    limits.share = 0.75; /* keeps 250, 250 and 500 free: 550, 450 and 100 are left */
    assert_int_equal(plan_kv_blocks(nodes, 3, &limits, 1000, &tightest), 25);
    assert_int_equal(tightest, 2);
    assert_int_equal(plan_kv_blocks(nodes, 3, &limits, 7, &tightest), 7);
    assert_int_equal(tightest, -1);
    limits.cache_bytes = 50;
    assert_int_equal(plan_kv_blocks(nodes, 3, &limits, 1000, &tightest), 5);
    assert_int_equal(tightest, 0);
    limits.n_blocks = 12;
    assert_int_equal(plan_kv_blocks(nodes, 3, &limits, 1000, &tightest), 12);
    assert_int_equal(tightest, -1);
    limits = (struct plan_kv_limits){.share = 0.1};
    assert_int_equal(plan_kv_blocks(nodes, 3, &limits, 1000, &tightest), 0);
}

static void test_fits(void **state) {
    (void)state;
    struct plan_ask ask = ask_for(&dense, 1, 1, false, 1, 10 * GB);
    compute(&ask);
    double weights = (double)sum_weights(), buffers = (double)fit.ranks[0].sizes.buffers_bytes, block = (double)fit.ranks[0].sizes.kv_block_bytes;
    double needed = (weights + buffers + 512 * block) / 0.9;
    assert_true(fit.fits);
    ask = ask_for(&dense, 1, 1, false, 1, needed + 1e6);
    compute(&ask);
    assert_true(fit.fits && plan_fit_may_start(&ask, &fit));
    assert_in_range(fit.n_blocks, 512, 514);
    /* One sequence too little, but a start is not refused for what may be the buffers' fault. */
    ask = ask_for(&dense, 1, 1, false, 1, needed - 1e6);
    compute(&ask);
    assert_false(fit.fits);
    assert_int_equal(fit.overfull, -1);
    assert_int_equal(fit.tightest, 0);
    assert_true(plan_fit_may_start(&ask, &fit));
    ask = ask_for(&dense, 1, 1, false, 1, (weights + 500 * block) / 0.9);
    compute(&ask);
    assert_false(fit.fits || plan_fit_may_start(&ask, &fit));
    /* A cache of a given size may fill all memory; before a start only what can never be is refused. */
    ask = ask_for(&dense, 1, 1, false, 1, weights + buffers + 600 * block);
    ask.limits.cache_bytes = (int64_t)(600 * block);
    compute(&ask);
    assert_true(fit.fits && plan_fit_may_start(&ask, &fit));
    assert_int_equal(fit.n_blocks, 600);
    ask.nodes[0].available_bytes /= 2;
    compute(&ask);
    assert_false(fit.fits);
    assert_int_equal(fit.overfull, 0);
    assert_true(plan_fit_may_start(&ask, &fit));
    /* Nodes of different memory: the smaller one decides. */
    ask = ask_for(&dense, 1, 2, false, 2, 10 * GB);
    ask.nodes[1].total_bytes = ask.nodes[1].available_bytes = (uint64_t)(0.7 * GB);
    compute(&ask);
    assert_false(fit.fits);
    assert_int_equal(fit.overfull, 1);
    struct err err;
    ask.n_nodes = 3;
    assert_int_equal(plan_fit_compute(&ask, &fit, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
}

static void test_places(void **state) {
    (void)state;
    const int whole_stages[] = {0, 0, 0, 0, 1, 1}, cut_stages[] = {0, 0, 0, 1, 1, 2, 2};
    for (int i = 0; i < 6; i++)
        assert_int_equal(plan_fit_place(2, 3, 2, i), whole_stages[i]);
    for (int i = 0; i < 7; i++)
        assert_int_equal(plan_fit_place(7, 1, 3, i), cut_stages[i]);
    for (int i = 0; i < 16; i++)
        assert_int_equal(plan_fit_place(16, 1, 2, i), i / 8);
}

#define assert_close(found, expected) assert_true((found) > (expected) * 0.9999 && (found) < (expected) * 1.0001)

static void test_pace(void **state) {
    (void)state;
    struct plan_load load = {.link_latency_s = 50e-6, .link_bps = 1.25 * GB, .n_seqs = 1, .context = 1000};
    struct plan_pace pace;
    /* One node: all weights but the embedding, and the keys and values of 28 layers and 8 heads. */
    struct plan_ask ask = ask_for(&dense, 1, 1, false, 1, 10 * GB);
    compute(&ask);
    plan_pace_compute(&ask, &fit, &load, &pace);
    double weights = (double)fit.ranks[0].sizes.weights_bytes, kv = 28.0 * 8 * 2 * 128 * 2 * 1000;
    assert_int_equal(fit.ranks[0].sizes.lookup_bytes, 0); /* it is the output head as well */
    assert_close(pace.weights_bytes, weights);
    assert_close(pace.kv_bytes, kv);
    assert_close(pace.token_s, (weights + kv) / (40 * GB));
    assert_true(pace.links_s == 0);
    /* Eight sequences read the weights once. */
    load.n_seqs = 8;
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_close(pace.token_s, (weights + 8 * kv) / (40 * GB));
    /* Two nodes, tensor parallel: half the reading, two all-reduces a layer and one of the embedding, and the sampled token. */
    load.n_seqs = 1;
    ask = ask_for(&dense, 2, 1, false, 2, 10 * GB);
    compute(&ask);
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_close(pace.links_s, 57 * (50e-6 + 1024 * 4 / (1.25 * GB)) + 50e-6);
    assert_true(pace.memory_s < 0.51 * (weights + kv) / (40 * GB));
    assert_close(pace.token_s, pace.memory_s + pace.links_s);
    /* Two nodes, a stage each: one token has to pass both; of two sequences each stage works for one. */
    ask = ask_for(&dense, 1, 2, false, 2, 10 * GB);
    compute(&ask);
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_close(pace.links_s, 50e-6 + 1024 * 4 / (1.25 * GB) + 50e-6);
    double one_s = pace.token_s;
    load.n_seqs = 2;
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_int_equal(pace.n_groups, 2);
    assert_true(pace.token_s < 1.5 * one_s); /* nearly twice the tokens in the same time; the stages are not equally heavy */
    /* On one node both stages share the memory: nothing is won. */
    ask = ask_for(&dense, 1, 2, false, 1, 10 * GB);
    compute(&ask);
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_true(pace.token_s > 1.9 * one_s);
    ask.nodes[0].bandwidth_bps = 0;
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_true(pace.token_s == 0 && pace.weights_bytes > 0);
}

/* Of 128 experts one token reads 8; of two tokens the second meets 8 · 8 / 128 of them again. */
static void test_pace_of_mixture(void **state) {
    (void)state;
    struct plan_load load = {.link_latency_s = 50e-6, .link_bps = 1.25 * GB, .n_seqs = 1, .context = 0};
    struct plan_pace pace;
    struct plan_ask ask = ask_for(&flagship, 1, 1, false, 1, 600 * GB);
    compute(&ask);
    plan_pace_compute(&ask, &fit, &load, &pace);
    const struct model_sizes *s = &fit.ranks[0].sizes;
    assert_close(pace.n_experts, 8.0);
    assert_close(pace.weights_bytes, (double)(s->weights_bytes - s->lookup_bytes - s->experts_bytes) + (double)s->experts_bytes / 16);
    load.n_seqs = 2;
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_close(pace.n_experts, 15.5);
}

static void test_search(void **state) {
    (void)state;
    struct plan_choice choice;
    struct plan_ask ask = ask_for(&flagship, 1, 1, true, 1, 24 * GB), other;
    compute(&ask);
    assert_false(fit.fits || plan_fit_may_start(&ask, &fit));
    assert_true(plan_search_smallest(&ask, &choice));
    other = ask_for(&flagship, choice.tp_size, choice.pp_size, true, choice.n_nodes, 24 * GB);
    compute(&other);
    assert_true(fit.fits);
    assert_in_range(choice.n_nodes, 472 / 24, 30);
    /* On nodes as large as the model one is enough. */
    ask = ask_for(&flagship, 4, 4, true, 2, 600 * GB);
    assert_true(plan_search_smallest(&ask, &choice));
    assert_int_equal(choice.tp_size * choice.pp_size * choice.n_nodes, 1);
    ask = ask_for(&flagship, 1, 1, false, 1, 4 * GB);
    assert_false(plan_search_smallest(&ask, &choice));
    /* Over links as slow as these, stages; over free ones, all nodes at once. */
    struct plan_load load = {.link_latency_s = 5e-3, .link_bps = 1.25e7, .n_seqs = 1, .context = 1000};
    struct plan_pace pace;
    ask = ask_for(&dense, 2, 1, false, 2, 10 * GB);
    compute(&ask);
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_true(plan_search_fastest(&ask, &load, &pace, &choice));
    assert_int_equal(choice.pp_size, 2);
    assert_true(choice.pace.token_s < pace.token_s);
    load = (struct plan_load){.link_latency_s = 1e-6, .link_bps = 1e11, .n_seqs = 1, .context = 1000};
    plan_pace_compute(&ask, &fit, &load, &pace);
    assert_false(plan_search_fastest(&ask, &load, &pace, &choice));
}

static void test_explain(void **state) {
    (void)state;
    char text[PLAN_EXPLAIN_BYTES];
    struct plan_choice choice = {8, 4, 32, true};
    struct plan_ask ask = ask_for(&flagship, 1, 1, true, 1, 24 * GB);
    compute(&ask);
    plan_explain(&ask, &fit, &choice, text);
    assert_non_null(strstr(text, "needs 471 GB for weights"));
    assert_non_null(strstr(text, "has 24.0 GB"));
    assert_non_null(strstr(text, "-tp 8 -pp 4 --enable-expert-parallel: 32 ranks on 32 nodes"));
    assert_non_null(strstr(plan_explain(&ask, &fit, NULL, text), "no split over up to 64 nodes"));
    ask = ask_for(&dense, 1, 1, false, 1, 2.3 * GB);
    compute(&ask);
    assert_false(fit.fits);
    assert_non_null(strstr(plan_explain(&ask, &fit, NULL, text), "--max-model-len"));
}

/* Q4_1 has blocks of 32 columns: 40 heads of 8 columns cannot be cut into 40. */
static void test_cuts(void **state) {
    (void)state;
    struct err err;
    struct model_config config = dense;
    config.n_heads = config.n_kv_heads = 40;
    config.head_dim = 8;
    assert_int_equal(model_config_quantize(&config, NULL, "int4", &err), 0);
    struct plan_ask ask = ask_for(&config, 40, 1, false, 1, 10 * GB);
    assert_int_equal(plan_fit_compute(&ask, &fit, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_non_null(strstr(err.msg, "Q4_1"));
    ask.tp_size = 10;
    assert_int_equal(plan_fit_compute(&ask, &fit, &err), 0);
}

static int setup(void **state) {
    (void)state;
    struct err err;
    return model_config_load(TEST_DATA_DIR "/configs/Qwen--Qwen3-235B-A22B_config.json", NULL, NULL, &flagship, &err) != 0 ||
                   model_config_load(TEST_DATA_DIR "/configs/Qwen--Qwen3-0.6B_config.json", NULL, NULL, &dense, &err) != 0
               ? -1
               : 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flagship_whole), cmocka_unit_test(test_flagship_split), cmocka_unit_test(test_kv_blocks),
        cmocka_unit_test(test_fits),           cmocka_unit_test(test_places),         cmocka_unit_test(test_pace),
        cmocka_unit_test(test_pace_of_mixture), cmocka_unit_test(test_search),        cmocka_unit_test(test_explain),
        cmocka_unit_test(test_cuts),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
