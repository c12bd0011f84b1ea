/* From options to a running engine, and back to nothing; see launch.h. */
#include "cmd/launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <strings.h>

#include "base/file.h"
#include "base/host.h"
#include "base/log.h"
#include "base/progress.h"
#include "cmd/build_id.h"
#include "cmd/plan_launch.h"
#include "cmd/verify_launch.h"
#include "engine/run.h"
#include "model/split.h"
#include "weights/hub.h"

enum {
    DEFAULT_STEP_TOKENS = 512, /* a step of so many prompt tokens keeps the tokens of others flowing */
    DEFAULT_LAUNCH_TIMEOUT_S = 600,
    PEER_TIMEOUT_MS = 10000,
    STOP_GRACE_MS = 3000
};

int cmd_launch_check(struct cmd_launch *l, struct err *err) {
    const struct options *o = l->options;
    const struct model_config *config = &l->files.config;
    int tp = (int)o->tensor_parallel_size, pp = (int)o->pipeline_parallel_size;
    if (tp * pp > COMM_MAX_RANKS)
        return err_set(err, ERR_INVALID, "%d × %d ranks were asked for; at most %d are possible", tp, pp, COMM_MAX_RANKS);
    if (o->data_parallel_size > 1)
        return err_set(err, ERR_UNSUPPORTED, "--data-parallel-size %d is not supported; start one shoal per replica", (int)o->data_parallel_size);
    if (o->enable_expert_parallel && config->n_experts == 0)
        return err_set(err, ERR_INVALID, "--enable-expert-parallel needs a mixture-of-experts model; %s is dense", config->architecture);
    if (o->max_model_len > config->max_position)
        return err_set(err, ERR_INVALID, "--max-model-len %lld is more than the model's context of %d tokens", (long long)o->max_model_len,
                       config->max_position);
    l->max_model_len = o->max_model_len > 0 ? (int)o->max_model_len : config->max_position;
    l->max_seqs = (int)o->max_num_seqs;
    l->max_step_tokens = o->max_num_batched_tokens > 0 ? (int)o->max_num_batched_tokens : DEFAULT_STEP_TOKENS;
    if (l->max_step_tokens < l->max_seqs)
        l->max_step_tokens = l->max_seqs;
    int n = 0;
    const char *at = o->pipeline_layers != NULL ? o->pipeline_layers : "";
    while (*at != '\0' && n < pp) {
        char *end;
        l->layers_per_stage[n++] = (int)strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0'))
            return err_set(err, ERR_INVALID, "--pipeline-layers should be %d counts such as 24,24,23,23, but is '%s'", pp, o->pipeline_layers);
        at = *end == ',' ? end + 1 : end;
    }
    if (o->pipeline_layers != NULL && (n != pp || *at != '\0'))
        return err_set(err, ERR_INVALID, "--pipeline-layers '%s' should have %d counts, one per stage", o->pipeline_layers, pp);
    for (int rank = 0; rank < tp * pp; rank++) {
        struct model_split split;
        if (model_split_compute(config, tp, pp, o->enable_expert_parallel, n > 0 ? l->layers_per_stage : NULL, rank, &split, err) != 0)
            return -1;
    }
    return 0;
}

static enum cluster_backend backend_of(const struct options *o) {
    if (o->distributed_executor_backend != NULL && strcmp(o->distributed_executor_backend, "ray") == 0)
        return CLUSTER_RAY;
    return o->nnodes > 1 ? CLUSTER_HAND : CLUSTER_MP;
}

int cmd_launch_timeout_s(const struct options *o) {
    return o->distributed_timeout_s > 0 ? (int)o->distributed_timeout_s : DEFAULT_LAUNCH_TIMEOUT_S;
}

static int start_cluster(struct cmd_launch *l, struct err *err) {
    const struct options *o = l->options;
    struct cluster_opts opts = {.backend = backend_of(o),
                                .tp_size = (int)o->tensor_parallel_size,
                                .pp_size = (int)o->pipeline_parallel_size,
                                .interface = o->interface,
                                .timeout_ms = cmd_launch_timeout_s(o) * 1000,
                                .build = cmd_build_id(),
                                .cpu_max = o->cpu_max,
                                .log_level = o->log_level,
                                .ray_address = o->ray_address,
                                .ray_ship_binary = o->ray_ship_binary,
                                .n_nodes = (int)o->nnodes,
                                .threads_per_rank = (int)o->threads,
                                .master_addr = o->master_addr,
                                .master_port = (uint16_t)o->master_port,
                                .is_cancelled = l->is_cancelled};
    return cluster_start(&opts, &l->cluster, err);
}

static int watch_launch(void *ctx, struct err *err) {
    struct cmd_launch *l = ctx;
    if (l->is_cancelled(NULL))
        return -1;
    return cluster_poll(l->cluster, err);
}

/* vLLM's words have synonyms. */
static const char *dtype_word(const char *typed) {
    return strcasecmp(typed, "float") == 0 || strcasecmp(typed, "float32") == 0  ? "float32"
           : strcasecmp(typed, "half") == 0 || strcasecmp(typed, "float16") == 0 ? "float16"
                                                                                  : typed;
}

/* A folder that need not be there yet, as seen from this process's own. */
static int absolute_path(const char *path, char ret[PATH_MAX], struct err *err) {
    char folder[PATH_MAX] = "";
    if (path[0] != '/' && getcwd(folder, sizeof folder) == NULL)
        return err_set(err, ERR_IO, "the current folder: %s", strerror(errno));
    if (snprintf(ret, PATH_MAX, "%s%s%s", folder, path[0] == '/' ? "" : "/", path) >= PATH_MAX)
        return err_set(err, ERR_INVALID, "the path '%.200s…' is too long", path);
    return 0;
}

static int fill_settings(const struct cmd_launch *l, const struct cluster_node *nodes, int n_nodes, struct exec_settings *ret,
                         struct err *err) {
    const struct options *o = l->options;
    struct exec_settings settings = {.seed = o->seed,
                                     .hf_overrides = o->hf_overrides,
                                     .tp_size = (int)o->tensor_parallel_size,
                                     .pp_size = (int)o->pipeline_parallel_size,
                                     .expert_parallel = o->enable_expert_parallel,
                                     .n_nodes = n_nodes,
                                     .block_size = (int)o->block_size,
                                     .max_seqs = l->max_seqs,
                                     .max_step_tokens = l->max_step_tokens,
                                     .max_model_len = l->max_model_len,
                                     .op_timeout_ms = cmd_launch_timeout_s(o) * 1000};
    /* A path is told absolute: workers may run in another folder. */
    bool is_dummy = strcmp(o->load_format, "dummy") == 0;
    char *path = realpath(o->model, NULL);
    snprintf(settings.model, sizeof settings.model, "%s", path != NULL ? path : o->model);
    free(path);
    snprintf(settings.revision, sizeof settings.revision, "%s", o->revision != NULL ? o->revision : "");
    snprintf(settings.download_dir, sizeof settings.download_dir, "%s", o->download_dir != NULL ? o->download_dir : "");
    if (o->weights_cache != NULL && is_dummy)
        log_warning("--weights-cache is not used: dummy weights are made anew each time");
    else if (o->weights_cache != NULL && absolute_path(o->weights_cache, settings.weights_cache, err) != 0)
        return -1;
    snprintf(settings.load_format, sizeof settings.load_format, "%s", o->load_format);
    snprintf(settings.dtype, sizeof settings.dtype, "%s", dtype_word(o->dtype));
    snprintf(settings.quantization, sizeof settings.quantization, "%s", o->quantization != NULL ? o->quantization : "");
    snprintf(settings.kv_cache_dtype, sizeof settings.kv_cache_dtype, "%s", o->kv_cache_dtype);
    memcpy(settings.layers_per_stage, l->layers_per_stage, sizeof settings.layers_per_stage);
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

static int start_ranks(struct cmd_launch *l, struct err *err) {
    const struct options *o = l->options;
    int n_nodes;
    const struct cluster_node *nodes = cluster_nodes(l->cluster, &n_nodes);
    struct exec_worker workers[COMM_MAX_NODES];
    struct exec_driver_opts opts = {.workers = workers,
                                    .kv_limits = {.n_blocks = o->num_gpu_blocks_override,
                                                  .cache_bytes = o->kv_cache_memory_bytes,
                                                  .share = o->gpu_memory_utilization},
                                    .load_timeout_ms = cmd_launch_timeout_s(o) * 1000,
                                    .peer_timeout_ms = PEER_TIMEOUT_MS,
                                    .watch = watch_launch,
                                    .watch_ctx = l};
    if (fill_settings(l, nodes, n_nodes, &opts.settings, err) != 0)
        return -1;
    memcpy(opts.fingerprint, l->files.fingerprint, sizeof opts.fingerprint);
    for (int i = 0; i < n_nodes; i++) {
        workers[i] = (struct exec_worker){.fd = nodes[i].fd, .first_rank = nodes[i].first_rank, .n_ranks = nodes[i].n_ranks};
        memcpy(workers[i].name, nodes[i].name, sizeof workers[i].name);
        memcpy(workers[i].host, nodes[i].host, sizeof workers[i].host);
    }
    if (exec_driver_start(&opts, &l->driver, &l->info, err) != 0)
        return -1;
    int64_t n_tokens = (int64_t)l->info.n_blocks * o->block_size;
    char weights[16], kv[16];
    log_info("Weights: %s, KV cache: %s over all ranks", progress_bytes_text(l->info.weights_bytes, weights), progress_bytes_text(l->info.kv_bytes, kv));
    log_info("KV cache size: %lld tokens", (long long)n_tokens);
    log_info("Maximum concurrency for %d tokens per request: %.2fx", l->max_model_len, (double)n_tokens / l->max_model_len);
    return 0;
}

static uint64_t count_dropped(void *cluster) { return cluster_dropped(cluster); }

static int start_engine(struct cmd_launch *l, struct err *err) {
    const struct options *o = l->options;
    struct engine_opts opts = {.driver = l->driver,
                               .sched = {.max_seqs = l->max_seqs,
                                         .max_step_tokens = l->max_step_tokens,
                                         .max_mixed_tokens = (int)o->max_num_mixed_tokens,
                                         .max_model_len = l->max_model_len,
                                         .block_size = (int)o->block_size,
                                         .n_blocks = l->info.n_blocks,
                                         .n_stages = (int)o->pipeline_parallel_size,
                                         /* Only ranks that hold both ends of the model can go on from their own sample. */
                                         .max_awaited = o->pipeline_parallel_size == 1 && o->async_scheduling ? 2 : 1,
                                         .prefix_caching = o->enable_prefix_caching,
                                         .policy = strcmp(o->scheduling_policy, "priority") == 0 ? SCHED_PRIORITY : SCHED_FCFS},
                               .max_active = (int)o->max_num_queued_reqs,
                               .eos = l->files.config.eos,
                               .n_eos = l->files.config.n_eos,
                               .log_stats = !o->disable_log_stats,
                               .n_dropped = count_dropped,
                               .dropped_ctx = l->cluster};
    return engine_create(&opts, &l->engine, err);
}

/* Sizes and split, and where all ranks will be here, whether there is memory for them. */
static int check(struct cmd_launch *l, struct err *err) {
    struct plan_node here = {0};
    if (cmd_launch_check(l, err) != 0)
        return -1;
    host_memory(&here.total_bytes, &here.available_bytes);
    return backend_of(l->options) == CLUSTER_MP ? cmd_plan_check(l, &here, 1, NULL, err) : 0;
}

/* By the configuration alone, before a download. What has none to look at goes on. */
static int check_on_hub(struct cmd_launch *l, struct err *err) {
    const struct options *o = l->options;
    struct err why;
    if (weights_hub_resolve_config(o->model, o->revision, o->download_dir, l->files.path, &why) != 0)
        return why.code == ERR_NOT_FOUND ? 0 : err_copy(err, &why);
    if (!file_is_dir(l->files.path))
        return 0;
    struct model_config *config = &l->files.config;
    if (model_config_load(l->files.path, NULL, o->hf_overrides, config, err) != 0)
        return -1;
    if (config->dtype == DTYPE_F32) /* some say so of weights that are half as large */
        config->dtype = config->layer_dtype = config->head_dtype = DTYPE_BF16;
    return model_config_quantize(config, NULL, o->quantization, err) != 0 || check(l, err) != 0 ? -1 : 0;
}

int cmd_launch_open(const struct options *options, bool (*is_cancelled)(void *), struct cmd_launch *ret, struct err *err) {
    *ret = (struct cmd_launch){.options = options, .is_cancelled = is_cancelled};
    if (!file_exists(options->model) && check_on_hub(ret, err) != 0)
        return -1;
    return cmd_model_files_open(options, &ret->files, err) != 0 || check(ret, err) != 0 ? -1 : 0;
}

/* The same where the nodes are known only now. */
static int check_placed(const struct cmd_launch *l, struct err *err) {
    struct plan_node memory[COMM_MAX_NODES];
    int n_nodes, node_of_rank[COMM_MAX_RANKS];
    const struct cluster_node *nodes = cluster_nodes(l->cluster, &n_nodes);
    if (backend_of(l->options) == CLUSTER_MP)
        return 0;
    for (int i = 0; i < n_nodes; i++) {
        memory[i] = (struct plan_node){.total_bytes = nodes[i].mem_total_bytes, .available_bytes = nodes[i].mem_available_bytes};
        for (int r = 0; r < nodes[i].n_ranks; r++)
            node_of_rank[nodes[i].first_rank + r] = i;
    }
    return cmd_plan_check(l, memory, n_nodes, node_of_rank, err);
}

int cmd_launch_start(struct cmd_launch *l, struct err *err) {
    const struct options *o = l->options;
    log_info("Model %s (%s), %d layers, context %d, on %d rank(s): tensor parallel %d, pipeline parallel %d%s", o->model,
             l->files.config.architecture, l->files.config.n_layers, l->max_model_len,
             (int)(o->tensor_parallel_size * o->pipeline_parallel_size), (int)o->tensor_parallel_size, (int)o->pipeline_parallel_size,
             o->enable_expert_parallel ? ", expert parallel" : "");
    return start_cluster(l, err) != 0 || check_placed(l, err) != 0 || cmd_verify_launch(l, err) != 0 || start_ranks(l, err) != 0 ||
                   start_engine(l, err) != 0
               ? -1
               : 0;
}

void cmd_launch_close(struct cmd_launch *l) {
    engine_destroy(l->engine);
    exec_driver_stop(l->driver);
    cluster_stop(l->cluster, STOP_GRACE_MS);
    cmd_model_files_close(&l->files);
}
