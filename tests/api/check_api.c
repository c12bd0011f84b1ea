/*
 * The API driven without sockets, over the fake engine: what becomes of tokens, stops, errors and streams, and that
 * nothing is left running behind an answer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/fields.h"
#include "base/json.h"
#include "fake_engine.h"
#include "fake_http.h"

static struct engine engine;
static struct api_opts opts;
static struct api *api;
static struct text_tokenizer *tokenizer;
static struct text_template *chat_template;
static struct text_ids script;
static struct http_conn conn;

static const char template_source[] =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if tools %}{{ 'TOOLS' }}{% endif %}{% if extra %}{{ extra }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* Before each test: an engine that says `text` (NULL: anything), and the usual options. */
static void reset(const char *text) {
    static const char *const names[] = {"qwen", "alias"};
    struct err err = {0};
    api_destroy(api);
    text_ids_finish(&script);
    text_ids_init(&script, 4096);
    memset(&engine, 0, sizeof engine);
    memset(&conn, 0, sizeof conn);
    if (text != NULL)
        assert_int_equal(text_tokenizer_encode(tokenizer, text, strlen(text), TEXT_PARSE_SPECIAL, &script, &err), 0);
    engine.script = script.ids;
    engine.n_script = script.n_ids;
    engine.eos = text_tokenizer_eos(tokenizer);
    engine.n_vocab = text_tokenizer_n_vocab(tokenizer);
    opts = (struct api_opts){.engine = &engine,
                             .tokenizer = tokenizer,
                             .chat_template = chat_template,
                             .served_names = names,
                             .n_served_names = 2,
                             .model_root = "/models/q",
                             .max_model_len = 512,
                             .n_vocab = engine.n_vocab,
                             .max_logprobs = 20,
                             .response_role = "assistant",
                             .version = "0.1.0",
                             .stream_interval = 1};
    api = NULL;
    assert_int_equal(api_create(&opts, &api, &err), 0);
}

static void recreate(void) {
    struct err err = {0};
    api_destroy(api);
    assert_int_equal(api_create(&opts, &api, &err), 0);
}

static int setup(void **unused) {
    struct err err = {0};
    (void)unused;
    if (text_tokenizer_open_json(TEST_DATA_DIR "/models/tiny-qwen3/tokenizer.json", &tokenizer, &err) != 0 ||
        text_template_compile(template_source, strlen(template_source), &chat_template, &err) != 0) {
        print_error("%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int teardown(void **unused) {
    (void)unused;
    api_destroy(api);
    text_ids_finish(&script);
    text_template_destroy(chat_template);
    text_tokenizer_close(tokenizer);
    return 0;
}

static struct http_response post(const char *path, const char *body) {
    struct http_request request = {.method = "POST", .path = path, .body = body, .body_bytes = strlen(body), .conn = &conn};
    struct http_response answer = {.status = 200};
    api_handle(api, &request, &answer);
    return answer;
}

/* The answer as JSON; the status must be as wanted. */
static json_t *ask(const char *path, const char *body, int status) {
    struct http_response answer = post(path, body);
    if (answer.status != status)
        fail_msg("%s: status %d, wanted %d: %.*s", body, answer.status, status, (int)answer.body_bytes, answer.body);
    json_t *value = json_loadb(answer.body, answer.body_bytes, JSON_ALLOW_NUL, NULL);
    assert_non_null(value);
    free(answer.body);
    assert_int_equal(atomic_load(&engine.n_open), 0);
    return value;
}

/* Reads a stream to its end, room_bytes at a time. */
static char *read_stream(const char *path, const char *body, size_t room_bytes) {
    struct http_response answer = post(path, body);
    struct buf text;
    char room[4096];
    ssize_t n;
    if (answer.next == NULL)
        fail_msg("no stream but %d: %.*s", answer.status, (int)answer.body_bytes, answer.body);
    buf_init(&text, 1 << 24);
    while ((n = answer.next(answer.ctx, room, room_bytes)) >= 0)
        buf_append(&text, room, (size_t)n);
    assert_int_equal(n, HTTP_STREAM_END);
    answer.finish(answer.ctx);
    assert_int_equal(atomic_load(&engine.n_open), 0);
    return buf_steal(&text);
}

/* Splits a stream into its events, [DONE] left out but checked. */
static json_t *stream_events(const char *path, const char *body) {
    char *text = read_stream(path, body, 4096), *at = text, *end;
    json_t *list = json_array();
    bool done = false;
    while ((end = strstr(at, "\n\n")) != NULL) {
        *end = '\0';
        assert_memory_equal(at, "data: ", 6);
        assert_false(done);
        done = strcmp(at + 6, "[DONE]") == 0;
        json_t *event = done ? NULL : json_loads(at + 6, JSON_ALLOW_NUL, NULL);
        if (!done)
            assert_non_null(event);
        if (event != NULL)
            json_array_append_new(list, event);
        at = end + 2;
    }
    assert_true(done);
    assert_int_equal(*at, '\0');
    free(text);
    return list;
}

static json_t *choice_of(json_t *answer, size_t at) { return json_array_get(json_object_get(answer, "choices"), at); }
static const char *text_of(json_t *object, const char *key) { return json_string_value(json_object_get(object, key)); }
static const char *message_of(json_t *answer) { return json_string_value(json_object_get(json_object_get(answer, "error"), "message")); }
static int count_of(json_t *answer, const char *key) {
    return (int)json_integer_value(json_object_get(json_object_get(answer, "usage"), key));
}

static int count_tokens(const char *text) {
    struct text_ids ids;
    struct err err;
    text_ids_init(&ids, 4096);
    assert_int_equal(text_tokenizer_encode(tokenizer, text, strlen(text), TEXT_PARSE_SPECIAL, &ids, &err), 0);
    int n = ids.n_ids;
    text_ids_finish(&ids);
    return n;
}

static void test_stops(void **unused) {
    (void)unused;
    reset("one two three four");
    json_t *answer = ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":100,\"stop\":[\"zzz\",\"thr\"],\"temperature\":0}", 200);
    assert_string_equal(text_of(choice_of(answer, 0), "text"), "one two ");
    assert_string_equal(text_of(choice_of(answer, 0), "finish_reason"), "stop");
    assert_string_equal(text_of(choice_of(answer, 0), "stop_reason"), "thr");
    assert_true(count_of(answer, "completion_tokens") <= count_tokens("one two three"));
    assert_int_equal(atomic_load(&engine.n_cancelled), 1);
    json_decref(answer);
    answer = ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":100,\"stop\":\"wo th\",\"include_stop_str_in_output\":true}", 200);
    assert_string_equal(text_of(choice_of(answer, 0), "text"), "one two th");
    json_decref(answer);
    /* a stop string within the first min_tokens tokens is text like any other */
    char early[160];
    snprintf(early, sizeof early, "{\"prompt\":\"a\",\"max_tokens\":100,\"stop\":\"two\",\"min_tokens\":%d}", count_tokens("one two three"));
    answer = ask("/v1/completions", early, 200);
    assert_string_equal(text_of(choice_of(answer, 0), "text"), "one two three fourone ");
    json_decref(answer);
    /* what was held back as the beginning of a stop string comes out at the end */
    answer = ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1,\"stop\":\"one two t\"}", 200);
    assert_int_equal(count_of(answer, "completion_tokens"), 1);
    assert_true(strlen(text_of(choice_of(answer, 0), "text")) > 0);
    assert_string_equal(text_of(choice_of(answer, 0), "finish_reason"), "length");
    json_decref(answer);
    /* end of text, and a stop id: counted, not shown */
    engine.eos_after = 2;
    answer = ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":100,\"return_token_ids\":true}", 200);
    assert_string_equal(text_of(choice_of(answer, 0), "finish_reason"), "stop");
    assert_true(json_is_null(json_object_get(choice_of(answer, 0), "stop_reason")));
    assert_int_equal(count_of(answer, "completion_tokens"), 3);
    json_t *ids = json_object_get(choice_of(answer, 0), "token_ids");
    assert_int_equal(json_array_size(ids), 3);
    assert_int_equal(json_integer_value(json_array_get(ids, 2)), engine.eos);
    assert_null(strstr(text_of(choice_of(answer, 0), "text"), "<|"));
    json_decref(answer);
    char body[128];
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"max_tokens\":100,\"stop_token_ids\":[%d]}", script.ids[1]);
    answer = ask("/v1/completions", body, 200);
    assert_int_equal(json_integer_value(json_object_get(choice_of(answer, 0), "stop_reason")), script.ids[1]);
    assert_int_equal(count_of(answer, "completion_tokens"), 2);
    json_decref(answer);
}

/* Characters of several bytes come whole, whatever tokens they are split over; a stream adds up to the same. */
static void test_text_is_whole(void **unused) {
    (void)unused;
    static const char spoken[] = "na\u00efve \u4f60\u597d \U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 end";
    reset(spoken);
    int n = script.n_ids;
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"max_tokens\":%d,\"temperature\":0}", n);
    json_t *answer = ask("/v1/completions", body, 200);
    assert_string_equal(text_of(choice_of(answer, 0), "text"), spoken);
    json_decref(answer);
    for (int interval = 1; interval <= 3; interval++) {
        snprintf(body, sizeof body, "{\"prompt\":\"a\",\"max_tokens\":%d,\"stream\":true,\"stream_interval\":%d,\"return_token_ids\":true}",
                 n, interval);
        json_t *events = stream_events("/v1/completions", body);
        struct buf whole;
        buf_init(&whole, 4096);
        size_t n_ids = 0;
        for (size_t i = 0; i < json_array_size(events); i++) {
            json_t *choice = choice_of(json_array_get(events, i), 0);
            buf_append_str(&whole, text_of(choice, "text"));
            n_ids += json_array_size(json_object_get(choice, "token_ids"));
            assert_int_equal(json_is_array(json_object_get(choice, "prompt_token_ids")), i == 0);
        }
        assert_string_equal(buf_str(&whole), spoken);
        assert_int_equal(n_ids, n);
        assert_true(json_array_size(events) <= (size_t)(n - 2) / (size_t)interval + 3);
        buf_finish(&whole);
        json_decref(events);
    }
    /* a reader with next to no room gets the same bytes */
    snprintf(body, sizeof body, "{\"prompt\":\"a\",\"max_tokens\":%d,\"stream\":true,\"request_id\":\"x\"}", n);
    char *wide = read_stream("/v1/completions", body, 4096), *narrow = read_stream("/v1/completions", body, 3);
    assert_int_equal(strlen(wide), strlen(narrow));
    free(wide);
    free(narrow);
    /* an answer that ends inside a character says so with U+FFFD */
    reset("\U0001f680");
    if (script.n_ids > 1) {
        answer = ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1}", 200);
        assert_non_null(strstr(text_of(choice_of(answer, 0), "text"), "\ufffd"));
        json_decref(answer);
    }
}

static void test_choices(void **unused) {
    (void)unused;
    reset(NULL);
    json_t *answer = ask("/v1/completions", "{\"prompt\":[\"a\",\"bc\"],\"max_tokens\":4,\"n\":3,\"seed\":5}", 200);
    json_t *choices = json_object_get(answer, "choices");
    assert_int_equal(json_array_size(choices), 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(json_integer_value(json_object_get(json_array_get(choices, i), "index")), i);
    assert_int_equal(count_of(answer, "completion_tokens"), 24);
    assert_int_equal(count_of(answer, "prompt_tokens"), count_tokens("a") + count_tokens("bc"));
    assert_true(engine.last.seed == 5);
    json_decref(answer);
    json_t *events = stream_events("/v1/completions", "{\"prompt\":[\"a\",\"bc\"],\"max_tokens\":4,\"n\":2,\"stream\":true}");
    int seen[4] = {0}, ended[4] = {0};
    for (size_t i = 0; i < json_array_size(events); i++) {
        json_t *choice = choice_of(json_array_get(events, i), 0);
        json_int_t index = json_integer_value(json_object_get(choice, "index"));
        assert_in_range(index, 0, 3);
        seen[index]++;
        ended[index] += text_of(choice, "finish_reason") != NULL;
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(seen[i], 4);
        assert_int_equal(ended[i], 1);
    }
    json_decref(events);
    /* without a seed, two requests draw two */
    json_decref(ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1}", 200));
    uint64_t first = engine.last.seed;
    json_decref(ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1,\"seed\":-1}", 200));
    assert_true(first != engine.last.seed && engine.last.seed != UINT64_MAX);
    /* a completion that only echoes */
    answer = ask("/v1/completions", "{\"prompt\":\"hello\",\"max_tokens\":0,\"echo\":true,\"logprobs\":1}", 200);
    assert_string_equal(text_of(choice_of(answer, 0), "text"), "hello");
    assert_int_equal(json_array_size(json_object_get(json_object_get(choice_of(answer, 0), "logprobs"), "tokens")), count_tokens("hello"));
    json_decref(answer);
}

static void test_sampling_reaches_the_engine(void **unused) {
    (void)unused;
    reset(NULL);
    json_decref(
        ask("/v1/completions",
            "{\"prompt\":[1,2,3],\"seed\":5,\"temperature\":0.5,\"top_p\":0.25,\"top_k\":7,\"min_p\":0.125,\"presence_penalty\":1,\"frequency_"
            "penalty\":-1,"
            "\"repetition_penalty\":1.5,\"min_tokens\":2,\"max_tokens\":3,\"ignore_eos\":true,\"stop_token_ids\":[4,5],\"logprobs\":3,"
            "\"prompt_logprobs\":2,\"logit_bias\":{\"9\":-200,\"10\":3}}",
            200));
    const struct exec_sampling *s = &engine.last;
    assert_true(s->temperature == 0.5f && s->top_p == 0.25f && s->min_p == 0.125f && s->presence_penalty == 1 &&
                s->frequency_penalty == -1 && s->repetition_penalty == 1.5f);
    assert_int_equal(s->top_k, 7);
    assert_int_equal(s->min_tokens, 2);
    assert_int_equal(s->max_tokens, 3);
    assert_true(s->ignore_eos);
    assert_int_equal(s->n_stop_ids, 2);
    assert_int_equal(s->stop_ids[1], 5);
    assert_int_equal(s->n_logprobs, 3);
    assert_int_equal(s->n_prompt_logprobs, 2);
    assert_int_equal(s->n_bias, 2);
    assert_true(s->bias[0].token == 9 && s->bias[0].bias == -100 && s->bias[1].bias == 3);
    assert_int_equal(engine.n_last_prompt, 3);
    /* words to avoid, alone and behind a space where that is another token; tokens to choose from; tokens to tell of */
    json_decref(ask("/v1/completions",
                    "{\"prompt\":[1,2,3],\"bad_words\":[\"  the\",\"two words\"],\"allowed_token_ids\":[7,8],\"logprob_token_ids\":[5,6],"
                    "\"spaces_between_special_tokens\":false}",
                    200));
    struct text_ids the, spaced;
    struct err err;
    text_ids_init(&the, 64);
    text_ids_init(&spaced, 64);
    assert_int_equal(text_tokenizer_encode(tokenizer, "the", 3, 0, &the, &err), 0);
    assert_int_equal(text_tokenizer_encode(tokenizer, " the", 4, 0, &spaced, &err), 0);
    assert_int_equal(s->bad[0], the.n_ids);
    assert_memory_equal(&s->bad[1], the.ids, (size_t)the.n_ids * sizeof *the.ids);
    if (the.n_ids == spaced.n_ids) {
        assert_int_equal(s->bad[1 + the.n_ids], spaced.n_ids);
        assert_memory_equal(&s->bad[2 + the.n_ids], spaced.ids, (size_t)spaced.n_ids * sizeof *spaced.ids);
    }
    text_ids_finish(&the);
    text_ids_finish(&spaced);
    int n_words = 0;
    for (int at = 0; at < s->n_bad; at += 1 + s->bad[at])
        n_words++;
    assert_in_range(n_words, 2, 4);
    assert_true(s->n_allowed == 2 && s->allowed[1] == 8 && s->n_logprob_ids == 2 && s->logprob_ids[0] == 5);
    assert_int_equal(s->n_logprobs, 0);
    /* defaults: 16 tokens for a completion, the rest of the context for a chat; temperature 1 */
    json_decref(ask("/v1/completions", "{\"prompt\":[1]}", 200));
    assert_int_equal(engine.last.max_tokens, 16);
    assert_true(engine.last.temperature == 1);
    assert_int_equal(engine.last.n_logprobs, -1);
    json_decref(ask("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"temperature\":0}", 200));
    assert_int_equal(engine.last.max_tokens, 512 - engine.n_last_prompt);
    /* the model's own defaults, which a request may override */
    opts.generation_defaults = json_pack("{s:f, s:i, s:f, s:i}", "temperature", 0.25, "top_k", 20, "top_p", 0.5, "max_new_tokens", 9);
    recreate();
    json_decref(ask("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_p\":1}", 200));
    assert_true(engine.last.temperature == 0.25f && engine.last.top_k == 20 && engine.last.top_p == 1);
    assert_int_equal(engine.last.max_tokens, 9);
    json_decref((json_t *)opts.generation_defaults);
    /* truncation keeps the end, or the beginning */
    reset(NULL);
    json_decref(ask("/v1/completions", "{\"prompt\":[1,2,3,4],\"truncate_prompt_tokens\":2}", 200));
    assert_true(engine.n_last_prompt == 2 && engine.last_prompt[0] == 3);
    json_decref(ask("/v1/completions", "{\"prompt\":[1,2,3,4],\"truncate_prompt_tokens\":2,\"truncation_side\":\"right\"}", 200));
    assert_true(engine.n_last_prompt == 2 && engine.last_prompt[0] == 1);
}

static void test_logprobs(void **unused) {
    (void)unused;
    reset("one two");
    json_t *answer = ask("/v1/completions",
                         "{\"prompt\":\"ab\",\"max_tokens\":2,\"logprobs\":1,\"echo\":true,\"return_tokens_as_token_ids\":true}", 200);
    json_t *logprobs = json_object_get(choice_of(answer, 0), "logprobs");
    size_t n = (size_t)count_tokens("ab") + 2;
    assert_int_equal(json_array_size(json_object_get(logprobs, "tokens")), n);
    assert_int_equal(json_array_size(json_object_get(logprobs, "text_offset")), n);
    assert_int_equal(json_array_size(json_object_get(choice_of(answer, 0), "prompt_logprobs")), n - 2);
    char wanted[32];
    snprintf(wanted, sizeof wanted, "token_id:%d", script.ids[0]);
    assert_string_equal(json_string_value(json_array_get(json_object_get(logprobs, "tokens"), n - 2)), wanted);
    json_decref(answer);
    /* bytes are those of the token, not of the repaired text */
    reset("\U0001f680");
    answer = ask("/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,\"logprobs\":true,\"top_logprobs\":2}", 200);
    json_t *entry = json_array_get(json_object_get(json_object_get(choice_of(answer, 0), "logprobs"), "content"), 0);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(entry, "bytes"), 0)), 0xf0);
    assert_int_equal(json_array_size(json_object_get(entry, "top_logprobs")), 2);
    json_decref(answer);
    /* given tokens take the place of the best, beside the token itself */
    reset("one");
    answer = ask("/v1/completions", "{\"prompt\":\"ab\",\"max_tokens\":1,\"logprob_token_ids\":[300,301],\"return_tokens_as_token_ids\":true}", 200);
    json_t *top = json_array_get(json_object_get(json_object_get(choice_of(answer, 0), "logprobs"), "top_logprobs"), 0);
    assert_int_equal(json_object_size(top), 3);
    assert_true(json_real_value(json_object_get(top, "token_id:301")) == -2);
    json_decref(answer);
    answer = ask("/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,\"logprob_token_ids\":[300,301]}", 200);
    entry = json_array_get(json_object_get(json_object_get(choice_of(answer, 0), "logprobs"), "content"), 0);
    assert_int_equal(json_array_size(json_object_get(entry, "top_logprobs")), 3);
    json_decref(answer);
    /* in a stream each chunk has the logprobs of its own tokens */
    reset("one two three");
    json_t *events = stream_events("/v1/completions", "{\"prompt\":\"ab\",\"max_tokens\":3,\"logprobs\":0,\"stream\":true}");
    assert_int_equal(json_array_size(events), 3);
    json_int_t last = -1;
    for (size_t i = 0; i < 3; i++) {
        logprobs = json_object_get(choice_of(json_array_get(events, i), 0), "logprobs");
        assert_int_equal(json_array_size(json_object_get(logprobs, "tokens")), 1);
        json_int_t offset = json_integer_value(json_array_get(json_object_get(logprobs, "text_offset"), 0));
        assert_true(offset > last);
        last = offset;
    }
    json_decref(events);
}

static void test_chat(void **unused) {
    (void)unused;
    reset("fine");
    json_t *answer =
        ask("/v1/chat/completions",
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"text\",\"text\":\"two\"}]}],"
            "\"max_tokens\":1,\"return_prompt_text\":true,\"chat_template_kwargs\":{\"extra\":\"EXTRA\"},"
            "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"none\"}",
            200);
    assert_string_equal(text_of(answer, "prompt_text"), "<|im_start|>user\none\ntwo<|im_end|>\nTOOLSEXTRA<|im_start|>assistant\n");
    json_decref(answer);
    /* a special token is one token */
    answer = ask("/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,\"return_token_ids\":true}", 200);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(answer, "prompt_token_ids"), 0)),
                     text_tokenizer_find(tokenizer, "<|im_start|>"));
    json_decref(answer);
    /* going on with the last message, with its text before the answer */
    answer = ask("/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"All is \"}],\"max_tokens\":4,"
                 "\"add_generation_prompt\":false,\"continue_final_message\":true,\"echo\":true,\"return_prompt_text\":true}",
                 200);
    assert_string_equal(text_of(answer, "prompt_text"), "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\nAll is ");
    assert_memory_equal(text_of(json_object_get(choice_of(answer, 0), "message"), "content"), "All is fi", 9);
    json_decref(answer);
    json_decref(ask("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"chat_template\":\"a program\"}", 400));
    answer = ask("/v1/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}}]}]}", 400);
    assert_string_equal(message_of(answer), "At most 0 image(s) may be provided in one prompt.");
    json_decref(answer);
    opts.chat_template = NULL;
    recreate();
    answer = ask("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 400);
    assert_non_null(strstr(message_of(answer), "default chat template is no longer allowed"));
    json_decref(answer);
}

/* Body, status, and part of the message, beyond what was recorded. */
static void test_refusals(void **unused) {
    static const struct {
        const char *path, *body;
        int status;
        const char *message;
    } cases[] = {
        {"/v1/completions", "", 400, "JSON decode error"},
        {"/v1/completions", "{\"prompt\":\"a\"", 400, "JSON decode error"},
        {"/v1/completions", "\"text\"", 400, "Input should be a valid dictionary or object to extract fields from', 'input': 'text'"},
        {"/v1/completions", "{\"prompt\":\"\"}", 400, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"},
        {"/v1/completions", "{\"prompt\":[[]]}", 400, "The decoder prompt cannot be empty"},
        {"/v1/completions", "{\"prompt\":[1,\"a\"]}", 400, "'loc': 'body.prompt.list[constrained-int].1'"},
        {"/v1/completions", "{\"prompt\":[\"a\",1]}", 400, "'loc': 'body.prompt.list[str].1'"},
        {"/v1/completions", "{\"prompt\":[[1],[-2]]}", 400, "Input should be greater than or equal to 0', 'input': '-2', 'ctx': {'ge': 0}"},
        {"/v1/completions", "{\"prompt\":5}", 400, "4 validation errors:"},
        {"/v1/completions", "{\"prompt\":[99999999]}", 400, "Token id 99999999 is out of vocabulary"},
        {"/v1/completions", "{\"prompt\":\"a\",\"n\":2,\"temperature\":0}", 400, "n must be 1 when using greedy sampling, got 2."},
        {"/v1/completions", "{\"prompt\":\"a\",\"n\":5000}", 400, "n must be at most 1024, got 5000."},
        {"/v1/completions", "{\"prompt\":\"a\",\"temperature\":-1}", 400,
         "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)"},
        {"/v1/completions", "{\"prompt\":\"a\",\"temperature\":3}", 400, "temperature must be in [0, 2], got 3.0."},
        {"/v1/completions", "{\"prompt\":\"a\",\"presence_penalty\":2.5}", 400, "presence_penalty must be in [-2, 2], got 2.5."},
        {"/v1/completions", "{\"prompt\":\"a\",\"repetition_penalty\":0}", 400, "repetition_penalty must be greater than zero, got 0.0."},
        {"/v1/completions", "{\"prompt\":\"a\",\"min_p\":1e-5,\"top_p\":0}", 400, "top_p must be in (0, 1], got 0.0."},
        {"/v1/completions", "{\"prompt\":\"a\",\"min_p\":-1e-5}", 400, "min_p must be in [0, 1], got -1e-05."},
        {"/v1/completions", "{\"prompt\":\"a\",\"min_tokens\":20}", 400, "min_tokens must be less than or equal to max_tokens=16, got 20."},
        {"/v1/completions", "{\"prompt\":\"a\",\"stop\":[\"\"]}", 400, "stop cannot contain an empty string."},
        {"/v1/completions", "{\"prompt\":\"a\",\"stop\":[\"\\u0000x\"]}", 400, "stop strings with a NUL character are not supported."},
        {"/v1/completions", "{\"prompt\":\"a\",\"stop\":7}", 400, "2 validation errors:"},
        {"/v1/completions", "{\"prompt\":\"a\",\"stop_token_ids\":[-1]}", 400,
         "token_id(s) [-1] in stop_token_ids contain out-of-vocab token ids."},
        {"/v1/completions", "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", 400, "cannot be converted to integer token IDs: ['x']"},
        {"/v1/completions", "{\"prompt\":\"a\",\"logprobs\":-2}", 400,
         "`logprobs` must be a positive value or -1. (parameter=logprobs, value=-2)"},
        {"/v1/completions", "{\"prompt\":\"a\",\"prompt_logprobs\":1,\"stream\":true}", 400,
         "`prompt_logprobs` are not available when `stream=True`."},
        {"/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1.5}", 400, "got a number with a fractional part', 'input': '1.5'"},
        {"/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":[],\"temperature\":\"x\"}", 400, "2 validation errors:"},
        {"/v1/completions", "{\"prompt\":\"a\",\"ignore_eos\":\"maybe\"}", 400,
         "Input should be a valid boolean, unable to interpret input"},
        {"/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":512}", 400,
         "you requested 512 output tokens and your prompt contains 1 input tokens, for a total of 513"},
        {"/v1/completions", "{\"prompt\":\"a\",\"truncate_prompt_tokens\":513}", 400, "cannot be greater than max_model_len=512"},
        {"/v1/completions", "{\"prompt\":\"a\",\"use_beam_search\":true}", 400, "`use_beam_search` is not supported yet"},
        {"/v1/completions", "{\"prompt\":\"a\",\"structured_outputs\":{\"regex\":\"a\"}}", 400, "`structured_outputs` is not supported yet"},
        {"/v1/completions", "{\"prompt\":\"a\",\"bad_words\":[\"x\",\"\"]}", 400, "bad_words cannot contain an empty string. Got bad_words=['x', '']"},
        {"/v1/completions", "{\"prompt\":\"a\",\"bad_words\":[\" \"]}", 400,
         "bad_words entries must tokenize to at least one token. (parameter=bad_words, value=[' '])"},
        {"/v1/completions", "{\"prompt\":\"a\",\"bad_words\":[\"a\\u0000b\"]}", 400, "bad_words with a NUL character are not supported."},
        {"/v1/completions", "{\"prompt\":\"a\",\"bad_words\":\"x\"}", 400, "Input should be a valid list"},
        {"/v1/completions", "{\"prompt\":\"a\",\"bad_words\":[\"x\",5]}", 400, "'loc': 'body.bad_words.1', 'msg': 'Input should be a valid string'"},
        {"/v1/completions", "{\"prompt\":\"a\",\"allowed_token_ids\":[]}", 400,
         "allowed_token_ids is not None and empty! (parameter=allowed_token_ids, value=[])"},
        {"/v1/completions", "{\"prompt\":\"a\",\"allowed_token_ids\":[1,-1,99999999]}", 400,
         "allowed_token_ids contains out-of-vocab token id! (parameter=allowed_token_ids, value=[-1, 99999999])"},
        {"/v1/completions", "{\"prompt\":\"a\",\"allowed_token_ids\":[1,\"a\"]}", 400, "'loc': 'body.allowed_token_ids.1', 'msg': 'Input should be a valid integer"},
        {"/v1/completions", "{\"prompt\":\"a\",\"logprob_token_ids\":[-3]}", 400, "token_id(s) [-3] in logprob_token_ids contain out-of-vocab token ids."},
        {"/v1/completions", "{\"prompt\":\"a\",\"logprob_token_ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21]}", 400,
         "Requested logprob_token_ids of length 21, which is greater than max allowed: 20"},
        {"/v1/completions", "{\"prompt\":\"a\",\"logit_bias\":{\"99999999\":1}}", 400, "in logit_bias contain out-of-vocab token ids."},
        {"/v1/completions", "{\"prompt\":\"a\",\"model\":\"other\"}", 404, "The model `other` does not exist. Valid aliases: qwen, alias."},
        {"/v1/chat/completions", "{}", 400, "'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 0 items>'"},
        {"/v1/chat/completions", "{\"messages\":[5]}", 400, "'loc': 'body.messages.0'"},
        {"/v1/chat/completions", "{\"messages\":[{\"content\":\"x\"}]}", 400, "'loc': 'body.messages.0.role'"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":2}", 400,
         "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[]}", 400,
         "`tools` must not be an empty array."},
        {"/v1/chat/completions",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}", 400,
         "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_completion_tokens\":9999}", 400,
         "max_completion_tokens=9999 cannot be greater than max_model_len=512."},
        {"/tokenize", "{\"prompt\":5}", 400, "Input should be a valid string"},
        {"/detokenize", "{}", 400, "'loc': 'body.tokens', 'msg': 'Field required'"},
        {"/detokenize", "{\"tokens\":[99999999]}", 400, "out of vocabulary"},
    };
    (void)unused;
    reset("x");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *answer = ask(cases[i].path, cases[i].body, cases[i].status);
        if (message_of(answer) == NULL || strstr(message_of(answer), cases[i].message) == NULL)
            fail_msg("%s\n  says   %s\n  wanted %s", cases[i].body, message_of(answer), cases[i].message);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(answer, "error"), "code")), cases[i].status);
        json_decref(answer);
    }
    assert_int_equal(atomic_load(&engine.n_submitted), 0);
    /* values that a schema bends into shape, and fields that nobody knows */
    json_decref(ask("/v1/completions",
                    "{\"prompt\":\"a\",\"max_tokens\":\"3\",\"temperature\":\"0.5\",\"echo\":\"yes\",\"stream\":0,\"n\":1.0,\"zzz\":[1]}",
                    200));
    assert_int_equal(engine.last.max_tokens, 3);
    /* a prompt of exactly the model's length is too long for one more token, and deep JSON is no way in */
    char *deep = malloc(20001);
    memset(deep, '[', 20000);
    deep[20000] = '\0';
    json_decref(ask("/v1/completions", deep, 400));
    free(deep);
}

static void test_engine_troubles(void **unused) {
    (void)unused;
    static const struct {
        enum err_code code;
        int status;
        const char *type;
    } refusals[] = {
        {ERR_INVALID, 400, "BadRequestError"}, {ERR_LIMIT, 503, "ServiceUnavailableError"}, {ERR_PEER, 500, "InternalServerError"}};
    reset("one two three four five");
    for (size_t i = 0; i < 3; i++) {
        engine.refuse = refusals[i].code;
        json_t *answer = ask("/v1/completions", "{\"prompt\":\"a\"}", refusals[i].status);
        assert_string_equal(text_of(json_object_get(answer, "error"), "type"), refusals[i].type);
        json_decref(answer);
    }
    /* a full server says when to come again */
    engine.refuse = ERR_LIMIT;
    struct http_response full = post("/v1/completions", "{\"prompt\":\"a\"}");
    assert_int_equal(full.n_headers, 1);
    assert_string_equal(full.headers[0].name, "retry-after");
    assert_string_equal(full.headers[0].value, "1");
    free(full.body);
    /* the client leaves while an answer is computed: the work ends with it */
    reset("one");
    engine.delay_ms = 20;
    conn.gone_after = 2;
    struct http_response answer = post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":400}");
    assert_int_equal(answer.status, 499);
    free(answer.body);
    assert_int_equal(atomic_load(&engine.n_open), 0);
    assert_true(atomic_load(&engine.n_tokens) < 100);
    /* a stream that nobody reads to its end */
    conn.gone_after = 0;
    answer = post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":400,\"stream\":true}");
    char room[4096];
    for (int i = 0; i < 20 && answer.next(answer.ctx, room, sizeof room) <= 0; i++)
        continue;
    answer.finish(answer.ctx);
    assert_int_equal(atomic_load(&engine.n_open), 0);
    /* one choice fails */
    reset("one");
    engine.error_after = 2;
    json_decref(ask("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4}", 500));
    json_t *events = stream_events("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":4,\"stream\":true}");
    json_t *last = json_array_get(events, json_array_size(events) - 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(last, "error"), "code")), 500);
    json_decref(events);
    /* the engine dies: open requests say why, later ones and /health too */
    reset("one");
    engine.fail_after = 2;
    events =
        stream_events("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":4,\"stream\":true}");
    last = json_array_get(events, json_array_size(events) - 1);
    assert_non_null(strstr(message_of(last), "rank 1 on node b is gone"));
    json_decref(events);
    last = ask("/v1/completions", "{\"prompt\":\"a\"}", 500);
    assert_non_null(strstr(message_of(last), "rank 1 on node b is gone"));
    json_decref(last);
    struct http_request health = {.method = "GET", .path = "/health", .body = "", .conn = &conn};
    answer = (struct http_response){.status = 200};
    api_handle(api, &health, &answer);
    assert_int_equal(answer.status, 503);
}

static void test_scheduling_fields(void **unused) {
    (void)unused;
    static const char salt_message[] = "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)";
    reset("one");
    json_decref(ask("/v1/completions", "{\"prompt\":\"a\",\"cache_salt\":\"mine\",\"priority\":-3}", 200));
    assert_string_equal(engine.last_salt, "mine");
    assert_int_equal(engine.last_priority, -3);
    json_decref(ask("/v1/completions", "{\"prompt\":\"a\",\"cache_salt\":null}", 200));
    assert_string_equal(engine.last_salt, "");
    assert_int_equal(engine.last_priority, 0);
    json_t *answer = ask("/v1/completions", "{\"prompt\":\"a\",\"cache_salt\":\"\"}", 400);
    assert_string_equal(message_of(answer), salt_message);
    json_decref(answer);
    answer = ask("/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"cache_salt\":7}", 400);
    assert_string_equal(message_of(answer), salt_message);
    json_decref(answer);
    /* cached tokens of a prompt are told when the server was asked to, once for all its continuations, and not when there are none */
    engine.n_cached = 16;
    answer = ask("/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"n\":2}", 200);
    assert_true(json_is_null(json_object_get(json_object_get(answer, "usage"), "prompt_tokens_details")));
    json_decref(answer);
    opts.prompt_tokens_details = true;
    recreate();
    answer = ask("/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"n\":2}", 200);
    json_t *details = json_object_get(json_object_get(answer, "usage"), "prompt_tokens_details");
    assert_int_equal(json_integer_value(json_object_get(details, "cached_tokens")), 32);
    json_decref(answer);
    json_t *events = stream_events("/v1/completions", "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    json_t *usage = json_object_get(json_array_get(events, json_array_size(events) - 1), "usage");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens")), 16);
    json_decref(events);
    engine.n_cached = 0;
    answer = ask("/v1/completions", "{\"prompt\":\"a\"}", 200);
    assert_true(json_is_null(json_object_get(json_object_get(answer, "usage"), "prompt_tokens_details")));
    json_decref(answer);
    opts.prompt_tokens_details = false;
    recreate();
}

static struct http_response get(const char *path) {
    struct http_request request = {.method = "GET", .path = path, .body = "", .conn = &conn};
    struct http_response answer = {.status = 200};
    api_handle(api, &request, &answer);
    return answer;
}

static bool has_line(const char *text, const char *line) {
    const char *at = strstr(text, line);
    return at != NULL && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n';
}

static void test_metrics(void **unused) {
    (void)unused;
    reset("one two");
    json_decref(ask("/v1/completions", "{\"prompt\":[1,2,3],\"max_tokens\":4}", 200));
    json_decref(ask("/v1/completions", "{\"prompt\":[1,2,3],\"max_tokens\":40,\"stop\":\"two\"}", 200));
    json_decref(ask("/v1/completions", "{\"prompt\":[]}", 400));
    struct http_response answer = get("/metrics");
    static const char *const lines[] = {
        "vllm:num_requests_running{engine=\"0\",model_name=\"qwen\"} 0.0",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"qwen\"} 0.25",
        "vllm:request_success_total{finished_reason=\"length\",engine=\"0\",model_name=\"qwen\"} 1.0",
        "vllm:request_success_total{finished_reason=\"stop\",engine=\"0\",model_name=\"qwen\"} 1.0",
        "vllm:request_prompt_tokens_bucket{le=\"2.0\",engine=\"0\",model_name=\"qwen\"} 0.0",
        "vllm:request_prompt_tokens_bucket{le=\"5.0\",engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:request_prompt_tokens_sum{engine=\"0\",model_name=\"qwen\"} 6.0",
        "vllm:e2e_request_latency_seconds_count{engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:time_to_first_token_seconds_bucket{le=\"+Inf\",engine=\"0\",model_name=\"qwen\"} 2.0",
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"2xx\"} 2.0",
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"4xx\"} 1.0",
        "# TYPE vllm:inter_token_latency_seconds histogram",
        "vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"qwen\"} 50.0",
        "vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"qwen\"} 20.0",
        "vllm:cache_config_info{block_size=\"16\",enable_prefix_caching=\"True\",num_gpu_blocks=\"100\",engine=\"0\",model_name=\"qwen\"} 1.0",
        "vllm:iteration_tokens_total_bucket{le=\"1.0\",engine=\"0\",model_name=\"qwen\"} 0.0",
        "vllm:iteration_tokens_total_bucket{le=\"8.0\",engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:iteration_tokens_total_bucket{le=\"16384.0\",engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:iteration_tokens_total_count{engine=\"0\",model_name=\"qwen\"} 3.0",
        "vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"qwen\"} 20010.0",
        "vllm:request_queue_time_seconds_count{engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:request_prefill_time_seconds_count{engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:request_decode_time_seconds_count{engine=\"0\",model_name=\"qwen\"} 2.0",
        "vllm:request_inference_time_seconds_count{engine=\"0\",model_name=\"qwen\"} 2.0",
    };
    assert_string_equal(answer.content_type, "text/plain; version=1.0.0; charset=utf-8");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (!has_line(answer.body, lines[i]))
            fail_msg("no line '%s' in\n%s", lines[i], answer.body);
    free(answer.body);
    answer = get("/load");
    assert_string_equal(answer.body, "{\"server_load\":0}");
    free(answer.body);
}

static void test_keys_and_routes(void **unused) {
    static const char *const keys[] = {"first", "second", NULL};
    static const struct {
        const char *path, *header;
        int status;
    } cases[] = {{"/v1/models", NULL, 401},
                 {"/v1/models", "Bearer second", 200},
                 {"/v1/models", "bearer first", 200},
                 {"/v1/models", "Bearer sec", 401},
                 {"/v1/models", "Bearer second2", 401},
                 {"/v1/models", "first", 401},
                 {"/metrics", NULL, 401},
                 {"/health", NULL, 200},
                 {"/v1/nothing", NULL, 401},
                 {"/v1/nothing", "Bearer first", 404},
                 {"/v1/models/alias", "Bearer first", 200},
                 {"/v1/models/x", "Bearer first", 404},
                 {"/v1/models/", "Bearer first", 404}};
    (void)unused;
    reset("x");
    opts.api_keys = keys;
    recreate();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        conn.authorization = cases[i].header;
        struct http_response answer = get(cases[i].path);
        if (answer.status != cases[i].status)
            fail_msg("%s with %s: %d, wanted %d", cases[i].path, cases[i].header, answer.status, cases[i].status);
        free(answer.body);
    }
}

static void test_python_numbers(void **unused) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {{1.5, "1.5"},       {2, "2.0"},
                 {-0.1, "-0.1"},     {1e-5, "1e-05"},
                 {0.0001, "0.0001"}, {1e15, "1000000000000000.0"},
                 {1e16, "1e+16"},    {1.0 / 3, "0.3333333333333333"},
                 {0, "0.0"},         {123456.789, "123456.789"},
                 {1e300, "1e+300"},  {5e-324, "5e-324"}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[32];
        assert_string_equal(api_repr_double(cases[i].value, text), cases[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops),          cmocka_unit_test(test_text_is_whole),
        cmocka_unit_test(test_choices),        cmocka_unit_test(test_sampling_reaches_the_engine),
        cmocka_unit_test(test_logprobs),       cmocka_unit_test(test_chat),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_engine_troubles),
        cmocka_unit_test(test_scheduling_fields),
        cmocka_unit_test(test_metrics),        cmocka_unit_test(test_keys_and_routes),
        cmocka_unit_test(test_python_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
