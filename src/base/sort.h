/* Sorting of numbers that are measured. Any thread. */
#ifndef BASE_SORT_H
#define BASE_SORT_H

#include <stddef.h>

/* In place, least first. */
void sort_doubles(double *values, size_t n);

#endif
