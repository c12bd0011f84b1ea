/*
 * What the files of comm share: the world's state, waiting in memory, links and meeting places. For comm alone.
 *
 * Who may touch what: a link's end, a seat and one end of a pipe belong to one rank's thread, so none of them has a
 * lock. The world's mutex is over its lists (rooms, pipes, links' descriptors) and the reason of an abort.
 */
#ifndef COMM_INSIDE_H
#define COMM_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/group.h"
#include "comm/world.h"
#include "net/door.h"
#include "net/frame.h"

/* ---- Waiting in memory (wait.c): a bell is rung by whoever changes what others may be waiting for. ---- */

struct comm_bell {
    atomic_uint word; /* futex */
    atomic_int n_sleepers;
};

typedef bool (*comm_ready_fn)(const void *arg);

/*
 * How long a waiter spins before it sleeps. Where spinning does not pay (more threads than cores: the one that is waited for may need this
 * very core; or a neighbour that takes far longer), it soon spins only shortly, and tries the whole time again now and then. Zero at the
 * start. Owned by the one thread that waits at this place.
 */
struct comm_patience {
    uint8_t n_failed; /* spins in a row that ended in sleep */
    uint8_t n_short;  /* short spins since the last whole one */
};

/* Whether to spin for the whole time now. */
bool comm_patience_is_long(struct comm_patience *patience);
/* was_enough: what was waited for came while spinning. Say nothing of a wait that was over before it began. */
void comm_patience_learn(struct comm_patience *patience, bool was_enough);

/* Wakes all sleepers. The change must have been stored (sequentially consistent) before. Costs one load when nobody sleeps. */
void comm_bell_ring(struct comm_bell *bell);
/*
 * Returns ERR_NONE once ready(arg), which must read what it looks at sequentially consistent. Spins briefly, then sleeps.
 * ERR_CANCELLED when the world was aborted, ERR_TIMEOUT when the deadline passed.
 */
enum err_code comm_bell_wait(struct comm_world *world, struct comm_bell *bell, struct comm_patience *patience, comm_ready_fn ready,
                             const void *arg, int64_t deadline_ms);

static inline void comm_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- The world (world.c) ---- */

/* One end of the TCP connection between a local rank and a rank of another node. */
struct comm_link {
    int fd;                      /* -1: none (the two ranks share a node, or the world is not connected) */
    uint32_t n_sent, n_received; /* messages so far: the sequence numbers that both ends check */
    struct comm_patience patience;
};

struct comm_world {
    int n_ranks, n_nodes, node, n_local, op_timeout_ms;
    int node_of_rank[COMM_MAX_RANKS];
    int local_of_rank[COMM_MAX_RANKS]; /* 0 … n_local - 1, or -1 on other nodes */
    struct net_addr addr_of_node[COMM_MAX_NODES];
    struct net_secret secret;
    struct net_door *door; /* open from create to the end of connect */
    atomic_ullong n_dropped;
    struct comm_link *links; /* [n_local][n_ranks] */

    atomic_bool is_aborted;
    pthread_mutex_t mutex;
    char why[ERR_MSG_BYTES]; /* of the abort */
    struct comm_room *rooms;
    struct comm_pipe **pipes; /* [n_local][n_local], made at first use */
};

static inline bool comm_world_is_aborted(struct comm_world *world) { return atomic_load(&world->is_aborted); }
/* ERR_CANCELLED with the reason of the abort. */
int comm_world_cancelled(struct comm_world *world, struct err *err);
/*
 * The end of an operation that failed: the world is of no more use (some members have the result, some do not), so all are woken and told
 * why. Adds what was being done to err. Returns -1.
 */
int comm_world_fail(struct comm_world *world, int rank, const char *what, struct err *err);
int64_t comm_world_deadline(const struct comm_world *world);
/* "rank 3 on node 1 (10.0.0.2)" */
const char *comm_rank_text(const struct comm_world *world, int rank, char *text, size_t text_bytes);
struct comm_link *comm_world_link(struct comm_world *world, int local_rank, int remote_rank);

/* ---- Transfers over links (link.c) ---- */

enum comm_op { COMM_OP_ALLREDUCE = 1, COMM_OP_GATHER, COMM_OP_BROADCAST, COMM_OP_SEND };

enum {
    COMM_TAG_BYTES = 8, /* leads the body of each DATA frame: operation, group, sequence number */
    COMM_HEAD_BYTES = NET_FRAME_HEADER_BYTES + COMM_TAG_BYTES,
    COMM_FRAME_BYTES = 1 << 20 /* payload of one frame; longer messages are cut */
};

/* One message in one direction over one link. */
struct comm_xfer {
    int rank, peer; /* the local rank whose thread this is, and the remote one */
    bool is_send;
    enum comm_op op;
    uint16_t group;
    char *bytes;
    size_t len_bytes;
    /* Progress, zero at the start. */
    uint32_t sequence;
    bool is_begun;
    size_t done_bytes;  /* payload of finished frames */
    size_t frame_bytes; /* of the frame under way, its head included */
    uint8_t head[COMM_HEAD_BYTES];
};

/*
 * Moves n messages, all at the same time, so that two ends that both send much never wait for each other. Messages of one direction of one
 * link must not be in one call. Polls briefly for what arrives, then sleeps.
 */
int comm_xfer_run(struct comm_world *world, struct comm_xfer *xfers, int n, int64_t deadline_ms, struct err *err);

/* ---- Local pipes (pipe.c): a bounded stream of messages between two ranks of one node ---- */

struct comm_pipe;

struct comm_pipe *comm_pipe_create(void); /* NULL: no memory */
void comm_pipe_destroy(struct comm_pipe *pipe);
struct comm_bell *comm_pipe_bell(struct comm_pipe *pipe);
enum err_code comm_pipe_write(struct comm_world *world, struct comm_pipe *pipe, const void *bytes, size_t len_bytes, int64_t deadline_ms);
enum err_code comm_pipe_read(struct comm_world *world, struct comm_pipe *pipe, void *bytes, size_t len_bytes, int64_t deadline_ms);

/* ---- Groups (group.c) and their meeting places (room.c) ---- */

enum {
    /* A longer vector is cut into pieces, which bounds the scratch memory. Between nodes each piece costs latencies; within one it should
     * stay in the cache. */
    COMM_PIECE_FLOATS = 1 << 19,
    COMM_LOCAL_PIECE_FLOATS = 1 << 17,
    COMM_FLAT_FLOATS = 4096,
    COMM_PHASES = 4
};

/* Where a local member says how far it is and what it offers. bytes may be read by others once phase says so. */
struct comm_seat {
    _Alignas(64) atomic_uint phase;
    atomic_bool is_reading; /* this member reads what others offer */
    struct comm_patience patience;
    void *bytes;
    int rank;
    bool is_taken, is_left;
};

/*
 * The meeting place of a group's members on one node. Operation number k of a group owns the phases k·COMM_PHASES + 1 and up; every
 * member posts the levels of an operation in order, and whoever waits for all members to reach a level is woken by the last.
 * The rule that keeps shared buffers safe: nobody writes `sum` before all members have entered the operation (and so left the last one).
 */
struct comm_room {
    struct comm_room *next;
    struct comm_bell bell;
    int members[COMM_MAX_RANKS];
    int n_members, n_seats;
    size_t piece_floats;
    float *sum;              /* [piece_floats] the members' sum, or a slice of it by each */
    float *flat;             /* [2][n_seats][COMM_FLAT_FLOATS] copies of short vectors, by turns; NULL when the group spans nodes */
    struct comm_seat *seats; /* [n_seats] in the order of ranks */
};

/* Takes it from the world's list and frees it. Under the world's mutex, or when nobody else is left. */
void comm_room_destroy(struct comm_world *world, struct comm_room *room);
/* Posts that this member has reached a level. Wakes sleepers if it is the last one there. */
void comm_room_arrive(struct comm_room *room, int seat, unsigned level);
/* Posts a level that single waiters look for: wakes sleepers in any case. */
void comm_room_release(struct comm_room *room, int seat, unsigned level);
/* The member `self` waits for all members, or for the one at `other`, to reach a level. On failure names who is missing. */
int comm_room_wait_all(struct comm_world *world, struct comm_room *room, int self, unsigned level, int64_t deadline_ms, struct err *err);
int comm_room_wait_one(struct comm_world *world, struct comm_room *room, int self, int other, unsigned level, int64_t deadline_ms,
                       struct err *err);

/*
 * Reading what other members offer goes between these two. An operation that fails waits in quiet until nobody here reads, before it
 * returns and its caller may free the memory; a read that begins after an abort is refused.
 */
int comm_room_begin_read(struct comm_world *world, struct comm_room *room, int seat, struct err *err);
void comm_room_end_read(struct comm_room *room, int seat);
void comm_room_quiet(struct comm_room *room);

/* One rank's membership. A group's parts are its members by node, in the order of their lowest ranks; the lowest rank leads its part. */
struct comm_group {
    struct comm_world *world;
    struct comm_room *room;
    int rank, index, seat;
    uint16_t tag;  /* of the member list, in every frame */
    unsigned base; /* phases of the operations so far */
    unsigned n_flat;
    int n_parts, part;
    int leaders[COMM_MAX_NODES]; /* rank that leads each part */
    float *scratch;              /* leader of several parts: [scratch_floats] for what arrives */
};

static inline bool comm_group_leads(const struct comm_group *group) { return group->seat == 0; }

/*
 * ---- All-reduce algorithms, one file each; vec is summed in place. select.c chooses. ----
 * All add in the same order, node by node and within a node by rank: the bits of a sum depend neither on the algorithm nor on n.
 */

/* Among all members: of one node, and of several with more than one member here. Called by every member. */
int comm_allreduce_flat(struct comm_group *group, float *data, size_t n, int64_t deadline_ms, struct err *err);
int comm_allreduce_sliced(struct comm_group *group, float *data, size_t n, int64_t deadline_ms, struct err *err);
int comm_allreduce_leader(struct comm_group *group, float *data, size_t n, int64_t deadline_ms, struct err *err);
/* Among the leaders of parts: called by leaders only. */
int comm_allreduce_direct(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err);
int comm_allreduce_scattered(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err);

typedef int (*comm_allreduce_fn)(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err);

/* What a member of this group runs for n floats. */
comm_allreduce_fn comm_select(const struct comm_group *group, size_t n);
/* The algorithm between n_parts ≥ 2 nodes for n floats: the same answer on every rank. */
comm_allreduce_fn comm_select_between(int n_parts, size_t n);
/* Whether members of one node sum a vector by slices, or leave it to their leader. */
bool comm_select_sliced(int n_seats, size_t n);
/* Floats of scratch that a leader needs for pieces of piece_floats, whatever is chosen. */
size_t comm_select_scratch(int n_parts, size_t piece_floats);

/* dst[i] = ((srcs[0][i] + srcs[1][i]) + srcs[2][i]) …, n_srcs ≥ 1; dst may be one of srcs. */
void comm_sum(float *dst, const float *const *srcs, int n_srcs, size_t n);
/* The xfer of n floats between leaders as part of an all-reduce. */
struct comm_xfer comm_leader_xfer(const struct comm_group *group, int part, bool is_send, float *floats, size_t n);

#endif
