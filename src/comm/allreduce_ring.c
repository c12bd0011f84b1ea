/*
 * All-reduce between nodes, long vectors: a ring. The vector is cut into as many slices as parts; first each slice
 * travels round the ring and grows into its sum (reduce-scatter), then the sums travel round (all-gather).
 *
 * Cost: 2 · (parts - 1) latencies; 2 · (parts - 1) / parts · n floats out of and into each node, the least possible.
 * Range: long vectors between three nodes or more; n may be smaller than the number of parts (empty slices).
 * Scratch: one slice, at most n floats.
 * Bits: each slice is added along one path and the result is copied to all.
 * Lost peer: the transfer fails and names it; vec may hold partial sums by then.
 */
#include "comm/inside.h"

static size_t slice_begin(const struct comm_group *group, int slice, size_t n) { return n * (size_t)slice / (size_t)group->n_parts; }

/* Sends one slice of vec to the next part while another arrives at `to` from the one before. */
static int pass(struct comm_group *group, float *vec, size_t n, int out, int in, float *to, int64_t deadline_ms, struct err *err) {
    size_t out_begin = slice_begin(group, out, n), in_begin = slice_begin(group, in, n);
    int next = (group->part + 1) % group->n_parts, before = (group->part + group->n_parts - 1) % group->n_parts;
    struct comm_xfer xfers[2] = {comm_leader_xfer(group, next, true, vec + out_begin, slice_begin(group, out + 1, n) - out_begin),
                                 comm_leader_xfer(group, before, false, to, slice_begin(group, in + 1, n) - in_begin)};
    return comm_xfer_run(group->world, xfers, 2, deadline_ms, err);
}

int comm_allreduce_ring(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err) {
    int parts = group->n_parts, self = group->part;
    for (int step = 0; step < parts - 1; step++) {
        int out = (self + parts - step) % parts, in = (out + parts - 1) % parts;
        if (pass(group, vec, n, out, in, group->scratch, deadline_ms, err) != 0)
            return -1;
        float *sum = vec + slice_begin(group, in, n);
        comm_sum(sum, (const float *[]){group->scratch, sum}, 2, slice_begin(group, in + 1, n) - slice_begin(group, in, n));
    }
    for (int step = 0; step < parts - 1; step++) {
        int out = (self + 1 + parts - step) % parts, in = (out + parts - 1) % parts;
        if (pass(group, vec, n, out, in, vec + slice_begin(group, in, n), deadline_ms, err) != 0)
            return -1;
    }
    return 0;
}
