/* exec: frame bodies there and back, slots, sampling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rand.h"
#include "exec/settings.h"
#include "exec/slots.h"
#include "exec/step.h"

static struct exec_sampling greedy(void) {
    return (struct exec_sampling){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .n_prompt_logprobs = -1};
}

static void test_step_there_and_back(void **state) {
    (void)state;
    int32_t tokens[] = {5, 6, 7}, blocks[] = {9, 1};
    struct exec_sampling sampling = greedy();
    sampling.n_stop_ids = 2;
    sampling.stop_ids[1] = 42;
    sampling.n_bias = 1;
    sampling.bias[0] = (struct exec_bias){3, -1.5f};
    sampling.seed = UINT64_MAX - 1;
    struct exec_entry entries[] = {
        {.slot = 3, .fresh = true, .position = 0, .n_tokens = 3, .tokens = tokens, .n_new_blocks = 2, .new_blocks = blocks, .next_token = 8, .sampling = &sampling},
        {.slot = 0, .samples = true, .position = 31, .n_tokens = 1, .tokens = tokens + 1, .first_block = 2, .new_blocks = blocks, .next_token = -1},
    };
    struct exec_step step = {.number = 77, .n_entries = 2, .n_tokens = 4, .entries = entries}, back;
    struct err err;
    struct buf body;
    buf_init(&body, 1 << 16);
    assert_int_equal(exec_step_encode(&step, &body), 0);
    assert_int_equal(exec_step_decode(&body, &back, &err), 0);
    assert_int_equal(back.number, 77);
    assert_int_equal(back.n_tokens, 4);
    assert_memory_equal(back.entries[0].tokens, tokens, sizeof tokens);
    assert_memory_equal(back.entries[0].new_blocks, blocks, sizeof blocks);
    assert_memory_equal(back.entries[0].sampling, &sampling, offsetof(struct exec_sampling, stop_ids));
    assert_int_equal(back.entries[0].sampling->stop_ids[1], 42);
    assert_true(back.entries[0].sampling->bias[0].bias == -1.5f);
    assert_int_equal(back.entries[0].next_token, 8);
    assert_true(back.entries[1].samples && !back.entries[1].fresh);
    exec_step_finish(&back);
    /* Every truncation and every changed byte is refused or decodes to something within limits. */
    for (size_t n = 0; n < body.len_bytes; n++) {
        struct buf cut;
        buf_init(&cut, 1 << 16);
        buf_append(&cut, body.data, n);
        assert_int_equal(exec_step_decode(&cut, &back, &err), -1);
        buf_clear(&cut);
        buf_append(&cut, body.data, body.len_bytes);
        cut.data[n] = (char)~cut.data[n];
        if (exec_step_decode(&cut, &back, &err) == 0)
            exec_step_finish(&back);
        buf_finish(&cut);
    }
    buf_finish(&body);
}

static void test_result_there_and_back(void **state) {
    (void)state;
    struct exec_token tokens[] = {
        {.entry = 0, .index = 4, .token = 17, .is_prompt = true, .has_logprobs = true, .logprobs = {.logprob = -2, .rank = 3, .n_top = 2, .top_ids = {5, 6}, .top_logprobs = {-0.5f, -1}}},
        {.entry = 1, .index = 9, .token = 18},
    };
    struct exec_result result = {.number = 3, .compute_ns = 5, .n_tokens = 2, .tokens = tokens}, back;
    struct err err;
    struct buf body;
    buf_init(&body, 1 << 16);
    assert_int_equal(exec_result_encode(&result, &body), 0);
    assert_int_equal(exec_result_decode(&body, &back, &err), 0);
    assert_int_equal(back.n_tokens, 2);
    assert_true(back.tokens[0].is_prompt && back.tokens[0].logprobs.rank == 3 && back.tokens[0].logprobs.top_ids[1] == 6);
    assert_int_equal(back.tokens[1].token, 18);
    exec_result_finish(&back);
    for (size_t n = 0; n < body.len_bytes; n++) {
        struct buf cut;
        buf_init(&cut, 1 << 16);
        buf_append(&cut, body.data, n);
        assert_int_equal(exec_result_decode(&cut, &back, &err), -1);
        buf_finish(&cut);
    }
    buf_finish(&body);
}

static void test_slots_refuse_what_does_not_fit(void **state) {
    (void)state;
    struct exec_slots slots;
    struct err err;
    int32_t tokens[40] = {0}, blocks[] = {1, 2, 3};
    struct exec_sampling sampling = greedy();
    assert_int_equal(exec_slots_init(&slots, 2, 64, 16, 8, &err), 0);
    struct exec_entry e = {.slot = 1, .fresh = true, .n_tokens = 20, .tokens = tokens, .n_new_blocks = 2, .new_blocks = blocks, .sampling = &sampling};
    assert_int_equal(exec_slots_apply(&slots, &e, &err), 0);
    struct exec_entry gap = {.slot = 1, .position = 21, .n_tokens = 1, .tokens = tokens, .first_block = 2, .new_blocks = blocks};
    assert_int_equal(exec_slots_apply(&slots, &gap, &err), -1);
    assert_string_equal(err.msg, "a step puts tokens 21 to 22 into slot 1, which holds 20 of at most 64");
    struct exec_entry uncovered = {.slot = 1, .position = 20, .n_tokens = 13, .tokens = tokens, .first_block = 2, .new_blocks = blocks};
    assert_int_equal(exec_slots_apply(&slots, &uncovered, &err), -1);
    struct exec_entry foreign = {.slot = 1, .position = 20, .n_tokens = 13, .tokens = tokens, .first_block = 2, .n_new_blocks = 1, .new_blocks = (int32_t[]){8}};
    assert_int_equal(exec_slots_apply(&slots, &foreign, &err), -1);
    assert_string_equal(err.msg, "a step names KV block 8 of 8");
    struct exec_entry ok = {.slot = 1, .position = 20, .n_tokens = 13, .tokens = tokens, .first_block = 2, .n_new_blocks = 1, .new_blocks = blocks + 2};
    assert_int_equal(exec_slots_apply(&slots, &ok, &err), 0);
    assert_int_equal(slots.slots[1].n_tokens, 33);
    ok.slot = 2;
    assert_int_equal(exec_slots_apply(&slots, &ok, &err), -1);
    exec_slots_finish(&slots);
}

enum { N_VOCAB = 50, N_DRAWS = 20000 };

static void draw_many(const float *logits, struct exec_sampling *params, int *counts) {
    int32_t tokens[1] = {0};
    void *scratch = malloc(exec_sampling_scratch_bytes(N_VOCAB));
    memset(counts, 0, N_VOCAB * sizeof *counts);
    for (int i = 0; i < N_DRAWS; i++) {
        float row[N_VOCAB];
        memcpy(row, logits, sizeof row);
        params->seed = (uint64_t)i;
        counts[exec_sample(row, N_VOCAB, params, tokens, 1, scratch)]++;
    }
    free(scratch);
}

static void test_sampling_follows_the_distribution(void **state) {
    (void)state;
    float logits[N_VOCAB];
    double p[N_VOCAB], sum = 0;
    int counts[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++)
        logits[i] = 4 * (float)rand_ctr_unit(1, (uint64_t)i);
    struct exec_sampling params = greedy();
    params.temperature = 0.7f;
    for (int i = 0; i < N_VOCAB; i++)
        sum += p[i] = exp(logits[i] / 0.7);
    draw_many(logits, &params, counts);
    for (int i = 0; i < N_VOCAB; i++) {
        double wanted = p[i] / sum * N_DRAWS;
        assert_true(fabs(counts[i] - wanted) < 5 * sqrt(wanted) + 5); /* five standard deviations */
    }
    /* top_k, top_p and min_p cut exactly the tokens that they should. */
    params.top_k = 5;
    draw_many(logits, &params, counts);
    for (int i = 0; i < N_VOCAB; i++) {
        int n_better = 0;
        for (int j = 0; j < N_VOCAB; j++)
            n_better += logits[j] > logits[i];
        assert_int_equal(counts[i] > 0, n_better < 5);
    }
    params.top_k = 0;
    params.top_p = 0.5f;
    draw_many(logits, &params, counts);
    for (int i = 0; i < N_VOCAB; i++) {
        double better = 0;
        for (int j = 0; j < N_VOCAB; j++)
            better += logits[j] > logits[i] ? p[j] / sum : 0;
        assert_int_equal(counts[i] > 0, better < 0.5);
    }
    params.top_p = 1;
    params.min_p = 0.3f;
    double best = 0;
    for (int i = 0; i < N_VOCAB; i++)
        best = p[i] > best ? p[i] : best;
    draw_many(logits, &params, counts);
    for (int i = 0; i < N_VOCAB; i++)
        assert_int_equal(counts[i] > 0, p[i] >= 0.3 * best);
}

static void test_masks_and_penalties(void **state) {
    (void)state;
    float row[4] = {1, 4, 3, 2};
    int32_t tokens[] = {1, 1, 2}; /* one of prompt, two generated */
    char scratch[4 * 8];
    struct exec_sampling params = greedy();
    params.n_prompt = 1;
    assert_int_equal(exec_sample(row, 4, &params, tokens, 3, scratch), 1);
    params.n_stop_ids = 1;
    params.stop_ids[0] = 1;
    params.min_tokens = 3; /* only two are generated: the stop id is masked */
    memcpy(row, (float[]){1, 4, 3, 2}, sizeof row);
    assert_int_equal(exec_sample(row, 4, &params, tokens, 3, scratch), 2);
    params.min_tokens = 0;
    params.repetition_penalty = 4; /* 1 → 1, 2 → 0.75: 3 wins */
    memcpy(row, (float[]){1, 4, 3, 2}, sizeof row);
    assert_int_equal(exec_sample(row, 4, &params, tokens, 3, scratch), 3);
    params.repetition_penalty = 1;
    params.frequency_penalty = 1;
    params.presence_penalty = 1.5f;
    memcpy(row, (float[]){1, 4, 3, 2}, sizeof row);
    exec_sample(row, 4, &params, tokens, 3, scratch);
    assert_true(row[1] == 1.5f && row[2] == 0.5f && row[0] == 1 && row[3] == 2);
    params = greedy();
    params.n_bias = 1;
    params.bias[0] = (struct exec_bias){0, 100};
    memcpy(row, (float[]){1, 4, 3, 2}, sizeof row);
    assert_int_equal(exec_sample(row, 4, &params, tokens, 3, scratch), 0);
}

static void test_logprobs(void **state) {
    (void)state;
    float row[4] = {0, 2, 1, 2};
    struct exec_logprobs lp;
    double sum = log(1 + 2 * exp(2) + exp(1));
    exec_logprobs_of(row, 4, 2, 3, &lp);
    assert_true(fabs(lp.logprob - (1 - sum)) < 1e-6);
    assert_int_equal(lp.rank, 3);
    assert_int_equal(lp.n_top, 3);
    assert_int_equal(lp.top_ids[0], 1);
    assert_int_equal(lp.top_ids[1], 3);
    assert_int_equal(lp.top_ids[2], 2);
}

static void test_settings_there_and_back(void **state) {
    (void)state;
    struct exec_settings s = {.model = "m", .load_format = "auto", .dtype = "auto", .kv_cache_dtype = "auto", .seed = 1024, .tp_size = 2, .pp_size = 2,
                              .layers_per_stage = {3, 2}, .n_nodes = 2, .node_of_rank = {0, 0, 1, 1}, .threads_of_node = {1, 2}, .block_size = 16,
                              .max_seqs = 8, .max_step_tokens = 64, .max_model_len = 256, .op_timeout_ms = 1000},
                         back;
    struct err err;
    int node;
    json_t *json = exec_settings_to_json(&s, 1);
    assert_non_null(json);
    assert_int_equal(exec_settings_from_json(json, &back, &node, &err), 0);
    assert_int_equal(node, 1);
    assert_memory_equal(&s, &back, sizeof s);
    json_object_set_new(json, "tp_size", json_integer(3));
    assert_int_equal(exec_settings_from_json(json, &back, &node, &err), -1);
    json_decref(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_there_and_back),
        cmocka_unit_test(test_result_there_and_back),
        cmocka_unit_test(test_slots_refuse_what_does_not_fit),
        cmocka_unit_test(test_sampling_follows_the_distribution),
        cmocka_unit_test(test_masks_and_penalties),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_settings_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
