/* Arrival times; see arrivals.h. */
#include "bench/arrivals.h"

#include <math.h>

#include "base/rand.h"

static const uint64_t ARRIVALS_STREAM = 0x61727269u; /* apart from the draws for prompts */

struct draws {
    uint64_t seed, counter;
};

/* In (0, 1): fit for a logarithm. */
static double draw_unit(struct draws *draws) { return rand_ctr_unit(draws->seed, draws->counter++) + 0x1.0p-54; }

/* Box and Muller 1958. */
static double draw_normal(struct draws *draws) {
    double radius = sqrt(-2 * log(draw_unit(draws)));
    return radius * cos(2 * M_PI * draw_unit(draws));
}

/* Marsaglia and Tsang 2000, scale 1; a shape below 1 by their power of one more. */
static double draw_gamma(struct draws *draws, double shape) {
    if (shape < 1)
        return draw_gamma(draws, shape + 1) * pow(draw_unit(draws), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = draw_normal(draws), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(draw_unit(draws)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

void bench_arrivals_fill(double rate_per_s, double burstiness, uint64_t seed, int n, double *times_s) {
    struct draws draws = {.seed = seed ^ ARRIVALS_STREAM << 32};
    double at = 0;
    for (int i = 0; i < n; i++) {
        at += isinf(rate_per_s) ? 0 : draw_gamma(&draws, burstiness);
        times_s[i] = at;
    }
    for (int i = 0; i < n && at > 0; i++)
        times_s[i] *= n / rate_per_s / at;
}
