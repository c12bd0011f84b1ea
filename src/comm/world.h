/*
 * One worker process's share of all communication between ranks. A world knows which node each rank runs on; ranks
 * of one node are threads of one process and exchange through memory, ranks of different nodes through TCP links
 * that are all connected before the first token.
 *
 * Thread rules: comm_world_* from the worker's main thread, except comm_world_abort, which any thread may call at
 * any time. Group and link calls: each rank from its own thread, all members in the same order.
 */
#ifndef COMM_WORLD_H
#define COMM_WORLD_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "net/auth.h"
#include "net/sock.h"

enum { COMM_MAX_RANKS = 256, COMM_MAX_NODES = 64 };

struct comm_world;

struct comm_world_opts {
    int n_ranks;
    const int *node_of_rank; /* [n_ranks], copied */
    int node;                /* this process's node */
    struct net_secret secret;
    struct net_addr listen; /* address to bind; port 0 picks one */
    int op_timeout_ms;      /* deadline of each collective or receive; 0: none */
};

/* Opens the listener; its address goes to the other nodes by way of the driver. */
int comm_world_create(const struct comm_world_opts *opts, struct comm_world **ret_world, struct net_addr *ret_listen, struct err *err);
/*
 * addrs: [n_nodes] listeners by node. Connects this node with all others; blocks until the deadline, names whoever is missing. Foreign
 * callers are dropped and counted. Once: the listener is closed when all are connected, and after a failure only destroy is left.
 */
int comm_world_connect(struct comm_world *world, const struct net_addr *addrs, int n_nodes, int64_t deadline_ms, struct err *err);
/*
 * Wakes everybody who waits here, comm_world_connect included, with ERR_CANCELLED and this reason; all later calls fail at once. The first
 * reason given stays. The other nodes see their links closed. An operation that fails (ERR_PEER, ERR_TIMEOUT) does the same by itself:
 * the rank that saw it gets that error, its neighbours ERR_CANCELLED with the same text.
 */
void comm_world_abort(struct comm_world *world, const char *why);
/* Foreign or garbled connections that were dropped so far. */
uint64_t comm_world_dropped(const struct comm_world *world);
/* After all ranks' threads have left. Accepts NULL. */
void comm_world_destroy(struct comm_world *world);

/*
 * Stage hand-over: `from` sends len_bytes to `to`, which knows the length. Between local ranks comm_send returns when the
 * receiver has copied or a buffer has taken it; messages of one pair arrive in order. What two ranks exchange, by hand-over or as members
 * of groups, must come in the same order at both.
 */
int comm_send(struct comm_world *world, int from, int to, const void *bytes, size_t len_bytes, struct err *err);
int comm_recv(struct comm_world *world, int from, int to, void *bytes, size_t len_bytes, struct err *err);

#endif
