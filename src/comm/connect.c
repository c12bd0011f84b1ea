/*
 * Connects a world: one TCP link for each pair of ranks on different nodes; see world.h, and docs/wire.md for LINK. The
 * node with the lower number calls. Three stages, none of which waits for the same stage of another node, so that all
 * nodes may run them in any order: call all higher nodes (their door's thread answers), take and answer the calls of all
 * lower nodes, collect the answers of the higher ones. After that the listener is closed: there is nothing more to let in.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "comm/inside.h"

enum {
    LINK_BODY_BYTES = 24,
    LINK_FRAME_TIMEOUT_MS = 2000, /* a proven caller names itself at once */
    DIAL_SLICE_MS = 200,          /* how soon an abort is seen while a node cannot be reached */
    SPARE_FILES = 64              /* descriptors that the rest of the process may need beside the links */
};

/* Who calls whom, and a hash of the whole placement, so that two nodes of different opinions never exchange data. */
struct link_body {
    uint32_t from, to, n_ranks, n_nodes;
    uint64_t layout;
};

static uint64_t layout_hash(const struct comm_world *world) {
    uint8_t nodes[COMM_MAX_RANKS];
    for (int i = 0; i < world->n_ranks; i++)
        nodes[i] = (uint8_t)world->node_of_rank[i];
    return hash_xxh64(nodes, (size_t)world->n_ranks, 0);
}

static void put_le(uint8_t *at, uint64_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_le(const uint8_t *at, int n_bytes) {
    uint64_t value = 0;
    for (int i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static void encode_link(const struct link_body *link, uint8_t ret[LINK_BODY_BYTES]) {
    put_le(ret, link->from, 4);
    put_le(ret + 4, link->to, 4);
    put_le(ret + 8, link->n_ranks, 4);
    put_le(ret + 12, link->n_nodes, 4);
    put_le(ret + 16, link->layout, 8);
}

static struct link_body decode_link(const uint8_t body[LINK_BODY_BYTES]) {
    return (struct link_body){(uint32_t)get_le(body, 4), (uint32_t)get_le(body + 4, 4), (uint32_t)get_le(body + 8, 4),
                              (uint32_t)get_le(body + 12, 4), get_le(body + 16, 8)};
}

static struct link_body own_link(const struct comm_world *world, int from, int to) {
    return (struct link_body){(uint32_t)from, (uint32_t)to, (uint32_t)world->n_ranks, (uint32_t)world->n_nodes, layout_hash(world)};
}

static int64_t earlier(int64_t a_ms, int64_t b_ms) { return a_ms < b_ms ? a_ms : b_ms; }

/* Puts a descriptor where an abort finds it. Fails, closing fd, when the abort has already been. */
static int keep_link(struct comm_world *world, int local_rank, int remote_rank, int fd, struct err *err) {
    pthread_mutex_lock(&world->mutex);
    bool is_late = comm_world_is_aborted(world);
    if (!is_late)
        comm_world_link(world, local_rank, remote_rank)->fd = fd;
    pthread_mutex_unlock(&world->mutex);
    if (!is_late)
        return 0;
    close(fd);
    return comm_world_cancelled(world, err);
}

static void forget_link(struct comm_world *world, int local_rank, int remote_rank) {
    struct comm_link *link = comm_world_link(world, local_rank, remote_rank);
    pthread_mutex_lock(&world->mutex);
    close(link->fd);
    link->fd = -1;
    pthread_mutex_unlock(&world->mutex);
}

static int dial(struct comm_world *world, int from, int to, int64_t deadline_ms, struct err *err) {
    const struct net_addr *addr = &world->addr_of_node[world->node_of_rank[to]];
    uint8_t body[LINK_BODY_BYTES];
    struct link_body link = own_link(world, from, to);
    int fd = -1;
    for (;;) {
        struct err tried = {0};
        if (comm_world_is_aborted(world))
            return comm_world_cancelled(world, err);
        if (net_connect(addr->host, addr->port, earlier(deadline_ms, clock_mono_ms() + DIAL_SLICE_MS), &fd, &tried) == 0)
            break;
        if (tried.code != ERR_TIMEOUT || clock_left_ms(deadline_ms) == 0)
            return err_copy(err, &tried);
    }
    /* Kept before the proof, so that an abort ends the wait for it too. */
    if (keep_link(world, from, to, fd, err) != 0)
        return -1;
    encode_link(&link, body);
    if (net_auth_connect(fd, &world->secret, deadline_ms, err) == 0 &&
        net_frame_send(fd, NET_FRAME_LINK, body, sizeof body, deadline_ms, err) == 0)
        return 0;
    forget_link(world, from, to);
    return comm_world_is_aborted(world) ? comm_world_cancelled(world, err) : -1;
}

/* Whether a caller is one that this node still waits for. */
static bool is_awaited(struct comm_world *world, const struct link_body *link) {
    struct link_body own = own_link(world, (int)link->from, (int)link->to);
    return memcmp(&own, link, sizeof own) == 0 && link->from < (uint32_t)world->n_ranks && link->to < (uint32_t)world->n_ranks &&
           world->node_of_rank[link->to] == world->node && world->node_of_rank[link->from] < world->node &&
           comm_world_link(world, (int)link->to, (int)link->from)->fd < 0;
}

/* Takes one call. A proven caller that is not awaited is dropped like a foreign one: *ret_is_new says whether a link was made. */
static int take_call(struct comm_world *world, int64_t deadline_ms, bool *ret_is_new, struct err *err) {
    uint8_t body[LINK_BODY_BYTES];
    struct err reason = {0};
    int fd;
    *ret_is_new = false;
    if (net_door_take(world->door, deadline_ms, &fd, NULL, err) != 0)
        return -1;
    int64_t soon_ms = earlier(deadline_ms, clock_mono_ms() + LINK_FRAME_TIMEOUT_MS);
    if (net_frame_recv_into(fd, NET_FRAME_LINK, body, sizeof body, soon_ms, &reason) == 0) {
        struct link_body link = decode_link(body);
        if (is_awaited(world, &link) && net_frame_send(fd, NET_FRAME_LINK, body, sizeof body, soon_ms, &reason) == 0) {
            *ret_is_new = true;
            return keep_link(world, (int)link.to, (int)link.from, fd, err);
        }
    }
    close(fd);
    atomic_fetch_add(&world->n_dropped, 1);
    return 0;
}

static int collect_answer(struct comm_world *world, int from, int to, int64_t deadline_ms, struct err *err) {
    uint8_t body[LINK_BODY_BYTES];
    struct link_body own = own_link(world, from, to);
    if (net_frame_recv_into(comm_world_link(world, from, to)->fd, NET_FRAME_LINK, body, sizeof body, deadline_ms, err) != 0) {
        if (comm_world_is_aborted(world))
            return comm_world_cancelled(world, err);
        return err_wrap(err, "it does not take this link");
    }
    struct link_body got = decode_link(body);
    if (memcmp(&own, &got, sizeof own) != 0)
        return err_set(err, ERR_PEER, "it answered for another link");
    return 0;
}

/* Lifts the soft limit on descriptors as far as the links need and the hard limit allows. */
static int allow_files(const struct comm_world *world, struct err *err) {
    struct rlimit limit;
    rlim_t need = (rlim_t)world->n_local * (rlim_t)(world->n_ranks - world->n_local) + SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need)
        return 0;
    if (limit.rlim_max < need)
        return err_set(err, ERR_LIMIT,
                       "this node needs %" PRIu64 " descriptors for its links, but may open only %" PRIu64 ": raise `ulimit -n`",
                       (uint64_t)need, (uint64_t)limit.rlim_max);
    limit.rlim_cur = need;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return err_set(err, ERR_LIMIT, "cannot raise the limit on open descriptors to %" PRIu64 ": %s", (uint64_t)need, strerror(errno));
    return 0;
}

typedef int (*pair_fn)(struct comm_world *world, int from, int to, int64_t deadline_ms, struct err *err);

/* For each pair of a local rank and a rank of a higher node. */
static int each_higher_pair(struct comm_world *world, pair_fn fn, int64_t deadline_ms, struct err *err) {
    char text[128];
    for (int from = 0; from < world->n_ranks; from++) {
        if (world->node_of_rank[from] != world->node)
            continue;
        for (int to = 0; to < world->n_ranks; to++)
            if (world->node_of_rank[to] > world->node && fn(world, from, to, deadline_ms, err) != 0)
                return err_wrap(err, "linking rank %d to %s port %u", from, comm_rank_text(world, to, text, sizeof text),
                                world->addr_of_node[world->node_of_rank[to]].port);
    }
    return 0;
}

/* Names the lowest rank that has not called. */
static int name_missing(struct comm_world *world, int n_missing, struct err *err) {
    char text[128];
    for (int from = 0; from < world->n_ranks; from++)
        for (int to = 0; to < world->n_ranks; to++)
            if (world->node_of_rank[from] < world->node && world->node_of_rank[to] == world->node &&
                comm_world_link(world, to, from)->fd < 0)
                return err_wrap(err, "%s has not called rank %d (%d links are missing)", comm_rank_text(world, from, text, sizeof text), to,
                                n_missing);
    return -1;
}

static int take_all_calls(struct comm_world *world, int64_t deadline_ms, struct err *err) {
    int n_missing = 0;
    for (int rank = 0; rank < world->n_ranks; rank++)
        if (world->node_of_rank[rank] < world->node)
            n_missing += world->n_local;
    while (n_missing > 0) {
        bool is_new;
        if (take_call(world, deadline_ms, &is_new, err) != 0) {
            if (comm_world_is_aborted(world))
                return comm_world_cancelled(world, err);
            return name_missing(world, n_missing, err);
        }
        n_missing -= is_new ? 1 : 0;
    }
    return 0;
}

int comm_world_connect(struct comm_world *world, const struct net_addr *addrs, int n_nodes, int64_t deadline_ms, struct err *err) {
    if (n_nodes < world->n_nodes || n_nodes > COMM_MAX_NODES)
        return err_set(err, ERR_INVALID, "addresses of %d nodes were given for ranks on %d", n_nodes, world->n_nodes);
    if (comm_world_is_aborted(world))
        return comm_world_cancelled(world, err);
    memcpy(world->addr_of_node, addrs, (size_t)n_nodes * sizeof *addrs);
    struct err why = {0};
    if (allow_files(world, &why) != 0 || each_higher_pair(world, dial, deadline_ms, &why) != 0 ||
        take_all_calls(world, deadline_ms, &why) != 0 || each_higher_pair(world, collect_answer, deadline_ms, &why) != 0) {
        comm_world_abort(world, why.msg); /* half connected is of no use to anybody: the other nodes learn it at once */
        return err_copy(err, &why);
    }
    pthread_mutex_lock(&world->mutex);
    atomic_fetch_add(&world->n_dropped, net_door_dropped(world->door));
    struct net_door *door = world->door;
    world->door = NULL;
    pthread_mutex_unlock(&world->mutex);
    net_door_close(door);
    return 0;
}
