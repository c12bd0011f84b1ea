/*
 * Counters and histograms of requests, and their Prometheus text under vLLM's names. Any thread: a lock guards them.
 */
#ifndef API_METRICS_H
#define API_METRICS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "engine/engine.h"

struct api_metrics;

enum api_finish { API_FINISH_STOP, API_FINISH_LENGTH, API_FINISH_ABORT, API_FINISH_ERROR, API_FINISH_COUNT };

/* One histogram each; times in seconds. */
enum api_histogram {
    API_TIME_TO_FIRST_TOKEN,
    API_INTER_TOKEN_LATENCY,
    API_TIME_PER_OUTPUT_TOKEN,
    API_E2E_LATENCY,
    API_QUEUE_TIME,     /* until the first step */
    API_INFERENCE_TIME, /* from there to the last token */
    API_PREFILL_TIME,   /* … to the first token */
    API_DECODE_TIME,    /* … between the first token and the last */
    API_PROMPT_TOKENS,
    API_GENERATION_TOKENS,
    API_PARAMS_N,
    API_PARAMS_MAX_TOKENS,
    API_HISTOGRAM_COUNT
};

int api_metrics_create(const char *model_name, struct api_metrics **ret, struct err *err);
void api_metrics_destroy(struct api_metrics *metrics); /* accepts NULL */

void api_metrics_observe(struct api_metrics *metrics, enum api_histogram which, double value);
void api_metrics_finish(struct api_metrics *metrics, enum api_finish why);
/* A request that generates begins (+1) or ends (-1). */
void api_metrics_load(struct api_metrics *metrics, int change);
int api_metrics_load_read(struct api_metrics *metrics);
/* An answer was given: route is one of ours or "none". */
void api_metrics_http(struct api_metrics *metrics, const char *route, const char *method, int status);

/* Appends the whole text. */
void api_metrics_text(struct api_metrics *metrics, const struct engine_stats *stats, struct buf *out);

#endif
