/*
 * Which all-reduce algorithm runs: a function of the shape alone, so that all ranks choose alike. Also the sum that all
 * of them share. Costs stand on top of each algorithm's file.
 */
#include <string.h>

#include "comm/inside.h"

/*
 * Between nodes, with c the work for one message (about 8 us), L a latency, B the bandwidth of a link and P parts, n bytes cost
 *   direct    (P - 1) · (c + n / B) + L
 *   doubling  log2 P · (c + n / B + L)
 *   ring      2 · (P - 1) · (c + n / (P · B) + L)
 * The limits below are where these lines cross for L · B = 64 KB (1 Gbit/s with 0.5 ms, 25 Gbit/s with 20 us). What is chosen
 * near a crossing matters little.
 */
enum {
    FEW_PARTS = 4,
    SOME_PARTS = 8,
    FEW_RING_FLOATS = 64 << 10,   /* from here bytes count for more than hops: few parts */
    RING_FLOATS = 128 << 10,      /* … and more parts */
    SOME_DIRECT_FLOATS = 8 << 10, /* up to here some parts still send to everybody at once */
    FLAT_READS = 32 << 10,        /* floats that each member of a node may read before a second meeting is cheaper */
    SLICED_FLOATS = 4 << 10,      /* from here the members of a node help their leader */
    SUM_BLOCK_FLOATS = 1 << 10    /* stays in the first-level cache between two additions */
};

comm_allreduce_fn comm_select_between(int n_parts, size_t n) {
    if (n_parts == 2)
        return comm_allreduce_direct;
    if (n_parts <= FEW_PARTS)
        return n < FEW_RING_FLOATS ? comm_allreduce_direct : comm_allreduce_ring;
    if (n_parts <= SOME_PARTS && n <= SOME_DIRECT_FLOATS)
        return comm_allreduce_direct;
    return n < RING_FLOATS ? comm_allreduce_doubling : comm_allreduce_ring;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t comm_select_scratch(int n_parts, size_t piece_floats) {
    size_t direct_floats = n_parts == 2           ? piece_floats
                           : n_parts <= FEW_PARTS ? least(piece_floats, FEW_RING_FLOATS)
                                                  : least(piece_floats, SOME_DIRECT_FLOATS);
    if (n_parts <= SOME_PARTS)
        direct_floats *= (size_t)(n_parts - 1);
    return direct_floats > piece_floats ? direct_floats : piece_floats;
}

comm_allreduce_fn comm_select(const struct comm_group *group, size_t n) {
    int n_seats = group->room->n_seats;
    if (group->n_parts > 1)
        return n_seats > 1 ? comm_allreduce_leader : comm_select_between(group->n_parts, n);
    return n <= COMM_FLAT_FLOATS && n * (size_t)n_seats <= FLAT_READS ? comm_allreduce_flat : comm_allreduce_sliced;
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
