/* What engine.c, submit.c and engine_stats.c share. Not for others. */
#ifndef ENGINE_ENGINE_STATE_H
#define ENGINE_ENGINE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/run.h"
#include "engine/stream.h"
#include "exec/queue.h"

enum { MAX_IN_FLIGHT = EXEC_MAX_IN_FLIGHT / 2, STEP_SIZES = 32 };

/* One continuation of one prompt. Engine thread only. */
struct engine_choice {
    struct engine_stream *stream;
    int request, index;
    struct exec_sampling sampling;
    int max_tokens;
    bool ignore_eos;
    int n_stop_ids; /* the request's own: the first of sampling's, EOS comes behind */
    int priority;
    uint64_t cache_root;
    int32_t *prompt; /* until it is handed to the scheduler */
    int n_prompt;
    int64_t started_ns; /* when its first step was planned; 0: not yet */
    struct sched_seq *seq;
    int n_generated, n_prompt_emitted;
    int n_in_flight; /* steps under way that hold it */
    bool is_finished;
};

enum job_type { JOB_SUBMIT, JOB_CANCEL, JOB_CLOSE, JOB_CACHE_RESET };
struct job {
    enum job_type type;
    struct engine_stream *stream;
    int request, choice;
    struct job *next;
};

struct flight {
    uint64_t number;
    int64_t sent_ns;
    int n_entries, n_tokens;
    struct engine_choice **choices; /* [max_seqs] */
};

struct engine {
    struct engine_opts opts;
    int32_t eos[64];
    int n_eos;
    struct sched *sched;
    pthread_t thread;
    int wake_fd;
    /* Steps in flight, oldest first: a ring. */
    struct flight flights[MAX_IN_FLIGHT];
    int first_flight, n_flights, most_flights;
    uint64_t next_step;
    struct exec_entry *entries; /* [max_seqs], for the step being sent */
    int64_t landed_ns;          /* when the latest result came */
    int64_t usual_ns[STEP_SIZES]; /* how long a step takes at least, by the logarithm of its tokens; 0: not known */
    int64_t logged_ms;
    struct engine_stats logged; /* as they were then */
    double logged_hit_rate;
    struct engine_stats now;    /* as counted by the engine thread; published once a turn */
    struct engine_stream *streams;  /* all that the engine has taken */
    struct engine_stream *told;     /* those with events that their readers do not know of */
    atomic_int n_active;            /* choices that wait or run */
    /* Under lock. */
    pthread_mutex_t lock;
    struct job *first_job, *last_job;
    bool is_stopping, is_failed;
    struct err failure;
    struct engine_stats stats;
};

/* submit.c: any thread. */
void engine_wake(struct engine *engine);
/* Frees a stream with its choices, but not their sequences. */
void engine_stream_destroy(struct engine_stream *stream);

/* engine_stats.c: the engine's thread. */
void engine_count_step(struct engine *engine, const struct sched_plan *plan);
void engine_publish_stats(struct engine *engine);
/* A line every 10 s, when that is wanted and something has happened. */
void engine_log_stats(struct engine *engine);

#endif
