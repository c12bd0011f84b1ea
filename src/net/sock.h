/*
 * TCP sockets with deadlines. Every socket is close-on-exec, TCP_NODELAY and keepalive; reads and writes of a
 * length either do all of it or fail. Blocks at most until the deadline (a clock_mono_ms value; NET_NO_DEADLINE).
 */
#ifndef NET_SOCK_H
#define NET_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

#define NET_NO_DEADLINE INT64_MAX
enum { NET_ADDR_BYTES = 64 };

struct net_addr {
    char host[NET_ADDR_BYTES]; /* numeric IPv4 or IPv6 */
    uint16_t port;
};

/* Binds to addr->host alone (never to all addresses unless that is what host says); port 0 picks one. */
int net_listen(const struct net_addr *addr, int *ret_fd, struct net_addr *ret_bound, struct err *err);
int net_accept(int listen_fd, int64_t deadline_ms, int *ret_fd, struct net_addr *ret_peer, struct err *err);
/* Tries again while the peer refuses, until the deadline. host may be a name. */
int net_connect(const char *host, uint16_t port, int64_t deadline_ms, int *ret_fd, struct err *err);

/* Sockets made here are non-blocking underneath; these calls wait in poll(). A peer that is gone gives ERR_PEER. */
int net_send_all(int fd, const void *bytes, size_t len_bytes, int64_t deadline_ms, struct err *err);
int net_sendv_all(int fd, struct iovec *iov, int n_iov, int64_t deadline_ms, struct err *err); /* iov is clobbered */
/* A deadline in the past takes what is there and fails with ERR_TIMEOUT if that is not all of it. */
int net_recv_all(int fd, void *bytes, size_t len_bytes, int64_t deadline_ms, struct err *err);
/*
 * Whether the other host has answered nothing for some seconds although data is on the way to it: for those who wait long. A host whose
 * process is busy or stopped still answers. (While nothing is on the way, keepalive finds a cut by itself.)
 */
bool net_is_cut(int fd);
/* Steps past the first len_bytes of an iovec array; empty entries at its front are skipped. */
void net_iov_advance(struct iovec **iov, int *n_iov, size_t len_bytes);

#endif
