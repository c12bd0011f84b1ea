/*
 * From HELLO to ready: assignment, fingerprints, links, loading, KV cache; see driver.h. Main thread.
 * Every phase has a deadline and a sentence about who is missing.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "exec/driver_state.h"
#include "exec/loading.h"

enum { POLL_GAP_MS = 100, WATCH_GAP_MS = 500 };

/* In the order in which every worker passes through them; the names travel in STATUS frames. */
enum phase { PHASE_ASSIGNED, PHASE_OPENED, PHASE_CONNECTED, PHASE_LOADED, PHASE_READY };
static const char *const phase_names[] = {"assigned", "opened", "connected", "loaded", "ready"};
static const char *const phase_waits[] = {"its assignment", "the model to be opened", "the links between ranks", "its weights to be loaded",
                                          "the KV cache to be made"};

struct node_state {
    enum phase phase;
    char fingerprint[17];
    char host[NET_ADDR_BYTES];
    int port;
};

struct starter {
    const struct exec_driver_opts *opts;
    struct exec_driver *driver;
    int n_ranks;
    struct node_state *nodes;          /* [n_workers] */
    struct exec_node_memory *memories; /* likewise */
    struct exec_load_report *reports;  /* [n_ranks] */
    uint64_t model_bytes;              /* in its files; 0 for dummy weights */
    struct progress bar;
    bool has_bar;
    int64_t watched_ms, progressed_ms;
    uint64_t seen_bytes;
};

static int driver_create(const struct exec_driver_opts *opts, struct exec_driver **ret, struct err *err) {
    int n = opts->settings.n_nodes;
    struct exec_driver *driver = calloc(1, sizeof *driver);
    if (driver == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the executor");
    driver->workers = malloc((size_t)n * sizeof *driver->workers);
    driver->heard_ms = malloc((size_t)n * sizeof *driver->heard_ms);
    driver->poll_fds = calloc((size_t)n + 1, sizeof *driver->poll_fds);
    if (driver->workers == NULL || driver->heard_ms == NULL || driver->poll_fds == NULL) {
        exec_driver_stop(driver); /* n_workers is 0: nobody is told */
        return err_set(err, ERR_NOMEM, "no memory for the executor");
    }
    driver->n_workers = n;
    driver->peer_timeout_ms = opts->peer_timeout_ms;
    memcpy(driver->workers, opts->workers, (size_t)n * sizeof *driver->workers);
    for (int i = 0; i < n; i++) {
        driver->heard_ms[i] = clock_mono_ms();
        driver->poll_fds[i] = (struct pollfd){.fd = opts->workers[i].fd, .events = POLLIN};
    }
    buf_init(&driver->in, net_frame_limit(NET_FRAME_RESULT));
    buf_init(&driver->out, net_frame_limit(NET_FRAME_STEP));
    *ret = driver;
    return 0;
}

/* Takes over the reference. */
static int send_json(struct starter *s, int node, enum net_frame_type type, json_t *json, struct err *err) {
    char *text = json == NULL ? NULL : json_text(json);
    json_decref(json);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a frame");
    int result = net_frame_send(s->driver->workers[node].fd, type, text, strlen(text), clock_mono_ms() + s->opts->peer_timeout_ms, err);
    free(text);
    return result == 0 ? 0 : err_wrap(err, "node %d (%s)", node, s->driver->workers[node].name);
}

/* The reports of a node's ranks, in their order there, to their places in the launch. */
static int read_reports(struct starter *s, int node, const json_t *status, struct err *err) {
    const int *node_of_rank = s->opts->settings.node_of_rank;
    struct exec_load_report local[COMM_MAX_RANKS];
    int n_local = 0, next = 0;
    for (int rank = 0; rank < s->n_ranks; rank++)
        n_local += node_of_rank[rank] == node;
    if (exec_load_reports_from_json(json_object_get(status, "ranks"), n_local, local, err) != 0)
        return -1;
    for (int rank = 0; rank < s->n_ranks; rank++)
        if (node_of_rank[rank] == node)
            s->reports[rank] = local[next++];
    s->memories[node] = (struct exec_node_memory){.total_bytes = (uint64_t)json_integer_value(json_object_get(status, "mem_total")),
                                                  .available_bytes = (uint64_t)json_integer_value(json_object_get(status, "mem_available"))};
    s->model_bytes = (uint64_t)json_integer_value(json_object_get(status, "model_bytes"));
    return 0;
}

static int on_status(struct starter *s, int i, struct err *err) {
    struct node_state *node = &s->nodes[i];
    json_t *status = json_parse(buf_str(&s->driver->in), s->driver->in.len_bytes, err);
    const char *phase, *text;
    int result = -1;
    if (status == NULL || json_get_str(status, "phase", "", &phase, err) != 0)
        goto decref_status;
    if (json_object_get(status, "ranks") != NULL && read_reports(s, i, status, err) != 0)
        goto decref_status;
    for (int p = PHASE_ASSIGNED; p <= PHASE_READY; p++)
        if (strcmp(phase, phase_names[p]) == 0)
            node->phase = (enum phase)p;
    if (node->phase == PHASE_OPENED && strcmp(phase, "opened") == 0) {
        if (json_get_str(status, "fingerprint", "", &text, err) != 0)
            goto decref_status;
        snprintf(node->fingerprint, sizeof node->fingerprint, "%s", text);
        if (json_get_str(status, "host", "", &text, err) != 0)
            goto decref_status;
        snprintf(node->host, sizeof node->host, "%s", text);
        node->port = (int)json_integer_value(json_object_get(status, "port"));
    }
    result = 0;
decref_status:
    json_decref(status);
    return result == 0 ? 0 : err_wrap(err, "status of node %d (%s)", i, s->driver->workers[i].name);
}

/* One bar over all ranks. Behind it the slowest one, or how far the weights cache is once all are loaded. */
static void draw_progress(struct starter *s) {
    struct exec_load_summary sum;
    char note[64] = "";
    exec_load_sum(s->reports, s->n_ranks, &sum);
    if (sum.done_bytes + sum.saved_bytes != s->seen_bytes) {
        s->seen_bytes = sum.done_bytes + sum.saved_bytes;
        s->progressed_ms = clock_mono_ms();
    }
    if (sum.total_bytes == 0)
        return;
    if (!s->has_bar)
        progress_start(&s->bar, "Loading weights", 0, sum.total_bytes);
    s->has_bar = true;
    s->bar.total_bytes = sum.total_bytes;
    s->bar.rate_bps = sum.rate_bps;
    s->bar.left_s = sum.left_s;
    if (sum.done_bytes == sum.total_bytes && sum.saved_bytes > 0)
        snprintf(note, sizeof note, "writing the weights cache, %.0f%%", 100 * (double)sum.saved_bytes / (double)sum.total_bytes);
    else if (s->n_ranks > 1)
        snprintf(note, sizeof note, "slowest rank %d at %.0f%%", sum.slowest, 100 * sum.slowest_share);
    progress_update(&s->bar, sum.done_bytes, note[0] == '\0' ? NULL : note);
}

/* The last state of the bar, and where the weights came from. */
static void tell_loaded(struct starter *s, struct exec_driver_info *info) {
    struct exec_load_summary sum;
    char read[16], model[16], cached[96] = "";
    exec_load_sum(s->reports, s->n_ranks, &sum);
    info->weights_bytes = sum.total_bytes;
    info->read_bytes = sum.read_bytes;
    if (s->has_bar) {
        s->bar.rate_bps = sum.rate_bps;
        progress_finish(&s->bar, sum.done_bytes, NULL);
    }
    if (s->model_bytes == 0)
        return;
    if (sum.n_cached > 0)
        snprintf(cached, sizeof cached, "; %d of %d ranks came packed from the weights cache", sum.n_cached, s->n_ranks);
    log_info("Read %s of the model's %s (%.2f times the file)%s; slowest rank %d, %.1f s", progress_bytes_text(sum.read_bytes, read),
             progress_bytes_text(s->model_bytes, model), (double)sum.read_bytes / (double)s->model_bytes, cached, sum.slowest,
             (double)s->reports[sum.slowest].elapsed_ms / 1000);
}

static int watch(struct starter *s, struct err *err) {
    if (clock_mono_ms() - s->watched_ms < WATCH_GAP_MS || s->opts->watch == NULL)
        return 0;
    s->watched_ms = clock_mono_ms();
    err_set(err, ERR_CANCELLED, "stopped while starting");
    return s->opts->watch(s->opts->watch_ctx, err) == 0 ? 0 : -1;
}

static int missing(const struct starter *s, enum phase wanted, struct err *err) {
    char list[512] = "";
    int len = 0;
    for (int i = 0; i < s->driver->n_workers && len < (int)sizeof list - 1; i++)
        if (s->nodes[i].phase < wanted)
            len += snprintf(list + len, sizeof list - (size_t)len, "%snode %d (%s, %s, phase %s)", len > 0 ? ", " : "", i,
                            s->driver->workers[i].name, s->driver->workers[i].host, phase_names[s->nodes[i].phase]);
    return err_set(err, ERR_TIMEOUT, "waited %.0f s for %s; missing: %s", (double)s->opts->load_timeout_ms / 1000, phase_waits[wanted], list);
}

/* Handles frames until all workers have reached the phase. */
static int wait_for_phase(struct starter *s, enum phase wanted, struct err *err) {
    struct exec_driver *driver = s->driver;
    s->progressed_ms = clock_mono_ms();
    for (;;) {
        int n_there = 0;
        for (int i = 0; i < driver->n_workers; i++)
            n_there += s->nodes[i].phase >= wanted;
        if (n_there == driver->n_workers)
            return 0;
        if (watch(s, err) != 0 || exec_driver_heartbeat(driver, err) != 0)
            return -1;
        if (clock_mono_ms() - s->progressed_ms > s->opts->load_timeout_ms)
            return missing(s, wanted, err);
        int n = poll(driver->poll_fds, (nfds_t)driver->n_workers, POLL_GAP_MS);
        if (n < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "poll: %s", strerror(errno));
        for (int i = 0; n > 0 && i < driver->n_workers; i++) {
            if (driver->poll_fds[i].revents == 0)
                continue;
            enum net_frame_type type;
            if (exec_driver_recv(driver, i, &type, err) != 0 || (type == NET_FRAME_STATUS && on_status(s, i, err) != 0))
                return -1;
            if (type != NET_FRAME_STATUS && type != NET_FRAME_PONG)
                return err_set(err, ERR_PEER, "node %d (%s) sent a frame of type %d while starting", i, driver->workers[i].name, (int)type);
        }
        if (wanted == PHASE_LOADED)
            draw_progress(s);
    }
}

static int compare_fingerprints(const struct starter *s, struct err *err) {
    for (int i = 0; i < s->driver->n_workers && s->opts->fingerprint[0] != '\0'; i++)
        if (strcmp(s->nodes[i].fingerprint, s->opts->fingerprint) != 0)
            return err_set(err, ERR_INVALID, "the model '%s' on node %d (%s) is not the driver's: fingerprint %s there, %s here", s->opts->settings.model,
                           i, s->driver->workers[i].name, s->nodes[i].fingerprint, s->opts->fingerprint);
    return 0;
}

static int send_peers(struct starter *s, struct err *err) {
    json_t *peers = json_array();
    for (int i = 0; i < s->driver->n_workers; i++)
        json_array_append_new(peers, json_pack("{s:s, s:i}", "host", s->nodes[i].host, "port", s->nodes[i].port));
    int result = 0;
    for (int i = 0; i < s->driver->n_workers && result == 0; i++)
        result = send_json(s, i, NET_FRAME_PEERS, json_pack("{s:O}", "peers", peers), err);
    json_decref(peers);
    return result;
}

/* What one KV block takes on all ranks of a node, or of the launch (-1). */
static uint64_t block_bytes_on(const struct starter *s, int node) {
    uint64_t sum = 0;
    for (int rank = 0; rank < s->n_ranks; rank++)
        if (node < 0 || s->opts->settings.node_of_rank[rank] == node)
            sum += s->reports[rank].block_bytes;
    return sum;
}

/* KV blocks that every node has memory for. More than all slots can fill would be of no use. */
static int choose_n_blocks(const struct starter *s, int *ret, struct err *err) {
    const struct exec_settings *settings = &s->opts->settings;
    int per_seq = (settings->max_model_len + settings->block_size - 1) / settings->block_size;
    int tightest;
    int64_t n_blocks = exec_kv_blocks_fit(s->reports, settings->node_of_rank, s->n_ranks, s->memories, s->driver->n_workers, &s->opts->kv_limits,
                                          (int64_t)per_seq * settings->max_seqs, &tightest);
    if (n_blocks >= per_seq) {
        *ret = (int)(n_blocks < INT32_MAX ? n_blocks : INT32_MAX);
        return 0;
    }
    if (tightest < 0)
        return err_set(err, ERR_INVALID, "%lld KV blocks of %d tokens hold less than one sequence of --max-model-len %d, which needs %d", (long long)n_blocks,
                       settings->block_size, settings->max_model_len, per_seq);
    char needed[16], available[16];
    progress_bytes_text(block_bytes_on(s, tightest) * (uint64_t)per_seq, needed);
    progress_bytes_text(s->memories[tightest].available_bytes, available);
    return err_set(err, ERR_LIMIT,
                   "the KV cache of one sequence of %d tokens needs %s on node %d (%s), where %s are available after loading; the most that fits is "
                   "--max-model-len %lld (or give more with --gpu-memory-utilization, now %.2f, or --kv-cache-memory-bytes%s)",
                   settings->max_model_len, needed, tightest, s->driver->workers[tightest].name, available,
                   (long long)n_blocks * settings->block_size, s->opts->kv_limits.share,
                   settings->pp_size > 1 ? ", or give its stages fewer layers with --pipeline-layers" : "");
}

static int start_phases(struct starter *s, struct exec_driver_info *info, struct err *err) {
    struct exec_driver *driver = s->driver;
    for (int i = 0; i < driver->n_workers; i++)
        if (send_json(s, i, NET_FRAME_ASSIGN, exec_settings_to_json(&s->opts->settings, i), err) != 0)
            return -1;
    if (wait_for_phase(s, PHASE_OPENED, err) != 0 || compare_fingerprints(s, err) != 0 || send_peers(s, err) != 0 ||
        wait_for_phase(s, PHASE_CONNECTED, err) != 0)
        return -1;
    if (wait_for_phase(s, PHASE_LOADED, err) != 0)
        return -1;
    tell_loaded(s, info);
    if (choose_n_blocks(s, &info->n_blocks, err) != 0)
        return -1;
    info->kv_bytes = block_bytes_on(s, -1) * (uint64_t)info->n_blocks;
    for (int i = 0; i < driver->n_workers; i++)
        if (send_json(s, i, NET_FRAME_START, json_pack("{s:i}", "n_blocks", info->n_blocks), err) != 0)
            return -1;
    return wait_for_phase(s, PHASE_READY, err);
}

static void free_starter(struct starter *s) {
    free(s->nodes);
    free(s->memories);
    free(s->reports);
}

int exec_driver_start(const struct exec_driver_opts *opts, struct exec_driver **ret, struct exec_driver_info *ret_info, struct err *err) {
    struct starter s = {.opts = opts, .n_ranks = opts->settings.tp_size * opts->settings.pp_size};
    struct exec_driver_info info = {0};
    if (driver_create(opts, &s.driver, err) != 0)
        return -1;
    s.nodes = calloc((size_t)opts->settings.n_nodes, sizeof *s.nodes);
    s.memories = calloc((size_t)opts->settings.n_nodes, sizeof *s.memories);
    s.reports = calloc((size_t)s.n_ranks, sizeof *s.reports);
    if (s.nodes == NULL || s.memories == NULL || s.reports == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %d nodes", opts->settings.n_nodes);
        goto stop_driver;
    }
    if (start_phases(&s, &info, err) != 0)
        goto stop_driver;
    *ret = s.driver;
    *ret_info = info;
    free_starter(&s);
    return 0;
stop_driver:
    exec_driver_stop(s.driver);
    free_starter(&s);
    return -1;
}
