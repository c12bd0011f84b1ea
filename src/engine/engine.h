/*
 * The engine: one thread that owns all sequence state, plans each step (sched), lets the ranks compute it (exec)
 * and hands out tokens. Others submit requests and read events from bounded streams; tokens here are numbers, text
 * is the caller's affair.
 *
 * engine_submit and the stream calls may be made by any thread; one stream is read by one thread at a time.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "exec/sampling.h"

struct engine;
struct engine_stream;

enum { ENGINE_MAX_STOP_IDS = 64 };

struct engine_request {
    const int32_t *prompt; /* copied */
    int n_prompt;          /* ≥ 1 */
    int n_choices;         /* n: that many continuations; choice i samples with seed + i */
    int priority;          /* lower goes first with --scheduling-policy priority */
    const char *cache_salt; /* copied: only requests with the same salt share cached prompts; NULL: none */
    /*
     * Copied. n_prompt is filled in, and EOS joins the stop ids (with ignore_eos for min_tokens alone): at most ENGINE_MAX_STOP_IDS of the
     * request's own.
     * max_tokens ≥ 1 (0 only with prompt logprobs or echo: the prompt is computed, nothing generated).
     */
    const struct exec_sampling *sampling;
};

enum engine_event_type {
    ENGINE_EVENT_PROMPT, /* logprobs of prompt token `index` (from 1 on; the first has none), when asked for */
    ENGINE_EVENT_TOKEN,  /* one generated token */
    ENGINE_EVENT_FINISH  /* the choice has ended; no more events of it */
};
enum engine_finish { ENGINE_FINISH_STOP, ENGINE_FINISH_LENGTH, ENGINE_FINISH_ABORT, ENGINE_FINISH_ERROR };

struct engine_event {
    enum engine_event_type type;
    int request, choice;   /* index in the submitted list; choice within the request */
    int32_t token;         /* PROMPT, TOKEN */
    int index;             /* PROMPT: position in the prompt */
    bool has_logprobs;      /* also at FINISH_STOP, for stop_token */
    struct exec_logprobs logprobs;
    enum engine_finish finish;
    int32_t stop_token;    /* FINISH_STOP: the EOS or stop id that ended it (it counts as generated, but was not emitted as TOKEN), else -1 */
    bool stop_is_eos;
    int n_cached;          /* prompt tokens that came from the prefix cache */
    int64_t started_ns;    /* when its first step was planned, by clock_mono_ns; 0: not yet */
};

/*
 * All or nothing. ERR_INVALID: a request can never fit (with the numbers); ERR_LIMIT: the queue is full (answer 503);
 * ERR_PEER: the engine is dead (answer 500), err says why.
 */
int engine_submit(struct engine *engine, const struct engine_request *requests, int n_requests, struct engine_stream **ret, struct err *err);
/* Waits at most timeout_ms. 1: *ret is an event; 0: nothing yet; -1: every choice has finished and was read; -2: the engine failed, err says why. */
int engine_stream_next(struct engine_stream *stream, int timeout_ms, struct engine_event *ret, struct err *err);
/* Ends one choice early (a stop string was found): its FINISH (ABORT) follows. */
void engine_stream_cancel(struct engine_stream *stream, int request, int choice);
/* Cancels what still runs and frees. Accepts NULL. */
void engine_stream_close(struct engine_stream *stream);

/* Forgets all cached prompts; while requests run nothing happens, but a line in the log says so. */
void engine_cache_reset(struct engine *engine);

/* Upper bounds of the histogram of tokens per step: 1, 8, 16, …, 16384. */
enum { ENGINE_N_STEP_BOUNDS = 13 };
static inline int engine_step_bound(int i) { return i == 0 ? 1 : 4 << i; }

struct engine_stats {
    int n_running, n_waiting;
    double kv_usage;           /* 0 to 1 */
    int n_blocks, block_size;
    uint64_t prompt_tokens, generation_tokens, preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens */
    uint64_t finished[4];      /* by enum engine_finish */
    uint64_t steps;
    uint64_t step_tokens_counts[ENGINE_N_STEP_BOUNDS + 1], step_tokens; /* by engine_step_bound, the last: above all; and their sum */
    uint64_t dropped_connections; /* by the port that workers join at */
    double step_seconds_sum;      /* time in which steps were under way */
    double driver_seconds_sum;    /* processor time of the engine's thread */
    bool caches_prefixes;
};
void engine_stats_read(struct engine *engine, struct engine_stats *ret);
/* NULL while healthy, else why the engine is dead. */
const char *engine_failure(struct engine *engine);

#endif
