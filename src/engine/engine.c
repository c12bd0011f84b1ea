/*
 * The engine thread: jobs in, steps out, results in, events out; see engine.h and run.h.
 * Owns the scheduler, all choices and the steps in flight. Must not know text, HTTP, or how the ranks compute.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_state.h"

enum { IDLE_WAIT_MS = 500, LEAST_AHEAD_MS = 2 };

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
        engine_stream_destroy(stream);
    }
}

static void run_jobs(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct job *job = engine->first_job;
    engine->first_job = engine->last_job = NULL;
    pthread_mutex_unlock(&engine->lock);
    while (job != NULL) {
        struct job *next = job->next;
        if (job->type == JOB_SUBMIT) {
            job_submit(engine, job->stream);
        } else if (job->type == JOB_CACHE_RESET) {
            if (!sched_cache_reset(engine->sched))
                log_warning("The prefix cache was not reset: requests are running");
        } else if (job->type == JOB_CLOSE) {
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

static int send_step(struct engine *engine, const struct sched_plan *plan, struct err *err) {
    struct flight *flight = &engine->flights[(engine->first_flight + engine->n_flights) % MAX_IN_FLIGHT];
    flight->number = engine->next_step++;
    flight->sent_ns = clock_mono_ns();
    flight->n_entries = plan->n_entries;
    flight->n_tokens = plan->n_tokens;
    for (int i = 0; i < plan->n_entries; i++) {
        struct engine_choice *choice = plan->entries[i].seq->owner;
        flight->choices[i] = choice;
        choice->n_in_flight++;
        if (choice->started_ns == 0)
            choice->started_ns = flight->sent_ns;
        fill_entry(&plan->entries[i], &engine->entries[i]);
    }
    engine_count_step(engine, plan);
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
    for (int i = 0; i < choice->n_stop_ids; i++)
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

/* When the ranks began with the oldest step under way. */
static int64_t begin_of(const struct engine *engine, const struct flight *flight) {
    return flight->sent_ns > engine->landed_ns ? flight->sent_ns : engine->landed_ns;
}

static int64_t *usual_of(struct engine *engine, const struct flight *flight) {
    int size = 0;
    while (size < STEP_SIZES - 1 && flight->n_tokens >> size > 1)
        size++;
    return &engine->usual_ns[size];
}

/*
 * A step that runs ahead is of use only when the one before ends, and who comes in the meantime would have to wait for both. So it
 * is planned when that one is three quarters done, as far as is known. Returns the milliseconds until then.
 */
static int wait_ahead_ms(struct engine *engine) {
    const struct flight *flight = &engine->flights[engine->first_flight];
    if (engine->n_flights == 0 || engine->n_flights < engine->opts.sched.n_stages)
        return 0;
    int64_t usual_ns = *usual_of(engine, flight);
    if (usual_ns / 4 < LEAST_AHEAD_MS * INT64_C(1000000))
        return 0;
    int64_t wait_ns = begin_of(engine, flight) + usual_ns / 4 * 3 - clock_mono_ns();
    return wait_ns < 0 ? 0 : (int)(wait_ns / 1000000);
}

static int take_result(struct engine *engine, const struct exec_result *result, struct err *err) {
    struct flight *flight = &engine->flights[engine->first_flight];
    if (engine->n_flights == 0 || result->number != flight->number)
        return err_set(err, ERR_PEER, "the ranks answered step %llu, which is not the next in flight", (unsigned long long)result->number);
    int64_t now_ns = clock_mono_ns(), took_ns = now_ns - begin_of(engine, flight), *usual_ns = usual_of(engine, flight);
    engine->now.step_seconds_sum += (double)took_ns * 1e-9;
    engine->landed_ns = now_ns;
    *usual_ns = *usual_ns == 0 || took_ns < *usual_ns ? took_ns : *usual_ns + (took_ns - *usual_ns) / 8; /* falls at once, rises slowly */
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

static void drain_wake_fd(struct engine *engine) {
    uint64_t count;
    ssize_t n = read(engine->wake_fd, &count, sizeof count);
    (void)n; /* empty is fine: it does not block */
}

/* Steps go out first: counts are published, then readers woken (who may ask for them), while the ranks are busy again. */
static int engine_turn(struct engine *engine, struct err *err) {
    struct sched_plan plan;
    struct exec_result result;
    int wait_ms = 0;
    run_jobs(engine);
    while (engine->n_flights < engine->most_flights && (wait_ms = wait_ahead_ms(engine)) == 0 &&
           sched_plan_next(engine->sched, engine->most_flights - engine->n_flights, &plan))
        if (send_step(engine, &plan, err) != 0)
            return -1;
    engine_publish_stats(engine);
    wake_readers(engine);
    reap_streams(engine);
    engine_log_stats(engine);
    int n = exec_driver_next(engine->opts.driver, engine->wake_fd, wait_ms > 0 && wait_ms < IDLE_WAIT_MS ? wait_ms : IDLE_WAIT_MS, &result, err);
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
        engine_publish_stats(engine);
        wake_readers(engine);
        reap_streams(engine);
        if (is_stopping)
            return;
        clock_nap_ms(10);
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
    engine_wake(engine);
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
    engine_wake(engine);
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

const char *engine_failure(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool is_failed = engine->is_failed;
    pthread_mutex_unlock(&engine->lock);
    return is_failed ? engine->failure.msg : NULL; /* written once, before is_failed */
}
