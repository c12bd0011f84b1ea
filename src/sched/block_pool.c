/*
 * Blocks with holders, an index of published content and a list of idle ones; see block_pool.h. Lowest numbers first, so that a quiet
 * server touches little memory.
 */
#include "sched/block_pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { NONE = -1 };
#define SALTED (UINT64_C(1) << 63) /* identities count from 1 and never get there */

struct block {
    int n_holders;
    uint64_t id;     /* of its published content; 0: private */
    uint64_t before; /* identity or root in front of it */
    int32_t next_in_bucket;
    int32_t older, newer; /* while idle */
};

struct sched_blocks {
    int n_total, n_free, n_idle, block_size;
    struct block *blocks; /* [n_total] */
    int32_t *free;        /* [n_total], a stack: the free ones at [0, n_free), the next to hand out last */
    int32_t oldest, newest; /* of the idle ones */
    uint64_t next_id;
    /* The index; NULL when nothing is ever published. */
    int32_t *tokens;  /* [n_total, block_size], of published blocks */
    int32_t *buckets; /* [n_buckets], first block of each */
    size_t n_buckets; /* a power of two */
};

int sched_blocks_create(int n_blocks, int block_size, bool publishes, struct sched_blocks **ret, struct err *err) {
    struct sched_blocks *blocks = calloc(1, sizeof *blocks);
    if (blocks == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a table of KV blocks");
    blocks->n_total = blocks->n_free = n_blocks;
    blocks->block_size = block_size;
    blocks->oldest = blocks->newest = NONE;
    blocks->next_id = 1;
    for (blocks->n_buckets = 1; blocks->n_buckets < (size_t)n_blocks; blocks->n_buckets *= 2)
        ;
    blocks->blocks = calloc((size_t)n_blocks, sizeof *blocks->blocks);
    blocks->free = malloc((size_t)n_blocks * sizeof *blocks->free);
    bool has_memory = blocks->blocks != NULL && blocks->free != NULL;
    if (publishes) {
        blocks->tokens = malloc((size_t)n_blocks * (size_t)block_size * sizeof *blocks->tokens);
        blocks->buckets = malloc(blocks->n_buckets * sizeof *blocks->buckets);
        has_memory = has_memory && blocks->tokens != NULL && blocks->buckets != NULL;
    }
    if (!has_memory) {
        sched_blocks_destroy(blocks);
        return err_set(err, ERR_NOMEM, "no memory for a table of %d KV blocks", n_blocks);
    }
    for (int i = 0; i < n_blocks; i++)
        blocks->free[i] = n_blocks - 1 - i;
    for (size_t i = 0; publishes && i < blocks->n_buckets; i++)
        blocks->buckets[i] = NONE;
    *ret = blocks;
    return 0;
}

void sched_blocks_destroy(struct sched_blocks *blocks) {
    if (blocks == NULL)
        return;
    free(blocks->blocks);
    free(blocks->free);
    free(blocks->tokens);
    free(blocks->buckets);
    free(blocks);
}

int sched_blocks_total(const struct sched_blocks *blocks) { return blocks->n_total; }

int sched_blocks_available(const struct sched_blocks *blocks) { return blocks->n_free + blocks->n_idle; }

bool sched_blocks_is_held(const struct sched_blocks *blocks, int32_t block) { return blocks->blocks[block].n_holders > 0; }

static void idle_append(struct sched_blocks *blocks, int32_t block) {
    blocks->blocks[block].older = blocks->newest;
    blocks->blocks[block].newer = NONE;
    *(blocks->newest == NONE ? &blocks->oldest : &blocks->blocks[blocks->newest].newer) = block;
    blocks->newest = block;
    blocks->n_idle++;
}

static void idle_remove(struct sched_blocks *blocks, int32_t block) {
    const struct block *b = &blocks->blocks[block];
    *(b->older == NONE ? &blocks->oldest : &blocks->blocks[b->older].newer) = b->newer;
    *(b->newer == NONE ? &blocks->newest : &blocks->blocks[b->newer].older) = b->older;
    blocks->n_idle--;
}

static int32_t *tokens_of(const struct sched_blocks *blocks, int32_t block) {
    return blocks->tokens + (size_t)block * (size_t)blocks->block_size;
}

static int32_t *bucket_of(const struct sched_blocks *blocks, uint64_t before, const int32_t *tokens) {
    uint64_t hash = hash_xxh64(tokens, (size_t)blocks->block_size * sizeof *tokens, before);
    return &blocks->buckets[hash & (blocks->n_buckets - 1)];
}

/* Makes published content private again. */
static void unpublish(struct sched_blocks *blocks, int32_t block) {
    struct block *b = &blocks->blocks[block];
    int32_t *link = bucket_of(blocks, b->before, tokens_of(blocks, block));
    while (*link != block)
        link = &blocks->blocks[*link].next_in_bucket;
    *link = b->next_in_bucket;
    b->id = 0;
}

int32_t sched_blocks_take(struct sched_blocks *blocks) {
    int32_t block = blocks->oldest;
    if (blocks->n_free > 0) {
        block = blocks->free[--blocks->n_free];
    } else if (block != NONE) {
        idle_remove(blocks, block);
        unpublish(blocks, block);
    } else {
        return NONE;
    }
    blocks->blocks[block].n_holders = 1;
    return block;
}

void sched_blocks_hold(struct sched_blocks *blocks, int32_t block) {
    struct block *b = &blocks->blocks[block];
    assert(b->id != 0);
    if (b->n_holders++ == 0)
        idle_remove(blocks, block);
}

void sched_blocks_give(struct sched_blocks *blocks, int32_t block) {
    assert(block >= 0 && block < blocks->n_total && blocks->blocks[block].n_holders > 0);
    if (--blocks->blocks[block].n_holders > 0)
        return;
    if (blocks->blocks[block].id != 0)
        idle_append(blocks, block);
    else
        blocks->free[blocks->n_free++] = block;
}

uint64_t sched_blocks_root(const void *salt, size_t len_bytes) {
    static const char key[] = "cache_salt";
    uint8_t mac[HASH_SHA256_BYTES];
    uint64_t root;
    if (len_bytes == 0)
        return 0;
    /* Salts keep tenants apart: whoever knows one must not be able to find another with the same root. */
    hash_hmac_sha256(key, sizeof key, salt, len_bytes, mac);
    memcpy(&root, mac, sizeof root);
    return root | SALTED;
}

int32_t sched_blocks_find(const struct sched_blocks *blocks, uint64_t before, const int32_t *tokens, uint64_t *ret_id) {
    if (blocks->buckets == NULL)
        return NONE;
    int32_t block = *bucket_of(blocks, before, tokens);
    while (block != NONE && (blocks->blocks[block].before != before ||
                             memcmp(tokens_of(blocks, block), tokens, (size_t)blocks->block_size * sizeof *tokens) != 0))
        block = blocks->blocks[block].next_in_bucket;
    if (block != NONE)
        *ret_id = blocks->blocks[block].id;
    return block;
}

uint64_t sched_blocks_publish(struct sched_blocks *blocks, int32_t block, uint64_t before, const int32_t *tokens) {
    struct block *b = &blocks->blocks[block];
    uint64_t id;
    assert(blocks->buckets != NULL && b->n_holders > 0 && b->id == 0);
    if (sched_blocks_find(blocks, before, tokens, &id) != NONE)
        return id;
    int32_t *bucket = bucket_of(blocks, before, tokens);
    memcpy(tokens_of(blocks, block), tokens, (size_t)blocks->block_size * sizeof *tokens);
    b->before = before;
    b->next_in_bucket = *bucket;
    *bucket = block;
    return b->id = blocks->next_id++;
}

void sched_blocks_forget(struct sched_blocks *blocks) {
    for (int32_t i = 0; i < blocks->n_total; i++) {
        if (blocks->blocks[i].id == 0)
            continue;
        unpublish(blocks, i);
        if (blocks->blocks[i].n_holders == 0) {
            idle_remove(blocks, i);
            blocks->free[blocks->n_free++] = i;
        }
    }
}
