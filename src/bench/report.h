/*
 * What a run on a server is worth: vLLM's metrics, its table of results and its JSON keys. Pure but for the printing.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "bench/load_run.h"
#include "bench/samples.h"

/* Times to the first token, per output token after the first, between tokens, of the whole request. */
enum bench_metric { BENCH_TTFT, BENCH_TPOT, BENCH_ITL, BENCH_E2EL, BENCH_METRIC_COUNT };
enum { BENCH_MOST_PERCENTILES = 16 };

struct bench_report_opts {
    bool shows[BENCH_METRIC_COUNT];
    double percentiles[BENCH_MOST_PERCENTILES]; /* 0 to 100 */
    int n_percentiles;
    double goodput_ms[BENCH_METRIC_COUNT]; /* a request is good when it is no slower; 0: not asked. Not for BENCH_ITL */
    int max_concurrency;                   /* as configured, 0: none */
    double rate_per_s;
};

struct bench_report {
    int n_done, n_failed, n_cut, n_good;
    int64_t n_input, n_output; /* tokens of the requests that were done */
    double duration_s;
    struct bench_samples metrics_ms[BENCH_METRIC_COUNT];
    double peak_output_per_s; /* chunks in the best second */
    int peak_concurrency;     /* requests under way at once, of those that were done */
    const char *first_error;  /* borrowed from the run; NULL: none */
};

/* "ttft,tpot" and "50,99.9" into opts. ERR_INVALID says what is possible. */
int bench_report_parse_metrics(const char *text, struct bench_report_opts *opts, struct err *err);
int bench_report_parse_percentiles(const char *text, struct bench_report_opts *opts, struct err *err);
/* "ttft:500", in milliseconds. */
int bench_report_parse_goodput(const char *text, struct bench_report_opts *opts, struct err *err);

int bench_report_make(const struct bench_run *run, const struct bench_report_opts *opts, struct bench_report *ret, struct err *err);
void bench_report_finish(struct bench_report *report);

void bench_report_print(struct bench_report *report, const struct bench_report_opts *opts, FILE *out);
/* Sets vLLM's keys in `object`. detailed: the lists per request too (run must be the report's). */
int bench_report_to_json(struct bench_report *report, const struct bench_report_opts *opts, const struct bench_run *run, bool is_detailed,
                         json_t *object, struct err *err);

#endif
