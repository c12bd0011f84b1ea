/*
 * Measures the way from this node to another: TCP connect, round trips, bandwidth, and whether a full-size frame passes.
 * The other node runs a probe server, which only lets in members of this launch and only swallows or sends back bytes.
 *
 * Wire, behind the launch's proof: a request of 8 bytes (kind, argument; little-endian u32). ECHO n: every n bytes come
 * back. SINK ms: bytes are swallowed; ms after the first one their count and time (u64 bytes, u64 ns, without the first
 * quarter of the time) come back. UDP: a datagram padded to a full frame; its first 32 bytes come back with the length that arrived.
 */
#ifndef VERIFY_PROBE_H
#define VERIFY_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/auth.h"
#include "net/sock.h"

enum { PROBE_MAX_STREAMS = 4 };

/* A thread that serves callers, and one for each of them. */
struct probe_server;
int probe_server_open(const char *host, const struct net_secret *secret, struct probe_server **ret, struct net_addr *ret_tcp,
                      uint16_t *ret_udp_port, struct err *err);
void probe_server_close(struct probe_server *server); /* accepts NULL */

struct probe_target {
    struct net_addr tcp;
    uint16_t udp_port;
    int mtu;       /* size of frames to try, headers of IP and UDP included; 0: none */
    bool is_quick; /* fewer and shorter measurements, one stream only */
};

/* Times of one direction in µs are half a round trip. */
struct probe_result {
    double connect_us;
    double small_us, small_p99_us; /* 64 bytes */
    double large_us, large_p99_us; /* 16 KiB */
    double mbits_1, mbits_n;       /* one stream, and PROBE_MAX_STREAMS together (0: not measured) */
    int frame_tried, frame_passed; /* bytes; frame_passed 0: no datagram came back at all */
};

/* At most 14 s (quick: 10 s), most often less than 2 s (0.4 s). On failure err says which step, and *ret has what was measured before it.
 */
int probe_run(const struct probe_target *target, const struct net_secret *secret, struct probe_result *ret, struct err *err);

#endif
