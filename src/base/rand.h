/*
 * Random numbers. `rand_ctr_*` is counter-based: the value depends only on (seed, counter), so a sequence's n-th
 * draw is the same whatever else runs beside it. `rand_secret` is for secrets and ids. Any thread.
 */
#ifndef BASE_RAND_H
#define BASE_RAND_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* splitmix64 finaliser over seed and counter (Steele, Lea, Flood 2014). */
uint64_t rand_ctr_u64(uint64_t seed, uint64_t counter);
/* Uniform in [0, 1) with 53 bits. */
double rand_ctr_unit(uint64_t seed, uint64_t counter);
/* Fills bytes from the system's generator. */
int rand_secret(void *bytes, size_t len_bytes, struct err *err);

#endif
