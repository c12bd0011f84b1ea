/*
 * All-reduce between nodes, many nodes and short vectors: recursive doubling. In round r the leaders whose places differ
 * in bit r exchange what they have and add.
 *
 * Cost: log2(parts) latencies, each with n floats both ways; one latency more at each end for those beyond a power of two.
 * Range: short vectors between more than a few nodes. Any number of parts: the first 2 · (parts - power of two) parts form
 *   pairs; the even one of a pair gives its vector to the odd one before, and gets the result after.
 * Scratch: n floats.
 * Bits: in each round both ends add the same two vectors, a + b here and b + a there, which are the same bits; so after
 *   round r all leaders of a block of 2^(r+1) hold the same bits, by induction.
 * Lost peer: the transfer fails and names it; vec may hold a partial sum by then.
 */
#include "comm/inside.h"

static int exchange(struct comm_group *group, int part, float *vec, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_xfer xfers[2] = {comm_leader_xfer(group, part, true, vec, n), comm_leader_xfer(group, part, false, group->scratch, n)};
    if (comm_xfer_run(group->world, xfers, 2, deadline_ms, err) != 0)
        return -1;
    comm_sum(vec, (const float *[]){vec, group->scratch}, 2, n);
    return 0;
}

static int one_way(struct comm_group *group, int part, bool is_send, float *floats, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_xfer xfer = comm_leader_xfer(group, part, is_send, floats, n);
    return comm_xfer_run(group->world, &xfer, 1, deadline_ms, err);
}

int comm_allreduce_doubling(struct comm_group *group, float *vec, size_t n, int64_t deadline_ms, struct err *err) {
    int power = 1;
    while (power * 2 <= group->n_parts)
        power *= 2;
    int n_pairs = group->n_parts - power; /* parts 0 … 2 · n_pairs - 1 */
    bool is_paired = group->part < 2 * n_pairs;
    if (is_paired && group->part % 2 == 0)
        return one_way(group, group->part + 1, true, vec, n, deadline_ms, err) != 0 ||
                       one_way(group, group->part + 1, false, vec, n, deadline_ms, err) != 0
                   ? -1
                   : 0;
    if (is_paired) {
        if (one_way(group, group->part - 1, false, group->scratch, n, deadline_ms, err) != 0)
            return -1;
        comm_sum(vec, (const float *[]){group->scratch, vec}, 2, n);
    }
    int place = is_paired ? group->part / 2 : group->part - n_pairs;
    for (int bit = 1; bit < power; bit *= 2) {
        int other = place ^ bit;
        if (exchange(group, other < n_pairs ? 2 * other + 1 : other + n_pairs, vec, n, deadline_ms, err) != 0)
            return -1;
    }
    return is_paired ? one_way(group, group->part - 1, true, vec, n, deadline_ms, err) : 0;
}
