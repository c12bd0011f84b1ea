/*
 * `shoal plan`: what a launch would take on nodes that need not be there. Reads config.json, and of weights that are there the
 * list of tensors. Main thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "base/log.h"
#include "cmd/commands.h"
#include "cmd/plan_launch.h"
#include "cmd/plan_measure.h"
#include "cmd/plan_print.h"
#include "weights/hub.h"

struct unit {
    const char *suffix;
    double factor;
};
static const struct unit bytes_units[] = {{"", 1},           {"kB", 1e3},         {"MB", 1e6},         {"GB", 1e9},         {"TB", 1e12},
                                          {"KiB", 1024},     {"MiB", 1048576},    {"GiB", 1073741824}, {"TiB", 1099511627776.0},
                                          {"G", 1073741824}, {NULL, 0}};
static const struct unit memory_rate_units[] = {{"GB/s", 1e9}, {"MB/s", 1e6}, {"TB/s", 1e12}, {"GiB/s", 1073741824}, {NULL, 0}};
static const struct unit link_rate_units[] = {{"Gbit", 1.25e8}, {"Gbit/s", 1.25e8}, {"Mbit", 1.25e5}, {"Mbit/s", 1.25e5},
                                              {"GB/s", 1e9},    {"MB/s", 1e6},      {NULL, 0}};
static const struct unit time_units[] = {{"us", 1e-6}, {"µs", 1e-6}, {"ms", 1e-3}, {"ns", 1e-9}, {"s", 1}, {NULL, 0}};

/* "128GiB" or "128GiB,64GiB": the number of values, at most `most`; -1 for what is none. */
static int parse_values(const char *flag, const char *text, const struct unit *units, const char *example, double *ret, int most, struct err *err) {
    int n = 0;
    for (const char *at = text;; at++) {
        char *end;
        double value = strtod(at, &end);
        size_t len = strcspn(end, ",");
        const struct unit *unit = units;
        while (unit->suffix != NULL && (strncmp(unit->suffix, end, len) != 0 || unit->suffix[len] != '\0'))
            unit++;
        if (end == at || unit->suffix == NULL || !isfinite(value) || value <= 0 || n == most)
            return err_set(err, ERR_INVALID, "%s should be %s, or a list of at most %d of them, but is '%s'", flag, example, most, text);
        ret[n++] = value * unit->factor;
        at = end + len;
        if (*at == '\0')
            return n;
    }
}

/* One value for all nodes, or one for each. */
static int spread_values(const char *flag, int n, int n_nodes, double *values, struct err *err) {
    if (n != 1 && n != n_nodes)
        return err_set(err, ERR_INVALID, "%s has %d values for %d nodes; give one for all, or one for each", flag, n, n_nodes);
    for (int i = n; i < n_nodes; i++)
        values[i] = values[0];
    return 0;
}

/* How many nodes there are, and their memory. */
static int choose_nodes(const struct options *o, struct plan_node nodes[COMM_MAX_NODES], int *ret_n, struct err *err) {
    double memory[COMM_MAX_NODES], bandwidth[COMM_MAX_NODES] = {0};
    uint64_t total, available;
    int n = 1, n_nodes;
    host_memory(&total, &available);
    if (o->plan.memory_per_node != NULL &&
        (n = parse_values("--memory-per-node", o->plan.memory_per_node, bytes_units, "a size such as 128GiB", memory, COMM_MAX_NODES, err)) < 0)
        return -1;
    n_nodes = o->nnodes > 0 ? (int)o->nnodes : n;
    if (spread_values("--memory-per-node", n, n_nodes, memory, err) != 0)
        return -1;
    if (o->plan.memory_bandwidth != NULL) {
        n = parse_values("--memory-bandwidth", o->plan.memory_bandwidth, memory_rate_units, "a rate such as 40GB/s", bandwidth, COMM_MAX_NODES, err);
        if (n < 0 || spread_values("--memory-bandwidth", n, n_nodes, bandwidth, err) != 0)
            return -1;
    }
    if (o->plan.measure) {
        if (cmd_plan_measure(&bandwidth[0], err) != 0)
            return -1;
        for (int i = 1; i < n_nodes; i++)
            bandwidth[i] = bandwidth[0];
    }
    for (int i = 0; i < n_nodes; i++) {
        nodes[i] = (struct plan_node){.total_bytes = total, .available_bytes = available, .bandwidth_bps = bandwidth[i]};
        if (o->plan.memory_per_node != NULL)
            nodes[i].total_bytes = nodes[i].available_bytes = (uint64_t)memory[i];
    }
    *ret_n = n_nodes;
    return 0;
}

static int choose_loads(const struct options *o, struct plan_view *view, struct err *err) {
    double latency_s, rate_bps, held = (double)view->fit->n_blocks / view->fit->blocks_per_seq;
    if (parse_values("--link-latency", o->plan.link_latency, time_units, "a time such as 50us", &latency_s, 1, err) < 0 ||
        parse_values("--link-rate", o->plan.link_rate, link_rate_units, "a rate such as 10Gbit", &rate_bps, 1, err) < 0)
        return -1;
    int context = o->plan.context < view->ask->max_model_len ? (int)o->plan.context : view->ask->max_model_len;
    int batch = o->plan.batch > 0 ? (int)o->plan.batch : held < view->ask->max_seqs ? (int)held : view->ask->max_seqs;
    view->loads[0] = (struct plan_load){.link_latency_s = latency_s, .link_bps = rate_bps, .n_seqs = 1, .context = context};
    view->loads[1] = view->loads[0];
    view->loads[1].n_seqs = batch;
    view->n_loads = batch > 1 ? 2 : 1;
    return 0;
}

/* The files that a plan needs: no tokenizer, and weights only if they are there. */
static int open_files(const struct options *o, struct model_files *files, struct err *err) {
    struct err why;
    bool is_dummy = strcmp(o->load_format, "dummy") == 0;
    if (weights_hub_resolve_config(o->model, o->revision, o->download_dir, files->path, err) != 0)
        return -1;
    if (!is_dummy && weights_store_open(files->path, &files->store, &why) != 0)
        log_debug("No weights to look at: %s", why.msg);
    if (model_config_load(files->path, files->store, o->hf_overrides, &files->config, err) != 0)
        return -1;
    return model_config_quantize(&files->config, files->store, o->quantization, err);
}

static int measure_whole(const struct plan_ask *ask, struct plan_fit *fit, struct model_sizes *ret, struct err *err) {
    struct plan_ask one = *ask;
    one.tp_size = one.pp_size = one.n_nodes = 1;
    one.expert_parallel = false;
    one.layers_per_stage[0] = 0;
    if (plan_fit_compute(&one, fit, err) != 0)
        return -1;
    *ret = fit->ranks[0].sizes;
    return 0;
}

/* 1 when it fits, 0 when not, -1 for an error. */
static int plan(const struct options *o, struct cmd_launch *l, struct plan_fit *fit, struct err *err) {
    struct plan_node nodes[COMM_MAX_NODES];
    struct plan_ask ask;
    struct plan_choice smallest, faster;
    struct plan_view view = {.model = o->model, .ask = &ask, .fit = fit};
    int n_nodes;
    if (open_files(o, &l->files, err) != 0 || cmd_launch_check(l, err) != 0 || choose_nodes(o, nodes, &n_nodes, err) != 0)
        return -1;
    cmd_plan_ask(l, n_nodes, &ask);
    memcpy(ask.nodes, nodes, sizeof nodes);
    if (measure_whole(&ask, fit, &view.whole, err) != 0 || plan_fit_compute(&ask, fit, err) != 0 || choose_loads(o, &view, err) != 0)
        return -1;
    view.has_bandwidth = ask.nodes[0].bandwidth_bps > 0;
    for (int i = 0; i < view.n_loads; i++)
        plan_pace_compute(&ask, fit, &view.loads[i], &view.paces[i]);
    if (!fit->fits && plan_search_smallest(&ask, &smallest))
        view.smallest = &smallest;
    view.faster_load = view.n_loads - 1;
    if (fit->fits && view.has_bandwidth &&
        plan_search_fastest(&ask, &view.loads[view.faster_load], &view.paces[view.faster_load], &faster))
        view.faster = &faster;
    if (!o->plan.json)
        cmd_plan_print(&view, stdout);
    else if (cmd_plan_print_json(&view, stdout) != 0)
        return err_set(err, ERR_NOMEM, "no memory for the plan's JSON");
    return fit->fits;
}

int cmd_plan(int argc, char **argv) {
    struct options options;
    struct err err;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            options_print_help(OPTIONS_PLAN);
            return 0;
        }
    }
    if (options_parse(OPTIONS_PLAN, argc, argv, &options, &err) != 0) {
        fprintf(stderr, "shoal plan: %s\n", err.msg);
        return CMD_EXIT_USAGE;
    }
    struct cmd_launch launch = {.options = &options};
    struct plan_fit *fit = malloc(sizeof *fit);
    int fits = fit == NULL ? err_set(&err, ERR_NOMEM, "no memory for a plan") : plan(&options, &launch, fit, &err);
    if (fits < 0)
        fprintf(stderr, "shoal plan: %s\n", err.msg);
    free(fit);
    cmd_model_files_close(&launch.files);
    options_finish(&options);
    return fits > 0 ? 0 : fits < 0 && err.code == ERR_INVALID ? CMD_EXIT_USAGE : CMD_EXIT_FAILURE;
}
