/*
 * The rank side: one process per node that runs its ranks. The main thread reads the driver's frames; a boot thread takes
 * the node through the phases; then each rank has a thread of its own, which is thread 0 of the rank's team.
 */
#ifndef EXEC_WORKER_H
#define EXEC_WORKER_H

#include "base/err.h"
#include "net/auth.h"

struct exec_worker_opts {
    int fd;               /* authenticated connection to the driver, borrowed */
    const char *listen_host; /* numeric address for links between ranks */
    struct net_secret secret;
    int driver_timeout_ms; /* leave when the driver is silent for so long */
};

/* Serves until the driver says STOP (0) or something fails (-1: what and where; the driver has been told). */
int exec_worker_run(const struct exec_worker_opts *opts, struct err *err);

#endif
