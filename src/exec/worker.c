/*
 * A worker process: frames from the driver on the main thread, phases on the boot thread, ranks on theirs; see worker.h.
 * Owns the store, the world, the step queue and the ranks. Must not know how it was started.
 */
#include "exec/worker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/host.h"
#include "base/json.h"
#include "base/log.h"
#include "exec/queue.h"
#include "exec/rank.h"
#include "exec/settings.h"
#include "net/frame.h"
#include "weights/hub.h"

enum { SEND_TIMEOUT_MS = 20000, PROGRESS_GAP_MS = 200, CONNECT_TIMEOUT_MS = 60000, LEAVE_TIMEOUT_S = 2 };

struct worker {
    struct exec_worker_opts opts;
    struct exec_settings settings;
    int node, n_local;
    struct exec_rank *ranks[COMM_MAX_RANKS];
    struct weights_store *store;
    char fingerprint[17]; /* of the store; "" for dummy weights */
    struct model_config config;
    struct comm_world *world;
    struct exec_queue *queue;
    atomic_int cancel;
    pthread_mutex_t send_lock; /* the driver's connection is written by several threads */
    pthread_t boot_thread;
    bool has_boot_thread;
    int failed_fd; /* eventfd: some thread has failed */
    /* Under lock, with `changed`. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_failed, is_leaving, has_peers, is_loading, is_boot_done;
    struct err failure;
    struct net_addr peers[COMM_MAX_NODES];
    int n_blocks, n_loaded, n_ready;
};

static int send_frame(struct worker *w, enum net_frame_type type, const void *body, size_t len_bytes, struct err *err) {
    pthread_mutex_lock(&w->send_lock);
    int result = net_frame_send(w->opts.fd, type, body, len_bytes, clock_mono_ms() + SEND_TIMEOUT_MS, err);
    pthread_mutex_unlock(&w->send_lock);
    return result;
}

/* Takes over the reference to json. */
static int send_status(struct worker *w, json_t *json, struct err *err) {
    char *text = json == NULL ? NULL : json_text(json);
    json_decref(json);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a status report");
    int result = send_frame(w, NET_FRAME_STATUS, text, strlen(text), err);
    free(text);
    return result;
}

/* Any thread: the first failure is kept, everybody is woken. */
static void worker_fail(struct worker *w, const struct err *err) {
    pthread_mutex_lock(&w->lock);
    bool is_first = !w->is_failed && !w->is_leaving;
    if (is_first)
        w->failure = *err;
    w->is_failed = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (is_first) {
        uint64_t one = 1;
        ssize_t written = write(w->failed_fd, &one, sizeof one);
        (void)written; /* an eventfd has room */
    }
}

static void on_failed(void *ctx, const struct err *err) { worker_fail(ctx, err); }

static void on_count(struct worker *w, int *count) {
    pthread_mutex_lock(&w->lock);
    ++*count;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void on_loaded(void *ctx, int local) {
    (void)local;
    struct worker *w = ctx;
    on_count(w, &w->n_loaded);
}

static void on_ready(void *ctx, int local) {
    (void)local;
    struct worker *w = ctx;
    on_count(w, &w->n_ready);
}

static void on_result(void *ctx, const struct exec_result *result) {
    struct worker *w = ctx;
    struct err err;
    struct buf body;
    buf_init(&body, net_frame_limit(NET_FRAME_RESULT));
    if (exec_result_encode(result, &body) != 0) {
        err_set(&err, ERR_LIMIT, "the result of a step does not fit a frame of %zu bytes", body.limit_bytes);
        worker_fail(w, &err);
    } else if (send_frame(w, NET_FRAME_RESULT, body.data, body.len_bytes, &err) != 0) {
        worker_fail(w, &err);
    }
    buf_finish(&body);
}

/* What the boot thread waits for. */
enum boot_wait { WAIT_PEERS, WAIT_LOADED, WAIT_BLOCKS, WAIT_READY };

static bool wait_holds(const struct worker *w, enum boot_wait what) {
    switch (what) {
    case WAIT_PEERS: return w->has_peers;
    case WAIT_LOADED: return w->n_loaded == w->n_local;
    case WAIT_BLOCKS: return w->n_blocks > 0;
    case WAIT_READY: return w->n_ready == w->n_local;
    }
    return false;
}

static int boot_wait_for(struct worker *w, enum boot_wait what, struct err *err) {
    pthread_mutex_lock(&w->lock);
    while (!wait_holds(w, what) && !w->is_failed && !w->is_leaving)
        pthread_cond_wait(&w->changed, &w->lock);
    bool holds = wait_holds(w, what) && !w->is_failed && !w->is_leaving;
    pthread_mutex_unlock(&w->lock);
    return holds ? 0 : err_set(err, ERR_CANCELLED, "stopped while starting");
}

/* Phase "opened": the model is found and described, the listener is open. */
static int boot_open(struct worker *w, struct err *err) {
    const struct exec_settings *s = &w->settings;
    char path[PATH_MAX];
    bool is_dummy = strcmp(s->load_format, "dummy") == 0;
    if (weights_hub_resolve(s->model, s->revision[0] ? s->revision : NULL, s->download_dir[0] ? s->download_dir : NULL, path, err) != 0)
        return -1;
    /* A GGUF file holds the configuration too, so it is opened even for dummy weights. */
    if ((!is_dummy || !file_is_dir(path)) && weights_store_open(path, &w->store, err) != 0)
        return -1;
    if (!is_dummy && weights_store_fingerprint(w->store, w->fingerprint, err) != 0)
        return -1;
    if (model_config_load(path, w->store, s->hf_overrides, &w->config, err) != 0 ||
        model_config_quantize(&w->config, w->store, s->quantization, err) != 0)
        return -1;
    struct comm_world_opts opts = {.n_ranks = s->tp_size * s->pp_size,
                                   .node_of_rank = s->node_of_rank,
                                   .node = w->node,
                                   .secret = w->opts.secret,
                                   .op_timeout_ms = s->op_timeout_ms};
    snprintf(opts.listen.host, sizeof opts.listen.host, "%s", w->opts.listen_host);
    struct net_addr listen;
    struct comm_world *world;
    if (comm_world_create(&opts, &world, &listen, err) != 0)
        return -1;
    pthread_mutex_lock(&w->lock);
    w->world = world;
    pthread_mutex_unlock(&w->lock);
    log_info("Links between ranks on %s:%u", listen.host, listen.port);
    return send_status(w,
                       json_pack("{s:s, s:s, s:s, s:i}", "phase", "opened", "fingerprint", w->fingerprint, "host", listen.host, "port",
                                 (int)listen.port),
                       err);
}

/* Phase "connected", then the ranks start to load. */
static int boot_connect(struct worker *w, struct err *err) {
    const struct exec_settings *s = &w->settings;
    if (boot_wait_for(w, WAIT_PEERS, err) != 0 ||
        comm_world_connect(w->world, w->peers, s->n_nodes, clock_mono_ms() + CONNECT_TIMEOUT_MS, err) != 0 ||
        send_status(w, json_pack("{s:s}", "phase", "connected"), err) != 0)
        return -1;
    if (exec_queue_create(w->n_local, &w->queue, err) != 0)
        return -1;
    int local = 0;
    for (int rank = 0; rank < s->tp_size * s->pp_size; rank++) {
        if (s->node_of_rank[rank] != w->node)
            continue;
        struct exec_rank_opts opts = {.rank = rank,
                                      .local = local,
                                      .settings = s,
                                      .config = &w->config,
                                      .store = strcmp(s->load_format, "dummy") == 0 ? NULL : w->store,
                                      .fingerprint = w->fingerprint,
                                      .world = w->world,
                                      .queue = w->queue,
                                      .cancel = &w->cancel,
                                      .loaded = on_loaded,
                                      .ready = on_ready,
                                      .result = on_result,
                                      .failed = on_failed,
                                      .ctx = w};
        if (exec_rank_start(&opts, &w->ranks[local], err) != 0)
            return -1;
        local++;
    }
    pthread_mutex_lock(&w->lock);
    w->is_loading = true;
    pthread_mutex_unlock(&w->lock);
    return 0;
}

static json_t *progress_json(const struct worker *w, const char *phase) {
    struct exec_load_report reports[COMM_MAX_RANKS];
    for (int i = 0; i < w->n_local; i++)
        reports[i] = exec_rank_report(w->ranks[i]);
    uint64_t mem_total, mem_available;
    host_memory(&mem_total, &mem_available);
    return json_pack("{s:s, s:o, s:I, s:I, s:I}", "phase", phase, "ranks", exec_load_reports_to_json(reports, w->n_local), "model_bytes",
                     (json_int_t)(w->store == NULL ? 0 : weights_store_bytes(w->store)), "mem_total", (json_int_t)mem_total, "mem_available",
                     (json_int_t)mem_available);
}

/* Phases "loaded" and "ready". */
static int boot_load(struct worker *w, struct err *err) {
    if (boot_wait_for(w, WAIT_LOADED, err) != 0)
        return -1;
    pthread_mutex_lock(&w->lock);
    w->is_loading = false;
    pthread_mutex_unlock(&w->lock);
    if (send_status(w, progress_json(w, "loaded"), err) != 0 || boot_wait_for(w, WAIT_BLOCKS, err) != 0)
        return -1;
    for (int i = 0; i < w->n_local; i++)
        exec_rank_give_blocks(w->ranks[i], w->n_blocks);
    if (boot_wait_for(w, WAIT_READY, err) != 0)
        return -1;
    return send_status(w, json_pack("{s:s}", "phase", "ready"), err);
}

static void *boot_main(void *arg) {
    struct worker *w = arg;
    struct err err;
    if (boot_open(w, &err) != 0 || boot_connect(w, &err) != 0 || boot_load(w, &err) != 0)
        worker_fail(w, &err);
    pthread_mutex_lock(&w->lock);
    w->is_boot_done = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static int on_assign(struct worker *w, const json_t *json, struct err *err) {
    if (w->has_boot_thread)
        return err_set(err, ERR_PEER, "the driver assigned this node twice");
    if (exec_settings_from_json(json, &w->settings, &w->node, err) != 0)
        return -1;
    for (int rank = 0; rank < w->settings.tp_size * w->settings.pp_size; rank++)
        w->n_local += w->settings.node_of_rank[rank] == w->node;
    if (w->n_local == 0)
        return err_set(err, ERR_PEER, "the driver assigned no rank to node %d", w->node);
    int rc = pthread_create(&w->boot_thread, NULL, boot_main, w);
    if (rc != 0)
        return err_set(err, ERR_LIMIT, "cannot start a thread: %s", strerror(rc));
    w->has_boot_thread = true;
    return 0;
}

static int on_peers(struct worker *w, const json_t *json, struct err *err) {
    const json_t *list = json_object_get(json, "peers");
    if (!w->has_boot_thread || json_array_size(list) != (size_t)w->settings.n_nodes)
        return err_set(err, ERR_PEER, "the driver's list of peers does not fit its assignment");
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < w->settings.n_nodes; i++) {
        const json_t *peer = json_array_get(list, (size_t)i);
        const char *host = json_string_value(json_object_get(peer, "host"));
        snprintf(w->peers[i].host, sizeof w->peers[i].host, "%s", host == NULL ? "" : host);
        w->peers[i].port = (uint16_t)json_integer_value(json_object_get(peer, "port"));
    }
    w->has_peers = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

static int on_start(struct worker *w, const json_t *json, struct err *err) {
    int64_t n_blocks;
    if (json_get_int(json, "n_blocks", 0, 1, INT32_MAX, &n_blocks, err) != 0)
        return -1;
    pthread_mutex_lock(&w->lock);
    w->n_blocks = (int)n_blocks;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

static int on_step(struct worker *w, struct buf *body, struct err *err) {
    struct exec_step step;
    pthread_mutex_lock(&w->lock);
    bool is_ready = w->n_ready == w->n_local && w->n_local > 0;
    pthread_mutex_unlock(&w->lock);
    if (!is_ready)
        return err_set(err, ERR_PEER, "the driver sent a step before this node was ready");
    if (exec_step_decode(body, &step, err) != 0)
        return -1;
    if (exec_queue_push(w->queue, body, &step, err) != 0) {
        exec_step_finish(&step);
        return -1;
    }
    return 0;
}

/* 0: go on, 1: leave, -1: failed. */
static int on_frame(struct worker *w, enum net_frame_type type, struct buf *body, struct err *err) {
    json_t *json = NULL;
    int result = -1;
    switch (type) {
    case NET_FRAME_PING: return send_frame(w, NET_FRAME_PONG, NULL, 0, err);
    case NET_FRAME_STOP: return 1;
    case NET_FRAME_STEP: return on_step(w, body, err);
    case NET_FRAME_REFUSE: return err_set(err, ERR_PEER, "the driver refuses: %s", buf_str(body));
    case NET_FRAME_ASSIGN:
    case NET_FRAME_PEERS:
    case NET_FRAME_START:
        json = json_parse(buf_str(body), body->len_bytes, err);
        if (json != NULL)
            result = type == NET_FRAME_ASSIGN ? on_assign(w, json, err) : type == NET_FRAME_PEERS ? on_peers(w, json, err) : on_start(w, json, err);
        json_decref(json);
        return result;
    default: return err_set(err, ERR_PEER, "a frame of type %d is nothing that a driver sends", (int)type);
    }
}

static int serve_frames(struct worker *w, struct buf *body, struct err *err) {
    int64_t heard_ms = clock_mono_ms();
    for (;;) {
        struct pollfd fds[2] = {{.fd = w->opts.fd, .events = POLLIN}, {.fd = w->failed_fd, .events = POLLIN}};
        int n = poll(fds, 2, PROGRESS_GAP_MS);
        if (n < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "poll: %s", strerror(errno));
        if (fds[1].revents != 0) {
            pthread_mutex_lock(&w->lock);
            err_copy(err, &w->failure);
            pthread_mutex_unlock(&w->lock);
            return -1;
        }
        if (n > 0 && fds[0].revents != 0) {
            enum net_frame_type type;
            if (net_frame_recv(w->opts.fd, &type, body, clock_mono_ms() + w->opts.driver_timeout_ms, err) != 0)
                return err_wrap(err, "connection to the driver");
            heard_ms = clock_mono_ms();
            int next = on_frame(w, type, body, err);
            if (next != 0)
                return next > 0 ? 0 : -1;
        } else if (clock_mono_ms() - heard_ms > w->opts.driver_timeout_ms) {
            return err_set(err, ERR_TIMEOUT, "the driver has been silent for %d ms", w->opts.driver_timeout_ms);
        }
        pthread_mutex_lock(&w->lock);
        bool is_loading = w->is_loading;
        pthread_mutex_unlock(&w->lock);
        if (is_loading && send_status(w, progress_json(w, "loading"), err) != 0)
            return -1;
    }
}

/* Waits a little for the boot thread. False: it is stuck in something that can't be woken, such as a download. */
static bool join_boot_thread(struct worker *w) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LEAVE_TIMEOUT_S;
    pthread_mutex_lock(&w->lock);
    while (w->has_boot_thread && !w->is_boot_done && pthread_cond_timedwait(&w->changed, &w->lock, &until) == 0)
        ;
    bool is_done = !w->has_boot_thread || w->is_boot_done;
    pthread_mutex_unlock(&w->lock);
    if (w->has_boot_thread && is_done)
        pthread_join(w->boot_thread, NULL);
    return is_done;
}

/* Wakes and joins everybody, whatever they are doing, and frees. False: a thread still runs, nothing was freed. */
static bool worker_finish(struct worker *w, const char *why) {
    pthread_mutex_lock(&w->lock);
    w->is_leaving = true;
    pthread_cond_broadcast(&w->changed);
    struct comm_world *world = w->world;
    pthread_mutex_unlock(&w->lock);
    atomic_store(&w->cancel, 1);
    if (world != NULL)
        comm_world_abort(world, why);
    if (!join_boot_thread(w))
        return false;
    if (w->world != NULL)
        comm_world_abort(w->world, why); /* again: the boot thread may just have made it */
    if (w->queue != NULL)
        exec_queue_close(w->queue);
    for (int i = 0; i < w->n_local; i++)
        exec_rank_destroy(w->ranks[i]);
    exec_queue_destroy(w->queue);
    comm_world_destroy(w->world);
    weights_store_close(w->store);
    exec_settings_finish(&w->settings);
    close(w->failed_fd);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->send_lock);
    pthread_mutex_destroy(&w->lock);
    free(w);
    return true;
}

int exec_worker_run(const struct exec_worker_opts *opts, struct err *err) {
    struct worker *w = calloc(1, sizeof *w);
    if (w == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a worker");
    w->opts = *opts;
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_init(&w->send_lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->failed_fd = eventfd(0, EFD_CLOEXEC);
    struct buf body;
    buf_init(&body, net_frame_limit(NET_FRAME_STEP));
    int result = serve_frames(w, &body, err);
    if (result != 0) {
        struct err ignored; /* the driver may be what failed */
        log_error("%s", err->msg);
        send_frame(w, NET_FRAME_FAILURE, err->msg, strlen(err->msg), &ignored);
    }
    if (!worker_finish(w, result == 0 ? "the driver stops this launch" : err->msg))
        log_debug("Leaving with a thread at work");
    buf_finish(&body);
    return result;
}
