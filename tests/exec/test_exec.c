/* exec: frame bodies there and back, slots, settings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

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
    sampling.n_logprob_ids = 2;
    sampling.logprob_ids[1] = 77;
    sampling.n_allowed = 1;
    sampling.allowed[0] = 9;
    sampling.n_bad = 5;
    memcpy(sampling.bad, (int32_t[]){1, 8, 2, 6, 7}, 5 * sizeof sampling.bad[0]);
    sampling.seed = UINT64_MAX - 1;
    struct exec_entry entries[] = {
        {.slot = 3, .fresh = true, .position = 0, .n_tokens = 3, .tokens = tokens, .n_new_blocks = 2, .new_blocks = blocks, .next_token = 8, .sampling = &sampling},
        {.slot = 0, .samples = true, .position = 31, .n_tokens = 1, .tokens = tokens + 1, .first_block = 2, .new_blocks = blocks, .next_token = -1},
        {.slot = 1, .fresh = true, .position = 2, .cached = tokens, .n_tokens = 1, .tokens = tokens + 2, .n_new_blocks = 1, .new_blocks = blocks, .sampling = &sampling},
    };
    struct exec_step step = {.number = 77, .n_entries = 3, .n_tokens = 5, .entries = entries}, back;
    struct err err;
    struct buf body;
    buf_init(&body, 1 << 16);
    assert_int_equal(exec_step_encode(&step, &body), 0);
    assert_int_equal(exec_step_decode(&body, &back, &err), 0);
    assert_int_equal(back.number, 77);
    assert_int_equal(back.n_tokens, 5);
    assert_memory_equal(back.entries[0].tokens, tokens, sizeof tokens);
    assert_memory_equal(back.entries[0].new_blocks, blocks, sizeof blocks);
    assert_memory_equal(back.entries[0].sampling, &sampling, offsetof(struct exec_sampling, stop_ids));
    assert_int_equal(back.entries[0].sampling->stop_ids[1], 42);
    assert_true(back.entries[0].sampling->bias[0].bias == -1.5f);
    assert_int_equal(back.entries[0].sampling->logprob_ids[1], 77);
    assert_int_equal(back.entries[0].sampling->allowed[0], 9);
    assert_memory_equal(back.entries[0].sampling->bad, sampling.bad, 5 * sizeof sampling.bad[0]);
    assert_int_equal(back.entries[0].next_token, 8);
    assert_true(back.entries[1].samples && !back.entries[1].fresh);
    assert_memory_equal(back.entries[2].cached, tokens, 2 * sizeof tokens[0]);
    assert_int_equal(back.entries[2].tokens[0], 7);
    exec_step_finish(&back);
    /* Lengths of bad words that do not add up are refused. */
    struct exec_sampling crooked = sampling;
    crooked.bad[2] = 3;
    entries[0].sampling = &crooked;
    struct buf other;
    buf_init(&other, 1 << 16);
    assert_int_equal(exec_step_encode(&step, &other), 0);
    assert_int_equal(exec_step_decode(&other, &back, &err), -1);
    assert_string_equal(err.msg, "malformed frame: bad words that do not add up");
    buf_finish(&other);
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

/* A sequence whose beginning is cached, and one that goes on from its own sample. */
static void test_slots_take_what_the_driver_does_not_send(void **state) {
    (void)state;
    struct exec_slots slots;
    struct err err;
    int32_t tokens[] = {7, 8, 9}, blocks[] = {1, 2, 3}, own[] = {EXEC_TOKEN_SAMPLED, 5};
    struct exec_sampling sampling = greedy();
    assert_int_equal(exec_slots_init(&slots, 2, 64, 2, 8, &err), 0);
    struct exec_entry e = {
        .fresh = true, .position = 2, .cached = tokens, .n_tokens = 1, .tokens = tokens + 2, .n_new_blocks = 2, .new_blocks = blocks, .sampling = &sampling};
    struct exec_entry ahead = {.position = 3, .n_tokens = 1, .tokens = own, .first_block = 2, .new_blocks = blocks + 2};
    assert_int_equal(exec_slots_apply(&slots, &e, &err), 0);
    assert_memory_equal(slots.slots[0].tokens, tokens, sizeof tokens);
    assert_int_equal(exec_slots_apply(&slots, &ahead, &err), -1);
    assert_string_equal(err.msg, "a step wants slot 0 to go on from its own sample at 3; it has none there");
    exec_slots_keep_sample(&slots, &e, 44);
    ahead.n_tokens = 2;
    ahead.n_new_blocks = 1;
    assert_int_equal(exec_slots_apply(&slots, &ahead, &err), -1);
    ahead.n_tokens = 1;
    ahead.n_new_blocks = 0;
    assert_int_equal(exec_slots_apply(&slots, &ahead, &err), 0);
    assert_int_equal(slots.slots[0].tokens[3], 44);
    ahead.position = 4;
    ahead.n_new_blocks = 1;
    assert_int_equal(exec_slots_apply(&slots, &ahead, &err), -1); /* that sample is used up */
    assert_int_equal(slots.slots[0].n_tokens, 4);
    exec_slots_finish(&slots);
}

static void test_settings_there_and_back(void **state) {
    (void)state;
    struct exec_settings s = {.model = "m", .load_format = "auto", .dtype = "auto", .quantization = "int4", .kv_cache_dtype = "auto", .seed = 1024, .tp_size = 2, .pp_size = 2,
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
        cmocka_unit_test(test_slots_take_what_the_driver_does_not_send),
        cmocka_unit_test(test_settings_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
