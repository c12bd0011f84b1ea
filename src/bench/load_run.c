/* The load on a server; see load_run.h. Caller's thread. */
#include "bench/load_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "bench/answer_reader.h"
#include "bench/arrivals.h"
#include "http/client_many.h"

enum {
    ERROR_BODY_LIMIT = 64 << 10,
    MOST_HEADERS = 32,
    IDLE_CONNECTIONS = 1024,
    WAIT_MS = 200, /* how long a cancellation may go unnoticed */
    PROGRESS_GAP_MS = 500,
    READY_GAP_MS = 1000
};

/* What the requests of one phase (check, warm-up, measurement) have in common. */
struct phase {
    const struct bench_load_opts *opts;
    struct http_many *many;
    int64_t start_ns;
    int n_active, n_over; /* over: done or failed */
    int64_t n_chunks;     /* with tokens, so far */
    int64_t drawn_ms;
};

/* One request in flight. */
struct request {
    struct phase *phase;
    struct bench_record *record;
    struct bench_answer_reader reader;
    struct http_call call;
    struct http_answer answer;
    struct err broken; /* why on_bytes stopped the call */
    const char *headers[MOST_HEADERS + 3];
    char id_header[160];
    char *body;
    struct request *next, **at; /* among those in flight */
};

static bool is_cancelled(const struct phase *phase) { return phase->opts->is_cancelled != NULL && phase->opts->is_cancelled(NULL); }

static char *make_body(const struct bench_load_opts *opts, const struct bench_prompt *prompt) {
    json_t *body = json_pack("{s:s, s:b, s:{s:b}}", "model", opts->model, "stream", 1, "stream_options", "include_usage", 1);
    json_object_set_new(body, opts->is_chat ? "max_completion_tokens" : "max_tokens", json_integer(prompt->n_output));
    if (opts->is_chat) {
        json_object_set_new(body, "messages", json_pack("[{s:s, s:s}]", "role", "user", "content", prompt->text));
    } else if (prompt->text != NULL) {
        json_object_set_new(body, "prompt", json_string(prompt->text));
    } else {
        json_t *ids = json_array();
        for (int i = 0; i < prompt->n_tokens; i++)
            json_array_append_new(ids, json_integer(prompt->ids[i]));
        json_object_set_new(body, "prompt", ids);
    }
    if (opts->ignore_eos)
        json_object_set_new(body, "ignore_eos", json_true());
    if (opts->extra != NULL)
        json_object_update(body, (json_t *)opts->extra);
    char *text = body != NULL ? json_text(body) : NULL;
    json_decref(body);
    return text;
}

static int on_bytes(void *ctx, const void *bytes, size_t len_bytes) {
    struct request *request = ctx;
    int n_before = request->reader.n_chunks;
    int result = bench_answer_reader_feed(&request->reader, bytes, len_bytes, clock_mono_ns(), &request->broken);
    request->phase->n_chunks += request->reader.n_chunks - n_before;
    return result;
}

static void free_request(struct request *request) {
    if (request->at != NULL) {
        *request->at = request->next;
        if (request->next != NULL)
            request->next->at = request->at;
    }
    bench_answer_reader_finish(&request->reader);
    buf_finish(&request->answer.body);
    buf_finish(&request->answer.headers);
    free(request->body);
    free(request);
}

/* "HTTP 404: The model `x` does not exist": what OpenAI servers put into "error", or the beginning of whatever came. */
static void describe_refusal(const struct request *request, char *ret_text, size_t size_bytes) {
    const char *text = buf_str(&request->answer.body);
    json_t *json = json_loads(text, 0, NULL);
    const json_t *error = json_object_get(json, "error");
    const char *message = json_string_value(json_object_get(json_is_object(error) ? error : json, "message"));
    snprintf(ret_text, size_bytes, "HTTP %d: %.200s", request->answer.status, message != NULL ? message : text);
    json_decref(json);
}

static void on_done(void *ctx, int result, const struct err *err) {
    struct request *request = ctx;
    struct bench_record *record = request->record;
    struct err broken;
    request->phase->n_active--;
    request->phase->n_over++;
    record->outcome = BENCH_FAILED;
    if (request->broken.code != ERR_NONE)
        snprintf(record->error, sizeof record->error, "%.250s", request->broken.msg);
    else if (result != 0)
        snprintf(record->error, sizeof record->error, "%.250s", err->msg);
    else if (request->answer.status < 200 || request->answer.status >= 300)
        describe_refusal(request, record->error, sizeof record->error);
    else if (bench_answer_reader_end(&request->reader, &broken) != 0)
        snprintf(record->error, sizeof record->error, "%.250s", broken.msg);
    else
        record->outcome = BENCH_DONE;
    free_request(request);
}

static int send_request(struct phase *phase, struct request **in_flight, const struct bench_prompt *prompt, int number,
                        struct bench_record *record, struct err *err) {
    const struct bench_load_opts *opts = phase->opts;
    struct request *request = calloc(1, sizeof *request);
    if (request == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a request");
    *record = (struct bench_record){.queued_s = record->queued_s, .n_prompt = prompt->n_tokens > 0 ? prompt->n_tokens : 0};
    int n = 0;
    for (; opts->headers[n] != NULL && n < MOST_HEADERS; n++)
        request->headers[n] = opts->headers[n];
    snprintf(request->id_header, sizeof request->id_header, "X-Request-Id: %s%d", opts->request_id_prefix, number);
    request->headers[n++] = "Content-Type: application/json";
    request->headers[n++] = request->id_header;
    request->phase = phase;
    request->record = record;
    buf_init(&request->answer.body, ERROR_BODY_LIMIT);
    buf_init(&request->answer.headers, ERROR_BODY_LIMIT);
    request->body = make_body(opts, prompt);
    int64_t now_ns = clock_mono_ns();
    bench_answer_reader_init(&request->reader, opts->is_chat, opts->keeps_text, now_ns, record);
    if (request->body == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a request of %d tokens", prompt->n_tokens);
        goto free_request;
    }
    request->call = (struct http_call){.method = "POST",
                                       .url = opts->url,
                                       .headers = request->headers,
                                       .body = request->body,
                                       .body_bytes = strlen(request->body),
                                       .timeout_ms = opts->request_timeout_ms,
                                       .sink = on_bytes,
                                       .sink_ctx = request};
    record->start_s = (double)(now_ns - phase->start_ns) * 1e-9;
    record->outcome = BENCH_CUT;
    if (http_many_add(phase->many, &request->call, &request->answer, on_done, request, err) != 0)
        goto free_request;
    request->next = *in_flight;
    request->at = in_flight;
    if (request->next != NULL)
        request->next->at = &request->next;
    *in_flight = request;
    phase->n_active++;
    return 0;
free_request:
    free_request(request);
    return -1;
}

static void draw_progress(struct phase *phase, int n, bool is_last) {
    int64_t now_ms = clock_mono_ms();
    if (!phase->opts->shows_progress || !isatty(STDERR_FILENO) || (now_ms - phase->drawn_ms < PROGRESS_GAP_MS && !is_last))
        return;
    double elapsed_s = (double)(clock_mono_ns() - phase->start_ns) * 1e-9;
    fprintf(stderr, "\r\033[K%d/%d requests, %d in flight, %.0f s, %.1f tok/s%s", phase->n_over, n, phase->n_active, elapsed_s,
            (double)phase->n_chunks / elapsed_s, is_last ? "\n" : "");
    phase->drawn_ms = now_ms;
}

/*
 * Sends prompts[n] at times_s[n] (NULL: at once) as max_concurrency allows, until all are over or the run is cancelled.
 * Fills records[n].
 */
static int run_phase(const struct bench_load_opts *opts, const struct bench_prompt *prompts, int n, const double *times_s,
                     struct bench_record *records, double *ret_duration_s, struct err *err) {
    struct phase phase = {.opts = opts, .start_ns = clock_mono_ns()};
    struct request *in_flight = NULL;
    int result = 0;
    if (http_many_create(IDLE_CONNECTIONS, &phase.many, err) != 0)
        return -1;
    for (int next = 0; phase.n_over < n && result == 0 && !is_cancelled(&phase);) {
        double now_s = (double)(clock_mono_ns() - phase.start_ns) * 1e-9;
        bool has_room = opts->max_concurrency == 0 || phase.n_active < opts->max_concurrency;
        int wait_ms = WAIT_MS;
        if (next < n && has_room && times_s != NULL && times_s[next] > now_s) {
            double left_ms = ceil((times_s[next] - now_s) * 1000);
            wait_ms = left_ms < WAIT_MS ? (int)left_ms : WAIT_MS;
        } else if (next < n && has_room) {
            records[next].queued_s = now_s - (times_s != NULL ? times_s[next] : 0);
            result = send_request(&phase, &in_flight, &prompts[next], next, &records[next], err);
            next++;
            wait_ms = 0; /* on its way at once */
        }
        if (result == 0)
            result = http_many_run(phase.many, wait_ms, err);
        draw_progress(&phase, n, false);
    }
    *ret_duration_s = (double)(clock_mono_ns() - phase.start_ns) * 1e-9;
    draw_progress(&phase, n, true);
    http_many_destroy(phase.many);
    while (in_flight != NULL)
        free_request(in_flight);
    return result;
}

static void finish_records(struct bench_record *records, int n) {
    for (int i = 0; i < n; i++) {
        free(records[i].gaps_s);
        free(records[i].text);
    }
}

/* One request after the other until one succeeds. */
static int check_ready(const struct bench_load_opts *opts, const struct bench_prompt *prompt, struct err *err) {
    int64_t deadline_ms = clock_mono_ms() + opts->ready_timeout_ms;
    struct bench_load_opts quiet = *opts;
    quiet.shows_progress = false;
    for (;;) {
        struct bench_record record = {0};
        double duration_s;
        int result = run_phase(&quiet, prompt, 1, NULL, &record, &duration_s, err);
        finish_records(&record, 1);
        if (result != 0 || record.outcome != BENCH_FAILED)
            return result;
        if (clock_left_ms(deadline_ms) == 0)
            return err_set(err, ERR_TIMEOUT, "the server answered no test request within %d s: %s", opts->ready_timeout_ms / 1000,
                           record.error);
        clock_nap_ms(READY_GAP_MS);
    }
}

static int warm_up(const struct bench_load_opts *opts, const struct bench_prompt *prompts, struct err *err) {
    struct bench_load_opts quiet = *opts;
    double duration_s;
    quiet.shows_progress = false;
    struct bench_record *records = calloc((size_t)opts->n_warmups, sizeof *records);
    if (records == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d warm-ups", opts->n_warmups);
    int result = run_phase(&quiet, prompts, opts->n_warmups, NULL, records, &duration_s, err);
    for (int i = 0; i < opts->n_warmups && result == 0; i++)
        if (records[i].outcome == BENCH_FAILED) {
            log_warning("A warm-up request failed: %s", records[i].error);
            break;
        }
    finish_records(records, opts->n_warmups);
    free(records);
    return result;
}

int bench_load_run(const struct bench_load_opts *opts, struct bench_run *ret, struct err *err) {
    int n = opts->prompts->n - opts->n_spare;
    const struct bench_prompt *spare = opts->prompts->items + n;
    struct bench_run run = {.n = n, .records = calloc((size_t)n, sizeof *run.records)};
    double *times_s = malloc((size_t)n * sizeof *times_s);
    if (run.records == NULL || times_s == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %d requests", n);
        goto free_run;
    }
    bench_arrivals_fill(opts->rate_per_s, opts->burstiness, opts->seed, n, times_s);
    if (opts->ready_timeout_ms > 0 && check_ready(opts, spare++, err) != 0)
        goto free_run;
    if (opts->n_warmups > 0 && warm_up(opts, spare, err) != 0)
        goto free_run;
    if (run_phase(opts, opts->prompts->items, n, times_s, run.records, &run.duration_s, err) != 0)
        goto free_run;
    for (int i = 0; i < n; i++) /* only a cancelled run leaves any */
        run.is_cancelled |= run.records[i].outcome == BENCH_CUT || run.records[i].outcome == BENCH_NOT_SENT;
    free(times_s);
    *ret = run;
    return 0;
free_run:
    bench_run_finish(&run);
    free(times_s);
    return -1;
}

void bench_run_finish(struct bench_run *run) {
    if (run->records != NULL)
        finish_records(run->records, run->n);
    free(run->records);
    *run = (struct bench_run){0};
}
