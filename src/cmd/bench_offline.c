/*
 * `shoal bench latency` and `shoal bench throughput`: a launch as of `shoal serve`, and requests straight into its engine. Main thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rand.h"
#include "bench/samples.h"
#include "cmd/bench_commands.h"
#include "cmd/commands.h"
#include "cmd/launch.h"
#include "cmd/stop_signal.h"
#include "http/client.h"

enum { WAIT_MS = 250, BROKEN_WAIT_MS = 500 };

/* What one measurement needs: a launch whose options are those of the command, but without the serving log. */
struct offline {
    struct options options;
    struct cmd_launch launch;
};

static int start(struct offline *offline, const struct options *options, struct err *err) {
    offline->options = *options;
    offline->options.disable_log_stats = true;
    return http_client_setup(err) != 0 || cmd_launch_open(&offline->options, stop_signal_came, &offline->launch, err) != 0 ? -1 : 0;
}

/* A worker's end says more than the connection that broke with it. */
static int explain_failure(struct offline *offline, struct err *err) {
    struct err why;
    if (cluster_poll(offline->launch.cluster, &why) == 0) {
        clock_nap_ms(BROKEN_WAIT_MS);
        if (cluster_poll(offline->launch.cluster, &why) == 0)
            return -1;
    }
    return err_copy(err, &why);
}

/* Submits all at once and reads until the last has finished. */
static int run_batch(struct offline *offline, const struct engine_request *requests, int n, double *ret_seconds, int64_t *ret_tokens,
                     struct err *err) {
    struct engine_stream *stream;
    struct engine_event event;
    int64_t n_tokens = 0, start_ns = clock_mono_ns();
    int got;
    if (engine_submit(offline->launch.engine, requests, n, &stream, err) != 0)
        return -1;
    while ((got = engine_stream_next(stream, WAIT_MS, &event, err)) >= 0) {
        n_tokens += got == 1 && event.type == ENGINE_EVENT_TOKEN;
        if (stop_signal_came(NULL)) {
            err_set(err, ERR_CANCELLED, "stopped before the end");
            break;
        }
        if (got == 0 && cluster_poll(offline->launch.cluster, err) != 0)
            break;
    }
    double seconds = (double)(clock_mono_ns() - start_ns) * 1e-9;
    engine_stream_close(stream);
    if (got != -1)
        return got == -2 ? explain_failure(offline, err) : -1;
    *ret_seconds = seconds;
    *ret_tokens = n_tokens;
    return 0;
}

static struct exec_sampling sampling_of(int n_output, uint64_t seed) {
    return (struct exec_sampling){.temperature = 1,
                                  .top_p = 1,
                                  .repetition_penalty = 1,
                                  .seed = seed,
                                  .max_tokens = n_output,
                                  .ignore_eos = true,
                                  .n_logprobs = -1,
                                  .n_prompt_logprobs = -1};
}

/* Requests for the prompts, each with its own sampling; free with free_requests. */
static int make_requests(const struct bench_prompts *prompts, int n_choices, uint64_t seed, struct engine_request **ret_requests,
                         struct exec_sampling **ret_sampling, struct err *err) {
    struct engine_request *requests = calloc((size_t)prompts->n, sizeof *requests);
    struct exec_sampling *sampling = calloc((size_t)prompts->n, sizeof *sampling);
    if (requests == NULL || sampling == NULL) {
        free(requests);
        free(sampling);
        return err_set(err, ERR_NOMEM, "no memory for %d requests", prompts->n);
    }
    for (int i = 0; i < prompts->n; i++) {
        sampling[i] = sampling_of(prompts->items[i].n_output, rand_ctr_u64(seed, (uint64_t)i));
        requests[i] = (struct engine_request){
            .prompt = prompts->items[i].ids, .n_prompt = prompts->items[i].n_tokens, .n_choices = n_choices, .sampling = &sampling[i]};
    }
    *ret_requests = requests;
    *ret_sampling = sampling;
    return 0;
}

static int run_prompts(struct offline *offline, const struct bench_prompts *prompts, double *ret_seconds, int64_t *ret_tokens,
                       struct err *err) {
    struct engine_request *requests;
    struct exec_sampling *sampling;
    if (make_requests(prompts, (int)offline->options.bench.n, offline->options.seed, &requests, &sampling, err) != 0)
        return -1;
    int result = run_batch(offline, requests, prompts->n, ret_seconds, ret_tokens, err);
    free(requests);
    free(sampling);
    return result;
}

static int check_len(const struct offline *offline, const struct bench_prompts *prompts, struct err *err) {
    for (int i = 0; i < prompts->n; i++)
        if (prompts->items[i].n_tokens + prompts->items[i].n_output > offline->launch.max_model_len)
            return err_set(err, ERR_INVALID, "a prompt of %d tokens and %d of its answer do not fit --max-model-len %d",
                           prompts->items[i].n_tokens, prompts->items[i].n_output, offline->launch.max_model_len);
    return 0;
}

/* One batch of fresh prompts: no cache of prefixes can have them. */
static int run_iteration(struct offline *offline, int iteration, double *ret_seconds, struct err *err) {
    const struct options *o = &offline->options;
    struct bench_prompts_opts opts = {.n = (int)o->bench.batch_size,
                                      .seed = rand_ctr_u64(o->seed, (uint64_t)iteration),
                                      .n_vocab = offline->launch.files.config.n_vocab,
                                      .input_len = (int)o->bench.input_len,
                                      .output_len = (int)o->bench.output_len};
    struct bench_prompts prompts;
    int64_t n_tokens;
    if (bench_prompts_make("random", &opts, &prompts, err) != 0)
        return -1;
    int result = check_len(offline, &prompts, err);
    if (result == 0)
        result = run_prompts(offline, &prompts, ret_seconds, &n_tokens, err);
    bench_prompts_finish(&prompts);
    return result;
}

static int report_latency(struct bench_samples *seconds, const char *path, struct err *err) {
    static const int percents[] = {10, 25, 50, 75, 90, 99};
    json_t *latencies = json_array(), *percentiles = json_object();
    for (int i = 0; i < seconds->n; i++)
        json_array_append_new(latencies, json_real(seconds->values[i]));
    printf("Avg latency: %.6f seconds\nStd latency: %.6f seconds\n", bench_samples_mean(seconds), bench_samples_deviation(seconds));
    for (size_t i = 0; i < sizeof percents / sizeof percents[0]; i++) {
        char key[8];
        double value = bench_samples_percentile(seconds, percents[i]);
        snprintf(key, sizeof key, "%d", percents[i]);
        printf("%d%% percentile latency: %.6f seconds\n", percents[i], value);
        json_object_set_new(percentiles, key, json_real(value));
    }
    json_t *json = json_pack("{s:f, s:f, s:o, s:o}", "avg_latency", bench_samples_mean(seconds), "std_latency",
                             bench_samples_deviation(seconds), "latencies", latencies, "percentiles", percentiles);
    int result = json == NULL ? err_set(err, ERR_NOMEM, "no memory for the results") : 0;
    if (result == 0 && path != NULL)
        result = cmd_bench_save(path, json, err);
    json_decref(json);
    return result;
}

static int measure_latency(struct offline *offline, struct err *err) {
    const struct options *o = &offline->options;
    struct bench_samples seconds = {0};
    int n_warmups = (int)o->bench.num_iters_warmup, n = n_warmups + (int)o->bench.num_iters, result = 0;
    for (int i = 0; i < n && result == 0; i++) {
        double one;
        result = run_iteration(offline, i, &one, err);
        if (result == 0 && i >= n_warmups)
            result = bench_samples_add(&seconds, one, err);
    }
    if (seconds.n > 0 && (result == 0 || stop_signal_came(NULL))) { /* a stop shows what there is */
        struct err unsaved;
        int reported = report_latency(&seconds, o->bench.output_json, &unsaved);
        if (result == 0 && reported != 0)
            result = err_copy(err, &unsaved);
    }
    bench_samples_finish(&seconds);
    return result;
}

/* Texts become ids; a prompt of a file has no server that would do it. */
static int encode_texts(const struct offline *offline, struct bench_prompts *prompts, struct err *err) {
    for (int i = 0; i < prompts->n; i++) {
        struct bench_prompt *prompt = &prompts->items[i];
        if (prompt->text == NULL)
            continue;
        struct text_ids ids;
        text_ids_init(&ids, offline->launch.max_model_len);
        if (text_tokenizer_encode(offline->launch.files.tokenizer, prompt->text, strlen(prompt->text), TEXT_ADD_SPECIAL, &ids, err) != 0) {
            text_ids_finish(&ids);
            return err_wrap(err, "prompt %d", i + 1);
        }
        prompt->ids = ids.ids;
        prompt->n_tokens = ids.n_ids;
    }
    return 0;
}

static int report_throughput(const struct bench_prompts *prompts, double seconds, int64_t n_output, const char *path, struct err *err) {
    int64_t n_input = 0;
    for (int i = 0; i < prompts->n; i++)
        n_input += prompts->items[i].n_tokens;
    double requests_per_s = prompts->n / seconds, tokens_per_s = (double)(n_input + n_output) / seconds;
    printf("Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n", requests_per_s, tokens_per_s,
           (double)n_output / seconds);
    printf("Total num prompt tokens:  %lld\nTotal num output tokens:  %lld\n", (long long)n_input, (long long)n_output);
    if (path == NULL)
        return 0;
    json_t *json = json_pack("{s:f, s:i, s:I, s:f, s:f, s:f}", "elapsed_time", seconds, "num_requests", prompts->n, "total_num_tokens",
                             (json_int_t)(n_input + n_output), "requests_per_second", requests_per_s, "tokens_per_second", tokens_per_s,
                             "output_tokens_per_second", (double)n_output / seconds);
    int result = json == NULL ? err_set(err, ERR_NOMEM, "no memory for the results") : cmd_bench_save(path, json, err);
    json_decref(json);
    return result;
}

static int measure_throughput(struct offline *offline, struct err *err) {
    const struct options *o = &offline->options;
    struct bench_prompts_opts opts = cmd_bench_prompts_opts(o);
    struct bench_prompts prompts;
    double seconds;
    int64_t n_output;
    opts.n_vocab = offline->launch.files.config.n_vocab;
    opts.tokenizer = offline->launch.files.tokenizer;
    if (bench_prompts_make(o->bench.dataset_name, &opts, &prompts, err) != 0)
        return err_wrap(err, "prompts");
    int result = encode_texts(offline, &prompts, err);
    if (result == 0)
        result = check_len(offline, &prompts, err);
    if (result == 0)
        result = run_prompts(offline, &prompts, &seconds, &n_output, err);
    if (result == 0)
        result = report_throughput(&prompts, seconds, n_output, o->bench.output_json, err);
    bench_prompts_finish(&prompts);
    return result;
}

static int run_offline(const struct options *options, int (*measure)(struct offline *offline, struct err *err)) {
    struct offline offline = {0};
    struct err err;
    int result = start(&offline, options, &err);
    if (result == 0)
        result = cmd_launch_start(&offline.launch, &err);
    if (result == 0)
        result = measure(&offline, &err);
    if (result != 0) {
        fflush(stdout);
        log_error("%s", err.msg);
    }
    cmd_launch_close(&offline.launch);
    return result == 0 ? 0 : CMD_EXIT_FAILURE;
}

int cmd_bench_latency(const struct options *options) { return run_offline(options, measure_latency); }

int cmd_bench_throughput(const struct options *options) { return run_offline(options, measure_throughput); }
