/* The accepting thread; see acceptor.h. */
#include "http/acceptor.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"

enum {
    RETRY_MS = 50,        /* after an accept that failed for want of descriptors or memory */
    KEEPALIVE_IDLE_S = 30 /* a client whose machine vanished is noticed after this and a few probes */
};

struct http_acceptor {
    int listen_fd, wake_fd, max_connections;
    http_accept_fn accept;
    void *ctx;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the two below */
    pthread_cond_t changed;
    int n_connections;
    bool stopping;
};

/* Waits until one more connection is allowed; false when stopping. Counts it already. */
static bool take_place(struct http_acceptor *acceptor) {
    pthread_mutex_lock(&acceptor->lock);
    while (!acceptor->stopping && acceptor->n_connections >= acceptor->max_connections)
        pthread_cond_wait(&acceptor->changed, &acceptor->lock);
    bool going = !acceptor->stopping;
    acceptor->n_connections += going;
    pthread_mutex_unlock(&acceptor->lock);
    return going;
}

void http_acceptor_release(struct http_acceptor *acceptor) {
    pthread_mutex_lock(&acceptor->lock);
    acceptor->n_connections--;
    pthread_cond_signal(&acceptor->changed);
    pthread_mutex_unlock(&acceptor->lock);
}

/* Fails on unix sockets, which need none of it. */
static void keep_alive(int fd) {
    int on = 1, idle_s = KEEPALIVE_IDLE_S, interval_s = 10, count = 3;
    if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    }
}

static void *acceptor_run(void *arg) {
    struct http_acceptor *acceptor = arg;
    while (take_place(acceptor)) {
        struct pollfd fds[2] = {{.fd = acceptor->listen_fd, .events = POLLIN}, {.fd = acceptor->wake_fd, .events = POLLIN}};
        struct sockaddr_storage address;
        socklen_t address_bytes = sizeof address;
        int fd = -1;
        if (poll(fds, 2, -1) > 0 && fds[0].revents != 0) {
            fd = accept4(acceptor->listen_fd, (struct sockaddr *)&address, &address_bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
                log_warning("a connection has to wait: %s", strerror(errno));
                poll(&fds[1], 1, RETRY_MS);
            }
            if (fd >= 0)
                keep_alive(fd);
        }
        if (fd < 0 || !acceptor->accept(acceptor->ctx, fd, (struct sockaddr *)&address, address_bytes))
            http_acceptor_release(acceptor);
    }
    return NULL;
}

int http_acceptor_start(int listen_fd, int max_connections, http_accept_fn accept, void *ctx, struct http_acceptor **ret, struct err *err) {
    struct http_acceptor *acceptor = calloc(1, sizeof *acceptor);
    if (acceptor == NULL) {
        close(listen_fd);
        return err_set(err, ERR_NOMEM, "no memory for the accepting thread");
    }
    *acceptor = (struct http_acceptor){.listen_fd = listen_fd, .max_connections = max_connections, .accept = accept, .ctx = ctx};
    pthread_mutex_init(&acceptor->lock, NULL);
    pthread_cond_init(&acceptor->changed, NULL);
    acceptor->wake_fd = eventfd(0, EFD_CLOEXEC);
    *ret = acceptor; /* before the thread runs: its first connection may end, and be released, at once */
    int status = acceptor->wake_fd < 0 ? errno : pthread_create(&acceptor->thread, NULL, acceptor_run, acceptor);
    if (status != 0) {
        close(listen_fd);
        acceptor->listen_fd = -1;
        http_acceptor_destroy(acceptor);
        *ret = NULL;
        return err_set(err, ERR_IO, "cannot start the accepting thread: %s", strerror(status));
    }
    return 0;
}

void http_acceptor_stop(struct http_acceptor *acceptor) {
    if (acceptor->listen_fd < 0)
        return;
    pthread_mutex_lock(&acceptor->lock);
    acceptor->stopping = true;
    pthread_cond_signal(&acceptor->changed);
    pthread_mutex_unlock(&acceptor->lock);
    uint64_t one = 1;
    if (write(acceptor->wake_fd, &one, sizeof one) != sizeof one)
        log_warning("could not wake the accepting thread: %s", strerror(errno));
    pthread_join(acceptor->thread, NULL);
    close(acceptor->listen_fd);
    acceptor->listen_fd = -1;
}

void http_acceptor_destroy(struct http_acceptor *acceptor) {
    if (acceptor == NULL)
        return;
    http_acceptor_stop(acceptor);
    if (acceptor->wake_fd >= 0)
        close(acceptor->wake_fd);
    pthread_cond_destroy(&acceptor->changed);
    pthread_mutex_destroy(&acceptor->lock);
    free(acceptor);
}
