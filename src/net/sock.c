/*
 * TCP sockets with deadlines; see sock.h. All sockets are non-blocking underneath: a call tries first and goes into
 * poll() only when it must wait. Any thread, no shared state. Knows nothing about what the bytes mean.
 */
#include "net/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    LISTEN_BACKLOG = 1024,
    CONNECT_TRY_MS = 3000, /* one attempt: a SYN may be lost or the host still be coming up */
    RETRY_FIRST_MS = 20,
    RETRY_LAST_MS = 500,
    /*
     * A connection that is cut without a word is noticed within about six seconds: long enough for a switch to find another way, short
     * enough for those who wait. Keepalive does it while nothing is in flight, net_is_cut otherwise. TCP_USER_TIMEOUT would not do: it
     * also ends a connection whose other end is merely busy and leaves its receive buffer full. Kernels answer for busy processes.
     */
    KEEPALIVE_IDLE_S = 2,
    KEEPALIVE_INTERVAL_S = 1,
    KEEPALIVE_PROBES = 4,
    UNANSWERED_MOST = 4 /* retransmissions in a row, each after twice the time: 0.2 s at first on a near link */
};

static int set_option(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

/* Failures are of no consequence for correctness: an option that the system lacks only makes things slower. */
static void tune(int fd) {
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

/* Waits for events on fd. 0, or -1 with ERR_TIMEOUT. Errors and hang-ups count as ready: the next call sees them. */
static int wait_for(int fd, short events, int64_t deadline_ms, struct err *err) {
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = events};
        int left_ms = deadline_ms == NET_NO_DEADLINE ? -1 : clock_left_ms(deadline_ms);
        int rc = poll(&pfd, 1, left_ms);
        if (rc > 0)
            return 0;
        if (rc < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "poll: %s", strerror(errno));
        if (rc == 0 && deadline_ms != NET_NO_DEADLINE && clock_left_ms(deadline_ms) == 0)
            return err_set(err, ERR_TIMEOUT, "no answer before the deadline");
    }
}

static int addr_from_sockaddr(const struct sockaddr_storage *from, struct net_addr *ret) {
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)from;
        ret->port = ntohs(in4->sin_port);
        return inet_ntop(AF_INET, &in4->sin_addr, ret->host, sizeof ret->host) != NULL ? 0 : -1;
    }
    socklen_t len = sizeof(struct sockaddr_in6);
    ret->port = ntohs(((const struct sockaddr_in6 *)from)->sin6_port);
    return getnameinfo((const struct sockaddr *)from, len, ret->host, sizeof ret->host, NULL, 0, NI_NUMERICHOST);
}

static int resolve(const char *host, uint16_t port, int flags, struct addrinfo **ret_list) {
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
    return getaddrinfo(host, service, &hints, ret_list);
}

int net_listen(const struct net_addr *addr, int *ret_fd, struct net_addr *ret_bound, struct err *err) {
    struct addrinfo *list;
    int rc = resolve(addr->host, addr->port, AI_NUMERICHOST, &list);
    if (rc != 0)
        return err_set(err, ERR_INVALID, "cannot listen on '%s': not a numeric IPv4 or IPv6 address", addr->host);
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        err_set(err, ERR_IO, "cannot open a socket: %s", strerror(errno));
        goto free_list;
    }
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (list->ai_family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    struct sockaddr_storage bound;
    socklen_t bound_len = sizeof bound;
    struct net_addr where;
    if (bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, LISTEN_BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &bound_len) != 0 || addr_from_sockaddr(&bound, &where) != 0) {
        err_set(err, ERR_IO, "cannot listen on %s port %u: %s", addr->host, addr->port, strerror(errno));
        goto close_fd;
    }
    freeaddrinfo(list);
    *ret_fd = fd;
    *ret_bound = where;
    return 0;
close_fd:
    close(fd);
free_list:
    freeaddrinfo(list);
    return -1;
}

int net_accept(int listen_fd, int64_t deadline_ms, int *ret_fd, struct net_addr *ret_peer, struct err *err) {
    for (;;) {
        struct sockaddr_storage from;
        socklen_t from_len = sizeof from;
        int fd = accept4(listen_fd, (struct sockaddr *)&from, &from_len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            struct net_addr peer;
            if (addr_from_sockaddr(&from, &peer) != 0)
                peer = (struct net_addr){.host = "unknown"};
            tune(fd);
            *ret_fd = fd;
            if (ret_peer != NULL)
                *ret_peer = peer;
            return 0;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return err_set(err, ERR_IO, "cannot accept a connection: %s", strerror(errno));
        if (wait_for(listen_fd, POLLIN, deadline_ms, err) != 0)
            return -1;
    }
}

/* A connect to a free local port in the ephemeral range may meet itself; that is nobody's listener. */
static bool is_self_connected(int fd) {
    struct sockaddr_storage near, far;
    socklen_t near_len = sizeof near, far_len = sizeof far;
    memset(&near, 0, sizeof near);
    memset(&far, 0, sizeof far);
    return getsockname(fd, (struct sockaddr *)&near, &near_len) == 0 && getpeername(fd, (struct sockaddr *)&far, &far_len) == 0 &&
           near_len == far_len && memcmp(&near, &far, near_len) == 0;
}

/* One attempt at one address: the socket, or -1 with errno. */
static int connect_once(const struct addrinfo *to, int64_t deadline_ms) {
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int failed = 0;
    socklen_t len = sizeof failed;
    if (connect(fd, to->ai_addr, to->ai_addrlen) != 0) {
        if (errno != EINPROGRESS)
            failed = errno;
        else if (wait_for(fd, POLLOUT, deadline_ms, NULL) != 0)
            failed = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) != 0)
            failed = errno;
    }
    if (failed == 0 && is_self_connected(fd))
        failed = ECONNREFUSED;
    if (failed != 0) {
        close(fd);
        errno = failed;
        return -1;
    }
    tune(fd);
    return fd;
}

static bool may_pass(int error) {
    return error == ECONNREFUSED || error == ECONNRESET || error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH ||
           error == EHOSTDOWN || error == EINTR || error == EAGAIN || error == EADDRNOTAVAIL;
}

int net_connect(const char *host, uint16_t port, int64_t deadline_ms, int *ret_fd, struct err *err) {
    int64_t start_ms = clock_mono_ms();
    int pause_ms = RETRY_FIRST_MS;
    char reason[128];
    for (;;) {
        struct addrinfo *list;
        int rc = resolve(host, port, 0, &list);
        if (rc == 0) {
            int last = ECONNREFUSED;
            for (struct addrinfo *to = list; to != NULL; to = to->ai_next) {
                int64_t try_ms = clock_mono_ms() + CONNECT_TRY_MS;
                int fd = connect_once(to, try_ms < deadline_ms ? try_ms : deadline_ms);
                if (fd >= 0) {
                    freeaddrinfo(list);
                    *ret_fd = fd;
                    return 0;
                }
                last = errno;
            }
            freeaddrinfo(list);
            if (!may_pass(last))
                return err_set(err, ERR_IO, "cannot connect to %s port %u: %s", host, port, strerror(last));
            snprintf(reason, sizeof reason, "%s", strerror(last));
        } else if (rc == EAI_AGAIN) {
            snprintf(reason, sizeof reason, "%s", gai_strerror(rc));
        } else {
            return err_set(err, ERR_NOT_FOUND, "host '%s': %s", host, gai_strerror(rc));
        }
        int left_ms = clock_left_ms(deadline_ms);
        if (left_ms == 0)
            return err_set(err, ERR_TIMEOUT, "cannot connect to %s port %u: %s (tried for %" PRId64 " ms)", host, port, reason,
                           clock_mono_ms() - start_ms);
        int wait_ms = pause_ms < left_ms ? pause_ms : left_ms;
        clock_nap_ms(wait_ms);
        pause_ms = pause_ms * 2 < RETRY_LAST_MS ? pause_ms * 2 : RETRY_LAST_MS;
    }
}

int net_send_all(int fd, const void *bytes, size_t len_bytes, int64_t deadline_ms, struct err *err) {
    struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len_bytes};
    return net_sendv_all(fd, &iov, 1, deadline_ms, err);
}

int net_sendv_all(int fd, struct iovec *iov, int n_iov, int64_t deadline_ms, struct err *err) {
    while (n_iov > 0) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n_iov};
        ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                return err_set(err, ERR_PEER, "the peer is gone while sending: %s", strerror(errno));
            if (wait_for(fd, POLLOUT, deadline_ms, err) != 0)
                return -1;
            continue;
        }
        net_iov_advance(&iov, &n_iov, (size_t)sent);
    }
    return 0;
}

void net_iov_advance(struct iovec **iov, int *n_iov, size_t len_bytes) {
    while (*n_iov > 0 && len_bytes >= (*iov)->iov_len) {
        len_bytes -= (*iov)->iov_len;
        ++*iov;
        --*n_iov;
    }
    if (*n_iov > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + len_bytes;
        (*iov)->iov_len -= len_bytes;
    }
}

int net_recv_all(int fd, void *bytes, size_t len_bytes, int64_t deadline_ms, struct err *err) {
    size_t got_bytes = 0;
    while (got_bytes < len_bytes) {
        ssize_t got = recv(fd, (char *)bytes + got_bytes, len_bytes - got_bytes, MSG_DONTWAIT);
        if (got > 0) {
            got_bytes += (size_t)got;
            continue;
        }
        if (got == 0)
            return err_set(err, ERR_PEER, "the peer closed the connection");
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return err_set(err, ERR_PEER, "the peer is gone: %s", strerror(errno));
        if (wait_for(fd, POLLIN, deadline_ms, err) != 0)
            return -1;
    }
    return 0;
}

bool net_is_cut(int fd) {
    struct tcp_info info;
    socklen_t len = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_unacked > 0 && info.tcpi_retransmits >= UNANSWERED_MOST;
}
