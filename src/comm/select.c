/*
 * Which all-reduce algorithm runs: a function of the shape alone, so that all ranks choose alike. Also the sum that all
 * of them share. Costs stand on top of each algorithm's file.
 */
#include <string.h>

#include "comm/inside.h"

/*
 * A float's sum must not depend on how many others are summed with it (the same request, alone or in a batch, gives the same tokens). So
 * all algorithms add in one order, the members of a node by rank and then the nodes by part, and only the way of the bytes is chosen:
 * with c the work for one message (about 8 us), L a latency, B the bandwidth of a link and P parts, n bytes cost between nodes
 *   direct     (P - 1) · (c + n / B) + L
 *   scattered  2 · (P - 1) · (c + n / (P · B) + L / (P - 1))
 * These cross at n = P / ((P - 1) · (P - 2)) · (L · B + (P - 1) · c · B). The limit is that for L · B = 64 KB (1 Gbit/s with 0.5 ms,
 * 25 Gbit/s with 20 us) and c · B = 8 KB. What is chosen near a crossing matters little.
 */
enum {
    LATENCY_FLOATS = 16 << 10,    /* L · B */
    MESSAGE_FLOATS = 2 << 10,     /* c · B */
    FLAT_READS = 32 << 10,        /* floats that each member of a node may read before a second meeting is cheaper */
    SLICED_FLOATS = 4 << 10,      /* from here the members of a node help their leader */
    SUM_BLOCK_FLOATS = 1 << 10    /* stays in the first-level cache between two additions */
};

/* From so many floats on it pays to scatter. */
static size_t scattered_floats(int n_parts) {
    size_t parts = (size_t)n_parts;
    return n_parts == 2 ? SIZE_MAX : (LATENCY_FLOATS + (parts - 1) * MESSAGE_FLOATS) * parts / ((parts - 1) * (parts - 2));
}

comm_allreduce_fn comm_select_between(int n_parts, size_t n) {
    return n < scattered_floats(n_parts) ? comm_allreduce_direct : comm_allreduce_scattered;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t comm_select_scratch(int n_parts, size_t piece_floats) {
    size_t direct_floats = (size_t)(n_parts - 1) * least(piece_floats, scattered_floats(n_parts));
    size_t scattered = piece_floats + (size_t)n_parts;
    return direct_floats > scattered ? direct_floats : scattered;
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
