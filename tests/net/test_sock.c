/* Sockets with deadlines, and the choice of an interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/iface.h"
#include "net/sock.h"

enum { SHORT_MS = 100, LONG_MS = 10000 };

static void test_connects(void **state) {
    (void)state;
    struct err err;
    struct net_addr bound, peer;
    int listener, near, far, on = 0;
    socklen_t len = sizeof on;
    assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &listener, &bound, &err), 0);
    assert_string_equal(bound.host, "127.0.0.1");
    assert_int_not_equal(bound.port, 0);
    assert_int_equal(net_accept(listener, clock_mono_ms() + 20, &far, &peer, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_int_equal(net_connect("localhost", bound.port, clock_mono_ms() + LONG_MS, &near, &err), 0);
    assert_int_equal(net_accept(listener, clock_mono_ms() + LONG_MS, &far, &peer, &err), 0);
    assert_string_equal(peer.host, "127.0.0.1");
    for (int i = 0; i < 2; i++) {
        /* It would end a connection whose reader is busy for long. */
        assert_int_equal(getsockopt(i == 0 ? near : far, IPPROTO_TCP, TCP_USER_TIMEOUT, &on, &len), 0);
        assert_int_equal(on, 0);
        assert_int_equal(getsockopt(i == 0 ? near : far, IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
        assert_int_not_equal(on, 0);
        assert_true((fcntl(i == 0 ? near : far, F_GETFD) & FD_CLOEXEC) != 0);
    }
    char got[6];
    struct iovec iov[4] = {{"", 0}, {"ab", 2}, {"", 0}, {"cdef", 4}};
    assert_int_equal(net_sendv_all(near, iov, 4, clock_mono_ms() + LONG_MS, &err), 0);
    assert_int_equal(net_recv_all(far, got, sizeof got, clock_mono_ms() + LONG_MS, &err), 0);
    assert_memory_equal(got, "abcdef", 6);
    assert_int_equal(net_recv_all(far, got, 1, clock_mono_ms() + 20, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    close(near);
    assert_int_equal(net_recv_all(far, got, 1, NET_NO_DEADLINE, &err), -1);
    assert_int_equal(err.code, ERR_PEER);
    close(far);
    close(listener);
}

static void test_refused_until_deadline(void **state) {
    (void)state;
    struct err err;
    struct net_addr bound;
    int listener, fd;
    assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &listener, &bound, &err), 0);
    close(listener);
    int64_t start_ms = clock_mono_ms();
    assert_int_equal(net_connect("127.0.0.1", bound.port, start_ms + SHORT_MS, &fd, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "127.0.0.1"));
    assert_in_range(clock_mono_ms() - start_ms, SHORT_MS - 1, SHORT_MS + 2000);
    assert_int_equal(net_connect("no-such-host.invalid", 1, clock_mono_ms() + SHORT_MS, &fd, &err), -1);
    assert_true(err.code == ERR_NOT_FOUND || err.code == ERR_TIMEOUT);
}

struct late {
    struct net_addr addr;
    int listener;
};

static void *listen_late(void *arg) {
    struct late *late = arg;
    struct net_addr bound;
    usleep(SHORT_MS * 1000);
    net_listen(&late->addr, &late->listener, &bound, NULL);
    return NULL;
}

static void test_waits_for_listener(void **state) {
    (void)state;
    struct err err;
    struct late late = {.listener = -1};
    int listener, fd;
    pthread_t thread;
    assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &listener, &late.addr, &err), 0);
    close(listener);
    pthread_create(&thread, NULL, listen_late, &late);
    assert_int_equal(net_connect("127.0.0.1", late.addr.port, clock_mono_ms() + LONG_MS, &fd, &err), 0);
    pthread_join(thread, NULL);
    close(fd);
    close(late.listener);
}

static void test_bad_listen(void **state) {
    (void)state;
    struct err err;
    struct net_addr bound;
    int fd;
    assert_int_equal(net_listen(&(struct net_addr){.host = "not-an-address"}, &fd, &bound, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_int_equal(net_listen(&(struct net_addr){.host = "203.0.113.7"}, &fd, &bound, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.msg, "203.0.113.7"));
}

static void test_iface(void **state) {
    (void)state;
    struct err err;
    struct net_iface list[64], chosen;
    int n = net_iface_list(list, 64, &err), loopback = -1;
    assert_true(n >= 1);
    assert_int_equal(net_iface_list(list, 1, &err), 1);
    n = net_iface_list(list, 64, &err);
    for (int i = 0; i < n; i++)
        if (list[i].is_loopback && strcmp(list[i].host, "127.0.0.1") == 0)
            loopback = i;
    assert_true(loopback >= 0);
    unsetenv("SHOAL_IFNAME");
    unsetenv("GLOO_SOCKET_IFNAME");
    assert_int_equal(net_iface_choose(NULL, NULL, &chosen, &err), 0);
    assert_true(chosen.is_loopback);
    assert_int_equal(net_iface_choose(NULL, "127.0.0.1", &chosen, &err), 0);
    assert_string_equal(chosen.host, "127.0.0.1");
    assert_int_equal(net_iface_choose("127.0.0.1", NULL, &chosen, &err), 0);
    assert_string_equal(chosen.name, list[loopback].name);
    assert_int_equal(net_iface_choose("nosuch0", NULL, &chosen, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_non_null(strstr(err.msg, list[loopback].name));
    /* Order: the option, SHOAL_IFNAME, GLOO_SOCKET_IFNAME. */
    setenv("GLOO_SOCKET_IFNAME", "nosuch1", 1);
    assert_int_equal(net_iface_choose(NULL, NULL, &chosen, &err), -1);
    assert_non_null(strstr(err.msg, "GLOO_SOCKET_IFNAME"));
    setenv("SHOAL_IFNAME", list[loopback].name, 1);
    assert_int_equal(net_iface_choose(NULL, NULL, &chosen, &err), 0);
    assert_string_equal(chosen.name, list[loopback].name);
    setenv("SHOAL_IFNAME", "nosuch2", 1);
    assert_int_equal(net_iface_choose(list[loopback].name, NULL, &chosen, &err), 0);
    unsetenv("SHOAL_IFNAME");
    unsetenv("GLOO_SOCKET_IFNAME");
}

/* A reader that does not read for a while leaves its buffer full: the connection is no worse for it. */
static void test_busy_reader(void **state) {
    (void)state;
    enum { MUCH_BYTES = 64 << 20 };
    struct err err;
    struct net_addr bound;
    int listener, near, far;
    char *much = calloc(1, MUCH_BYTES);
    assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &listener, &bound, &err), 0);
    assert_int_equal(net_connect("127.0.0.1", bound.port, clock_mono_ms() + LONG_MS, &near, &err), 0);
    assert_int_equal(net_accept(listener, clock_mono_ms() + LONG_MS, &far, NULL, &err), 0);
    assert_false(net_is_cut(near));
    assert_int_equal(net_send_all(near, much, MUCH_BYTES, clock_mono_ms() + 2500, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_false(net_is_cut(near));
    assert_int_equal(net_recv_all(far, much, 1 << 20, clock_mono_ms() + LONG_MS, &err), 0);
    free(much);
    close(near);
    close(far);
    close(listener);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_connects),
                                       cmocka_unit_test(test_refused_until_deadline),
                                       cmocka_unit_test(test_waits_for_listener),
                                       cmocka_unit_test(test_bad_listen),
                                       cmocka_unit_test(test_iface),
                                       cmocka_unit_test(test_busy_reader)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
