/*
 * All-reduce between nodes, longer vectors: the vector is cut into as many slices as parts. Every leader sends each slice to the part that
 * adds it, adds its own, and sends the sum to all.
 *
 * Cost: two latencies; 2 · (parts - 1) messages; 2 · (parts - 1) / parts · n floats out of and into each node, the least possible.
 * Range: long vectors between three nodes or more; n may be smaller than the number of parts (empty slices).
 * Scratch: one slice from each other part, at most n floats + one for each part.
 * Bits: each slice is added once, in the order of parts, and copied: the bits of comm_allreduce_direct, wherever the slices are cut.
 * Lost peer: the transfer fails and names it; vec may hold sums of some slices by then.
 */
#include "comm/inside.h"

static size_t slice_begin(const struct comm_group *group, int slice, size_t n) { return n * (size_t)slice / (size_t)group->n_parts; }

int comm_allreduce_scattered(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_xfer xfers[2 * COMM_MAX_NODES];
    const float *vectors[COMM_MAX_NODES];
    size_t own_begin = slice_begin(group, group->part, n), own_len = slice_begin(group, group->part + 1, n) - own_begin;
    int n_others = 0, n_xfers = 0;
    for (int part = 0; part < group->n_parts; part++) {
        vectors[part] = vec + own_begin;
        if (part == group->part)
            continue;
        size_t begin = slice_begin(group, part, n), len = slice_begin(group, part + 1, n) - begin;
        float *arriving = group->scratch + (size_t)n_others++ * own_len;
        vectors[part] = arriving;
        xfers[n_xfers++] = comm_leader_xfer(group, part, true, vec + begin, len);
        xfers[n_xfers++] = comm_leader_xfer(group, part, false, arriving, own_len);
    }
    if (comm_xfer_run(group->world, xfers, n_xfers, deadline_ms, err) != 0)
        return -1;
    comm_sum(vec + own_begin, vectors, group->n_parts, own_len);
    n_xfers = 0;
    for (int part = 0; part < group->n_parts; part++) {
        if (part == group->part)
            continue;
        size_t begin = slice_begin(group, part, n), len = slice_begin(group, part + 1, n) - begin;
        xfers[n_xfers++] = comm_leader_xfer(group, part, true, vec + own_begin, own_len);
        xfers[n_xfers++] = comm_leader_xfer(group, part, false, vec + begin, len);
    }
    return comm_xfer_run(group->world, xfers, n_xfers, deadline_ms, err);
}
