/* bench: statistics, arrivals, prompts, event streams and reports. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "bench/answer_reader.h"
#include "bench/arrivals.h"
#include "bench/report.h"

static void check_near(double got, double wanted, double tolerance) {
    if (!(fabs(got - wanted) <= tolerance))
        fail_msg("%.12g should be %.12g within %g", got, wanted, tolerance);
}

/* Figures of numpy's mean, std and percentile. */
static void test_samples(void **state) {
    (void)state;
    static const double values[] = {7, 1, 4, 2.5, 10, 3};
    struct bench_samples samples = {0};
    check_near(bench_samples_percentile(&samples, 99), 0, 0);
    check_near(bench_samples_mean(&samples), 0, 0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(bench_samples_add(&samples, values[i], NULL), 0);
    check_near(bench_samples_mean(&samples), 4.583333333333333, 1e-12);
    check_near(bench_samples_deviation(&samples), 3.033379120533549, 1e-12);
    check_near(bench_samples_percentile(&samples, 0), 1, 0);
    check_near(bench_samples_percentile(&samples, 50), 3.5, 1e-12);
    check_near(bench_samples_percentile(&samples, 90), 8.5, 1e-12);
    check_near(bench_samples_percentile(&samples, 99), 9.85, 1e-12);
    check_near(bench_samples_percentile(&samples, 100), 10, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(bench_samples_add(&samples, 0, NULL), 0);
    check_near(bench_samples_percentile(&samples, 50), 0, 0); /* sorted anew */
    bench_samples_finish(&samples);
}

enum { N_ARRIVALS = 20000 };

/* Coefficient of variation of the gaps: 1 for a Poisson process, 1 / sqrt(shape) for gamma. */
static double spread_of_gaps(const double *times_s) {
    double sum = 0, squares = 0;
    for (int i = 0; i < N_ARRIVALS; i++) {
        double gap = times_s[i] - (i > 0 ? times_s[i - 1] : 0);
        assert_true(gap >= 0);
        sum += gap;
        squares += gap * gap;
    }
    double mean = sum / N_ARRIVALS;
    return sqrt(squares / N_ARRIVALS - mean * mean) / mean;
}

static void test_arrivals(void **state) {
    (void)state;
    static double times_s[N_ARRIVALS], again_s[N_ARRIVALS];
    bench_arrivals_fill(50, 1, 7, N_ARRIVALS, times_s);
    check_near(times_s[N_ARRIVALS - 1], N_ARRIVALS / 50.0, 1e-6);
    check_near(spread_of_gaps(times_s), 1, 0.03);
    int n_short = 0; /* gaps below the median of the exponential distribution: half of them */
    for (int i = 0; i < N_ARRIVALS; i++)
        n_short += times_s[i] - (i > 0 ? times_s[i - 1] : 0) < log(2) / 50;
    check_near((double)n_short / N_ARRIVALS, 0.5, 0.02);
    bench_arrivals_fill(50, 1, 7, N_ARRIVALS, again_s);
    assert_memory_equal(times_s, again_s, sizeof times_s);
    bench_arrivals_fill(50, 1, 8, N_ARRIVALS, again_s);
    assert_memory_not_equal(times_s, again_s, sizeof times_s);
    bench_arrivals_fill(2, 0.25, 1, N_ARRIVALS, times_s);
    check_near(spread_of_gaps(times_s), 2, 0.12);
    bench_arrivals_fill(2, 100, 1, N_ARRIVALS, times_s);
    check_near(spread_of_gaps(times_s), 0.1, 0.005);
    bench_arrivals_fill(INFINITY, 1, 1, N_ARRIVALS, times_s);
    check_near(times_s[N_ARRIVALS - 1], 0, 0);
}

static struct text_tokenizer *open_tokenizer(void) {
    struct text_tokenizer *tokenizer;
    struct err err;
    if (text_tokenizer_open_json(TEST_DATA_DIR "/models/tiny-qwen3/tokenizer.json", &tokenizer, &err) != 0)
        fail_msg("%s", err.msg);
    return tokenizer;
}

static void test_random_prompts(void **state) {
    (void)state;
    struct bench_prompts_opts opts = {
        .n = 200, .seed = 3, .n_vocab = 100, .input_len = 20, .output_len = 10, .prefix_len = 4, .range_ratio = 0.5};
    struct bench_prompts prompts, again;
    int least = 1 << 20, most = 0;
    assert_int_equal(bench_prompts_make("random", &opts, &prompts, NULL), 0);
    assert_int_equal(prompts.n, 200);
    for (int i = 0; i < prompts.n; i++) {
        const struct bench_prompt *p = &prompts.items[i];
        assert_null(p->text);
        assert_memory_equal(p->ids, prompts.items[0].ids, 4 * sizeof *p->ids);
        assert_true(i == 0 || memcmp(p->ids, prompts.items[0].ids, 10 * sizeof *p->ids) != 0);
        for (int t = 0; t < p->n_tokens; t++)
            assert_in_range(p->ids[t], 0, 99);
        assert_in_range(p->n_output, 5, 15);
        least = p->n_tokens < least ? p->n_tokens : least;
        most = p->n_tokens > most ? p->n_tokens : most;
    }
    assert_int_equal(least, 14);
    assert_int_equal(most, 34);
    assert_int_equal(bench_prompts_make("random", &opts, &again, NULL), 0);
    for (int i = 0; i < prompts.n; i++)
        assert_memory_equal(prompts.items[i].ids, again.items[i].ids, (size_t)prompts.items[i].n_tokens * sizeof(int32_t));
    bench_prompts_finish(&prompts);
    bench_prompts_finish(&again);
}

/* The server reads the text again: it must find as many tokens as were asked for. */
static void test_random_texts(void **state) {
    (void)state;
    struct text_tokenizer *tokenizer = open_tokenizer();
    struct bench_prompts_opts opts = {.n = 50, .input_len = 64, .output_len = 1, .tokenizer = tokenizer, .as_text = true};
    struct bench_prompts prompts;
    opts.n_vocab = text_tokenizer_n_vocab(tokenizer);
    assert_int_equal(bench_prompts_make("random", &opts, &prompts, NULL), 0);
    int n_exact = 0;
    for (int i = 0; i < prompts.n; i++) {
        struct text_ids ids;
        text_ids_init(&ids, 1000);
        assert_null(prompts.items[i].ids);
        assert_int_equal(text_tokenizer_encode(tokenizer, prompts.items[i].text, strlen(prompts.items[i].text), 0, &ids, NULL), 0);
        assert_int_equal(prompts.items[i].n_tokens, ids.n_ids);
        assert_in_range(ids.n_ids, 60, 68);
        n_exact += ids.n_ids == 64;
        text_ids_finish(&ids);
    }
    assert_true(n_exact >= 45);
    bench_prompts_finish(&prompts);
    text_tokenizer_close(tokenizer);
}

static void write_file(const char *text, char path[64]) {
    strcpy(path, "/tmp/shoal-bench-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void test_lengths_from_a_file(void **state) {
    (void)state;
    char path[64], wanted[160];
    struct err err;
    struct bench_prompts prompts;
    struct bench_prompts_opts opts = {.n = 5, .n_vocab = 10, .path = path, .keep_order = true};
    write_file("prompt_tokens,reply_tokens\n34,244\r\n17,71\n\n62,398\n", path);
    assert_int_equal(bench_prompts_make("sharegpt-lengths", &opts, &prompts, &err), 0);
    assert_int_equal(prompts.n, 5);
    assert_int_equal(prompts.items[0].n_tokens, 34);
    assert_int_equal(prompts.items[0].n_output, 244);
    assert_int_equal(prompts.items[2].n_output, 398);
    assert_int_equal(prompts.items[3].n_tokens, 34); /* from the start again */
    bench_prompts_finish(&prompts);
    opts.never_repeat = true;
    assert_int_equal(bench_prompts_make("sharegpt-lengths", &opts, &prompts, &err), 0);
    assert_int_equal(prompts.n, 3);
    bench_prompts_finish(&prompts);
    unlink(path);
    write_file("prompt_tokens,reply_tokens\n34,244\n17,many\n", path);
    assert_int_equal(bench_prompts_make("sharegpt-lengths", &opts, &prompts, &err), -1);
    snprintf(wanted, sizeof wanted, "%s line 3: should be two token counts such as 34,244, but is '17,many'", path);
    assert_string_equal(err.msg, wanted);
    unlink(path);
    write_file("prompt_tokens,reply_tokens\n", path);
    assert_int_equal(bench_prompts_make("sharegpt-lengths", &opts, &prompts, &err), -1);
    unlink(path);
    assert_int_equal(bench_prompts_make("sharegpt-lengths", &opts, &prompts, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void test_custom_prompts(void **state) {
    (void)state;
    char path[64];
    struct err err;
    struct text_tokenizer *tokenizer = open_tokenizer();
    struct bench_prompts prompts;
    struct bench_prompts_opts opts = {.n = 4, .path = path, .file_output_len = 9};
    write_file(
        "{\"prompt\": \"To be, or not\", \"output_tokens\": 3}\n{\"prompt\": \"hé\\n\"}\n{\"prompt\": \"c\"}\n{\"prompt\": \"d\"}\n",
        path);
    assert_int_equal(bench_prompts_make("custom", &opts, &prompts, &err), 0);
    char seen[256] = "";
    for (int i = 0; i < 4; i++) { /* shuffled, each once */
        assert_null(strstr(seen, prompts.items[i].text));
        strcat(seen, prompts.items[i].text);
        assert_int_equal(prompts.items[i].n_output, 9);
        assert_int_equal(prompts.items[i].n_tokens, -1);
    }
    bench_prompts_finish(&prompts);
    opts = (struct bench_prompts_opts){.n = 1, .path = path, .file_output_len = -1, .keep_order = true, .tokenizer = tokenizer};
    assert_int_equal(bench_prompts_make("custom", &opts, &prompts, &err), 0);
    assert_int_equal(prompts.items[0].n_output, 3);
    assert_in_range(prompts.items[0].n_tokens, 3, 13);
    bench_prompts_finish(&prompts);
    opts.n = 2;
    assert_int_equal(bench_prompts_make("custom", &opts, &prompts, &err), -1);
    assert_non_null(strstr(err.msg, "line 2: has no \"output_tokens\""));
    unlink(path);
    write_file("{\"promt\": \"a\"}\n", path);
    opts.n = 1;
    assert_int_equal(bench_prompts_make("custom", &opts, &prompts, &err), -1);
    assert_non_null(strstr(err.msg, "line 1: has no \"prompt\""));
    unlink(path);
    write_file("{\"prompt\"\n", path);
    assert_int_equal(bench_prompts_make("custom", &opts, &prompts, &err), -1);
    assert_non_null(strstr(err.msg, "not valid JSON"));
    unlink(path);
    text_tokenizer_close(tokenizer);
}

struct events {
    char text[256];
};

static int keep_event(void *ctx, const char *data, size_t len_bytes, struct err *err) {
    struct events *events = ctx;
    (void)err;
    strncat(events->text, data, len_bytes);
    strcat(events->text, "|");
    return 0;
}

/* The same events however the bytes are cut. */
static void test_event_streams(void **state) {
    (void)state;
    static const char stream[] = ": hello\n\ndata: one\r\n\r\nevent: x\nid: 7\nretry: 5\ndata:two\ndata:\ndata:  "
                                 "three\n\ndata\n\r\rdata: four\r\r\n\ndata: lost\n";
    for (size_t step = 1; step <= sizeof stream; step++) {
        struct bench_sse_reader reader;
        struct events events = {""};
        bench_sse_reader_init(&reader, keep_event, &events);
        for (size_t at = 0; at < sizeof stream - 1; at += step) {
            size_t n = sizeof stream - 1 - at < step ? sizeof stream - 1 - at : step;
            char *copy = malloc(n); /* reads past its end are seen by the sanitizer */
            assert_non_null(copy);
            memcpy(copy, stream + at, n);
            assert_int_equal(bench_sse_reader_feed(&reader, copy, n, NULL), 0);
            free(copy);
        }
        assert_string_equal(events.text, "one|two\n\n three||four|");
        bench_sse_reader_finish(&reader);
    }
    struct bench_sse_reader reader;
    struct events events = {""};
    struct err err;
    bench_sse_reader_init(&reader, keep_event, &events);
    assert_int_equal(bench_sse_reader_feed(&reader, "<html>\n", 7, &err), -1);
    assert_string_equal(err.msg, "the answer is no event stream: '<html>'");
    bench_sse_reader_finish(&reader);
    bench_sse_reader_init(&reader, keep_event, &events);
    char long_line[600];
    memset(long_line, 'y', sizeof long_line);
    memcpy(long_line, "data: ", 6);
    long_line[sizeof long_line - 1] = '\n';
    int result = 0;
    for (int i = 0; i < 2000 && result == 0; i++)
        result = bench_sse_reader_feed(&reader, long_line, sizeof long_line, &err);
    assert_int_equal(result, -1);
    assert_int_equal(err.code, ERR_LIMIT);
    bench_sse_reader_finish(&reader);
}

/* Feeds chunks 100 ms apart, the first at 300 ms. */
static int read_answer(bool is_chat, const char *const *chunks, struct bench_record *ret, struct err *err) {
    struct bench_answer_reader reader;
    int result = 0;
    *ret = (struct bench_record){0};
    bench_answer_reader_init(&reader, is_chat, true, 0, ret);
    for (int i = 0; chunks[i] != NULL && result == 0; i++) {
        char event[512];
        snprintf(event, sizeof event, "data: %s\n\n", chunks[i]);
        result = bench_answer_reader_feed(&reader, event, strlen(event), 300000000 + 100000000LL * i, err);
    }
    if (result == 0)
        result = bench_answer_reader_end(&reader, err);
    bench_answer_reader_finish(&reader);
    return result;
}

static void finish_record(struct bench_record *record) {
    free(record->gaps_s);
    free(record->text);
}

static void test_answers(void **state) {
    (void)state;
    struct bench_record record;
    struct err err;
    static const char *const completion[] = {"{\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}",
                                             "{\"choices\":[{\"text\":\"\",\"finish_reason\":null}],\"usage\":null}", /* held back */
                                             "{\"choices\":[{\"text\":\"bc\",\"finish_reason\":\"length\"}]}",
                                             "{\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4}}", "[DONE]", NULL};
    assert_int_equal(read_answer(false, completion, &record, &err), 0);
    check_near(record.ttft_s, 0.3, 1e-9);
    check_near(record.latency_s, 0.5, 1e-9);
    assert_int_equal(record.n_gaps, 2);
    check_near(record.gaps_s[1], 0.1, 1e-9);
    assert_int_equal(record.n_prompt, 5);
    assert_int_equal(record.n_output, 4);
    assert_string_equal(record.text, "abc");
    finish_record(&record);
    /* A role alone is no token, nor is llama.cpp's last chunk; thoughts are; without usage chunks are counted. */
    static const char *const chat[] = {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}",
                                       "{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"},\"finish_reason\":null}]}",
                                       "{\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}",
                                       "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}", NULL};
    assert_int_equal(read_answer(true, chat, &record, &err), 0);
    check_near(record.ttft_s, 0.4, 1e-9);
    check_near(record.latency_s, 0.5, 1e-9);
    assert_int_equal(record.n_output, 2);
    assert_string_equal(record.text, "hmx");
    finish_record(&record);
    static const char *const at_once[] = {"{\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}", "[DONE]", NULL};
    assert_int_equal(read_answer(false, at_once, &record, &err), 0);
    check_near(record.ttft_s, 0.3, 1e-9);
    finish_record(&record);
}

static void check_broken(const char *const *chunks, const char *message) {
    struct bench_record record;
    struct err err;
    assert_int_equal(read_answer(false, chunks, &record, &err), -1);
    assert_string_equal(err.msg, message);
    finish_record(&record);
}

static void test_broken_answers(void **state) {
    (void)state;
    static const char *const cut[] = {"{\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}", NULL};
    static const char *const empty[] = {"[DONE]", NULL};
    static const char *const odd[] = {"{\"choices\":", NULL};
    static const char *const other[] = {"[1]", NULL};
    static const char *const error[] = {"{\"error\":{\"message\":\"out of blocks\",\"code\":500}}", NULL};
    static const char *const wrong[] = {"{\"choices\":[7]}", "{\"choices\":[{\"text\":7}]}",
                                        "{\"choices\":[{\"delta\":[]}],\"usage\":[]}", NULL};
    check_broken(cut, "the answer broke off after 1 chunk(s)");
    check_broken(empty, "the answer holds no tokens");
    check_broken(odd, "chunk '{\"choices\":': not valid JSON: line 1 column 11: unexpected token near end of file");
    check_broken(other, "a chunk without \"choices\": '[1]'");
    check_broken(error, "the server gave up: out of blocks");
    check_broken(wrong, "the answer broke off after 0 chunk(s)");
}

static void set_record(struct bench_record *record, double start_s, double ttft_s, double gap_s, int n_gaps) {
    *record = (struct bench_record){
        .outcome = BENCH_DONE, .n_prompt = 10, .n_output = n_gaps + 1, .start_s = start_s, .ttft_s = ttft_s, .n_gaps = n_gaps};
    record->gaps_s = malloc((size_t)n_gaps * sizeof *record->gaps_s);
    assert_true(record->gaps_s != NULL || n_gaps == 0);
    for (int i = 0; i < n_gaps; i++)
        record->gaps_s[i] = gap_s;
    record->latency_s = ttft_s + gap_s * n_gaps;
}

static void test_reports(void **state) {
    (void)state;
    struct bench_record records[5] = {{0}};
    struct bench_run run = {.records = records, .n = 5, .duration_s = 2.5};
    struct bench_report_opts opts = {.rate_per_s = INFINITY, .max_concurrency = 2};
    struct bench_report report;
    struct err err;
    char *text;
    size_t len;
    set_record(&records[0], 0, 0.1, 0.1, 4);     /* until 0.5 */
    set_record(&records[1], 0, 0.5, 0.5, 2);     /* until 1.5 */
    set_record(&records[2], 0.5, 0.25, 0.25, 0); /* until 0.75; one token: no TPOT */
    records[3] = (struct bench_record){.outcome = BENCH_FAILED, .error = "HTTP 500: no"};
    records[4] = (struct bench_record){.outcome = BENCH_CUT};
    assert_int_equal(bench_report_parse_metrics("ttft,e2el", &opts, &err), 0);
    assert_int_equal(bench_report_parse_percentiles("50,99.9", &opts, &err), 0);
    assert_int_equal(bench_report_parse_goodput("ttft:300", &opts, &err), 0);
    assert_int_equal(bench_report_make(&run, &opts, &report, &err), 0);
    FILE *out = open_memstream(&text, &len);
    bench_report_print(&report, &opts, out);
    fclose(out);
    assert_string_equal(text, "============ Serving Benchmark Result ============\n"
                              "Successful requests:                     3         \n"
                              "Failed requests:                         1         \n"
                              "Requests cut off:                        1         \n"
                              "Maximum request concurrency:             2         \n"
                              "Benchmark duration (s):                  2.50      \n"
                              "Total input tokens:                      30        \n"
                              "Total generated tokens:                  9         \n"
                              "Request throughput (req/s):              1.20      \n"
                              "Request goodput (req/s):                 0.80      \n"
                              "Output token throughput (tok/s):         3.60      \n"
                              "Peak output token throughput (tok/s):    7.00      \n"
                              "Peak concurrent requests:                2.00      \n"
                              "Total token throughput (tok/s):          15.60     \n"
                              "---------------Time to First Token----------------\n"
                              "Mean TTFT (ms):                          283.33    \n"
                              "Median TTFT (ms):                        250.00    \n"
                              "P50 TTFT (ms):                           250.00    \n"
                              "P99.9 TTFT (ms):                         499.50    \n"
                              "----------------End-to-end Latency----------------\n"
                              "Mean E2EL (ms):                          750.00    \n"
                              "Median E2EL (ms):                        500.00    \n"
                              "P50 E2EL (ms):                           500.00    \n"
                              "P99.9 E2EL (ms):                         1498.00   \n"
                              "==================================================\n"
                              "First error: HTTP 500: no\n");
    free(text);
    assert_int_equal(report.metrics_ms[BENCH_TPOT].n, 2);
    assert_int_equal(report.metrics_ms[BENCH_ITL].n, 6);
    json_t *json = json_object();
    assert_int_equal(bench_report_to_json(&report, &opts, &run, true, json, &err), 0);
    check_near(json_real_value(json_object_get(json, "p99.9_ttft_ms")), 499.5, 1e-9);
    check_near(json_real_value(json_object_get(json, "output_throughput")), 3.6, 1e-9);
    assert_null(json_object_get(json, "mean_itl_ms"));
    assert_int_equal(json_array_size(json_object_get(json, "itls")), 5);
    assert_string_equal(json_string_value(json_array_get(json_object_get(json, "errors"), 3)), "HTTP 500: no");
    json_decref(json);
    bench_report_finish(&report);
    for (int i = 0; i < 5; i++)
        free(records[i].gaps_s);
}

static void test_report_flags_are_checked(void **state) {
    (void)state;
    struct bench_report_opts opts = {0};
    static const char *const metrics[] = {"", "ttft,", "ttft;itl", "tt", NULL}, *const percentiles[] = {"101", "-1", "50;99", "nan", NULL},
                             *const goodputs[] = {"ttft", "ttft:", "ttft:x", "itl:5", "ttft:-1", ":", NULL};
    for (int i = 0; metrics[i] != NULL; i++)
        assert_int_equal(bench_report_parse_metrics(metrics[i], &opts, NULL), -1);
    for (int i = 0; percentiles[i] != NULL; i++)
        assert_int_equal(bench_report_parse_percentiles(percentiles[i], &opts, NULL), -1);
    for (int i = 0; goodputs[i] != NULL; i++)
        assert_int_equal(bench_report_parse_goodput(goodputs[i], &opts, NULL), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_arrivals),
        cmocka_unit_test(test_random_prompts),
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_lengths_from_a_file),
        cmocka_unit_test(test_custom_prompts),
        cmocka_unit_test(test_event_streams),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_broken_answers),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_report_flags_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
