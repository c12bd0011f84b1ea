/* What driver.c and driver_start.c share. Not for others. */
#ifndef EXEC_DRIVER_STATE_H
#define EXEC_DRIVER_STATE_H

#include <poll.h>

#include "base/buf.h"
#include "exec/driver.h"
#include "net/frame.h"

struct exec_driver {
    int n_workers;
    struct exec_worker *workers;
    int64_t *heard_ms;       /* when each worker was last heard */
    struct pollfd *poll_fds; /* [n_workers + 1] */
    int64_t pinged_ms;
    int peer_timeout_ms;
    struct buf in, out;
};

int exec_driver_send_all(struct exec_driver *driver, enum net_frame_type type, const void *body, size_t len_bytes, struct err *err);
/* Pings every second; ERR_TIMEOUT names a worker that is silent for too long. */
int exec_driver_heartbeat(struct exec_driver *driver, struct err *err);
/* One frame of worker i into driver->in. A FAILURE frame is an error already. */
int exec_driver_recv(struct exec_driver *driver, int i, enum net_frame_type *ret_type, struct err *err);

#endif
