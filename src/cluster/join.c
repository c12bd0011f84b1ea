/*
 * Worker side of joining; see cluster.h. The worker's main thread. A driver that closes, or that says nothing for
 * SILENCE_MS, is gone: the worker then leaves, whoever started it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/cluster.h"
#include "cluster/hello.h"
#include "net/frame.h"
#include "net/sock.h"

enum {
    PLACED_TIMEOUT_MS = 1500 /* a lost SYN is sent again after 1 s */,
    PATIENCE_MS = 1000 /* then say whom it waits for */,
    PROOF_TIMEOUT_MS = 10000,
    SEND_TIMEOUT_MS = 5000,
    SILENCE_MS = 10000
};

static int connect_driver(const struct cluster_join_opts *opts, int *ret_fd, struct err *err) {
    int timeout_ms = opts->timeout_ms > 0 ? opts->timeout_ms : PLACED_TIMEOUT_MS;
    int64_t start_ms = clock_mono_ms(), deadline_ms = start_ms + timeout_ms;
    int64_t patient_ms = start_ms + (timeout_ms < PATIENCE_MS ? timeout_ms : PATIENCE_MS);
    if (net_connect(opts->driver_host, opts->driver_port, patient_ms, ret_fd, err) == 0)
        return 0;
    if (err->code == ERR_TIMEOUT && clock_left_ms(deadline_ms) > 0) {
        log_info("Node %d waits for the driver at %s:%u, for at most %d s", opts->slot, opts->driver_host, opts->driver_port,
                 timeout_ms / 1000);
        if (net_connect(opts->driver_host, opts->driver_port, deadline_ms, ret_fd, err) == 0)
            return 0;
    }
    return err_wrap(err, "node %d cannot reach its driver", opts->slot);
}

static int say_hello(int fd, const struct cluster_join_opts *opts, const struct net_iface *iface, struct err *err) {
    struct cluster_hello hello;
    cluster_hello_fill(&hello, opts->build, opts->slot, iface->host);
    char *text = cluster_hello_encode(&hello);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a HELLO");
    int result = net_frame_send(fd, NET_FRAME_HELLO, text, strlen(text), clock_mono_ms() + SEND_TIMEOUT_MS, err);
    free(text);
    return result;
}

/* Until the driver says HELLO (0) or anything goes wrong. */
static int await_all(int fd, struct err *err) {
    struct buf body;
    buf_init(&body, net_frame_limit(NET_FRAME_HELLO));
    int result = -1;
    for (;;) {
        enum net_frame_type type;
        if (net_frame_recv(fd, &type, &body, clock_mono_ms() + SILENCE_MS, err) != 0) {
            err_wrap(err, "the driver was lost while all nodes joined");
            break;
        }
        if (type == NET_FRAME_HELLO) {
            result = 0;
            break;
        }
        if (type == NET_FRAME_REFUSE) {
            err_set(err, ERR_PEER, "the driver refuses: %s", buf_str(&body));
            break;
        }
        if (type == NET_FRAME_STOP) {
            err_set(err, ERR_CANCELLED, "the driver stopped while all nodes joined");
            break;
        }
        if (type != NET_FRAME_PING) {
            err_set(err, ERR_PEER, "the driver sent %s while all nodes joined", net_frame_name(type));
            break;
        }
        if (net_frame_send(fd, NET_FRAME_PONG, NULL, 0, clock_mono_ms() + SEND_TIMEOUT_MS, err) != 0) {
            err_wrap(err, "the driver was lost while all nodes joined");
            break;
        }
    }
    buf_finish(&body);
    return result;
}

int cluster_join(const struct cluster_join_opts *opts, int *ret_fd, struct net_iface *ret_iface, struct err *err) {
    struct err local;
    struct net_iface iface;
    int fd;
    err = err == NULL ? &local : err;
    if (net_iface_choose(opts->interface, opts->driver_host, &iface, err) != 0 || connect_driver(opts, &fd, err) != 0)
        return -1;
    if (net_auth_connect(fd, &opts->secret, clock_mono_ms() + PROOF_TIMEOUT_MS, err) != 0) {
        err_wrap(err, "the driver at %s:%u", opts->driver_host, opts->driver_port);
        goto close_fd;
    }
    if (say_hello(fd, opts, &iface, err) != 0 || await_all(fd, err) != 0)
        goto close_fd;
    *ret_fd = fd;
    *ret_iface = iface;
    return 0;

close_fd:
    close(fd);
    return -1;
}
