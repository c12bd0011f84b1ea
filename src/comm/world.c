/*
 * Who runs where, the abort that reaches everybody, and what all operations share; see world.h and inside.h. Links are
 * made in connect.c. Everything here is called by the worker's main thread but for the abort and the helpers of operations.
 */
#include "comm/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "comm/inside.h"

static int check_opts(const struct comm_world_opts *opts, struct err *err) {
    if (opts->n_ranks < 1 || opts->n_ranks > COMM_MAX_RANKS)
        return err_set(err, ERR_INVALID, "%d ranks were asked for; 1 to %d are possible", opts->n_ranks, COMM_MAX_RANKS);
    if (opts->node < 0 || opts->node >= COMM_MAX_NODES)
        return err_set(err, ERR_INVALID, "node %d does not exist; nodes go from 0 to %d", opts->node, COMM_MAX_NODES - 1);
    for (int i = 0; i < opts->n_ranks; i++)
        if (opts->node_of_rank[i] < 0 || opts->node_of_rank[i] >= COMM_MAX_NODES)
            return err_set(err, ERR_INVALID, "rank %d is on node %d; nodes go from 0 to %d", i, opts->node_of_rank[i], COMM_MAX_NODES - 1);
    return 0;
}

int comm_world_create(const struct comm_world_opts *opts, struct comm_world **ret_world, struct net_addr *ret_listen, struct err *err) {
    if (check_opts(opts, err) != 0)
        return -1;
    struct comm_world *world = calloc(1, sizeof *world);
    if (world == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d ranks", opts->n_ranks);
    world->n_ranks = opts->n_ranks;
    world->node = opts->node;
    world->secret = opts->secret;
    world->op_timeout_ms = opts->op_timeout_ms;
    for (int i = 0; i < opts->n_ranks; i++) {
        world->node_of_rank[i] = opts->node_of_rank[i];
        world->local_of_rank[i] = opts->node_of_rank[i] == opts->node ? world->n_local++ : -1;
        if (opts->node_of_rank[i] >= world->n_nodes)
            world->n_nodes = opts->node_of_rank[i] + 1;
    }
    size_t n_links = (size_t)world->n_local * (size_t)world->n_ranks;
    world->links = calloc(n_links + 1, sizeof *world->links);
    world->pipes = calloc((size_t)world->n_local * (size_t)world->n_local + 1, sizeof *world->pipes);
    if (world->links == NULL || world->pipes == NULL) {
        err_set(err, ERR_NOMEM, "no memory for the links of %d ranks", world->n_local);
        goto free_world;
    }
    for (size_t i = 0; i < n_links; i++)
        world->links[i].fd = -1;
    struct net_door_opts door = {.listen = opts->listen, .secret = opts->secret, .max_ready = (int)n_links + 1};
    if (net_door_open(&door, &world->door, ret_listen, err) != 0)
        goto free_world;
    pthread_mutex_init(&world->mutex, NULL);
    *ret_world = world;
    return 0;
free_world:
    free(world->links);
    free(world->pipes);
    free(world);
    return -1;
}

void comm_world_destroy(struct comm_world *world) {
    if (world == NULL)
        return;
    for (size_t i = 0; i < (size_t)world->n_local * (size_t)world->n_ranks; i++)
        if (world->links[i].fd >= 0)
            close(world->links[i].fd);
    for (size_t i = 0; i < (size_t)world->n_local * (size_t)world->n_local; i++)
        comm_pipe_destroy(world->pipes[i]);
    while (world->rooms != NULL)
        comm_room_destroy(world, world->rooms);
    net_door_close(world->door);
    pthread_mutex_destroy(&world->mutex);
    free(world->links);
    free(world->pipes);
    free(world);
}

/* Sleepers that come after this see the flag before they sleep; those who sleep are rung awake. */
void comm_world_abort(struct comm_world *world, const char *why) {
    pthread_mutex_lock(&world->mutex);
    if (!atomic_load(&world->is_aborted)) {
        snprintf(world->why, sizeof world->why, "%s", why);
        atomic_store(&world->is_aborted, true);
    }
    for (struct comm_room *room = world->rooms; room != NULL; room = room->next)
        comm_bell_ring(&room->bell);
    for (size_t i = 0; i < (size_t)world->n_local * (size_t)world->n_local; i++)
        if (world->pipes[i] != NULL)
            comm_bell_ring(comm_pipe_bell(world->pipes[i]));
    for (size_t i = 0; i < (size_t)world->n_local * (size_t)world->n_ranks; i++)
        if (world->links[i].fd >= 0)
            shutdown(world->links[i].fd, SHUT_RDWR); /* wakes the owner from poll(), and tells the other node */
    if (world->door != NULL)
        net_door_shut(world->door);
    pthread_mutex_unlock(&world->mutex);
}

uint64_t comm_world_dropped(const struct comm_world *world) {
    struct comm_world *held = (struct comm_world *)world; /* the door closes at the end of connect, under the mutex */
    pthread_mutex_lock(&held->mutex);
    uint64_t n = atomic_load(&held->n_dropped) + (held->door != NULL ? net_door_dropped(held->door) : 0);
    pthread_mutex_unlock(&held->mutex);
    return n;
}

int comm_world_cancelled(struct comm_world *world, struct err *err) {
    char why[ERR_MSG_BYTES];
    pthread_mutex_lock(&world->mutex);
    memcpy(why, world->why, sizeof why);
    pthread_mutex_unlock(&world->mutex);
    return err_set(err, ERR_CANCELLED, "%s", why);
}

int comm_world_fail(struct comm_world *world, int rank, const char *what, struct err *err) {
    err_wrap(err, "rank %d, %s", rank, what);
    if (!comm_world_is_aborted(world))
        comm_world_abort(world, err != NULL ? err->msg : what);
    return -1;
}

int64_t comm_world_deadline(const struct comm_world *world) {
    return world->op_timeout_ms > 0 ? clock_mono_ms() + world->op_timeout_ms : NET_NO_DEADLINE;
}

const char *comm_rank_text(const struct comm_world *world, int rank, char *text, size_t text_bytes) {
    int node = world->node_of_rank[rank];
    snprintf(text, text_bytes, "rank %d on node %d (%s)", rank, node, node == world->node ? "this one" : world->addr_of_node[node].host);
    return text;
}

struct comm_link *comm_world_link(struct comm_world *world, int local_rank, int remote_rank) {
    return &world->links[(size_t)world->local_of_rank[local_rank] * (size_t)world->n_ranks + (size_t)remote_rank];
}
