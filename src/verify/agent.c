/* Answers the driver's questions; see agent.h. */
#include "verify/agent.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/sort.h"
#include "comm/group.h"
#include "comm/world.h"
#include "net/frame.h"
#include "verify/checks.h"
#include "verify/probe.h"

enum {
    SEND_TIMEOUT_MS = 5000,
    PEEK_NAP_MS = 1,
    REDUCE_CONNECT_MS = 5000,
    REDUCE_OP_MS = 5000,
    REDUCE_MAX = 1000,
    REDUCE_WARM = 5,
    FLOATS_MAX = 1 << 20
};

struct agent {
    const struct verify_agent_opts *opts;
    struct probe_server *server;
    struct comm_world *world;
    int reduce_node, n_reduce_nodes;
};

static const char *get_str(const json_t *json, const char *key) {
    const char *text = json_string_value(json_object_get(json, key));
    return text == NULL ? "" : text;
}

/* Errors may hold bytes that JSON cannot. */
static void put_text(json_t *answer, const char *key, const char *text) {
    char clean[VERIFY_TEXT_BYTES];
    verify_clean_text(text, clean, sizeof clean);
    json_object_set_new(answer, key, json_string(clean));
}

static int get_int(const json_t *json, const char *key, int64_t min, int64_t max, int64_t *ret, struct err *err) {
    return json_get_int(json, key, min, min, max, ret, err);
}

static int on_clock(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    (void)ask;
    (void)err;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_int_t ns = (json_int_t)now.tv_sec * 1000000000 + now.tv_nsec + (json_int_t)agent->opts->clock_offset_ms * 1000000;
    json_object_set_new(answer, "at_ns", json_integer(ns));
    return 0;
}

/* Moves lines and facts into the answer. */
static int put_findings(json_t *answer, struct verify_findings *findings, json_t *facts, struct err *err) {
    json_t *lines = verify_findings_to_json(findings, true);
    verify_findings_finish(findings);
    if (lines == NULL || json_object_set_new(answer, "lines", lines) != 0 || json_object_set_new(answer, "facts", facts) != 0)
        return err_set(err, ERR_NOMEM, "no memory for a report");
    return 0;
}

static int on_node(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    struct verify_findings findings = {0};
    json_t *facts = json_object();
    bool is_quick = json_is_true(json_object_get(ask, "quick"));
    struct check_iface_opts iface = {.address = agent->opts->listen_host, .toward = get_str(ask, "toward"), .is_quick = is_quick};
    check_iface(&iface, &findings, facts);
    check_host(agent->opts->cpu_level, agent->opts->listen_host, is_quick, &findings, facts);
    return put_findings(answer, &findings, facts, err);
}

static int on_model(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    (void)agent;
    struct verify_findings findings = {0};
    json_t *facts = json_object();
    check_model(get_str(ask, "model"), get_str(ask, "revision"), get_str(ask, "download_dir"), &findings, facts);
    return put_findings(answer, &findings, facts, err);
}

static int npu_opts(const json_t *ask, struct check_npu_opts *ret, struct err *err) {
    int64_t n;
    if (get_int(ask, "n_npus", 0, 64, &n, err) != 0)
        return -1;
    *ret = (struct check_npu_opts){.hccn_tool = get_str(ask, "hccn_tool"),
                                   .npu_smi = get_str(ask, "npu_smi"),
                                   .hccn_conf = get_str(ask, "hccn_conf"),
                                   .n_npus = (int)n};
    return 0;
}

static int on_npu(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    (void)agent;
    struct verify_findings findings = {0};
    struct check_npu_opts opts;
    if (npu_opts(ask, &opts, err) != 0)
        return -1;
    json_t *facts = json_object();
    check_npu(&opts, &findings, facts);
    return put_findings(answer, &findings, facts, err);
}

static int on_npu_ping(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    (void)agent;
    struct check_npu_opts opts;
    if (npu_opts(ask, &opts, err) != 0)
        return -1;
    json_object_set_new(answer, "pings", check_npu_pings(&opts, json_object_get(ask, "pings")));
    return 0;
}

static int on_iface(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    (void)ask;
    struct check_iface_state state;
    if (check_iface_read(agent->opts->listen_host, &state, err) != 0)
        return -1;
    json_object_set_new(answer, "iface", json_string(state.name));
    json_object_set_new(answer, "mtu", json_integer(state.mtu));
    json_object_set_new(answer, "speed", json_integer(state.speed));
    json_object_set_new(answer, "errors", json_integer((json_int_t)state.errors));
    json_object_set_new(answer, "drops", json_integer((json_int_t)state.drops));
    return 0;
}

static int on_open(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    struct net_addr tcp;
    uint16_t udp_port;
    if (agent->server != NULL)
        return err_set(err, ERR_INVALID, "the probe server is open already");
    if (probe_server_open(agent->opts->listen_host, &agent->opts->secret, &agent->server, &tcp, &udp_port, err) != 0)
        return -1;
    json_object_set_new(answer, "host", json_string(tcp.host));
    json_object_set_new(answer, "port", json_integer(tcp.port));
    json_object_set_new(answer, "udp_port", json_integer(udp_port));
    return on_iface(agent, ask, answer, err);
}

static int on_probe(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    int64_t port, udp_port, mtu;
    struct probe_result result;
    struct err why;
    if (get_int(ask, "port", 1, 65535, &port, err) != 0 || get_int(ask, "udp_port", 1, 65535, &udp_port, err) != 0 ||
        get_int(ask, "mtu", 0, 1 << 20, &mtu, err) != 0)
        return -1;
    struct probe_target target = {.tcp.port = (uint16_t)port,
                                  .udp_port = (uint16_t)udp_port,
                                  .mtu = (int)mtu,
                                  .is_quick = json_is_true(json_object_get(ask, "quick"))};
    snprintf(target.tcp.host, sizeof target.tcp.host, "%s", get_str(ask, "host"));
    if (probe_run(&target, &agent->opts->secret, &result, &why) != 0)
        put_text(answer, "trouble", why.msg);
    const struct {
        const char *key;
        double value;
    } figures[] = {{"connect_us", result.connect_us}, {"small_us", result.small_us},         {"small_p99_us", result.small_p99_us},
                   {"large_us", result.large_us},     {"large_p99_us", result.large_p99_us}, {"mbits_1", result.mbits_1},
                   {"mbits_n", result.mbits_n},       {"frame_tried", result.frame_tried},   {"frame_passed", result.frame_passed}};
    for (size_t i = 0; i < sizeof figures / sizeof figures[0]; i++)
        json_object_set_new(answer, figures[i].key, json_real(figures[i].value));
    return 0;
}

/* One rank on each node: the smallest world that does what tensor parallelism over nodes does. */
static int on_reduce_open(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    int64_t node, n_nodes;
    int node_of_rank[COMM_MAX_NODES];
    struct net_addr listen;
    if (get_int(ask, "n_nodes", 1, COMM_MAX_NODES, &n_nodes, err) != 0 || get_int(ask, "node", 0, n_nodes - 1, &node, err) != 0)
        return -1;
    for (int i = 0; i < n_nodes; i++)
        node_of_rank[i] = i;
    struct comm_world_opts opts = {.n_ranks = (int)n_nodes,
                                   .node_of_rank = node_of_rank,
                                   .node = (int)node,
                                   .secret = agent->opts->secret,
                                   .op_timeout_ms = REDUCE_OP_MS};
    snprintf(opts.listen.host, sizeof opts.listen.host, "%s", agent->opts->listen_host);
    comm_world_destroy(agent->world);
    agent->world = NULL;
    agent->reduce_node = (int)node;
    agent->n_reduce_nodes = (int)n_nodes;
    if (comm_world_create(&opts, &agent->world, &listen, err) != 0)
        return -1;
    json_object_set_new(answer, "host", json_string(listen.host));
    json_object_set_new(answer, "port", json_integer(listen.port));
    return 0;
}

static int run_reduces(struct agent *agent, size_t n_floats, int n, json_t *answer, struct err *err) {
    int members[COMM_MAX_NODES], result = -1;
    struct comm_group *group = NULL;
    float *data = calloc(n_floats, sizeof *data);
    double *times = calloc((size_t)n, sizeof *times);
    for (int i = 0; i < agent->n_reduce_nodes; i++)
        members[i] = i;
    if (data == NULL || times == NULL) {
        err_set(err, ERR_NOMEM, "no memory for an all-reduce");
        goto free_memory;
    }
    if (comm_group_join(agent->world, agent->reduce_node, members, agent->n_reduce_nodes, n_floats, &group, err) != 0)
        goto free_memory;
    for (int i = -REDUCE_WARM; i < n; i++) {
        int64_t start_ns = clock_mono_ns();
        if (comm_allreduce(group, data, n_floats, err) != 0)
            goto leave_group;
        if (i >= 0)
            times[i] = (double)(clock_mono_ns() - start_ns) / 1000;
    }
    sort_doubles(times, (size_t)n);
    json_object_set_new(answer, "median_us", json_real(times[n / 2]));
    json_object_set_new(answer, "p99_us", json_real(times[n * 99 / 100]));
    result = 0;
leave_group:
    comm_group_leave(group);
free_memory:
    free(times);
    free(data);
    return result;
}

static int on_reduce(struct agent *agent, const json_t *ask, json_t *answer, struct err *err) {
    const json_t *peers = json_object_get(ask, "peers");
    struct net_addr addrs[COMM_MAX_NODES] = {0};
    int64_t n_floats, n, port;
    if (agent->world == NULL || json_array_size(peers) != (size_t)agent->n_reduce_nodes)
        return err_set(err, ERR_INVALID, "the list of peers does not fit the nodes");
    if (get_int(ask, "n_floats", 1, FLOATS_MAX, &n_floats, err) != 0 || get_int(ask, "n", 1, REDUCE_MAX, &n, err) != 0)
        return -1;
    for (int i = 0; i < agent->n_reduce_nodes; i++) {
        const json_t *peer = json_array_get(peers, (size_t)i);
        if (get_int(peer, "port", 1, 65535, &port, err) != 0)
            return -1;
        snprintf(addrs[i].host, sizeof addrs[i].host, "%s", get_str(peer, "host"));
        addrs[i].port = (uint16_t)port;
    }
    int result = comm_world_connect(agent->world, addrs, agent->n_reduce_nodes, clock_mono_ms() + REDUCE_CONNECT_MS, err);
    if (result == 0)
        result = run_reduces(agent, (size_t)n_floats, (int)n, answer, err);
    comm_world_destroy(agent->world);
    agent->world = NULL;
    return result;
}

static const struct {
    const char *name;
    int (*answer)(struct agent *agent, const json_t *ask, json_t *answer, struct err *err);
} questions[] = {{"clock", on_clock},       {"node", on_node},  {"model", on_model}, {"npu", on_npu},
                 {"npu_ping", on_npu_ping}, {"open", on_open},  {"probe", on_probe}, {"reduce_open", on_reduce_open},
                 {"reduce", on_reduce},     {"iface", on_iface}};

static int answer_to(struct agent *agent, const char *text, size_t len_bytes, struct err *err) {
    json_t *ask = json_parse(text, len_bytes, err);
    if (ask == NULL)
        return err_wrap(err, "the driver's question");
    const char *name = get_str(ask, "ask");
    json_t *answer = json_pack("{s:I}", "id", json_integer_value(json_object_get(ask, "id")));
    struct err why;
    int result = err_set(&why, ERR_UNSUPPORTED, "this build knows no question '%.40s'", name);
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++)
        if (strcmp(questions[i].name, name) == 0)
            result = questions[i].answer(agent, ask, answer, &why);
    if (result != 0)
        put_text(answer, "error", why.msg);
    json_decref(ask);
    char *reply = answer == NULL ? NULL : json_text(answer);
    json_decref(answer);
    if (reply == NULL)
        return err_set(err, ERR_NOMEM, "no memory for an answer");
    result = net_frame_send(agent->opts->fd, NET_FRAME_REPORT, reply, strlen(reply), clock_mono_ms() + SEND_TIMEOUT_MS, err);
    free(reply);
    return result;
}

/* Waits for a whole header and leaves it there. 1: *ret_type is set; 0: the driver has closed. */
static int peek_type(const struct verify_agent_opts *opts, enum net_frame_type *ret_type, struct err *err) {
    uint8_t header[NET_FRAME_HEADER_BYTES];
    size_t len_bytes;
    int64_t deadline_ms = clock_mono_ms() + opts->driver_timeout_ms;
    for (;;) {
        struct pollfd readable = {.fd = opts->fd, .events = POLLIN};
        int n = poll(&readable, 1, clock_left_ms(deadline_ms));
        if (n < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "poll: %s", strerror(errno));
        ssize_t got = n <= 0 ? -1 : recv(opts->fd, header, sizeof header, MSG_PEEK | MSG_DONTWAIT);
        if (got == (ssize_t)sizeof header)
            return net_frame_header_decode(header, ret_type, &len_bytes, err) == 0 ? 1 : -1;
        if (n > 0 && (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)))
            return 0;
        if (clock_left_ms(deadline_ms) == 0)
            return err_set(err, ERR_TIMEOUT, "the driver has been silent for %d ms", opts->driver_timeout_ms);
        if (n > 0) /* part of a header */
            clock_nap_ms(PEEK_NAP_MS);
    }
}

static int serve(struct agent *agent, struct buf *body, struct err *err) {
    for (;;) {
        enum net_frame_type type;
        int found = peek_type(agent->opts, &type, err);
        if (found <= 0)
            return found;
        if (type != NET_FRAME_VERIFY && type != NET_FRAME_PING)
            return 0;
        int64_t deadline_ms = clock_mono_ms() + agent->opts->driver_timeout_ms;
        if (net_frame_recv(agent->opts->fd, &type, body, deadline_ms, err) != 0)
            return err_wrap(err, "connection to the driver");
        int result = type == NET_FRAME_PING
                         ? net_frame_send(agent->opts->fd, NET_FRAME_PONG, NULL, 0, clock_mono_ms() + SEND_TIMEOUT_MS, err)
                         : answer_to(agent, buf_str(body), body->len_bytes, err);
        if (result != 0)
            return -1;
    }
}

int verify_agent_serve(const struct verify_agent_opts *opts, struct err *err) {
    struct agent agent = {.opts = opts};
    struct buf body;
    buf_init(&body, net_frame_limit(NET_FRAME_VERIFY));
    int result = serve(&agent, &body, err);
    buf_finish(&body);
    probe_server_close(agent.server);
    comm_world_destroy(agent.world);
    return result;
}
