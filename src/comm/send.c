/* Stage hand-over between two ranks, through a pipe on one node and over their link between nodes; see world.h. */
#include <stdio.h>

#include "comm/inside.h"

static bool is_rank(const struct comm_world *world, int rank) { return rank >= 0 && rank < world->n_ranks; }

/* The pipe from one local rank to another; whichever end comes first makes it. NULL: no memory. */
static struct comm_pipe *find_pipe(struct comm_world *world, int from, int to) {
    struct comm_pipe **slot = &world->pipes[world->local_of_rank[from] * world->n_local + world->local_of_rank[to]];
    pthread_mutex_lock(&world->mutex);
    if (*slot == NULL)
        *slot = comm_pipe_create();
    struct comm_pipe *pipe = *slot;
    pthread_mutex_unlock(&world->mutex);
    return pipe;
}

static int explain(struct comm_world *world, enum err_code code, int peer, struct err *err) {
    if (code == ERR_CANCELLED)
        return comm_world_cancelled(world, err);
    if (code == ERR_TIMEOUT)
        return err_set(err, code, "rank %d of this node did not come within %d ms", peer, world->op_timeout_ms);
    return err_set(err, code, "rank %d of this node sent a message of another length", peer);
}

/* self: the end that is called; peer: the other one. */
static int move(struct comm_world *world, int self, int peer, bool is_send, void *bytes, size_t len_bytes, struct err *err) {
    char what[96];
    if (!is_rank(world, self) || !is_rank(world, peer) || self == peer || world->local_of_rank[self] < 0)
        return err_set(err, ERR_INVALID, "rank %d cannot exchange with rank %d on node %d", self, peer, world->node);
    if (comm_world_is_aborted(world))
        return comm_world_cancelled(world, err);
    int rc;
    int64_t deadline_ms = comm_world_deadline(world);
    if (world->local_of_rank[peer] >= 0) {
        struct comm_pipe *pipe = find_pipe(world, is_send ? self : peer, is_send ? peer : self);
        enum err_code code = pipe == NULL ? ERR_NOMEM
                             : is_send    ? comm_pipe_write(world, pipe, bytes, len_bytes, deadline_ms)
                                          : comm_pipe_read(world, pipe, bytes, len_bytes, deadline_ms);
        rc = code == ERR_NOMEM  ? err_set(err, code, "no memory for a pipe to rank %d", peer)
             : code != ERR_NONE ? explain(world, code, peer, err)
                                : 0;
    } else {
        struct comm_xfer xfer = {
            .rank = self, .peer = peer, .is_send = is_send, .op = COMM_OP_SEND, .bytes = bytes, .len_bytes = len_bytes};
        rc = comm_xfer_run(world, &xfer, 1, deadline_ms, err);
    }
    if (rc == 0)
        return 0;
    snprintf(what, sizeof what, "%s %zu bytes %s rank %d", is_send ? "sending" : "receiving", len_bytes, is_send ? "to" : "from", peer);
    return comm_world_fail(world, self, what, err);
}

int comm_send(struct comm_world *world, int from, int to, const void *bytes, size_t len_bytes, struct err *err) {
    return move(world, from, to, true, (void *)bytes, len_bytes, err);
}

int comm_recv(struct comm_world *world, int from, int to, void *bytes, size_t len_bytes, struct err *err) {
    return move(world, to, from, false, bytes, len_bytes, err);
}
