/*
 * Frames on an authenticated connection: a 16-byte header (magic, type, length, check of the header) and a body.
 * Every type has a limit on its length. docs/wire.md lists all types.
 */
#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum net_frame_type {
    NET_FRAME_HELLO = 1, /* worker → driver: build, host, address of the listener (JSON) */
    NET_FRAME_ASSIGN,    /* driver → worker: node index, ranks, settings (JSON) */
    NET_FRAME_REFUSE,    /* either way: why this launch cannot go on (text) */
    NET_FRAME_STATUS,    /* worker → driver: phase, progress, memory (JSON) */
    NET_FRAME_PEERS,     /* driver → worker: where every node listens (JSON) */
    NET_FRAME_START,     /* driver → worker: number of KV blocks; load is over (JSON) */
    NET_FRAME_STEP,      /* driver → worker: one step, exec/step.h (binary) */
    NET_FRAME_RESULT,    /* worker → driver: sampled tokens of a step, exec/step.h (binary) */
    NET_FRAME_FAILURE,   /* worker → driver: a rank has failed (text) */
    NET_FRAME_PING,      /* driver → worker, answered with PONG: both empty */
    NET_FRAME_PONG,
    NET_FRAME_STOP, /* driver → worker: leave */
    NET_FRAME_LINK, /* rank → rank, first frame of a link: who is calling (binary) */
    NET_FRAME_DATA, /* rank → rank: payload of a collective or a stage hand-over */
    NET_FRAME_VERIFY, /* driver → worker or agent, before ASSIGN: a question about the node (JSON) */
    NET_FRAME_REPORT, /* the answer to it (JSON) */
    NET_FRAME_TYPE_COUNT
};

/* The greatest body that a frame of this type may have. */
size_t net_frame_limit(enum net_frame_type type);
/* "HELLO", …, "unknown": never NULL. */
const char *net_frame_name(enum net_frame_type type);

/* Writes header and body. Blocks until the deadline. */
int net_frame_send(int fd, enum net_frame_type type, const void *body, size_t len_bytes, int64_t deadline_ms, struct err *err);
/* Reads one frame into `body` (cleared first). A wrong magic, unknown type, bad check or too long a body is ERR_PEER. */
int net_frame_recv(int fd, enum net_frame_type *ret_type, struct buf *body, int64_t deadline_ms, struct err *err);
/* Reads one frame that must be of this type and length, straight into dst. */
int net_frame_recv_into(int fd, enum net_frame_type type, void *dst, size_t len_bytes, int64_t deadline_ms, struct err *err);

/* The header without the socket, for whoever moves the bytes by himself. decode: ERR_PEER for anything but a header of this version within
 * its limit. */
enum { NET_FRAME_HEADER_BYTES = 16 };

void net_frame_header_encode(enum net_frame_type type, size_t len_bytes, uint8_t ret_header[NET_FRAME_HEADER_BYTES]);
int net_frame_header_decode(const uint8_t header[NET_FRAME_HEADER_BYTES], enum net_frame_type *ret_type, size_t *ret_len_bytes,
                            struct err *err);

#endif
