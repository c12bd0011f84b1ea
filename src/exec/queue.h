/*
 * Steps on their way from the worker's main thread to its ranks: every rank sees every step, in order; a step is freed when
 * the last rank is done with it. One producer, n_ranks consumers.
 */
#ifndef EXEC_QUEUE_H
#define EXEC_QUEUE_H

#include "base/buf.h"
#include "base/err.h"
#include "exec/step.h"

enum { EXEC_MAX_IN_FLIGHT = 128 };

struct exec_queue;

int exec_queue_create(int n_ranks, struct exec_queue **ret, struct err *err);
void exec_queue_destroy(struct exec_queue *queue); /* accepts NULL */
/* Takes over *body and *step. ERR_PEER when EXEC_MAX_IN_FLIGHT steps are still queued. Never blocks. */
int exec_queue_push(struct exec_queue *queue, struct buf *body, struct exec_step *step, struct err *err);
/* The next step for this rank, valid until its exec_queue_done; NULL when the queue was closed. Blocks, spinning briefly first. */
const struct exec_step *exec_queue_take(struct exec_queue *queue, int local_rank);
void exec_queue_done(struct exec_queue *queue, int local_rank);
void exec_queue_close(struct exec_queue *queue); /* wakes all; any thread */

#endif
