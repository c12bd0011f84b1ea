/*
 * Calling for weights while others are multiplied: a pass over one part of a matrix calls for its share of the part that
 * comes next, a little with each step, so that the next pass does not wait for memory. Private to src/kernels/x86.
 *
 * Where memory takes the time, lines are best called into L2, which can wait for more of them at once than L1 can; where
 * arithmetic does, into L1. Who chose has measured.
 */
#ifndef KERNELS_X86_AHEAD_H
#define KERNELS_X86_AHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/x86/intrin.h"

struct ahead {
    const uint8_t *at;
    size_t step_bytes; /* 0: nothing */
};

/* With every step of a pass. */
KERNELS_INLINE void ahead_prefetch(struct ahead *ahead, bool into_l1)
{
    for (size_t i = 0; i < ahead->step_bytes; i += 64) {
        if (into_l1)
            _mm_prefetch((const char *)ahead->at + i, _MM_HINT_T0);
        else
            _mm_prefetch((const char *)ahead->at + i, _MM_HINT_T1);
    }
    ahead->at += ahead->step_bytes;
}

#endif
