/* Metrics, table and JSON of a run; see report.h. */
#include "bench/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_COLUMNS = 50, MOST_SECONDS = 1 << 20 };

static const struct {
    const char *key, *label, *title;
} metric_names[BENCH_METRIC_COUNT] = {{"ttft", "TTFT", "Time to First Token"},
                                      {"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
                                      {"itl", "ITL", "Inter-token Latency"},
                                      {"e2el", "E2EL", "End-to-end Latency"}};

static int find_metric(const char *name, size_t len) {
    for (int m = 0; m < BENCH_METRIC_COUNT; m++)
        if (strlen(metric_names[m].key) == len && memcmp(metric_names[m].key, name, len) == 0)
            return m;
    return -1;
}

int bench_report_parse_metrics(const char *text, struct bench_report_opts *opts, struct err *err) {
    bool shows[BENCH_METRIC_COUNT] = {false};
    for (const char *at = text; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        int metric = find_metric(at, strcspn(at, ","));
        if (metric < 0)
            return err_set(err, ERR_INVALID, "'%.*s' is no metric; possible are ttft, tpot, itl, e2el", (int)strcspn(at, ","), at);
        shows[metric] = true;
    }
    memcpy(opts->shows, shows, sizeof opts->shows);
    return 0;
}

int bench_report_parse_percentiles(const char *text, struct bench_report_opts *opts, struct err *err) {
    int n = 0;
    for (const char *at = text; *at != '\0';) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || (*end != ',' && *end != '\0') || !(value >= 0 && value <= 100))
            return err_set(err, ERR_INVALID, "'%s' should be percentiles from 0 to 100, such as 50,99", text);
        if (n == BENCH_MOST_PERCENTILES)
            return err_set(err, ERR_LIMIT, "more than %d percentiles", (int)BENCH_MOST_PERCENTILES);
        opts->percentiles[n++] = value;
        at = *end == ',' ? end + 1 : end;
    }
    opts->n_percentiles = n;
    return 0;
}

int bench_report_parse_goodput(const char *text, struct bench_report_opts *opts, struct err *err) {
    size_t len = strcspn(text, ":");
    int metric = find_metric(text, len);
    char *end = NULL;
    double limit_ms = text[len] == ':' ? strtod(text + len + 1, &end) : 0;
    if (metric < 0 || metric == BENCH_ITL || end == NULL || *end != '\0' || !(limit_ms > 0))
        return err_set(err, ERR_INVALID, "'%s' should be ttft, tpot or e2el and milliseconds, such as ttft:500", text);
    opts->goodput_ms[metric] = limit_ms;
    return 0;
}

static bool asks_goodput(const struct bench_report_opts *opts) {
    for (int m = 0; m < BENCH_METRIC_COUNT; m++)
        if (opts->goodput_ms[m] > 0)
            return true;
    return false;
}

static int add_request(struct bench_report *report, const struct bench_record *record, const struct bench_report_opts *opts,
                       struct err *err) {
    double values_ms[BENCH_METRIC_COUNT] = {[BENCH_TTFT] = record->ttft_s * 1000, [BENCH_E2EL] = record->latency_s * 1000};
    bool is_good = true;
    if (record->n_output > 1)
        values_ms[BENCH_TPOT] = (record->latency_s - record->ttft_s) * 1000 / (record->n_output - 1);
    for (int m = 0; m < BENCH_METRIC_COUNT; m++) {
        bool has_value = m != BENCH_ITL && (m != BENCH_TPOT || record->n_output > 1);
        if (has_value && bench_samples_add(&report->metrics_ms[m], values_ms[m], err) != 0)
            return -1;
        is_good &= opts->goodput_ms[m] == 0 || values_ms[m] <= opts->goodput_ms[m];
    }
    for (int i = 0; i < record->n_gaps; i++)
        if (bench_samples_add(&report->metrics_ms[BENCH_ITL], record->gaps_s[i] * 1000, err) != 0)
            return -1;
    report->n_good += is_good;
    report->n_input += record->n_prompt;
    report->n_output += record->n_output;
    return 0;
}

/* Chunks by the second in which they came. */
static int find_peak_output(const struct bench_run *run, struct bench_report *report, struct err *err) {
    int n_seconds = run->duration_s < MOST_SECONDS ? (int)run->duration_s + 1 : MOST_SECONDS;
    int *counts = calloc((size_t)n_seconds, sizeof *counts);
    if (counts == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d seconds", n_seconds);
    for (int i = 0; i < run->n; i++) {
        const struct bench_record *record = &run->records[i];
        double at_s = record->start_s + record->ttft_s;
        for (int gap = -1; record->outcome == BENCH_DONE && gap < record->n_gaps; gap++) {
            at_s += gap >= 0 ? record->gaps_s[gap] : 0;
            int second = at_s < n_seconds ? (int)at_s : n_seconds - 1;
            if (++counts[second] > report->peak_output_per_s)
                report->peak_output_per_s = counts[second];
        }
    }
    free(counts);
    return 0;
}

/* Records are in order of their starts: at each start, the earlier ones that still run. */
static int find_peak_concurrency(const struct bench_run *run, struct bench_report *report, struct err *err) {
    struct bench_samples ends = {0};
    for (int i = 0; i < run->n; i++)
        if (run->records[i].outcome == BENCH_DONE &&
            bench_samples_add(&ends, run->records[i].start_s + run->records[i].latency_s, err) != 0) {
            bench_samples_finish(&ends);
            return -1;
        }
    bench_samples_percentile(&ends, 0); /* sorts */
    int n_begun = 0, n_ended = 0;
    for (int i = 0; i < run->n; i++) {
        if (run->records[i].outcome != BENCH_DONE)
            continue;
        n_begun++;
        while (n_ended < ends.n && ends.values[n_ended] <= run->records[i].start_s)
            n_ended++;
        if (n_begun - n_ended > report->peak_concurrency)
            report->peak_concurrency = n_begun - n_ended;
    }
    bench_samples_finish(&ends);
    return 0;
}

int bench_report_make(const struct bench_run *run, const struct bench_report_opts *opts, struct bench_report *ret, struct err *err) {
    struct bench_report report = {.duration_s = run->duration_s};
    for (int i = 0; i < run->n; i++) {
        const struct bench_record *record = &run->records[i];
        report.n_done += record->outcome == BENCH_DONE;
        report.n_failed += record->outcome == BENCH_FAILED;
        report.n_cut += record->outcome == BENCH_CUT || record->outcome == BENCH_NOT_SENT;
        if (record->outcome == BENCH_FAILED && report.first_error == NULL)
            report.first_error = record->error;
        if (record->outcome == BENCH_DONE && add_request(&report, record, opts, err) != 0)
            goto finish_report;
    }
    if (find_peak_output(run, &report, err) != 0 || find_peak_concurrency(run, &report, err) != 0)
        goto finish_report;
    *ret = report;
    return 0;
finish_report:
    bench_report_finish(&report);
    return -1;
}

void bench_report_finish(struct bench_report *report) {
    for (int m = 0; m < BENCH_METRIC_COUNT; m++)
        bench_samples_finish(&report->metrics_ms[m]);
}

static double per_s(double amount, double duration_s) { return duration_s > 0 ? amount / duration_s : 0; }

/* The title in the middle of a line of `fill`; the odd column goes to the right. */
static void print_title(FILE *out, const char *title, char fill) {
    int left = (TABLE_COLUMNS - (int)strlen(title)) / 2;
    for (int i = 0; i < left; i++)
        fputc(fill, out);
    fputs(title, out);
    for (int i = left + (int)strlen(title); i < TABLE_COLUMNS; i++)
        fputc(fill, out);
    fputc('\n', out);
}

static void print_count(FILE *out, const char *label, int64_t value) { fprintf(out, "%-40s %-10lld\n", label, (long long)value); }

static void print_value(FILE *out, const char *label, double value) { fprintf(out, "%-40s %-10.2f\n", label, value); }

static void print_metric(FILE *out, struct bench_samples *samples, const struct bench_report_opts *opts, int metric) {
    const char *label = metric_names[metric].label;
    char line[64];
    print_title(out, metric_names[metric].title, '-');
    snprintf(line, sizeof line, "Mean %s (ms):", label);
    print_value(out, line, bench_samples_mean(samples));
    snprintf(line, sizeof line, "Median %s (ms):", label);
    print_value(out, line, bench_samples_percentile(samples, 50));
    for (int i = 0; i < opts->n_percentiles; i++) {
        snprintf(line, sizeof line, "P%g %s (ms):", opts->percentiles[i], label);
        print_value(out, line, bench_samples_percentile(samples, opts->percentiles[i]));
    }
}

void bench_report_print(struct bench_report *report, const struct bench_report_opts *opts, FILE *out) {
    double s = report->duration_s;
    print_title(out, " Serving Benchmark Result ", '=');
    print_count(out, "Successful requests:", report->n_done);
    print_count(out, "Failed requests:", report->n_failed);
    if (report->n_cut > 0)
        print_count(out, "Requests cut off:", report->n_cut);
    if (opts->max_concurrency > 0)
        print_count(out, "Maximum request concurrency:", opts->max_concurrency);
    if (!isinf(opts->rate_per_s))
        print_value(out, "Request rate configured (RPS):", opts->rate_per_s);
    print_value(out, "Benchmark duration (s):", s);
    print_count(out, "Total input tokens:", report->n_input);
    print_count(out, "Total generated tokens:", report->n_output);
    print_value(out, "Request throughput (req/s):", per_s(report->n_done, s));
    if (asks_goodput(opts))
        print_value(out, "Request goodput (req/s):", per_s(report->n_good, s));
    print_value(out, "Output token throughput (tok/s):", per_s((double)report->n_output, s));
    print_value(out, "Peak output token throughput (tok/s):", report->peak_output_per_s);
    print_value(out, "Peak concurrent requests:", report->peak_concurrency);
    print_value(out, "Total token throughput (tok/s):", per_s((double)(report->n_input + report->n_output), s));
    for (int m = 0; m < BENCH_METRIC_COUNT; m++)
        if (opts->shows[m])
            print_metric(out, &report->metrics_ms[m], opts, m);
    print_title(out, "", '=');
    if (report->first_error != NULL)
        fprintf(out, "First error: %s\n", report->first_error);
}

static void set_metric(json_t *object, struct bench_samples *samples, const struct bench_report_opts *opts, int metric) {
    const char *key = metric_names[metric].key;
    char name[64];
    snprintf(name, sizeof name, "mean_%s_ms", key);
    json_object_set_new(object, name, json_real(bench_samples_mean(samples)));
    snprintf(name, sizeof name, "median_%s_ms", key);
    json_object_set_new(object, name, json_real(bench_samples_percentile(samples, 50)));
    snprintf(name, sizeof name, "std_%s_ms", key);
    json_object_set_new(object, name, json_real(bench_samples_deviation(samples)));
    for (int i = 0; i < opts->n_percentiles; i++) {
        snprintf(name, sizeof name, "p%g_%s_ms", opts->percentiles[i], key);
        json_object_set_new(object, name, json_real(bench_samples_percentile(samples, opts->percentiles[i])));
    }
}

static void set_details(json_t *object, const struct bench_run *run) {
    static const char *const keys[] = {"input_lens",      "output_lens", "ttfts",     "itls",       "start_times",
                                       "generated_texts", "errors",      "latencies", "queue_times"};
    enum { N_KEYS = sizeof keys / sizeof keys[0] };
    json_t *lists[N_KEYS];
    for (int k = 0; k < N_KEYS; k++)
        json_object_set_new(object, keys[k], lists[k] = json_array());
    for (int i = 0; i < run->n; i++) {
        const struct bench_record *record = &run->records[i];
        bool is_done = record->outcome == BENCH_DONE;
        json_t *gaps = json_array();
        for (int g = 0; g < record->n_gaps; g++)
            json_array_append_new(gaps, json_real(record->gaps_s[g]));
        json_array_append_new(lists[0], json_integer(record->n_prompt));
        json_array_append_new(lists[1], json_integer(is_done ? record->n_output : 0));
        json_array_append_new(lists[2], json_real(record->ttft_s));
        json_array_append_new(lists[3], gaps);
        json_array_append_new(lists[4], json_real(record->start_s));
        json_array_append_new(lists[5], json_string(record->text != NULL ? record->text : ""));
        json_array_append_new(lists[6], json_string(is_done ? "" : record->outcome == BENCH_FAILED ? record->error : "cut off"));
        json_array_append_new(lists[7], json_real(record->latency_s));
        json_array_append_new(lists[8], json_real(record->queued_s));
    }
}

int bench_report_to_json(struct bench_report *report, const struct bench_report_opts *opts, const struct bench_run *run, bool is_detailed,
                         json_t *object, struct err *err) {
    double s = report->duration_s;
    json_t *result =
        json_pack("{s:f, s:i, s:i, s:I, s:I, s:f, s:o, s:f, s:f, s:f, s:i}", "duration", s, "completed", report->n_done, "failed",
                  report->n_failed, "total_input_tokens", (json_int_t)report->n_input, "total_output_tokens",
                  (json_int_t)report->n_output, "request_throughput", per_s(report->n_done, s), "request_goodput",
                  asks_goodput(opts) ? json_real(per_s(report->n_good, s)) : json_null(), "output_throughput",
                  per_s((double)report->n_output, s), "total_token_throughput", per_s((double)(report->n_input + report->n_output), s),
                  "max_output_tokens_per_s", report->peak_output_per_s, "max_concurrent_requests", report->peak_concurrency);
    if (result == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the results");
    for (int m = 0; m < BENCH_METRIC_COUNT; m++)
        if (opts->shows[m])
            set_metric(result, &report->metrics_ms[m], opts, m);
    if (is_detailed)
        set_details(result, run);
    json_object_update(object, result);
    json_decref(result);
    return 0;
}
