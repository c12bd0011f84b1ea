/*
 * The driver's side of the ranks: brings the workers of a launch from HELLO to ready, hands them steps and takes
 * results. Knows frames and links, not sequences or requests, and not how the workers were started.
 *
 * exec_driver_start is called by the main thread; afterwards one thread (the engine's) makes all calls.
 */
#ifndef EXEC_DRIVER_H
#define EXEC_DRIVER_H

#include <stdatomic.h>
#include <stdint.h>

#include "exec/settings.h"
#include "exec/step.h"
#include "plan/kv.h"

struct exec_driver;

/* A worker that has joined: borrowed connection and what it said. */
struct exec_worker {
    char name[64], host[64];
    int fd;
    int first_rank, n_ranks;
};

struct exec_driver_opts {
    struct exec_settings settings;        /* hf_overrides borrowed */
    const struct exec_worker *workers;    /* [settings.n_nodes], copied */
    char fingerprint[17];                 /* of the model as the driver sees it; "": not compared (dummy weights) */
    struct plan_kv_limits kv_limits;
    int load_timeout_ms;                  /* deadline of each phase without progress */
    int peer_timeout_ms;                  /* a worker that is silent for so long is lost */
    /* Asked at least once a second while starting: nonzero stops with ERR_CANCELLED, or with *err as the callee set it (a job died). */
    int (*watch)(void *ctx, struct err *err);
    void *watch_ctx;
};

struct exec_driver_info {
    int n_blocks;            /* KV blocks on every rank */
    uint64_t weights_bytes;  /* packed, all ranks together */
    uint64_t kv_bytes;       /* likewise */
    uint64_t read_bytes;     /* of the model's tensors, likewise; 0 when all shards came from the weights cache */
};

/* ASSIGN, fingerprints, PEERS, loading (with a progress bar on stderr), START. Names node and phase of whoever is missing. */
int exec_driver_start(const struct exec_driver_opts *opts, struct exec_driver **ret, struct exec_driver_info *ret_info, struct err *err);

/* Sends a step to all workers. Step numbers must count from 1. */
int exec_driver_submit(struct exec_driver *driver, const struct exec_step *step, struct err *err);
/*
 * Waits for the next result, until timeout_ms or until wake_fd is readable. 1: *ret is set (exec_result_finish it);
 * 0: nothing; -1: a worker failed or fell silent, err names it. Keeps the heartbeat: call it at least every second.
 */
int exec_driver_next(struct exec_driver *driver, int wake_fd, int timeout_ms, struct exec_result *ret, struct err *err);
/* Tells the workers to leave; frees. Does not close their connections. Accepts NULL. */
void exec_driver_stop(struct exec_driver *driver);

#endif
