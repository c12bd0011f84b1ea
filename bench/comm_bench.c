/*
 * Latency of all-reduce and of a stage hand-over by size. Each node is a comm_world, each rank a thread.
 *
 *   comm_bench [--nodes N] [--ranks N] [--pin]          all nodes in this process, over loopback; --ranks on each node
 *   comm_bench --node I --hosts HOST:PORT,HOST:PORT,…   one node in this process; run one on each host (or namespace)
 *
 * Prints least, median and 99th-percentile time of one operation as rank 0 sees it. A ping-pong's time is for there and back.
 */
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "comm/group.h"
#include "comm/world.h"

enum { TIMEOUT_MS = 60000, MOST_FLOATS = 4 << 20 };

static const size_t sizes[] = {1, 256, 1024, 2048, 4096, 8192, 16384, 65536, 262144, 1048576, 4194304};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static int n_nodes = 2, ranks_per_node = 1;
static bool is_pinned;
static struct net_addr addrs[COMM_MAX_NODES];
static struct comm_world *worlds[COMM_MAX_NODES];

static void die(const char *what, const struct err *err) {
    fprintf(stderr, "comm_bench: %s: %s\n", what, err->msg);
    exit(1);
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void report(const char *name, size_t n, int64_t *times_ns, int n_times) {
    qsort(times_ns, (size_t)n_times, sizeof *times_ns, compare);
    double median_us = (double)times_ns[n_times / 2] / 1e3;
    printf("%-10s %9zu bytes  least %8.1f us  median %8.1f us  p99 %8.1f us  %7.2f GB/s\n", name, n * sizeof(float),
           (double)times_ns[0] / 1e3, median_us, (double)times_ns[n_times * 99 / 100] / 1e3, (double)(n * sizeof(float)) / median_us / 1e3);
    fflush(stdout);
}

static int rounds_for(size_t n) { return n <= 16384 ? 2000 : n <= 262144 ? 200 : 20; }

static void time_allreduce(struct comm_world *world, int rank, float *data, int64_t *times_ns) {
    int members[COMM_MAX_RANKS], n_ranks = n_nodes * ranks_per_node;
    struct comm_group *group;
    struct err err;
    for (int i = 0; i < n_ranks; i++)
        members[i] = i;
    if (comm_group_join(world, rank, members, n_ranks, MOST_FLOATS, &group, &err) != 0)
        die("join", &err);
    for (int s = 0; s < N_SIZES; s++) {
        int n_warm = rounds_for(sizes[s]) / 10;
        for (int i = -n_warm; i < rounds_for(sizes[s]); i++) {
            int64_t start_ns = clock_mono_ns();
            if (comm_allreduce(group, data, sizes[s], &err) != 0)
                die("all-reduce", &err);
            if (i >= 0)
                times_ns[i] = clock_mono_ns() - start_ns;
        }
        if (rank == 0)
            report("allreduce", sizes[s], times_ns, rounds_for(sizes[s]));
    }
    comm_group_leave(group);
}

static void time_hand_over(struct comm_world *world, int rank, float *data, int64_t *times_ns) {
    int last = n_nodes * ranks_per_node - 1, peer = last - rank;
    struct err err;
    if (last == 0 || (rank != 0 && rank != last))
        return;
    for (int s = 0; s < N_SIZES; s++) {
        size_t len_bytes = sizes[s] * sizeof *data;
        for (int i = 0; i < rounds_for(sizes[s]); i++) {
            int64_t start_ns = clock_mono_ns();
            int rc = rank == 0 ? comm_send(world, rank, peer, data, len_bytes, &err) : comm_recv(world, peer, rank, data, len_bytes, &err);
            if (rc == 0)
                rc = rank == 0 ? comm_recv(world, peer, rank, data, len_bytes, &err) : comm_send(world, rank, peer, data, len_bytes, &err);
            if (rc != 0)
                die("hand-over", &err);
            times_ns[i] = clock_mono_ns() - start_ns;
        }
        if (rank == 0)
            report("ping-pong", sizes[s], times_ns, rounds_for(sizes[s]));
    }
}

static void *rank_main(void *arg) {
    int rank = (int)(intptr_t)arg;
    struct comm_world *world = worlds[rank / ranks_per_node];
    float *data = calloc(MOST_FLOATS, sizeof *data);
    int64_t *times_ns = calloc(2000, sizeof *times_ns);
    if (data == NULL || times_ns == NULL)
        abort();
    if (is_pinned) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)(rank % sysconf(_SC_NPROCESSORS_ONLN)), &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    time_allreduce(world, rank, data, times_ns);
    time_hand_over(world, rank, data, times_ns);
    free(data);
    free(times_ns);
    return NULL;
}

static void *connect_main(void *arg) {
    struct err err;
    if (comm_world_connect(worlds[(intptr_t)arg], addrs, n_nodes, clock_mono_ms() + TIMEOUT_MS, &err) != 0)
        die("connect", &err);
    return NULL;
}

static void open_node(int node, const int *node_of_rank) {
    struct err err;
    struct comm_world_opts opts = {.n_ranks = n_nodes * ranks_per_node,
                                   .node_of_rank = node_of_rank,
                                   .node = node,
                                   .listen = addrs[node],
                                   .op_timeout_ms = TIMEOUT_MS};
    if (net_secret_parse("a benchmark has no secrets", &opts.secret, &err) != 0 ||
        comm_world_create(&opts, &worlds[node], &addrs[node], &err) != 0)
        die("listen", &err);
}

static void parse_hosts(char *hosts) {
    n_nodes = 0;
    for (char *at = strtok(hosts, ","); at != NULL && n_nodes < COMM_MAX_NODES; at = strtok(NULL, ",")) {
        char *colon = strrchr(at, ':');
        if (colon == NULL) {
            fprintf(stderr, "comm_bench: --hosts wants HOST:PORT,…; '%s' has no port\n", at);
            exit(2);
        }
        *colon = '\0';
        snprintf(addrs[n_nodes].host, sizeof addrs[n_nodes].host, "%s", at);
        addrs[n_nodes++].port = (uint16_t)atoi(colon + 1);
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"nodes", 1, NULL, 'n'}, {"ranks", 1, NULL, 'r'}, {"pin", 0, NULL, 'p'},
                                            {"node", 1, NULL, 'i'},  {"hosts", 1, NULL, 'h'}, {0}};
    int only_node = -1, node_of_rank[COMM_MAX_RANKS];
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'n':
            n_nodes = atoi(optarg);
            break;
        case 'r':
            ranks_per_node = atoi(optarg);
            break;
        case 'p':
            is_pinned = true;
            break;
        case 'i':
            only_node = atoi(optarg);
            break;
        case 'h':
            parse_hosts(optarg);
            break;
        default:
            return 2;
        }
    }
    int n_ranks = n_nodes * ranks_per_node;
    if (n_nodes < 1 || n_nodes > COMM_MAX_NODES || n_ranks < 1 || n_ranks > COMM_MAX_RANKS || only_node >= n_nodes) {
        fprintf(stderr, "comm_bench: 1 to %d nodes and 1 to %d ranks in all are possible\n", COMM_MAX_NODES, COMM_MAX_RANKS);
        return 2;
    }
    int first = only_node < 0 ? 0 : only_node, end = only_node < 0 ? n_nodes : only_node + 1;
    pthread_t threads[COMM_MAX_RANKS];
    for (int i = 0; i < n_ranks; i++)
        node_of_rank[i] = i / ranks_per_node;
    for (int node = first; node < end; node++) {
        if (only_node < 0)
            snprintf(addrs[node].host, sizeof addrs[node].host, "127.0.0.1");
        open_node(node, node_of_rank);
    }
    for (int node = first; node < end; node++)
        pthread_create(&threads[node], NULL, connect_main, (void *)(intptr_t)node);
    for (int node = first; node < end; node++)
        pthread_join(threads[node], NULL);
    for (int rank = first * ranks_per_node; rank < end * ranks_per_node; rank++)
        pthread_create(&threads[rank], NULL, rank_main, (void *)(intptr_t)rank);
    for (int rank = first * ranks_per_node; rank < end * ranks_per_node; rank++)
        pthread_join(threads[rank], NULL);
    for (int node = first; node < end; node++)
        comm_world_destroy(worlds[node]);
    return 0;
}
