/* cmd: command lines and --config files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "cmd/options.h"

enum { MAX_WORDS = 64 };

/* Splits at blanks; words live in static memory. */
static int parse(const char *line, struct options *ret, struct err *err) {
    static char text[2048];
    char *argv[MAX_WORDS];
    int argc = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word != NULL && argc < MAX_WORDS; word = strtok(NULL, " "))
        argv[argc++] = word;
    return options_parse(OPTIONS_SERVE, argc, argv, ret, err);
}

static void check_refused(const char *line, const char *message) {
    struct options options;
    struct err err;
    assert_int_equal(parse(line, &options, &err), -1);
    assert_string_equal(err.msg, message);
}

static void test_the_guides_command(void **state) {
    (void)state;
    struct options o;
    struct err err;
    assert_int_equal(parse("Qwen/Qwen3-235B-A22B --distributed-executor-backend ray --pipeline-parallel-size 2 --tensor-parallel-size 8 "
                           "--enable-expert-parallel --seed 1024 --max-model-len 8192 --max-num-seqs 25 --served-model-name qwen "
                           "--trust-remote-code --gpu-memory-utilization 0.9",
                           &o, &err),
                     0);
    assert_string_equal(o.model, "Qwen/Qwen3-235B-A22B");
    assert_string_equal(o.distributed_executor_backend, "ray");
    assert_int_equal(o.pipeline_parallel_size, 2);
    assert_int_equal(o.tensor_parallel_size, 8);
    assert_true(o.enable_expert_parallel && o.trust_remote_code);
    assert_int_equal(o.seed, 1024);
    assert_int_equal(o.max_model_len, 8192);
    assert_int_equal(o.max_num_seqs, 25);
    assert_string_equal(o.served_model_name.items[0], "qwen");
    assert_true(o.gpu_memory_utilization == 0.9);
    options_finish(&o);
}

static void test_forms_of_flags(void **state) {
    (void)state;
    struct options o;
    struct err err;
    assert_int_equal(parse("-tp 2 -pp=3 m --seed 9007199254740993 --max_model_len 8k --kv-cache-memory-bytes=1.5GiB --no-enable-prefix-caching --api-key a b -n 2 -r 1 "
                           "--hf-overrides.num_hidden_layers 2 --hf-overrides.rope_parameters.rope_type yarn --allowed-origins [\"x\",\"y\"] --headless",
                           &o, &err),
                     0);
    assert_int_equal(o.tensor_parallel_size, 2);
    assert_int_equal(o.pipeline_parallel_size, 3);
    assert_string_equal(o.model, "m");
    assert_true(o.seed == 9007199254740993u); /* 2^53 + 1 */
    assert_int_equal(o.max_model_len, 8000);
    assert_int_equal(o.kv_cache_memory_bytes, 1610612736);
    assert_false(o.enable_prefix_caching);
    assert_int_equal(o.api_key.n, 2);
    assert_null(o.api_key.items[2]);
    assert_int_equal(o.nnodes, 2);
    assert_int_equal(json_integer_value(json_object_get(o.hf_overrides, "num_hidden_layers")), 2);
    assert_string_equal(json_string_value(json_object_get(json_object_get(o.hf_overrides, "rope_parameters"), "rope_type")), "yarn");
    assert_int_equal(o.allowed_origins.n, 2);
    assert_string_equal(o.allowed_origins.items[1], "y");
    assert_int_equal(o.port, 8000);
    options_finish(&o);
}

static void test_refusals_say_what_is_possible(void **state) {
    (void)state;
    check_refused("", "which model? usage: shoal serve MODEL [options]");
    check_refused("m --tensor-paralel-size 2", "unknown option --tensor-paralel-size; did you mean --tensor-parallel-size?");
    check_refused("m --zzz", "unknown option --zzz; 'shoal serve --help' lists all");
    check_refused("m --port 70000", "--port 70000: 0 to 65535 are possible");
    check_refused("m --port abc", "--port should be a whole number, but is 'abc'");
    check_refused("m --max-num-seqs 1.5", "--max-num-seqs should be a whole number, but is '1.5'");
    check_refused("m --dtype int3", "--dtype int3: possible are auto,bfloat16,float32,float,half,float16");
    check_refused("m --seed", "--seed needs a value (N)");
    check_refused("m n", "'n' is one word too many: the model is 'm'");
    check_refused("m --hf-overrides [1]", "--hf-overrides should be a JSON object, but is a list");
    check_refused("m --enable-lora", "--enable-lora is not supported: LoRA adapters are not supported");
    check_refused("m --ssl-keyfile k", "--ssl-keyfile and --ssl-certfile belong together");
    check_refused("m --nnodes 2 --node-rank 2", "--node-rank 2 of --nnodes 2 does not exist");
}

static void test_flags_of_vllm_without_meaning_are_passed_over(void **state) {
    (void)state;
    struct options o;
    struct err err;
    assert_int_equal(parse("m --attention-backend X --disable-custom-all-reduce --cudagraph-capture-sizes 1 2 4 --moe-backend=auto --port 9", &o, &err), 0);
    assert_int_equal(o.port, 9);
    options_finish(&o);
}

static void with_file(const char *text, char path[64]) {
    strcpy(path, "/tmp/shoal-options-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void test_config_file(void **state) {
    (void)state;
    struct options o;
    struct err err;
    char path[64], line[256], wanted[256];
    with_file("# a comment\nmodel: some/model\nport: 12 # behind\ntensor_parallel_size: 2\nserved-model-name:\n  - a\n  - \"b c\"\nenable-expert-parallel: true\n", path);
    snprintf(line, sizeof line, "--config %s --port 13", path);
    assert_int_equal(parse(line, &o, &err), 0);
    assert_string_equal(o.model, "some/model");
    assert_int_equal(o.port, 13);
    assert_int_equal(o.tensor_parallel_size, 2);
    assert_string_equal(o.served_model_name.items[1], "b c");
    assert_true(o.enable_expert_parallel);
    options_finish(&o);
    unlink(path);
    with_file("port: 12\nprot: 3\n", path);
    snprintf(line, sizeof line, "--config=%s m", path);
    snprintf(wanted, sizeof wanted, "%s line 2: 'prot' is no option; 'shoal serve --help' lists all", path);
    check_refused(line, wanted);
    unlink(path);
}

int main(void) {
    log_setup(LOG_ERROR, "test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_guides_command),
        cmocka_unit_test(test_forms_of_flags),
        cmocka_unit_test(test_refusals_say_what_is_possible),
        cmocka_unit_test(test_flags_of_vllm_without_meaning_are_passed_over),
        cmocka_unit_test(test_config_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
