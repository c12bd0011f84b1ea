/*
 * All-reduce between nodes, few nodes: every leader sends its node's sum to every other leader at the same time, and
 * adds them all.
 *
 * Cost: one one-way latency (all send first); (parts - 1) · n floats out of and into each node.
 * Range: 2 nodes at any length (nothing moves fewer bytes in one hop), more nodes for short vectors.
 * Scratch: (parts - 1) · n floats.
 * Bits: all leaders add in the order of parts.
 * Lost peer: the transfer fails and names it; vec is written only after everything has arrived.
 */
#include "comm/inside.h"

int comm_allreduce_direct(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_xfer xfers[2 * COMM_MAX_NODES];
    const float *vectors[COMM_MAX_NODES];
    int n_others = 0, n_xfers = 0;
    for (int part = 0; part < group->n_parts; part++)
        if (part != group->part)
            xfers[n_xfers++] = comm_leader_xfer(group, part, true, vec, n);
    for (int part = 0; part < group->n_parts; part++) {
        float *to = vec;
        if (part != group->part) {
            to = group->scratch + (size_t)n_others++ * n;
            xfers[n_xfers++] = comm_leader_xfer(group, part, false, to, n);
        }
        vectors[part] = to;
    }
    if (comm_xfer_run(group->world, xfers, n_xfers, deadline_ms, err) != 0)
        return -1;
    comm_sum(vec, vectors, group->n_parts, n);
    return 0;
}
