/* Frames with a checked header; see frame.h and docs/wire.md. Any thread, no shared state. Knows no frame's body. */
#include "net/frame.h"

#include <string.h>
#include <xxhash.h>

#include "net/sock.h"

enum {
    FRAME_MAGIC = 0x4c485346, /* "FSHL" in the order of the bytes on the wire */
    FRAME_VERSION = 1,
    CHECK_SEED = 0x5eed,
    CHECKED_BYTES = 12
};

/* What a frame of each type is called and how long its body may be. */
static const struct {
    const char *name;
    size_t limit_bytes;
} types[NET_FRAME_TYPE_COUNT] = {
    [NET_FRAME_HELLO] = {"HELLO", 1 << 20},
    [NET_FRAME_ASSIGN] = {"ASSIGN", 16 << 20}, /* carries settings, chat templates among them */
    [NET_FRAME_REFUSE] = {"REFUSE", 64 << 10},
    [NET_FRAME_STATUS] = {"STATUS", 1 << 20},
    [NET_FRAME_PEERS] = {"PEERS", 1 << 20},
    [NET_FRAME_START] = {"START", 1 << 20},
    [NET_FRAME_STEP] = {"STEP", 64 << 20},
    [NET_FRAME_RESULT] = {"RESULT", 64 << 20},
    [NET_FRAME_FAILURE] = {"FAILURE", 64 << 10},
    [NET_FRAME_PING] = {"PING", 0},
    [NET_FRAME_PONG] = {"PONG", 0},
    [NET_FRAME_STOP] = {"STOP", 64 << 10},
    [NET_FRAME_LINK] = {"LINK", 64},
    [NET_FRAME_DATA] = {"DATA", 4 << 20},
    [NET_FRAME_VERIFY] = {"VERIFY", 1 << 20},
    [NET_FRAME_REPORT] = {"REPORT", 4 << 20},
};

size_t net_frame_limit(enum net_frame_type type) { return (unsigned)type < NET_FRAME_TYPE_COUNT ? types[type].limit_bytes : 0; }

const char *net_frame_name(enum net_frame_type type) {
    return (unsigned)type < NET_FRAME_TYPE_COUNT && types[type].name != NULL ? types[type].name : "unknown";
}

static void put_u16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void put_u32(uint8_t *at, uint32_t value) {
    put_u16(at, (uint16_t)value);
    put_u16(at + 2, (uint16_t)(value >> 16));
}

static uint16_t get_u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }

static uint32_t get_u32(const uint8_t *at) { return get_u16(at) | (uint32_t)get_u16(at + 2) << 16; }

void net_frame_header_encode(enum net_frame_type type, size_t len_bytes, uint8_t ret_header[NET_FRAME_HEADER_BYTES]) {
    put_u32(ret_header, FRAME_MAGIC);
    put_u16(ret_header + 4, (uint16_t)type);
    put_u16(ret_header + 6, FRAME_VERSION);
    put_u32(ret_header + 8, (uint32_t)len_bytes);
    put_u32(ret_header + 12, XXH32(ret_header, CHECKED_BYTES, CHECK_SEED));
}

int net_frame_header_decode(const uint8_t header[NET_FRAME_HEADER_BYTES], enum net_frame_type *ret_type, size_t *ret_len_bytes,
                            struct err *err) {
    if (get_u32(header) != FRAME_MAGIC)
        return err_set(err, ERR_PEER, "the peer sent something that is no frame (it begins with %02x %02x %02x %02x)", header[0], header[1],
                       header[2], header[3]);
    if (get_u32(header + 12) != XXH32(header, CHECKED_BYTES, CHECK_SEED))
        return err_set(err, ERR_PEER, "the peer sent a garbled frame header: its check does not fit");
    if (get_u16(header + 6) != FRAME_VERSION)
        return err_set(err, ERR_PEER, "the peer sent a frame of version %u, this build speaks %d", get_u16(header + 6), FRAME_VERSION);
    unsigned type = get_u16(header + 4);
    uint32_t len_bytes = get_u32(header + 8);
    if (type >= NET_FRAME_TYPE_COUNT || types[type].name == NULL)
        return err_set(err, ERR_PEER, "the peer sent a frame of the unknown type %u", type);
    if (len_bytes > types[type].limit_bytes)
        return err_set(err, ERR_PEER, "the peer sent a %s frame of %u bytes; at most %zu are allowed", types[type].name, len_bytes,
                       types[type].limit_bytes);
    *ret_type = type;
    *ret_len_bytes = len_bytes;
    return 0;
}

int net_frame_send(int fd, enum net_frame_type type, const void *body, size_t len_bytes, int64_t deadline_ms, struct err *err) {
    uint8_t header[NET_FRAME_HEADER_BYTES];
    if (len_bytes > net_frame_limit(type))
        return err_set(err, ERR_LIMIT, "a %s frame of %zu bytes is too long; at most %zu are allowed", net_frame_name(type), len_bytes,
                       net_frame_limit(type));
    net_frame_header_encode(type, len_bytes, header);
    struct iovec iov[2] = {{header, sizeof header}, {(void *)body, len_bytes}};
    return net_sendv_all(fd, iov, 2, deadline_ms, err);
}

static int recv_header(int fd, enum net_frame_type *ret_type, size_t *ret_len_bytes, int64_t deadline_ms, struct err *err) {
    uint8_t header[NET_FRAME_HEADER_BYTES];
    if (net_recv_all(fd, header, sizeof header, deadline_ms, err) != 0)
        return -1;
    return net_frame_header_decode(header, ret_type, ret_len_bytes, err);
}

int net_frame_recv(int fd, enum net_frame_type *ret_type, struct buf *body, int64_t deadline_ms, struct err *err) {
    enum net_frame_type type = 0;
    size_t len_bytes = 0;
    buf_clear(body);
    if (recv_header(fd, &type, &len_bytes, deadline_ms, err) != 0)
        return -1;
    if (len_bytes > 0) {
        char *room = buf_reserve(body, len_bytes);
        if (room == NULL)
            return err_set(err, ERR_LIMIT, "a %s frame of %zu bytes does not fit the receiver's buffer (at most %zu)", net_frame_name(type),
                           len_bytes, body->limit_bytes);
        if (net_recv_all(fd, room, len_bytes, deadline_ms, err) != 0)
            return err_wrap(err, "inside a %s frame", net_frame_name(type));
        body->len_bytes += len_bytes;
        body->data[body->len_bytes] = '\0';
    }
    *ret_type = type;
    return 0;
}

int net_frame_recv_into(int fd, enum net_frame_type type, void *dst, size_t len_bytes, int64_t deadline_ms, struct err *err) {
    enum net_frame_type got_type = 0;
    size_t got_bytes = 0;
    if (recv_header(fd, &got_type, &got_bytes, deadline_ms, err) != 0)
        return -1;
    if (got_type != type || got_bytes != len_bytes)
        return err_set(err, ERR_PEER, "expected a %s frame of %zu bytes, the peer sent a %s frame of %zu", net_frame_name(type), len_bytes,
                       net_frame_name(got_type), got_bytes);
    if (net_recv_all(fd, dst, len_bytes, deadline_ms, err) != 0)
        return err_wrap(err, "inside a %s frame", net_frame_name(type));
    return 0;
}
