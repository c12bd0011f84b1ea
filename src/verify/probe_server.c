/*
 * The answering end of probes; see probe.h. One thread takes callers from the door and answers datagrams; each caller has a
 * thread, at most MAX_CALLERS at a time, and CALLER_MAX_MS in all. Closing shuts their sockets down and waits for them.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "net/door.h"
#include "verify/probe.h"
#include "verify/probe_wire.h"

enum { MAX_CALLERS = 32, CALLER_MAX_MS = 15000, SINK_CHUNK_BYTES = 1 << 18, DATAGRAM_MAX_BYTES = 65536 };

struct caller {
    pthread_t thread;
    int fd;
    bool is_used;
    atomic_bool is_over;
};

struct probe_server {
    struct net_secret secret;
    struct net_door *door;
    int udp_fd, stop_fd;
    pthread_t thread;
    struct caller callers[MAX_CALLERS]; /* the server's thread, and close after it has ended */
};

void probe_put_le(uint8_t *at, uint64_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

uint64_t probe_get_le(const uint8_t *at, int n_bytes) {
    uint64_t value = 0;
    for (int i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

void probe_datagram_seal(const struct net_secret *secret, uint8_t datagram[PROBE_DATAGRAM_BYTES]) {
    uint8_t mac[HASH_SHA256_BYTES];
    memcpy(datagram, "shoalmtu", 8);
    hash_hmac_sha256(secret->bytes, NET_SECRET_BYTES, datagram, 16, mac);
    memcpy(datagram + 16, mac, 16);
}

static void serve_echo(int fd, size_t len_bytes, int64_t deadline_ms) {
    char *room = malloc(len_bytes);
    while (room != NULL && net_recv_all(fd, room, len_bytes, deadline_ms, NULL) == 0 &&
           net_send_all(fd, room, len_bytes, deadline_ms, NULL) == 0) {
    }
    free(room);
}

static void serve_sink(int fd, int64_t duration_ns, int64_t deadline_ms) {
    char *room = malloc(SINK_CHUNK_BYTES);
    uint8_t result[PROBE_RESULT_BYTES];
    int64_t first_ns = 0, from_ns = 0, last_ns = 0;
    uint64_t n_bytes = 0;
    while (room != NULL && (first_ns == 0 || last_ns - first_ns < duration_ns) && clock_left_ms(deadline_ms) > 0) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        int left_ms = clock_left_ms(deadline_ms);
        if (first_ns != 0 && left_ms > (int)((duration_ns - (last_ns - first_ns)) / 1000000) + 1)
            left_ms = (int)((duration_ns - (last_ns - first_ns)) / 1000000) + 1;
        poll(&readable, 1, left_ms);
        ssize_t got = recv(fd, room, SINK_CHUNK_BYTES, MSG_DONTWAIT);
        last_ns = clock_mono_ns();
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            break;
        if (got < 0)
            continue;
        if (first_ns == 0)
            first_ns = last_ns;
        if (last_ns - first_ns < duration_ns / 4)
            from_ns = last_ns; /* the window still opens */
        else
            n_bytes += (uint64_t)got;
    }
    probe_put_le(result, n_bytes, 8);
    probe_put_le(result + 8, from_ns != 0 && last_ns > from_ns ? (uint64_t)(last_ns - from_ns) : 0, 8);
    net_send_all(fd, result, sizeof result, deadline_ms, NULL);
    shutdown(fd, SHUT_WR);
    /* What is still on the way is taken, so that closing does not reset the connection under the result. */
    while (room != NULL && clock_left_ms(deadline_ms) > 0) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        poll(&readable, 1, clock_left_ms(deadline_ms));
        ssize_t got = recv(fd, room, SINK_CHUNK_BYTES, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            break;
    }
    free(room);
}

static void *caller_main(void *arg) {
    struct caller *caller = arg;
    uint8_t request[PROBE_REQUEST_BYTES];
    int64_t deadline_ms = clock_mono_ms() + CALLER_MAX_MS;
    if (net_recv_all(caller->fd, request, sizeof request, deadline_ms, NULL) == 0) {
        uint64_t kind = probe_get_le(request, 4), argument = probe_get_le(request + 4, 4);
        if (kind == PROBE_ECHO && argument > 0 && argument <= PROBE_ECHO_MAX_BYTES)
            serve_echo(caller->fd, argument, deadline_ms);
        else if (kind == PROBE_SINK && argument > 0 && argument <= PROBE_SINK_MAX_MS)
            serve_sink(caller->fd, (int64_t)argument * 1000000, deadline_ms);
    }
    shutdown(caller->fd, SHUT_RDWR); /* closed by whoever joins: the number may not be used again before */
    atomic_store(&caller->is_over, true);
    return NULL;
}

static void join_caller(struct caller *caller) {
    pthread_join(caller->thread, NULL);
    close(caller->fd);
    caller->is_used = false;
}

static void take_caller(struct probe_server *server) {
    int fd;
    if (net_door_take(server->door, clock_mono_ms(), &fd, NULL, NULL) != 0)
        return;
    for (int i = 0; i < MAX_CALLERS; i++) {
        struct caller *caller = &server->callers[i];
        if (caller->is_used && atomic_load(&caller->is_over))
            join_caller(caller);
        if (caller->is_used)
            continue;
        caller->fd = fd;
        atomic_store(&caller->is_over, false);
        if (pthread_create(&caller->thread, NULL, caller_main, caller) != 0)
            break;
        caller->is_used = true;
        return;
    }
    close(fd);
}

static void answer_datagram(struct probe_server *server) {
    uint8_t datagram[DATAGRAM_MAX_BYTES], sealed[PROBE_DATAGRAM_BYTES], reply[PROBE_REPLY_BYTES];
    struct sockaddr_storage from;
    socklen_t from_len = sizeof from;
    ssize_t got = recvfrom(server->udp_fd, datagram, sizeof datagram, MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
    if (got < PROBE_DATAGRAM_BYTES)
        return;
    memcpy(sealed, datagram, sizeof sealed);
    probe_datagram_seal(&server->secret, sealed);
    if (!hash_equal(sealed, datagram, sizeof sealed))
        return;
    memcpy(reply, sealed, sizeof sealed);
    probe_put_le(reply + PROBE_DATAGRAM_BYTES, (uint64_t)got, 4);
    ssize_t sent = sendto(server->udp_fd, reply, sizeof reply, MSG_DONTWAIT, (struct sockaddr *)&from, from_len);
    (void)sent; /* as good as lost on the way */
}

static void *server_main(void *arg) {
    struct probe_server *server = arg;
    for (;;) {
        struct pollfd fds[3] = {{.fd = server->stop_fd, .events = POLLIN},
                                {.fd = net_door_fd(server->door), .events = POLLIN},
                                {.fd = server->udp_fd, .events = POLLIN}};
        poll(fds, 3, -1);
        if (fds[0].revents != 0)
            return NULL;
        if (fds[1].revents != 0)
            take_caller(server);
        if (fds[2].revents != 0)
            answer_datagram(server);
    }
}

static int open_udp(const char *host, int *ret_fd, uint16_t *ret_port, struct err *err) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST}, *list;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    char port[16];
    if (getaddrinfo(host, "0", &hints, &list) != 0)
        return err_set(err, ERR_INVALID, "'%s' is no numeric address", host);
    int fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd < 0 ? -1 : bind(fd, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    if (rc != 0 || getsockname(fd, (struct sockaddr *)&bound, &len) != 0 ||
        getnameinfo((struct sockaddr *)&bound, len, NULL, 0, port, sizeof port, NI_NUMERICSERV) != 0) {
        err_set(err, ERR_IO, "cannot open a datagram socket on %s: %s", host, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *ret_fd = fd;
    *ret_port = (uint16_t)atoi(port);
    return 0;
}

int probe_server_open(const char *host, const struct net_secret *secret, struct probe_server **ret, struct net_addr *ret_tcp,
                      uint16_t *ret_udp_port, struct err *err) {
    struct net_door_opts door = {.secret = *secret, .max_ready = MAX_CALLERS};
    struct probe_server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a probe server");
    server->secret = *secret;
    server->udp_fd = -1;
    snprintf(door.listen.host, sizeof door.listen.host, "%s", host);
    server->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (server->stop_fd < 0) {
        err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
        goto free_server;
    }
    if (open_udp(host, &server->udp_fd, ret_udp_port, err) != 0 || net_door_open(&door, &server->door, ret_tcp, err) != 0)
        goto close_fds;
    int rc = pthread_create(&server->thread, NULL, server_main, server);
    if (rc != 0) {
        err_set(err, ERR_LIMIT, "cannot start a thread: %s", strerror(rc));
        goto close_door;
    }
    *ret = server;
    return 0;
close_door:
    net_door_close(server->door);
close_fds:
    if (server->udp_fd >= 0)
        close(server->udp_fd);
    close(server->stop_fd);
free_server:
    free(server);
    return -1;
}

void probe_server_close(struct probe_server *server) {
    uint64_t one = 1;
    if (server == NULL)
        return;
    ssize_t written = write(server->stop_fd, &one, sizeof one);
    (void)written; /* an eventfd has room */
    pthread_join(server->thread, NULL);
    for (int i = 0; i < MAX_CALLERS; i++)
        if (server->callers[i].is_used)
            shutdown(server->callers[i].fd, SHUT_RDWR);
    for (int i = 0; i < MAX_CALLERS; i++)
        if (server->callers[i].is_used)
            join_caller(&server->callers[i]);
    net_door_close(server->door);
    close(server->udp_fd);
    close(server->stop_fd);
    free(server);
}
