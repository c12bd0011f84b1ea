/* Steps to the workers and results back, with heartbeats; see driver.h. Starting is in driver_start.c. */
#include "exec/driver.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "exec/driver_state.h"
#include "net/frame.h"

enum { SEND_TIMEOUT_MS = 10000, PING_GAP_MS = 1000 };

int exec_driver_send_all(struct exec_driver *driver, enum net_frame_type type, const void *body, size_t len_bytes, struct err *err) {
    for (int i = 0; i < driver->n_workers; i++)
        if (net_frame_send(driver->workers[i].fd, type, body, len_bytes, clock_mono_ms() + SEND_TIMEOUT_MS, err) != 0)
            return err_wrap(err, "node %d (%s)", i, driver->workers[i].name);
    return 0;
}

int exec_driver_submit(struct exec_driver *driver, const struct exec_step *step, struct err *err) {
    buf_clear(&driver->out);
    if (exec_step_encode(step, &driver->out) != 0)
        return err_set(err, ERR_LIMIT, "a step of %d tokens does not fit a frame of %zu bytes", step->n_tokens, driver->out.limit_bytes);
    return exec_driver_send_all(driver, NET_FRAME_STEP, driver->out.data, driver->out.len_bytes, err);
}

int exec_driver_heartbeat(struct exec_driver *driver, struct err *err) {
    int64_t now_ms = clock_mono_ms();
    if (now_ms - driver->pinged_ms >= PING_GAP_MS) {
        driver->pinged_ms = now_ms;
        if (exec_driver_send_all(driver, NET_FRAME_PING, NULL, 0, err) != 0)
            return -1;
    }
    for (int i = 0; i < driver->n_workers; i++)
        if (now_ms - driver->heard_ms[i] > driver->peer_timeout_ms)
            return err_set(err, ERR_TIMEOUT, "node %d (%s, %s, ranks %d to %d) has been silent for %.1f s", i, driver->workers[i].name,
                           driver->workers[i].host, driver->workers[i].first_rank,
                           driver->workers[i].first_rank + driver->workers[i].n_ranks - 1, (double)(now_ms - driver->heard_ms[i]) / 1000);
    return 0;
}

int exec_driver_recv(struct exec_driver *driver, int i, enum net_frame_type *ret_type, struct err *err) {
    const struct exec_worker *worker = &driver->workers[i];
    if (net_frame_recv(worker->fd, ret_type, &driver->in, clock_mono_ms() + driver->peer_timeout_ms, err) != 0)
        return err_wrap(err, "lost node %d (%s, %s, ranks %d to %d)", i, worker->name, worker->host, worker->first_rank,
                        worker->first_rank + worker->n_ranks - 1);
    driver->heard_ms[i] = clock_mono_ms();
    if (*ret_type == NET_FRAME_FAILURE)
        return err_set(err, ERR_PEER, "node %d (%s): %s", i, worker->name, buf_str(&driver->in));
    return 0;
}

int exec_driver_next(struct exec_driver *driver, int wake_fd, int timeout_ms, struct exec_result *ret, struct err *err) {
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    for (;;) {
        if (exec_driver_heartbeat(driver, err) != 0)
            return -1;
        struct pollfd *fds = driver->poll_fds;
        int n_fds = driver->n_workers;
        fds[n_fds++] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
        int wait_ms = clock_left_ms(deadline_ms);
        int n = poll(fds, (nfds_t)n_fds, wait_ms < PING_GAP_MS ? wait_ms : PING_GAP_MS);
        if (n < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "poll: %s", strerror(errno));
        for (int i = 0; n > 0 && i < driver->n_workers; i++) {
            if (fds[i].revents == 0)
                continue;
            enum net_frame_type type;
            if (exec_driver_recv(driver, i, &type, err) != 0)
                return -1;
            if (type == NET_FRAME_RESULT)
                return exec_result_decode(&driver->in, ret, err) == 0 ? 1 : err_wrap(err, "node %d (%s)", i, driver->workers[i].name);
            if (type != NET_FRAME_PONG && type != NET_FRAME_STATUS)
                return err_set(err, ERR_PEER, "node %d (%s) sent a frame of type %d", i, driver->workers[i].name, (int)type);
        }
        if ((n > 0 && fds[n_fds - 1].revents != 0) || clock_left_ms(deadline_ms) == 0)
            return 0;
    }
}

void exec_driver_stop(struct exec_driver *driver) {
    if (driver == NULL)
        return;
    for (int i = 0; i < driver->n_workers; i++) {
        struct err ignored; /* a worker that is gone needs no word */
        net_frame_send(driver->workers[i].fd, NET_FRAME_STOP, NULL, 0, clock_mono_ms() + PING_GAP_MS, &ignored);
    }
    free(driver->workers);
    free(driver->heard_ms);
    free(driver->poll_fds);
    buf_finish(&driver->in);
    buf_finish(&driver->out);
    free(driver);
}
