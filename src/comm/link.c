/*
 * Moves messages over the links of one rank; see inside.h, and docs/wire.md for DATA. Runs on the rank's own thread. All
 * transfers of a call advance together; while nothing moves it polls the sockets briefly, since an answer from a node
 * nearby comes within microseconds, and then sleeps in poll().
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "comm/inside.h"

enum {
    LONG_SPIN_NS = 50000,
    SHORT_SPIN_NS = 2000,
    LOOK_ROUND_MS = 1000, /* how often a long sleeper looks whether a link was cut */
    XFERS_MAX = 2 * COMM_MAX_RANKS,
    /* A stream that is never interrupted must still see an abort or a deadline now and then. */
    MOVES_BETWEEN_CHECKS = 64
};

static size_t chunk_bytes(const struct comm_xfer *xfer) {
    size_t left_bytes = xfer->len_bytes - xfer->done_bytes;
    return left_bytes < COMM_FRAME_BYTES ? left_bytes : COMM_FRAME_BYTES;
}

static bool is_done(const struct comm_xfer *xfer) { return xfer->done_bytes == xfer->len_bytes; }

static void put_tag(uint8_t *at, const struct comm_xfer *xfer) {
    uint16_t op = (uint16_t)xfer->op;
    at[0] = (uint8_t)op;
    at[1] = (uint8_t)(op >> 8);
    at[2] = (uint8_t)xfer->group;
    at[3] = (uint8_t)(xfer->group >> 8);
    for (int i = 0; i < 4; i++)
        at[4 + i] = (uint8_t)(xfer->sequence >> (8 * i));
}

static int check_head(const struct comm_xfer *xfer, struct err *err) {
    enum net_frame_type type = 0;
    size_t len_bytes = 0;
    uint8_t expected[COMM_TAG_BYTES];
    if (net_frame_header_decode(xfer->head, &type, &len_bytes, err) != 0)
        return -1;
    put_tag(expected, xfer);
    const uint8_t *got = xfer->head + NET_FRAME_HEADER_BYTES;
    if (type != NET_FRAME_DATA || len_bytes != COMM_TAG_BYTES + chunk_bytes(xfer) || memcmp(expected, got, sizeof expected) != 0)
        return err_set(
            err, ERR_PEER,
            "the two ends are not in the same operation: expected %zu bytes of operation %d, group %04x, message %u; got a %s frame of %zu "
            "bytes, operation %d, group %04x, message %u",
            COMM_TAG_BYTES + chunk_bytes(xfer), xfer->op, xfer->group, xfer->sequence, net_frame_name(type), len_bytes,
            got[0] | got[1] << 8, got[2] | got[3] << 8, got[4] | got[5] << 8 | got[6] << 16 | (unsigned)got[7] << 24);
    return 0;
}

static void begin(struct comm_world *world, struct comm_xfer *xfer) {
    struct comm_link *link = comm_world_link(world, xfer->rank, xfer->peer);
    xfer->sequence = xfer->is_send ? link->n_sent++ : link->n_received++;
    xfer->is_begun = true;
}

/* One system call. 1: something moved, 0: it would block, -1: the link is of no more use. */
static int advance(int fd, struct comm_xfer *xfer, struct err *err) {
    size_t chunk = chunk_bytes(xfer), payload_done = 0;
    struct iovec iov[2];
    int n_iov = 0;
    if (xfer->frame_bytes < COMM_HEAD_BYTES) {
        if (xfer->is_send && xfer->frame_bytes == 0) {
            net_frame_header_encode(NET_FRAME_DATA, COMM_TAG_BYTES + chunk, xfer->head);
            put_tag(xfer->head + NET_FRAME_HEADER_BYTES, xfer);
        }
        iov[n_iov++] = (struct iovec){xfer->head + xfer->frame_bytes, COMM_HEAD_BYTES - xfer->frame_bytes};
    } else {
        payload_done = xfer->frame_bytes - COMM_HEAD_BYTES;
    }
    iov[n_iov++] = (struct iovec){xfer->bytes + xfer->done_bytes + payload_done, chunk - payload_done};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n_iov};
    ssize_t moved = xfer->is_send ? sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) : recvmsg(fd, &msg, MSG_DONTWAIT);
    if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    if (moved < 0)
        return err_set(err, ERR_PEER, "the link broke: %s", strerror(errno));
    if (moved == 0)
        return err_set(err, ERR_PEER, "it closed the link");
    bool had_head = xfer->frame_bytes >= COMM_HEAD_BYTES;
    xfer->frame_bytes += (size_t)moved;
    if (!xfer->is_send && !had_head && xfer->frame_bytes >= COMM_HEAD_BYTES && check_head(xfer, err) != 0)
        return -1;
    if (xfer->frame_bytes == COMM_HEAD_BYTES + chunk) {
        xfer->done_bytes += chunk;
        xfer->frame_bytes = 0;
    }
    return 1;
}

/* Names the peer that an error is about. */
static int blame(struct comm_world *world, const struct comm_xfer *xfer, struct err *err) {
    char text[128];
    if (comm_world_is_aborted(world))
        return comm_world_cancelled(world, err);
    return err_wrap(err, "%s", comm_rank_text(world, xfer->peer, text, sizeof text));
}

/* Sleeps until one of the unfinished transfers may move. */
static int sleep_on(struct comm_world *world, struct comm_xfer *xfers, int n, int64_t deadline_ms, struct err *err) {
    struct pollfd polls[XFERS_MAX];
    const struct comm_xfer *first = NULL;
    int n_polls = 0;
    for (int i = 0; i < n; i++) {
        if (is_done(&xfers[i]))
            continue;
        first = first == NULL ? &xfers[i] : first;
        polls[n_polls++] =
            (struct pollfd){.fd = comm_world_link(world, xfers[i].rank, xfers[i].peer)->fd, .events = xfers[i].is_send ? POLLOUT : POLLIN};
    }
    int left_ms = deadline_ms == NET_NO_DEADLINE ? LOOK_ROUND_MS : clock_left_ms(deadline_ms);
    if (left_ms == 0) {
        err_set(err, ERR_TIMEOUT, "%s within %d ms", first->is_send ? "it does not read what is sent to it" : "nothing came from it",
                world->op_timeout_ms);
        return blame(world, first, err);
    }
    int n_ready = poll(polls, (nfds_t)n_polls, left_ms < LOOK_ROUND_MS ? left_ms : LOOK_ROUND_MS);
    if (n_ready < 0 && errno != EINTR)
        return err_set(err, ERR_IO, "poll: %s", strerror(errno));
    for (int i = 0; i < n && n_ready == 0; i++) {
        /* Those that are done too: what was sent may be on the way to a host that is gone, and the answer with it. */
        if (net_is_cut(comm_world_link(world, xfers[i].rank, xfers[i].peer)->fd)) {
            err_set(err, ERR_PEER, "its host no longer answers");
            return blame(world, &xfers[i], err);
        }
    }
    return 0;
}

int comm_xfer_run(struct comm_world *world, struct comm_xfer *xfers, int n, int64_t deadline_ms, struct err *err) {
    if (n > XFERS_MAX)
        return err_set(err, ERR_INTERNAL, "%d transfers at a time; at most %d are possible", n, XFERS_MAX);
    if (n == 0)
        return 0;
    struct comm_patience *patience = &comm_world_link(world, xfers[0].rank, xfers[0].peer)->patience;
    int64_t idle_since_ns = 0, spin_ns = 0; /* 0: something just moved */
    int n_moves = 0;
    for (;;) {
        int n_open = 0;
        bool has_moved = false;
        for (int i = 0; i < n; i++) {
            struct comm_xfer *xfer = &xfers[i];
            if (is_done(xfer))
                continue;
            if (!xfer->is_begun)
                begin(world, xfer);
            int fd = comm_world_link(world, xfer->rank, xfer->peer)->fd;
            if (fd < 0) {
                err_set(err, ERR_INTERNAL, "there is no link: the world is not connected");
                return blame(world, xfer, err);
            }
            int rc = advance(fd, xfer, err);
            if (rc < 0)
                return blame(world, xfer, err);
            has_moved |= rc > 0;
            n_open += is_done(xfer) ? 0 : 1;
        }
        if (has_moved && idle_since_ns != 0) {
            comm_patience_learn(patience, true);
            idle_since_ns = 0;
        }
        if (n_open == 0)
            return 0;
        if (has_moved && ++n_moves % MOVES_BETWEEN_CHECKS != 0)
            continue;
        if (comm_world_is_aborted(world))
            return comm_world_cancelled(world, err);
        int64_t now_ns = clock_mono_ns();
        if (idle_since_ns == 0) {
            idle_since_ns = now_ns;
            spin_ns = comm_patience_is_long(patience) ? LONG_SPIN_NS : SHORT_SPIN_NS;
        }
        if (now_ns - idle_since_ns < spin_ns)
            continue;
        comm_patience_learn(patience, false);
        if (sleep_on(world, xfers, n, deadline_ms, err) != 0)
            return -1;
        idle_since_ns = 0;
    }
}
