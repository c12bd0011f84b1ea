/*
 * The HTTP server over libmicrohttpd; see server.h. The acceptor hands connections to libmicrohttpd, which runs one
 * thread for each; the callbacks below run there. What libmicrohttpd leaves open is decided here: bodies are
 * collected up to a limit, a stream is told at once when its client has gone, and the idle clock stands still while a
 * handler works. Knows nothing of routes.
 */
#include "http/server.h"

#include <microhttpd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "http/acceptor.h"
#include "http/cors.h"
#include "http/listen.h"

enum {
    CONNECTION_MEMORY_BYTES = 64 * 1024, /* request line, headers and the chunk being sent */
    STREAM_BLOCK_BYTES = 16 * 1024,
    PEM_LIMIT_BYTES = 1 << 20,
    DRAIN_FACTOR = 8,  /* a body up to this many times the limit is read to its end, so that its client sees the 413 */
    BODIES_FACTOR = 8, /* all bodies together take at most this many times the limit of one */
    DEFAULT_MAX_CONNECTIONS = 1000
};

struct http_server {
    struct MHD_Daemon *daemon;
    struct http_acceptor *acceptor;
    struct http_server_opts opts;
    uint16_t port;
    atomic_int n_active;
    atomic_size_t bodies_bytes; /* held by all requests together */
    atomic_bool stopping;
    struct buf tls_key, tls_cert, tls_ca;
    char *uds; /* removed at the end */
};

struct http_conn {
    struct http_server *server;
    struct MHD_Connection *mhd;
    struct buf body;
    size_t dropped_bytes; /* of a body past a limit */
    bool too_large, too_many;
};

struct stream {
    struct http_conn *conn;
    ssize_t (*next)(void *ctx, char *room, size_t room_bytes);
    void (*finish)(void *ctx);
    void *ctx;
};

/* The idle clock of libmicrohttpd also runs while a handler works; these stop it and start it anew. */
static void idle_clock_stop(struct http_conn *conn) { MHD_set_connection_option(conn->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 0u); }

static void idle_clock_restart(struct http_conn *conn) {
    idle_clock_stop(conn); /* only the step away from 0 resets it */
    MHD_set_connection_option(conn->mhd, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)conn->server->opts.idle_timeout_s);
}

const char *http_request_header(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->conn->mhd, MHD_HEADER_KIND, name);
}

const char *http_request_query(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->conn->mhd, MHD_GET_ARGUMENT_KIND, name);
}

static bool conn_gone(const struct http_conn *conn) {
    if (atomic_load(&conn->server->stopping))
        return true;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn->mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd poll_fd = {.fd = info == NULL ? -1 : info->connect_fd, .events = POLLRDHUP};
    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

bool http_request_client_gone(const struct http_request *request) { return conn_gone(request->conn); }

void http_response_header(struct http_response *response, const char *name, const char *value) {
    int at = response->n_headers;
    if (at == HTTP_MAX_HEADERS || strlen(name) >= sizeof response->headers[at].name ||
        strlen(value) >= sizeof response->headers[at].value) {
        log_warning("header '%s' was left out of an answer: it is too long or there are too many", name);
        return;
    }
    strcpy(response->headers[at].name, name);
    strcpy(response->headers[at].value, value);
    response->n_headers++;
}

static ssize_t stream_read(void *cls, uint64_t position, char *room, size_t room_bytes) {
    struct stream *stream = cls;
    struct http_conn *conn = stream->conn;
    (void)position;
    for (;;) {
        if (conn_gone(conn))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        ssize_t n = stream->next(stream->ctx, room, room_bytes);
        if (n == 0)
            continue;
        idle_clock_restart(conn);
        if (n > 0)
            return n;
        return n == HTTP_STREAM_END ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
    }
}

static void stream_free(void *cls) {
    struct stream *stream = cls;
    if (stream->finish != NULL)
        stream->finish(stream->ctx);
    free(stream);
}

/* Takes over the body or stream of `answer`, also on failure (NULL). */
static struct MHD_Response *response_create(struct http_conn *conn, struct http_response *answer) {
    if (answer->next == NULL) {
        if (answer->body == NULL)
            return MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
        struct MHD_Response *response = MHD_create_response_from_buffer(answer->body_bytes, answer->body, MHD_RESPMEM_MUST_FREE);
        if (response == NULL)
            free(answer->body);
        return response;
    }
    struct stream *stream = malloc(sizeof *stream);
    struct MHD_Response *response = NULL;
    if (stream != NULL) {
        *stream = (struct stream){conn, answer->next, answer->finish, answer->ctx};
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, stream_read, stream, stream_free);
    }
    if (response == NULL) {
        if (answer->finish != NULL)
            answer->finish(answer->ctx);
        free(stream);
    }
    return response;
}

static enum MHD_Result conn_answer(struct http_conn *conn, struct http_response *answer) {
    bool has_body = answer->next != NULL || answer->body_bytes > 0;
    const char *type = answer->content_type != NULL ? answer->content_type : has_body ? "application/json" : NULL;
    struct MHD_Response *response = response_create(conn, answer);
    if (response == NULL)
        return MHD_NO;
    if (type != NULL)
        MHD_add_response_header(response, "content-type", type);
    for (int i = 0; i < answer->n_headers; i++) /* refuses values with line breaks, which only a client could have brought in */
        MHD_add_response_header(response, answer->headers[i].name, answer->headers[i].value);
    enum MHD_Result result = MHD_queue_response(conn->mhd, (unsigned)answer->status, response);
    MHD_destroy_response(response); /* the connection holds its own reference */
    return result;
}

static void refuse_body(const struct http_conn *conn, struct http_response *ret) {
    char text[256];
    if (conn->too_large)
        snprintf(text, sizeof text,
                 "{\"error\":{\"message\":\"The request body is larger than %zu bytes, the most that this server takes.\","
                 "\"type\":\"Request Entity Too Large\",\"param\":null,\"code\":413}}",
                 conn->server->opts.body_limit_bytes);
    else
        snprintf(text, sizeof text,
                 "{\"error\":{\"message\":\"The server holds as many request bodies as it can. Try again.\","
                 "\"type\":\"ServiceUnavailableError\",\"param\":null,\"code\":503}}");
    *ret = (struct http_response){.status = conn->too_large ? 413 : 503, .body = strdup(text), .body_bytes = strlen(text)};
    if (ret->body == NULL)
        ret->body_bytes = 0;
}

static void drop_body(struct http_conn *conn) {
    atomic_fetch_sub(&conn->server->bodies_bytes, conn->body.len_bytes);
    buf_finish(&conn->body);
}

static enum MHD_Result conn_handle(struct http_conn *conn, const char *path, const char *method) {
    const struct http_server_opts *opts = &conn->server->opts;
    struct http_request request = {
        .method = method, .path = path, .body = buf_str(&conn->body), .body_bytes = conn->body.len_bytes, .conn = conn};
    struct http_response answer = {.status = 200};
    idle_clock_stop(conn);
    if (http_cors_is_preflight(&request)) {
        http_cors_preflight(opts->allowed_origins, &request, &answer);
    } else {
        if (conn->too_large || conn->too_many)
            refuse_body(conn, &answer);
        else
            opts->handler(opts->handler_ctx, &request, &answer);
        http_cors_decorate(opts->allowed_origins, &request, &answer);
    }
    drop_body(conn); /* a stream may go on for long without it */
    idle_clock_restart(conn);
    return conn_answer(conn, &answer);
}

static void conn_take_body(struct http_conn *conn, const char *bytes, size_t len_bytes) {
    if (!conn->too_large && !conn->too_many) {
        size_t limit_bytes = conn->server->opts.body_limit_bytes;
        conn->too_large = buf_append(&conn->body, bytes, len_bytes) != 0;
        if (!conn->too_large)
            conn->too_many = atomic_fetch_add(&conn->server->bodies_bytes, len_bytes) + len_bytes > BODIES_FACTOR * limit_bytes;
        if (!conn->too_large && !conn->too_many)
            return;
        drop_body(conn);
    }
    conn->dropped_bytes += len_bytes;
}

/* A body whose length is announced and which its client sends only when told to (Expect), or that is far too long. */
static bool refuse_early(const struct http_conn *conn) {
    const char *length = MHD_lookup_connection_value(conn->mhd, MHD_HEADER_KIND, "Content-Length");
    if (length == NULL)
        return false;
    unsigned long long len_bytes = strtoull(length, NULL, 10);
    size_t limit_bytes = conn->server->opts.body_limit_bytes;
    bool waits = MHD_lookup_connection_value(conn->mhd, MHD_HEADER_KIND, "Expect") != NULL;
    return len_bytes > limit_bytes && (waits || len_bytes / DRAIN_FACTOR > limit_bytes);
}

/* libmicrohttpd calls this when the headers are there, for each piece of the body, and when the request is complete. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                  const char *piece, size_t *piece_bytes, void **state) {
    struct http_server *server = cls;
    struct http_conn *conn = *state;
    (void)version;
    if (conn == NULL) {
        conn = malloc(sizeof *conn);
        if (conn == NULL)
            return MHD_NO;
        *conn = (struct http_conn){.server = server, .mhd = mhd};
        buf_init(&conn->body, server->opts.body_limit_bytes);
        *state = conn;
        atomic_fetch_add(&server->n_active, 1);
        if (!refuse_early(conn))
            return MHD_YES;
        conn->too_large = true;
        return conn_handle(conn, url, method);
    }
    if (*piece_bytes > 0) {
        conn_take_body(conn, piece, *piece_bytes);
        *piece_bytes = 0;
        return conn->dropped_bytes / DRAIN_FACTOR > server->opts.body_limit_bytes ? MHD_NO : MHD_YES;
    }
    return conn_handle(conn, url, method);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **state, enum MHD_RequestTerminationCode why) {
    struct http_server *server = cls;
    struct http_conn *conn = *state;
    (void)mhd;
    (void)why;
    if (conn == NULL)
        return;
    *state = NULL;
    drop_body(conn);
    free(conn);
    atomic_fetch_sub(&server->n_active, 1);
}

static bool on_accept(void *ctx, int fd, const struct sockaddr *address, socklen_t address_bytes) {
    struct http_server *server = ctx;
    return MHD_add_connection(server->daemon, fd, address, address_bytes) == MHD_YES; /* closes fd when it says no */
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **state, enum MHD_ConnectionNotificationCode what) {
    struct http_server *server = cls;
    (void)mhd;
    (void)state;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED)
        http_acceptor_release(server->acceptor);
}

static void on_log(void *cls, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
static void on_log(void *cls, const char *format, va_list args) {
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http: %s", line);
}

static int read_pem(const char *path, const char *what, struct buf *out, struct err *err) {
    buf_init(out, PEM_LIMIT_BYTES);
    if (path != NULL && file_read(path, out, err) != 0)
        return err_wrap(err, "%s", what);
    return 0;
}

static int read_tls(struct http_server *server, struct err *err) {
    const struct http_server_opts *opts = &server->opts;
    if (opts->tls_key_path == NULL && opts->tls_cert_path == NULL)
        return 0;
    if (opts->tls_key_path == NULL || opts->tls_cert_path == NULL)
        return err_set(err, ERR_INVALID, "TLS needs both a key (--ssl-keyfile) and a certificate (--ssl-certfile); only one was given");
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return err_set(err, ERR_UNSUPPORTED, "this libmicrohttpd was built without TLS");
    if (read_pem(opts->tls_key_path, "TLS key", &server->tls_key, err) != 0 ||
        read_pem(opts->tls_cert_path, "TLS certificate", &server->tls_cert, err) != 0 ||
        read_pem(opts->tls_ca_path, "TLS CA certificates", &server->tls_ca, err) != 0)
        return -1;
    return 0;
}

static struct MHD_Daemon *daemon_start(struct http_server *server) {
    const struct http_server_opts *opts = &server->opts;
    unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC | MHD_USE_ERROR_LOG |
                     MHD_USE_NO_LISTEN_SOCKET;
    struct MHD_OptionItem items[16];
    int n = 0;
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL}; /* must be first */
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, server};
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY_BYTES, NULL};
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_CONNECTION_TIMEOUT, opts->idle_timeout_s, NULL};
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, server};
    items[n++] =
        (struct MHD_OptionItem){MHD_OPTION_CONNECTION_LIMIT, opts->max_connections + 64, NULL}; /* the acceptor's limit is the lower one */
#if MHD_VERSION >= 0x00097600
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_CLIENT_DISCIPLINE_LVL, 2, NULL};
#else
    items[n++] = (struct MHD_OptionItem){MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL};
#endif
    if (server->tls_key.len_bytes > 0) {
        flags |= MHD_USE_TLS;
        items[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, server->tls_key.data};
        items[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, server->tls_cert.data};
        items[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)"NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"};
        if (server->tls_ca.len_bytes > 0)
            items[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_TRUST, 0, server->tls_ca.data};
    }
    items[n] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, server, MHD_OPTION_ARRAY, items, MHD_OPTION_END);
}

static void server_free(struct http_server *server) {
    http_acceptor_destroy(server->acceptor);
    if (server->uds != NULL)
        unlink(server->uds);
    free(server->uds);
    buf_finish(&server->tls_key);
    buf_finish(&server->tls_cert);
    buf_finish(&server->tls_ca);
    free(server);
}

int http_server_start(const struct http_server_opts *opts, struct http_server **ret_server, struct err *err) {
    int fd = -1;
    struct http_server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the HTTP server");
    server->opts = *opts;
    if (opts->max_connections <= 0)
        server->opts.max_connections = DEFAULT_MAX_CONNECTIONS;
    if (read_tls(server, err) != 0)
        goto free_server;
    server->daemon = daemon_start(server);
    if (server->daemon == NULL) {
        err_set(err, ERR_INTERNAL, "the HTTP server did not start%s",
                opts->tls_key_path != NULL ? "; do the TLS key and certificate belong together?" : "");
        goto free_server;
    }
    if (opts->uds != NULL ? http_listen_unix(opts->uds, &fd, err) != 0
                          : http_listen_tcp(opts->host, opts->port, &fd, &server->port, err) != 0)
        goto stop_daemon;
    server->uds = opts->uds == NULL ? NULL : strdup(opts->uds);
    if (http_acceptor_start(fd, server->opts.max_connections, on_accept, server, &server->acceptor, err) != 0)
        goto stop_daemon;
    *ret_server = server;
    return 0;
stop_daemon:
    MHD_stop_daemon(server->daemon);
free_server:
    server_free(server);
    return -1;
}

uint16_t http_server_port(const struct http_server *server) { return server->port; }

void http_server_quiesce(struct http_server *server) { http_acceptor_stop(server->acceptor); }

int http_server_active(const struct http_server *server) { return atomic_load(&server->n_active); }

void http_server_stop(struct http_server *server) {
    if (server == NULL)
        return;
    atomic_store(&server->stopping, true);
    http_acceptor_stop(server->acceptor);
    MHD_stop_daemon(server->daemon); /* joins every thread */
    server_free(server);
}
