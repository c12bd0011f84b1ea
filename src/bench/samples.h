/* A growing list of measured values and what is said of it. Not thread-safe. */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#include "base/err.h"

struct bench_samples {
    double *values; /* malloc'd */
    int n, cap;
    int is_sorted;
};

/* A zeroed struct is an empty list. */
int bench_samples_add(struct bench_samples *samples, double value, struct err *err);
void bench_samples_finish(struct bench_samples *samples);

/* All 0 for an empty list. The deviation is that of the whole (divided by n). */
double bench_samples_mean(const struct bench_samples *samples);
double bench_samples_deviation(const struct bench_samples *samples);
/* percent in [0, 100]; between two values by their distance, as numpy's percentile. Sorts the list. */
double bench_samples_percentile(struct bench_samples *samples, double percent);

#endif
