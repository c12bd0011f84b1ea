/*
 * One rank of a worker: a thread that loads its shard, then computes steps in the order in which they come. The thread is
 * thread 0 of the rank's team. Reports through the worker's callbacks; knows nothing of the driver's connection.
 */
#ifndef EXEC_RANK_H
#define EXEC_RANK_H

#include <stdatomic.h>

#include "comm/world.h"
#include "exec/loading.h"
#include "exec/queue.h"
#include "exec/settings.h"
#include "model/config.h"
#include "model/model.h"
#include "weights/store.h"

struct exec_rank;

struct exec_rank_opts {
    int rank, local;                      /* in the launch; on this node */
    const struct exec_settings *settings; /* all borrowed, and longer-lived */
    const struct model_config *config;
    const struct weights_store *store;    /* NULL: dummy weights */
    const char *fingerprint;              /* of the store */
    struct comm_world *world;
    struct exec_queue *queue;
    const atomic_int *cancel;
    /* From the rank's thread. */
    void (*loaded)(void *ctx, int local);
    void (*ready)(void *ctx, int local);
    void (*result)(void *ctx, const struct exec_result *result);
    void (*failed)(void *ctx, const struct err *err); /* its last call, if it comes */
    void *ctx;
};

int exec_rank_start(const struct exec_rank_opts *opts, struct exec_rank **ret, struct err *err);
/* How its loading goes. Any thread, at any time. */
struct exec_load_report exec_rank_report(struct exec_rank *rank);
/* After `loaded`, once: the number of KV blocks; the rank allocates them and is ready. */
void exec_rank_give_blocks(struct exec_rank *rank, int n_blocks);
/* Joins the thread (close the queue, set cancel and abort the world before) and frees. Accepts NULL. */
void exec_rank_destroy(struct exec_rank *rank);

#endif
