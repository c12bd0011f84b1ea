/* The options of `shoal serve` and of its workers, each once: name, kind, default, help; and vLLM's flags that have no meaning here. Data only. */
#include "cmd/options_table.h"

#define AT(field) offsetof(struct options, field)

static const struct options_entry model_entries[] = {
    {"model", NULL, OPTIONS_STR, AT(model), NULL, "MODEL", 0, 0, "Hugging Face folder, GGUF file or hub name; also the first word"},
    {"served-model-name", NULL, OPTIONS_LIST, AT(served_model_name), NULL, "NAME", 0, 0, "Names of the model in the API; the first is the one in answers"},
    {"tokenizer", NULL, OPTIONS_STR, AT(tokenizer), NULL, "PATH", 0, 0, "Folder, tokenizer.json or hub name of another tokenizer"},
    {"revision", NULL, OPTIONS_STR, AT(revision), NULL, "REV", 0, 0, "Branch, tag or commit on the hub"},
    {"download-dir", NULL, OPTIONS_STR, AT(download_dir), NULL, "DIR", 0, 0, "Cache folder for downloads instead of the usual one"},
    {"weights-cache", NULL, OPTIONS_STR, AT(weights_cache), NULL, "DIR", 0, 0, "Local folder on each node for packed weights: the next start with the same split reads them as they are"},
    {"load-format", NULL, OPTIONS_CHOICE, AT(load_format), "auto", "auto,safetensors,gguf,dummy", 0, 0, "dummy makes random weights of the true geometry"},
    {"dtype", NULL, OPTIONS_CHOICE, AT(dtype), "auto", "auto,bfloat16,float32,float,half,float16", 0, 0, "float32: KV cache and activations in float32, BF16 weights as the checkpoint has them; else whatever of BF16 or 16-bit integers this CPU multiplies faster"},
    {"quantization", "-q", OPTIONS_STR, AT(quantization), NULL, "METHOD", 0, 0, "int8 or int4 quantise float weights on load; gptq, fp8 and gguf are read from the checkpoint"},
    {"kv-cache-dtype", NULL, OPTIONS_CHOICE, AT(kv_cache_dtype), "auto", "auto,bfloat16,float32,int8", 0, 0, "Format of the KV cache; int8: 8 bits with a scale for each token and head, half of bfloat16's memory"},
    {"max-model-len", NULL, OPTIONS_INT, AT(max_model_len), "0", "N", 0, 1 << 20, "Longest sequence, prompt and output; 0: as the model says"},
    {"max-logprobs", NULL, OPTIONS_INT, AT(max_logprobs), "20", "N", 0, 20, "Most log-probabilities per token that a request may ask for"},
    {"seed", NULL, OPTIONS_INT, AT(seed), "0", "N", 0, 9e18, "Seed of dummy weights"},
    {"hf-overrides", NULL, OPTIONS_JSON, AT(hf_overrides), NULL, "JSON", 0, 0, "Merged into config.json before it is read"},
    {"chat-template", NULL, OPTIONS_STR, AT(chat_template), NULL, "FILE", 0, 0, "Jinja template for chats, a file or the text itself"},
    {"generation-config", NULL, OPTIONS_STR, AT(generation_config), "auto", "WHERE", 0, 0, "auto: the model's generation_config.json, vllm: none, else a folder"},
    {"override-generation-config", NULL, OPTIONS_JSON, AT(override_generation_config), NULL, "JSON", 0, 0, "Generation defaults on top, such as {\"temperature\": 0.5}"},
    {"trust-remote-code", NULL, OPTIONS_BOOL, AT(trust_remote_code), "false", NULL, 0, 0, "Accepted; shoal runs no code of models"},
    {"enforce-eager", NULL, OPTIONS_BOOL, AT(enforce_eager), "false", NULL, 0, 0, "Accepted; there are no graphs here"},
};
const struct options_section options_section_model = {"Model", model_entries, sizeof model_entries / sizeof model_entries[0]};

static const struct options_entry server_entries[] = {
    {"host", NULL, OPTIONS_STR, AT(host), NULL, "ADDR", 0, 0, "Address to listen on; all by default"},
    {"port", NULL, OPTIONS_INT, AT(port), "8000", "N", 0, 65535, "Port to listen on; 0 picks one"},
    {"uds", NULL, OPTIONS_STR, AT(uds), NULL, "PATH", 0, 0, "Unix socket to listen on instead"},
    {"root-path", NULL, OPTIONS_STR, AT(root_path), NULL, "PATH", 0, 0, "Accepted; a proxy's prefix is not looked at"},
    {"api-key", NULL, OPTIONS_LIST, AT(api_key), NULL, "KEY", 0, 0, "Keys that requests must carry; asked for everywhere but at /health"},
    {"ssl-keyfile", NULL, OPTIONS_STR, AT(ssl_keyfile), NULL, "FILE", 0, 0, "TLS key (PEM)"},
    {"ssl-certfile", NULL, OPTIONS_STR, AT(ssl_certfile), NULL, "FILE", 0, 0, "TLS certificate (PEM)"},
    {"ssl-ca-certs", NULL, OPTIONS_STR, AT(ssl_ca_certs), NULL, "FILE", 0, 0, "Authorities whose client certificates are asked for"},
    {"allowed-origins", NULL, OPTIONS_LIST, AT(allowed_origins), NULL, "ORIGIN", 0, 0, "Origins that browsers may call from, all by default; a JSON list or words"},
    {"response-role", NULL, OPTIONS_STR, AT(response_role), "assistant", "ROLE", 0, 0, "Role in chat answers"},
    {"enable-log-requests", NULL, OPTIONS_BOOL, AT(enable_log_requests), "false", NULL, 0, 0, "Log every request"},
    {"max-log-len", NULL, OPTIONS_INT, AT(max_log_len), "0", "N", 0, 1 << 30, "Most characters of a prompt in the log"},
    {"enable-prompt-tokens-details", NULL, OPTIONS_BOOL, AT(enable_prompt_tokens_details), "false", NULL, 0, 0, "Tell in usage how many tokens of a prompt were cached"},
    {"disable-log-stats", NULL, OPTIONS_BOOL, AT(disable_log_stats), "false", NULL, 0, 0, "No throughput line every 10 s"},
    {"log-level", NULL, OPTIONS_CHOICE, AT(log_level), "info", "debug,info,warning,error", 0, 0, "Least important messages that are shown"},
    {"shutdown-timeout", NULL, OPTIONS_INT, AT(shutdown_timeout_s), "0", "SECONDS", 0, 86400, "On SIGTERM, seconds that requests in flight get to finish"},
    {"stream-interval", NULL, OPTIONS_INT, AT(stream_interval), "1", "N", 1, 1 << 20, "Tokens between two chunks of a stream"},
};
const struct options_section options_section_server = {"Server", server_entries, sizeof server_entries / sizeof server_entries[0]};

static const struct options_entry scheduler_entries[] = {
    {"max-num-seqs", NULL, OPTIONS_INT, AT(max_num_seqs), "256", "N", 1, 1024, "Most sequences that run at once"},
    {"max-num-batched-tokens", NULL, OPTIONS_INT, AT(max_num_batched_tokens), "0", "N", 0, 65536, "Token budget of a step; 0: 512, or --max-num-seqs if that is more"},
    {"max-num-mixed-tokens", NULL, OPTIONS_INT, AT(max_num_mixed_tokens), "-1", "N", -1, 65536, "Prompt tokens in a step that others decode in, who wait for them; 0: the whole budget, -1: two for each of these, 16 to 32, but the budget if most wait for their prompts"},
    {"max-num-queued-reqs", NULL, OPTIONS_INT, AT(max_num_queued_reqs), "0", "N", 0, 1 << 30, "Most requests that wait or run; more get 503. 0: no limit"},
    {"block-size", NULL, OPTIONS_INT, AT(block_size), "16", "N", 1, 1024, "Tokens in a KV block"},
    {"gpu-memory-utilization", "--device-memory-utilization", OPTIONS_DOUBLE, AT(gpu_memory_utilization), "0.9", "SHARE", 0.01, 1, "Share of a node's memory that weights and KV cache may fill"},
    {"kv-cache-memory-bytes", NULL, OPTIONS_BYTES, AT(kv_cache_memory_bytes), "0", "BYTES", 0, 9e18, "Memory for the KV cache on each node, instead of the share"},
    {"num-gpu-blocks-override", NULL, OPTIONS_INT, AT(num_gpu_blocks_override), "0", "N", 0, 1 << 30, "Number of KV blocks, instead of both"},
    {"enable-chunked-prefill", NULL, OPTIONS_BOOL, AT(enable_chunked_prefill), "true", NULL, 0, 0, "Accepted; prompts always go in chunks of the budget"},
    {"enable-prefix-caching", NULL, OPTIONS_BOOL, AT(enable_prefix_caching), "true", NULL, 0, 0, "Keep the KV blocks of ended requests for others that begin alike"},
    {"async-scheduling", NULL, OPTIONS_BOOL, AT(async_scheduling), "true", NULL, 0, 0, "Plan a step before the tokens of the one before are known (with one pipeline stage)"},
    {"scheduling-policy", NULL, OPTIONS_CHOICE, AT(scheduling_policy), "fcfs", "fcfs,priority", 0, 0, "Who goes first"},
};
const struct options_section options_section_scheduler = {"Scheduler and KV cache", scheduler_entries, sizeof scheduler_entries / sizeof scheduler_entries[0]};

static const struct options_entry parallel_entries[] = {
    {"tensor-parallel-size", "-tp", OPTIONS_INT, AT(tensor_parallel_size), "1", "N", 1, 256, "Ranks that share every layer"},
    {"pipeline-parallel-size", "-pp", OPTIONS_INT, AT(pipeline_parallel_size), "1", "N", 1, 256, "Stages that share the layers"},
    {"pipeline-layers", NULL, OPTIONS_STR, AT(pipeline_layers), NULL, "N,N,…", 0, 0, "Layers of each stage by hand, such as 24,24,23,23"},
    {"data-parallel-size", "-dp", OPTIONS_INT, AT(data_parallel_size), "1", "N", 1, 1024, "Only 1 is supported: start one shoal per replica"},
    {"enable-expert-parallel", "-ep", OPTIONS_BOOL, AT(enable_expert_parallel), "false", NULL, 0, 0, "Whole experts per rank instead of slices of each"},
    {"distributed-executor-backend", NULL, OPTIONS_CHOICE, AT(distributed_executor_backend), NULL, "mp,ray", 0, 0, "mp: local processes; ray: one job per node of a Ray cluster"},
    {"ray-address", NULL, OPTIONS_STR, AT(ray_address), NULL, "URL", 0, 0, "Ray's dashboard; $RAY_ADDRESS or http://127.0.0.1:8265 by default"},
    {"ray-ship-binary", NULL, OPTIONS_BOOL, AT(ray_ship_binary), "false", NULL, 0, 0, "Upload this program to the nodes"},
    {"nnodes", "-n", OPTIONS_INT, AT(nnodes), "0", "N", 0, 64, "Number of machines; 0: one, or with Ray as many as the split wants"},
    {"node-rank", "-r", OPTIONS_INT, AT(node_rank), "0", "N", 0, 63, "Which of the machines this is"},
    {"master-addr", NULL, OPTIONS_STR, AT(master_addr), "127.0.0.1", "ADDR", 0, 0, "Address of machine 0, where the others join"},
    {"master-port", NULL, OPTIONS_INT, AT(master_port), "29501", "N", 1, 65535, "Port of machine 0 for joining"},
    {"headless", NULL, OPTIONS_BOOL, AT(headless), "false", NULL, 0, 0, "Only ranks here, no API server"},
    {"interface", NULL, OPTIONS_STR, AT(interface), NULL, "NAME", 0, 0, "Network interface or address for the links between nodes"},
    {"distributed-timeout-seconds", NULL, OPTIONS_INT, AT(distributed_timeout_s), "0", "SECONDS", 0, 86400, "Deadline of each phase of the start and of each collective; 0: 600"},
    {"numa-bind", NULL, OPTIONS_BOOL, AT(numa_bind), "false", NULL, 0, 0, "Accepted; threads are not bound yet"},
};
const struct options_section options_section_parallel = {"Parallelism and placement", parallel_entries, sizeof parallel_entries / sizeof parallel_entries[0]};

static const struct options_entry compute_entries[] = {
    {"threads", NULL, OPTIONS_INT, AT(threads), "0", "N", 0, 1024, "Threads of each rank; 0: all CPUs of the node, shared evenly"},
    {"cpu-max", NULL, OPTIONS_STR, AT(cpu_max), NULL, "ISA", 0, 0, "Best instruction set to use: c, avx2, avx512, avx512_vnni, avx512_bf16"},
};
const struct options_section options_section_compute = {"Compute", compute_entries, sizeof compute_entries / sizeof compute_entries[0]};

static const struct options_entry worker_entries[] = {
    {"driver", NULL, OPTIONS_STR, AT(driver), NULL, "HOST:PORT", 0, 0, "Where the driver waits"},
    {"slot", NULL, OPTIONS_INT, AT(slot), "0", "N", 0, 63, "Which node of the launch this is"},
};
const struct options_section options_section_worker = {"Worker (internal)", worker_entries, sizeof worker_entries / sizeof worker_entries[0]};

const struct options_foreign options_foreign[] = {
    {"api-server-count", 1, NULL}, {"aggregate-engine-logging", 0, NULL}, {"disable-uvicorn-access-log", 0, NULL},
    {"disable-access-log-for-endpoints", 1, NULL}, {"disable-fastapi-docs", 0, NULL}, {"uvicorn-log-level", 1, NULL},
    {"allow-credentials", 0, NULL}, {"allowed-headers", 1, NULL}, {"allowed-methods", 1, NULL}, {"chat-template-content-format", 1, NULL},
    {"enable-request-id-headers", 0, NULL}, {"enable-server-load-tracking", 0, NULL}, {"enable-ssl-refresh", 0, NULL},
    {"log-error-stack", 0, NULL}, {"ssl-cert-reqs", 1, NULL}, {"ssl-ciphers", 1, NULL},
    {"h11-max-header-count", 1, NULL}, {"h11-max-incomplete-event-size", 1, NULL}, {"trust-request-chat-template", 0, NULL},
    {"allow-deprecated-quantization", 0, NULL}, {"code-revision", 1, NULL}, {"config-format", 1, NULL}, {"disable-cascade-attn", 0, NULL},
    {"model-impl", 1, NULL}, {"runner", 1, NULL}, {"tokenizer-mode", 1, NULL}, {"tokenizer-revision", 1, NULL}, {"hf-token", 1, NULL},
    {"renderer-num-workers", 1, NULL}, {"ignore-patterns", -1, NULL}, {"model-loader-extra-config", 1, NULL}, {"pt-load-map-location", 1, NULL},
    {"safetensors-load-strategy", 1, NULL}, {"use-tqdm-on-load", 0, NULL}, {"attention-backend", 1, NULL}, {"attention-config", 1, NULL},
    {"all2all-backend", 1, NULL}, {"cpu-distributed-timeout-seconds", 1, NULL}, {"disable-custom-all-reduce", 0, NULL},
    {"enable-dbo", 0, NULL}, {"enable-eplb", 0, NULL}, {"eplb-config", 1, NULL}, {"expert-placement-strategy", 1, NULL},
    {"max-parallel-loading-workers", 1, NULL}, {"numa-bind-cpus", -1, NULL}, {"numa-bind-nodes", -1, NULL}, {"ray-workers-use-nsight", 0, NULL},
    {"worker-cls", 1, NULL}, {"worker-extension-cls", 1, NULL}, {"prefix-caching-hash-algo", 1, NULL}, {"cpu-offload-gb", 1, NULL},
    {"kv-offloading-size", 1, NULL}, {"kv-offloading-backend", 1, NULL}, {"limit-mm-per-prompt", 1, NULL}, {"language-model-only", 0, NULL},
    {"skip-mm-profiling", 0, NULL}, {"log-config-file", 1, NULL}, {"otlp-traces-endpoint", 1, NULL}, {"collect-detailed-traces", -1, NULL},
    {"show-hidden-metrics-for-version", 1, NULL}, {"disable-hybrid-kv-cache-manager", 0, NULL},
    {"disable-chunked-mm-input", 0, NULL}, {"long-prefill-token-threshold", 1, NULL}, {"scheduler-cls", 1, NULL}, {"watermark", 1, NULL},
    {"cudagraph-capture-sizes", -1, NULL}, {"max-cudagraph-capture-size", 1, NULL}, {"compilation-config", 1, NULL}, {"optimization-level", 1, NULL},
    {"moe-backend", 1, NULL}, {"linear-backend", 1, NULL}, {"additional-config", 1, NULL}, {"performance-mode", 1, NULL},
    {"tool-parser-plugin", 1, NULL}, {"reasoning-parser-plugin", 1, NULL},
    {"enable-auto-tool-choice", 0, "tool calls are not parsed yet"},
    {"tool-call-parser", 1, "tool calls are not parsed yet"},
    {"reasoning-parser", 1, "reasoning is not split off yet"},
    {"enable-lora", 0, "LoRA adapters are not supported"},
    {"lora-modules", -1, "LoRA adapters are not supported"},
    {"speculative-config", 1, "speculative decoding is not supported yet"},
    {"structured-outputs-config", 1, "structured outputs are not supported yet"},
    {"kv-transfer-config", 1, "KV transfer is not supported"},
    {"decode-context-parallel-size", 1, "context parallelism is not supported"},
    {"prefill-context-parallel-size", 1, "context parallelism is not supported"},
    {"logits-processors", -1, "logits processors are Python code, which shoal does not run"},
    {"middleware", 1, "middleware is Python code, which shoal does not run"},
    {"default-chat-template-kwargs", 1, "give chat_template_kwargs in the request"},
    {"logprobs-mode", 1, "log-probabilities are always those of the raw logits"},
    {"data-parallel-hybrid-lb", 0, "start one shoal per replica"},
    {"data-parallel-external-lb", 0, "start one shoal per replica"},
    {"data-parallel-rank", 1, "start one shoal per replica"},
    {"data-parallel-address", 1, "start one shoal per replica"},
};
const int options_foreign_len = sizeof options_foreign / sizeof options_foreign[0];
