/*
 * `shoal verify`: starts an agent on every node (over Ray, over ssh, or here alone), asks them, and prints what was found.
 * `shoal verify-agent` is the other end. Nothing is changed on any node; in the end all agents are gone. Main thread.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "cluster/cluster.h"
#include "cmd/build_id.h"
#include "cmd/commands.h"
#include "cmd/options.h"
#include "cmd/worker_run.h"
#include "http/client.h"
#include "model/config.h"
#include "verify/verify.h"
#include "weights/hub.h"

enum { MAX_HOSTS = CLUSTER_MAX_NODES, HOSTS_BYTES = 8192, STOP_GRACE_MS = 3000 };

static volatile sig_atomic_t is_stopped;

static void on_signal(int number) {
    (void)number;
    is_stopped = 1;
}

static bool is_cancelled(void *ctx) {
    (void)ctx;
    return is_stopped != 0;
}

/* "a,b,c" into words inside `room`. */
static int split_hosts(const char *text, char room[HOSTS_BYTES], const char *ret[MAX_HOSTS], struct err *err) {
    int n = 0;
    char *rest = NULL;
    if (strlen(text) >= HOSTS_BYTES)
        return err_set(err, ERR_LIMIT, "--hosts is longer than %d bytes", HOSTS_BYTES - 1);
    strcpy(room, text);
    for (char *word = strtok_r(room, ", ", &rest); word != NULL; word = strtok_r(NULL, ", ", &rest)) {
        if (n == MAX_HOSTS)
            return err_set(err, ERR_LIMIT, "--hosts names more than %d hosts", MAX_HOSTS);
        ret[n++] = word;
    }
    return n > 0 ? n : err_set(err, ERR_INVALID, "--hosts names no host");
}

/* Layers and width of the model, for what the links mean. Without them that part is left out: whether the model is there, the nodes tell.
 */
static void read_load(const struct options *o, struct verify_load *ret) {
    char path[PATH_MAX];
    struct weights_store *store = NULL;
    struct model_config config;
    struct err err;
    ret->tp_size = (int)o->verify.tp_size;
    ret->pp_size = (int)o->verify.pp_size;
    if (ret->tp_size > 0 || ret->pp_size > 0) {
        ret->tp_size = ret->tp_size > 0 ? ret->tp_size : 1;
        ret->pp_size = ret->pp_size > 0 ? ret->pp_size : 1;
    }
    if (o->model == NULL)
        return;
    if (weights_hub_resolve(o->model, o->revision, o->download_dir, path, &err) != 0 || weights_store_open(path, &store, &err) != 0 ||
        model_config_load(path, store, NULL, &config, &err) != 0) {
        log_warning("What the links mean for %s is left out: %s", o->model, err.msg);
    } else {
        ret->n_layers = config.n_layers;
        ret->hidden = config.hidden;
    }
    weights_store_close(store);
}

static int print_result(const struct verify_result *result, bool as_json, struct err *err) {
    if (!as_json) {
        verify_result_print(result, false, stdout);
        return 0;
    }
    json_t *json = verify_result_json(result);
    char *text = json == NULL ? NULL : json_text(json);
    json_decref(json);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the result");
    puts(text);
    free(text);
    return 0;
}

/* *ret_passed: whether no check has failed. */
static int verify_nodes(const struct options *o, bool *ret_passed, struct err *err) {
    const char *hosts[MAX_HOSTS];
    char room[HOSTS_BYTES], *model_path = o->model == NULL ? NULL : realpath(o->model, NULL);
    struct cluster *cluster = NULL;
    struct verify_result result = {0};
    struct cluster_opts opts = {.backend = o->verify.local           ? CLUSTER_MP
                                           : o->verify.hosts != NULL ? CLUSTER_SSH
                                                                     : CLUSTER_RAY,
                                .tp_size = 1,
                                .pp_size = 1,
                                .is_survey = true,
                                .role = "verify-agent",
                                .interface = o->interface,
                                .timeout_ms = (int)o->verify.timeout_s * 1000,
                                .build = cmd_build_id(),
                                .cpu_max = o->cpu_max,
                                .log_level = o->log_level,
                                .ray_address = o->ray_address,
                                .ray_ship_binary = o->ray_ship_binary,
                                .n_nodes = (int)o->nnodes,
                                .hosts = hosts,
                                .ssh_command = o->verify.ssh_command,
                                .is_cancelled = is_cancelled};
    int rc = -1;
    if (o->verify.hosts != NULL && (opts.n_hosts = split_hosts(o->verify.hosts, room, hosts, err)) < 0)
        goto free_path;
    if (cluster_start(&opts, &cluster, err) != 0)
        goto free_path;
    struct verify_opts verify = {.is_quick = o->verify.quick,
                                 .build = cmd_build_id(),
                                 .model = model_path != NULL ? model_path : o->model,
                                 .revision = o->revision,
                                 .download_dir = o->download_dir,
                                 .hccn_tool = o->verify.hccn_tool,
                                 .npu_smi = o->verify.npu_smi,
                                 .hccn_conf = o->verify.hccn_conf,
                                 .n_npus = (int)o->verify.npus,
                                 .is_cancelled = is_cancelled};
    read_load(o, &verify.load);
    verify.nodes = cluster_nodes(cluster, &verify.n_nodes);
    rc = verify_run(&verify, &result, err);
    cluster_stop(cluster, STOP_GRACE_MS);
    if (rc == 0)
        rc = print_result(&result, o->verify.json, err);
    *ret_passed = verify_findings_worst(&result.findings) < VERIFY_FAIL;
    verify_result_finish(&result);
free_path:
    free(model_path);
    return rc;
}

int cmd_verify(int argc, char **argv) {
    struct options options;
    struct err err;
    bool passed = false;
    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        options_print_help(OPTIONS_VERIFY);
        return 0;
    }
    if (options_parse(OPTIONS_VERIFY, argc, argv, &options, &err) != 0) {
        fprintf(stderr, "shoal verify: %s\n", err.msg);
        return CMD_EXIT_USAGE;
    }
    enum log_level level = LOG_WARNING;
    log_level_parse(options.log_level, &level);
    log_setup(level, "verify");
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    setenv("HF_HUB_OFFLINE", "1", 1); /* looks, and downloads nothing */
    int result = http_client_setup(&err) != 0 ? -1 : verify_nodes(&options, &passed, &err);
    if (result != 0)
        fprintf(stderr, "shoal verify: %s\n", err.msg);
    options_finish(&options);
    return result == 0 && passed ? 0 : CMD_EXIT_FAILURE;
}

int cmd_verify_agent(int argc, char **argv) {
    struct options options;
    struct err err;
    if (options_parse(OPTIONS_VERIFY_AGENT, argc, argv, &options, &err) != 0) {
        fprintf(stderr, "shoal verify-agent: %s\n", err.msg);
        return CMD_EXIT_USAGE;
    }
    enum log_level level = LOG_INFO;
    log_level_parse(options.log_level, &level);
    log_setup(level, "agent");
    setenv("HF_HUB_OFFLINE", "1", 1);
    int result = cmd_agent_run(&options, &err);
    if (result != 0)
        log_error("%s", err.msg);
    options_finish(&options);
    return result == 0 ? 0 : CMD_EXIT_FAILURE;
}
