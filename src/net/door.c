/*
 * The listener that proves many callers at once; see door.h. The door's thread owns the unproven callers; the queue of
 * proven ones is shared under a mutex. An eventfd counts the queue for those who wait. Knows nothing of frames.
 */
#include "net/door.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    UNPROVEN_DEFAULT = 128,
    READY_DEFAULT = 1024,
    PROOF_TIMEOUT_DEFAULT_MS = 5000,
    OUT_OF_FILES_PAUSE_MS = 100 /* accept keeps failing while descriptors are out: do not spin on it */
};

/*
 * A caller in the middle of its proof. hello and proof are sent in one go: they fit any fresh socket's buffer, and a
 * caller whose buffer is full has said something foreign or nothing for long.
 */
struct caller {
    int fd;
    int64_t deadline_ms;
    struct net_addr peer;
    size_t got_bytes; /* of answer */
    uint8_t hello[NET_AUTH_HELLO_BYTES];
    uint8_t answer[NET_AUTH_ANSWER_BYTES];
};

struct ready {
    int fd;
    struct net_addr peer;
};

struct net_door {
    int listen_fd;
    int wake_fd;  /* eventfd: shut, or there is room in the queue again */
    int ready_fd; /* eventfd with a semaphore's count: one for each proven caller */
    pthread_t thread;
    struct net_secret secret;
    int max_unproven, max_ready, proof_timeout_ms;
    atomic_bool is_shut;
    atomic_ullong n_dropped;

    /* The door's thread only; ordered by age, the oldest first. */
    struct caller *callers; /* [max_unproven] */
    struct pollfd *polls;   /* [2 + max_unproven] */
    int n_callers;
    int64_t accept_again_ms; /* 0, or no accepting before this time */

    pthread_mutex_t mutex; /* over the ring of proven callers */
    struct ready *ready;   /* [max_ready] */
    int ready_head, n_ready;
};

static void signal_fd(int fd) {
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void forget_caller(struct net_door *door, int at) {
    door->n_callers--;
    memmove(&door->callers[at], &door->callers[at + 1], (size_t)(door->n_callers - at) * sizeof door->callers[0]);
}

static void drop_caller(struct net_door *door, int at) {
    close(door->callers[at].fd);
    forget_caller(door, at);
    atomic_fetch_add(&door->n_dropped, 1);
}

static int ready_room(struct net_door *door) {
    pthread_mutex_lock(&door->mutex);
    int room = door->max_ready - door->n_ready;
    pthread_mutex_unlock(&door->mutex);
    return room;
}

/* Only called with room for all unproven callers: see may_accept. */
static void hand_over(struct net_door *door, int at) {
    struct caller *caller = &door->callers[at];
    pthread_mutex_lock(&door->mutex);
    door->ready[(door->ready_head + door->n_ready) % door->max_ready] = (struct ready){.fd = caller->fd, .peer = caller->peer};
    door->n_ready++;
    pthread_mutex_unlock(&door->mutex);
    forget_caller(door, at);
    signal_fd(door->ready_fd);
}

/* Sends a few bytes that must fit the socket's buffer at once. */
static bool send_whole(int fd, const void *bytes, size_t len_bytes) { return net_send_all(fd, bytes, len_bytes, 0, NULL) == 0; }

static void greet(struct net_door *door, int fd, const struct net_addr *peer) {
    struct caller *caller = &door->callers[door->n_callers];
    *caller = (struct caller){.fd = fd, .deadline_ms = clock_mono_ms() + door->proof_timeout_ms, .peer = *peer};
    door->n_callers++;
    if (net_auth_hello_make(caller->hello, NULL) != 0 || !send_whole(fd, caller->hello, sizeof caller->hello))
        drop_caller(door, door->n_callers - 1);
}

/* Nobody is accepted whom the queue could not take once proven. */
static bool may_accept(struct net_door *door) {
    if (door->accept_again_ms != 0 && clock_mono_ms() < door->accept_again_ms)
        return false;
    door->accept_again_ms = 0;
    return ready_room(door) > door->n_callers;
}

static void accept_all(struct net_door *door) {
    while (may_accept(door)) {
        struct net_addr peer;
        struct err err;
        int fd;
        if (net_accept(door->listen_fd, 0, &fd, &peer, &err) != 0) {
            if (err.code != ERR_TIMEOUT)
                door->accept_again_ms = clock_mono_ms() + OUT_OF_FILES_PAUSE_MS;
            return;
        }
        if (door->n_callers == door->max_unproven)
            drop_caller(door, 0);
        greet(door, fd, &peer);
    }
}

/* Reads what has arrived. Returns false when the caller has left the table, either way. */
static bool advance(struct net_door *door, int at) {
    struct caller *caller = &door->callers[at];
    uint8_t proof[NET_AUTH_PROOF_BYTES];
    ssize_t got = recv(caller->fd, caller->answer + caller->got_bytes, sizeof caller->answer - caller->got_bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return true;
    if (got <= 0)
        goto drop;
    caller->got_bytes += (size_t)got;
    if (net_auth_answer_is_foreign(caller->answer, caller->got_bytes))
        goto drop;
    if (caller->got_bytes < sizeof caller->answer)
        return true;
    if (net_auth_answer_check(&door->secret, caller->hello, caller->answer, proof, NULL) != 0 ||
        !send_whole(caller->fd, proof, sizeof proof))
        goto drop;
    hand_over(door, at);
    return false;
drop:
    drop_caller(door, at);
    return false;
}

/* Milliseconds that poll may sleep: until the oldest caller's time is over or accepting may be tried again. -1: for ever. */
static int sleep_ms(const struct net_door *door) {
    int64_t until_ms = NET_NO_DEADLINE;
    if (door->n_callers > 0)
        until_ms = door->callers[0].deadline_ms;
    if (door->accept_again_ms != 0 && door->accept_again_ms < until_ms)
        until_ms = door->accept_again_ms;
    return until_ms == NET_NO_DEADLINE ? -1 : clock_left_ms(until_ms);
}

static void *door_main(void *arg) {
    struct net_door *door = arg;
    while (!atomic_load(&door->is_shut)) {
        int n_callers = door->n_callers;
        door->polls[0] = (struct pollfd){.fd = door->wake_fd, .events = POLLIN};
        door->polls[1] = (struct pollfd){.fd = may_accept(door) ? door->listen_fd : -1, .events = POLLIN};
        for (int i = 0; i < n_callers; i++)
            door->polls[2 + i] = (struct pollfd){.fd = door->callers[i].fd, .events = POLLIN};
        poll(door->polls, (nfds_t)(2 + n_callers), sleep_ms(door));
        if (door->polls[0].revents != 0) {
            uint64_t count;
            if (read(door->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
                break;
        }
        /* From the newest down, so that one that leaves does not move those still to come. */
        for (int i = n_callers - 1; i >= 0; i--)
            if (door->polls[2 + i].revents != 0)
                advance(door, i);
        while (door->n_callers > 0 && clock_mono_ms() >= door->callers[0].deadline_ms)
            drop_caller(door, 0);
        if (door->polls[1].revents != 0)
            accept_all(door);
    }
    while (door->n_callers > 0)
        drop_caller(door, 0);
    return NULL;
}

int net_door_open(const struct net_door_opts *opts, struct net_door **ret_door, struct net_addr *ret_bound, struct err *err) {
    struct net_addr bound;
    struct net_door *door = calloc(1, sizeof *door);
    if (door == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a listener");
    door->secret = opts->secret;
    door->max_unproven = opts->max_unproven > 0 ? opts->max_unproven : UNPROVEN_DEFAULT;
    door->max_ready = opts->max_ready > 0 ? opts->max_ready : READY_DEFAULT;
    door->proof_timeout_ms = opts->proof_timeout_ms > 0 ? opts->proof_timeout_ms : PROOF_TIMEOUT_DEFAULT_MS;
    door->callers = calloc((size_t)door->max_unproven + 1, sizeof *door->callers);
    door->polls = calloc((size_t)door->max_unproven + 2, sizeof *door->polls);
    door->ready = calloc((size_t)door->max_ready, sizeof *door->ready);
    if (door->callers == NULL || door->polls == NULL || door->ready == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a listener of %d callers", door->max_unproven);
        goto free_door;
    }
    if (net_listen(&opts->listen, &door->listen_fd, &bound, err) != 0)
        goto free_door;
    door->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    door->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (door->wake_fd < 0 || door->ready_fd < 0) {
        err_set(err, ERR_IO, "cannot make an eventfd for a listener: %s", strerror(errno));
        goto close_fds;
    }
    pthread_mutex_init(&door->mutex, NULL);
    int rc = pthread_create(&door->thread, NULL, door_main, door);
    if (rc != 0) {
        err_set(err, ERR_LIMIT, "cannot start a listener's thread: %s", strerror(rc));
        goto destroy_mutex;
    }
    *ret_door = door;
    *ret_bound = bound;
    return 0;
destroy_mutex:
    pthread_mutex_destroy(&door->mutex);
close_fds:
    if (door->wake_fd >= 0)
        close(door->wake_fd);
    if (door->ready_fd >= 0)
        close(door->ready_fd);
    close(door->listen_fd);
free_door:
    free(door->callers);
    free(door->polls);
    free(door->ready);
    free(door);
    return -1;
}

int net_door_take(struct net_door *door, int64_t deadline_ms, int *ret_fd, struct net_addr *ret_peer, struct err *err) {
    for (;;) {
        if (atomic_load(&door->is_shut))
            return err_set(err, ERR_CANCELLED, "the listener was shut");
        struct ready taken = {.fd = -1};
        uint64_t count;
        if (read(door->ready_fd, &count, sizeof count) == (ssize_t)sizeof count) {
            pthread_mutex_lock(&door->mutex);
            if (door->n_ready > 0) {
                taken = door->ready[door->ready_head];
                door->ready_head = (door->ready_head + 1) % door->max_ready;
                door->n_ready--;
            }
            pthread_mutex_unlock(&door->mutex);
        }
        if (taken.fd >= 0) {
            signal_fd(door->wake_fd);
            *ret_fd = taken.fd;
            if (ret_peer != NULL)
                *ret_peer = taken.peer;
            return 0;
        }
        int left_ms = deadline_ms == NET_NO_DEADLINE ? -1 : clock_left_ms(deadline_ms);
        if (left_ms == 0)
            return err_set(err, ERR_TIMEOUT, "nobody who belongs to this launch called before the deadline");
        struct pollfd pfd = {.fd = door->ready_fd, .events = POLLIN};
        poll(&pfd, 1, left_ms);
    }
}

int net_door_fd(const struct net_door *door) { return door->ready_fd; }

uint64_t net_door_dropped(const struct net_door *door) { return atomic_load(&door->n_dropped); }

void net_door_shut(struct net_door *door) {
    if (atomic_exchange(&door->is_shut, true))
        return;
    shutdown(door->listen_fd, SHUT_RDWR);
    signal_fd(door->wake_fd);
    signal_fd(door->ready_fd); /* never taken: it stays readable for everybody who waits */
}

void net_door_close(struct net_door *door) {
    if (door == NULL)
        return;
    net_door_shut(door);
    pthread_join(door->thread, NULL);
    while (door->n_ready > 0) {
        close(door->ready[door->ready_head].fd);
        door->ready_head = (door->ready_head + 1) % door->max_ready;
        door->n_ready--;
    }
    close(door->listen_fd);
    close(door->wake_fd);
    close(door->ready_fd);
    pthread_mutex_destroy(&door->mutex);
    free(door->callers);
    free(door->polls);
    free(door->ready);
    free(door);
}
