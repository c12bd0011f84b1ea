/*
 * The events of one submitted list of requests, on their way from the engine thread to the thread that reads them.
 * Bounded: the engine reserves room for every event when it takes the requests. Shared by the two threads under a lock.
 */
#ifndef ENGINE_STREAM_H
#define ENGINE_STREAM_H

#include <pthread.h>

#include "engine/engine.h"

struct engine_choice;

struct engine_stream {
    struct engine *engine;
    struct engine_choice *choices; /* [n_choices], engine thread only */
    int n_choices;
    struct engine_stream *next; /* in the engine's list */
    struct engine_stream *next_told; /* in the engine's list of those whose reader is to be woken */
    bool is_told;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under lock. A ring that grows up to cap_most. */
    struct engine_event *events;
    int cap, first, n, cap_most;
    int n_open; /* choices without a FINISH event */
    bool is_failed;
    struct err failure;
};

void stream_init(struct engine_stream *stream, int n_choices, int cap_most);
void stream_finish(struct engine_stream *stream);
/*
 * Engine thread. A FINISH event closes its choice. Memory running out fails the stream; a failed stream takes no more events.
 * The reader sleeps on until stream_wake.
 */
void stream_push(struct engine_stream *stream, const struct engine_event *event);
void stream_wake(struct engine_stream *stream);
void stream_fail(struct engine_stream *stream, const struct err *err); /* wakes */

#endif
