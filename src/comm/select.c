/*
 * Which all-reduce algorithm runs: a function of the shape alone, so that all ranks choose alike. Also the sum that all
 * of them share. Costs stand on top of each algorithm's file.
 */
#include <string.h>

#include "comm/inside.h"

enum {
    DIRECT_PARTS = 4,           /* up to here sending to everybody is cheaper than one hop more */
    RING_FLOATS = 32 << 10,     /* from here bytes count for more than hops (128 KiB) */
    FLAT_READS = 32 << 10,      /* floats that each member may read before a second meeting is cheaper */
    SLICED_FLOATS = 4 << 10,    /* from here the members of a node help their leader */
    SUM_BLOCK_FLOATS = 1 << 10  /* stays in the first-level cache between two additions */
};

comm_allreduce_fn comm_select_between(int n_parts, size_t n) {
    if (n_parts == 2)
        return comm_allreduce_direct;
    if (n >= RING_FLOATS)
        return comm_allreduce_ring;
    return n_parts <= DIRECT_PARTS ? comm_allreduce_direct : comm_allreduce_doubling;
}

size_t comm_select_scratch(int n_parts, size_t piece_floats) {
    size_t direct_floats = piece_floats;
    if (n_parts > 2 && piece_floats > RING_FLOATS)
        direct_floats = RING_FLOATS;
    direct_floats *= (size_t)(n_parts <= DIRECT_PARTS ? n_parts - 1 : 1);
    return direct_floats > piece_floats ? direct_floats : piece_floats;
}

comm_allreduce_fn comm_select_within(int n_members, size_t n) {
    return n <= COMM_FLAT_FLOATS && n * (size_t)n_members <= FLAT_READS ? comm_allreduce_flat : comm_allreduce_sliced;
}

bool comm_select_sliced(int n_seats, size_t n) { return n * (size_t)(n_seats - 1) >= SLICED_FLOATS; }

void comm_sum(float *dst, const float *const *srcs, int n_srcs, size_t n) {
    float sum[SUM_BLOCK_FLOATS];
    for (size_t at = 0; at < n; at += SUM_BLOCK_FLOATS) {
        size_t len = n - at < SUM_BLOCK_FLOATS ? n - at : SUM_BLOCK_FLOATS;
        memcpy(sum, srcs[0] + at, len * sizeof *sum);
        for (int s = 1; s < n_srcs; s++) {
            const float *src = srcs[s] + at;
            for (size_t i = 0; i < len; i++)
                sum[i] += src[i];
        }
        memcpy(dst + at, sum, len * sizeof *sum);
    }
}
