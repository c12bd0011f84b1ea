/*
 * Groups and their operations; see group.h and inside.h. Each rank calls from its own thread. An operation that fails
 * ends the world: comm_world_fail. Which all-reduce algorithm runs is not decided here but in select.c.
 */
#include "comm/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/inside.h"

/* ---- Joining ---- */

static int check_members(const struct comm_world *world, int rank, const int *members, int n_members, struct err *err) {
    bool is_member = false;
    if (n_members < 1 || n_members > world->n_ranks)
        return err_set(err, ERR_INVALID, "a group of %d members; 1 to %d are possible", n_members, world->n_ranks);
    for (int i = 0; i < n_members; i++) {
        if (members[i] < 0 || members[i] >= world->n_ranks || (i > 0 && members[i] <= members[i - 1]))
            return err_set(err, ERR_INVALID, "member %d of a group is rank %d; ranks must ascend, from 0 to %d", i, members[i],
                           world->n_ranks - 1);
        is_member |= members[i] == rank;
    }
    if (!is_member || world->local_of_rank[rank] < 0)
        return err_set(err, ERR_INVALID, "rank %d on node %d is not a member of the group that it joins", rank, world->node);
    return 0;
}

static struct comm_room *create_room(const struct comm_world *world, const int *members, int n_members, size_t max_floats,
                                     struct err *err) {
    struct comm_room *room = calloc(1, sizeof *room);
    if (room == NULL)
        goto no_memory;
    memcpy(room->members, members, (size_t)n_members * sizeof *members);
    room->n_members = n_members;
    for (int i = 0; i < n_members; i++)
        room->n_seats += world->local_of_rank[members[i]] >= 0 ? 1 : 0;
    size_t most_floats = room->n_seats == n_members ? COMM_LOCAL_PIECE_FLOATS : COMM_PIECE_FLOATS;
    room->piece_floats = max_floats < 1 ? 1 : max_floats < most_floats ? max_floats : most_floats;
    size_t seats_bytes = (size_t)room->n_seats * sizeof *room->seats;
    room->seats = aligned_alloc(_Alignof(struct comm_seat), seats_bytes);
    if (room->seats == NULL)
        goto free_room;
    memset(room->seats, 0, seats_bytes);
    for (int i = 0, seat = 0; i < n_members; i++)
        if (world->local_of_rank[members[i]] >= 0)
            room->seats[seat++].rank = members[i];
    if (room->n_seats > 1) {
        room->sum = malloc(room->piece_floats * sizeof(float));
        room->flat = room->n_seats == n_members ? malloc(2 * (size_t)room->n_seats * COMM_FLAT_FLOATS * sizeof(float)) : NULL;
        if (room->sum == NULL || (room->flat == NULL && room->n_seats == n_members))
            goto free_seats;
    }
    return room;
free_seats:
    free(room->sum);
    free(room->flat);
    free(room->seats);
free_room:
    free(room);
no_memory:
    err_set(err, ERR_NOMEM, "no memory for a group of %d ranks", n_members);
    return NULL;
}

void comm_room_destroy(struct comm_world *world, struct comm_room *room) {
    struct comm_room **at = &world->rooms;
    while (*at != NULL && *at != room)
        at = &(*at)->next;
    if (*at == room)
        *at = room->next;
    free(room->sum);
    free(room->flat);
    free(room->seats);
    free(room);
}

static int seat_of_rank(const struct comm_room *room, int rank) {
    for (int i = 0; i < room->n_seats; i++)
        if (room->seats[i].rank == rank)
            return i;
    return -1;
}

/* A room of these members where this rank's seat is free, made if there is none. The same list may be joined several times: in order. */
static struct comm_room *enter_room(struct comm_world *world, int rank, const int *members, int n_members, size_t max_floats, int *ret_seat,
                                    struct err *err) {
    struct comm_room *room, **last;
    pthread_mutex_lock(&world->mutex);
    for (last = &world->rooms; (room = *last) != NULL; last = &room->next)
        if (room->n_members == n_members && memcmp(room->members, members, (size_t)n_members * sizeof *members) == 0 &&
            !room->seats[seat_of_rank(room, rank)].is_taken)
            break;
    if (room == NULL) {
        room = create_room(world, members, n_members, max_floats, err);
        *last = room;
    }
    if (room != NULL) {
        *ret_seat = seat_of_rank(room, rank);
        room->seats[*ret_seat].is_taken = true;
    }
    pthread_mutex_unlock(&world->mutex);
    return room;
}

static void leave_room(struct comm_world *world, struct comm_room *room, int seat) {
    bool is_empty = true;
    pthread_mutex_lock(&world->mutex);
    room->seats[seat].is_left = true;
    for (int i = 0; i < room->n_seats; i++)
        is_empty &= room->seats[i].is_left;
    if (is_empty)
        comm_room_destroy(world, room);
    pthread_mutex_unlock(&world->mutex);
}

/* Finds the parts, their leaders and this rank's places. */
static void place(struct comm_group *group, const int *members, int n_members) {
    const struct comm_world *world = group->world;
    int part_of_node[COMM_MAX_NODES];
    memset(part_of_node, -1, sizeof part_of_node);
    for (int i = 0; i < n_members; i++) {
        int node = world->node_of_rank[members[i]];
        if (part_of_node[node] < 0) {
            part_of_node[node] = group->n_parts;
            group->leaders[group->n_parts++] = members[i];
        }
        if (members[i] == group->rank)
            group->index = i;
    }
    group->part = part_of_node[world->node];
    group->tag = (uint16_t)hash_xxh64(members, (size_t)n_members * sizeof *members, 0);
}

int comm_group_join(struct comm_world *world, int rank, const int *members, int n_members, size_t max_floats, struct comm_group **ret_group,
                    struct err *err) {
    if (check_members(world, rank, members, n_members, err) != 0)
        return -1;
    struct comm_group *group = calloc(1, sizeof *group);
    if (group == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a group of %d ranks", n_members);
    group->world = world;
    group->rank = rank;
    place(group, members, n_members);
    group->room = enter_room(world, rank, members, n_members, max_floats, &group->seat, err);
    if (group->room == NULL)
        goto free_group;
    if (group->n_parts > 1 && comm_group_leads(group)) {
        group->scratch = malloc(comm_select_scratch(group->n_parts, group->room->piece_floats) * sizeof(float));
        if (group->scratch == NULL) {
            err_set(err, ERR_NOMEM, "no memory for the exchange of a group of %d ranks", n_members);
            goto leave_room;
        }
    }
    *ret_group = group;
    return 0;
leave_room:
    leave_room(world, group->room, group->seat);
free_group:
    free(group);
    return -1;
}

void comm_group_leave(struct comm_group *group) {
    if (group == NULL)
        return;
    leave_room(group->world, group->room, group->seat);
    free(group->scratch);
    free(group);
}

int comm_group_size(const struct comm_group *group) { return group->room->n_members; }

int comm_group_index(const struct comm_group *group) { return group->index; }

/* Other members may still be reading this one's memory, which the caller is about to take back. */
static int fail(struct comm_group *group, const char *what, struct err *err) {
    comm_world_fail(group->world, group->rank, what, err);
    comm_room_quiet(group->room);
    return -1;
}

/* ---- All-reduce ---- */

struct comm_xfer comm_leader_xfer(const struct comm_group *group, int part, bool is_send, float *floats, size_t n) {
    return (struct comm_xfer){.rank = group->rank,
                              .peer = group->leaders[part],
                              .is_send = is_send,
                              .op = COMM_OP_ALLREDUCE,
                              .group = group->tag,
                              .bytes = (char *)floats,
                              .len_bytes = n * sizeof *floats};
}

int comm_allreduce(struct comm_group *group, float *data, size_t n, struct err *err) {
    char what[64];
    if (comm_world_is_aborted(group->world))
        return comm_world_cancelled(group->world, err);
    if (group->room->n_members == 1)
        return 0;
    int64_t deadline_ms = comm_world_deadline(group->world);
    for (size_t done = 0; done < n;) {
        size_t piece = n - done < group->room->piece_floats ? n - done : group->room->piece_floats;
        int rc = comm_select(group, piece)(group, data + done, piece, deadline_ms, err);
        group->base += COMM_PHASES;
        if (rc != 0) {
            snprintf(what, sizeof what, "all-reduce of %zu floats", n);
            return fail(group, what, err);
        }
        done += piece;
    }
    return 0;
}

/* ---- Gather and broadcast ---- */

static int node_of_member(const struct comm_group *group, int index) { return group->world->node_of_rank[group->room->members[index]]; }

static struct comm_xfer member_xfer(const struct comm_group *group, enum comm_op op, int peer, bool is_send, void *bytes,
                                    size_t len_bytes) {
    return (struct comm_xfer){
        .rank = group->rank, .peer = peer, .is_send = is_send, .op = op, .group = group->tag, .bytes = bytes, .len_bytes = len_bytes};
}

/* The root copies what its neighbours offer, and receives from all others at the same time. */
static int gather_at_root(struct comm_group *group, const void *bytes, size_t len_bytes, char *all, int64_t deadline_ms, struct err *err) {
    struct comm_world *world = group->world;
    struct comm_room *room = group->room;
    struct comm_xfer xfers[COMM_MAX_RANKS];
    int n_xfers = 0;
    for (int i = 0; i < room->n_members; i++)
        if (node_of_member(group, i) != world->node)
            xfers[n_xfers++] = member_xfer(group, COMM_OP_GATHER, room->members[i], false, all + (size_t)i * len_bytes, len_bytes);
    memcpy(all + (size_t)group->index * len_bytes, bytes, len_bytes);
    if (room->n_seats > 1) {
        comm_room_arrive(room, group->seat, group->base + 1);
        if (comm_room_wait_all(world, room, group->seat, group->base + 1, deadline_ms, err) != 0 ||
            comm_room_begin_read(world, room, group->seat, err) != 0)
            return -1;
        for (int i = 0, seat = 0; i < room->n_members; i++) {
            if (node_of_member(group, i) != world->node)
                continue;
            if (seat != group->seat)
                memcpy(all + (size_t)i * len_bytes, room->seats[seat].bytes, len_bytes);
            seat++;
        }
        comm_room_end_read(room, group->seat);
        comm_room_release(room, group->seat, group->base + 2);
    }
    return comm_xfer_run(world, xfers, n_xfers, deadline_ms, err);
}

static int gather_elsewhere(struct comm_group *group, int root, const void *bytes, size_t len_bytes, int64_t deadline_ms, struct err *err) {
    struct comm_world *world = group->world;
    struct comm_room *room = group->room;
    int root_rank = room->members[root];
    if (node_of_member(group, root) != world->node) {
        struct comm_xfer xfer = member_xfer(group, COMM_OP_GATHER, root_rank, true, (void *)bytes, len_bytes);
        return comm_xfer_run(world, &xfer, 1, deadline_ms, err);
    }
    room->seats[group->seat].bytes = (void *)bytes;
    comm_room_arrive(room, group->seat, group->base + 1);
    return comm_room_wait_one(world, room, group->seat, seat_of_rank(room, root_rank), group->base + 2, deadline_ms, err);
}

/* An operation with a root ends the same way for both. */
static int finish(struct comm_group *group, const char *name, int root, size_t len_bytes, int rc, struct err *err) {
    char what[96];
    group->base += COMM_PHASES;
    if (rc == 0)
        return 0;
    snprintf(what, sizeof what, "%s of %zu bytes (root: rank %d)", name, len_bytes, group->room->members[root]);
    return fail(group, what, err);
}

static int check_root(const struct comm_group *group, int root, struct err *err) {
    if (root < 0 || root >= group->room->n_members)
        return err_set(err, ERR_INVALID, "root %d of a group of %d members", root, group->room->n_members);
    return comm_world_is_aborted(group->world) ? comm_world_cancelled(group->world, err) : 0;
}

int comm_gather(struct comm_group *group, int root, const void *bytes, size_t len_bytes, void *ret_all, struct err *err) {
    if (check_root(group, root, err) != 0)
        return -1;
    int64_t deadline_ms = comm_world_deadline(group->world);
    int rc = root == group->index ? gather_at_root(group, bytes, len_bytes, ret_all, deadline_ms, err)
                                  : gather_elsewhere(group, root, bytes, len_bytes, deadline_ms, err);
    return finish(group, "gather", root, len_bytes, rc, err);
}

/*
 * The root sends to the leader of each other part; on each node one member has the bytes first (the root or the leader) and the others
 * copy them. All members of a node enter before any leaves, as room.c's rule asks.
 */
static int broadcast(struct comm_group *group, int root, void *bytes, size_t len_bytes, int64_t deadline_ms, struct err *err) {
    struct comm_world *world = group->world;
    struct comm_room *room = group->room;
    struct comm_xfer xfers[COMM_MAX_NODES];
    int root_rank = room->members[root], n_xfers = 0;
    int source_seat = node_of_member(group, root) == world->node ? seat_of_rank(room, root_rank) : 0;
    if (root == group->index) {
        for (int part = 0; part < group->n_parts; part++)
            if (part != group->part)
                xfers[n_xfers++] = member_xfer(group, COMM_OP_BROADCAST, group->leaders[part], true, bytes, len_bytes);
    } else if (group->seat == source_seat) {
        xfers[n_xfers++] = member_xfer(group, COMM_OP_BROADCAST, root_rank, false, bytes, len_bytes);
    }
    if (comm_xfer_run(world, xfers, n_xfers, deadline_ms, err) != 0)
        return -1;
    if (room->n_seats == 1)
        return 0;
    if (group->seat == source_seat)
        room->seats[group->seat].bytes = bytes;
    comm_room_arrive(room, group->seat, group->base + 1);
    if (comm_room_wait_all(world, room, group->seat, group->base + 1, deadline_ms, err) != 0)
        return -1;
    if (group->seat != source_seat) {
        if (comm_room_begin_read(world, room, group->seat, err) != 0)
            return -1;
        memcpy(bytes, room->seats[source_seat].bytes, len_bytes);
        comm_room_end_read(room, group->seat);
    }
    comm_room_arrive(room, group->seat, group->base + 2);
    return group->seat == source_seat ? comm_room_wait_all(world, room, group->seat, group->base + 2, deadline_ms, err) : 0;
}

int comm_broadcast(struct comm_group *group, int root, void *bytes, size_t len_bytes, struct err *err) {
    if (check_root(group, root, err) != 0)
        return -1;
    return finish(group, "broadcast", root, len_bytes, broadcast(group, root, bytes, len_bytes, comm_world_deadline(group->world), err),
                  err);
}
