/* The meeting place of a group's members on one node; see inside.h. Each member's thread posts to its own seat. */
#include <sched.h>

#include "comm/inside.h"

struct look {
    const struct comm_room *room;
    int seat; /* -1: all */
    unsigned level;
};

/* Levels grow for ever and wrap round; two that are compared are never far apart. */
static bool has_reached(const struct comm_seat *seat, unsigned level) { return (int)(atomic_load(&seat->phase) - level) >= 0; }

static bool is_reached(const void *arg) {
    const struct look *look = arg;
    if (look->seat >= 0)
        return has_reached(&look->room->seats[look->seat], look->level);
    for (int i = 0; i < look->room->n_seats; i++)
        if (!has_reached(&look->room->seats[i], look->level))
            return false;
    return true;
}

void comm_room_arrive(struct comm_room *room, int seat, unsigned level) {
    atomic_store(&room->seats[seat].phase, level);
    /* Of two that arrive last at the same time, at least one sees the other. */
    if (atomic_load(&room->bell.n_sleepers) > 0 && is_reached(&(struct look){room, -1, level}))
        comm_bell_ring(&room->bell);
}

void comm_room_release(struct comm_room *room, int seat, unsigned level) {
    atomic_store(&room->seats[seat].phase, level);
    comm_bell_ring(&room->bell);
}

/* other: a seat, or -1 for all. */
static int wait_for(struct comm_world *world, struct comm_room *room, int self, int other, unsigned level, int64_t deadline_ms,
                    struct err *err) {
    struct look look = {room, other, level};
    enum err_code code = comm_bell_wait(world, &room->bell, &room->seats[self].patience, is_reached, &look, deadline_ms);
    if (code == ERR_NONE)
        return 0;
    if (code == ERR_CANCELLED)
        return comm_world_cancelled(world, err);
    for (int i = 0; i < room->n_seats; i++) {
        look.seat = i;
        if ((other < 0 || other == i) && !is_reached(&look))
            return err_set(err, code, "rank %d of this node did not come within %d ms", room->seats[i].rank, world->op_timeout_ms);
    }
    return err_set(err, code, "a rank of this node came only after %d ms", world->op_timeout_ms);
}

int comm_room_wait_all(struct comm_world *world, struct comm_room *room, int self, unsigned level, int64_t deadline_ms, struct err *err) {
    return wait_for(world, room, self, -1, level, deadline_ms, err);
}

int comm_room_wait_one(struct comm_world *world, struct comm_room *room, int self, int other, unsigned level, int64_t deadline_ms,
                       struct err *err) {
    return wait_for(world, room, self, other, level, deadline_ms, err);
}

int comm_room_begin_read(struct comm_world *world, struct comm_room *room, int seat, struct err *err) {
    atomic_store(&room->seats[seat].is_reading, true);
    /* Either this sees the abort, or whoever waits in comm_room_quiet after it sees the reading. */
    if (!comm_world_is_aborted(world))
        return 0;
    comm_room_end_read(room, seat);
    return comm_world_cancelled(world, err);
}

void comm_room_end_read(struct comm_room *room, int seat) { atomic_store(&room->seats[seat].is_reading, false); }

void comm_room_quiet(struct comm_room *room) {
    for (int i = 0; i < room->n_seats; i++)
        while (atomic_load(&room->seats[i].is_reading))
            sched_yield();
}
