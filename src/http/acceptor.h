/*
 * The accepting thread: hands over connections one by one and stops accepting while as many as allowed are open, so
 * that more wait in the listen queue instead of being cut off (which is what libmicrohttpd does at its limit).
 */
#ifndef HTTP_ACCEPTOR_H
#define HTTP_ACCEPTOR_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/err.h"

struct http_acceptor;

/* Called on the accepting thread; owns fd (non-blocking). False: the connection was not taken and is closed already. */
typedef bool (*http_accept_fn)(void *ctx, int fd, const struct sockaddr *address, socklen_t address_bytes);

/* Takes over the listening socket, also on failure. */
int http_acceptor_start(int listen_fd, int max_connections, http_accept_fn accept, void *ctx, struct http_acceptor **ret, struct err *err);
/* One connection that was taken has ended. Any thread. */
void http_acceptor_release(struct http_acceptor *acceptor);
/* Ends the thread and closes the listening socket. May be called again. */
void http_acceptor_stop(struct http_acceptor *acceptor);
/* After the last release. Accepts NULL. */
void http_acceptor_destroy(struct http_acceptor *acceptor);

#endif
