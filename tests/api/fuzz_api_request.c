/*
 * Any bytes as the body of a POST: an answer must come, and be JSON or events. The first byte chooses the route.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "fake_engine.h"
#include "fake_http.h"

enum { MAX_READS = 20000 };

static struct engine engine;
static struct api *api;

static void die(const char *why) {
    fprintf(stderr, "fuzz_api_request: %s\n", why);
    abort();
}

static void start(void) {
    static const char source[] = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}";
    static const char *const names[] = {"qwen"};
    static struct api_opts opts = {.served_names = names, .n_served_names = 1, .max_model_len = 64, .max_logprobs = 5, .version = "0"};
    struct err err = {0};
    struct text_tokenizer *tokenizer = NULL;
    struct text_template *tmpl = NULL;
    if (text_tokenizer_open_json(TEST_DATA_DIR "/models/tiny-qwen3/tokenizer.json", &tokenizer, &err) != 0 ||
        text_template_compile(source, strlen(source), &tmpl, &err) != 0)
        die(err.msg);
    engine.n_vocab = opts.n_vocab = text_tokenizer_n_vocab(tokenizer);
    opts.engine = &engine;
    opts.tokenizer = tokenizer;
    opts.chat_template = tmpl;
    if (api_create(&opts, &api, &err) != 0)
        die(err.msg);
}

static void read_stream(const struct http_response *answer) {
    char room[777];
    ssize_t n = 0;
    for (int i = 0; i < MAX_READS && n >= 0; i++)
        n = answer->next(answer->ctx, room, sizeof room);
    if (n >= 0)
        die("a stream without end");
    answer->finish(answer->ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const paths[] = {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/invocations"};
    if (api == NULL)
        start();
    if (size == 0)
        return 0;
    char *body = malloc(size);
    if (body == NULL)
        return 0;
    memcpy(body, data + 1, size - 1);
    body[size - 1] = '\0';
    struct http_conn conn = {0};
    struct http_request request = {.method = "POST", .path = paths[data[0] % 5], .body = body, .body_bytes = size - 1, .conn = &conn};
    struct http_response answer = {.status = 200};
    api_handle(api, &request, &answer);
    if (answer.next != NULL) {
        read_stream(&answer);
    } else {
        json_error_t where;
        json_t *value = json_loadb(answer.body, answer.body_bytes, JSON_ALLOW_NUL, &where);
        /* A token of a NUL byte as a key of top_logprobs is JSON too; jansson writes such keys but does not read them. */
        if (value == NULL && json_error_code(&where) != json_error_null_byte_in_key)
            die("an answer that is no JSON");
        json_decref(value);
    }
    free(answer.body);
    free(body);
    return 0;
}
