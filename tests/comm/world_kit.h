/*
 * Several nodes in one process for the tests of comm: each node is a comm_world, connected with the others over loopback,
 * and each rank is a thread. A test gives a function that every rank runs.
 */
#ifndef TESTS_COMM_WORLD_KIT_H
#define TESTS_COMM_WORLD_KIT_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rand.h"
#include "comm/group.h"
#include "comm/world.h"

struct kit {
    int n_ranks, n_nodes;
    int node_of_rank[COMM_MAX_RANKS];
    struct comm_world *worlds[COMM_MAX_NODES];
    struct net_addr addrs[COMM_MAX_NODES];
    struct net_secret secret;
};

struct kit_seat {
    struct kit *kit;
    struct comm_world *world;
    int rank;
    void *arg;
    struct err err; /* of the rank's function, if it failed */
    int rc;
    int (*fn)(struct kit_seat *seat);
    pthread_t thread;
};

static inline void kit_die(const char *what, const struct err *err) {
    fprintf(stderr, "%s: %s\n", what, err->msg);
    abort();
}

struct kit_connect {
    struct kit *kit;
    int node, timeout_ms, rc;
    struct err err;
};

static inline void *kit_connect_main(void *arg) {
    struct kit_connect *c = arg;
    c->rc = comm_world_connect(c->kit->worlds[c->node], c->kit->addrs, c->kit->n_nodes, clock_mono_ms() + c->timeout_ms, &c->err);
    return NULL;
}

/* layout: ranks on each node, ended by 0. Ranks are numbered node by node unless is_dealt deals them round. */
static inline void kit_create(struct kit *kit, const int *layout, int is_dealt, int op_timeout_ms) {
    struct err err;
    *kit = (struct kit){0};
    if (net_secret_make(&kit->secret, &err) != 0)
        kit_die("secret", &err);
    int left[COMM_MAX_NODES], n_left = 0;
    for (; layout[kit->n_nodes] > 0; kit->n_nodes++)
        n_left += left[kit->n_nodes] = layout[kit->n_nodes];
    for (int node = 0; n_left > 0; node = (node + 1) % kit->n_nodes) {
        for (int take = is_dealt ? left[node] > 0 : left[node]; take > 0; take--, left[node]--, n_left--)
            kit->node_of_rank[kit->n_ranks++] = node;
    }
    for (int node = 0; node < kit->n_nodes; node++) {
        struct comm_world_opts opts = {.n_ranks = kit->n_ranks,
                                       .node_of_rank = kit->node_of_rank,
                                       .node = node,
                                       .secret = kit->secret,
                                       .listen = {.host = "127.0.0.1"},
                                       .op_timeout_ms = op_timeout_ms};
        if (comm_world_create(&opts, &kit->worlds[node], &kit->addrs[node], &err) != 0)
            kit_die("world", &err);
    }
}

static inline void kit_connect(struct kit *kit) {
    struct kit_connect connects[COMM_MAX_NODES];
    pthread_t threads[COMM_MAX_NODES];
    for (int node = 0; node < kit->n_nodes; node++) {
        connects[node] = (struct kit_connect){.kit = kit, .node = node, .timeout_ms = 20000};
        pthread_create(&threads[node], NULL, kit_connect_main, &connects[node]);
    }
    for (int node = 0; node < kit->n_nodes; node++) {
        pthread_join(threads[node], NULL);
        if (connects[node].rc != 0)
            kit_die("connect", &connects[node].err);
    }
}

static inline void kit_destroy(struct kit *kit) {
    for (int node = 0; node < kit->n_nodes; node++)
        comm_world_destroy(kit->worlds[node]);
}

static inline void *kit_seat_main(void *arg) {
    struct kit_seat *seat = arg;
    seat->rc = seat->fn(seat);
    return NULL;
}

static inline void kit_start(struct kit *kit, struct kit_seat *seats, int (*fn)(struct kit_seat *), void *arg) {
    for (int rank = 0; rank < kit->n_ranks; rank++) {
        seats[rank] = (struct kit_seat){.kit = kit, .world = kit->worlds[kit->node_of_rank[rank]], .rank = rank, .arg = arg, .fn = fn};
        pthread_create(&seats[rank].thread, NULL, kit_seat_main, &seats[rank]);
    }
}

static inline void kit_join(struct kit *kit, struct kit_seat *seats) {
    for (int rank = 0; rank < kit->n_ranks; rank++)
        pthread_join(seats[rank].thread, NULL);
}

/* Runs fn on every rank; all must succeed. */
static inline void kit_run(struct kit *kit, int (*fn)(struct kit_seat *), void *arg) {
    struct kit_seat seats[COMM_MAX_RANKS];
    kit_start(kit, seats, fn, arg);
    kit_join(kit, seats);
    for (int rank = 0; rank < kit->n_ranks; rank++)
        if (seats[rank].rc != 0)
            kit_die("rank", &seats[rank].err);
}

#endif
