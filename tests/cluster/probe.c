/*
 * A driver without a model: starts a launch as `shoal serve` would, with stand-in workers, prints its nodes, and stops at the
 * end of stdin, on SIGTERM or when a worker ends. For tests over several hosts.
 *   cluster_probe ray|hand|mp TP PP [--ray-address A] [--nnodes N] [--threads N] [--timeout S] [--ship] [--master HOST:PORT]
 *   cluster_probe join HOST:PORT SLOT        a further node of a launch by hand
 *   cluster_probe worker …                   (started by the launch)
 */
#include <poll.h>

#include "cluster/standin.h"
#include "http/client.h"

static volatile sig_atomic_t g_stopped;

static void on_signal(int signum) { g_stopped = signum; }
static bool is_stopped(void *ctx) {
    (void)ctx;
    return g_stopped != 0;
}

static void parse_master(const char *text, char host[128], uint16_t *ret_port) {
    unsigned port = 0;
    sscanf(text, "%127[^:]:%u", host, &port);
    *ret_port = (uint16_t)port;
}

static int join(const char *master, int slot) {
    char host[128] = "";
    struct cluster_join_opts opts = {.driver_host = host, .slot = slot, .build = STANDIN_BUILD, .timeout_ms = 20000};
    struct err err;
    struct net_iface iface;
    int fd;
    parse_master(master, host, &opts.driver_port);
    if (cluster_hand_secret(&opts.secret, &err) != 0 || cluster_join(&opts, &fd, &iface, &err) != 0) {
        log_error("%s", err.msg);
        return 1;
    }
    return standin_serve(fd);
}

static int watch(struct cluster *cluster, struct err *err) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    while (g_stopped == 0) {
        char scrap[64];
        if (cluster_poll(cluster, err) != 0)
            return -1;
        if (in.fd >= 0 && poll(&in, 1, 200) > 0 && read(STDIN_FILENO, scrap, sizeof scrap) <= 0)
            return 0;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return standin_main(argc, argv);
    log_setup(LOG_INFO, "probe");
    if (argc > 3 && strcmp(argv[1], "join") == 0)
        return join(argv[2], atoi(argv[3]));
    if (argc < 4)
        return 2;
    char host[128] = "";
    const char *nodes = standin_arg(argc, argv, "--nnodes"), *threads = standin_arg(argc, argv, "--threads"),
               *timeout = standin_arg(argc, argv, "--timeout"), *master = standin_arg(argc, argv, "--master");
    struct cluster_opts opts = {.backend = strcmp(argv[1], "ray") == 0    ? CLUSTER_RAY
                                           : strcmp(argv[1], "hand") == 0 ? CLUSTER_HAND
                                                                          : CLUSTER_MP,
                                .tp_size = atoi(argv[2]),
                                .pp_size = atoi(argv[3]),
                                .build = STANDIN_BUILD,
                                .log_level = "info",
                                .interface = standin_arg(argc, argv, "--interface"),
                                .ray_address = standin_arg(argc, argv, "--ray-address"),
                                .ray_ship_binary = strcmp(argv[argc - 1], "--ship") == 0,
                                .n_nodes = nodes == NULL ? 0 : atoi(nodes),
                                .threads_per_rank = threads == NULL ? 0 : atoi(threads),
                                .timeout_ms = (timeout == NULL ? 30 : atoi(timeout)) * 1000,
                                .is_cancelled = is_stopped};
    if (master != NULL) {
        parse_master(master, host, &opts.master_port);
        opts.master_addr = host;
    }
    struct cluster *cluster;
    struct err err;
    signal(SIGTERM, on_signal);
    if (http_client_setup(&err) != 0 || cluster_start(&opts, &cluster, &err) != 0) {
        log_error("%s", err.msg);
        return 1;
    }
    int n;
    const struct cluster_node *node = cluster_nodes(cluster, &n);
    for (int i = 0; i < n; i++)
        printf("node %d %s ranks %d+%d threads %d pid %lld\n", i, node[i].host, node[i].first_rank, node[i].n_ranks, node[i].n_threads,
               (long long)node[i].pid);
    printf("started\n");
    fflush(stdout);
    int result = watch(cluster, &err);
    if (result != 0)
        log_error("%s", err.msg);
    cluster_stop(cluster, 3000);
    printf("stopped\n");
    return result == 0 ? 0 : 1;
}
