/* text: incremental detokenization with the tiny model's tokenizer: characters over token borders, stop strings, limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/rand.h"
#include "text/detok.h"
#include "text/tokenizer.h"

static struct text_tokenizer *tokenizer;

static int open_tokenizer(void **state) {
    struct err err;
    (void)state;
    return text_tokenizer_open_json(TEST_DATA_DIR "/models/tiny-qwen3/tokenizer.json", &tokenizer, &err);
}

static int close_tokenizer(void **state) {
    (void)state;
    text_tokenizer_close(tokenizer);
    return 0;
}

/* Pushes all ids; returns the stop that matched, -1 when none did. `out` gets all text. */
static int detokenize(const struct text_ids *ids, const struct text_detok_opts *opts, struct buf *out) {
    struct text_detok *detok;
    struct err err;
    int stop = -1;
    assert_int_equal(text_detok_create(tokenizer, opts, &detok, &err), 0);
    for (int i = 0; i < ids->n_ids && stop == -1; i++)
        stop = text_detok_push(detok, ids->ids[i], out);
    if (stop == -1)
        assert_int_equal(text_detok_flush(detok, out), 0);
    text_detok_destroy(detok);
    return stop;
}

static void encode(const char *text, struct text_ids *ret_ids) {
    struct err err;
    text_ids_init(ret_ids, 10000);
    assert_int_equal(text_tokenizer_encode(tokenizer, text, strlen(text), TEXT_PARSE_SPECIAL, ret_ids, &err), 0);
}

static void check_stop(const char *text, const char *const *stops, int n_stops, bool include, int wanted_stop, const char *wanted_text) {
    struct text_detok_opts opts = {.skip_special = true, .stops = stops, .n_stops = n_stops, .include_stop = include, .limit_bytes = 1 << 20};
    struct text_ids ids;
    struct buf out;
    buf_init(&out, 1 << 20);
    encode(text, &ids);
    assert_int_equal(detokenize(&ids, &opts, &out), wanted_stop);
    assert_string_equal(buf_str(&out), wanted_text);
    buf_finish(&out);
    text_ids_finish(&ids);
}

static void test_stop_strings_over_token_borders(void **state) {
    (void)state;
    check_stop("one two three", (const char *[]){"wo th"}, 1, false, 0, "one t");
    check_stop("one two three", (const char *[]){"wo th"}, 1, true, 0, "one two th");
    check_stop("one two three", (const char *[]){"three!", "zzz"}, 2, false, -1, "one two three");
    check_stop("one two three", (const char *[]){"three", "two"}, 2, false, 1, "one ");
    check_stop("aaab", (const char *[]){"aab"}, 1, false, 0, "a");
    check_stop("你好世界", (const char *[]){"世"}, 1, false, 0, "你好");
    check_stop("", (const char *[]){"x"}, 1, false, -1, "");
}

/* A stop string counts only where it ends behind the first min_tokens tokens; it may begin before. */
static void test_early_stop_strings_are_text(void **state) {
    (void)state;
    static const char text[] = "ab ab ab";
    struct text_ids ids;
    encode(text, &ids);
    for (int n = 0; n <= ids.n_ids; n++) {
        struct buf early, out;
        buf_init(&early, 100);
        buf_init(&out, 100);
        assert_int_equal(text_tokenizer_decode(tokenizer, ids.ids, n, false, &early), 0);
        struct text_detok_opts opts = {.stops = (const char *[]){"b"}, .n_stops = 1, .min_tokens = n, .limit_bytes = 1000};
        int stop = detokenize(&ids, &opts, &out);
        const char *late = strchr(text + early.len_bytes, 'b');
        assert_int_equal(stop, late == NULL ? -1 : 0);
        assert_int_equal(out.len_bytes, late == NULL ? strlen(text) : (size_t)(late - text));
        buf_finish(&early);
        buf_finish(&out);
    }
    /* begins early, ends late */
    struct buf out;
    buf_init(&out, 100);
    struct text_detok_opts opts = {.stops = (const char *[]){"b ab a"}, .n_stops = 1, .min_tokens = 1, .limit_bytes = 1000};
    assert_true(ids.n_ids > 1);
    assert_int_equal(detokenize(&ids, &opts, &out), 0);
    assert_string_equal(buf_str(&out), "a");
    buf_finish(&out);
    text_ids_finish(&ids);
}

static void test_special_tokens(void **state) {
    (void)state;
    struct text_detok_opts opts = {.skip_special = true, .limit_bytes = 1000};
    struct text_ids ids;
    struct buf out;
    buf_init(&out, 1000);
    encode("a<|im_end|>b", &ids);
    detokenize(&ids, &opts, &out);
    assert_string_equal(buf_str(&out), "ab");
    buf_clear(&out);
    opts.skip_special = false;
    detokenize(&ids, &opts, &out);
    assert_string_equal(buf_str(&out), "a<|im_end|>b");
    buf_finish(&out);
    text_ids_finish(&ids);
}

/* Random ids give broken characters: piece by piece the text is the same as all at once. */
static void test_random_tokens_as_all_at_once(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 500; round++) {
        int32_t list[40];
        struct text_ids ids = {.ids = list, .n_ids = 40};
        struct text_detok_opts opts = {.stops = (const char *[]){"\xf0\x9f\x98\x80 never"}, .n_stops = 1, .limit_bytes = 1 << 16};
        struct buf pieces, whole;
        buf_init(&pieces, 1 << 16);
        buf_init(&whole, 1 << 16);
        for (int i = 0; i < 40; i++) /* mostly single bytes */
            list[i] = (int32_t)(rand_ctr_u64(round, (uint64_t)i) % (i % 3 == 0 ? 2048 : 256));
        assert_int_equal(detokenize(&ids, &opts, &pieces), -1);
        assert_int_equal(text_tokenizer_decode(tokenizer, list, 40, false, &whole), 0);
        assert_string_equal(buf_str(&pieces), buf_str(&whole));
        buf_finish(&pieces);
        buf_finish(&whole);
    }
}

static void test_limits(void **state) {
    (void)state;
    struct text_ids ids;
    struct err err;
    text_ids_init(&ids, 3);
    assert_int_equal(text_tokenizer_encode(tokenizer, "one two three four five", 23, 0, &ids, &err), -1);
    assert_int_equal(err.code, ERR_LIMIT);
    assert_int_equal(ids.n_ids, 0);
    text_ids_finish(&ids);
    struct text_detok_opts opts = {.limit_bytes = 1000};
    struct buf out;
    buf_init(&out, 2);
    encode("one two three", &ids);
    assert_int_equal(detokenize(&ids, &opts, &out), -2);
    buf_finish(&out);
    text_ids_finish(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_strings_over_token_borders),
        cmocka_unit_test(test_early_stop_strings_are_text),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_random_tokens_as_all_at_once),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
