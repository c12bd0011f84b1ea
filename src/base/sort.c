/* The order of doubles; see sort.h. Knows nothing of what they measure. */
#include "base/sort.h"

#include <stdlib.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void sort_doubles(double *values, size_t n) { qsort(values, n, sizeof *values, compare); }
