/*
 * A whole launch below HTTP in one process, for tests: engine, driver and workers (a thread for each node, connected by socket pairs),
 * ranks linked through memory and loopback TCP. Include <cmocka.h> and what it needs before.
 */
#ifndef TESTS_ENGINE_LAUNCH_KIT_H
#define TESTS_ENGINE_LAUNCH_KIT_H

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/run.h"
#include "exec/worker.h"

enum { MAX_NODES = 4 };

struct split {
    int tp, pp, n_nodes;
    bool expert_parallel;
    int layers[4]; /* of each stage; 0: even */
    const char *weights_cache; /* or NULL */
    int max_seqs, max_step_tokens, max_model_len, n_blocks; /* 0: 8, 96, 3500, 300 */
};

struct launch {
    struct split split;
    pthread_t threads[MAX_NODES];
    int driver_fds[MAX_NODES], worker_fds[MAX_NODES];
    int worker_results[MAX_NODES];
    struct exec_driver *driver;
    struct exec_driver_info info;
    struct engine *engine;
};

struct worker_arg {
    struct launch *launch;
    int node;
};
static struct worker_arg worker_args[MAX_NODES];

static inline void *worker_main(void *arg) {
    struct worker_arg *w = arg;
    struct err err;
    struct exec_worker_opts opts = {.fd = w->launch->worker_fds[w->node], .listen_host = "127.0.0.1", .driver_timeout_ms = 20000};
    w->launch->worker_results[w->node] = exec_worker_run(&opts, &err);
    return NULL;
}

static inline void launch_start(struct launch *l, const char *model, struct split split, const char *dtype) {
    struct err err = {0};
    struct exec_worker workers[MAX_NODES];
    struct exec_driver_opts opts = {.workers = workers, .load_timeout_ms = 60000, .peer_timeout_ms = 20000};
    struct exec_settings *s = &opts.settings;
    int n_ranks = split.tp * split.pp;
    split.max_seqs = split.max_seqs > 0 ? split.max_seqs : 8;
    split.max_step_tokens = split.max_step_tokens > 0 ? split.max_step_tokens : 96;
    split.max_model_len = split.max_model_len > 0 ? split.max_model_len : 3500;
    split.n_blocks = split.n_blocks > 0 ? split.n_blocks : 300;
    opts.kv_limits.n_blocks = split.n_blocks;
    *l = (struct launch){.split = split};
    *s = (struct exec_settings){.load_format = "auto", .kv_cache_dtype = "auto", .tp_size = split.tp, .pp_size = split.pp,
                                .expert_parallel = split.expert_parallel, .n_nodes = split.n_nodes, .block_size = 16, .max_seqs = split.max_seqs,
                                .max_step_tokens = split.max_step_tokens, .max_model_len = split.max_model_len, .op_timeout_ms = 30000};
    snprintf(s->model, sizeof s->model, "%s/models/%s", TEST_DATA_DIR, model);
    snprintf(s->dtype, sizeof s->dtype, "%s", dtype);
    snprintf(s->weights_cache, sizeof s->weights_cache, "%s", split.weights_cache == NULL ? "" : split.weights_cache);
    memcpy(s->layers_per_stage, split.layers, sizeof split.layers);
    for (int rank = 0; rank < n_ranks; rank++)
        s->node_of_rank[rank] = rank * split.n_nodes / n_ranks;
    for (int node = 0; node < split.n_nodes; node++) {
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        s->threads_of_node[node] = 1 + node % 2;
        l->driver_fds[node] = fds[0];
        l->worker_fds[node] = fds[1];
        workers[node] = (struct exec_worker){.name = "test", .host = "127.0.0.1", .fd = fds[0]};
        worker_args[node] = (struct worker_arg){l, node};
        pthread_create(&l->threads[node], NULL, worker_main, &worker_args[node]);
    }
    if (exec_driver_start(&opts, &l->driver, &l->info, &err) != 0)
        fail_msg("%s", err.msg);
    static const int32_t eos[] = {2047};
    struct engine_opts engine = {.driver = l->driver,
                                 .sched = {.max_seqs = split.max_seqs, .max_step_tokens = split.max_step_tokens, .max_model_len = split.max_model_len,
                                           .block_size = 16, .n_blocks = split.n_blocks,
                                           .n_stages = split.pp, .max_awaited = split.pp == 1 ? 2 : 1, .prefix_caching = true},
                                 .eos = eos,
                                 .n_eos = 1};
    assert_int_equal(engine_create(&engine, &l->engine, &err), 0);
}

static inline void launch_stop(struct launch *l) {
    engine_destroy(l->engine);
    exec_driver_stop(l->driver);
    for (int node = 0; node < l->split.n_nodes; node++) {
        pthread_join(l->threads[node], NULL);
        assert_int_equal(l->worker_results[node], 0);
        close(l->driver_fds[node]);
        close(l->worker_fds[node]);
    }
}

static inline struct engine_stream *submit(struct launch *l, const int32_t *prompt, int n_prompt, const struct exec_sampling *sampling) {
    struct engine_stream *stream;
    struct err err;
    struct engine_request request = {.prompt = prompt, .n_prompt = n_prompt, .n_choices = 1, .sampling = sampling};
    if (engine_submit(l->engine, &request, 1, &stream, &err) != 0)
        fail_msg("%s", err.msg);
    return stream;
}

static inline struct exec_sampling greedy_sampling(int max_tokens) {
    return (struct exec_sampling){
        .top_p = 1, .repetition_penalty = 1, .max_tokens = max_tokens, .ignore_eos = true, .n_logprobs = -1, .n_prompt_logprobs = -1};
}

#endif
