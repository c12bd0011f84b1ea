/* The measuring end of probes; see probe.h. The caller's thread, and one for each further stream. */
#include "verify/probe.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rand.h"
#include "base/sort.h"
#include "verify/probe_wire.h"

enum {
    CONNECT_TIMEOUT_MS = 1500, /* a lost SYN is sent again after 1 s */
    SMALL_BYTES = 64,
    LARGE_BYTES = 16384,
    MAX_TRIPS = 400,
    STEP_MARGIN_MS = 3000, /* beyond what a step should take: then it hangs */
    SINK_CHUNK_BYTES = 1 << 18,
    FRAME_TRIES = 3,
    FRAME_WAIT_MS = 200,
    FRAME_MAX_BYTES = 65535,
    LEAST_FRAME_BYTES = 576,
    IPV4_UDP_BYTES = 28,
    IPV6_UDP_BYTES = 48
};

static int call(const struct probe_target *target, const struct net_secret *secret, uint32_t kind, uint32_t argument, int *ret_fd,
                double *ret_us, struct err *err) {
    uint8_t request[PROBE_REQUEST_BYTES];
    int64_t start_ns = clock_mono_ns(), deadline_ms = clock_mono_ms() + CONNECT_TIMEOUT_MS;
    int fd;
    if (net_connect(target->tcp.host, target->tcp.port, deadline_ms, &fd, err) != 0)
        return -1;
    if (ret_us != NULL)
        *ret_us = (double)(clock_mono_ns() - start_ns) / 1000;
    probe_put_le(request, kind, 4);
    probe_put_le(request + 4, argument, 4);
    if (net_auth_connect(fd, secret, deadline_ms + STEP_MARGIN_MS, err) != 0 ||
        net_send_all(fd, request, sizeof request, deadline_ms + STEP_MARGIN_MS, err) != 0) {
        close(fd);
        return -1;
    }
    *ret_fd = fd;
    return 0;
}

/* Round trips of len_bytes until n or until the time is over, after a few that are not counted. Halved: one way. */
static int measure_trips(const struct probe_target *target, const struct net_secret *secret, size_t len_bytes, int n, int budget_ms,
                         double *ret_median_us, double *ret_p99_us, double *ret_connect_us, struct err *err) {
    char room[LARGE_BYTES] = {0};
    double trips[MAX_TRIPS];
    int fd, taken = 0, warm = 3, result = -1;
    if (call(target, secret, PROBE_ECHO, (uint32_t)len_bytes, &fd, ret_connect_us, err) != 0)
        return -1;
    int64_t begin_ms = clock_mono_ms(), deadline_ms = begin_ms + budget_ms + STEP_MARGIN_MS;
    while (taken < n && (taken < 5 || clock_mono_ms() - begin_ms < budget_ms)) {
        int64_t start_ns = clock_mono_ns();
        if (net_send_all(fd, room, len_bytes, deadline_ms, err) != 0 || net_recv_all(fd, room, len_bytes, deadline_ms, err) != 0) {
            err_wrap(err, "round trips of %zu bytes: after %d", len_bytes, taken);
            goto close_fd;
        }
        if (warm-- <= 0)
            trips[taken++] = (double)(clock_mono_ns() - start_ns) / 2000;
    }
    sort_doubles(trips, (size_t)taken);
    *ret_median_us = trips[taken / 2];
    *ret_p99_us = trips[taken * 99 / 100];
    result = 0;
close_fd:
    close(fd);
    return result;
}

struct stream {
    const struct probe_target *target;
    const struct net_secret *secret;
    int ms;
    double mbits;
    int result;
    struct err err;
};

/* Sends until the server, which keeps the time, says how much has arrived. */
static void *stream_main(void *arg) {
    struct stream *s = arg;
    uint8_t answer[PROBE_RESULT_BYTES];
    char *chunk = calloc(1, SINK_CHUNK_BYTES);
    uint64_t sent_bytes = 0;
    int fd;
    s->result = -1;
    if (chunk == NULL || call(s->target, s->secret, PROBE_SINK, (uint32_t)s->ms, &fd, NULL, &s->err) != 0) {
        free(chunk);
        return NULL;
    }
    int64_t deadline_ms = clock_mono_ms() + s->ms + STEP_MARGIN_MS;
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN | POLLOUT};
        int n = poll(&ready, 1, clock_left_ms(deadline_ms));
        if (n == 0) {
            err_set(&s->err, ERR_TIMEOUT, "data stopped after %llu bytes: connections are made, but longer messages do not pass",
                    (unsigned long long)sent_bytes);
            break;
        }
        if (n > 0 && (ready.revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
            s->result = net_recv_all(fd, answer, sizeof answer, deadline_ms, &s->err);
            break;
        }
        ssize_t sent = n > 0 ? send(fd, chunk, SINK_CHUNK_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        sent_bytes += sent > 0 ? (uint64_t)sent : 0;
        if (clock_left_ms(deadline_ms) == 0) {
            err_set(&s->err, ERR_TIMEOUT, "no result arrived");
            break;
        }
    }
    if (s->result == 0) {
        uint64_t bytes = probe_get_le(answer, 8), ns = probe_get_le(answer + 8, 8);
        s->mbits = ns > 0 ? (double)bytes * 8000 / (double)ns : 0;
        if (ns == 0)
            s->result =
                err_set(&s->err, ERR_TIMEOUT, "nothing arrived for %d ms after the first bytes: longer messages do not pass", s->ms);
    }
    close(fd);
    free(chunk);
    return NULL;
}

static int measure_bandwidth(const struct probe_target *target, const struct net_secret *secret, int n_streams, int ms, double *ret_mbits,
                             struct err *err) {
    struct stream streams[PROBE_MAX_STREAMS];
    pthread_t threads[PROBE_MAX_STREAMS];
    bool has_thread[PROBE_MAX_STREAMS] = {false};
    for (int i = 0; i < n_streams; i++)
        streams[i] = (struct stream){.target = target, .secret = secret, .ms = ms};
    for (int i = 1; i < n_streams; i++)
        has_thread[i] = pthread_create(&threads[i], NULL, stream_main, &streams[i]) == 0;
    for (int i = 0; i < n_streams; i++)
        if (!has_thread[i])
            stream_main(&streams[i]);
    double sum = 0;
    int result = 0;
    for (int i = 0; i < n_streams; i++) {
        if (has_thread[i])
            pthread_join(threads[i], NULL);
        if (streams[i].result != 0 && result == 0)
            result = err_copy(err, &streams[i].err);
        sum += streams[i].mbits;
    }
    if (result != 0)
        return err_wrap(err, "bandwidth of %d stream(s)", n_streams);
    *ret_mbits = sum;
    return 0;
}

static bool is_v6(const char *host) { return strchr(host, ':') != NULL; }

/* A datagram socket to the target that never fragments and does not believe what it has learned of the way. */
static int open_datagrams(const struct probe_target *target) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST}, *list;
    char port[16];
    snprintf(port, sizeof port, "%u", target->udp_port);
    if (getaddrinfo(target->tcp.host, port, &hints, &list) != 0)
        return -1;
    int fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool v6 = list->ai_family == AF_INET6;
    int probe = v6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
    if (fd >= 0 && (setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &probe, sizeof probe) != 0 ||
                    connect(fd, list->ai_addr, list->ai_addrlen) != 0)) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

/* Whether a frame of this size comes to the target, which says so. */
static bool frame_passes(int fd, const struct probe_target *target, const struct net_secret *secret, int frame_bytes, int tries) {
    uint8_t datagram[FRAME_MAX_BYTES] = {0}, reply[PROBE_REPLY_BYTES];
    int len_bytes = frame_bytes - (is_v6(target->tcp.host) ? IPV6_UDP_BYTES : IPV4_UDP_BYTES);
    if (len_bytes < PROBE_DATAGRAM_BYTES || rand_secret(datagram + 8, 8, NULL) != 0)
        return false;
    probe_datagram_seal(secret, datagram);
    for (int i = 0; i < tries; i++) {
        int64_t deadline_ms = clock_mono_ms() + FRAME_WAIT_MS;
        if (send(fd, datagram, (size_t)len_bytes, MSG_DONTWAIT) < 0 && errno == EMSGSIZE)
            return false;
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        while (poll(&readable, 1, clock_left_ms(deadline_ms)) > 0) {
            ssize_t got = recv(fd, reply, sizeof reply, MSG_DONTWAIT);
            if (got == (ssize_t)sizeof reply && memcmp(reply, datagram, PROBE_DATAGRAM_BYTES) == 0 &&
                probe_get_le(reply + PROBE_DATAGRAM_BYTES, 4) == (uint64_t)len_bytes)
                return true;
            if (got < 0 && errno != EAGAIN)
                break; /* refused: nobody listens there */
        }
    }
    return false;
}

static void measure_frames(const struct probe_target *target, const struct net_secret *secret, struct probe_result *ret) {
    static const int sizes[] = {9000, 8000, 4000, 1500, 1492, 1472, 1450, 1400, 1300, 1280, 1000, LEAST_FRAME_BYTES};
    int fd = target->mtu > 0 ? open_datagrams(target) : -1;
    if (fd < 0)
        return;
    ret->frame_tried = target->mtu < FRAME_MAX_BYTES ? target->mtu : FRAME_MAX_BYTES;
    if (frame_passes(fd, target, secret, ret->frame_tried, FRAME_TRIES))
        ret->frame_passed = ret->frame_tried;
    else if (!frame_passes(fd, target, secret, LEAST_FRAME_BYTES, FRAME_TRIES)) /* no datagram at all: it is not the size */
        goto close_fd;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && ret->frame_passed == 0; i++)
        if (sizes[i] < ret->frame_tried && frame_passes(fd, target, secret, sizes[i], 1))
            ret->frame_passed = sizes[i];
close_fd:
    close(fd);
}

int probe_run(const struct probe_target *target, const struct net_secret *secret, struct probe_result *ret, struct err *err) {
    struct probe_result result = {0};
    bool is_quick = target->is_quick;
    *ret = result;
    /* Frames first: what fails later may fail because of them. */
    if (measure_trips(target, secret, SMALL_BYTES, is_quick ? 50 : MAX_TRIPS, is_quick ? 60 : 400, &result.small_us, &result.small_p99_us,
                      &result.connect_us, err) != 0)
        return -1;
    measure_frames(target, secret, &result);
    *ret = result; /* the rest is told even when what follows fails */
    if (measure_trips(target, secret, LARGE_BYTES, is_quick ? 20 : MAX_TRIPS / 2, is_quick ? 60 : 400, &result.large_us,
                      &result.large_p99_us, NULL, err) != 0 ||
        measure_bandwidth(target, secret, 1, is_quick ? 120 : 400, &result.mbits_1, err) != 0 ||
        (!is_quick && measure_bandwidth(target, secret, PROBE_MAX_STREAMS, 400, &result.mbits_n, err) != 0))
        return -1;
    *ret = result;
    return 0;
}
