/*
 * The HTTP server against raw sockets: what a client sees on the wire, and what a handler is told when its client
 * behaves badly. TLS is spoken by libcurl.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "http/server.h"

/* What the handler and its streams have done; reset by start(). */
static atomic_int n_finished, saw_gone;
static atomic_long finished_at_ms;

enum stream_kind { STREAM_COUNT, STREAM_SILENT, STREAM_FLOOD, STREAM_ABORTING };
struct stream_state {
    enum stream_kind kind;
    int n;
};

static void nap(int ms) { usleep((useconds_t)ms * 1000); }

static ssize_t stream_next(void *ctx, char *room, size_t room_bytes) {
    struct stream_state *state = ctx;
    switch (state->kind) {
    case STREAM_COUNT:
        if (state->n == 5)
            return HTTP_STREAM_END;
        nap(30);
        if (state->n > 0 && rand() % 2 == 0)
            return 0;
        return snprintf(room, room_bytes, "data: %d\n\n", state->n++);
    case STREAM_SILENT:
        if (state->n++ == 0)
            return snprintf(room, room_bytes, "data: first\n\n");
        nap(50);
        return 0;
    case STREAM_FLOOD: memset(room, 'x', room_bytes); return (ssize_t)room_bytes;
    case STREAM_ABORTING:
        if (state->n++ == 0)
            return snprintf(room, room_bytes, "data: first\n\n");
        return HTTP_STREAM_ABORT;
    }
    return HTTP_STREAM_ABORT;
}

static void stream_finish(void *ctx) {
    free(ctx);
    atomic_store(&finished_at_ms, clock_mono_ms());
    atomic_fetch_add(&n_finished, 1);
}

static void handle(void *ctx, const struct http_request *request, struct http_response *ret) {
    (void)ctx;
    if (strncmp(request->path, "/stream/", 8) == 0) {
        struct stream_state *state = calloc(1, sizeof *state);
        state->kind = (enum stream_kind)atoi(request->path + 8);
        *ret = (struct http_response){
            .status = 200, .content_type = "text/event-stream; charset=utf-8", .next = stream_next, .finish = stream_finish, .ctx = state};
        return;
    }
    if (strcmp(request->path, "/wait") == 0) {
        while (!http_request_client_gone(request))
            nap(10);
        atomic_store(&saw_gone, 1);
        atomic_store(&finished_at_ms, clock_mono_ms());
        return;
    }
    if (strcmp(request->path, "/slow") == 0)
        nap(2300);
    if (strcmp(request->path, "/empty") == 0) {
        ret->status = 200;
        return;
    }
    const char *tag = http_request_header(request, "x-tag"), *arg = http_request_query(request, "q");
    char *text = NULL;
    int len = asprintf(&text, "%s %s tag=%s q=%s body=%zu:%.20s", request->method, request->path, tag == NULL ? "-" : tag,
                       arg == NULL ? "-" : arg, request->body_bytes, request->body);
    *ret = (struct http_response){.status = 200, .content_type = "text/plain", .body = text, .body_bytes = (size_t)len};
    http_response_header(ret, "x-extra", "1");
}

static const char *const allowed_origins[] = {"http://good", NULL};

static struct http_server_opts base_opts(void) {
    return (struct http_server_opts){.host = "127.0.0.1",
                                     .body_limit_bytes = 1000,
                                     .max_connections = 20,
                                     .idle_timeout_s = 20,
                                     .allowed_origins = allowed_origins,
                                     .handler = handle};
}

static struct http_server *start(const struct http_server_opts *opts) {
    struct err err = {0};
    struct http_server *server = NULL;
    atomic_store(&n_finished, 0);
    atomic_store(&saw_gone, 0);
    if (http_server_start(opts, &server, &err) != 0)
        fail_msg("%s", err.msg);
    return server;
}

static int dial(uint16_t port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void say(int fd, const char *text) { assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text)); }

/* Reads until `until` was seen, the peer closed or timeout_ms passed. Returns bytes read, NUL-terminated. */
static size_t hear(int fd, char *text, size_t room, const char *until, int timeout_ms) {
    size_t len = 0;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    text[0] = '\0';
    while (len + 1 < room && (until == NULL || strstr(text, until) == NULL)) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (poll(&poll_fd, 1, clock_left_ms(deadline)) <= 0)
            break;
        ssize_t n = recv(fd, text + len, room - 1 - len, 0);
        if (n <= 0)
            break;
        len += (size_t)n;
        text[len] = '\0';
    }
    return len;
}

static bool closed_within(int fd, int timeout_ms) {
    char byte;
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, timeout_ms) > 0 && recv(fd, &byte, 1, 0) <= 0;
}

static bool becomes(atomic_int *value, int wanted, int timeout_ms) {
    int64_t deadline = clock_mono_ms() + timeout_ms;
    while (atomic_load(value) != wanted && clock_mono_ms() < deadline)
        nap(2);
    return atomic_load(value) == wanted;
}

static void test_requests(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    int fd = dial(http_server_port(server));
    char text[4096];
    say(fd, "GET /a%20b?q=1%2B1 HTTP/1.1\r\nHost: x\r\nX-Tag: t\r\n\r\n");
    hear(fd, text, sizeof text, "body=0:", 2000);
    assert_non_null(strstr(text, "HTTP/1.1 200"));
    assert_non_null(strstr(text, "GET /a b tag=t q=1+1 body=0:"));
    assert_non_null(strstr(text, "x-extra: 1\r\n"));
    assert_non_null(strstr(text, "vary: Origin\r\n"));
    /* the same connection again, with a body in two pieces */
    say(fd, "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc");
    nap(30);
    say(fd, "def");
    hear(fd, text, sizeof text, "body=6:abcdef", 2000);
    assert_non_null(strstr(text, "POST /p tag=- q=- body=6:abcdef"));
    say(fd, "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    hear(fd, text, sizeof text, "body=5:abcde", 2000);
    assert_non_null(strstr(text, "body=5:abcde"));
    say(fd, "HEAD /h HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, "\r\n\r\n", 2000);
    assert_non_null(strstr(text, "HTTP/1.1 200"));
    assert_null(strstr(text, "HEAD /h"));
    say(fd, "GET /empty HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, "\r\n\r\n", 2000);
    assert_non_null(strcasestr(text, "content-length: 0\r\n"));
    assert_null(strcasestr(text, "content-type"));
    close(fd);
    /* without keep-alive */
    fd = dial(http_server_port(server));
    say(fd, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    hear(fd, text, sizeof text, NULL, 2000);
    assert_non_null(strstr(text, "GET /x"));
    close(fd);
    /* what is not HTTP, and headers without end */
    fd = dial(http_server_port(server));
    say(fd, "\x16\x03\x01\x02 nonsense\r\n\r\n");
    assert_true(hear(fd, text, sizeof text, NULL, 2000) == 0 || strstr(text, " 400 ") != NULL);
    close(fd);
    fd = dial(http_server_port(server));
    char *huge = malloc(200001);
    memset(huge, 'h', 200000);
    memcpy(huge, "GET / HTTP/1.1\r\nHost: x\r\nX-Huge: ", 34);
    huge[200000] = '\0';
    send(fd, huge, 200000, MSG_NOSIGNAL);
    free(huge);
    size_t len = hear(fd, text, sizeof text, NULL, 2000);
    assert_true(len == 0 || strstr(text, " 431 ") != NULL || strstr(text, " 413 ") != NULL || strstr(text, " 400 ") != NULL);
    close(fd);
    atomic_int none = 0;
    for (int i = 0; i < 500 && http_server_active(server) != 0; i++)
        nap(2);
    assert_int_equal(http_server_active(server), atomic_load(&none));
    http_server_stop(server);
}

static void test_body_limit(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    char text[4096], body[3001];
    memset(body, 'b', 3000);
    body[3000] = '\0';
    int fd = dial(http_server_port(server));
    say(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
    send(fd, body, 1000, MSG_NOSIGNAL);
    hear(fd, text, sizeof text, "body=1000", 2000);
    assert_non_null(strstr(text, "body=1000:bbb"));
    say(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n");
    say(fd, body);
    hear(fd, text, sizeof text, "}}", 2000);
    assert_non_null(strstr(text, "HTTP/1.1 413"));
    assert_non_null(strstr(text, "larger than 1000 bytes"));
    say(fd, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n");
    say(fd, body);
    say(fd, "\r\n0\r\n\r\n");
    hear(fd, text, sizeof text, "}}", 2000);
    assert_non_null(strstr(text, "HTTP/1.1 413"));
    close(fd);
    /* told before the body is sent */
    fd = dial(http_server_port(server));
    say(fd, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3000\r\n\r\n");
    hear(fd, text, sizeof text, "}}", 2000);
    assert_non_null(strstr(text, "HTTP/1.1 413"));
    assert_null(strstr(text, "100 Continue"));
    close(fd);
    /* a body without end is cut off */
    fd = dial(http_server_port(server));
    say(fd, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    bool cut = false;
    for (int i = 0; i < 200 && !cut; i++)
        cut = send(fd, "bb8\r\n", 5, MSG_NOSIGNAL) < 0 || send(fd, body, 3000, MSG_NOSIGNAL) < 0 || send(fd, "\r\n", 2, MSG_NOSIGNAL) < 0;
    assert_true(cut || closed_within(fd, 2000));
    close(fd);
    http_server_stop(server);
}

/* Many bodies at once are held within a common limit: the one past it is told to come again. */
static void test_bodies_limit(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    char text[4096], body[901];
    int fds[10];
    memset(body, 'b', 900);
    body[900] = '\0';
    for (int i = 0; i < 10; i++) { /* 900 of 1000 bytes each, where 8000 are allowed together */
        fds[i] = dial(http_server_port(server));
        say(fds[i], "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 901\r\n\r\n");
        say(fds[i], body);
        nap(20);
    }
    for (int i = 0; i < 10; i++) {
        say(fds[i], "c");
        hear(fds[i], text, sizeof text, i < 8 ? "body=901" : "}}", 2000);
        assert_non_null(strstr(text, i < 8 ? "HTTP/1.1 200" : "HTTP/1.1 503"));
    }
    say(fds[9], "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nc"); /* now there is room again */
    hear(fds[9], text, sizeof text, "body=1", 2000);
    assert_non_null(strstr(text, "HTTP/1.1 200"));
    for (int i = 0; i < 10; i++)
        close(fds[i]);
    http_server_stop(server);
}

static void test_stream(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    int fd = dial(http_server_port(server));
    char text[4096];
    for (int round = 0; round < 2; round++) { /* keep-alive after a stream */
        say(fd, "GET /stream/0 HTTP/1.1\r\nHost: x\r\n\r\n");
        hear(fd, text, sizeof text, "data: 0", 1000);
        assert_non_null(strstr(text, "data: 0"));
        assert_null(strstr(text, "data: 4"));
        assert_non_null(strstr(text, "text/event-stream; charset=utf-8"));
        hear(fd, text, sizeof text, "0\r\n\r\n", 2000);
        assert_non_null(strstr(text, "data: 4"));
        assert_true(becomes(&n_finished, round + 1, 500));
    }
    /* the pieces arrive when they are made, not later by Nagle's or anyone's clock */
    say(fd, "GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    int64_t begin = clock_mono_ms();
    hear(fd, text, sizeof text, "first", 1000);
    assert_true(clock_mono_ms() - begin < 35);
    assert_int_equal(http_server_active(server), 1);
    close(fd);
    /* an abort is seen as such: no last chunk */
    fd = dial(http_server_port(server));
    say(fd, "GET /stream/3 HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, NULL, 2000);
    assert_non_null(strstr(text, "data: first"));
    assert_null(strstr(text, "\r\n0\r\n"));
    close(fd);
    http_server_stop(server);
}

static void test_client_leaves(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    char text[4096];
    /* in a stream that is silent, in one that floods a full socket, and while a handler waits */
    const char *const requests[] = {"GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /stream/2 HTTP/1.1\r\nHost: x\r\n\r\n",
                                    "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"};
    for (int i = 0; i < 3; i++) {
        int fd = dial(http_server_port(server));
        say(fd, requests[i]);
        if (i < 2)
            hear(fd, text, sizeof text, i == 0 ? "first" : "xxx", 1000);
        nap(300);
        int64_t left = clock_mono_ms();
        close(fd);
        assert_true(i < 2 ? becomes(&n_finished, i + 1, 1000) : becomes(&saw_gone, 1, 1000));
        assert_true(atomic_load(&finished_at_ms) - left < 500);
    }
    http_server_stop(server);
    assert_int_equal(atomic_load(&n_finished), 2);
}

static void test_stop_ends_streams(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    char text[4096];
    int silent = dial(http_server_port(server)), flood = dial(http_server_port(server)), waits = dial(http_server_port(server));
    say(silent, "GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    say(flood, "GET /stream/2 HTTP/1.1\r\nHost: x\r\n\r\n");
    say(waits, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(silent, text, sizeof text, "first", 1000);
    nap(200);
    assert_int_equal(http_server_active(server), 3);
    http_server_quiesce(server);
    assert_int_equal(http_server_active(server), 3);
    int64_t begin = clock_mono_ms();
    http_server_stop(server);
    assert_true(clock_mono_ms() - begin < 1000);
    assert_int_equal(atomic_load(&n_finished), 2);
    assert_int_equal(atomic_load(&saw_gone), 1);
    close(silent);
    close(flood);
    close(waits);
}

static void test_cors(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts);
    char text[4096];
    int fd = dial(http_server_port(server));
    say(fd, "OPTIONS /v1 HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nAccess-Control-Request-Method: POST\r\n\r\n");
    hear(fd, text, sizeof text, "CORS origin", 1000);
    assert_non_null(strstr(text, "HTTP/1.1 400"));
    assert_non_null(strstr(text, "access-control-allow-methods: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY\r\n"));
    assert_non_null(strstr(text, "\r\n\r\nDisallowed CORS origin"));
    say(fd, "OPTIONS /v1 HTTP/1.1\r\nHost: x\r\nOrigin: http://good\r\nAccess-Control-Request-Method: POST\r\n"
            "Access-Control-Request-Headers: content-type\r\n\r\n");
    hear(fd, text, sizeof text, "\r\n\r\nOK", 1000);
    assert_non_null(strstr(text, "HTTP/1.1 200"));
    assert_non_null(strstr(text, "access-control-allow-origin: http://good\r\n"));
    assert_non_null(strstr(text, "access-control-allow-headers: content-type\r\n"));
    say(fd, "GET /a HTTP/1.1\r\nHost: x\r\nOrigin: http://good\r\n\r\n");
    hear(fd, text, sizeof text, "GET /a", 1000);
    assert_non_null(strstr(text, "access-control-allow-origin: http://good\r\n"));
    say(fd, "OPTIONS /a HTTP/1.1\r\nHost: x\r\n\r\n"); /* no preflight: the handler's affair */
    hear(fd, text, sizeof text, "OPTIONS /a", 1000);
    assert_non_null(strstr(text, "OPTIONS /a"));
    close(fd);
    http_server_stop(server);
}

static void test_idle_timeout(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    opts.idle_timeout_s = 1;
    struct http_server *server = start(&opts);
    char text[4096];
    /* a handler may take longer than the idle timeout; only then does the clock run */
    int fd = dial(http_server_port(server));
    say(fd, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, "GET /slow", 4000);
    assert_non_null(strstr(text, "GET /slow"));
    assert_true(closed_within(fd, 3500));
    close(fd);
    /* a reader that takes nothing loses its connection, and its stream ends */
    fd = dial(http_server_port(server));
    say(fd, "GET /stream/2 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(becomes(&n_finished, 1, 5000));
    close(fd);
    http_server_stop(server);
}

static void test_connection_limit(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    opts.max_connections = 2;
    struct http_server *server = start(&opts);
    char text[4096];
    int a = dial(http_server_port(server)), b = dial(http_server_port(server));
    say(a, "GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    say(b, "GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(a, text, sizeof text, "first", 1000);
    hear(b, text, sizeof text, "first", 1000);
    int c = dial(http_server_port(server)); /* waits in the queue, is not refused */
    say(c, "GET /late HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(hear(c, text, sizeof text, "late", 300), 0);
    close(a);
    hear(c, text, sizeof text, "GET /late", 3000);
    assert_non_null(strstr(text, "GET /late"));
    close(b);
    close(c);
    http_server_stop(server);
}

static void test_addresses(void **unused) {
    (void)unused;
    struct http_server_opts opts = base_opts();
    struct http_server *server = start(&opts), *second = NULL;
    struct err err = {0};
    opts.port = http_server_port(server);
    assert_int_equal(http_server_start(&opts, &second, &err), -1);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "port %u on 127.0.0.1 is in use", opts.port);
    assert_non_null(strstr(err.msg, wanted));
    http_server_stop(server);
    server = start(&opts); /* at once again, although connections of before may linger */
    http_server_stop(server);
    opts.host = "203.0.113.7";
    assert_int_equal(http_server_start(&opts, &second, &err), -1);
    assert_non_null(strstr(err.msg, "no address of this machine"));
    opts.host = NULL;
    opts.port = 0;
    server = start(&opts);
    int fd = dial(http_server_port(server));
    char text[1024];
    say(fd, "GET /any HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, "GET /any", 1000);
    assert_non_null(strstr(text, "GET /any"));
    close(fd);
    http_server_stop(server);
}

static void test_unix_socket(void **unused) {
    (void)unused;
    char dir[] = "/tmp/shoal-http-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    struct http_server_opts opts = base_opts();
    opts.uds = path;
    struct http_server *server = start(&opts), *second = NULL;
    struct err err = {0};
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strcpy(to.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    char text[1024];
    say(fd, "GET /uds HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, "GET /uds", 1000);
    assert_non_null(strstr(text, "GET /uds"));
    say(fd, "GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n");
    hear(fd, text, sizeof text, "first", 1000);
    close(fd);
    assert_true(becomes(&n_finished, 1, 500));
    assert_int_equal(http_server_start(&opts, &second, &err), -1);
    assert_non_null(strstr(err.msg, "another program listens"));
    http_server_stop(server);
    assert_int_equal(access(path, F_OK), -1);
    /* a leftover of a program that died is replaced, a file is not */
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof to), 0);
    close(fd);
    server = start(&opts);
    http_server_stop(server);
    fclose(fopen(path, "w"));
    assert_int_equal(http_server_start(&opts, &second, &err), -1);
    assert_non_null(strstr(err.msg, "no socket"));
    unlink(path);
    rmdir(dir);
}

static void write_certificate(const char *key_path, const char *cert_path) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    X509_sign(cert, key, EVP_sha256());
    FILE *file = fopen(key_path, "w");
    PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
    fclose(file);
    file = fopen(cert_path, "w");
    PEM_write_X509(file, cert);
    fclose(file);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static size_t collect(char *bytes, size_t size, size_t n, void *ctx) {
    strncat(ctx, bytes, size * n);
    return size * n;
}

static size_t leave(char *bytes, size_t size, size_t n, void *ctx) {
    (void)bytes;
    (void)size;
    (void)n;
    (void)ctx;
    return 0; /* an error to curl, which closes the connection */
}

static void test_tls(void **unused) {
    (void)unused;
    char dir[] = "/tmp/shoal-tls-XXXXXX", key[64], cert[64], url[64], text[1024] = "";
    assert_non_null(mkdtemp(dir));
    snprintf(key, sizeof key, "%s/key.pem", dir);
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    write_certificate(key, cert);
    struct http_server_opts opts = base_opts();
    struct http_server *server = NULL;
    struct err err = {0};
    opts.tls_key_path = key;
    assert_int_equal(http_server_start(&opts, &server, &err), -1);
    assert_non_null(strstr(err.msg, "--ssl-certfile"));
    opts.tls_cert_path = cert;
    server = start(&opts);
    CURL *curl = curl_easy_init();
    snprintf(url, sizeof url, "https://127.0.0.1:%u/tls", http_server_port(server));
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 5L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, text);
    assert_int_equal(curl_easy_perform(curl), CURLE_OK);
    assert_non_null(strstr(text, "GET /tls"));
    snprintf(url, sizeof url, "https://127.0.0.1:%u/stream/1", http_server_port(server));
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, leave);
    assert_int_equal(curl_easy_perform(curl), CURLE_WRITE_ERROR);
    assert_true(becomes(&n_finished, 1, 500));
    curl_easy_cleanup(curl);
    http_server_stop(server);
    unlink(key);
    unlink(cert);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),  cmocka_unit_test(test_body_limit),    cmocka_unit_test(test_bodies_limit),
        cmocka_unit_test(test_stream),    cmocka_unit_test(test_client_leaves), cmocka_unit_test(test_stop_ends_streams),
        cmocka_unit_test(test_cors),      cmocka_unit_test(test_idle_timeout),  cmocka_unit_test(test_connection_limit),
        cmocka_unit_test(test_addresses), cmocka_unit_test(test_unix_socket),   cmocka_unit_test(test_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
