/*
 * The HTTP server: libmicrohttpd with one thread per connection. A handler runs on its connection's thread after
 * the whole body has arrived and may block. Knows nothing of OpenAI's routes.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct http_server;
struct http_conn; /* one request under way, as libmicrohttpd sees it; private */

struct http_request {
    const char *method;
    const char *path;      /* percent-decoded, without the query */
    const char *body;      /* NUL-terminated */
    size_t body_bytes;
    struct http_conn *conn;
};

/* Value of a request header or query argument, or NULL. Valid while the handler runs. */
const char *http_request_header(const struct http_request *request, const char *name);
const char *http_request_query(const struct http_request *request, const char *name);
/* True when the client has closed its side: the work for it can stop. Does not block. */
bool http_request_client_gone(const struct http_request *request);

/*
 * A handler's answer. Either `body` (malloc'd, freed by the server) of body_bytes, or a stream: next() is called
 * again and again on the connection's thread, writes up to `room` bytes and returns how many, 0 for "nothing yet,
 * call me again" (it should have waited a little, at most 100 ms), HTTP_STREAM_END or HTTP_STREAM_ABORT.
 * finish(ctx) is called exactly once, also when the client went away in the middle.
 */
#define HTTP_STREAM_END ((ssize_t)-1)
#define HTTP_STREAM_ABORT ((ssize_t)-2)
enum { HTTP_MAX_HEADERS = 8 };

struct http_response {
    int status;
    const char *content_type; /* static string; NULL: application/json */
    char *body;
    size_t body_bytes;
    ssize_t (*next)(void *ctx, char *room, size_t room_bytes);
    void (*finish)(void *ctx);
    void *ctx;
    struct {
        char name[32], value[224];
    } headers[HTTP_MAX_HEADERS];
    int n_headers;
};

void http_response_header(struct http_response *response, const char *name, const char *value);

/* Fills *ret; never fails: an error is an answer too. */
typedef void (*http_handler_fn)(void *ctx, const struct http_request *request, struct http_response *ret);

struct http_server_opts {
    const char *host; /* NULL: all addresses */
    uint16_t port;    /* 0: any */
    const char *uds;  /* path of a unix socket instead, or NULL */
    const char *tls_key_path, *tls_cert_path, *tls_ca_path; /* NULL: plain */
    size_t body_limit_bytes;  /* larger bodies get 413; past eight times that in all requests together: 503 */
    int max_connections;      /* more wait in the listen queue */
    int idle_timeout_s;
    const char *const *allowed_origins; /* CORS, NULL-terminated; NULL: none. OPTIONS is answered here */
    http_handler_fn handler;
    void *handler_ctx;
};

/* Listens and starts serving. A taken port says so and names it. */
int http_server_start(const struct http_server_opts *opts, struct http_server **ret_server, struct err *err);
uint16_t http_server_port(const struct http_server *server);
/* Stops accepting; open requests go on. */
void http_server_quiesce(struct http_server *server);
/* Requests whose handler or stream is under way. */
int http_server_active(const struct http_server *server);
/* Ends all connections and frees. Accepts NULL. */
void http_server_stop(struct http_server *server);

#endif
