/* A stack of free block numbers; see block_pool.h. Lowest numbers first, so that a quiet server touches little memory. */
#include "sched/block_pool.h"

#include <assert.h>
#include <stdlib.h>

struct sched_blocks {
    int n_total, n_free;
    int32_t *stack;    /* [n_total], the free ones at [0, n_free), the next to hand out last */
    uint8_t *is_taken; /* [n_total] */
};

int sched_blocks_create(int n_blocks, struct sched_blocks **ret, struct err *err) {
    struct sched_blocks *blocks = calloc(1, sizeof *blocks);
    if (blocks != NULL) {
        blocks->stack = malloc((size_t)n_blocks * sizeof *blocks->stack);
        blocks->is_taken = calloc((size_t)n_blocks, 1);
    }
    if (blocks == NULL || blocks->stack == NULL || blocks->is_taken == NULL) {
        sched_blocks_destroy(blocks);
        return err_set(err, ERR_NOMEM, "no memory for a table of %d KV blocks", n_blocks);
    }
    blocks->n_total = blocks->n_free = n_blocks;
    for (int i = 0; i < n_blocks; i++)
        blocks->stack[i] = n_blocks - 1 - i;
    *ret = blocks;
    return 0;
}

void sched_blocks_destroy(struct sched_blocks *blocks) {
    if (blocks == NULL)
        return;
    free(blocks->stack);
    free(blocks->is_taken);
    free(blocks);
}

int sched_blocks_total(const struct sched_blocks *blocks) { return blocks->n_total; }

int sched_blocks_free(const struct sched_blocks *blocks) { return blocks->n_free; }

int32_t sched_blocks_take(struct sched_blocks *blocks) {
    if (blocks->n_free == 0)
        return -1;
    int32_t block = blocks->stack[--blocks->n_free];
    blocks->is_taken[block] = 1;
    return block;
}

void sched_blocks_give(struct sched_blocks *blocks, int32_t block) {
    assert(block >= 0 && block < blocks->n_total && blocks->is_taken[block]);
    blocks->is_taken[block] = 0;
    blocks->stack[blocks->n_free++] = block;
}
