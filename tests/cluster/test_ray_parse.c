/* Ray's answers: what a real cluster of two nodes said (tests/data/ray, Ray 2.60.0), and what nobody should say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "cluster/ray_parse.h"

static struct cluster_offer g_offers[CLUSTER_MAX_OFFERS];

static struct buf recorded(const char *name) {
    char path[512];
    struct buf text;
    struct err err;
    snprintf(path, sizeof path, "%s/ray/%s", TEST_DATA_DIR, name);
    buf_init(&text, 1 << 20);
    if (file_read(path, &text, &err) != 0)
        fail_msg("%s", err.msg);
    return text;
}

static void test_nodes_and_usage(void **state) {
    (void)state;
    struct buf nodes = recorded("nodes.json"), status = recorded("cluster_status.json");
    int n = 0;
    assert_int_equal(cluster_ray_parse_nodes(nodes.data, nodes.len_bytes, g_offers, &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_string_equal(g_offers[0].host, "10.77.0.2");
    assert_string_equal(g_offers[0].id, "6c30bc8aa46c75ddfe7eed1ebbbb2f10f7fc0e20bee6cad0e326ad9a");
    assert_false(g_offers[0].is_head);
    assert_true(g_offers[1].is_head);
    assert_true(g_offers[0].cpus_total == 4 && g_offers[1].cpus_total == 2);
    assert_int_equal(cluster_ray_parse_usage(status.data, status.len_bytes, g_offers, n, NULL), 0);
    assert_true(g_offers[0].cpus_used == 2 && g_offers[1].cpus_used == 0);
    /* Every cut of the text is refused, none is read past. */
    for (size_t len = 0; len < nodes.len_bytes - 2; len += 7)
        assert_int_equal(cluster_ray_parse_nodes(nodes.data, len, g_offers, &n, NULL), -1);
    buf_finish(&nodes);
    buf_finish(&status);
}

static int nodes_of(const char *text, struct err *err) {
    int n = -1;
    return cluster_ray_parse_nodes(text, strlen(text), g_offers, &n, err) == 0 ? n : -1;
}

#define NODES(x) "{\"data\":{\"result\":{\"result\":" x "}}}"

static void test_bad_nodes(void **state) {
    (void)state;
    struct err err;
    assert_int_equal(nodes_of(NODES("[]"), &err), 0);
    assert_int_equal(nodes_of("{}", &err), -1);
    assert_int_equal(nodes_of("[]", &err), -1);
    assert_int_equal(nodes_of(NODES("{}"), &err), -1);
    assert_int_equal(nodes_of("<html>", &err), -1);
    assert_non_null(strstr(err.msg, "Ray's list of nodes"));
    /* Dead nodes stay listed with their address. */
    assert_int_equal(nodes_of(NODES("[{\"node_id\":\"ab\",\"node_ip\":\"10.0.0.1\",\"state\":\"DEAD\",\"resources_total\":{}}]"), &err), 0);
    assert_int_equal(nodes_of(NODES("[{\"node_id\":\"ab\",\"node_ip\":\"10.0.0.1\",\"state\":\"ALIVE\",\"resources_total\":{}}]"), &err),
                     1);
    assert_true(g_offers[0].cpus_total == 0);
    assert_int_equal(
        nodes_of(NODES("[{\"node_id\":\"a'; rm\",\"node_ip\":\"10.0.0.1\",\"state\":\"ALIVE\",\"resources_total\":{}}]"), &err), -1);
    assert_int_equal(nodes_of(NODES("[{\"node_id\":\"ab\",\"node_ip\":7,\"state\":\"ALIVE\"}]"), &err), -1);
    assert_int_equal(nodes_of(NODES("[{\"node_id\":\"ab\",\"node_ip\":\"x\",\"state\":\"ALIVE\",\"resources_total\":{\"CPU\":-1}}]"), &err),
                     -1);
    assert_int_equal(
        nodes_of(NODES("[{\"node_id\":\"ab\",\"node_ip\":\"x\",\"state\":\"ALIVE\",\"resources_total\":{\"CPU\":\"8\"}}]"), &err), -1);
    assert_int_equal(nodes_of(NODES("[1, null, []]"), &err), 0);
}

static struct cluster_ray_status status_of(const char *name) {
    struct buf text = recorded(name);
    struct cluster_ray_status status;
    struct err err;
    if (cluster_ray_parse_status(text.data, text.len_bytes, &status, &err) != 0)
        fail_msg("%s", err.msg);
    buf_finish(&text);
    return status;
}

static void test_status(void **state) {
    (void)state;
    char text[CLUSTER_TAIL_TEXT_BYTES];
    struct cluster_ray_status status = status_of("job_pending.json");
    assert_int_equal(status.state, RAY_PENDING);
    assert_false(cluster_ray_state_is_end(status.state));
    assert_string_equal(status.node_id, "");
    status = status_of("job_running.json");
    assert_int_equal(status.state, RAY_RUNNING);
    assert_int_equal(status.exit_code, -1);
    assert_string_equal(status.node_id, "6c30bc8aa46c75ddfe7eed1ebbbb2f10f7fc0e20bee6cad0e326ad9a");
    status = status_of("job_failed.json");
    assert_int_equal(status.state, RAY_FAILED);
    assert_true(cluster_ray_state_is_end(status.state));
    assert_int_equal(status.exit_code, 3);
    assert_string_equal(status.message, "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):");
    cluster_tail_text(&status.tail, text, sizeof text);
    assert_string_equal(text, "\n  | one\n  | two");
    status = status_of("job_stopped.json");
    assert_int_equal(status.state, RAY_STOPPED);
    assert_int_equal(status.tail.n, 0);
    status = status_of("job_unschedulable.json");
    assert_int_equal(status.state, RAY_FAILED);
    assert_non_null(strstr(status.message, "could not be scheduled"));
    struct err err;
    const char *bad[] = {
        "", "{}", "[]", "null", "{\"status\":\"DANCING\"}", "{\"status\":3}", "{\"status\":\"FAILED\",\"driver_exit_code\":\"x\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(cluster_ray_parse_status(bad[i], strlen(bad[i]), &status, &err), -1);
}

static void test_failures(void **state) {
    (void)state;
    char reason[200];
    struct buf text = recorded("submit_twice.txt");
    cluster_ray_parse_failure(text.data, text.len_bytes, reason, sizeof reason);
    assert_string_equal(reason, "ValueError: Job with submission_id shoal-x-1 already exists. Please use a different submission_id.");
    buf_finish(&text);
    text = recorded("submit_bad.txt");
    cluster_ray_parse_failure(text.data, text.len_bytes, reason, sizeof reason);
    assert_string_equal(reason, "TypeError: entrypoint must be a string, got <class 'int'>");
    buf_finish(&text);
    cluster_ray_parse_failure("", 0, reason, sizeof reason);
    assert_string_equal(reason, "");
    char tiny[8];
    cluster_ray_parse_failure("a long line", 11, tiny, sizeof tiny);
    assert_string_equal(tiny, "a long ");
}

static const char *address_of(const char *given) {
    static char url[RAY_URL_BYTES];
    return cluster_ray_address(given, url, NULL) == 0 ? url : "no";
}

static void test_addresses(void **state) {
    (void)state;
    struct err err;
    char url[RAY_URL_BYTES];
    unsetenv("RAY_ADDRESS");
    assert_string_equal(address_of(NULL), "http://127.0.0.1:8265");
    assert_string_equal(address_of("auto"), "http://127.0.0.1:8265");
    assert_string_equal(address_of(""), "http://127.0.0.1:8265");
    assert_string_equal(address_of("http://10.0.0.1:8265/"), "http://10.0.0.1:8265");
    assert_string_equal(address_of("https://ray.example/prefix//"), "https://ray.example/prefix");
    assert_string_equal(address_of("10.0.0.1:9000"), "http://10.0.0.1:9000");
    assert_string_equal(address_of("10.0.0.1:6379"), "http://10.0.0.1:8265");
    assert_string_equal(address_of("head-node"), "http://head-node:8265");
    assert_string_equal(address_of("local"), "no");
    assert_string_equal(address_of("ftp://x"), "no");
    assert_string_equal(address_of("host:0"), "no");
    assert_string_equal(address_of("host:99999"), "no");
    assert_string_equal(address_of("host:12x"), "no");
    assert_string_equal(address_of("host:"), "no");
    assert_int_equal(cluster_ray_address("ray://10.0.0.1:10001", url, &err), -1);
    assert_non_null(strstr(err.msg, "http://10.0.0.1:8265"));
    setenv("RAY_ADDRESS", "10.0.0.7:6379", 1);
    assert_string_equal(address_of(NULL), "http://10.0.0.7:8265");
    assert_string_equal(address_of("other:1"), "http://other:1");
    char *endless = calloc(1, 2000);
    memset(endless, 'a', 1999);
    assert_string_equal(address_of(endless), "no");
    free(endless);
}

static void test_tail(void **state) {
    (void)state;
    struct cluster_tail tail = {0};
    char text[64], line[32];
    cluster_tail_text(&tail, text, sizeof text);
    assert_string_equal(text, "");
    for (int i = 0; i < 50; i++) {
        int n = snprintf(line, sizeof line, "line %d\r\n", i);
        cluster_tail_add(&tail, line, (size_t)n);
        cluster_tail_add(&tail, "\n", 1);
    }
    assert_int_equal(tail.n, CLUSTER_TAIL_LINES);
    cluster_tail_text(&tail, text, sizeof text); /* as many of the last as fit */
    assert_string_equal(text, "\n  | line 45\n  | line 46\n  | line 47\n  | line 48\n  | line 49");
    char *endless = malloc(5000);
    memset(endless, 'x', 5000);
    cluster_tail_add(&tail, endless, 5000);
    free(endless);
    cluster_tail_text(&tail, text, sizeof text);
    assert_string_equal(text, "");
    char whole[CLUSTER_TAIL_LINES * (CLUSTER_TAIL_LINE_BYTES + 8)];
    cluster_tail_text(&tail, whole, sizeof whole);
    assert_non_null(strstr(whole, "line 49\n  | xxxx"));
    assert_null(strstr(whole, "line 30\n"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nodes_and_usage), cmocka_unit_test(test_bad_nodes), cmocka_unit_test(test_status),
        cmocka_unit_test(test_failures),        cmocka_unit_test(test_addresses), cmocka_unit_test(test_tail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
