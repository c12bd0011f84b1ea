/* Proof of belonging: both ends agree, and nobody else gets in, whatever he says or does not say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rand.h"
#include "net/auth.h"
#include "net/door.h"
#include "net/sock.h"

enum { SHORT_MS = 150, LONG_MS = 10000 };

struct end {
    int fd, rc;
    struct net_secret secret;
    int timeout_ms;
    struct err err;
};

static void *accept_main(void *arg) {
    struct end *end = arg;
    end->rc = net_auth_accept(end->fd, &end->secret, clock_mono_ms() + end->timeout_ms, &end->err);
    if (end->rc != 0)
        shutdown(end->fd, SHUT_RDWR);
    return NULL;
}

static void make_pair(int fds[2]) { assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0); }

static void close_pair(int fds[2]) {
    close(fds[0]);
    close(fds[1]);
}

static void test_both_hold_it(void **state) {
    (void)state;
    struct end near = {.timeout_ms = LONG_MS}, far;
    int fds[2];
    pthread_t thread;
    make_pair(fds);
    assert_int_equal(net_secret_make(&near.secret, NULL), 0);
    far = near;
    near.fd = fds[0];
    pthread_create(&thread, NULL, accept_main, &near);
    assert_int_equal(net_auth_connect(fds[1], &far.secret, clock_mono_ms() + LONG_MS, &far.err), 0);
    pthread_join(thread, NULL);
    assert_int_equal(near.rc, 0);
    close_pair(fds);
}

static void test_other_secret(void **state) {
    (void)state;
    struct end near = {.timeout_ms = LONG_MS};
    struct net_secret other;
    struct err err;
    int fds[2];
    pthread_t thread;
    make_pair(fds);
    net_secret_make(&near.secret, NULL);
    other = near.secret;
    other.bytes[31] ^= 1;
    near.fd = fds[0];
    pthread_create(&thread, NULL, accept_main, &near);
    assert_int_equal(net_auth_connect(fds[1], &other, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_AUTH);
    pthread_join(thread, NULL);
    assert_int_equal(near.rc, -1);
    assert_int_equal(near.err.code, ERR_AUTH);
    close_pair(fds);
}

/* An acceptor without the secret gets no further than a caller without it. */
static void test_false_acceptor(void **state) {
    (void)state;
    struct net_secret secret = {{1}};
    struct err err;
    int fds[2];
    uint8_t reply[NET_AUTH_HELLO_BYTES + NET_AUTH_PROOF_BYTES] = {0};
    make_pair(fds);
    net_auth_hello_make(reply, NULL);
    assert_int_equal(net_send_all(fds[0], reply, sizeof reply, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_auth_connect(fds[1], &secret, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_AUTH);
    close_pair(fds);
}

/* The caller's own answer, sent back to it as a proof, proves nothing; nor does an answer recorded from an earlier meeting. */
static void test_reflection_and_replay(void **state) {
    (void)state;
    struct net_secret secret = {{7}};
    struct err err;
    uint8_t hello[NET_AUTH_HELLO_BYTES], later[NET_AUTH_HELLO_BYTES], answer[NET_AUTH_ANSWER_BYTES], proof[NET_AUTH_PROOF_BYTES];
    int fds[2];
    pthread_t thread;
    struct end near = {.timeout_ms = LONG_MS, .secret = secret};
    /* Records a true answer to `hello`. */
    make_pair(fds);
    near.fd = fds[0];
    pthread_create(&thread, NULL, accept_main, &near);
    int relay[2];
    make_pair(relay);
    assert_int_equal(net_recv_all(fds[1], hello, sizeof hello, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_send_all(relay[0], hello, sizeof hello, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_auth_connect(relay[1], &secret, clock_mono_ms() + SHORT_MS, &err), -1); /* sends its answer, then nothing comes */
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_int_equal(net_recv_all(relay[0], answer, sizeof answer, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_send_all(fds[1], answer, sizeof answer, clock_mono_ms() + LONG_MS, &err), 0);
    pthread_join(thread, NULL);
    assert_int_equal(near.rc, 0); /* the relayed answer was true for this hello … */
    assert_int_equal(net_auth_hello_make(later, NULL), 0);
    assert_int_equal(net_auth_answer_check(&secret, later, answer, proof, &err), -1); /* … and for no other */
    assert_int_equal(err.code, ERR_AUTH);
    close_pair(fds);
    close_pair(relay);
    /* Reflection: what the caller sent comes back as the proof. */
    make_pair(fds);
    assert_int_equal(net_send_all(fds[0], hello, sizeof hello, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_send_all(fds[0], answer + 40, 32, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_auth_connect(fds[1], &secret, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_AUTH);
    close_pair(fds);
}

static const char http_request[] = "GET /v1/models HTTP/1.1\r\nHost: worker\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n";
static const char tls_hello[] =
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on for quite a while, as such a greeting does, it does indeed";

struct foreign {
    const void *bytes;
    size_t len_bytes;
    enum err_code code; /* with the socket left open */
};

static void test_foreign_peers(void **state) {
    (void)state;
    uint8_t noise[4096], half[40];
    struct err err;
    rand_secret(noise, sizeof noise, NULL);
    net_auth_hello_make(half, NULL);
    const struct foreign foreigns[] = {{http_request, sizeof http_request - 1, ERR_AUTH},
                                       {tls_hello, sizeof tls_hello - 1, ERR_AUTH},
                                       {noise, sizeof noise, ERR_AUTH},
                                       {noise, 1, ERR_TIMEOUT},
                                       {"", 0, ERR_TIMEOUT},
                                       {half, sizeof half, ERR_TIMEOUT}};
    for (size_t i = 0; i < sizeof foreigns / sizeof foreigns[0]; i++) {
        for (int closes = 0; closes < 2; closes++) {
            for (int accepts = 0; accepts < 2; accepts++) {
                struct net_secret secret = {{9}};
                int fds[2];
                make_pair(fds);
                net_send_all(fds[0], foreigns[i].bytes, foreigns[i].len_bytes, clock_mono_ms() + LONG_MS, NULL);
                if (closes)
                    shutdown(fds[0], SHUT_WR);
                int64_t deadline_ms = clock_mono_ms() + SHORT_MS;
                assert_int_equal(accepts ? net_auth_accept(fds[1], &secret, deadline_ms, &err)
                                         : net_auth_connect(fds[1], &secret, deadline_ms, &err),
                                 -1);
                if (foreigns[i].code == ERR_AUTH)
                    assert_int_equal(err.code, ERR_AUTH);
                else if (!closes)
                    assert_int_equal(err.code, ERR_TIMEOUT);
                else
                    assert_true(err.code == ERR_PEER || err.code == ERR_AUTH);
                assert_true(clock_mono_ms() < deadline_ms + 2000);
                close_pair(fds);
            }
        }
    }
}

static void *trickle_main(void *arg) {
    int fd = *(int *)arg;
    uint8_t answer[NET_AUTH_ANSWER_BYTES];
    net_auth_hello_make(answer, NULL);
    for (size_t i = 0; i < sizeof answer; i++) {
        if (send(fd, answer + i, 1, MSG_NOSIGNAL) != 1)
            break;
        usleep(20000);
    }
    return NULL;
}

/* Each byte comes in time, but all of them do not: the deadline is for the whole. */
static void test_trickling(void **state) {
    (void)state;
    struct net_secret secret = {{9}};
    struct err err;
    int fds[2];
    pthread_t thread;
    make_pair(fds);
    pthread_create(&thread, NULL, trickle_main, &fds[0]);
    int64_t start_ms = clock_mono_ms();
    assert_int_equal(net_auth_accept(fds[1], &secret, start_ms + SHORT_MS, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_true(clock_mono_ms() - start_ms < SHORT_MS + 1000);
    shutdown(fds[1], SHUT_RDWR);
    pthread_join(thread, NULL);
    close_pair(fds);
}

static void test_versions(void **state) {
    (void)state;
    uint8_t hello[NET_AUTH_HELLO_BYTES], answer[NET_AUTH_ANSWER_BYTES] = {0}, proof[NET_AUTH_PROOF_BYTES];
    struct net_secret secret = {{9}};
    struct err err;
    net_auth_hello_make(hello, NULL);
    memcpy(answer, hello, 8);
    answer[7]++;
    assert_int_equal(net_auth_answer_check(&secret, hello, answer, proof, &err), -1);
    assert_non_null(strstr(err.msg, "version"));
}

static void test_secret_parse(void **state) {
    (void)state;
    struct net_secret a, b;
    struct err err;
    const char *hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
    assert_int_equal(net_secret_parse(hex, &a, &err), 0);
    assert_int_equal(a.bytes[1], 0x11);
    assert_int_equal(a.bytes[31], 0xff);
    assert_int_equal(net_secret_parse("a phrase of some length", &a, &err), 0);
    assert_int_equal(net_secret_parse("a phrase of some lengtH", &b, &err), 0);
    assert_memory_not_equal(a.bytes, b.bytes, sizeof a.bytes);
    assert_int_equal(net_secret_parse("too short", &a, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
}

/* ---- The door ---- */

static int call(const struct net_addr *addr) {
    struct err err;
    int fd = -1;
    assert_int_equal(net_connect(addr->host, addr->port, clock_mono_ms() + LONG_MS, &fd, &err), 0);
    return fd;
}

static void wait_dropped(const struct net_door *door, uint64_t n) {
    int64_t deadline_ms = clock_mono_ms() + LONG_MS;
    while (net_door_dropped(door) < n && clock_mono_ms() < deadline_ms)
        usleep(1000);
    assert_int_equal(net_door_dropped(door), n);
}

/* Silent, foreign and wrong callers all around; true ones come through at once all the same. */
static void test_door(void **state) {
    (void)state;
    enum { N_SILENT = 20, N_TRUE = 10 };
    struct net_door *door;
    struct net_addr bound, peer;
    struct err err;
    int silent[N_SILENT], fd;
    struct net_door_opts opts = {.listen = {.host = "127.0.0.1"}, .proof_timeout_ms = 3000};
    net_secret_make(&opts.secret, NULL);
    assert_int_equal(net_door_open(&opts, &door, &bound, &err), 0);
    for (int i = 0; i < N_SILENT; i++)
        silent[i] = call(&bound);
    int http = call(&bound);
    net_send_all(http, http_request, sizeof http_request - 1, clock_mono_ms() + LONG_MS, NULL);
    close(call(&bound));
    int64_t start_ms = clock_mono_ms();
    for (int i = 0; i < N_TRUE; i++) {
        char byte = (char)i, got;
        int mine = call(&bound);
        assert_int_equal(net_auth_connect(mine, &opts.secret, clock_mono_ms() + LONG_MS, &err), 0);
        assert_int_equal(net_door_take(door, clock_mono_ms() + LONG_MS, &fd, &peer, &err), 0);
        assert_string_equal(peer.host, "127.0.0.1");
        net_send_all(mine, &byte, 1, clock_mono_ms() + LONG_MS, NULL);
        assert_int_equal(net_recv_all(fd, &got, 1, clock_mono_ms() + LONG_MS, &err), 0);
        assert_int_equal(got, byte);
        close(mine);
        close(fd);
    }
    assert_true(clock_mono_ms() - start_ms < 2500); /* none waited for a silent one's time to pass */
    wait_dropped(door, N_SILENT + 2);
    assert_int_equal(net_door_take(door, clock_mono_ms() + 20, &fd, NULL, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    for (int i = 0; i < N_SILENT; i++)
        close(silent[i]);
    close(http);
    net_door_close(door);
}

/* More unproven callers than there is room for: the oldest go, a true one still comes in. */
static void test_door_crowd(void **state) {
    (void)state;
    struct net_door *door;
    struct net_addr bound;
    struct err err;
    int crowd[50], fd;
    struct net_door_opts opts = {.listen = {.host = "127.0.0.1"}, .max_unproven = 8, .max_ready = 2, .proof_timeout_ms = 60000};
    net_secret_make(&opts.secret, NULL);
    assert_int_equal(net_door_open(&opts, &door, &bound, &err), 0);
    for (int i = 0; i < 50; i++)
        crowd[i] = call(&bound);
    for (int i = 0; i < 50; i++)
        close(crowd[i]);
    wait_dropped(door, 50);
    for (int i = 0; i < 3; i++) {
        int mine = call(&bound);
        assert_int_equal(net_auth_connect(mine, &opts.secret, clock_mono_ms() + LONG_MS, &err), 0);
        assert_int_equal(net_door_take(door, clock_mono_ms() + LONG_MS, &fd, NULL, &err), 0);
        close(mine);
        close(fd);
    }
    /* One proven caller that nobody takes is closed with the door. */
    int left = call(&bound);
    assert_int_equal(net_auth_connect(left, &opts.secret, clock_mono_ms() + LONG_MS, &err), 0);
    net_door_close(door);
    char byte;
    assert_int_equal(net_recv_all(left, &byte, 1, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_PEER);
    close(left);
}

static void *shut_main(void *arg) {
    usleep(100000);
    net_door_shut(arg);
    return NULL;
}

static void test_door_shut(void **state) {
    (void)state;
    struct net_door *door;
    struct net_addr bound;
    struct err err;
    int fd;
    pthread_t thread;
    struct net_door_opts opts = {.listen = {.host = "127.0.0.1"}};
    assert_int_equal(net_door_open(&opts, &door, &bound, &err), 0);
    pthread_create(&thread, NULL, shut_main, door);
    int64_t start_ms = clock_mono_ms();
    assert_int_equal(net_door_take(door, NET_NO_DEADLINE, &fd, NULL, &err), -1);
    assert_int_equal(err.code, ERR_CANCELLED);
    assert_true(clock_mono_ms() - start_ms < 2000);
    pthread_join(thread, NULL);
    net_door_close(door);
    net_door_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_hold_it),   cmocka_unit_test(test_other_secret),
        cmocka_unit_test(test_false_acceptor), cmocka_unit_test(test_reflection_and_replay),
        cmocka_unit_test(test_foreign_peers),  cmocka_unit_test(test_trickling),
        cmocka_unit_test(test_versions),       cmocka_unit_test(test_secret_parse),
        cmocka_unit_test(test_door),           cmocka_unit_test(test_door_crowd),
        cmocka_unit_test(test_door_shut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
