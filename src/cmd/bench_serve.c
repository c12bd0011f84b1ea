/* `shoal bench serve`: options into a load, what comes of it into a table and a file. Main thread. Starts no model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rand.h"
#include "bench/report.h"
#include "cmd/bench_commands.h"
#include "cmd/commands.h"
#include "cmd/stop_signal.h"
#include "http/client.h"
#include "weights/hub.h"
#include "weights/store.h"

enum { URL_BYTES = 1024, MODELS_LIMIT = 4 << 20, MODELS_TIMEOUT_MS = 30000, MODELS_GAP_MS = 500, MOST_HEADERS = OPTIONS_MAX_LIST + 1 };

/* What is made from the options before the load, and freed after it. */
struct plan {
    const struct options *options;
    bool is_chat;
    char base_url[URL_BYTES], url[URL_BYTES + 256], id_prefix[64];
    char *model; /* as requests name it */
    char *headers[MOST_HEADERS + 1];
    int n_headers;
    json_t *extra;
    struct weights_store *store; /* a GGUF file's, while its tokenizer is used */
    struct text_tokenizer *tokenizer;
    struct bench_prompts prompts;
    struct bench_report_opts report;
    int n_spare;
};

static int parse_numbers(struct plan *plan, struct err *err) {
    const struct options *o = plan->options;
    char *end;
    double rate = strtod(o->bench.request_rate, &end);
    if (end == o->bench.request_rate || *end != '\0' || !(rate > 0))
        return err_set(err, ERR_INVALID, "--request-rate should be requests per second or inf, but is '%s'", o->bench.request_rate);
    plan->report.rate_per_s = rate;
    plan->report.max_concurrency = (int)o->bench.max_concurrency;
    if (bench_report_parse_metrics(o->bench.percentile_metrics, &plan->report, err) != 0)
        return err_wrap(err, "--percentile-metrics");
    if (bench_report_parse_percentiles(o->bench.metric_percentiles, &plan->report, err) != 0)
        return err_wrap(err, "--metric-percentiles");
    for (int i = 0; i < o->bench.goodput.n; i++)
        if (bench_report_parse_goodput(o->bench.goodput.items[i], &plan->report, err) != 0)
            return err_wrap(err, "--goodput");
    for (int i = 0; i < o->bench.metadata.n; i++)
        if (strchr(o->bench.metadata.items[i], '=') == NULL)
            return err_set(err, ERR_INVALID, "--metadata should be KEY=VALUE, but is '%s'", o->bench.metadata.items[i]);
    return 0;
}

static int make_urls(struct plan *plan, struct err *err) {
    const struct options *o = plan->options;
    const char *endpoint = o->bench.endpoint;
    if (endpoint == NULL)
        endpoint = plan->is_chat ? "/v1/chat/completions" : "/v1/completions";
    bool is_v6 = strchr(o->bench.host, ':') != NULL && o->bench.host[0] != '[';
    int len = o->bench.base_url != NULL ? snprintf(plan->base_url, sizeof plan->base_url, "%s", o->bench.base_url)
                                        : snprintf(plan->base_url, sizeof plan->base_url, "http://%s%s%s:%d", is_v6 ? "[" : "",
                                                   o->bench.host, is_v6 ? "]" : "", (int)o->bench.port);
    if (len >= URL_BYTES)
        return err_set(err, ERR_INVALID, "the server's address is longer than %d bytes", (int)URL_BYTES - 1);
    while (len > 0 && plan->base_url[len - 1] == '/')
        plan->base_url[--len] = '\0';
    if (snprintf(plan->url, sizeof plan->url, "%s%s%s", plan->base_url, endpoint[0] == '/' ? "" : "/", endpoint) >= (int)sizeof plan->url)
        return err_set(err, ERR_INVALID, "--endpoint '%.40s…' is too long", endpoint);
    return 0;
}

static int add_header(struct plan *plan, const char *name, int name_len, const char *value, struct err *err) {
    size_t size = (size_t)name_len + strlen(value) + 3;
    char *line = malloc(size);
    if (line == NULL)
        return err_set(err, ERR_NOMEM, "no memory for headers");
    snprintf(line, size, "%.*s: %s", name_len, name, value);
    plan->headers[plan->n_headers++] = line;
    return 0;
}

static int make_headers(struct plan *plan, struct err *err) {
    const struct options_list *list = &plan->options->bench.header;
    const char *key = getenv("OPENAI_API_KEY");
    uint64_t id;
    for (int i = 0; i < list->n; i++) {
        const char *equals = strchr(list->items[i], '=');
        if (equals == NULL)
            return err_set(err, ERR_INVALID, "--header should be KEY=VALUE, but is '%s'", list->items[i]);
        if (add_header(plan, list->items[i], (int)(equals - list->items[i]), equals + 1, err) != 0)
            return -1;
    }
    if (plan->options->bench.request_id_prefix != NULL)
        snprintf(plan->id_prefix, sizeof plan->id_prefix, "%s", plan->options->bench.request_id_prefix);
    else if (rand_secret(&id, sizeof id, err) == 0)
        snprintf(plan->id_prefix, sizeof plan->id_prefix, "bench-%08x-", (unsigned)id);
    else
        return -1;
    if (key == NULL || *key == '\0')
        return 0;
    char bearer[1024];
    snprintf(bearer, sizeof bearer, "Bearer %s", key);
    return add_header(plan, "Authorization", 13, bearer, err);
}

static void set_sampling(struct plan *plan) {
    const struct options *o = plan->options;
    plan->extra = json_object();
    if (o->bench.temperature >= 0)
        json_object_set_new(plan->extra, "temperature", json_real(o->bench.temperature));
    if (o->bench.top_p >= 0)
        json_object_set_new(plan->extra, "top_p", json_real(o->bench.top_p));
    if (o->bench.top_k >= 0)
        json_object_set_new(plan->extra, "top_k", json_integer(o->bench.top_k));
    if (o->bench.min_p >= 0)
        json_object_set_new(plan->extra, "min_p", json_real(o->bench.min_p));
    if (o->bench.extra_body != NULL)
        json_object_update(plan->extra, o->bench.extra_body);
}

/* The first name that the server lists. ERR_PEER while nobody listens. */
static int ask_model_once(struct plan *plan, struct err *err) {
    char url[URL_BYTES + 16];
    struct http_answer answer = {0};
    int result = -1;
    json_t *json = NULL;
    snprintf(url, sizeof url, "%s/v1/models", plan->base_url);
    struct http_call call = {.method = "GET", .url = url, .headers = (const char *const *)plan->headers, .timeout_ms = MODELS_TIMEOUT_MS};
    buf_init(&answer.body, MODELS_LIMIT);
    buf_init(&answer.headers, MODELS_LIMIT);
    if (http_client_call(&call, &answer, err) != 0)
        goto finish_answer;
    json = json_loads(buf_str(&answer.body), 0, NULL);
    const char *name = json_string_value(json_object_get(json_array_get(json_object_get(json, "data"), 0), "id"));
    if (answer.status != 200 || name == NULL)
        err_set(err, ERR_PEER, "%s answers HTTP %d and names no model; --model says which one to ask for", url, answer.status);
    else
        result = (plan->model = strdup(name)) != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory for a model's name");
finish_answer:
    json_decref(json);
    buf_finish(&answer.body);
    buf_finish(&answer.headers);
    return result;
}

/* A server that is being started gets the time of the ready check for this too. */
static int ask_model(struct plan *plan, struct err *err) {
    int64_t deadline_ms = clock_mono_ms() + plan->options->bench.ready_check_timeout_s * 1000;
    int result;
    while ((result = ask_model_once(plan, err)) != 0 && err->code == ERR_PEER && clock_left_ms(deadline_ms) > 0 &&
           !stop_signal_came(NULL))
        clock_nap_ms(MODELS_GAP_MS);
    return result;
}

static int choose_model(struct plan *plan, struct err *err) {
    const struct options *o = plan->options;
    const char *name = o->served_model_name.n > 0 ? o->served_model_name.items[0] : o->model;
    if (name == NULL)
        return ask_model(plan, err);
    plan->model = strdup(name);
    return plan->model != NULL ? 0 : err_set(err, ERR_NOMEM, "no memory for a model's name");
}

/* --tokenizer, or where texts must be made of random tokens the model itself, when it is a path. */
static int open_tokenizer(struct plan *plan, struct err *err) {
    const struct options *o = plan->options;
    bool needs_one = plan->is_chat && strcmp(o->bench.dataset_name, "custom") != 0;
    const char *name = o->tokenizer;
    char path[PATH_MAX], in_folder[PATH_MAX + 16];
    if (name == NULL && needs_one && o->model != NULL && file_exists(o->model))
        name = o->model;
    if (name == NULL)
        return needs_one ? err_set(err, ERR_INVALID, "random prompts for a chat are texts: --tokenizer is missing") : 0;
    if (weights_hub_resolve(name, o->revision, NULL, path, err) != 0)
        return err_wrap(err, "--tokenizer");
    size_t len = strlen(path);
    if (len > 5 && strcmp(path + len - 5, ".gguf") == 0)
        return weights_store_open(path, &plan->store, err) != 0
                   ? -1
                   : text_tokenizer_open_gguf(weights_store_gguf(plan->store), &plan->tokenizer, err);
    snprintf(in_folder, sizeof in_folder, "%s%s", path, file_is_dir(path) ? "/tokenizer.json" : "");
    return text_tokenizer_open_json(in_folder, &plan->tokenizer, err);
}

static int make_prompts(struct plan *plan, struct err *err) {
    const struct options *o = plan->options;
    struct bench_prompts_opts opts = cmd_bench_prompts_opts(o);
    plan->n_spare = (int)o->bench.num_warmups + (o->bench.ready_check_timeout_s > 0);
    opts.n += plan->n_spare;
    opts.tokenizer = plan->tokenizer;
    opts.as_text = plan->tokenizer != NULL;
    opts.n_vocab = plan->tokenizer != NULL ? text_tokenizer_n_vocab(plan->tokenizer) : (int)o->bench.random_vocab;
    if (bench_prompts_make(o->bench.dataset_name, &opts, &plan->prompts, err) != 0)
        return err_wrap(err, "prompts");
    if (plan->prompts.n <= plan->n_spare)
        return err_set(err, ERR_INVALID, "the file has %d prompts, too few besides the %d of check and warm-ups", plan->prompts.n,
                       plan->n_spare);
    return 0;
}

static int make_plan(struct plan *plan, struct err *err) {
    plan->is_chat = strcmp(plan->options->bench.backend, "openai-chat") == 0;
    if (parse_numbers(plan, err) != 0 || make_urls(plan, err) != 0 || make_headers(plan, err) != 0)
        return -1;
    set_sampling(plan);
    return choose_model(plan, err) != 0 || open_tokenizer(plan, err) != 0 || make_prompts(plan, err) != 0 ? -1 : 0;
}

static void finish_plan(struct plan *plan) {
    bench_prompts_finish(&plan->prompts);
    text_tokenizer_close(plan->tokenizer);
    weights_store_close(plan->store);
    json_decref(plan->extra);
    for (int i = 0; i < plan->n_headers; i++)
        free(plan->headers[i]);
    free(plan->model);
}

/* A thousand streams are a thousand sockets. */
static void allow_many_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int save(const struct plan *plan, struct bench_report *report, const struct bench_run *run, struct err *err) {
    const struct options *o = plan->options;
    char date[32], path[PATH_MAX], name[PATH_MAX / 2], concurrency[32] = "";
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", &tm);
    const char *base_model = strrchr(plan->model, '/') != NULL ? strrchr(plan->model, '/') + 1 : plan->model;
    if (o->bench.max_concurrency > 0)
        snprintf(concurrency, sizeof concurrency, "-concurrency%lld", (long long)o->bench.max_concurrency);
    snprintf(name, sizeof name, "%s-%sqps%s-%s-%s.json", o->bench.label != NULL ? o->bench.label : o->bench.backend,
             o->bench.request_rate, concurrency, base_model, date);
    snprintf(path, sizeof path, "%s%s%s", o->bench.result_dir != NULL ? o->bench.result_dir : "", o->bench.result_dir != NULL ? "/" : "",
             o->bench.result_filename != NULL ? o->bench.result_filename : name);
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:s?, s:s, s:s?, s:i}", "date", date, "endpoint_type", o->bench.backend, "backend", o->bench.backend,
                  "label", o->bench.label, "model_id", plan->model, "tokenizer_id", o->tokenizer, "num_prompts", run->n);
    for (int i = 0; i < o->bench.metadata.n; i++) {
        const char *item = o->bench.metadata.items[i], *equals = strchr(item, '=');
        json_object_setn_new(json, item, (size_t)(equals - item), json_string(equals + 1));
    }
    json_object_set_new(json, "request_rate", isinf(plan->report.rate_per_s) ? json_string("inf") : json_real(plan->report.rate_per_s));
    json_object_set_new(json, "burstiness", json_real(o->bench.burstiness));
    json_object_set_new(json, "max_concurrency", o->bench.max_concurrency > 0 ? json_integer(o->bench.max_concurrency) : json_null());
    int result = json == NULL ? err_set(err, ERR_NOMEM, "no memory for the results") : 0;
    if (result == 0)
        result = bench_report_to_json(report, &plan->report, run, o->bench.save_detailed, json, err);
    if (result == 0)
        result = cmd_bench_save(path, json, err);
    if (result == 0)
        printf("Results saved as %s\n", path);
    json_decref(json);
    return result;
}

static int run_plan(const struct plan *plan, struct err *err) {
    const struct options *o = plan->options;
    struct bench_load_opts load = {.url = plan->url,
                                   .is_chat = plan->is_chat,
                                   .model = plan->model,
                                   .headers = (const char *const *)plan->headers,
                                   .request_id_prefix = plan->id_prefix,
                                   .extra = plan->extra,
                                   .ignore_eos = o->bench.ignore_eos || strcmp(o->bench.dataset_name, "custom") != 0,
                                   .prompts = &plan->prompts,
                                   .n_spare = plan->n_spare,
                                   .rate_per_s = plan->report.rate_per_s,
                                   .burstiness = o->bench.burstiness,
                                   .seed = o->seed,
                                   .max_concurrency = (int)o->bench.max_concurrency,
                                   .n_warmups = (int)o->bench.num_warmups,
                                   .ready_timeout_ms = (int)o->bench.ready_check_timeout_s * 1000,
                                   .request_timeout_ms = (int)o->bench.request_timeout_s * 1000,
                                   .keeps_text = o->bench.save_detailed,
                                   .shows_progress = !o->bench.disable_tqdm,
                                   .is_cancelled = stop_signal_came};
    struct bench_run run;
    struct bench_report report;
    printf("%d requests to %s for the model %s, rate %s per second, concurrency ", plan->prompts.n - plan->n_spare, plan->url, plan->model,
           o->bench.request_rate);
    printf(load.max_concurrency > 0 ? "%d\n" : "without a limit\n", load.max_concurrency);
    fflush(stdout);
    if (bench_load_run(&load, &run, err) != 0)
        return -1;
    int result = bench_report_make(&run, &plan->report, &report, err);
    if (result == 0) {
        bench_report_print(&report, &plan->report, stdout);
        fflush(stdout);
        if (o->bench.save_result || o->bench.save_detailed)
            result = save(plan, &report, &run, err);
        if (result == 0 && report.n_done == 0 && !run.is_cancelled)
            result = err_set(err, ERR_PEER, "no request succeeded");
        bench_report_finish(&report);
    }
    if (result == 0 && run.is_cancelled)
        result = err_set(err, ERR_CANCELLED, "stopped before the end");
    bench_run_finish(&run);
    return result;
}

int cmd_bench_serve(const struct options *options) {
    struct plan plan = {.options = options};
    struct err err;
    allow_many_files();
    int result = make_plan(&plan, &err) != 0 ? CMD_EXIT_USAGE : run_plan(&plan, &err) != 0 ? CMD_EXIT_FAILURE : 0;
    if (result != 0) {
        fflush(stdout);
        fprintf(stderr, "shoal bench serve: %s\n", err.msg);
    }
    finish_plan(&plan);
    /* Wrong use shows in an error's code, not in where it was found. */
    return result == CMD_EXIT_USAGE && err.code != ERR_INVALID ? CMD_EXIT_FAILURE : result;
}
