/*
 * All-reduce of a group with several members on this node and others elsewhere: the members' vectors become the node's sum
 * in the room, the leader exchanges it with the other nodes' leaders, all copy the result.
 *
 * Cost: two or three meetings within the node and whatever the algorithm between the leaders costs; a node's sum crosses the
 *   network once, however many members it has.
 * Range: any length up to a piece, any number of members; nodes may have different numbers of them. Short vectors are summed
 *   by the leader alone, longer ones by slices, one for each member.
 * Scratch: the room's sum, one piece.
 * Bits: a node's sum is added in the order of ranks, once; between leaders see the algorithm; the result is copied to all.
 * Lost peer: the leader's exchange fails and names it; the other members wait for the leader and are woken by the abort.
 */
#include <string.h>

#include "comm/inside.h"

int comm_allreduce_leader(struct comm_group *group, float *data, size_t n, int64_t deadline_ms, struct err *err) {
    struct comm_world *world = group->world;
    struct comm_room *room = group->room;
    bool is_sliced = comm_select_sliced(room->n_seats, n);
    unsigned entered = group->base + 1, summed = group->base + 2, finished = group->base + 3;
    room->seats[group->seat].bytes = data;
    comm_room_arrive(room, group->seat, entered);
    if (is_sliced || comm_group_leads(group)) {
        const float *vectors[COMM_MAX_RANKS];
        size_t begin = is_sliced ? n * (size_t)group->seat / (size_t)room->n_seats : 0;
        size_t end = is_sliced ? n * (size_t)(group->seat + 1) / (size_t)room->n_seats : n;
        if (comm_room_wait_all(world, room, group->seat, entered, deadline_ms, err) != 0 ||
            comm_room_begin_read(world, room, group->seat, err) != 0)
            return -1;
        for (int i = 0; i < room->n_seats; i++)
            vectors[i] = (const float *)room->seats[i].bytes + begin;
        comm_sum(room->sum + begin, vectors, room->n_seats, end - begin);
        comm_room_end_read(room, group->seat);
        if (is_sliced)
            comm_room_arrive(room, group->seat, summed);
    }
    if (comm_group_leads(group)) {
        if ((is_sliced && comm_room_wait_all(world, room, group->seat, summed, deadline_ms, err) != 0) ||
            comm_select_between(group->n_parts, n)(group, room->sum, n, deadline_ms, err) != 0)
            return -1;
        comm_room_release(room, group->seat, finished);
    } else if (comm_room_wait_one(world, room, group->seat, 0, finished, deadline_ms, err) != 0) {
        return -1;
    }
    memcpy(data, room->sum, n * sizeof *data);
    return 0;
}
