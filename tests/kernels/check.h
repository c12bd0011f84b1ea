/*
 * What the kernel tests share, after checkasm: random numbers from a printed seed, guarded and poisoned outputs, random
 * rows in each file format, and the list of instruction sets that this machine can check.
 */
#ifndef TESTS_KERNELS_CHECK_H
#define TESTS_KERNELS_CHECK_H

#include <stdint.h>

#include "base/dtype.h"
#include "kernels/dispatch.h"

/* Sets the seed from SHOAL_TEST_SEED, or from the clock, and prints it. */
void check_seed(void);
uint64_t check_random(void);
int check_random_int(int low, int high);  /* both included */
float check_random_float(void);           /* uniform in [-1, 1) */
void check_random_floats(float *x, int n); /* of varied magnitude, as activations have */

/* Random rows of a file format, with scales so that weights are about 1. */
void check_random_row(enum dtype dtype, int n_cols, uint8_t *row);

/*
 * n floats, 64-byte aligned + offset_floats, filled with NaN, with guards on both sides. check_guarded_free fails the
 * test when a guard was touched.
 */
float *check_guarded(int n, int offset_floats);
void check_guarded_free(float *x);

/* Levels 0, 1, …: sets the table of kernels and returns its name, or NULL when there is no such level. */
const char *check_level(int level, enum kernels_isa *ret_isa);

#endif
