/*
 * All-reduce within one node, longer vectors: each member sums its slice of all vectors, then all copy all slices.
 *
 * Cost: two meetings; each member reads n floats of vectors (its slice of each), writes a slice and copies n floats.
 * Range: any length up to a piece, any number of members.
 * Scratch: the room's sum, one piece.
 * Bits: each slice is added once, in the order of ranks, and copied by all.
 * Lost peer: a member that does not come is seen at the deadline or by an abort; data is written only at the end.
 */
#include <string.h>

#include "comm/inside.h"

int comm_allreduce_sliced(struct comm_group *group, float *data, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_world *world = group->world;
    struct comm_room *room = group->room;
    const float *vectors[COMM_MAX_RANKS];
    size_t begin = n * (size_t)group->seat / (size_t)room->n_seats;
    size_t end = n * (size_t)(group->seat + 1) / (size_t)room->n_seats;
    room->seats[group->seat].bytes = data;
    comm_room_arrive(room, group->seat, group->base + 1);
    if (comm_room_wait_all(world, room, group->seat, group->base + 1, deadline_ms, err) != 0 ||
        comm_room_begin_read(world, room, group->seat, err) != 0)
        return -1;
    for (int i = 0; i < room->n_seats; i++)
        vectors[i] = (const float *)room->seats[i].bytes + begin;
    comm_sum(room->sum + begin, vectors, room->n_seats, end - begin);
    comm_room_end_read(room, group->seat);
    comm_room_arrive(room, group->seat, group->base + 2);
    if (comm_room_wait_all(world, room, group->seat, group->base + 2, deadline_ms, err) != 0)
        return -1;
    memcpy(data, room->sum, n * sizeof *data);
    return 0;
}
