/*
 * A bounded stream of messages between two ranks of one node; see inside.h. One thread writes, one reads. Each message
 * is led by its length, so that two ends that disagree find out. A message longer than the ring streams through it,
 * a chunk at a time, both ends copying side by side.
 */
#include <stdlib.h>
#include <string.h>

#include "comm/inside.h"

enum { RING_BYTES = 1 << 20, CHUNK_BYTES = 64 << 10 };

struct comm_pipe {
    _Alignas(64) atomic_size_t n_written; /* bytes since the start */
    struct comm_patience writer;
    _Alignas(64) atomic_size_t n_read;
    struct comm_patience reader;
    _Alignas(64) struct comm_bell bell;
    char *ring; /* [RING_BYTES] */
};

struct comm_pipe *comm_pipe_create(void) {
    struct comm_pipe *pipe = aligned_alloc(64, sizeof *pipe);
    char *ring = malloc(RING_BYTES);
    if (pipe == NULL || ring == NULL) {
        free(pipe);
        free(ring);
        return NULL;
    }
    memset(pipe, 0, sizeof *pipe);
    pipe->ring = ring;
    return pipe;
}

void comm_pipe_destroy(struct comm_pipe *pipe) {
    if (pipe == NULL)
        return;
    free(pipe->ring);
    free(pipe);
}

struct comm_bell *comm_pipe_bell(struct comm_pipe *pipe) { return &pipe->bell; }

static bool has_room(const void *arg) {
    const struct comm_pipe *pipe = arg;
    return atomic_load(&pipe->n_written) - atomic_load(&pipe->n_read) < RING_BYTES;
}

static bool has_bytes(const void *arg) {
    const struct comm_pipe *pipe = arg;
    return atomic_load(&pipe->n_written) != atomic_load(&pipe->n_read);
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static enum err_code write_bytes(struct comm_world *world, struct comm_pipe *pipe, const char *bytes, size_t len_bytes,
                                 int64_t deadline_ms) {
    while (len_bytes > 0) {
        enum err_code code = comm_bell_wait(world, &pipe->bell, &pipe->writer, has_room, pipe, deadline_ms);
        if (code != ERR_NONE)
            return code;
        size_t written = atomic_load_explicit(&pipe->n_written, memory_order_relaxed);
        size_t room = RING_BYTES - (written - atomic_load(&pipe->n_read)), at = written % RING_BYTES;
        size_t n = least(least(len_bytes, CHUNK_BYTES), least(room, RING_BYTES - at));
        memcpy(pipe->ring + at, bytes, n);
        atomic_store(&pipe->n_written, written + n);
        comm_bell_ring(&pipe->bell);
        bytes += n;
        len_bytes -= n;
    }
    return ERR_NONE;
}

static enum err_code read_bytes(struct comm_world *world, struct comm_pipe *pipe, char *bytes, size_t len_bytes, int64_t deadline_ms) {
    while (len_bytes > 0) {
        enum err_code code = comm_bell_wait(world, &pipe->bell, &pipe->reader, has_bytes, pipe, deadline_ms);
        if (code != ERR_NONE)
            return code;
        size_t done = atomic_load_explicit(&pipe->n_read, memory_order_relaxed);
        size_t there = atomic_load(&pipe->n_written) - done, at = done % RING_BYTES;
        size_t n = least(least(len_bytes, CHUNK_BYTES), least(there, RING_BYTES - at));
        memcpy(bytes, pipe->ring + at, n);
        atomic_store(&pipe->n_read, done + n);
        comm_bell_ring(&pipe->bell);
        bytes += n;
        len_bytes -= n;
    }
    return ERR_NONE;
}

enum err_code comm_pipe_write(struct comm_world *world, struct comm_pipe *pipe, const void *bytes, size_t len_bytes, int64_t deadline_ms) {
    uint64_t length = len_bytes;
    enum err_code code = write_bytes(world, pipe, (const char *)&length, sizeof length, deadline_ms);
    return code != ERR_NONE ? code : write_bytes(world, pipe, bytes, len_bytes, deadline_ms);
}

enum err_code comm_pipe_read(struct comm_world *world, struct comm_pipe *pipe, void *bytes, size_t len_bytes, int64_t deadline_ms) {
    uint64_t length;
    enum err_code code = read_bytes(world, pipe, (char *)&length, sizeof length, deadline_ms);
    if (code != ERR_NONE)
        return code;
    return length != len_bytes ? ERR_INTERNAL : read_bytes(world, pipe, bytes, len_bytes, deadline_ms);
}
