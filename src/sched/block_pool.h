/*
 * The pool of KV cache blocks: who holds which, and what the full ones contain. Pure bookkeeping over numbers; the memory is the
 * ranks' affair. Owned by the scheduler.
 *
 * A block is FREE (nothing of use in it), HELD (by one or more sequences) or IDLE (held by none, but its content is published and
 * can be found again). Free blocks are handed out first, then idle ones, least recently used first.
 *
 * Published content has an identity that is never used twice, and is found by (identity of the block before it, its tokens), both compared
 * in full: a collision of hashes costs a comparison and cannot give wrong tokens. What stands before the first block is a root: 0, or a salt
 * from sched_blocks_root.
 */
#ifndef SCHED_BLOCK_POOL_H
#define SCHED_BLOCK_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct sched_blocks;

/* publishes: whether content is ever published (block_size tokens are kept for each block then). */
int sched_blocks_create(int n_blocks, int block_size, bool publishes, struct sched_blocks **ret, struct err *err);
void sched_blocks_destroy(struct sched_blocks *blocks); /* accepts NULL */
int sched_blocks_total(const struct sched_blocks *blocks);
/* Blocks that sched_blocks_take can hand out: free and idle ones. */
int sched_blocks_available(const struct sched_blocks *blocks);
bool sched_blocks_is_held(const struct sched_blocks *blocks, int32_t block);

/* A block for one holder, or -1 when all are held. An idle one loses its content. */
int32_t sched_blocks_take(struct sched_blocks *blocks);
/* One more holder of a block that was found. */
void sched_blocks_hold(struct sched_blocks *blocks, int32_t block);
/* One holder less; the last one leaves it idle when its content is published, else free. */
void sched_blocks_give(struct sched_blocks *blocks, int32_t block);

/* The root of a salt: 0 for none, else a value that is no block's identity. */
uint64_t sched_blocks_root(const void *salt, size_t len_bytes);
/* The block with these block_size tokens after `before`; -1 when there is none. *ret_id is its identity. */
int32_t sched_blocks_find(const struct sched_blocks *blocks, uint64_t before, const int32_t *tokens, uint64_t *ret_id);
/*
 * Publishes the content of a held block and returns its identity. When another block has the same content already this one stays
 * private, and the identity is that of the other.
 */
uint64_t sched_blocks_publish(struct sched_blocks *blocks, int32_t block, uint64_t before, const int32_t *tokens);
/* Forgets all content; held blocks become private, idle ones free. */
void sched_blocks_forget(struct sched_blocks *blocks);

#endif
