/*
 * A node's side of verification: answers the driver's questions over the launch's connection, one after the other. A
 * worker does this between joining and its assignment, `shoal verify-agent` does nothing else.
 *
 * A question is a VERIFY frame, the answer a REPORT frame, both JSON: {"id": N, "ask": NAME, …} and {"id": N, …} with
 * "error" where there is no answer. The questions, and what the answers hold:
 *   clock       "at_ns": the wall clock here
 *   node        "quick", "toward" → "lines", "facts": the interface and the host
 *   npu         the programs → "lines", "facts"
 *   npu_ping    "pings" → "pings"
 *   open        opens the probe server → "host", "port", "udp_port", and what iface tells
 *   probe       "host", "port", "udp_port", "mtu", "quick" → the figures of probe.h
 *   reduce_open "node", "n_nodes" → "port" of the listener for links
 *   reduce      "peers": [{host, port}], "n_floats", "n" → "median_us", "p99_us"
 *   model       "model", "revision", "download_dir" → "lines", "facts"
 *   iface       → "iface", "mtu", "speed", "errors", "drops" of the interface now
 *
 * Main thread. Nothing on the node is changed.
 */
#ifndef VERIFY_AGENT_H
#define VERIFY_AGENT_H

#include <stdint.h>

#include "base/err.h"
#include "net/auth.h"

struct verify_agent_opts {
    int fd;                  /* authenticated connection to the driver, borrowed */
    const char *listen_host; /* numeric address of the interface that carries the traffic */
    struct net_secret secret;
    const char *cpu_level;   /* what the kernels use: "avx2" */
    int driver_timeout_ms;   /* leave when the driver is silent for so long */
    int64_t clock_offset_ms; /* added to this node's clock: for tests */
};

/* Until a frame comes that is no question and no PING (0; it is left on the connection), the driver closes (0) or falls silent (-1). */
int verify_agent_serve(const struct verify_agent_opts *opts, struct err *err);

#endif
