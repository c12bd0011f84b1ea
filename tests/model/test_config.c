/* Real configurations, what is refused and why, and splits of real geometries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "kernels/matrix.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/split.h"

static char folder[] = "/tmp/test_config.XXXXXX";

/* Text of a file in the folder; NULL removes it. */
static void put(const char *name, const char *text) {
    char path[256];
    struct err err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (text == NULL)
        unlink(path);
    else
        assert_int_equal(file_write_atomic(path, text, strlen(text), 0644, &err), 0);
}

static int setup(void **state) {
    (void)state;
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    put("config.json", NULL);
    put("generation_config.json", NULL);
    put("hf_quant_config.json", NULL);
    return rmdir(folder);
}

/* Loads one of the real configurations with overrides in JSON (or NULL). */
static int load_named(const char *name, const char *overrides, struct model_config *config, struct err *err) {
    char path[512];
    struct buf text;
    buf_init(&text, 1 << 20);
    snprintf(path, sizeof path, "%s/configs/%s_config.json", TEST_DATA_DIR, name);
    assert_int_equal(file_read(path, &text, err), 0);
    put("config.json", text.data);
    buf_finish(&text);
    json_t *merged = overrides == NULL ? NULL : json_parse(overrides, strlen(overrides), err);
    assert_true(overrides == NULL || merged != NULL);
    int rc = model_config_load(folder, NULL, merged, config, err);
    json_decref(merged);
    return rc;
}

static struct model_config must_load(const char *name, const char *overrides) {
    struct model_config config;
    struct err err;
    if (load_named(name, overrides, &config, &err) != 0)
        fail_msg("%s: %s", name, err.msg);
    return config;
}

/* The load fails with this code and a message that has the words. */
static void refused(const char *name, const char *overrides, enum err_code code, const char *words) {
    struct model_config config;
    struct err err;
    if (load_named(name, overrides, &config, &err) == 0)
        fail_msg("%s with %s was accepted", name, overrides);
    if (err.code != code || strstr(err.msg, words) == NULL)
        fail_msg("%s with %s: code %s, '%s' lacks '%s'", name, overrides, err_code_name(err.code), err.msg, words);
}

static void test_real_configurations(void **state) {
    (void)state;
    struct model_config c = must_load("Qwen--Qwen3-0.6B", NULL);
    assert_string_equal(c.architecture, "Qwen3ForCausalLM");
    assert_int_equal(c.n_layers, 28);
    assert_int_equal(c.head_dim, 128); /* more than hidden / heads */
    assert_int_equal(c.hidden, 1024);
    assert_int_equal(c.n_heads, 16);
    assert_int_equal(c.n_kv_heads, 8);
    assert_true(c.tied && c.qk_norm && !c.qkv_bias && c.n_experts == 0);
    assert_true(c.rope_theta == 1e6f && c.rope_scaling == MODEL_ROPE_PLAIN);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos[0], 151645);
    assert_int_equal(c.dtype, DTYPE_BF16);
    c = must_load("Qwen--Qwen3-235B-A22B", NULL);
    assert_int_equal(c.n_experts, 128);
    assert_int_equal(c.n_experts_active, 8);
    assert_int_equal(c.moe_intermediate, 1536);
    assert_true(c.norm_topk_prob && !c.tied);
    c = must_load("Qwen--Qwen3-Coder-480B-A35B-Instruct", NULL);
    assert_int_equal(c.max_position, 262144);
    must_load("Qwen--Qwen3-8B", NULL);
    must_load("Qwen--Qwen3-32B", NULL);
    must_load("Qwen--Qwen3-30B-A3B", NULL);
    must_load("Qwen--Qwen3-1.7B", NULL);
}

static void test_overrides_and_defaults(void **state) {
    (void)state;
    struct model_config c = must_load("Qwen--Qwen3-8B", "{\"num_hidden_layers\": 3, \"eos_token_id\": [7, 9], \"head_dim\": null}");
    assert_int_equal(c.n_layers, 3);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.head_dim, 128); /* 4096 / 32 */
    put("generation_config.json", "{\"eos_token_id\": [151645, 151643]}");
    c = must_load("Qwen--Qwen3-8B", NULL);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 151643);
    put("generation_config.json", NULL);
    /* Nested objects are merged. */
    c = must_load("Qwen--Qwen3-8B", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 32768, "
                                    "\"rope_theta\": 5000000}}");
    assert_int_equal(c.rope_scaling, MODEL_ROPE_YARN);
    assert_int_equal(c.max_position, 131072);
    assert_true(c.rope_theta == 5e6f && c.rope_beta_fast == 32 && c.rope_attn_factor == 0);
    c = must_load("Qwen--Qwen3-8B", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"dtype\": \"float32\"}");
    assert_int_equal(c.rope_scaling, MODEL_ROPE_LINEAR);
    assert_int_equal(c.max_position, 81920);
    assert_int_equal(c.dtype, DTYPE_F32);
    c = must_load("Qwen--Qwen3-8B", "{\"architectures\": [\"LlamaForCausalLM\"], \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
                                    "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}");
    assert_int_equal(c.rope_scaling, MODEL_ROPE_LLAMA3);
    assert_int_equal(c.rope_original_max, 8192);
    assert_int_equal(c.max_position, 40960);
    assert_false(c.qk_norm);
    c = must_load("Qwen--Qwen3-8B", "{\"architectures\": [\"Qwen2ForCausalLM\"], \"use_sliding_window\": false, \"sliding_window\": 4096}");
    assert_true(c.qkv_bias);
    c = must_load("Qwen--Qwen3-30B-A3B", "{\"num_experts\": null, \"num_local_experts\": 64}");
    assert_int_equal(c.n_experts, 64);
}

static void test_refusals(void **state) {
    (void)state;
    refused("Qwen--Qwen3-VL-4B-Instruct", NULL, ERR_UNSUPPORTED, "Qwen3MoeForCausalLM");
    refused("Qwen--Qwen3-VL-235B-A22B-Instruct", NULL, ERR_UNSUPPORTED, "'Qwen3VLMoeForConditionalGeneration'");
    refused("Qwen--Qwen3-32B-FP8-Static-PerTensor", NULL, ERR_UNSUPPORTED, "quantised with FP8, which is not supported; gptq");
    put("hf_quant_config.json", "{\"quantization\": {\"quant_algo\": \"NVFP4\"}}");
    refused("nvidia--Qwen3-235B-A22B-NVFP4", NULL, ERR_UNSUPPORTED, "NVFP4");
    put("hf_quant_config.json", NULL);
    static const struct {
        const char *overrides;
        enum err_code code;
        const char *words;
    } cases[] = {
        {"{\"use_sliding_window\": true, \"sliding_window\": 4096, \"max_window_layers\": 30}", ERR_UNSUPPORTED, "layers 30 to 35"},
        {"{\"layer_types\": [\"full_attention\", \"sliding_attention\"]}", ERR_UNSUPPORTED, "layer 1 as 'sliding_attention'"},
        {"{\"attention_bias\": true}", ERR_UNSUPPORTED, "attention_bias"},
        {"{\"hidden_act\": \"gelu\"}", ERR_UNSUPPORTED, "only silu"},
        {"{\"num_key_value_heads\": 5}", ERR_INVALID, "no multiple"},
        {"{\"head_dim\": 100}", ERR_UNSUPPORTED, "multiple of 8"},
        {"{\"head_dim\": null, \"hidden_size\": 4095}", ERR_INVALID, "4095"},
        {"{\"num_hidden_layers\": 0}", ERR_INVALID, "num_hidden_layers"},
        {"{\"num_hidden_layers\": \"three\"}", ERR_INVALID, "num_hidden_layers"},
        {"{\"vocab_size\": null}", ERR_INVALID, "\"vocab_size\" is missing"},
        {"{\"intermediate_size\": null}", ERR_INVALID, "intermediate_size"},
        {"{\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 4}}", ERR_UNSUPPORTED, "longrope"},
        {"{\"rope_scaling\": {\"rope_type\": \"default\", \"mrope_section\": [1]}}", ERR_UNSUPPORTED, "mrope_section"},
        {"{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0.5}}", ERR_INVALID, "1 or more"},
        {"{\"rope_scaling\": 4}", ERR_INVALID, "should be an object"},
        {"{\"rope_theta\": 0}", ERR_INVALID, "rope_theta"},
        {"{\"partial_rotary_factor\": 0.5}", ERR_UNSUPPORTED, "partial_rotary_factor"},
        {"{\"torch_dtype\": \"float8\"}", ERR_UNSUPPORTED, "float8"},
        {"{\"eos_token_id\": \"x\"}", ERR_INVALID, "eos_token_id"},
        {"{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}", ERR_LIMIT, "eos_token_id"},
        {"{\"architectures\": null}", ERR_INVALID, "architectures"},
        {"{\"use_qk_norm\": false}", ERR_UNSUPPORTED, "use_qk_norm"},
        {"{\"mlp_bias\": true}", ERR_UNSUPPORTED, "mlp_bias"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused("Qwen--Qwen3-8B", cases[i].overrides, cases[i].code, cases[i].words);
    refused("Qwen--Qwen3-30B-A3B", "{\"decoder_sparse_step\": 2}", ERR_UNSUPPORTED, "decoder_sparse_step");
    refused("Qwen--Qwen3-30B-A3B", "{\"mlp_only_layers\": [0, 3]}", ERR_UNSUPPORTED, "2 dense layers");
    refused("Qwen--Qwen3-30B-A3B", "{\"num_experts_per_tok\": 200}", ERR_INVALID, "128 experts");
    refused("Qwen--Qwen3-30B-A3B", "{\"shared_expert_intermediate_size\": 64}", ERR_UNSUPPORTED, "shared expert");
    refused("Qwen--Qwen3-30B-A3B", "{\"num_experts\": null}", ERR_INVALID, "num_experts");
}

/* A configuration of Qwen3-8B with this "quantization_config". */
static struct model_config quantised(const char *quantization_config) {
    char overrides[256];
    snprintf(overrides, sizeof overrides, "{\"quantization_config\": {%s}}", quantization_config);
    return must_load("Qwen--Qwen3-8B", overrides);
}

static void test_quantised_checkpoints(void **state) {
    (void)state;
    static const char *const fp8[] = {"Qwen--Qwen3-235B-A22B-FP8", "Qwen--Qwen3-32B-FP8", "Qwen--Qwen3-30B-A3B-FP8"};
    for (int i = 0; i < 3; i++) {
        struct model_config c = must_load(fp8[i], NULL);
        assert_int_equal(c.quant, WEIGHTS_QUANT_FP8);
        assert_int_equal(c.dtype, DTYPE_BF16);
        assert_int_equal(c.layer_dtype, DTYPE_F8_E4M3);
        assert_int_equal(c.weight_block, 32);
        assert_false(c.quantises);
    }
    struct model_config c = quantised("\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"desc_act\": false, \"sym\": true");
    assert_int_equal(c.quant, WEIGHTS_QUANT_GPTQ);
    assert_int_equal(c.layer_dtype, DTYPE_Q4_1);
    c = must_load("Qwen--Qwen3-8B", NULL);
    assert_int_equal(c.layer_dtype, DTYPE_BF16);
    assert_int_equal(c.weight_block, 1);
    static const char *const refusals[][2] = {
        {"\"quant_method\": \"awq\", \"bits\": 4", "awq"},
        {"\"quant_method\": \"compressed-tensors\"", "quantised with compressed-tensors"},
        {"\"bits\": 4", "an unnamed method"},
        {"\"quant_method\": \"gptq\", \"bits\": 8, \"group_size\": 128", "\"bits\": 8"},
        {"\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": -1", "\"group_size\": -1"},
        {"\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"desc_act\": true", "\"desc_act\": true"},
        {"\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"checkpoint_format\": \"marlin\"", "marlin"},
        {"\"quant_method\": \"fp8\", \"activation_scheme\": \"dynamic\"", "one scale per tensor"},
        {"\"quant_method\": \"fp8\", \"activation_scheme\": \"static\"", "static"},
        {"\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"", "e5m2"},
        {"\"quant_method\": \"fp8\", \"weight_block_size\": [128, 48]", "multiples of [16, 32]"},
        {"\"quant_method\": \"fp8\", \"weight_block_size\": 128", "multiples of [16, 32]"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        char overrides[256];
        snprintf(overrides, sizeof overrides, "{\"quantization_config\": {%s}}", refusals[i][0]);
        refused("Qwen--Qwen3-8B", overrides, ERR_UNSUPPORTED, refusals[i][1]);
    }
}

static void test_quantization_option(void **state) {
    (void)state;
    struct err err;
    struct model_config c = must_load("Qwen--Qwen3-8B", NULL);
    assert_int_equal(model_config_quantize(&c, NULL, NULL, &err), 0);
    assert_int_equal(model_config_quantize(&c, NULL, "", &err), 0);
    assert_false(c.quantises);
    static const char *const wrong[] = {"int5", "gptq", "fp8", "gguf", "awq"};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(model_config_quantize(&c, NULL, wrong[i], &err), -1);
        assert_int_equal(err.code, ERR_INVALID);
        assert_non_null(strstr(err.msg, "the model is made of floats; possible are int8, int4"));
    }
    assert_int_equal(model_config_quantize(&c, NULL, "int8", &err), 0);
    assert_true(c.quantises && c.layer_dtype == DTYPE_Q8_0 && c.weight_block == 32);
    c = must_load("Qwen--Qwen3-8B", NULL);
    assert_int_equal(model_config_quantize(&c, NULL, "int4", &err), 0);
    assert_true(c.quantises && c.layer_dtype == DTYPE_Q4_1);
    c = must_load("Qwen--Qwen3-32B-FP8", NULL);
    assert_int_equal(model_config_quantize(&c, NULL, "fp8", &err), 0);
    assert_false(c.quantises);
    assert_int_equal(model_config_quantize(&c, NULL, "int4", &err), -1);
    assert_non_null(strstr(err.msg, "quantised already (fp8); possible are fp8"));
    c = quantised("\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128");
    assert_int_equal(model_config_quantize(&c, NULL, "gptq_marlin", &err), 0);
    assert_int_equal(model_config_quantize(&c, NULL, "gptq", &err), 0);
    assert_int_equal(model_config_quantize(&c, NULL, "fp8", &err), -1);
}

static void test_a_folder_without_configuration(void **state) {
    (void)state;
    struct model_config config;
    struct err err;
    put("config.json", NULL);
    assert_int_equal(model_config_load(folder, NULL, NULL, &config, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    put("config.json", "[1]");
    assert_int_equal(model_config_load(folder, NULL, NULL, &config, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    put("config.json", "{");
    assert_int_equal(model_config_load(folder, NULL, NULL, &config, &err), -1);
}

/* --- splits --- */

/* Every rank's split is valid, and together they have each part once (KV heads as often as they are replicated). */
static void check_split(const struct model_config *c, int tp, int pp, bool ep, const int *layers) {
    int layer = 0;
    for (int stage = 0; stage < pp; stage++) {
        int head = 0, ffn = 0, moe_ffn = 0, expert = 0, row = 0;
        struct model_split s;
        for (int i = 0; i < tp; i++) {
            struct err err;
            if (model_split_compute(c, tp, pp, ep, layers, stage * tp + i, &s, &err) != 0)
                fail_msg("tp %d, pp %d: %s", tp, pp, err.msg);
            assert_int_equal(s.tp_rank, i);
            assert_int_equal(s.pp_rank, stage);
            assert_int_equal(s.layer_begin, layer);
            assert_int_equal(s.head_begin, head);
            head += s.n_heads;
            /* Each query head finds its KV head here. */
            for (int h = s.head_begin; h < head; h++) {
                int kv = h / (c->n_heads / c->n_kv_heads) - s.kv_head_begin;
                assert_in_range(kv, 0, s.n_kv_heads - 1);
                assert_int_equal(kv, (h - s.head_begin) / (s.n_heads / s.n_kv_heads));
            }
            assert_int_equal(s.ffn_begin, ffn);
            ffn += s.ffn_len;
            assert_int_equal(s.ffn_len % c->weight_block, 0);
            assert_int_equal(s.vocab_begin, row);
            assert_int_equal(s.vocab_begin % KERNELS_PANEL_ROWS, 0);
            row += s.vocab_len;
            if (c->n_experts > 0 && ep) {
                assert_int_equal(s.expert_begin, expert);
                expert += s.n_experts;
                assert_int_equal(s.moe_ffn_len, c->moe_intermediate);
            } else if (c->n_experts > 0) {
                assert_int_equal(s.moe_ffn_begin, moe_ffn);
                moe_ffn += s.moe_ffn_len;
                assert_int_equal(s.n_experts, c->n_experts);
            }
            assert_int_equal(s.has_embedding, stage == 0);
            assert_int_equal(s.has_head, stage == pp - 1);
        }
        assert_int_equal(head, c->n_heads);
        assert_int_equal(row, c->n_vocab);
        assert_int_equal(c->n_experts > 0 ? 0 : c->intermediate, ffn);
        assert_int_equal(c->n_experts > 0 && ep ? c->n_experts : 0, expert);
        assert_int_equal(c->n_experts > 0 && !ep ? c->moe_intermediate : 0, moe_ffn);
        layer = s.layer_end;
    }
    assert_int_equal(layer, c->n_layers);
}

static void test_splits_of_real_models(void **state) {
    (void)state;
    struct model_config c = must_load("Qwen--Qwen3-235B-A22B", NULL);
    for (int tp = 1; tp <= 64; tp *= 2)
        for (int pp = 1; pp <= 5; pp++)
            for (int ep = 0; ep < 2; ep++)
                check_split(&c, tp, pp, ep, NULL);
    c = must_load("Qwen--Qwen3-Coder-480B-A35B-Instruct", NULL);
    for (int tp = 1; tp <= 96; tp++)
        if (c.n_heads % tp == 0 && (c.n_kv_heads % tp == 0 || tp % c.n_kv_heads == 0))
            check_split(&c, tp, 3, true, NULL);
    c = must_load("Qwen--Qwen3-0.6B", NULL);
    check_split(&c, 16, 28, false, NULL);
    check_split(&c, 2, 3, false, (int[]){1, 26, 1});
}

static void test_stages(void **state) {
    (void)state;
    struct model_config c = must_load("Qwen--Qwen3-235B-A22B", NULL); /* 94 layers */
    struct model_split s;
    struct err err;
    const int expected[] = {23, 24, 24, 23}; /* the stages between get the remainder */
    for (int stage = 0; stage < 4; stage++) {
        assert_int_equal(model_split_compute(&c, 1, 4, false, NULL, stage, &s, &err), 0);
        assert_int_equal(s.layer_end - s.layer_begin, expected[stage]);
    }
    /* A small model's output head weighs as much as ten of its layers. */
    struct model_config small = must_load("Qwen--Qwen3-0.6B", NULL); /* 28 layers */
    const int weighed[] = {9, 9, 9, 1, 19, 9};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(model_split_compute(&small, 1, i < 4 ? 4 : 2, false, NULL, i < 4 ? i : i - 4, &s, &err), 0);
        assert_int_equal(s.layer_end - s.layer_begin, weighed[i]);
    }
    /* Bytes count, not weights: beside layers of four bits a head of six is as heavy as fourteen. */
    small.layer_dtype = DTYPE_Q4_0;
    small.head_dtype = DTYPE_Q6_K;
    for (int stage = 0; stage < 2; stage++) {
        assert_int_equal(model_split_compute(&small, 1, 2, false, NULL, stage, &s, &err), 0);
        assert_int_equal(s.layer_end - s.layer_begin, stage == 0 ? 21 : 7);
    }
    assert_int_equal(model_split_compute(&c, 1, 95, false, NULL, 0, &s, &err), -1);
    assert_non_null(strstr(err.msg, "1 to 94"));
    assert_int_equal(model_split_compute(&c, 1, 2, false, (int[]){50, 43}, 0, &s, &err), -1);
    assert_non_null(strstr(err.msg, "sum to 93; the model has 94"));
    assert_int_equal(model_split_compute(&c, 1, 2, false, (int[]){94, 0}, 0, &s, &err), -1);
    assert_int_equal(model_split_compute(&c, 2, 2, false, NULL, 4, &s, &err), -1);
    const int by_hand[] = {24, 24, 23, 23};
    for (int stage = 0, begin = 0; stage < 4; begin += by_hand[stage++]) {
        assert_int_equal(model_split_compute(&c, 8, 4, true, by_hand, stage * 8 + 5, &s, &err), 0);
        assert_int_equal(s.layer_begin, begin);
        assert_int_equal(s.layer_end, begin + by_hand[stage]);
    }
}

/* 64 heads, 4 KV heads, 128 experts. */
static void test_splits_of_the_235b(void **state) {
    (void)state;
    struct model_config c = must_load("Qwen--Qwen3-235B-A22B", NULL);
    struct model_split s;
    struct err err;
    static const int impossible[] = {3, 5, 6, 7, 12, 24, 48, 128};
    for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
        for (int ep = 0; ep < 2; ep++) {
            char expected[160];
            assert_int_equal(model_split_compute(&c, impossible[i], 1, ep, NULL, 0, &s, &err), -1);
            snprintf(expected, sizeof expected, "64 heads and 4 KV heads cannot be split over %d tensor-parallel ranks; possible are 1, 2, 4, 8, 16, 32, 64",
                     impossible[i]);
            assert_string_equal(err.msg, expected);
        }
    }
    /* Both commands of the guide; more ranks than KV heads share them. */
    assert_int_equal(model_split_compute(&c, 8, 2, true, NULL, 8 + 5, &s, &err), 0);
    assert_true(s.layer_begin == 47 && s.layer_end == 94 && !s.has_embedding && s.has_head);
    assert_true(s.head_begin == 40 && s.n_heads == 8 && s.kv_head_begin == 2 && s.n_kv_heads == 1);
    assert_true(s.expert_begin == 80 && s.n_experts == 16 && s.moe_ffn_len == 1536);
    assert_int_equal(model_split_compute(&c, 16, 1, true, NULL, 15, &s, &err), 0);
    assert_true(s.layer_begin == 0 && s.layer_end == 94 && s.has_embedding && s.has_head);
    assert_true(s.head_begin == 60 && s.n_heads == 4 && s.kv_head_begin == 3 && s.n_kv_heads == 1);
    assert_true(s.expert_begin == 120 && s.n_experts == 8);
    /* Without expert parallelism each rank has a slice of all experts. */
    assert_int_equal(model_split_compute(&c, 16, 1, false, NULL, 15, &s, &err), 0);
    assert_true(s.n_experts == 128 && s.moe_ffn_begin == 1440 && s.moe_ffn_len == 96);
    assert_int_equal(model_split_compute(&c, 32, 1, false, NULL, 31, &s, &err), 0);
    assert_true(s.head_begin == 62 && s.n_heads == 2 && s.kv_head_begin == 3 && s.n_kv_heads == 1);
    /* Whole experts need not come out even: the first ranks have one more. */
    c = must_load("Qwen--Qwen3-235B-A22B", "{\"num_experts\": 20}");
    check_split(&c, 8, 2, true, NULL);
    assert_int_equal(model_split_compute(&c, 8, 1, true, NULL, 3, &s, &err), 0);
    assert_true(s.expert_begin == 9 && s.n_experts == 3);
    assert_int_equal(model_split_compute(&c, 8, 1, true, NULL, 4, &s, &err), 0);
    assert_true(s.expert_begin == 12 && s.n_experts == 2);
    assert_int_equal(model_split_compute(&c, 32, 1, true, NULL, 0, &s, &err), -1);
    assert_string_equal(err.msg, "20 experts are fewer than 32 ranks; possible tensor-parallel sizes are 1, 2, 4, 8, 16");
}

static void test_sizes_that_do_not_divide(void **state) {
    (void)state;
    struct model_config c = must_load("Qwen--Qwen3-0.6B", "{\"architectures\": [\"LlamaForCausalLM\"], \"num_attention_heads\": 9, "
                                                          "\"num_key_value_heads\": 3, \"head_dim\": 64, \"intermediate_size\": 1536}");
    struct model_split s;
    struct err err;
    assert_int_equal(model_split_compute(&c, 2, 1, false, NULL, 0, &s, &err), -1);
    assert_string_equal(err.msg, "9 heads and 3 KV heads cannot be split over 2 tensor-parallel ranks; possible are 1, 3, 9");
    check_split(&c, 3, 2, false, NULL);
    check_split(&c, 9, 1, false, NULL); /* 48 groups of 32 columns over 9 ranks: 6 or 5 each */
    c.weight_block = 256;
    assert_int_equal(model_split_compute(&c, 9, 1, false, NULL, 0, &s, &err), -1);
    assert_string_equal(err.msg, "1536 feed-forward columns in blocks of 256 cannot be split over 9 tensor-parallel ranks; possible are 1, 3");
    c = must_load("Qwen--Qwen3-30B-A3B", "{\"num_attention_heads\": 128, \"num_experts\": 16}");
    assert_int_equal(model_split_compute(&c, 32, 1, true, NULL, 0, &s, &err), -1);
    assert_string_equal(err.msg, "16 experts are fewer than 32 ranks; possible tensor-parallel sizes are 1, 2, 4, 8, 16");
    c = must_load("Qwen--Qwen3-8B", "{\"num_attention_heads\": 12, \"num_key_value_heads\": 4}");
    assert_int_equal(model_split_compute(&c, 6, 1, false, NULL, 0, &s, &err), -1); /* a rank would straddle two KV heads */
    assert_non_null(strstr(err.msg, "possible are 1, 2, 4, 12"));
}

/* --- rotary tables --- */

static void rope_of(const char *overrides, float *cos_row, float *sin_row, int position) {
    struct model_config c = must_load("Qwen--Qwen3-8B", overrides);
    struct model model = {.config = c, .opts.max_context = position + 1};
    struct err err;
    assert_int_equal(team_create(1, NULL, &model.opts.team, &err), 0);
    size_t n = (size_t)(position + 1) * 64;
    model.rope_cos = malloc(n * sizeof(float));
    model.rope_sin = malloc(n * sizeof(float));
    model_rope_fill(&model, NULL);
    memcpy(cos_row, model.rope_cos + n - 64, 64 * sizeof(float));
    memcpy(sin_row, model.rope_sin + n - 64, 64 * sizeof(float));
    free(model.rope_cos);
    free(model.rope_sin);
    team_destroy(model.opts.team);
}

/* What rope_frequencies.py makes of each scaling. */
#include "model/rope_frequencies.h"

static void test_rope_scaling(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rope_cases / sizeof rope_cases[0]; i++) {
        float cos_row[64], sin_row[64];
        rope_of(rope_cases[i].overrides, cos_row, sin_row, 1); /* at position 1 the angle is the frequency */
        for (int d = 0; d < 64; d++) {
            double f = (double)rope_cases[i].frequencies[d], m = rope_cases[i].magnitude;
            if (fabs((double)sin_row[d] - sin(f) * m) > 2e-6 * sin(f) * m + 1e-12 || fabs((double)cos_row[d] - cos(f) * m) > 1e-6)
                fail_msg("%s: dimension %d turns by %.9g at %.9g instead of %.9g at %.9g", rope_cases[i].overrides, d,
                         atan2((double)sin_row[d], (double)cos_row[d]), hypot((double)sin_row[d], (double)cos_row[d]), f, m);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_configurations),
        cmocka_unit_test(test_overrides_and_defaults),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_quantised_checkpoints),
        cmocka_unit_test(test_quantization_option),
        cmocka_unit_test(test_a_folder_without_configuration),
        cmocka_unit_test(test_splits_of_real_models),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_splits_of_the_235b),
        cmocka_unit_test(test_sizes_that_do_not_divide),
        cmocka_unit_test(test_rope_scaling),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
