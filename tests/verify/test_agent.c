/*
 * Questions and answers over real connections, with agents as threads of this program on loopback: a whole verification of
 * three nodes, the node that hangs, the node that talks nonsense, and what is left on the connection for whoever comes next.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/frame.h"
#include "verify/agent.h"
#include "verify/probe.h"
#include "verify/tool.h"
#include "verify/verify.h"

enum { N = 3 };

struct fake {
    struct verify_agent_opts opts;
    pthread_t thread;
    int result;
    struct err err;
    int kind;   /* 0: an agent; 1: silent; 2: talks nonsense; 3: hangs up */
    int end_fd; /* the driver's end */
};

static void *fake_main(void *arg) {
    struct fake *fake = arg;
    struct err err;
    char scrap[4096];
    if (fake->kind == 0) {
        fake->result = verify_agent_serve(&fake->opts, &fake->err);
        return NULL;
    }
    if (fake->kind == 2) {
        net_frame_send(fake->opts.fd, NET_FRAME_REPORT, "[1, 2]", 6, clock_mono_ms() + 1000, &err);
    } else if (fake->kind == 3) {
        shutdown(fake->opts.fd, SHUT_RDWR);
        return NULL;
    }
    while (net_recv_all(fake->opts.fd, scrap, 1, NET_NO_DEADLINE, NULL) == 0) { /* until the driver closes */
    }
    return NULL;
}

static struct net_secret secret = {{1, 2, 3}};

static void start(struct fake *fake, struct cluster_node *node, int kind, int64_t clock_offset_ms) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    *fake = (struct fake){.opts = {.fd = fds[1],
                                   .listen_host = "127.0.0.1",
                                   .secret = secret,
                                   .cpu_level = "avx2",
                                   .driver_timeout_ms = 20000,
                                   .clock_offset_ms = clock_offset_ms},
                          .kind = kind,
                          .end_fd = fds[0]};
    *node = (struct cluster_node){.fd = fds[0], .n_ranks = 1, .pid = 7};
    snprintf(node->host, sizeof node->host, "127.0.0.1");
    snprintf(node->build, sizeof node->build, "b1");
    assert_int_equal(pthread_create(&fake->thread, NULL, fake_main, fake), 0);
}

static void stop(struct fake *fakes, int n) {
    for (int i = 0; i < n; i++) {
        shutdown(fakes[i].end_fd, SHUT_RDWR);
        pthread_join(fakes[i].thread, NULL);
        close(fakes[i].end_fd);
        close(fakes[i].opts.fd);
    }
}

static const struct verify_finding *find(const struct verify_result *result, int node, const char *check) {
    for (int i = 0; i < result->findings.n; i++)
        if (result->findings.items[i].node == node && strcmp(result->findings.items[i].check, check) == 0)
            return &result->findings.items[i];
    print_error("there is no line '%s' of node %d\n", check, node);
    fail();
    return NULL;
}

static void test_three_nodes(void **state) {
    (void)state;
    struct fake fakes[N];
    struct cluster_node nodes[N];
    struct verify_result result;
    struct err err;
    for (int i = 0; i < N; i++)
        start(&fakes[i], &nodes[i], 0, i == 2 ? 60000 : 0);
    struct verify_opts opts = {.nodes = nodes,
                               .n_nodes = N,
                               .is_quick = true,
                               .build = "b1",
                               .load = {.n_layers = 28, .hidden = 1024, .tp_size = 3, .pp_size = 1}};
    snprintf(nodes[1].build, sizeof nodes[1].build, "b2");
    assert_int_equal(verify_run(&opts, &result, &err), 0);
    assert_int_equal(find(&result, 0, "build")->status, VERIFY_OK);
    assert_int_equal(find(&result, 1, "build")->status, VERIFY_FAIL);
    assert_non_null(strstr(find(&result, 1, "build")->text, "b2"));
    assert_int_equal(find(&result, 0, "clock")->status, VERIFY_OK);
    assert_int_equal(find(&result, 2, "clock")->status, VERIFY_FAIL);
    assert_non_null(strstr(find(&result, 2, "clock")->text, "+60.0 s"));
    assert_int_equal(find(&result, 0, "memory")->node, 0);
    for (int from = 0; from < N; from++)
        for (int to = 0; to < N; to++) {
            const struct verify_pair *pair = &result.pairs[from * N + to];
            assert_int_equal(pair->is_measured, from != to);
            assert_string_equal(pair->trouble, "");
            if (from != to)
                assert_true(pair->small_us > 0 && pair->small_p99_us >= pair->small_us && pair->large_us > 0 && pair->mbits_1 > 0);
        }
    assert_true(result.reduce_us > 0 && result.reduce_p99_us >= result.reduce_us);
    assert_int_equal(result.reduce_floats, 1024);
    assert_non_null(strstr(find(&result, VERIFY_ALL, "cost")->text, "56 all-reduces"));
    json_t *json = verify_result_json(&result);
    assert_int_equal(json_array_size(json_object_get(json, "pairs")), N * (N - 1));
    assert_true(json_is_false(json_object_get(json, "passed")));
    json_decref(json);
    verify_result_finish(&result);
    /* A frame that is no question ends the serving and is still there. */
    enum net_frame_type type;
    struct buf body;
    buf_init(&body, 100);
    assert_int_equal(net_frame_send(nodes[0].fd, NET_FRAME_ASSIGN, "{}", 2, clock_mono_ms() + 1000, &err), 0);
    pthread_join(fakes[0].thread, NULL);
    assert_int_equal(fakes[0].result, 0);
    assert_int_equal(net_frame_recv(fakes[0].opts.fd, &type, &body, clock_mono_ms() + 1000, &err), 0);
    assert_int_equal(type, NET_FRAME_ASSIGN);
    buf_finish(&body);
    close(fakes[0].opts.fd);
    close(fakes[0].end_fd);
    stop(fakes + 1, N - 1);
}

static void test_bad_nodes_hold_up_nobody(void **state) {
    (void)state;
    struct fake fakes[4];
    struct cluster_node nodes[5];
    struct verify_result result;
    struct err err;
    for (int i = 0; i < 4; i++)
        start(&fakes[i], &nodes[i], i, 0);
    nodes[4] = (struct cluster_node){.fd = -1, .missing = "it stayed\tat home\n"};
    struct verify_opts opts = {.nodes = nodes, .n_nodes = 5, .is_quick = true, .build = "b1"};
    int64_t start_ms = clock_mono_ms();
    assert_int_equal(verify_run(&opts, &result, &err), 0);
    assert_true(clock_mono_ms() - start_ms < 20000); /* the silent one costs one deadline of 3 s */
    assert_int_equal(find(&result, 0, "memory")->node, 0);
    assert_int_equal(find(&result, 1, "agent")->status, VERIFY_FAIL);
    assert_non_null(strstr(find(&result, 1, "agent")->text, "no answer within"));
    assert_non_null(strstr(find(&result, 2, "agent")->text, "no answer to a question"));
    assert_int_equal(find(&result, 3, "agent")->status, VERIFY_FAIL);
    assert_string_equal(find(&result, 4, "node")->text, "it stayed at home ");
    assert_int_equal(verify_findings_worst(&result.findings), VERIFY_FAIL);
    FILE *out = fopen("/dev/null", "w");
    verify_result_print(&result, false, out);
    fclose(out);
    verify_result_finish(&result);
    stop(fakes, 4);
}

static void test_probe_with_another_secret(void **state) {
    (void)state;
    struct probe_server *server;
    struct probe_target target = {.mtu = 1500, .is_quick = true};
    struct probe_result result;
    struct err err;
    assert_int_equal(probe_server_open("127.0.0.1", &secret, &server, &target.tcp, &target.udp_port, &err), 0);
    assert_int_equal(probe_run(&target, &(struct net_secret){{9}}, &result, &err), -1);
    assert_int_equal(err.code, ERR_AUTH);
    assert_int_equal(probe_run(&target, &secret, &result, &err), 0);
    assert_int_equal(result.frame_passed, 1500);
    probe_server_close(server);
    assert_int_equal(probe_run(&target, &secret, &result, &err), -1); /* nobody there */
    assert_true(result.small_us == 0);
}

static void test_findings_are_bounded_and_clean(void **state) {
    (void)state;
    struct verify_findings findings = {0};
    struct err err;
    verify_findings_add(&findings, 0, VERIFY_WARN, "a check with a name that is far too long", NULL, "\x1b[31mred\xff \xe2\x82\xac%*s",
                        2000, "x");
    assert_true(strlen(findings.items[0].check) < VERIFY_CHECK_BYTES && strlen(findings.items[0].text) < VERIFY_TEXT_BYTES);
    assert_memory_equal(findings.items[0].text, "?[31mred? \xe2\x82\xac", 13);
    json_t *json = verify_findings_to_json(&findings, true);
    assert_int_equal(verify_findings_from_json(&findings, 1, json, &err), 0);
    assert_string_equal(findings.items[1].text, findings.items[0].text);
    json_decref(json);
    json = json_pack("[{s:s}]", "status", "splendid");
    assert_int_equal(verify_findings_from_json(&findings, 1, json, &err), -1);
    json_decref(json);
    for (int i = 0; i < 2 * VERIFY_MAX_LINES; i++)
        verify_findings_add(&findings, 0, VERIFY_OK, "c", NULL, "t");
    assert_true(findings.is_cut && findings.n <= VERIFY_MAX_LINES);
    assert_int_equal(verify_findings_worst(&findings), VERIFY_FAIL);
    verify_findings_finish(&findings);
}

static void test_tools(void **state) {
    (void)state;
    static struct tool_run runs[40];
    char text[128];
    for (int i = 0; i < 40; i++)
        runs[i] = (struct tool_run){.args = {"sh", "-c",
                                             i == 0   ? "yes x | head -c 100000"
                                             : i == 1 ? "echo out; echo err >&2; exit 3"
                                                      : "exit 0"},
                                    .lane = i,
                                    .timeout_ms = 20000};
    runs[2] = (struct tool_run){.args = {"/nowhere/tool"}, .lane = 2, .timeout_ms = 1000};
    runs[3] = (struct tool_run){.args = {"sh", "-c", "kill -9 $$"}, .lane = 3, .timeout_ms = 20000};
    runs[4] = (struct tool_run){.args = {"sh", "-c", "sleep 100 & sleep 100"}, .lane = 4, .timeout_ms = 200};
    runs[5] = (struct tool_run){.args = {"sh", "-c", "sleep 100 &"}, .lane = 5, .timeout_ms = 20000}; /* leaves somebody with the pipe */
    int64_t start_ms = clock_mono_ms();
    tool_run_all(runs, 40);
    assert_true(clock_mono_ms() - start_ms < 15000);
    assert_int_equal(runs[0].end, TOOL_EXITED);
    assert_int_equal(strlen(runs[0].output), TOOL_OUTPUT_BYTES - 1);
    assert_int_equal(runs[1].code, 3);
    assert_non_null(strstr(runs[1].output, "out"));
    assert_non_null(strstr(runs[1].output, "err"));
    assert_int_equal(runs[2].end, TOOL_NOT_FOUND);
    assert_int_equal(runs[3].end, TOOL_SIGNALLED);
    assert_int_equal(runs[3].code, 9);
    assert_int_equal(runs[4].end, TOOL_TIMED_OUT);
    assert_int_equal(runs[5].end, TOOL_EXITED);
    assert_int_equal(runs[39].end, TOOL_EXITED);
    tool_end_text(&runs[4], text, sizeof text);
    assert_string_equal(text, "no answer within 0.2 s; it was killed");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_three_nodes), cmocka_unit_test(test_bad_nodes_hold_up_nobody),
                                       cmocka_unit_test(test_probe_with_another_secret),
                                       cmocka_unit_test(test_findings_are_bounded_and_clean), cmocka_unit_test(test_tools)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
