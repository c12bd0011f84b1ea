/*
 * The API over HTTP with the fake engine behind it, for clients in other languages: prints "port N" and serves until
 * its standard input ends. Arguments are NAME=VALUE: eos_after, delay_ms, fail_after, error_after, refuse, script
 * (text that every choice says), script_ids (the same as ids: 1,2,3), n_vocab, key (an API key), max_model_len,
 * max_logprobs, stream_interval.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/file.h"
#include "fake_engine.h"

static const char template_source[] =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static int fail(const struct err *err) {
    fprintf(stderr, "fake_server: %s\n", err->msg);
    return 1;
}

/* "1,2,3" */
static int add_ids(const char *list, struct text_ids *ids) {
    ids->ids = malloc((strlen(list) + 1) * sizeof *ids->ids);
    if (ids->ids == NULL)
        return -1;
    for (const char *at = list; *at != '\0';) {
        char *end;
        ids->ids[ids->n_ids++] = (int32_t)strtol(at, &end, 10);
        at = *end == ',' ? end + 1 : end;
    }
    return 0;
}

int main(int argc, char **argv) {
    struct engine engine = {0};
    struct err err = {0};
    struct text_tokenizer *tokenizer = NULL;
    struct text_template *tmpl = NULL;
    struct api *api = NULL;
    struct http_server *server = NULL;
    const char *names[] = {"qwen", "second-name"}, *keys[] = {NULL, NULL}, *script = NULL, *script_ids = NULL;
    static const char *const origins[] = {"http://good", NULL};
    struct api_opts opts = {
        .engine = &engine, .served_names = names, .n_served_names = 1, .max_model_len = 8192, .max_logprobs = 20, .version = "0.1.0"};
    for (int i = 1; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        size_t len = value == NULL ? 0 : (size_t)(value++ - argv[i]);
#define IS(name) (len == sizeof name - 1 && strncmp(argv[i], name, len) == 0)
        if (IS("eos_after"))
            engine.eos_after = atoi(value);
        else if (IS("delay_ms"))
            engine.delay_ms = atoi(value);
        else if (IS("fail_after"))
            engine.fail_after = atoi(value);
        else if (IS("error_after"))
            engine.error_after = atoi(value);
        else if (IS("refuse"))
            engine.refuse = (enum err_code)atoi(value);
        else if (IS("script"))
            script = value;
        else if (IS("script_ids"))
            script_ids = value;
        else if (IS("n_vocab"))
            opts.n_vocab = atoi(value);
        else if (IS("key"))
            keys[0] = value;
        else if (IS("max_model_len"))
            opts.max_model_len = atoi(value);
        else if (IS("max_logprobs"))
            opts.max_logprobs = atoi(value);
        else if (IS("stream_interval"))
            opts.stream_interval = atoi(value);
        else {
            fprintf(stderr, "fake_server: unknown argument '%s'\n", argv[i]);
            return 2;
        }
    }
    if (text_tokenizer_open_json(TEST_DATA_DIR "/models/tiny-qwen3/tokenizer.json", &tokenizer, &err) != 0 ||
        text_template_compile(template_source, strlen(template_source), &tmpl, &err) != 0)
        return fail(&err);
    struct text_ids ids;
    text_ids_init(&ids, 1024);
    if (script != NULL && text_tokenizer_encode(tokenizer, script, strlen(script), TEXT_PARSE_SPECIAL, &ids, &err) != 0)
        return fail(&err);
    if (script_ids != NULL && add_ids(script_ids, &ids) != 0)
        return 1;
    engine.script = ids.ids;
    engine.n_script = ids.n_ids;
    engine.eos = text_tokenizer_eos(tokenizer);
    if (opts.n_vocab == 0)
        opts.n_vocab = text_tokenizer_n_vocab(tokenizer);
    engine.n_vocab = opts.n_vocab;
    opts.tokenizer = tokenizer;
    opts.chat_template = tmpl;
    opts.eos = &engine.eos;
    opts.n_eos = 1;
    opts.api_keys = keys;
    if (api_create(&opts, &api, &err) != 0)
        return fail(&err);
    struct http_server_opts http = {.host = "127.0.0.1",
                                    .body_limit_bytes = 4 << 20,
                                    .max_connections = 200,
                                    .idle_timeout_s = 30,
                                    .allowed_origins = origins,
                                    .handler = api_handle,
                                    .handler_ctx = api};
    if (http_server_start(&http, &server, &err) != 0)
        return fail(&err);
    printf("port %u\n", http_server_port(server));
    fflush(stdout);
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) { /* each line asks for what the engine has seen */
        printf("submitted=%d open=%d cancelled=%d closed=%d tokens=%d active=%d\n", atomic_load(&engine.n_submitted),
               atomic_load(&engine.n_open), atomic_load(&engine.n_cancelled), atomic_load(&engine.n_closed), atomic_load(&engine.n_tokens),
               http_server_active(server));
        fflush(stdout);
    }
    http_server_stop(server);
    api_destroy(api);
    text_ids_finish(&ids);
    text_template_destroy(tmpl);
    text_tokenizer_close(tokenizer);
    return 0;
}
