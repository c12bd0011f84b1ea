/* Lists of measured values; see samples.h. */
#include "bench/samples.h"

#include <math.h>
#include <stdlib.h>

#include "base/sort.h"

enum { FIRST_CAP = 64, MOST_VALUES = 1 << 28 };

int bench_samples_add(struct bench_samples *samples, double value, struct err *err) {
    if (samples->n == samples->cap) {
        int cap = samples->cap > 0 ? samples->cap * 2 : FIRST_CAP;
        if (cap > MOST_VALUES)
            return err_set(err, ERR_LIMIT, "more than %d measured values", (int)MOST_VALUES);
        double *grown = realloc(samples->values, (size_t)cap * sizeof *grown);
        if (grown == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %d measured values", cap);
        samples->values = grown;
        samples->cap = cap;
    }
    samples->values[samples->n++] = value;
    samples->is_sorted = 0;
    return 0;
}

void bench_samples_finish(struct bench_samples *samples) {
    free(samples->values);
    *samples = (struct bench_samples){0};
}

double bench_samples_mean(const struct bench_samples *samples) {
    double sum = 0;
    for (int i = 0; i < samples->n; i++)
        sum += samples->values[i];
    return samples->n > 0 ? sum / samples->n : 0;
}

double bench_samples_deviation(const struct bench_samples *samples) {
    double mean = bench_samples_mean(samples), sum = 0;
    for (int i = 0; i < samples->n; i++)
        sum += (samples->values[i] - mean) * (samples->values[i] - mean);
    return samples->n > 0 ? sqrt(sum / samples->n) : 0;
}

double bench_samples_percentile(struct bench_samples *samples, double percent) {
    if (samples->n == 0)
        return 0;
    if (!samples->is_sorted) {
        sort_doubles(samples->values, (size_t)samples->n);
        samples->is_sorted = 1;
    }
    double place = percent / 100 * (samples->n - 1);
    int below = (int)place;
    int above = below + 1 < samples->n ? below + 1 : below;
    return samples->values[below] + (samples->values[above] - samples->values[below]) * (place - below);
}
