/*
 * `shoal serve`: from the command line to a served model and back to nothing. The main thread starts every part, then
 * watches the launch once a second and waits for signals. Only this file knows all parts.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "base/progress.h"
#include "cluster/cluster.h"
#include "cmd/build_id.h"
#include "cmd/commands.h"
#include "cmd/model_files.h"
#include "cmd/options.h"
#include "cmd/worker_run.h"
#include "engine/run.h"
#include "exec/driver.h"
#include "http/client.h"
#include "http/server.h"
#include "model/split.h"

enum {
    DEFAULT_STEP_TOKENS = 512,   /* a step of so many prompt tokens keeps the tokens of others flowing */
    DEFAULT_LAUNCH_TIMEOUT_S = 600,
    PEER_TIMEOUT_MS = 10000,
    STOP_GRACE_MS = 3000,
    FAILED_LINGER_MS = 2000,     /* how long a broken launch still answers /health with 503 */
    WATCH_GAP_MS = 1000,
    MAX_CONNECTIONS = 4096,
    BODY_LIMIT = 16 << 20
};

/* Everything that is alive while serving, in the order in which it is made. */
struct server {
    struct options options;
    struct model_files files;
    struct cluster *cluster;
    struct exec_driver *driver;
    struct exec_driver_info info;
    struct engine *engine;
    struct api *api;
    struct http_server *http;
    int max_model_len, max_seqs, max_step_tokens;
    const char *default_names[1], *default_keys[2]; /* what the API is called and asks for when no flag says; NULL-terminated keys */
};

static atomic_int g_signal; /* the signal that asked to stop, 0 while there is none */

static void on_signal(int number) {
    /* A second one does not wait for a graceful stop. */
    if (atomic_exchange(&g_signal, number) != 0) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* Checks that need no weights, so that a wrong launch is refused within a second. */
static int check_settings(struct server *s, int *ret_layers, struct err *err) {
    const struct options *o = &s->options;
    const struct model_config *config = &s->files.config;
    int tp = (int)o->tensor_parallel_size, pp = (int)o->pipeline_parallel_size;
    if (tp * pp > COMM_MAX_RANKS)
        return err_set(err, ERR_INVALID, "%d × %d ranks were asked for; at most %d are possible", tp, pp, COMM_MAX_RANKS);
    if (o->data_parallel_size > 1)
        return err_set(err, ERR_UNSUPPORTED, "--data-parallel-size %d is not supported; start one shoal per replica", (int)o->data_parallel_size);
    if (o->quantization != NULL)
        return err_set(err, ERR_UNSUPPORTED, "--quantization %s is not supported; serve a GGUF file that is quantised already", o->quantization);
    if (o->enable_expert_parallel && config->n_experts == 0)
        return err_set(err, ERR_INVALID, "--enable-expert-parallel needs a mixture-of-experts model; %s is dense", config->architecture);
    if (o->max_model_len > config->max_position)
        return err_set(err, ERR_INVALID, "--max-model-len %lld is more than the model's context of %d tokens", (long long)o->max_model_len,
                       config->max_position);
    s->max_model_len = o->max_model_len > 0 ? (int)o->max_model_len : config->max_position;
    s->max_seqs = (int)o->max_num_seqs;
    s->max_step_tokens = o->max_num_batched_tokens > 0 ? (int)o->max_num_batched_tokens : DEFAULT_STEP_TOKENS;
    if (s->max_step_tokens < s->max_seqs)
        s->max_step_tokens = s->max_seqs;
    int n = 0;
    memset(ret_layers, 0, COMM_MAX_RANKS * sizeof *ret_layers);
    for (const char *at = o->pipeline_layers; at != NULL && *at != '\0' && n < pp;) {
        char *end;
        ret_layers[n++] = (int)strtol(at, &end, 10);
        at = *end == ',' ? end + 1 : end;
        if (end == at)
            return err_set(err, ERR_INVALID, "--pipeline-layers should be %d counts such as 24,24,23,23, but is '%s'", pp, o->pipeline_layers);
    }
    if (o->pipeline_layers != NULL && n != pp)
        return err_set(err, ERR_INVALID, "--pipeline-layers '%s' should have %d counts, one per stage", o->pipeline_layers, pp);
    for (int rank = 0; rank < tp * pp; rank++) {
        struct model_split split;
        if (model_split_compute(config, tp, pp, o->enable_expert_parallel, n > 0 ? ret_layers : NULL, rank, &split, err) != 0)
            return -1;
    }
    return 0;
}

/* A port that is taken should be known before the weights are loaded. */
static int check_port(const struct options *o, struct err *err) {
    if (o->uds != NULL || o->port == 0)
        return 0;
    struct net_addr addr = {.port = (uint16_t)o->port}, bound;
    int fd;
    snprintf(addr.host, sizeof addr.host, "%s", o->host != NULL ? o->host : "0.0.0.0");
    if (net_listen(&addr, &fd, &bound, err) != 0)
        return -1;
    close(fd);
    return 0;
}

static enum cluster_backend backend_of(const struct options *o) {
    if (o->distributed_executor_backend != NULL && strcmp(o->distributed_executor_backend, "ray") == 0)
        return CLUSTER_RAY;
    return o->nnodes > 1 ? CLUSTER_HAND : CLUSTER_MP;
}

static int launch_timeout_s(const struct options *o) {
    return o->distributed_timeout_s > 0 ? (int)o->distributed_timeout_s : DEFAULT_LAUNCH_TIMEOUT_S;
}

static bool was_asked_to_stop(void *ctx) {
    (void)ctx;
    return atomic_load(&g_signal) != 0;
}

static int start_cluster(struct server *s, struct err *err) {
    const struct options *o = &s->options;
    struct cluster_opts opts = {.backend = backend_of(o),
                                .tp_size = (int)o->tensor_parallel_size,
                                .pp_size = (int)o->pipeline_parallel_size,
                                .interface = o->interface,
                                .timeout_ms = launch_timeout_s(o) * 1000,
                                .build = cmd_build_id(),
                                .cpu_max = o->cpu_max,
                                .log_level = o->log_level,
                                .ray_address = o->ray_address,
                                .ray_ship_binary = o->ray_ship_binary,
                                .n_nodes = (int)o->nnodes,
                                .threads_per_rank = (int)o->threads,
                                .master_addr = o->master_addr,
                                .master_port = (uint16_t)o->master_port,
                                .is_cancelled = was_asked_to_stop};
    return cluster_start(&opts, &s->cluster, err);
}

static int watch_launch(void *ctx, struct err *err) {
    struct server *s = ctx;
    if (atomic_load(&g_signal) != 0)
        return -1;
    return cluster_poll(s->cluster, err);
}

static int fill_settings(const struct server *s, const int *layers, const struct cluster_node *nodes, int n_nodes, struct exec_settings *ret,
                         struct err *err) {
    const struct options *o = &s->options;
    struct exec_settings settings = {.seed = o->seed,
                                     .hf_overrides = o->hf_overrides,
                                     .tp_size = (int)o->tensor_parallel_size,
                                     .pp_size = (int)o->pipeline_parallel_size,
                                     .expert_parallel = o->enable_expert_parallel,
                                     .n_nodes = n_nodes,
                                     .block_size = (int)o->block_size,
                                     .max_seqs = s->max_seqs,
                                     .max_step_tokens = s->max_step_tokens,
                                     .max_model_len = s->max_model_len,
                                     .op_timeout_ms = launch_timeout_s(o) * 1000};
    /* A path is told absolute: workers may run in another folder. */
    char *path = realpath(o->model, NULL);
    snprintf(settings.model, sizeof settings.model, "%s", path != NULL ? path : o->model);
    free(path);
    snprintf(settings.revision, sizeof settings.revision, "%s", o->revision != NULL ? o->revision : "");
    snprintf(settings.download_dir, sizeof settings.download_dir, "%s", o->download_dir != NULL ? o->download_dir : "");
    snprintf(settings.load_format, sizeof settings.load_format, "%s", o->load_format);
    snprintf(settings.dtype, sizeof settings.dtype, "%s", o->dtype);
    snprintf(settings.kv_cache_dtype, sizeof settings.kv_cache_dtype, "%s", o->kv_cache_dtype);
    memcpy(settings.layers_per_stage, layers, sizeof settings.layers_per_stage);
    if (n_nodes > COMM_MAX_NODES)
        return err_set(err, ERR_LIMIT, "%d nodes; at most %d are possible", n_nodes, COMM_MAX_NODES);
    for (int i = 0; i < n_nodes; i++) {
        settings.threads_of_node[i] = nodes[i].n_threads;
        for (int r = 0; r < nodes[i].n_ranks; r++)
            settings.node_of_rank[nodes[i].first_rank + r] = i;
    }
    *ret = settings;
    return 0;
}

static int start_ranks(struct server *s, const int *layers, struct err *err) {
    const struct options *o = &s->options;
    int n_nodes;
    const struct cluster_node *nodes = cluster_nodes(s->cluster, &n_nodes);
    struct exec_worker workers[COMM_MAX_NODES];
    struct exec_driver_opts opts = {.workers = workers,
                                    .memory_share = o->gpu_memory_utilization,
                                    .kv_cache_bytes = o->kv_cache_memory_bytes,
                                    .n_blocks = (int)o->num_gpu_blocks_override,
                                    .load_timeout_ms = launch_timeout_s(o) * 1000,
                                    .peer_timeout_ms = PEER_TIMEOUT_MS,
                                    .watch = watch_launch,
                                    .watch_ctx = s};
    if (fill_settings(s, layers, nodes, n_nodes, &opts.settings, err) != 0)
        return -1;
    memcpy(opts.fingerprint, s->files.fingerprint, sizeof opts.fingerprint);
    for (int i = 0; i < n_nodes; i++) {
        workers[i] = (struct exec_worker){.fd = nodes[i].fd, .first_rank = nodes[i].first_rank, .n_ranks = nodes[i].n_ranks};
        memcpy(workers[i].name, nodes[i].name, sizeof workers[i].name);
        memcpy(workers[i].host, nodes[i].host, sizeof workers[i].host);
    }
    if (exec_driver_start(&opts, &s->driver, &s->info, err) != 0)
        return -1;
    int64_t n_tokens = (int64_t)s->info.n_blocks * o->block_size;
    char weights[16], kv[16];
    log_info("Weights: %s, KV cache: %s over all ranks", progress_bytes_text(s->info.weights_bytes, weights), progress_bytes_text(s->info.kv_bytes, kv));
    log_info("KV cache size: %lld tokens", (long long)n_tokens);
    log_info("Maximum concurrency for %d tokens per request: %.2fx", s->max_model_len, (double)n_tokens / s->max_model_len);
    return 0;
}

static int start_engine(struct server *s, struct err *err) {
    const struct options *o = &s->options;
    struct engine_opts opts = {.driver = s->driver,
                               .sched = {.max_seqs = s->max_seqs,
                                         .max_step_tokens = s->max_step_tokens,
                                         .max_model_len = s->max_model_len,
                                         .block_size = (int)o->block_size,
                                         .n_blocks = s->info.n_blocks,
                                         .n_stages = (int)o->pipeline_parallel_size,
                                         .policy = strcmp(o->scheduling_policy, "priority") == 0 ? SCHED_PRIORITY : SCHED_FCFS},
                               .max_in_flight = (int)o->pipeline_parallel_size,
                               .max_queued = (int)o->max_num_queued_reqs,
                               .eos = s->files.config.eos,
                               .n_eos = s->files.config.n_eos,
                               .log_stats = !o->disable_log_stats};
    return engine_create(&opts, &s->engine, err);
}

static int start_http(struct server *s, struct err *err) {
    const struct options *o = &s->options;
    s->default_names[0] = o->model;
    s->default_keys[0] = getenv("VLLM_API_KEY");
    struct api_opts api = {.engine = s->engine,
                           .tokenizer = s->files.tokenizer,
                           .chat_template = s->files.chat_template,
                           .served_names = o->served_model_name.n > 0 ? o->served_model_name.items : s->default_names,
                           .n_served_names = o->served_model_name.n > 0 ? o->served_model_name.n : 1,
                           .model_root = o->model,
                           .max_model_len = s->max_model_len,
                           .n_vocab = s->files.config.n_vocab,
                           .max_logprobs = (int)o->max_logprobs,
                           .eos = s->files.config.eos,
                           .n_eos = s->files.config.n_eos,
                           .generation_defaults = s->files.generation_defaults,
                           .api_keys = o->api_key.n > 0 ? o->api_key.items : s->default_keys,
                           .response_role = o->response_role,
                           .version = SHOAL_VERSION,
                           .log_requests = o->enable_log_requests,
                           .stream_interval = (int)o->stream_interval};
    if (api_create(&api, &s->api, err) != 0)
        return -1;
    static const char *const everybody[] = {"*", NULL}; /* vLLM's default */
    struct http_server_opts http = {.host = o->host,
                                    .port = (uint16_t)o->port,
                                    .uds = o->uds,
                                    .tls_key_path = o->ssl_keyfile,
                                    .tls_cert_path = o->ssl_certfile,
                                    .tls_ca_path = o->ssl_ca_certs,
                                    .body_limit_bytes = BODY_LIMIT,
                                    .max_connections = MAX_CONNECTIONS,
                                    .idle_timeout_s = 300,
                                    .allowed_origins = o->allowed_origins.n > 0 ? o->allowed_origins.items : everybody,
                                    .handler = api_handle,
                                    .handler_ctx = s->api};
    return http_server_start(&http, &s->http, err);
}

static void announce(const struct server *s) {
    const struct options *o = &s->options;
    const char *name = o->served_model_name.n > 0 ? o->served_model_name.items[0] : o->model;
    const char *scheme = o->ssl_certfile != NULL ? "https" : "http";
    bool is_everywhere = o->host == NULL || strcmp(o->host, "0.0.0.0") == 0 || strcmp(o->host, "::") == 0;
    if (is_everywhere && o->api_key.n == 0 && getenv("VLLM_API_KEY") == NULL && o->uds == NULL)
        log_warning("The API answers everybody who reaches this host: set --api-key, or --host 127.0.0.1");
    if (o->uds != NULL) {
        log_info("Serving '%s' on the unix socket %s", name, o->uds);
        return;
    }
    log_info("Serving '%s' on %s://%s:%u. Ask it:", name, scheme, is_everywhere ? "127.0.0.1" : o->host, http_server_port(s->http));
    fprintf(stderr,
            "\n  curl %s://%s:%u/v1/completions -H 'Content-Type: application/json' \\\n"
            "    -d '{\"model\": \"%s\", \"prompt\": \"tell me how to sleep well\", \"max_tokens\": 100, \"temperature\": 0}'\n\n",
            scheme, is_everywhere ? "127.0.0.1" : o->host, http_server_port(s->http), name);
}

static int start_all(struct server *s, struct err *err) {
    int layers[COMM_MAX_RANKS];
    if (http_client_setup(err) != 0 || cmd_model_files_open(&s->options, &s->files, err) != 0 || check_settings(s, layers, err) != 0 ||
        check_port(&s->options, err) != 0)
        return -1;
    log_info("Model %s (%s), %d layers, context %d, on %d rank(s): tensor parallel %d, pipeline parallel %d%s", s->options.model,
             s->files.config.architecture, s->files.config.n_layers, s->max_model_len,
             (int)(s->options.tensor_parallel_size * s->options.pipeline_parallel_size), (int)s->options.tensor_parallel_size,
             (int)s->options.pipeline_parallel_size, s->options.enable_expert_parallel ? ", expert parallel" : "");
    if (start_cluster(s, err) != 0 || start_ranks(s, layers, err) != 0 || start_engine(s, err) != 0 || start_http(s, err) != 0)
        return -1;
    announce(s);
    return 0;
}

static void nap_ms(int ms) {
    struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&nap, NULL); /* a signal ends it early: that is wanted */
}

/* Until a signal asks to stop (0) or the launch breaks (-1). */
static int watch_until_stop(struct server *s, struct err *err) {
    for (;;) {
        if (atomic_load(&g_signal) != 0)
            return 0;
        const char *failure = engine_failure(s->engine);
        struct err why;
        int poll_result = cluster_poll(s->cluster, &why);
        if (failure == NULL && poll_result != 0)
            engine_fail(s->engine, &why);
        if (failure != NULL || poll_result != 0) {
            /* The link broke first, most often; how the process ended says more. */
            if (poll_result == 0) {
                nap_ms(WATCH_GAP_MS / 2);
                poll_result = cluster_poll(s->cluster, &why);
            }
            err_set(err, ERR_PEER, "%s%s%s", failure != NULL ? failure : why.msg, failure != NULL && poll_result != 0 ? "; " : "",
                    failure != NULL && poll_result != 0 ? why.msg : "");
            return -1;
        }
        nap_ms(WATCH_GAP_MS / 4);
    }
}

/* Graceful: no new connections, requests in flight get --shutdown-timeout seconds. */
static void drain(struct server *s) {
    int64_t deadline_ms = clock_mono_ms() + s->options.shutdown_timeout_s * 1000;
    http_server_quiesce(s->http);
    if (engine_n_active(s->engine) > 0 && s->options.shutdown_timeout_s > 0)
        log_info("Stopping: %d request(s) have %lld s to finish", engine_n_active(s->engine), (long long)s->options.shutdown_timeout_s);
    while (http_server_active(s->http) > 0 && clock_left_ms(deadline_ms) > 0)
        nap_ms(20);
}

static void stop_all(struct server *s) {
    struct err stopping;
    err_set(&stopping, ERR_CANCELLED, "the server is stopping");
    if (s->engine != NULL)
        engine_fail(s->engine, &stopping); /* answers whoever still waits */
    http_server_stop(s->http);
    api_destroy(s->api);
    engine_destroy(s->engine);
    exec_driver_stop(s->driver);
    cluster_stop(s->cluster, STOP_GRACE_MS);
    cmd_model_files_close(&s->files);
}

static int run_server(struct server *s) {
    struct err err;
    int status = 0;
    if (start_all(s, &err) != 0) {
        if (atomic_load(&g_signal) == 0)
            log_error("%s", err.msg);
        status = CMD_EXIT_FAILURE;
    } else if (watch_until_stop(s, &err) != 0) {
        log_error("The launch is lost: %s", err.msg);
        nap_ms(FAILED_LINGER_MS);
        status = CMD_EXIT_FAILURE;
    } else {
        log_info("Stopping on %s", strsignal(atomic_load(&g_signal)));
        drain(s);
    }
    stop_all(s);
    return status;
}

/* A further node of a launch by hand: no server here, just ranks. */
static int run_headless(const struct options *o) {
    struct err err;
    struct cluster_join_opts join = {.driver_host = o->master_addr,
                                     .driver_port = (uint16_t)o->master_port,
                                     .slot = (int)o->node_rank,
                                     .interface = o->interface,
                                     .build = cmd_build_id(),
                                     .timeout_ms = launch_timeout_s(o) * 1000};
    if (cluster_hand_secret(&join.secret, &err) != 0 || cmd_worker_run(&join, o->cpu_max, &err) != 0) {
        log_error("%s", err.msg);
        return CMD_EXIT_FAILURE;
    }
    return 0;
}

int cmd_serve(int argc, char **argv) {
    struct server server = {0};
    struct err err;
    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        options_print_help(OPTIONS_SERVE);
        return 0;
    }
    if (options_parse(OPTIONS_SERVE, argc, argv, &server.options, &err) != 0) {
        fprintf(stderr, "shoal serve: %s\n", err.msg);
        return CMD_EXIT_USAGE;
    }
    enum log_level level = LOG_INFO;
    log_level_parse(server.options.log_level, &level);
    bool is_headless = server.options.headless || server.options.node_rank > 0;
    log_setup(level, is_headless ? "worker" : "driver");
    if (!is_headless)
        catch_signals();
    int status = is_headless ? run_headless(&server.options) : run_server(&server);
    options_finish(&server.options);
    return status;
}
