/*
 * Every command's options, from tables (options_table.h): name, aliases, argument, default, one line of help.
 * Parsing, `--help` and the manual page all come from that table. Booleans also as --no-NAME; "--name value" and
 * "--name=value"; underscores read as dashes; an unknown flag is an error that suggests the nearest name; a flag of
 * vLLM that makes no sense here is accepted with one line of warning.
 */
#ifndef CMD_OPTIONS_H
#define CMD_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { OPTIONS_MAX_LIST = 16 };

struct options_list {
    const char *items[OPTIONS_MAX_LIST + 1]; /* NULL-terminated */
    int n;
};

/* Fields are named after the flags; strings point into argv or into what `kept` holds. */
enum options_command {
    OPTIONS_SERVE,
    OPTIONS_WORKER,
    OPTIONS_NODE_START,
    OPTIONS_NODE_STATUS,
    OPTIONS_NODE_STOP,
    OPTIONS_BENCH_SERVE,
    OPTIONS_BENCH_LATENCY,
    OPTIONS_BENCH_THROUGHPUT,
    OPTIONS_VERIFY,
    OPTIONS_VERIFY_AGENT,
    OPTIONS_PLAN,
    OPTIONS_COMMAND_COUNT
};

struct options {
    enum options_command command;
    const char *model;
    /* model */
    struct options_list served_model_name;
    const char *tokenizer, *revision, *download_dir, *weights_cache, *load_format, *dtype, *quantization, *kv_cache_dtype, *chat_template, *generation_config;
    json_t *hf_overrides, *override_generation_config;
    int64_t max_model_len; /* 0: from the model */
    uint64_t seed;
    bool trust_remote_code, enforce_eager;
    /* server */
    const char *host, *uds, *root_path, *ssl_keyfile, *ssl_certfile, *ssl_ca_certs, *response_role, *log_level;
    int64_t port;
    struct options_list api_key, allowed_origins;
    bool enable_log_requests, disable_log_stats;
    int64_t max_log_len, shutdown_timeout_s, stream_interval, max_logprobs;
    /* scheduler and cache */
    int64_t max_num_seqs, max_num_batched_tokens, max_num_mixed_tokens, block_size, kv_cache_memory_bytes, num_gpu_blocks_override, max_num_queued_reqs;
    double gpu_memory_utilization;
    bool enable_chunked_prefill, enable_prefix_caching, async_scheduling, enable_prompt_tokens_details;
    const char *scheduling_policy;
    /* parallelism and placement */
    int64_t tensor_parallel_size, pipeline_parallel_size, data_parallel_size;
    bool enable_expert_parallel, headless, numa_bind;
    const char *distributed_executor_backend, *pipeline_layers, *master_addr, *interface, *ray_address;
    int64_t nnodes, node_rank, master_port, distributed_timeout_s;
    bool ray_ship_binary;
    /* compute */
    int64_t threads; /* per rank; 0: all CPUs shared evenly */
    const char *cpu_max;
    /* worker (internal) */
    const char *driver;
    int64_t slot;
    /* node */
    struct {
        bool head, install_ray, block, dry_run, json;
        const char *address, *dashboard_host, *ray_venv, *ray_version, *temp_dir;
        int64_t port, dashboard_port, num_cpus, npus, memory, object_store_memory, timeout_s;
    } node;
    /* bench */
    struct {
        const char *backend, *base_url, *host, *endpoint, *dataset_name, *dataset_path, *request_rate, *percentile_metrics, *metric_percentiles;
        const char *label, *result_dir, *result_filename, *request_id_prefix, *output_json;
        struct options_list metadata, goodput, header;
        json_t *extra_body;
        int64_t port, num_prompts, random_prefix_len, random_vocab, custom_output_len, max_concurrency, num_warmups;
        int64_t ready_check_timeout_s, request_timeout_s, input_len, output_len, batch_size, num_iters, num_iters_warmup, n, top_k;
        double random_range_ratio, burstiness, temperature, top_p, min_p; /* sampling: negative where nothing is asked */
        bool ignore_eos, save_result, save_detailed, disable_tqdm, disable_shuffle, no_oversample;
    } bench;
    /* verify */
    struct {
        bool local, json, quick, secret_stdin;
        const char *level, *hosts, *ssh_command, *hccn_tool, *npu_smi, *hccn_conf;
        int64_t npus, timeout_s, tp_size, pp_size, clock_offset_ms;
    } verify;
    /* plan */
    struct {
        const char *memory_per_node, *memory_bandwidth, *link_latency, *link_rate;
        int64_t batch, context;
        bool measure, json;
    } plan;
    json_t *kept; /* list of texts that came from a file or were taken apart */
};

/*
 * Fills defaults, then --config FILE (YAML of "flag: value" lines and "- item" lists, as vLLM's), then argv, whose first element is the
 * command's first argument. ERR_INVALID or ERR_UNSUPPORTED says which flag, what it got and what is possible; *ret then holds nothing.
 */
int options_parse(enum options_command command, int argc, char *const *argv, struct options *ret, struct err *err);
void options_finish(struct options *options);
/* Prints the help, or the roff source of the manual page, to stdout. */
void options_print_help(enum options_command command);
void options_print_man(void);

#endif
