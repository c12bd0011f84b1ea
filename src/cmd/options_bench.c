/* The options of `shoal bench serve`, `latency` and `throughput`: vLLM's names and defaults. Data only. */
#include "cmd/options_table.h"

#define AT(field) offsetof(struct options, field)
#define SECTION(title, entries) {title, entries, sizeof entries / sizeof entries[0]}

static const struct options_entry server_entries[] = {
    {"backend", NULL, OPTIONS_CHOICE, AT(bench.backend), "openai", "openai,vllm,openai-chat", 0, 0, "Completions (openai, vllm) or chat completions"},
    {"base-url", NULL, OPTIONS_STR, AT(bench.base_url), NULL, "URL", 0, 0, "The server, instead of host and port"},
    {"host", NULL, OPTIONS_STR, AT(bench.host), "127.0.0.1", "ADDR", 0, 0, "The server's host"},
    {"port", NULL, OPTIONS_INT, AT(bench.port), "8000", "N", 1, 65535, "The server's port"},
    {"endpoint", NULL, OPTIONS_STR, AT(bench.endpoint), NULL, "PATH", 0, 0, "Route; /v1/completions or /v1/chat/completions by default"},
    {"header", NULL, OPTIONS_LIST, AT(bench.header), NULL, "KEY=VALUE", 0, 0, "Further headers of each request"},
    {"model", NULL, OPTIONS_STR, AT(model), NULL, "NAME", 0, 0, "Model to ask for; the server's first one by default"},
    {"served-model-name", NULL, OPTIONS_LIST, AT(served_model_name), NULL, "NAME", 0, 0, "Its name in the API, if --model is a path"},
    {"tokenizer", NULL, OPTIONS_STR, AT(tokenizer), NULL, "PATH", 0, 0, "Folder, tokenizer.json, GGUF file or hub name; prompts then go as text"},
    {"revision", NULL, OPTIONS_STR, AT(revision), NULL, "REV", 0, 0, "Of the tokenizer on the hub"},
    {"trust-remote-code", NULL, OPTIONS_BOOL, AT(trust_remote_code), "false", NULL, 0, 0, "Accepted; shoal runs no code of models"},
    {"request-rate", NULL, OPTIONS_STR, AT(bench.request_rate), "inf", "PER-SECOND", 0, 0, "Requests sent per second; inf: all at once"},
    {"burstiness", NULL, OPTIONS_DOUBLE, AT(bench.burstiness), "1", "SHAPE", 0.01, 1e6, "Of the gaps between them; 1: Poisson, less: in bursts, more: evenly"},
    {"max-concurrency", NULL, OPTIONS_INT, AT(bench.max_concurrency), "0", "N", 0, 1 << 20, "Most requests under way at once; 0: no limit"},
    {"num-warmups", NULL, OPTIONS_INT, AT(bench.num_warmups), "0", "N", 0, 1 << 20, "Requests before the clock starts, with prompts of their own"},
    {"ready-check-timeout-sec", NULL, OPTIONS_INT, AT(bench.ready_check_timeout_s), "0", "SECONDS", 0, 86400, "How long to wait for a first answer; 0: no such check"},
    {"request-timeout-sec", NULL, OPTIONS_INT, AT(bench.request_timeout_s), "21600", "SECONDS", 1, 604800, "A request that takes longer has failed"},
    {"request-id-prefix", NULL, OPTIONS_STR, AT(bench.request_id_prefix), NULL, "TEXT", 0, 0, "X-Request-Id is this and a number; random by default"},
    {"ignore-eos", NULL, OPTIONS_BOOL, AT(bench.ignore_eos), "false", NULL, 0, 0, "Answers of full length; always with random prompts"},
    {"temperature", NULL, OPTIONS_DOUBLE, AT(bench.temperature), "-1", "T", -1, 100, "Sampling temperature; -1: the server's default"},
    {"top-p", NULL, OPTIONS_DOUBLE, AT(bench.top_p), "-1", "P", -1, 1, "Likewise"},
    {"top-k", NULL, OPTIONS_INT, AT(bench.top_k), "-1", "K", -1, 1 << 30, "Likewise"},
    {"min-p", NULL, OPTIONS_DOUBLE, AT(bench.min_p), "-1", "P", -1, 1, "Likewise"},
    {"extra-body", NULL, OPTIONS_JSON, AT(bench.extra_body), NULL, "JSON", 0, 0, "Merged into each request"},
};
const struct options_section options_section_bench_server = SECTION("Server and traffic", server_entries);

#define DATASET_ENTRIES                                                                                                                            \
    {"dataset-name", NULL, OPTIONS_CHOICE, AT(bench.dataset_name), "random", "random,sharegpt-lengths,custom", 0, 0,                               \
     "Random tokens; random with lengths from a CSV file; JSON lines {\"prompt\": …}"},                                                            \
        {"dataset-path", NULL, OPTIONS_STR, AT(bench.dataset_path), NULL, "FILE", 0, 0, "File of the others"},                                     \
        {"num-prompts", NULL, OPTIONS_INT, AT(bench.num_prompts), "1000", "N", 1, 1 << 19, "How many requests"},                                   \
        {"random-input-len", "--input-len", OPTIONS_INT, AT(bench.input_len), "1024", "N", 1, 1 << 20, "Tokens of a random prompt"},               \
        {"random-output-len", "--output-len", OPTIONS_INT, AT(bench.output_len), "128", "N", 1, 1 << 20, "Tokens of its answer"},                  \
        {"random-range-ratio", NULL, OPTIONS_DOUBLE, AT(bench.random_range_ratio), "0", "SHARE", 0, 1, "Both lengths vary by this share up and down"}, \
        {"random-prefix-len", NULL, OPTIONS_INT, AT(bench.random_prefix_len), "0", "N", 0, 1 << 19, "Tokens that all random prompts begin with"},  \
        {"custom-output-len", NULL, OPTIONS_INT, AT(bench.custom_output_len), "256", "N", -1, 1 << 20, "Tokens of an answer to a custom prompt; -1: its \"output_tokens\""}, \
        {"disable-shuffle", NULL, OPTIONS_BOOL, AT(bench.disable_shuffle), "false", NULL, 0, 0, "Take a file's lines in order"},                   \
        {"no-oversample", NULL, OPTIONS_BOOL, AT(bench.no_oversample), "false", NULL, 0, 0, "Never repeat a file's lines"}

static const struct options_entry prompts_entries[] = {
    DATASET_ENTRIES,
    {"random-vocab", NULL, OPTIONS_INT, AT(bench.random_vocab), "1000", "N", 1, 1 << 24, "Random prompts without a tokenizer are of token ids below this"},
    {"seed", NULL, OPTIONS_INT, AT(seed), "0", "N", 0, 9e18, "Of prompts and arrivals"},
};
const struct options_section options_section_bench_prompts = SECTION("Prompts", prompts_entries);

static const struct options_entry results_entries[] = {
    {"percentile-metrics", NULL, OPTIONS_STR, AT(bench.percentile_metrics), "ttft,tpot,itl", "LIST", 0, 0, "Which of ttft, tpot, itl, e2el are shown"},
    {"metric-percentiles", NULL, OPTIONS_STR, AT(bench.metric_percentiles), "99", "LIST", 0, 0, "Their percentiles, such as 50,90,99.9"},
    {"goodput", NULL, OPTIONS_LIST, AT(bench.goodput), NULL, "METRIC:MS", 0, 0, "Counts requests within these: ttft:500 tpot:50 e2el:5000"},
    {"save-result", NULL, OPTIONS_BOOL, AT(bench.save_result), "false", NULL, 0, 0, "Write a JSON file"},
    {"save-detailed", NULL, OPTIONS_BOOL, AT(bench.save_detailed), "false", NULL, 0, 0, "With every request's numbers and text"},
    {"result-dir", NULL, OPTIONS_STR, AT(bench.result_dir), NULL, "DIR", 0, 0, "Its folder; the current one by default"},
    {"result-filename", NULL, OPTIONS_STR, AT(bench.result_filename), NULL, "FILE", 0, 0, "Its name; made of label, rate, model and time by default"},
    {"label", NULL, OPTIONS_STR, AT(bench.label), NULL, "TEXT", 0, 0, "Name of the run; the backend's by default"},
    {"metadata", NULL, OPTIONS_LIST, AT(bench.metadata), NULL, "KEY=VALUE", 0, 0, "Further keys in the file"},
    {"disable-tqdm", NULL, OPTIONS_BOOL, AT(bench.disable_tqdm), "false", NULL, 0, 0, "No progress line"},
};
const struct options_section options_section_bench_results = SECTION("Results", results_entries);

#define OFFLINE_ENTRIES                                                                                                                            \
    {"n", NULL, OPTIONS_INT, AT(bench.n), "1", "N", 1, 64, "Answers to each prompt"},                                                              \
        {"output-json", NULL, OPTIONS_STR, AT(bench.output_json), NULL, "FILE", 0, 0, "Write the results there too"},                              \
        {"log-level", NULL, OPTIONS_CHOICE, AT(log_level), "info", "debug,info,warning,error", 0, 0, "Least important messages that are shown"}

static const struct options_entry latency_entries[] = {
    {"input-len", NULL, OPTIONS_INT, AT(bench.input_len), "32", "N", 1, 1 << 20, "Tokens of each prompt"},
    {"output-len", NULL, OPTIONS_INT, AT(bench.output_len), "128", "N", 1, 1 << 20, "Tokens of each answer"},
    {"batch-size", NULL, OPTIONS_INT, AT(bench.batch_size), "8", "N", 1, 1 << 16, "Requests that start together"},
    {"num-iters-warmup", NULL, OPTIONS_INT, AT(bench.num_iters_warmup), "10", "N", 0, 1 << 20, "Batches before the clock starts"},
    {"num-iters", NULL, OPTIONS_INT, AT(bench.num_iters), "30", "N", 1, 1 << 20, "Batches that are measured"},
    OFFLINE_ENTRIES,
};
const struct options_section options_section_bench_latency = SECTION("Measurement", latency_entries);

static const struct options_entry throughput_entries[] = {
    DATASET_ENTRIES,
    OFFLINE_ENTRIES,
};
const struct options_section options_section_bench_throughput = SECTION("Measurement", throughput_entries);
