/* Frames over a socket: what is sent arrives, and everything that is no frame ends in an error and no more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/frame.h"
#include "net/sock.h"

enum { SHORT_MS = 100, LONG_MS = 10000 };

static int fds[2];

static int open_pair(void **state) {
    (void)state;
    return socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
}

static int close_pair(void **state) {
    (void)state;
    close(fds[0]);
    close(fds[1]);
    return 0;
}

static void test_round_trip(void **state) {
    (void)state;
    struct err err;
    struct buf body;
    enum net_frame_type type;
    char into[5];
    buf_init(&body, 1 << 20);
    for (int t = NET_FRAME_HELLO; t < NET_FRAME_TYPE_COUNT; t++) {
        size_t len = net_frame_limit(t) < 5 ? net_frame_limit(t) : 5;
        assert_int_equal(net_frame_send(fds[0], t, "hello", len, clock_mono_ms() + LONG_MS, &err), 0);
        assert_int_equal(net_frame_recv(fds[1], &type, &body, clock_mono_ms() + LONG_MS, &err), 0);
        assert_int_equal(type, t);
        assert_int_equal(body.len_bytes, len);
        assert_memory_equal(buf_str(&body), "hello", len);
        assert_string_not_equal(net_frame_name(t), "unknown");
    }
    assert_int_equal(net_frame_send(fds[0], NET_FRAME_LINK, "world", 5, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_frame_recv_into(fds[1], NET_FRAME_LINK, into, 5, clock_mono_ms() + LONG_MS, &err), 0);
    assert_memory_equal(into, "world", 5);
    buf_finish(&body);
}

static void test_header_bytes(void **state) {
    (void)state;
    uint8_t header[NET_FRAME_HEADER_BYTES];
    net_frame_header_encode(NET_FRAME_DATA, 0x01020304 & 0x3fffff, header);
    static const uint8_t expected[12] = {'F', 'S', 'H', 'L', NET_FRAME_DATA, 0, 1, 0, 0x04, 0x03, 0x02, 0x00};
    assert_memory_equal(header, expected, sizeof expected);
}

/* Every bit of a header matters. */
static void test_flipped_bits(void **state) {
    (void)state;
    struct err err;
    enum net_frame_type type;
    size_t len;
    uint8_t header[NET_FRAME_HEADER_BYTES];
    net_frame_header_encode(NET_FRAME_STATUS, 1000, header);
    assert_int_equal(net_frame_header_decode(header, &type, &len, &err), 0);
    for (int bit = 0; bit < 8 * NET_FRAME_HEADER_BYTES; bit++) {
        header[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(net_frame_header_decode(header, &type, &len, &err), -1);
        assert_int_equal(err.code, ERR_PEER);
        header[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void refuse(const void *bytes, size_t len, enum err_code code, const char *word) {
    struct err err;
    struct buf body;
    enum net_frame_type type;
    buf_init(&body, 1 << 20);
    open_pair(NULL);
    net_send_all(fds[0], bytes, len, clock_mono_ms() + LONG_MS, NULL);
    if (code == ERR_PEER)
        shutdown(fds[0], SHUT_WR);
    assert_int_equal(net_frame_recv(fds[1], &type, &body, clock_mono_ms() + SHORT_MS, &err), -1);
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.msg, word));
    close_pair(NULL);
    buf_finish(&body);
}

static void test_refused(void **state) {
    (void)state;
    uint8_t header[NET_FRAME_HEADER_BYTES];
    refuse("GET / HTTP/1.1\r\n\r\n", 18, ERR_PEER, "no frame");
    refuse("", 0, ERR_PEER, "closed");
    refuse("FSHL", 4, ERR_TIMEOUT, "deadline");
    refuse("FSHL", 4, ERR_PEER, "closed");
    net_frame_header_encode(NET_FRAME_TYPE_COUNT, 0, header);
    refuse(header, sizeof header, ERR_PEER, "unknown type");
    net_frame_header_encode(0, 0, header);
    refuse(header, sizeof header, ERR_PEER, "unknown type");
    net_frame_header_encode(NET_FRAME_PING, 1, header);
    refuse(header, sizeof header, ERR_PEER, "at most 0");
    net_frame_header_encode(NET_FRAME_DATA, 0xffffffff, header);
    refuse(header, sizeof header, ERR_PEER, "at most");
    net_frame_header_encode(NET_FRAME_STATUS, 100, header);
    refuse(header, sizeof header, ERR_PEER, "inside a STATUS frame");
    refuse(header, sizeof header, ERR_TIMEOUT, "inside a STATUS frame");
}

/* A body within the type's limit but beyond what this receiver takes. */
static void test_small_buffer(void **state) {
    (void)state;
    struct err err;
    struct buf body;
    enum net_frame_type type;
    buf_init(&body, 4);
    net_frame_send(fds[0], NET_FRAME_STATUS, "12345", 5, clock_mono_ms() + LONG_MS, NULL);
    assert_int_equal(net_frame_recv(fds[1], &type, &body, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    buf_finish(&body);
}

static void test_send_limit(void **state) {
    (void)state;
    struct err err;
    assert_int_equal(net_frame_send(fds[0], NET_FRAME_PING, "x", 1, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_int_equal(net_frame_send(fds[0], NET_FRAME_TYPE_COUNT, "x", 1, clock_mono_ms() + LONG_MS, &err), -1);
}

static void test_recv_into_other(void **state) {
    (void)state;
    struct err err;
    char into[8];
    net_frame_send(fds[0], NET_FRAME_LINK, "12345", 5, clock_mono_ms() + LONG_MS, NULL);
    assert_int_equal(net_frame_recv_into(fds[1], NET_FRAME_LINK, into, 8, clock_mono_ms() + LONG_MS, &err), -1);
    assert_int_equal(err.code, ERR_PEER);
}

/* A reader that is gone, and one that does not read. */
static void test_send_fails(void **state) {
    (void)state;
    struct err err;
    size_t len = 32 << 20;
    char *big = calloc(1, len);
    assert_int_equal(net_frame_send(fds[0], NET_FRAME_STEP, big, len, clock_mono_ms() + SHORT_MS, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    shutdown(fds[1], SHUT_RDWR);
    assert_int_equal(net_frame_send(fds[0], NET_FRAME_STEP, big, len, clock_mono_ms() + SHORT_MS, &err), -1);
    assert_int_equal(err.code, ERR_PEER);
    free(big);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, open_pair, close_pair),
        cmocka_unit_test(test_header_bytes),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_refused),
        cmocka_unit_test_setup_teardown(test_small_buffer, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(test_send_limit, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(test_recv_into_other, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(test_send_fails, open_pair, close_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
