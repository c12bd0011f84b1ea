/*
 * All-reduce within one node, short vectors: everybody copies its vector to where all can read it, and sums all.
 *
 * Cost: one meeting; each member reads all vectors, (members - 1) · n additions on every member at the same time.
 * Range: up to COMM_FLAT_FLOATS floats and a few members; any number of members is right.
 * Scratch: two copies of each member's vector, used by turns: who writes a turn has met all others in the turn after it,
 *   so everybody has finished reading. (The meetings of other operations in between do the same: inside.h.)
 * Bits: all members add in the order of ranks.
 * Lost peer: a member that does not come is seen at the deadline or by an abort; nothing is half done in data.
 */
#include <string.h>

#include "comm/inside.h"

int comm_allreduce_flat(struct comm_group *group, float *data, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_room *room = group->room;
    float *turn = room->flat + (size_t)(group->n_flat++ % 2) * (size_t)room->n_seats * COMM_FLAT_FLOATS;
    const float *vectors[COMM_MAX_RANKS];
    for (int i = 0; i < room->n_seats; i++)
        vectors[i] = turn + (size_t)i * COMM_FLAT_FLOATS;
    memcpy(turn + (size_t)group->seat * COMM_FLAT_FLOATS, data, n * sizeof *data);
    comm_room_arrive(room, group->seat, group->base + 1);
    if (comm_room_wait_all(group->world, room, group->seat, group->base + 1, deadline_ms, err) != 0)
        return -1;
    comm_sum(data, vectors, room->n_seats, n);
    return 0;
}
