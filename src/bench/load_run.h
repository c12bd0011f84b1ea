/*
 * Puts load on an OpenAI server and writes down when every token came. One thread, the caller's, does all of it over libcurl, so that a
 * client beside the server on the same cores costs it little. Knows nothing of tables and files of results.
 */
#ifndef BENCH_LOAD_RUN_H
#define BENCH_LOAD_RUN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/prompts.h"

struct bench_load_opts {
    const char *url;             /* of the completions or chat completions */
    bool is_chat;
    const char *model;           /* "model" of each request */
    const char *const *headers;  /* "Name: value" …, NULL-terminated */
    const char *request_id_prefix; /* X-Request-Id is this and a number */
    const json_t *extra;         /* object merged into each request, or NULL */
    bool ignore_eos;
    /* The last n_spare prompts are for the check that the server answers and for warming up: what is measured has not been asked before. */
    const struct bench_prompts *prompts;
    int n_spare;
    double rate_per_s;           /* INFINITY: all at once */
    double burstiness;
    uint64_t seed;
    int max_concurrency;         /* 0: no limit */
    int n_warmups;
    int ready_timeout_ms;        /* 0: no check. The check takes one spare prompt, each warm-up another */
    int request_timeout_ms;
    bool keeps_text;
    bool shows_progress;         /* a line on stderr */
    bool (*is_cancelled)(void *ctx); /* asked several times a second, with ctx NULL */
};

enum bench_outcome { BENCH_NOT_SENT, BENCH_CUT /* in flight when the run was cancelled */, BENCH_FAILED, BENCH_DONE };

struct bench_record {
    enum bench_outcome outcome;
    int n_prompt;      /* the server's count; ours where it gives none; 0 when nobody knows */
    int n_output;      /* the server's count; that of the chunks where it gives none */
    double start_s;    /* sent, after the beginning of the run */
    double queued_s;   /* waited for max_concurrency before that */
    double ttft_s;     /* from sending to the first token */
    double latency_s;  /* from sending to the last token */
    double *gaps_s;    /* [n_gaps] between two chunks with tokens */
    int n_gaps, cap_gaps;
    char *text;        /* with keeps_text */
    char error[256];   /* FAILED */
};

struct bench_run {
    struct bench_record *records; /* [n], in order of sending */
    int n;
    double duration_s;
    bool is_cancelled; /* what was not done by then is CUT or NOT_SENT */
};

/* Blocks. A request that fails is a record, not an error; errors are a server that never answers the check, and lack of memory. */
int bench_load_run(const struct bench_load_opts *opts, struct bench_run *ret, struct err *err);
void bench_run_finish(struct bench_run *run);

#endif
