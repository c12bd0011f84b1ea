/* What probe.c and probe_server.c must agree on; see probe.h for the protocol. */
#ifndef VERIFY_PROBE_WIRE_H
#define VERIFY_PROBE_WIRE_H

#include <stdint.h>

#include "net/auth.h"

enum { PROBE_ECHO = 1, PROBE_SINK = 2 };
enum {
    PROBE_REQUEST_BYTES = 8,
    PROBE_RESULT_BYTES = 16,
    PROBE_ECHO_MAX_BYTES = 1 << 20,
    PROBE_SINK_MAX_MS = 5000,
    PROBE_DATAGRAM_BYTES = 32, /* magic, nonce, half a MAC: the least that a datagram has */
    PROBE_REPLY_BYTES = PROBE_DATAGRAM_BYTES + 4
};

void probe_put_le(uint8_t *at, uint64_t value, int n_bytes);
uint64_t probe_get_le(const uint8_t *at, int n_bytes);
/* Magic and MAC round the nonce at datagram + 8. */
void probe_datagram_seal(const struct net_secret *secret, uint8_t datagram[PROBE_DATAGRAM_BYTES]);

#endif
