/* What would be started on a node: facts below a stand-in for /, environment and command line, addresses; and what Ray's answers say. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "node/plan.h"
#include "node/process.h"
#include "node/ray.h"
#include "node/scan.h"
#include "node/status.h"

static char g_root[] = "/tmp/shoal-root-XXXXXX";

static void put(const char *path, const char *text) {
    char whole[512], *slash;
    struct err err;
    snprintf(whole, sizeof whole, "%s%s", g_root, path);
    slash = strrchr(whole, '/');
    *slash = '\0';
    assert_int_equal(file_make_dirs(whole, &err), 0);
    *slash = '/';
    assert_int_equal(file_write_atomic(whole, text, strlen(text), 0755, &err), 0);
}

static int make_root(void **state) {
    (void)state;
    return mkdtemp(g_root) == NULL;
}

static int remove_root(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", g_root);
    return system(command);
}

static void test_devices(void **state) {
    (void)state;
    int npus[NODE_MAX_NPUS];
    assert_int_equal(node_facts_npus("/nowhere", npus), 0);
    put("/dev/davinci_manager", "");
    put("/dev/null", "");
    assert_int_equal(node_facts_npus(g_root, npus), 0);
    put("/dev/davinci10", "");
    put("/dev/davinci2", "");
    put("/dev/davinci0", "");
    put("/dev/davinci3x", "");
    assert_int_equal(node_facts_npus(g_root, npus), 3);
    assert_int_equal(npus[0], 0);
    assert_int_equal(npus[1], 2);
    assert_int_equal(npus[2], 10);
}

static void test_cpu_quota(void **state) {
    (void)state;
    int all = node_facts_cpus("/nowhere");
    assert_true(all >= 1);
    put("/sys/fs/cgroup/cpu.max", "max 100000\n");
    assert_int_equal(node_facts_cpus(g_root), all);
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n"); /* half a CPU is one to Ray */
    assert_int_equal(node_facts_cpus(g_root), 1);
    put("/sys/fs/cgroup/cpu.max", "99900000 100000\n");
    assert_int_equal(node_facts_cpus(g_root), all < 999 ? all : 999);
    put("/proc/self/cgroup", "0::/system.slice/shoal.service\n");
    put("/sys/fs/cgroup/system.slice/cpu.max", "100000 100000\n");
    assert_int_equal(node_facts_cpus(g_root), 1);
    put("/sys/fs/cgroup/system.slice/cpu.max", "nonsense\n");
    assert_int_equal(node_facts_cpus(g_root), all < 999 ? all : 999);
}

static struct node_facts facts_of(int n_npus) {
    struct node_facts facts = {.n_cpus = 48, .memory_bytes = 1000000000, .n_npus = n_npus};
    strcpy(facts.iface.name, "enp67s0f5");
    strcpy(facts.iface.host, "10.0.0.2");
    facts.iface.is_up = true;
    for (int i = 0; i < n_npus; i++)
        facts.npus[i] = i;
    return facts;
}

static char *printed(const struct node_wish *wish, const struct node_facts *facts) {
    struct node_plan plan;
    struct err err;
    char *text = NULL;
    size_t size;
    if (node_plan_make("/opt/ray/bin/ray", wish, facts, &plan, &err) != 0)
        fail_msg("%s", err.msg);
    FILE *out = open_memstream(&text, &size);
    node_plan_print(&plan, out);
    fclose(out);
    node_plan_finish(&plan);
    return text;
}

static void test_head(void **state) {
    (void)state;
    struct node_facts facts = facts_of(0);
    struct node_wish wish = {.is_head = true, .head_port = 6379, .dashboard_host = "0.0.0.0", .dashboard_port = 8265, .n_npus = -1, .object_store_bytes = 80000000};
    char *text = printed(&wish, &facts);
    assert_string_equal(text, "export HCCL_IF_IP=10.0.0.2\n"
                              "export GLOO_SOCKET_IFNAME=enp67s0f5\n"
                              "export TP_SOCKET_IFNAME=enp67s0f5\n"
                              "export RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES=1\n"
                              "export RAY_health_check_initial_delay_ms=5000\n"
                              "export RAY_health_check_period_ms=1000\n"
                              "export RAY_health_check_timeout_ms=2000\n"
                              "export RAY_health_check_failure_threshold=3\n"
                              "export RAY_USAGE_STATS_ENABLED=0\n"
                              "/opt/ray/bin/ray start --head --port=6379 --include-dashboard=true --dashboard-host=0.0.0.0 --dashboard-port=8265 "
                              "--node-ip-address=10.0.0.2 --num-cpus=48 --memory=920000000 --object-store-memory=80000000 --disable-usage-stats\n");
    free(text);
}

static void test_npus_join(void **state) {
    (void)state;
    struct node_facts facts = facts_of(8);
    char *extra[] = {(char *)"--labels", (char *)"it's=here"};
    struct node_wish wish = {.head_host = "10.0.0.1", .head_port = 6379, .n_npus = -1, .n_cpus = 12, .memory_bytes = 5000, .object_store_bytes = 80000000,
                             .temp_dir = "/var/tmp/r", .extra = extra, .n_extra = 2};
    char *text = printed(&wish, &facts);
    assert_non_null(strstr(text, "\nexport ASCEND_RT_VISIBLE_DEVICES=0,1,2,3,4,5,6,7\n"));
    assert_null(strstr(text, "health_check")); /* the head's affair */
    assert_non_null(strstr(text, "ray start --address=10.0.0.1:6379 --node-ip-address=10.0.0.2 --num-cpus=12 --memory=5000 "
                                 "--object-store-memory=80000000 '--resources={\"NPU\": 8}' --temp-dir=/var/tmp/r --disable-usage-stats "
                                 "--labels 'it'\\''s=here'\n"));
    free(text);
    /* Fewer than there are; the user's own list; more than there are. */
    wish.n_npus = 2;
    text = printed(&wish, &facts);
    assert_non_null(strstr(text, "DEVICES=0,1\n"));
    assert_non_null(strstr(text, "\"NPU\": 2"));
    free(text);
    wish.n_npus = -1;
    wish.visible_npus = "4,5,6";
    text = printed(&wish, &facts);
    assert_non_null(strstr(text, "ASCEND_RT_VISIBLE_DEVICES=4,5,6\n"));
    assert_non_null(strstr(text, "\"NPU\": 3"));
    free(text);
    wish.n_npus = 9;
    struct node_plan plan;
    struct err err;
    assert_int_equal(node_plan_make("ray", &wish, &facts, &plan, &err), -1);
    assert_non_null(strstr(err.msg, "--npus 9, but this machine has 8"));
    char *many[NODE_MAX_WORDS];
    for (int i = 0; i < NODE_MAX_WORDS; i++)
        many[i] = (char *)"--x";
    wish = (struct node_wish){.head_host = "10.0.0.1", .head_port = 6379, .n_npus = 0, .extra = many, .n_extra = NODE_MAX_WORDS};
    assert_int_equal(node_plan_make("ray", &wish, &facts, &plan, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
}

static void test_head_address(void **state) {
    (void)state;
    static const struct {
        const char *text, *host;
        int port;
    } good[] = {{"10.0.0.1:6379", "10.0.0.1", 6379}, {"10.0.0.1", "10.0.0.1", 6379}, {"head:7000", "head", 7000}, {"[fd00::1]:7000", "fd00::1", 7000},
                {"[fd00::1]", "fd00::1", 6379}, {"fd00::1", "fd00::1", 6379}};
    static const char *const bad[] = {"", ":6379", "head:", "head:0", "head:70000", "head:63x", "http://head:8265", "[fd00::1", "[]:1", "[a]b", "a b"};
    char host[NET_ADDR_BYTES];
    int port;
    struct err err;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(node_plan_parse_head(good[i].text, host, &port, &err), 0);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (node_plan_parse_head(bad[i], host, &port, &err) == 0)
            fail_msg("'%s' was taken as %s port %d", bad[i], host, port);
}

static void test_iface(void **state) {
    (void)state;
    struct node_facts facts;
    struct err err;
    unsetenv("SHOAL_IFNAME");
    unsetenv("GLOO_SOCKET_IFNAME");
    assert_int_equal(node_facts_read("", "lo", NULL, &facts, &err), 0);
    assert_true(facts.iface.is_loopback && facts.n_cpus >= 1 && facts.memory_bytes > 0);
    assert_int_equal(node_facts_read("", NULL, "127.0.0.1", &facts, &err), 0);
    assert_string_equal(facts.iface.host, "127.0.0.1");
    assert_int_equal(node_facts_read("", "no-such-link", NULL, &facts, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void test_find_ray(void **state) {
    (void)state;
    char path[PATH_MAX], venv[256], want[1024], home[512];
    struct err err;
    snprintf(venv, sizeof venv, "%s/venv", g_root);
    snprintf(home, sizeof home, "%s/home", g_root);
    setenv("HOME", home, 1);
    setenv("PATH", "/nowhere", 1);
    unsetenv("SHOAL_RAY_VENV");
    assert_int_equal(node_ray_find(NULL, path, &err), -1);
    assert_non_null(strstr(err.msg, "--install-ray"));
    put("/home/.local/share/shoal/ray/bin/ray", "#!/bin/sh\n");
    assert_int_equal(node_ray_find(NULL, path, &err), 0);
    snprintf(want, sizeof want, "%s/.local/share/shoal/ray/bin/ray", home);
    assert_string_equal(path, want);
    put("/bin/ray", "#!/bin/sh\n");
    snprintf(want, sizeof want, "/nowhere::%s/bin", g_root);
    setenv("PATH", want, 1);
    assert_int_equal(node_ray_find(NULL, path, &err), 0);
    snprintf(want, sizeof want, "%s/bin/ray", g_root);
    assert_string_equal(path, want);
    assert_int_equal(node_ray_find(venv, path, &err), -1); /* named, and not there: nothing else will do */
    put("/venv/bin/ray", "#!/bin/sh\necho ray, version 9.8.7\n");
    setenv("SHOAL_RAY_VENV", venv, 1);
    assert_int_equal(node_ray_find(NULL, path, &err), 0);
    snprintf(want, sizeof want, "%s/bin/ray", venv);
    assert_string_equal(path, want);
    /* That version is there: nothing to install. A version is never a shell's or pip's business. */
    setenv("PATH", "/usr/bin:/bin", 1);
    assert_int_equal(node_ray_install(NULL, "9.8.7", NULL, path, &err), 0);
    assert_int_equal(node_ray_install(NULL, "1.0 --index-url=x", NULL, path, &err), -1);
    /* python3 without venv: its own words and what to do. */
    put("/badbin/python3", "#!/bin/sh\necho 'ensurepip is not available' >&2\nexit 1\n");
    snprintf(want, sizeof want, "%s/badbin:/usr/bin:/bin", g_root);
    setenv("PATH", want, 1);
    snprintf(venv, sizeof venv, "%s/other", g_root);
    assert_int_equal(node_ray_install(venv, "9.8.7", NULL, path, &err), -1);
    assert_non_null(strstr(err.msg, "python3-venv"));
    assert_non_null(strstr(err.msg, "ensurepip is not available"));
}

static bool always(void) { return true; }

static void test_process(void **state) {
    (void)state;
    static const char *const env[] = {"SHOAL_TEST_WORD=a b", NULL};
    char *echo[] = {(char *)"sh", (char *)"-c", (char *)"echo \"$SHOAL_TEST_WORD\"; (sleep 5; echo late) & exit 0", NULL};
    char *bad[] = {(char *)"sh", (char *)"-c", (char *)"for i in 1 2 3; do echo line $i; done; exit 7", NULL};
    char *slow[] = {(char *)"sh", (char *)"-c", (char *)"sleep 100", NULL};
    char *absent[] = {(char *)"/no/such/program", NULL};
    struct node_process process = {.argv = echo, .env = env, .timeout_ms = 20000};
    struct buf output = {0};
    struct err err;
    setenv("PATH", "/usr/bin:/bin", 1);
    assert_int_equal(node_process_run(&process, &output, &err), 0); /* and does not wait for what stays in the background */
    assert_string_equal(buf_str(&output), "a b\n");
    buf_finish(&output);
    process = (struct node_process){.argv = bad, .timeout_ms = 20000};
    assert_int_equal(node_process_run(&process, NULL, &err), -1);
    assert_string_equal(err.msg, "it ended with exit status 7; its last lines:\n  | line 1\n  | line 2\n  | line 3");
    process.argv = absent;
    assert_int_equal(node_process_run(&process, NULL, &err), -1);
    assert_non_null(strstr(err.msg, "/no/such/program: No such file"));
    process = (struct node_process){.argv = slow, .timeout_ms = 100};
    assert_int_equal(node_process_run(&process, NULL, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    process = (struct node_process){.argv = slow, .timeout_ms = 20000, .is_cancelled = always};
    assert_int_equal(node_process_run(&process, NULL, &err), -1);
    assert_int_equal(err.code, ERR_CANCELLED);
}

/* A shell that runs `script`, under a command line as `ray start` would have it. */
static pid_t pretend(const char *script, const char *program, const char *address) {
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        execl("/bin/sh", "sh", "-c", script, program, address, NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    setpgid(pid, pid);
    return pid;
}

static bool has_ended(pid_t pid) { return waitpid(pid, NULL, WNOHANG) == pid; }

static void test_stop(void **state) {
    (void)state;
    struct err err;
    struct node_raylet raylets[NODE_MAX_RAYLETS];
    int n = 0, n_mine = 0;
    pid_t raylet = pretend("sleep 1000 & wait", "/x/raylet/raylet", "--node_ip_address=192.0.2.9");
    pid_t stubborn = pretend("trap '' TERM; sleep 1000 & wait", "/x/raylet/raylet", "--node_ip_address=192.0.2.9");
    /* It replaces a child that is killed, as Ray's does. */
    pid_t dashboard = pretend("while :; do sleep 1000; done", "/x/ray/dashboard/dashboard.py", "--node-ip-address=192.0.2.9");
    pid_t other = pretend("sleep 1000 & wait", "/x/raylet/raylet", "--node_ip_address=192.0.2.10");
    pid_t user = pretend("sleep 1000 & wait", "/models/ray/model", "--host=192.0.2.9"); /* of no Ray */
    usleep(300000);
    assert_int_equal(node_scan_raylets(raylets, NODE_MAX_RAYLETS, &n, &err), 0);
    for (int i = 0; i < n; i++)
        n_mine += strncmp(raylets[i].host, "192.0.2.", 8) == 0;
    assert_int_equal(n_mine, 3);
    if (node_scan_stop("192.0.2.9", 6000, &n, &err) != 0)
        fail_msg("%s", err.msg);
    assert_true(n >= 5); /* three shells and their children */
    assert_true(has_ended(raylet) && has_ended(stubborn) && has_ended(dashboard));
    assert_false(has_ended(other) || has_ended(user));
    assert_int_equal(node_scan_stop("192.0.2.9", 6000, &n, &err), 0);
    assert_int_equal(n, 0); /* and no orphan of theirs */
    assert_int_equal(node_scan_stop("192.0.2.10", 6000, &n, &err), 0);
    assert_true(has_ended(other));
    kill(-user, SIGKILL); /* with its child */
    assert_int_equal(waitpid(user, NULL, 0), user);
}

static void test_no_ray_here(void **state) {
    (void)state;
    struct node_raylet raylets[NODE_MAX_RAYLETS];
    struct err err;
    int n = -1;
    /* Of an address that no Ray has: the machine may run one of its own. */
    assert_int_equal(node_scan_stop("192.0.2.7", 2000, &n, &err), 0);
    assert_int_equal(n, 0);
    assert_int_equal(node_scan_raylets(raylets, NODE_MAX_RAYLETS, &n, &err), 0);
}

#define NODES                                                                                                                                    \
    "{\"data\":{\"result\":{\"result\":["                                                                                                        \
    "{\"node_id\":\"aa\",\"node_ip\":\"10.0.0.1\",\"is_head_node\":true,\"state\":\"ALIVE\",\"resources_total\":{\"CPU\":4,\"NPU\":8,\"memory\":2147483648}}," \
    "{\"node_id\":\"b1\",\"node_ip\":\"10.0.0.2\",\"state\":\"DEAD\",\"state_message\":\"health check failed\",\"end_time_ms\":5},"                \
    "{\"node_id\":\"b2\",\"node_ip\":\"10.0.0.2\",\"state\":\"ALIVE\",\"resources_total\":{\"CPU\":2}},"                                          \
    "{\"node_id\":\"c1\",\"node_ip\":\"10.0.0.3\",\"state\":\"DEAD\",\"state_message\":\"Expected termination: received SIGTERM\",\"end_time_ms\":5}," \
    "{\"node_id\":\"c2\",\"node_ip\":\"10.0.0.3\",\"state\":\"DEAD\",\"state_message\":\"no\\nanswer\\u001b[31m\",\"end_time_ms\":9},"             \
    "{\"node_id\":\"d\",\"node_ip\":\"10.0.0.4\",\"state\":\"DEAD\",\"state_message\":\"Expected termination: received SIGTERM\",\"end_time_ms\":9}]}}}"
#define USAGE "{\"data\":{\"clusterStatus\":{\"loadMetricsReport\":{\"usageByNode\":{\"aa\":{\"CPU\":[3,4],\"NPU\":[8,8]}}}}}}"
#define ACTOR(name, node, state)                                                                                                                 \
    "{\"name\":\"_ray_internal_job_actor_" name "\",\"node_id\":\"" node "\",\"state\":\"" state "\",\"required_resources\":{\"CPU\":2,\"NPU\":8}}"
#define ACTORS                                                                                                                                   \
    "{\"data\":{\"result\":{\"result\":[" ACTOR("shoal-x-0", "aa", "ALIVE") "," ACTOR("other", "aa", "ALIVE") ","                                \
    ACTOR("shoal-x-1", "b2", "DEAD") "," ACTOR("shoal-y-0", "gone", "ALIVE") "]}}}"
#define JOBS "[{\"submission_id\":\"shoal-x-0\",\"metadata\":{\"shoal_ranks\":\"0-7\"}},{\"submission_id\":null,\"metadata\":null}]"

static void test_status(void **state) {
    (void)state;
    struct node_answers answers = {NODES, USAGE, ACTORS, JOBS};
    struct err err;
    json_t *nodes;
    if (node_status_parse(&answers, &nodes, &err) != 0)
        fail_msg("%s", err.msg);
    json_t *report = json_pack("{s:s, s:s, s:o}", "dashboard", "http://10.0.0.1:8265", "ray_version", "2.60.0", "nodes", nodes);
    assert_int_equal(json_array_size(nodes), 4);
    assert_int_equal(node_status_count(report, "alive"), 2);
    assert_int_equal(node_status_count(report, "lost"), 1); /* 10.0.0.2 came back */
    assert_int_equal(node_status_count(report, "stopped"), 1);
    json_t *head = node_status_find(report, "10.0.0.1"), *npu = json_object_get(json_object_get(head, "devices"), "NPU");
    assert_true(json_number_value(json_object_get(npu, "total")) == 8 && json_number_value(json_object_get(npu, "used")) == 8 &&
                json_number_value(json_object_get(npu, "shoal")) == 8);
    assert_int_equal(json_array_size(json_object_get(head, "jobs")), 1);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    node_status_print(report, out);
    fclose(out);
    assert_non_null(strstr(text, "2 nodes alive, 1 stopped, 1 lost"));
    assert_non_null(strstr(text, "shoal-x-0 ranks 0-7 2 CPU 8 NPU  (head)"));
    assert_non_null(strstr(text, "no answer [31m")); /* nobody paints this terminal */
    free(text);
    json_decref(report);
    /* Every cut of every answer is refused, none is read past. */
    const char **parts[] = {&answers.nodes, &answers.usage, &answers.actors, &answers.jobs};
    for (size_t p = 0; p < 4; p++) {
        const char *whole = *parts[p];
        for (size_t len = 0; len < strlen(whole); len += 3) {
            char *cut = strndup(whole, len);
            *parts[p] = cut;
            assert_int_equal(node_status_parse(&answers, &nodes, &err), -1);
            free(cut);
        }
        *parts[p] = "{}"; /* the usage may be empty, the lists may not */
        int result = node_status_parse(&answers, &nodes, &err);
        assert_int_equal(result, p == 1 ? 0 : -1);
        if (result == 0)
            json_decref(nodes);
        *parts[p] = whole;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices),   cmocka_unit_test(test_cpu_quota),    cmocka_unit_test(test_head),    cmocka_unit_test(test_npus_join),
        cmocka_unit_test(test_head_address), cmocka_unit_test(test_iface),     cmocka_unit_test(test_find_ray), cmocka_unit_test(test_process),
        cmocka_unit_test(test_no_ray_here), cmocka_unit_test(test_stop), cmocka_unit_test(test_status),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
