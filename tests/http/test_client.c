/* The HTTP client against a server of a few lines in this process: it answers by path, one connection at a time. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "http/client.h"

struct peer {
    int fd;
    int port;
    pthread_t thread;
    char seen[8192]; /* the last request, whole */
};

static struct peer g_peer, g_other;

static void say(int fd, const char *text) {
    ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL);
    (void)n; /* a client that hung up is part of some tests */
}

static void answer(int fd, const char *request) {
    char line[256];
    if (strstr(request, " /hello ") != NULL) {
        say(fd, "HTTP/1.1 200 OK\r\nX-Thing:  one two \r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    } else if (strstr(request, " /missing ") != NULL) {
        say(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope");
    } else if (strstr(request, " /moved ") != NULL) {
        snprintf(line, sizeof line, "HTTP/1.1 302 Found\r\nX-First: yes\r\nLocation: http://127.0.0.1:%d/hello\r\n", g_other.port);
        say(fd, line);
        say(fd, "Content-Length: 7\r\nConnection: close\r\n\r\nignored");
    } else if (strstr(request, " /to-file ") != NULL) {
        say(fd, "HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    } else if (strstr(request, " /loop ") != NULL) {
        say(fd, "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    } else if (strstr(request, " /cut ") != NULL) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nonly this");
    } else if (strstr(request, " /big ") != NULL) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 8192\r\nConnection: close\r\n\r\n");
        for (int i = 0; i < 8192 / 16; i++)
            say(fd, "0123456789abcdef");
    } else if (strstr(request, " /headers ") != NULL) {
        say(fd, "HTTP/1.1 200 OK\r\n");
        for (int i = 0; i < 200; i++)
            say(fd, "X-Filler: 0123456789abcdef0123456789abcdef\r\n");
        say(fd, "Content-Length: 0\r\nConnection: close\r\n\r\n");
    } else if (strstr(request, " /silence ") != NULL) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n");
        struct pollfd gone = {.fd = fd, .events = POLLIN};
        poll(&gone, 1, 10000);
    } else if (strstr(request, " /garbage ") != NULL) {
        say(fd, "this is not HTTP at all\r\n\r\n");
    } else {
        say(fd, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
}

static void *serve(void *arg) {
    struct peer *peer = arg;
    for (;;) {
        int fd = accept(peer->fd, NULL, NULL);
        if (fd < 0)
            return NULL;
        char request[sizeof peer->seen] = "";
        size_t len = 0, need = 0;
        while (len < sizeof request - 1) {
            ssize_t n = recv(fd, request + len, sizeof request - 1 - len, 0);
            if (n <= 0)
                break;
            len += (size_t)n;
            request[len] = '\0';
            const char *end = strstr(request, "\r\n\r\n");
            const char *length = strcasestr(request, "content-length:");
            if (end != NULL) {
                need = (size_t)(end - request) + 4 + (length != NULL && length < end ? strtoul(length + 15, NULL, 10) : 0);
                if (len >= need)
                    break;
            }
        }
        memcpy(peer->seen, request, sizeof request);
        answer(fd, request);
        shutdown(fd, SHUT_WR);
        close(fd);
    }
}

static void start_peer(struct peer *peer) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(peer->fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(peer->fd, 16), 0);
    assert_int_equal(getsockname(peer->fd, (struct sockaddr *)&addr, &len), 0);
    peer->port = ntohs(addr.sin_port);
    assert_int_equal(pthread_create(&peer->thread, NULL, serve, peer), 0);
}

static void stop_peer(struct peer *peer) {
    shutdown(peer->fd, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    close(peer->fd);
}

static int setup(void **state) {
    (void)state;
    /* A proxy that cannot work: any call that is answered went past it. */
    setenv("http_proxy", "http://127.0.0.1:9", 1);
    unsetenv("no_proxy");
    unsetenv("NO_PROXY");
    start_peer(&g_peer);
    start_peer(&g_other);
    return http_client_setup(NULL);
}

static int teardown(void **state) {
    (void)state;
    stop_peer(&g_peer);
    stop_peer(&g_other);
    return 0;
}

static int call_path(struct http_call *call, const char *path, size_t limit_bytes, struct http_answer *ret, struct err *err) {
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", g_peer.port, path);
    call->url = url;
    if (call->method == NULL)
        call->method = "GET";
    buf_init(&ret->body, limit_bytes);
    buf_init(&ret->headers, 4096);
    return http_client_call(call, ret, err);
}

static void drop(struct http_answer *answer) {
    buf_finish(&answer->body);
    buf_finish(&answer->headers);
}

static void test_get(void **state) {
    (void)state;
    struct err err = {0};
    struct http_answer got;
    char value[16];
    assert_int_equal(call_path(&(struct http_call){0}, "/hello", 100, &got, &err), 0);
    assert_int_equal(got.status, 200);
    assert_string_equal(buf_str(&got.body), "hello");
    assert_int_equal(http_client_header(&got, "x-thing", value, sizeof value), 0);
    assert_string_equal(value, "one two");
    assert_int_equal(http_client_header(&got, "X-Thin", value, sizeof value), -1);
    assert_non_null(strstr(g_peer.seen, "User-Agent: shoal/"));
    drop(&got);
}

static void test_status_is_an_answer(void **state) {
    (void)state;
    struct http_answer got;
    assert_int_equal(call_path(&(struct http_call){0}, "/missing", 100, &got, NULL), 0);
    assert_int_equal(got.status, 404);
    assert_string_equal(buf_str(&got.body), "nope");
    drop(&got);
}

static void test_methods_and_bodies(void **state) {
    (void)state;
    static const char *const methods[] = {"POST", "PUT", "DELETE"};
    static const char *const headers[] = {"Content-Type: application/json", "Authorization: Bearer abc", NULL};
    for (size_t i = 0; i < 3; i++) {
        struct http_answer got;
        char line[64];
        struct http_call call = {.method = methods[i], .headers = headers, .body = "{\"a\":1}", .body_bytes = 7};
        assert_int_equal(call_path(&call, "/thing", 100, &got, NULL), 0);
        assert_int_equal(got.status, 201);
        snprintf(line, sizeof line, "%s /thing HTTP/1.1\r\n", methods[i]);
        assert_non_null(strstr(g_peer.seen, line));
        assert_non_null(strstr(g_peer.seen, "Content-Type: application/json\r\n"));
        assert_non_null(strstr(g_peer.seen, "Authorization: Bearer abc\r\n"));
        assert_non_null(strstr(g_peer.seen, "\r\n\r\n{\"a\":1}"));
        assert_null(strstr(g_peer.seen, "Expect"));
        drop(&got);
    }
    struct http_answer got;
    assert_int_equal(call_path(&(struct http_call){.method = "POST"}, "/thing", 100, &got, NULL), 0);
    assert_non_null(strstr(g_peer.seen, "Content-Length: 0\r\n"));
    assert_null(strstr(g_peer.seen, "Content-Type"));
    drop(&got);
    assert_int_equal(call_path(&(struct http_call){.method = "HEAD"}, "/hello", 100, &got, NULL), 0);
    assert_int_equal(got.status, 200);
    assert_int_equal(got.body.len_bytes, 0);
    assert_non_null(strstr(g_peer.seen, "HEAD /hello"));
    drop(&got);
}

static void test_redirect(void **state) {
    (void)state;
    static const char *const headers[] = {"Authorization: Bearer secret", NULL};
    struct http_answer got;
    char value[64];
    assert_int_equal(call_path(&(struct http_call){.headers = headers}, "/moved", 100, &got, NULL), 0);
    assert_int_equal(got.status, 302);
    assert_int_equal(http_client_header(&got, "Location", value, sizeof value), 0);
    drop(&got);
    assert_int_equal(call_path(&(struct http_call){.headers = headers, .follow_redirects = 1}, "/moved", 100, &got, NULL), 0);
    assert_int_equal(got.status, 200);
    assert_string_equal(buf_str(&got.body), "hello");
    assert_int_equal(http_client_header(&got, "X-First", value, sizeof value), -1);
    assert_non_null(strstr(g_peer.seen, "Bearer secret"));
    assert_null(strstr(g_other.seen, "Bearer secret"));
    drop(&got);
}

static void expect_failure(struct http_call *call, const char *path, size_t limit_bytes, enum err_code code, const char *part) {
    struct err err = {0};
    struct http_answer got;
    assert_int_equal(call_path(call, path, limit_bytes, &got, &err), -1);
    drop(&got);
    if (err.code != code || strstr(err.msg, part) == NULL)
        fail_msg("%s: wanted '%s' in %s, got %s: %s", path, part, err_code_name(code), err_code_name(err.code), err.msg);
}

static int keep(void *ctx, const void *bytes, size_t len_bytes) { return buf_append(ctx, bytes, len_bytes); }
static int refuse(void *ctx, const void *bytes, size_t len_bytes) {
    (void)ctx, (void)bytes, (void)len_bytes;
    return 1;
}

static void test_failures(void **state) {
    (void)state;
    static const char *const broken[] = {"Authorization: a\r\nX-Evil: b", NULL};
    expect_failure(&(struct http_call){0}, "/cut", 5000, ERR_PEER, "/cut: ");
    expect_failure(&(struct http_call){0}, "/big", 1000, ERR_LIMIT, "larger than the 1000 bytes");
    expect_failure(&(struct http_call){0}, "/headers", 1000, ERR_LIMIT, "headers are larger");
    expect_failure(&(struct http_call){.timeout_ms = 200}, "/silence", 100, ERR_TIMEOUT, "/silence");
    expect_failure(&(struct http_call){.stall_timeout_s = 1}, "/silence", 100, ERR_TIMEOUT, "/silence");
    expect_failure(&(struct http_call){0}, "/garbage", 100, ERR_PEER, "/garbage");
    expect_failure(&(struct http_call){.follow_redirects = 1}, "/loop", 100, ERR_PEER, "redirects");
    expect_failure(&(struct http_call){.follow_redirects = 1}, "/to-file", 100, ERR_INVALID, "http://");
    expect_failure(&(struct http_call){.headers = broken}, "/hello", 100, ERR_INVALID, "Authorization");
    expect_failure(&(struct http_call){.sink = refuse}, "/hello", 100, ERR_CANCELLED, "/hello");
}

static void test_nobody_there(void **state) {
    (void)state;
    struct err err = {0};
    struct http_answer got = {0};
    struct http_call call = {.method = "GET", .url = "http://user:pass@127.0.0.1:1/x?key=secret"};
    buf_init(&got.body, 100);
    buf_init(&got.headers, 100);
    assert_int_equal(http_client_call(&call, &got, &err), -1);
    assert_int_equal(err.code, ERR_PEER);
    assert_non_null(strstr(err.msg, "127.0.0.1"));
    assert_non_null(strstr(err.msg, "port 1 "));
    assert_null(strstr(err.msg, "secret"));
    assert_null(strstr(err.msg, "pass"));
    call.url = "ftp://127.0.0.1/x";
    assert_int_equal(http_client_call(&call, &got, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    /* Outside the private networks the proxy is used: this one refuses. The address is for documentation only (RFC 5737). */
    call.url = "http://192.0.2.1/x";
    assert_int_equal(http_client_call(&call, &got, &err), -1);
    assert_non_null(strstr(err.msg, "127.0.0.1 port 9"));
    drop(&got);
}

static void test_sink(void **state) {
    (void)state;
    struct http_answer got;
    struct buf kept;
    buf_init(&kept, 10000);
    struct http_call call = {.sink = keep, .sink_ctx = &kept};
    assert_int_equal(call_path(&call, "/big", 10, &got, NULL), 0);
    assert_int_equal(kept.len_bytes, 8192);
    assert_int_equal(got.body.len_bytes, 0);
    drop(&got);
    buf_clear(&kept);
    assert_int_equal(call_path(&call, "/missing", 10, &got, NULL), 0);
    assert_int_equal(kept.len_bytes, 0);
    assert_string_equal(buf_str(&got.body), "nope");
    drop(&got);
    buf_finish(&kept);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get),      cmocka_unit_test(test_status_is_an_answer), cmocka_unit_test(test_methods_and_bodies),
        cmocka_unit_test(test_redirect), cmocka_unit_test(test_failures),            cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_sink),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
