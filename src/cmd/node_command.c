/*
 * `shoal node start`, `node status`, `node stop`: options into the node layer, and what it says into words for people. Main thread.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "cmd/commands.h"
#include "cmd/options.h"
#include "node/plan.h"
#include "node/ray.h"
#include "node/scan.h"
#include "node/start.h"
#include "node/status.h"

enum { BLOCK_STEP_MS = 500, BLOCK_STOP_MS = 8000 };

static volatile sig_atomic_t g_signal;

static void on_signal(int signum) { g_signal = signum; }

static bool is_cancelled(void) { return g_signal != 0; }

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int fail(const char *command, const struct err *err, int status) {
    fflush(stdout);
    fprintf(stderr, "shoal %s: %s\n", command, err->msg);
    return status;
}

static void say_started(const struct options *o, const struct node_wish *wish, const struct node_facts *facts, const struct cluster_ray *ray,
                        bool is_listed) {
    const char *host = wish->is_head ? facts->iface.host : wish->head_host;
    bool is_v6 = strchr(host, ':') != NULL;
    printf("\nRay has started on %s (%s): this node is %s.\n", facts->iface.host, facts->iface.name, wish->is_head ? "the head" : "in the cluster");
    if (is_listed)
        printf("Dashboard: %s\n", ray->url);
    else
        printf("The dashboard %s does not answer, so that nobody confirms it; --dashboard-port says where it is.\n", ray->url);
    if (wish->is_head)
        printf("On each other node:   shoal node start --address %s%s%s:%d%s\n", is_v6 ? "[" : "", host, is_v6 ? "]" : "", wish->head_port,
               o->node.install_ray ? " --install-ray" : "");
    printf("All nodes:            shoal node status --ray-address %s\n", ray->url);
    printf("Serve, on one node:   shoal serve MODEL --distributed-executor-backend ray --ray-address %s -pp NODES\n", ray->url);
    printf("End, on this node:    shoal node stop\n");
    if (wish->is_head && ray->authorization[0] == '\0' && !facts->iface.is_loopback)
        printf("Whoever reaches port %d or %d of this node can run programs on all nodes. Before 'shoal node start', on every node, RAY_AUTH_MODE=token\n"
               "with RAY_AUTH_TOKEN_PATH closes that; so does a network of the nodes' own.\n",
               wish->dashboard_port, wish->head_port);
    fflush(stdout);
}

/* Until a signal, or until Ray has gone. Buries what Ray leaves behind where this is process 1 of a container. */
static int stay(const char *host) {
    struct node_raylet raylets[NODE_MAX_RAYLETS];
    struct err err;
    for (int n = 1; g_signal == 0;) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
        if (node_scan_raylets(raylets, NODE_MAX_RAYLETS, &n, &err) == 0 && n == 0) {
            log_error("Ray on %s has ended", host);
            node_scan_stop(NULL, BLOCK_STOP_MS, &n, NULL);
            return CMD_EXIT_FAILURE;
        }
        clock_nap_ms(BLOCK_STEP_MS);
    }
    log_info("Stopping Ray on %s", strsignal(g_signal));
    int n;
    if (node_scan_stop(NULL, BLOCK_STOP_MS, &n, &err) != 0)
        return fail("node start", &err, CMD_EXIT_FAILURE);
    return 0;
}

static int run_start(const struct options *o, char *const *extra, int n_extra) {
    struct node_wish wish = {.is_head = o->node.head,
                             .head_port = (int)o->node.port,
                             .dashboard_host = o->node.dashboard_host,
                             .dashboard_port = (int)o->node.dashboard_port,
                             .n_cpus = (int)o->node.num_cpus,
                             .n_npus = (int)o->node.npus,
                             .memory_bytes = (uint64_t)o->node.memory,
                             .object_store_bytes = (uint64_t)o->node.object_store_memory,
                             .temp_dir = o->node.temp_dir,
                             .visible_npus = getenv("ASCEND_RT_VISIBLE_DEVICES"),
                             .extra = extra,
                             .n_extra = n_extra};
    const char *root = getenv("SHOAL_SYSTEM_ROOT"); /* a stand-in for / in tests */
    struct node_facts facts;
    struct node_plan plan = {0};
    struct cluster_ray ray;
    struct err err;
    char program[PATH_MAX];
    bool is_listed = false;
    int status = CMD_EXIT_FAILURE;
    if (!wish.is_head && node_plan_parse_head(o->node.address, wish.head_host, &wish.head_port, &err) != 0)
        return fail("node start", &err, CMD_EXIT_USAGE);
    if (node_facts_read(root == NULL ? "" : root, o->interface, wish.is_head ? NULL : wish.head_host, &facts, &err) != 0)
        return fail("node start", &err, CMD_EXIT_FAILURE);
    int found = o->node.install_ray && !o->node.dry_run ? node_ray_install(o->node.ray_venv, o->node.ray_version, is_cancelled, program, &err)
                                                        : node_ray_find(o->node.ray_venv, program, &err);
    if (found != 0 && o->node.dry_run)
        snprintf(program, sizeof program, "ray");
    else if (found != 0)
        return fail("node start", &err, CMD_EXIT_FAILURE);
    if (node_plan_make(program, &wish, &facts, &plan, &err) != 0)
        return fail("node start", &err, CMD_EXIT_FAILURE);
    if (o->node.dry_run) {
        node_plan_print(&plan, stdout);
        status = 0;
    } else if (node_start(&plan, &wish, &facts, (int)o->node.timeout_s * 1000, is_cancelled, &ray, &is_listed, &err) != 0) {
        fail("node start", &err, status);
    } else {
        say_started(o, &wish, &facts, &ray, is_listed);
        status = o->node.block ? stay(facts.iface.host) : 0;
    }
    node_plan_finish(&plan);
    return status;
}

static int run_status(const struct options *o) {
    struct cluster_ray ray;
    struct err err;
    json_t *report;
    if (cluster_ray_name(o->ray_address, &ray, &err) != 0 || node_status_ask(&ray, &report, &err) != 0)
        return fail("node status", &err, CMD_EXIT_FAILURE);
    if (o->node.json) {
        json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
        putchar('\n');
    } else {
        node_status_print(report, stdout);
    }
    int n_lost = node_status_count(report, "lost");
    json_decref(report);
    return n_lost > 0 ? CMD_EXIT_FAILURE : 0;
}

static int run_stop(const struct options *o) {
    struct err err;
    int n;
    if (node_scan_stop(NULL, (int)o->node.timeout_s * 1000, &n, &err) != 0)
        return fail("node stop", &err, CMD_EXIT_FAILURE);
    if (n == 0)
        puts("No Ray runs on this node.");
    else
        printf("Ray has ended on this node (%d processes).\n", n);
    return 0;
}

int cmd_node(int argc, char **argv) {
    static const struct {
        const char *name;
        enum options_command command;
    } actions[] = {{"start", OPTIONS_NODE_START}, {"status", OPTIONS_NODE_STATUS}, {"stop", OPTIONS_NODE_STOP}};
    enum { N_ACTIONS = sizeof actions / sizeof actions[0] };
    int at = 0, n_own = 1, status;
    while (at < N_ACTIONS && (argc == 0 || strcmp(argv[0], actions[at].name) != 0))
        at++;
    if (at == N_ACTIONS) {
        fprintf(stderr, "usage: shoal node start|status|stop; 'shoal node start --help' lists the options of start\n");
        return argc > 0 && strcmp(argv[0], "--help") == 0 ? 0 : CMD_EXIT_USAGE;
    }
    enum options_command command = actions[at].command;
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        options_print_help(command);
        return 0;
    }
    while (n_own < argc && (command != OPTIONS_NODE_START || strcmp(argv[n_own], "--") != 0))
        n_own++;
    struct options options;
    struct err err;
    if (options_parse(command, n_own - 1, argv + 1, &options, &err) != 0) {
        fprintf(stderr, "shoal node %s: %s\n", argv[0], err.msg);
        return CMD_EXIT_USAGE;
    }
    enum log_level level = LOG_INFO;
    log_level_parse(options.log_level, &level);
    log_setup(level, "node");
    catch_signals();
    if (command == OPTIONS_NODE_START)
        status = run_start(&options, argv + n_own + 1, argc - n_own > 1 ? argc - n_own - 1 : 0);
    else
        status = command == OPTIONS_NODE_STATUS ? run_status(&options) : run_stop(&options);
    options_finish(&options);
    return status;
}
