/*
 * Random numbers. `rand_ctr_*` is counter-based: the value depends only on (seed, counter), so a sequence's n-th
 * draw is the same whatever else runs beside it. `rand_secret` is for secrets and ids. Any thread.
 */
#ifndef BASE_RAND_H
#define BASE_RAND_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection whose every output bit depends on every input bit. */
static inline uint64_t rand_mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* rand_mix64 over seed and counter. */
uint64_t rand_ctr_u64(uint64_t seed, uint64_t counter);
/* Uniform in [0, 1) with 53 bits. */
double rand_ctr_unit(uint64_t seed, uint64_t counter);
/* Fills bytes from the system's generator. */
int rand_secret(void *bytes, size_t len_bytes, struct err *err);

#endif
