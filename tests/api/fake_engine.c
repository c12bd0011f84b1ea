/* See fake_engine.h. */
#include "fake_engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/rand.h"

enum { RING = 64 /* events; a full one holds up its stream alone */ };

struct choice {
    int request, index, n_prompt, n_generated, prompt_at;
    int32_t *prompt;
    struct exec_sampling sampling;
    bool is_cancelled, is_finished;
};

struct engine_stream {
    struct engine *engine;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct engine_event ring[RING];
    int first, n, n_open, n_choices;
    bool is_closing, is_failed;
    struct choice *choices;
};

static void nap(int ms) {
    if (ms > 0)
        usleep((useconds_t)ms * 1000);
}

/* Returns false when the stream is being closed. */
static bool push(struct engine_stream *stream, const struct engine_event *event) {
    pthread_mutex_lock(&stream->lock);
    while (stream->n == RING && !stream->is_closing)
        pthread_cond_wait(&stream->changed, &stream->lock);
    bool going = !stream->is_closing;
    if (going)
        stream->ring[(stream->first + stream->n++) % RING] = *event;
    if (going && event->type == ENGINE_EVENT_FINISH)
        stream->n_open--;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return going;
}

static void invent_logprobs(const struct engine *engine, int32_t token, int n_top, struct engine_event *event) {
    event->has_logprobs = n_top >= 0;
    if (n_top < 0)
        return;
    event->logprobs = (struct exec_logprobs){.logprob = -0.5f, .rank = 1, .n_top = n_top};
    for (int i = 0; i < n_top; i++) {
        event->logprobs.top_ids[i] = (token + i) % engine->n_vocab;
        event->logprobs.top_logprobs[i] = -0.5f - (float)i;
    }
}

static int32_t next_token(const struct engine *engine, const struct choice *choice) {
    int at = choice->n_generated;
    if (engine->script != NULL)
        return engine->script[at % engine->n_script];
    if (choice->sampling.temperature == 0)
        return (choice->prompt[choice->n_prompt - 1] + 7 * (at + 1)) % 256;
    return (int32_t)(rand_ctr_u64(choice->sampling.seed + (uint64_t)choice->index, (uint64_t)at) % 256);
}

/* One event of the choice; returns false when the stream is being closed. */
static bool advance(struct engine_stream *stream, struct choice *choice) {
    struct engine *engine = stream->engine;
    struct engine_event event = {.request = choice->request, .choice = choice->index, .stop_token = -1, .started_ns = 1, .n_cached = engine->n_cached};
    pthread_mutex_lock(&stream->lock);
    bool is_cancelled = choice->is_cancelled;
    pthread_mutex_unlock(&stream->lock);
    if (is_cancelled) {
        event.type = ENGINE_EVENT_FINISH;
        event.finish = ENGINE_FINISH_ABORT;
    } else if (choice->sampling.n_prompt_logprobs >= 0 && choice->prompt_at < choice->n_prompt) {
        event.type = ENGINE_EVENT_PROMPT;
        event.index = choice->prompt_at;
        event.token = choice->prompt[choice->prompt_at++];
        invent_logprobs(engine, event.token, choice->sampling.n_prompt_logprobs, &event);
    } else if (choice->n_generated == choice->sampling.max_tokens) {
        event.type = ENGINE_EVENT_FINISH;
        event.finish = ENGINE_FINISH_LENGTH;
    } else if (engine->error_after > 0 && choice->n_generated == engine->error_after) {
        event.type = ENGINE_EVENT_FINISH;
        event.finish = ENGINE_FINISH_ERROR;
    } else {
        nap(engine->delay_ms);
        bool is_eos = engine->eos_after > 0 && choice->n_generated == engine->eos_after && !choice->sampling.ignore_eos;
        event.token = is_eos ? engine->eos : next_token(engine, choice);
        bool is_stop = is_eos;
        for (int i = 0; i < choice->sampling.n_stop_ids; i++)
            is_stop |= choice->sampling.stop_ids[i] == event.token;
        event.type = is_stop ? ENGINE_EVENT_FINISH : ENGINE_EVENT_TOKEN;
        event.finish = ENGINE_FINISH_STOP;
        event.stop_token = is_stop ? event.token : -1;
        event.stop_is_eos = is_eos;
        invent_logprobs(engine, event.token, choice->sampling.n_logprobs, &event);
        for (int i = 0; i < choice->sampling.n_logprob_ids; i++) {
            event.logprobs.n_top = i + 1;
            event.logprobs.top_ids[i] = choice->sampling.logprob_ids[i];
            event.logprobs.top_logprobs[i] = -2;
        }
        choice->n_generated++;
        atomic_fetch_add(&engine->n_tokens, 1);
    }
    choice->is_finished = event.type == ENGINE_EVENT_FINISH;
    return push(stream, &event);
}

static void *stream_run(void *arg) {
    struct engine_stream *stream = arg;
    struct engine *engine = stream->engine;
    int n_running = stream->n_choices;
    while (n_running > 0) {
        for (int i = 0; i < stream->n_choices; i++) {
            struct choice *choice = &stream->choices[i];
            if (choice->is_finished)
                continue;
            if (engine->fail_after > 0 && choice->n_generated >= engine->fail_after) {
                atomic_store(&engine->is_dead, true);
                pthread_mutex_lock(&stream->lock);
                stream->is_failed = true;
                pthread_cond_broadcast(&stream->changed);
                pthread_mutex_unlock(&stream->lock);
                return NULL;
            }
            if (!advance(stream, choice))
                return NULL;
            n_running -= choice->is_finished;
        }
    }
    return NULL;
}

static void remember(struct engine *engine, const struct engine_request *request) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* requests may come side by side */
    pthread_mutex_lock(&lock);
    engine->last = *request->sampling;
    engine->n_last_prompt = request->n_prompt;
    engine->last_priority = request->priority;
    snprintf(engine->last_salt, sizeof engine->last_salt, "%s", request->cache_salt == NULL ? "" : request->cache_salt);
    for (int i = 0; i < request->n_prompt && i < FAKE_LAST_PROMPT; i++)
        engine->last_prompt[i] = request->prompt[i];
    pthread_mutex_unlock(&lock);
}

int engine_submit(struct engine *engine, const struct engine_request *requests, int n_requests, struct engine_stream **ret,
                  struct err *err) {
    if (atomic_load(&engine->is_dead))
        return err_set(err, ERR_PEER, "rank 1 on node b is gone");
    if (engine->refuse != ERR_NONE)
        return err_set(err, engine->refuse, "refused by the test");
    struct engine_stream *stream = calloc(1, sizeof *stream);
    for (int i = 0; i < n_requests; i++)
        stream->n_choices += requests[i].n_choices;
    stream->engine = engine;
    stream->choices = calloc((size_t)stream->n_choices, sizeof *stream->choices);
    stream->n_open = stream->n_choices;
    int at = 0;
    for (int i = 0; i < n_requests; i++)
        for (int k = 0; k < requests[i].n_choices; k++) {
            struct choice *choice = &stream->choices[at++];
            *choice = (struct choice){
                .request = i, .index = k, .n_prompt = requests[i].n_prompt, .prompt_at = 1, .sampling = *requests[i].sampling};
            choice->prompt = malloc((size_t)choice->n_prompt * sizeof *choice->prompt);
            memcpy(choice->prompt, requests[i].prompt, (size_t)choice->n_prompt * sizeof *choice->prompt);
        }
    remember(engine, &requests[0]);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, &attr);
    pthread_condattr_destroy(&attr);
    atomic_fetch_add(&engine->n_submitted, 1);
    atomic_fetch_add(&engine->n_open, 1);
    pthread_create(&stream->thread, NULL, stream_run, stream);
    *ret = stream;
    return 0;
}

int engine_stream_next(struct engine_stream *stream, int timeout_ms, struct engine_event *ret, struct err *err) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)timeout_ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&stream->lock);
    while (stream->n == 0 && stream->n_open > 0 && !stream->is_failed)
        if (pthread_cond_timedwait(&stream->changed, &stream->lock, &until) == ETIMEDOUT)
            break;
    int result = 0;
    if (stream->n > 0) {
        *ret = stream->ring[stream->first];
        stream->first = (stream->first + 1) % RING;
        stream->n--;
        result = 1;
    } else if (stream->is_failed) {
        result = -2;
        err_set(err, ERR_PEER, "rank 1 on node b is gone");
    } else if (stream->n_open == 0) {
        result = -1;
    }
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    return result;
}

void engine_stream_cancel(struct engine_stream *stream, int request, int choice) {
    pthread_mutex_lock(&stream->lock);
    for (int i = 0; i < stream->n_choices; i++)
        if (stream->choices[i].request == request && stream->choices[i].index == choice)
            stream->choices[i].is_cancelled = true;
    pthread_mutex_unlock(&stream->lock);
    atomic_fetch_add(&stream->engine->n_cancelled, 1);
}

void engine_stream_close(struct engine_stream *stream) {
    if (stream == NULL)
        return;
    pthread_mutex_lock(&stream->lock);
    stream->is_closing = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->thread, NULL);
    for (int i = 0; i < stream->n_choices; i++)
        free(stream->choices[i].prompt);
    free(stream->choices);
    pthread_mutex_destroy(&stream->lock);
    pthread_cond_destroy(&stream->changed);
    atomic_fetch_sub(&stream->engine->n_open, 1);
    atomic_fetch_add(&stream->engine->n_closed, 1);
    free(stream);
}

void engine_stats_read(struct engine *engine, struct engine_stats *ret) {
    *ret = (struct engine_stats){.n_running = atomic_load(&engine->n_open),
                                 .kv_usage = 0.25,
                                 .n_blocks = 100,
                                 .block_size = 16,
                                 .caches_prefixes = true,
                                 .prefix_queries = 50,
                                 .prefix_hits = 20,
                                 .steps = 3,
                                 .step_tokens_counts = {[1] = 2, [ENGINE_N_STEP_BOUNDS] = 1},
                                 .step_tokens = 20010,
                                 .generation_tokens = (uint64_t)atomic_load(&engine->n_tokens)};
}

void engine_cache_reset(struct engine *engine) { (void)engine; }

const char *engine_failure(struct engine *engine) { return atomic_load(&engine->is_dead) ? "rank 1 on node b is gone" : NULL; }
