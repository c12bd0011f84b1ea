/* Event rings; see stream.h. */
#include "engine/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

void stream_init(struct engine_stream *stream, int n_choices, int cap_most) {
    stream->n_choices = stream->n_open = n_choices;
    stream->cap_most = cap_most;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void stream_finish(struct engine_stream *stream) {
    free(stream->events);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
}

/* Under lock. */
static void fail_locked(struct engine_stream *stream, const struct err *err) {
    if (!stream->is_failed)
        stream->failure = *err;
    stream->is_failed = true;
}

static bool grow_locked(struct engine_stream *stream) {
    if (stream->n < stream->cap)
        return true;
    int cap = stream->cap == 0 ? 16 : stream->cap * 2;
    if (cap > stream->cap_most)
        cap = stream->cap_most;
    struct engine_event *events = cap > stream->n ? malloc((size_t)cap * sizeof *events) : NULL;
    if (events == NULL)
        return false;
    for (int i = 0; i < stream->n; i++)
        events[i] = stream->events[(stream->first + i) % stream->cap];
    free(stream->events);
    stream->events = events;
    stream->cap = cap;
    stream->first = 0;
    return true;
}

void stream_push(struct engine_stream *stream, const struct engine_event *event) {
    pthread_mutex_lock(&stream->lock);
    if (stream->is_failed) {
        /* The reader will be told why; nothing may come between. */
    } else if (grow_locked(stream)) {
        stream->events[(stream->first + stream->n++) % stream->cap] = *event;
    } else {
        struct err err;
        err_set(&err, ERR_NOMEM, "no memory for the events of a request");
        fail_locked(stream, &err);
    }
    if (event->type == ENGINE_EVENT_FINISH)
        stream->n_open--;
    pthread_mutex_unlock(&stream->lock);
}

void stream_wake(struct engine_stream *stream) { pthread_cond_signal(&stream->changed); }

void stream_fail(struct engine_stream *stream, const struct err *err) {
    pthread_mutex_lock(&stream->lock);
    fail_locked(stream, err);
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

int engine_stream_next(struct engine_stream *stream, int timeout_ms, struct engine_event *ret, struct err *err) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    int result = 0;
    pthread_mutex_lock(&stream->lock);
    while (stream->n == 0 && !stream->is_failed && stream->n_open > 0)
        if (pthread_cond_timedwait(&stream->changed, &stream->lock, &until) == ETIMEDOUT)
            break;
    if (stream->n > 0) {
        *ret = stream->events[stream->first];
        stream->first = (stream->first + 1) % stream->cap;
        stream->n--;
        result = 1;
    } else if (stream->is_failed) {
        err_copy(err, &stream->failure);
        result = -2;
    } else if (stream->n_open == 0) {
        result = -1;
    }
    pthread_mutex_unlock(&stream->lock);
    return result;
}
