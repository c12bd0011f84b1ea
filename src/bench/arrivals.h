/* When requests arrive. Pure functions. */
#ifndef BENCH_ARRIVALS_H
#define BENCH_ARRIVALS_H

#include <stdint.h>

/*
 * Fills times_s[n], ascending: seconds after the start at which each request is sent. rate_per_s INFINITY: all at once. Gaps are drawn from
 * a gamma distribution of shape `burstiness` > 0 (1: a Poisson process; less: in bursts; more: evenly), then stretched so that the last one
 * arrives at n / rate, as in vLLM. Depends on the seed alone.
 */
void bench_arrivals_fill(double rate_per_s, double burstiness, uint64_t seed, int n, double *times_s);

#endif
