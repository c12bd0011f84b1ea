/* Counters and histograms; see metrics.h. */
#include "api/metrics.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "base/clock.h"

enum { MAX_BUCKETS = 24, MAX_HTTP_ROWS = 64, LABEL_BYTES = 512 };

static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double token_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double request_bounds[] = {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double length_bounds[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
static const double n_bounds[] = {1, 2, 5, 10, 20};

#define BOUNDS(list) list, sizeof list / sizeof list[0]
static const struct {
    const char *name, *help;
    const double *bounds;
    size_t n_bounds;
} shapes[API_HISTOGRAM_COUNT] = {
    [API_TIME_TO_FIRST_TOKEN] = {"time_to_first_token_seconds", "Histogram of time to first token in seconds.", BOUNDS(ttft_bounds)},
    [API_INTER_TOKEN_LATENCY] = {"inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", BOUNDS(token_bounds)},
    [API_TIME_PER_OUTPUT_TOKEN] = {"request_time_per_output_token_seconds", "Histogram of time_per_output_token_seconds per request.",
                                   BOUNDS(token_bounds)},
    [API_E2E_LATENCY] = {"e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", BOUNDS(request_bounds)},
    [API_QUEUE_TIME] = {"request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", BOUNDS(request_bounds)},
    [API_INFERENCE_TIME] = {"request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", BOUNDS(request_bounds)},
    [API_PREFILL_TIME] = {"request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", BOUNDS(request_bounds)},
    [API_DECODE_TIME] = {"request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", BOUNDS(request_bounds)},
    [API_PROMPT_TOKENS] = {"request_prompt_tokens", "Number of prefill tokens processed.", BOUNDS(length_bounds)},
    [API_GENERATION_TOKENS] = {"request_generation_tokens", "Number of generation tokens processed.", BOUNDS(length_bounds)},
    [API_PARAMS_N] = {"request_params_n", "Histogram of the n request parameter.", BOUNDS(n_bounds)},
    [API_PARAMS_MAX_TOKENS] = {"request_params_max_tokens", "Histogram of the max_tokens request parameter.", BOUNDS(length_bounds)},
};

struct histogram {
    uint64_t counts[MAX_BUCKETS + 1]; /* the last: above every bound */
    double sum;
};

struct http_row {
    const char *route;
    char method[8];
    int class; /* 2: 2xx */
    uint64_t count;
};

struct api_metrics {
    pthread_mutex_t lock;
    char labels[LABEL_BYTES]; /* engine="0",model_name="…" */
    struct histogram histograms[API_HISTOGRAM_COUNT];
    uint64_t finished[API_FINISH_COUNT];
    struct http_row http[MAX_HTTP_ROWS];
    int n_http;
    int load;
};

int api_metrics_create(const char *model_name, struct api_metrics **ret, struct err *err) {
    struct api_metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics == NULL)
        return err_set(err, ERR_NOMEM, "no memory for metrics");
    pthread_mutex_init(&metrics->lock, NULL);
    struct buf labels;
    buf_init(&labels, LABEL_BYTES - 1);
    buf_append_str(&labels, "engine=\"0\",model_name=\"");
    for (const char *c = model_name; *c != '\0' && labels.len_bytes < LABEL_BYTES - 8; c++) {
        if (*c == '\\' || *c == '"')
            buf_append_char(&labels, '\\');
        buf_append_char(&labels, *c == '\n' ? ' ' : *c);
    }
    buf_append_char(&labels, '"');
    strcpy(metrics->labels, buf_str(&labels));
    buf_finish(&labels);
    *ret = metrics;
    return 0;
}

void api_metrics_destroy(struct api_metrics *metrics) {
    if (metrics == NULL)
        return;
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

void api_metrics_observe(struct api_metrics *metrics, enum api_histogram which, double value) {
    size_t bucket = 0;
    while (bucket < shapes[which].n_bounds && value > shapes[which].bounds[bucket])
        bucket++;
    pthread_mutex_lock(&metrics->lock);
    metrics->histograms[which].counts[bucket]++;
    metrics->histograms[which].sum += value;
    pthread_mutex_unlock(&metrics->lock);
}

void api_metrics_finish(struct api_metrics *metrics, enum api_finish why) {
    pthread_mutex_lock(&metrics->lock);
    metrics->finished[why]++;
    pthread_mutex_unlock(&metrics->lock);
}

void api_metrics_load(struct api_metrics *metrics, int change) {
    pthread_mutex_lock(&metrics->lock);
    metrics->load += change;
    pthread_mutex_unlock(&metrics->lock);
}

int api_metrics_load_read(struct api_metrics *metrics) {
    pthread_mutex_lock(&metrics->lock);
    int load = metrics->load;
    pthread_mutex_unlock(&metrics->lock);
    return load;
}

void api_metrics_http(struct api_metrics *metrics, const char *route, const char *method, int status) {
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"};
    const char *known = "other"; /* a client must not be able to make rows without end */
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(methods[i], method) == 0)
            known = methods[i];
    pthread_mutex_lock(&metrics->lock);
    int at = 0;
    while (at < metrics->n_http && (strcmp(metrics->http[at].route, route) != 0 || strcmp(metrics->http[at].method, known) != 0 ||
                                    metrics->http[at].class != status / 100))
        at++;
    if (at == metrics->n_http && at < MAX_HTTP_ROWS) {
        metrics->http[at] = (struct http_row){.route = route, .class = status / 100};
        strcpy(metrics->http[at].method, known);
        metrics->n_http++;
    }
    if (at < metrics->n_http)
        metrics->http[at].count++;
    pthread_mutex_unlock(&metrics->lock);
}

static void head(struct buf *out, const char *name, const char *type, const char *help) {
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct buf *out, const char *labels, const char *name, const char *type, const char *help, double value) {
    char number[32];
    head(out, name, type, help);
    buf_printf(out, "%s{%s} %s\n", name, labels, api_repr_double(value, number));
}

/* counts[n_bounds + 1]: the last is above every bound. */
static void histogram_text(struct buf *out, const char *labels, const char *name, const char *help, const double *bounds, size_t n_bounds,
                           const uint64_t *counts, double sum) {
    char number[32];
    uint64_t total = 0;
    head(out, name, "histogram", help);
    for (size_t i = 0; i <= n_bounds; i++) {
        total += counts[i];
        const char *bound = i < n_bounds ? api_repr_double(bounds[i], number) : "+Inf";
        buf_printf(out, "%s_bucket{le=\"%s\",%s} %llu.0\n", name, bound, labels, (unsigned long long)total);
    }
    buf_printf(out, "%s_count{%s} %llu.0\n%s_sum{%s} %s\n", name, labels, (unsigned long long)total, name, labels,
               api_repr_double(sum, number));
}

static void step_tokens_text(struct buf *out, const char *labels, const struct engine_stats *stats) {
    double bounds[ENGINE_N_STEP_BOUNDS];
    for (int i = 0; i < ENGINE_N_STEP_BOUNDS; i++)
        bounds[i] = engine_step_bound(i);
    histogram_text(out, labels, "vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", bounds,
                   ENGINE_N_STEP_BOUNDS, stats->step_tokens_counts, (double)stats->step_tokens);
}

void api_metrics_text(struct api_metrics *metrics, const struct engine_stats *stats, struct buf *out) {
    static const char *const reasons[API_FINISH_COUNT] = {"stop", "length", "abort", "error"};
    const char *labels = metrics->labels;
    pthread_mutex_lock(&metrics->lock);
    single(out, labels, "vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", stats->n_running);
    single(out, labels, "vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", stats->n_waiting);
    single(out, labels, "vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", stats->kv_usage);
    single(out, labels, "vllm:prefix_cache_queries_total", "counter", "Prefix cache queries, in terms of number of queried tokens.",
           (double)stats->prefix_queries);
    single(out, labels, "vllm:prefix_cache_hits_total", "counter", "Prefix cache hits, in terms of number of cached tokens.",
           (double)stats->prefix_hits);
    single(out, labels, "vllm:num_preemptions_total", "counter", "Cumulative number of preemption from the engine.",
           (double)stats->preemptions);
    single(out, labels, "vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", (double)stats->prompt_tokens);
    single(out, labels, "vllm:generation_tokens_total", "counter", "Number of generation tokens processed.",
           (double)stats->generation_tokens);
    single(out, labels, "shoal:engine_steps_total", "counter", "Steps that the ranks have computed.", (double)stats->steps);
    single(out, labels, "shoal:step_seconds_total", "counter", "Time in which steps were under way.", stats->step_seconds_sum);
    single(out, labels, "shoal:driver_seconds_total", "counter", "Processor time that the driver took for planning steps and handing out tokens.",
           stats->driver_seconds_sum);
    single(out, labels, "shoal:dropped_connections_total", "counter", "Foreign or broken connections that the port of the launch has dropped.",
           (double)stats->dropped_connections);
    head(out, "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
    buf_printf(out, "process_cpu_seconds_total %.6f\n", (double)clock_process_ns() * 1e-9);
    head(out, "vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig");
    buf_printf(out, "vllm:cache_config_info{block_size=\"%d\",enable_prefix_caching=\"%s\",num_gpu_blocks=\"%d\",%s} 1.0\n", stats->block_size,
               stats->caches_prefixes ? "True" : "False", stats->n_blocks, labels);
    head(out, "vllm:request_success_total", "counter", "Count of successfully processed requests.");
    for (int i = 0; i < API_FINISH_COUNT; i++)
        buf_printf(out, "vllm:request_success_total{finished_reason=\"%s\",%s} %llu.0\n", reasons[i], labels,
                   (unsigned long long)metrics->finished[i]);
    step_tokens_text(out, labels, stats);
    for (int i = 0; i < API_HISTOGRAM_COUNT; i++) {
        char name[96];
        snprintf(name, sizeof name, "vllm:%s", shapes[i].name);
        histogram_text(out, labels, name, shapes[i].help, shapes[i].bounds, shapes[i].n_bounds, metrics->histograms[i].counts,
                       metrics->histograms[i].sum);
    }
    head(out, "http_requests_total", "counter", "Total number of requests by method, status and handler.");
    for (int i = 0; i < metrics->n_http; i++)
        buf_printf(out, "http_requests_total{handler=\"%s\",method=\"%s\",status=\"%dxx\"} %llu.0\n", metrics->http[i].route,
                   metrics->http[i].method, metrics->http[i].class, (unsigned long long)metrics->http[i].count);
    pthread_mutex_unlock(&metrics->lock);
}
