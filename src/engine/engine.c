/*
 * The engine thread: jobs in, steps out, results in, events out; see engine.h and run.h.
 * Owns the scheduler, all choices and the steps in flight. Must not know text, HTTP, or how the ranks compute.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/run.h"
#include "engine/stream.h"
#include "exec/queue.h"
#include "sched/block_pool.h"

enum { MAX_IN_FLIGHT = EXEC_MAX_IN_FLIGHT / 2, IDLE_WAIT_MS = 500, STATS_GAP_MS = 10000, MAX_EVENTS = 1 << 26 };

/* One continuation of one prompt. Engine thread only. */
struct engine_choice {
    struct engine_stream *stream;
    int request, index;
    struct exec_sampling sampling;
    int max_tokens;
    bool ignore_eos;
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

enum job_type { JOB_SUBMIT, JOB_CANCEL, JOB_CLOSE };
struct job {
    enum job_type type;
    struct engine_stream *stream;
    int request, choice;
    struct job *next;
};

struct flight {
    uint64_t number;
    int64_t sent_ns;
    int n_entries;
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
    int64_t logged_ms;
    struct engine_stats logged; /* as they were then */
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

static void wake(struct engine *engine) {
    uint64_t one = 1;
    ssize_t written = write(engine->wake_fd, &one, sizeof one);
    (void)written; /* a full counter wakes as well */
}

static int job_push(struct engine *engine, enum job_type type, struct engine_stream *stream, int request, int choice) {
    struct job *job = malloc(sizeof *job);
    if (job == NULL)
        return -1;
    *job = (struct job){.type = type, .stream = stream, .request = request, .choice = choice};
    pthread_mutex_lock(&engine->lock);
    *(engine->last_job == NULL ? &engine->first_job : &engine->last_job->next) = job;
    engine->last_job = job;
    pthread_mutex_unlock(&engine->lock);
    wake(engine);
    return 0;
}

/* Submitting (any thread) */

static void sampling_from_request(const struct engine *engine, const struct engine_request *request, int choice, struct exec_sampling *ret) {
    const struct exec_sampling *in = request->sampling;
    *ret = *in;
    ret->seed = in->seed + (uint64_t)choice;
    ret->n_prompt = request->n_prompt;
    for (int i = 0; i < engine->n_eos && !in->ignore_eos && ret->n_stop_ids < EXEC_MAX_STOP_IDS; i++)
        ret->stop_ids[ret->n_stop_ids++] = engine->eos[i];
}

static int check_request(const struct engine *engine, const struct engine_request *request, struct err *err) {
    const struct sched_opts *s = &engine->opts.sched;
    const struct exec_sampling *p = request->sampling;
    if (request->n_prompt < 1 || request->n_choices < 1)
        return err_set(err, ERR_INVALID, "a request needs at least one token of prompt and one choice");
    if (p->n_stop_ids > ENGINE_MAX_STOP_IDS || p->n_bias > EXEC_MAX_BIAS || p->n_logprobs > EXEC_MAX_TOP_LOGPROBS ||
        p->n_prompt_logprobs > EXEC_MAX_TOP_LOGPROBS)
        return err_set(err, ERR_INVALID, "a request has more stop ids, biases or logprobs than the engine takes");
    int64_t total = (int64_t)request->n_prompt + p->max_tokens;
    if (total > s->max_model_len || total > (int64_t)s->n_blocks * s->block_size)
        return err_set(err, ERR_INVALID, "%d tokens of prompt and %d of output do not fit: the context is %d tokens, the KV cache %lld", request->n_prompt,
                       p->max_tokens, s->max_model_len, (long long)s->n_blocks * s->block_size);
    return 0;
}

static void stream_destroy(struct engine_stream *stream) {
    for (int i = 0; i < stream->n_choices; i++)
        free(stream->choices[i].prompt);
    free(stream->choices);
    stream_finish(stream);
    free(stream);
}

int engine_submit(struct engine *engine, const struct engine_request *requests, int n_requests, struct engine_stream **ret, struct err *err) {
    int n_choices = 0;
    int64_t n_events = 0;
    for (int r = 0; r < n_requests; r++) {
        if (check_request(engine, &requests[r], err) != 0)
            return -1;
        n_choices += requests[r].n_choices;
        n_events += (int64_t)requests[r].n_choices * (requests[r].sampling->max_tokens + 2 +
                                                      (requests[r].sampling->n_prompt_logprobs >= 0 ? requests[r].n_prompt : 0));
    }
    pthread_mutex_lock(&engine->lock);
    bool is_failed = engine->is_failed || engine->is_stopping;
    if (is_failed)
        err_copy(err, &engine->failure);
    pthread_mutex_unlock(&engine->lock);
    if (is_failed)
        return -1;
    int n_active = atomic_fetch_add(&engine->n_active, n_choices);
    if (engine->opts.max_active > 0 && n_active + n_choices > engine->opts.max_active) {
        atomic_fetch_sub(&engine->n_active, n_choices);
        return err_set(err, ERR_LIMIT, "the server is full: %d requests wait or run, %d may", n_active, engine->opts.max_active);
    }
    struct engine_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        atomic_fetch_sub(&engine->n_active, n_choices);
        return err_set(err, ERR_NOMEM, "no memory for a request");
    }
    stream_init(stream, n_choices, n_events < MAX_EVENTS ? (int)n_events : MAX_EVENTS);
    stream->engine = engine;
    stream->choices = calloc((size_t)n_choices, sizeof *stream->choices);
    struct engine_choice *choice = stream->choices;
    if (choice == NULL)
        goto no_memory;
    for (int r = 0; r < n_requests; r++)
        for (int c = 0; c < requests[r].n_choices; c++, choice++) {
            choice->stream = stream;
            choice->request = r;
            choice->index = c;
            choice->max_tokens = requests[r].sampling->max_tokens;
            choice->ignore_eos = requests[r].sampling->ignore_eos;
            choice->priority = requests[r].priority;
            choice->cache_root = sched_blocks_root(requests[r].cache_salt, requests[r].cache_salt == NULL ? 0 : strlen(requests[r].cache_salt));
            choice->n_prompt = requests[r].n_prompt;
            sampling_from_request(engine, &requests[r], c, &choice->sampling);
            choice->prompt = malloc((size_t)choice->n_prompt * sizeof *choice->prompt);
            if (choice->prompt == NULL)
                goto no_memory;
            memcpy(choice->prompt, requests[r].prompt, (size_t)choice->n_prompt * sizeof *choice->prompt);
        }
    if (job_push(engine, JOB_SUBMIT, stream, 0, 0) != 0)
        goto no_memory;
    *ret = stream;
    return 0;
no_memory:
    atomic_fetch_sub(&engine->n_active, n_choices);
    if (stream->choices == NULL)
        stream->n_choices = 0;
    stream_destroy(stream);
    return err_set(err, ERR_NOMEM, "no memory for a request");
}

void engine_stream_cancel(struct engine_stream *stream, int request, int choice) { job_push(stream->engine, JOB_CANCEL, stream, request, choice); }

void engine_stream_close(struct engine_stream *stream) {
    /* Without memory for the job the stream stays with the engine: it is freed when the engine is. */
    if (stream != NULL)
        job_push(stream->engine, JOB_CLOSE, stream, 0, 0);
}

/* The engine thread */

/* An event for the reader, who is woken when the next step is on its way. */
static void tell(struct engine *engine, const struct engine_choice *choice, struct engine_event *event) {
    struct engine_stream *stream = choice->stream;
    event->request = choice->request;
    event->choice = choice->index;
    event->started_ns = choice->started_ns;
    event->n_cached = choice->seq == NULL ? 0 : choice->seq->n_cached;
    stream_push(stream, event);
    if (stream->is_told)
        return;
    stream->is_told = true;
    stream->next_told = engine->told;
    engine->told = stream;
}

static void wake_readers(struct engine *engine) {
    while (engine->told != NULL) {
        struct engine_stream *stream = engine->told;
        engine->told = stream->next_told;
        stream->is_told = false;
        stream_wake(stream);
    }
}

static void choice_finish(struct engine *engine, struct engine_choice *choice, struct engine_event *event) {
    choice->is_finished = true;
    if (choice->seq != NULL)
        sched_seq_end(engine->sched, choice->seq);
    event->type = ENGINE_EVENT_FINISH;
    atomic_fetch_sub(&engine->n_active, 1);
    engine->now.finished[event->finish]++;
    tell(engine, choice, event);
}

static void choice_cancel(struct engine *engine, struct engine_choice *choice) {
    if (!choice->is_finished)
        choice_finish(engine, choice, &(struct engine_event){.finish = ENGINE_FINISH_ABORT, .stop_token = -1});
}

static void job_submit(struct engine *engine, struct engine_stream *stream) {
    struct err err;
    stream->next = engine->streams;
    engine->streams = stream;
    for (int i = 0; i < stream->n_choices; i++) {
        struct engine_choice *choice = &stream->choices[i];
        /* max_tokens 0 still computes the prompt; its one sample is thrown away. */
        struct sched_request request = {.prompt = choice->prompt,
                                        .n_prompt = choice->n_prompt,
                                        .max_tokens = choice->n_prompt + choice->max_tokens,
                                        .priority = choice->priority,
                                        .root = choice->cache_root,
                                        .skips_cache = choice->sampling.n_prompt_logprobs >= 0,
                                        .owner = choice};
        if (sched_seq_add(engine->sched, &request, &choice->seq, &err) != 0) {
            stream_fail(stream, &err);
            choice_finish(engine, choice, &(struct engine_event){.finish = ENGINE_FINISH_ERROR, .stop_token = -1});
        }
        free(choice->prompt);
        choice->prompt = NULL;
    }
}

static void stream_cancel_all(struct engine *engine, struct engine_stream *stream) {
    for (int i = 0; i < stream->n_choices; i++)
        choice_cancel(engine, &stream->choices[i]);
}

/* A closed stream (marked by a NULL engine) goes when no step under way refers to its choices. */
static void reap_streams(struct engine *engine) {
    for (struct engine_stream **link = &engine->streams; *link != NULL;) {
        struct engine_stream *stream = *link;
        bool is_idle = stream->engine == NULL;
        for (int i = 0; i < stream->n_choices && is_idle; i++)
            is_idle = stream->choices[i].n_in_flight == 0 || engine->n_flights == 0;
        if (!is_idle) {
            link = &stream->next;
            continue;
        }
        *link = stream->next;
        for (int i = 0; i < stream->n_choices; i++)
            if (stream->choices[i].seq != NULL)
                sched_seq_free(engine->sched, stream->choices[i].seq);
        stream_destroy(stream);
    }
}

static void run_jobs(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct job *job = engine->first_job;
    engine->first_job = engine->last_job = NULL;
    pthread_mutex_unlock(&engine->lock);
    while (job != NULL) {
        struct job *next = job->next;
        if (job->type == JOB_SUBMIT)
            job_submit(engine, job->stream);
        else if (job->type == JOB_CLOSE) {
            stream_cancel_all(engine, job->stream);
            job->stream->engine = NULL;
        } else {
            for (int i = 0; i < job->stream->n_choices; i++)
                if (job->stream->choices[i].request == job->request && job->stream->choices[i].index == job->choice)
                    choice_cancel(engine, &job->stream->choices[i]);
        }
        free(job);
        job = next;
    }
}

static void fill_entry(const struct sched_entry *in, struct exec_entry *out) {
    const struct sched_seq *seq = in->seq;
    const struct engine_choice *choice = seq->owner;
    int end = in->position + in->n_tokens;
    *out = (struct exec_entry){.slot = in->slot,
                               .fresh = in->fresh,
                               .samples = in->samples,
                               .position = in->position,
                               .n_tokens = in->n_tokens,
                               .cached = seq->tokens,
                               .tokens = seq->tokens + in->position,
                               .first_block = in->first_new_block,
                               .n_new_blocks = in->n_blocks - in->first_new_block,
                               .new_blocks = seq->blocks + in->first_new_block,
                               .next_token = end < seq->n_tokens ? seq->tokens[end] : -1,
                               .sampling = &choice->sampling};
}

static void count_step(struct engine *engine, const struct sched_plan *plan) {
    struct engine_stats *now = &engine->now;
    int bucket = 0;
    while (bucket < ENGINE_N_STEP_BOUNDS && plan->n_tokens > engine_step_bound(bucket))
        bucket++;
    now->step_tokens_counts[bucket]++;
    now->step_tokens += (uint64_t)plan->n_tokens;
    now->steps++;
    for (int i = 0; i < plan->n_entries; i++) {
        const struct sched_entry *entry = &plan->entries[i];
        int left = entry->seq->n_prompt - entry->position, n = left < entry->n_tokens ? left : entry->n_tokens;
        if (entry->seq->n_preemptions > 0)
            continue; /* computed again: counted before */
        if (n > 0)
            now->prompt_tokens += (uint64_t)n;
        if (entry->fresh)
            now->prompt_tokens += (uint64_t)entry->position; /* vLLM counts cached tokens of a prompt too */
    }
}

static int send_step(struct engine *engine, const struct sched_plan *plan, struct err *err) {
    struct flight *flight = &engine->flights[(engine->first_flight + engine->n_flights) % MAX_IN_FLIGHT];
    flight->number = engine->next_step++;
    flight->sent_ns = clock_mono_ns();
    flight->n_entries = plan->n_entries;
    for (int i = 0; i < plan->n_entries; i++) {
        struct engine_choice *choice = plan->entries[i].seq->owner;
        flight->choices[i] = choice;
        choice->n_in_flight++;
        if (choice->started_ns == 0)
            choice->started_ns = flight->sent_ns;
        fill_entry(&plan->entries[i], &engine->entries[i]);
    }
    count_step(engine, plan);
    engine->n_flights++;
    struct exec_step step = {
        .number = flight->number, .n_entries = plan->n_entries, .n_tokens = plan->n_tokens, .entries = engine->entries};
    return exec_driver_submit(engine->opts.driver, &step, err);
}

static bool is_eos(const struct engine *engine, int32_t token) {
    for (int i = 0; i < engine->n_eos; i++)
        if (engine->eos[i] == token)
            return true;
    return false;
}

static bool is_stop(const struct engine *engine, const struct engine_choice *choice, int32_t token, bool *ret_is_eos) {
    *ret_is_eos = !choice->ignore_eos && is_eos(engine, token);
    for (int i = 0; i < choice->sampling.n_stop_ids; i++)
        if (choice->sampling.stop_ids[i] == token)
            return true;
    return *ret_is_eos;
}

static void event_logprobs(const struct exec_token *token, struct engine_event *event) {
    event->has_logprobs = token->has_logprobs;
    event->logprobs = token->logprobs;
}

static void take_token(struct engine *engine, struct engine_choice *choice, const struct exec_token *token) {
    struct engine_event event = {.token = token->token, .index = token->index, .stop_token = -1};
    event_logprobs(token, &event);
    if (token->is_prompt) {
        /* A preempted prompt is computed again: each position is told once. */
        if (!choice->is_finished && token->index > choice->n_prompt_emitted) {
            choice->n_prompt_emitted = token->index;
            event.type = ENGINE_EVENT_PROMPT;
            tell(engine, choice, &event);
        }
        return;
    }
    sched_seq_append(engine->sched, choice->seq, token->token);
    if (choice->is_finished)
        return;
    bool is_end_of_text;
    if (choice->max_tokens > 0 && is_stop(engine, choice, token->token, &is_end_of_text)) {
        event.finish = ENGINE_FINISH_STOP;
        event.stop_token = token->token;
        event.stop_is_eos = is_end_of_text;
        engine->now.generation_tokens++;
        choice_finish(engine, choice, &event);
        return;
    }
    if (choice->n_generated < choice->max_tokens) {
        choice->n_generated++;
        event.type = ENGINE_EVENT_TOKEN;
        tell(engine, choice, &event);
        engine->now.generation_tokens++;
    }
    if (choice->n_generated == choice->max_tokens)
        choice_finish(engine, choice, &(struct engine_event){.finish = ENGINE_FINISH_LENGTH, .stop_token = -1});
}

static int take_result(struct engine *engine, const struct exec_result *result, struct err *err) {
    struct flight *flight = &engine->flights[engine->first_flight];
    if (engine->n_flights == 0 || result->number != flight->number)
        return err_set(err, ERR_PEER, "the ranks answered step %llu, which is not the next in flight", (unsigned long long)result->number);
    int64_t now_ns = clock_mono_ns(), begin_ns = flight->sent_ns > engine->landed_ns ? flight->sent_ns : engine->landed_ns;
    engine->now.step_seconds_sum += (double)(now_ns - begin_ns) * 1e-9;
    engine->landed_ns = now_ns;
    engine->first_flight = (engine->first_flight + 1) % MAX_IN_FLIGHT;
    engine->n_flights--;
    for (int i = 0; i < flight->n_entries; i++)
        flight->choices[i]->n_in_flight--;
    for (int i = 0; i < result->n_tokens; i++) {
        const struct exec_token *token = &result->tokens[i];
        if (token->entry < 0 || token->entry >= flight->n_entries)
            return err_set(err, ERR_PEER, "the ranks answered entry %d of %d in step %llu", token->entry, flight->n_entries,
                           (unsigned long long)result->number);
        take_token(engine, flight->choices[token->entry], token);
    }
    return 0;
}

/* What others see of the counts. */
static void publish_stats(struct engine *engine) {
    struct engine_stats *now = &engine->now;
    now->n_running = sched_n_running(engine->sched);
    now->n_waiting = sched_n_waiting(engine->sched);
    now->kv_usage = 1 - (double)sched_n_free_blocks(engine->sched) / engine->opts.sched.n_blocks;
    now->preemptions = sched_n_preemptions(engine->sched);
    sched_cache_counts(engine->sched, &now->prefix_queries, &now->prefix_hits);
    now->driver_seconds_sum = (double)clock_thread_ns() * 1e-9;
    pthread_mutex_lock(&engine->lock);
    engine->stats = *now;
    pthread_mutex_unlock(&engine->lock);
}

static void log_stats(struct engine *engine) {
    const struct engine_stats *now = &engine->now;
    int64_t now_ms = clock_mono_ms(), gap_ms = now_ms - engine->logged_ms;
    if (!engine->opts.log_stats || gap_ms < STATS_GAP_MS)
        return;
    double prompt = (double)(now->prompt_tokens - engine->logged.prompt_tokens);
    double generation = (double)(now->generation_tokens - engine->logged.generation_tokens);
    double queries = (double)(now->prefix_queries - engine->logged.prefix_queries);
    double hits = (double)(now->prefix_hits - engine->logged.prefix_hits);
    engine->logged_ms = now_ms;
    engine->logged = *now;
    if (prompt + generation == 0 && now->n_running + now->n_waiting == 0)
        return;
    log_info("Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: %d reqs, Waiting: %d reqs, "
             "KV cache usage: %.1f%%, Prefix cache hit rate: %.1f%%",
             prompt * 1000 / (double)gap_ms, generation * 1000 / (double)gap_ms, now->n_running, now->n_waiting, now->kv_usage * 100,
             queries > 0 ? hits / queries * 100 : 0.0);
}

static void drain_wake_fd(struct engine *engine) {
    uint64_t count;
    ssize_t n = read(engine->wake_fd, &count, sizeof count);
    (void)n; /* empty is fine: it does not block */
}

/* Steps go out first: counts are published, then readers woken (who may ask for them), while the ranks are busy again. */
static int engine_turn(struct engine *engine, struct err *err) {
    struct sched_plan plan;
    struct exec_result result;
    run_jobs(engine);
    while (engine->n_flights < engine->most_flights && sched_plan_next(engine->sched, &plan))
        if (send_step(engine, &plan, err) != 0)
            return -1;
    publish_stats(engine);
    wake_readers(engine);
    reap_streams(engine);
    log_stats(engine);
    int n = exec_driver_next(engine->opts.driver, engine->wake_fd, IDLE_WAIT_MS, &result, err);
    if (n < 0)
        return -1;
    drain_wake_fd(engine);
    if (n == 0)
        return 0;
    int status = take_result(engine, &result, err);
    exec_result_finish(&result);
    return status;
}

/* The launch is lost: everybody hears it, then only jobs are handled so that streams can be closed. */
static void engine_wind_down(struct engine *engine) {
    engine->n_flights = 0;
    for (;;) {
        pthread_mutex_lock(&engine->lock);
        bool is_stopping = engine->is_stopping && engine->first_job == NULL;
        struct err why = engine->failure;
        pthread_mutex_unlock(&engine->lock);
        run_jobs(engine);
        for (struct engine_stream *stream = engine->streams; stream != NULL; stream = stream->next) {
            stream_fail(stream, &why);
            stream_cancel_all(engine, stream);
        }
        publish_stats(engine);
        wake_readers(engine);
        reap_streams(engine);
        if (is_stopping)
            return;
        struct timespec nap = {.tv_nsec = 10000000};
        nanosleep(&nap, NULL);
    }
}

static bool engine_goes_on(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool goes_on = !engine->is_stopping && !engine->is_failed;
    pthread_mutex_unlock(&engine->lock);
    return goes_on;
}

static void *engine_main(void *arg) {
    struct engine *engine = arg;
    struct err err;
    while (engine_goes_on(engine))
        if (engine_turn(engine, &err) != 0)
            engine_fail(engine, &err);
    engine_wind_down(engine);
    return NULL;
}

void engine_fail(struct engine *engine, const struct err *why) {
    pthread_mutex_lock(&engine->lock);
    if (!engine->is_failed && !engine->is_stopping)
        engine->failure = *why;
    engine->is_failed = true;
    pthread_mutex_unlock(&engine->lock);
    wake(engine);
}

int engine_create(const struct engine_opts *opts, struct engine **ret, struct err *err) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the engine");
    engine->opts = *opts;
    engine->most_flights = opts->sched.n_stages > opts->sched.max_awaited ? opts->sched.n_stages : opts->sched.max_awaited;
    if (engine->most_flights > MAX_IN_FLIGHT)
        engine->most_flights = MAX_IN_FLIGHT;
    engine->n_eos = opts->n_eos < 64 ? opts->n_eos : 64;
    memcpy(engine->eos, opts->eos, (size_t)engine->n_eos * sizeof *engine->eos);
    engine->next_step = 1;
    engine->logged_ms = clock_mono_ms();
    engine->now.n_blocks = opts->sched.n_blocks;
    engine->now.block_size = opts->sched.block_size;
    engine->now.caches_prefixes = opts->sched.prefix_caching;
    engine->stats = engine->now;
    engine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&engine->lock, NULL);
    engine->entries = malloc((size_t)opts->sched.max_seqs * sizeof *engine->entries);
    bool has_memory = engine->entries != NULL;
    for (int i = 0; i < MAX_IN_FLIGHT; i++) {
        engine->flights[i].choices = malloc((size_t)opts->sched.max_seqs * sizeof *engine->flights[i].choices);
        has_memory = has_memory && engine->flights[i].choices != NULL;
    }
    if (!has_memory || engine->wake_fd < 0) {
        err_set(err, ERR_NOMEM, "no memory for the engine");
        goto free_engine;
    }
    if (sched_create(&opts->sched, &engine->sched, err) != 0)
        goto free_engine;
    int rc = pthread_create(&engine->thread, NULL, engine_main, engine);
    if (rc != 0) {
        err_set(err, ERR_LIMIT, "cannot start the engine's thread: %s", strerror(rc));
        goto free_engine;
    }
    *ret = engine;
    return 0;
free_engine:
    sched_destroy(engine->sched);
    for (int i = 0; i < MAX_IN_FLIGHT; i++)
        free(engine->flights[i].choices);
    free(engine->entries);
    if (engine->wake_fd >= 0)
        close(engine->wake_fd);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
    return -1;
}

void engine_destroy(struct engine *engine) {
    if (engine == NULL)
        return;
    pthread_mutex_lock(&engine->lock);
    if (!engine->is_failed)
        err_set(&engine->failure, ERR_CANCELLED, "the server is stopping");
    engine->is_stopping = true;
    pthread_mutex_unlock(&engine->lock);
    wake(engine);
    pthread_join(engine->thread, NULL);
    sched_destroy(engine->sched);
    for (int i = 0; i < MAX_IN_FLIGHT; i++)
        free(engine->flights[i].choices);
    free(engine->entries);
    close(engine->wake_fd);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

int engine_n_active(struct engine *engine) { return atomic_load(&engine->n_active); }

void engine_stats_read(struct engine *engine, struct engine_stats *ret) {
    pthread_mutex_lock(&engine->lock);
    *ret = engine->stats;
    pthread_mutex_unlock(&engine->lock);
    if (engine->opts.n_dropped != NULL)
        ret->dropped_connections = engine->opts.n_dropped(engine->opts.dropped_ctx);
}

const char *engine_failure(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool is_failed = engine->is_failed;
    pthread_mutex_unlock(&engine->lock);
    return is_failed ? engine->failure.msg : NULL; /* written once, before is_failed */
}
