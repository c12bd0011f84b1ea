/*
 * The pool of KV cache blocks: which are free. Pure bookkeeping over numbers; the memory is the ranks' affair.
 */
#ifndef SCHED_BLOCK_POOL_H
#define SCHED_BLOCK_POOL_H

#include <stdint.h>

#include "base/err.h"

struct sched_blocks;

int sched_blocks_create(int n_blocks, struct sched_blocks **ret, struct err *err);
void sched_blocks_destroy(struct sched_blocks *blocks); /* accepts NULL */
int sched_blocks_total(const struct sched_blocks *blocks);
int sched_blocks_free(const struct sched_blocks *blocks);
/* A free block's number, or -1 when there is none. */
int32_t sched_blocks_take(struct sched_blocks *blocks);
void sched_blocks_give(struct sched_blocks *blocks, int32_t block);

#endif
