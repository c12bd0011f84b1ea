/*
 * `shoal serve`: from the command line to a served model and back to nothing. The main thread starts the launch and puts
 * the API on top, then watches the launch once a second and waits for signals.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/log.h"
#include "cmd/build_id.h"
#include "cmd/commands.h"
#include "cmd/launch.h"
#include "cmd/options.h"
#include "cmd/stop_signal.h"
#include "cmd/worker_run.h"
#include "engine/run.h"
#include "http/client.h"
#include "http/server.h"

enum {
    FAILED_LINGER_MS = 2000,     /* how long a broken launch still answers /health with 503 */
    WATCH_GAP_MS = 1000,
    MAX_CONNECTIONS = 4096,
    BODY_LIMIT = 16 << 20
};

/* Everything that is alive while serving, in the order in which it is made. */
struct server {
    struct options options;
    struct cmd_launch launch;
    struct api *api;
    struct http_server *http;
    const char *default_names[1], *default_keys[2]; /* what the API is called and asks for when no flag says; NULL-terminated keys */
};

/* A port that is taken should be known before the weights are loaded. */
static int check_port(const struct options *o, struct err *err) {
    if (o->uds != NULL || o->port == 0)
        return 0;
    struct net_addr addr = {.port = (uint16_t)o->port}, bound;
    int fd;
    snprintf(addr.host, sizeof addr.host, "%s", o->host != NULL ? o->host : "0.0.0.0");
    if (net_listen(&addr, &fd, &bound, err) != 0)
        return -1;
    close(fd);
    return 0;
}

static int start_http(struct server *s, struct err *err) {
    const struct options *o = &s->options;
    s->default_names[0] = o->model;
    s->default_keys[0] = getenv("VLLM_API_KEY");
    struct api_opts api = {.engine = s->launch.engine,
                           .tokenizer = s->launch.files.tokenizer,
                           .chat_template = s->launch.files.chat_template,
                           .served_names = o->served_model_name.n > 0 ? o->served_model_name.items : s->default_names,
                           .n_served_names = o->served_model_name.n > 0 ? o->served_model_name.n : 1,
                           .model_root = o->model,
                           .max_model_len = s->launch.max_model_len,
                           .n_vocab = s->launch.files.config.n_vocab,
                           .max_logprobs = (int)o->max_logprobs,
                           .eos = s->launch.files.config.eos,
                           .n_eos = s->launch.files.config.n_eos,
                           .generation_defaults = s->launch.files.generation_defaults,
                           .api_keys = o->api_key.n > 0 ? o->api_key.items : s->default_keys,
                           .response_role = o->response_role,
                           .version = SHOAL_VERSION,
                           .log_requests = o->enable_log_requests,
                           .prompt_tokens_details = o->enable_prompt_tokens_details,
                           .stream_interval = (int)o->stream_interval};
    if (api_create(&api, &s->api, err) != 0)
        return -1;
    static const char *const everybody[] = {"*", NULL}; /* vLLM's default */
    struct http_server_opts http = {.host = o->host,
                                    .port = (uint16_t)o->port,
                                    .uds = o->uds,
                                    .tls_key_path = o->ssl_keyfile,
                                    .tls_cert_path = o->ssl_certfile,
                                    .tls_ca_path = o->ssl_ca_certs,
                                    .body_limit_bytes = BODY_LIMIT,
                                    .max_connections = MAX_CONNECTIONS,
                                    .idle_timeout_s = 300,
                                    .allowed_origins = o->allowed_origins.n > 0 ? o->allowed_origins.items : everybody,
                                    .handler = api_handle,
                                    .handler_ctx = s->api};
    return http_server_start(&http, &s->http, err);
}

static void announce(const struct server *s) {
    const struct options *o = &s->options;
    const char *name = o->served_model_name.n > 0 ? o->served_model_name.items[0] : o->model;
    const char *scheme = o->ssl_certfile != NULL ? "https" : "http";
    bool is_everywhere = o->host == NULL || strcmp(o->host, "0.0.0.0") == 0 || strcmp(o->host, "::") == 0;
    if (is_everywhere && o->api_key.n == 0 && getenv("VLLM_API_KEY") == NULL && o->uds == NULL)
        log_warning("The API answers everybody who reaches this host: set --api-key, or --host 127.0.0.1");
    if (o->uds != NULL) {
        log_info("Serving '%s' on the unix socket %s", name, o->uds);
        return;
    }
    log_info("Serving '%s' on %s://%s:%u. Ask it:", name, scheme, is_everywhere ? "127.0.0.1" : o->host, http_server_port(s->http));
    fprintf(stderr,
            "\n  curl %s://%s:%u/v1/completions -H 'Content-Type: application/json' \\\n"
            "    -d '{\"model\": \"%s\", \"prompt\": \"tell me how to sleep well\", \"max_tokens\": 100, \"temperature\": 0}'\n\n",
            scheme, is_everywhere ? "127.0.0.1" : o->host, http_server_port(s->http), name);
}

static int start_all(struct server *s, struct err *err) {
    if (http_client_setup(err) != 0 || cmd_launch_open(&s->options, stop_signal_came, &s->launch, err) != 0 ||
        check_port(&s->options, err) != 0 || cmd_launch_start(&s->launch, err) != 0 || start_http(s, err) != 0)
        return -1;
    announce(s);
    return 0;
}

/* Until a signal asks to stop (0) or the launch breaks (-1). */
static int watch_until_stop(struct server *s, struct err *err) {
    for (;;) {
        if (stop_signal_came(NULL))
            return 0;
        const char *failure = engine_failure(s->launch.engine);
        struct err why;
        int poll_result = cluster_poll(s->launch.cluster, &why);
        if (failure == NULL && poll_result != 0)
            engine_fail(s->launch.engine, &why);
        if (failure != NULL || poll_result != 0) {
            /* The link broke first, most often; how the process ended says more. */
            if (poll_result == 0) {
                clock_nap_ms(WATCH_GAP_MS / 2);
                poll_result = cluster_poll(s->launch.cluster, &why);
            }
            err_set(err, ERR_PEER, "%s%s%s", failure != NULL ? failure : why.msg, failure != NULL && poll_result != 0 ? "; " : "",
                    failure != NULL && poll_result != 0 ? why.msg : "");
            return -1;
        }
        clock_nap_ms(WATCH_GAP_MS / 4);
    }
}

/* Graceful: no new connections, requests in flight get --shutdown-timeout seconds. */
static void drain(struct server *s) {
    int64_t deadline_ms = clock_mono_ms() + s->options.shutdown_timeout_s * 1000;
    http_server_quiesce(s->http);
    if (engine_n_active(s->launch.engine) > 0 && s->options.shutdown_timeout_s > 0)
        log_info("Stopping: %d request(s) have %lld s to finish", engine_n_active(s->launch.engine), (long long)s->options.shutdown_timeout_s);
    while (http_server_active(s->http) > 0 && clock_left_ms(deadline_ms) > 0)
        clock_nap_ms(20);
}

static void stop_all(struct server *s) {
    struct err stopping;
    err_set(&stopping, ERR_CANCELLED, "the server is stopping");
    if (s->launch.engine != NULL)
        engine_fail(s->launch.engine, &stopping); /* answers whoever still waits */
    http_server_stop(s->http);
    api_destroy(s->api);
    cmd_launch_close(&s->launch);
}

static int run_server(struct server *s) {
    struct err err;
    int status = 0;
    if (start_all(s, &err) != 0) {
        if (!stop_signal_came(NULL))
            log_error("%s", err.msg);
        status = CMD_EXIT_FAILURE;
    } else if (watch_until_stop(s, &err) != 0) {
        log_error("The launch is lost: %s", err.msg);
        clock_nap_ms(FAILED_LINGER_MS);
        status = CMD_EXIT_FAILURE;
    } else {
        log_info("Stopping on %s", strsignal(stop_signal_number()));
        drain(s);
    }
    stop_all(s);
    return status;
}

/* A further node of a launch by hand: no server here, just ranks. */
static int run_headless(const struct options *o) {
    struct err err;
    struct cluster_join_opts join = {.driver_host = o->master_addr,
                                     .driver_port = (uint16_t)o->master_port,
                                     .slot = (int)o->node_rank,
                                     .interface = o->interface,
                                     .build = cmd_build_id(),
                                     .timeout_ms = cmd_launch_timeout_s(o) * 1000};
    if (cluster_hand_secret(&join.secret, &err) != 0 || cmd_worker_run(&join, o->cpu_max, &err) != 0) {
        log_error("%s", err.msg);
        return CMD_EXIT_FAILURE;
    }
    return 0;
}

int cmd_serve(int argc, char **argv) {
    struct server server = {0};
    struct err err;
    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        options_print_help(OPTIONS_SERVE);
        return 0;
    }
    if (options_parse(OPTIONS_SERVE, argc, argv, &server.options, &err) != 0) {
        fprintf(stderr, "shoal serve: %s\n", err.msg);
        return CMD_EXIT_USAGE;
    }
    enum log_level level = LOG_INFO;
    log_level_parse(server.options.log_level, &level);
    bool is_headless = server.options.headless || server.options.node_rank > 0;
    log_setup(level, is_headless ? "worker" : "driver");
    if (!is_headless) {
        stop_signal_catch();
        stop_signal_catch_also(SIGHUP);
    }
    int status = is_headless ? run_headless(&server.options) : run_server(&server);
    options_finish(&server.options);
    return status;
}
