/* The engine's front door: checks requests, copies them into streams and hands jobs to the engine's thread; see engine.h. Any thread. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine_state.h"
#include "sched/block_pool.h"

enum { MAX_EVENTS = 1 << 26 };

void engine_wake(struct engine *engine) {
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
    engine_wake(engine);
    return 0;
}

static void sampling_from_request(const struct engine *engine, const struct engine_request *request, int choice, struct exec_sampling *ret) {
    const struct exec_sampling *in = request->sampling;
    *ret = *in;
    ret->seed = in->seed + (uint64_t)choice;
    ret->n_prompt = request->n_prompt;
    for (int i = 0; i < engine->n_eos && ret->n_stop_ids < EXEC_MAX_STOP_IDS; i++)
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

void engine_stream_destroy(struct engine_stream *stream) {
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
        return err_set(err, ERR_LIMIT, "the server is full: %d requests wait or run, and %d more would pass the limit of %d", n_active, n_choices,
                       engine->opts.max_active);
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
            choice->n_stop_ids = requests[r].sampling->n_stop_ids;
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
    engine_stream_destroy(stream);
    return err_set(err, ERR_NOMEM, "no memory for a request");
}

void engine_stream_cancel(struct engine_stream *stream, int request, int choice) { job_push(stream->engine, JOB_CANCEL, stream, request, choice); }

void engine_stream_close(struct engine_stream *stream) {
    /* Without memory for the job the stream stays with the engine: it is freed when the engine is. */
    if (stream != NULL)
        job_push(stream->engine, JOB_CLOSE, stream, 0, 0);
}

void engine_cache_reset(struct engine *engine) { job_push(engine, JOB_CACHE_RESET, NULL, 0, 0); }
