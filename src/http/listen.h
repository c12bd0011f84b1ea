/* Listening sockets of the HTTP server. Any thread. Knows nothing of HTTP. */
#ifndef HTTP_LISTEN_H
#define HTTP_LISTEN_H

#include <stdint.h>

#include "base/err.h"

/*
 * Binds and listens. host NULL means every address, IPv6 and IPv4; port 0 any free one. Returns 0 and the socket
 * and its port; a taken port is ERR_IO and the message names it and says what to do.
 */
int http_listen_tcp(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, struct err *err);
/* A unix socket at `path`. A socket file that nobody listens on any more is replaced; any other file is an error. */
int http_listen_unix(const char *path, int *ret_fd, struct err *err);

#endif
