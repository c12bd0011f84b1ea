/* The order of questions, and the comparison of answers; see verify.h. The links are in pairs.c. */
#include "verify/verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "verify/npu_compare.h"
#include "verify/pairs.h"

enum {
    NODE_TIMEOUT_MS = 12000, /* lldpcli and getent have 2 s each */
    DOUBTFUL_TIMEOUT_MS = 4500,
    MODEL_TIMEOUT_MS = 15000,
    CLOCK_TIMEOUT_MS = 5000,
    CLOCK_ROUNDS = 4,
    CLOCK_WARN_MS = 500,
    CLOCK_FAIL_MS = 10000
};

struct run {
    const struct verify_opts *opts;
    struct verify_findings *findings;
    struct verify_asker asker;
    json_t *facts[CLUSTER_MAX_NODES]; /* of each node, or NULL */
};

static void name_nodes(const struct verify_opts *opts, struct verify_result *result) {
    for (int i = 0; i < opts->n_nodes; i++) {
        const struct cluster_node *node = &opts->nodes[i];
        const char *name = node->host_name[0] ? node->host_name : node->name;
        char text[sizeof result->names[0]];
        if (name[0] != '\0' && strcmp(name, node->host) != 0)
            snprintf(text, sizeof text, "node %d: %s (%s)", i, name, node->host[0] ? node->host : "no address");
        else
            snprintf(text, sizeof text, "node %d: %s", i, node->host[0] ? node->host : "not there");
        verify_clean_text(text, result->names[i], sizeof result->names[i]);
    }
}

static void check_presence(struct run *run) {
    const struct verify_opts *opts = run->opts;
    for (int i = 0; i < opts->n_nodes; i++) {
        const struct cluster_node *node = &opts->nodes[i];
        if (node->fd < 0) {
            verify_findings_add(run->findings, i, VERIFY_FAIL, "node", "Bring it up, or see why shoal cannot be started there", "%s",
                                node->missing[0] ? node->missing : "it is not there");
            continue;
        }
        verify_findings_add(run->findings, i, VERIFY_OK, "node", NULL, "answers as process %lld from %s", (long long)node->pid, node->host);
        if (strcmp(node->build, opts->build) != 0)
            verify_findings_add(run->findings, i, VERIFY_FAIL, "build", "Install the same build on all nodes, or use --ray-ship-binary",
                                "it is %s, here is %s", node->build, opts->build);
        else
            verify_findings_add(run->findings, i, VERIFY_OK, "build", NULL, "%s", node->build);
        if (node->placed_host[0] != '\0' && strcmp(node->placed_host, node->host) != 0)
            verify_findings_add(run->findings, i, VERIFY_WARN, "address",
                                "If this is not meant, start Ray there with --node-ip-address, or give --interface",
                                "Ray knows this node as %s, the traffic would go over %s", node->placed_host, node->host);
        for (int k = 0; k < i; k++)
            if (opts->nodes[k].fd >= 0 && strcmp(opts->nodes[k].host, node->host) == 0 && opts->n_nodes > 1)
                verify_findings_add(run->findings, i, VERIFY_WARN, "address", "Two nodes on one host share its CPUs and memory",
                                    "%s is node %d's too", node->host, k);
    }
}

/* Another node that is there, or "". */
static const char *someone_else(const struct verify_opts *opts, int node) {
    for (int i = 0; i < opts->n_nodes; i++)
        if (i != node && opts->nodes[i].fd >= 0 && strcmp(opts->nodes[i].host, opts->nodes[node].host) != 0)
            return opts->nodes[i].host;
    return "";
}

/* Lines and facts of an answer into the run. Takes over the answer. */
static void take_answer(struct run *run, struct verify_ask *ask, const char *check) {
    struct err err;
    if (ask->answer == NULL) {
        if (!run->asker.is_lost[ask->node])
            verify_findings_add(run->findings, ask->node, VERIFY_FAIL, check, NULL, "%s", ask->trouble);
        return;
    }
    if (verify_findings_from_json(run->findings, ask->node, json_object_get(ask->answer, "lines"), &err) != 0)
        verify_findings_add(run->findings, ask->node, VERIFY_FAIL, check, NULL, "%s", err.msg);
    json_t *facts = json_object_get(ask->answer, "facts");
    if (json_is_object(facts) && run->facts[ask->node] == NULL)
        run->facts[ask->node] = json_incref(facts);
    else if (json_is_object(facts))
        json_object_update(run->facts[ask->node], facts);
    json_decref(ask->answer);
    ask->answer = NULL;
}

/* Answers of many lines may not come over links that are broken: then nobody waits long for them. */
static void ask_nodes(struct run *run, bool is_doubtful) {
    const struct verify_opts *opts = run->opts;
    struct verify_ask asks[CLUSTER_MAX_NODES];
    for (int i = 0; i < opts->n_nodes; i++)
        asks[i] = (struct verify_ask){
            .node = i,
            .what = "its interface, memory and limits",
            .timeout_ms = is_doubtful ? DOUBTFUL_TIMEOUT_MS : NODE_TIMEOUT_MS,
            .ask = json_pack("{s:s, s:b, s:s}", "ask", "node", "quick", opts->is_quick, "toward", someone_else(opts, i))};
    verify_ask_all(&run->asker, asks, opts->n_nodes);
    for (int i = 0; i < opts->n_nodes; i++)
        take_answer(run, &asks[i], "host");
}

/* As NTP does: of several exchanges the one that took least. The driver's clock is the reference. */
static void check_clocks(struct run *run) {
    const struct verify_opts *opts = run->opts;
    double offset_ms[CLUSTER_MAX_NODES], delay_ms[CLUSTER_MAX_NODES];
    for (int i = 0; i < opts->n_nodes; i++)
        delay_ms[i] = INFINITY;
    for (int round = 0; round < CLOCK_ROUNDS; round++) {
        struct verify_ask asks[CLUSTER_MAX_NODES];
        for (int i = 0; i < opts->n_nodes; i++)
            asks[i] = (struct verify_ask){
                .node = i, .what = "its clock", .timeout_ms = CLOCK_TIMEOUT_MS, .ask = json_pack("{s:s}", "ask", "clock")};
        verify_ask_all(&run->asker, asks, opts->n_nodes);
        for (int i = 0; i < opts->n_nodes; i++) {
            double delay = (double)(asks[i].answered_ns - asks[i].sent_ns) / 1e6;
            if (asks[i].answer != NULL && delay < delay_ms[i]) {
                int64_t at_ns = json_integer_value(json_object_get(asks[i].answer, "at_ns"));
                delay_ms[i] = delay;
                offset_ms[i] = ((double)(at_ns - asks[i].sent_ns) + (double)(at_ns - asks[i].answered_ns)) / 2e6;
            }
            json_decref(asks[i].answer);
        }
    }
    for (int i = 0; i < opts->n_nodes; i++) {
        if (isinf(delay_ms[i]))
            continue;
        double off = fabs(offset_ms[i]), sure = off - delay_ms[i] / 2; /* at least so much */
        enum verify_status status = sure > CLOCK_FAIL_MS ? VERIFY_FAIL : sure > CLOCK_WARN_MS ? VERIFY_WARN : VERIFY_OK;
        const char *advice = status == VERIFY_OK ? NULL : "Let chrony or systemd-timesyncd set the clocks of all nodes";
        if (off >= 1000)
            verify_findings_add(run->findings, i, status, "clock", advice, "%+.1f s from the driver's", offset_ms[i] / 1000);
        else
            verify_findings_add(run->findings, i, status, "clock", advice, "%+.2f ms from the driver's (± %.2f ms)", offset_ms[i],
                                delay_ms[i] / 2);
    }
}

static void ask_models(struct run *run) {
    const struct verify_opts *opts = run->opts;
    struct verify_ask asks[CLUSTER_MAX_NODES];
    for (int i = 0; i < opts->n_nodes; i++)
        asks[i] = (struct verify_ask){.node = i,
                                      .what = "the model's files",
                                      .timeout_ms = MODEL_TIMEOUT_MS,
                                      .ask = json_pack("{s:s, s:s, s:s, s:s}", "ask", "model", "model", opts->model, "revision",
                                                       opts->revision ? opts->revision : "", "download_dir",
                                                       opts->download_dir ? opts->download_dir : "")};
    verify_ask_all(&run->asker, asks, opts->n_nodes);
    for (int i = 0; i < opts->n_nodes; i++)
        take_answer(run, &asks[i], "model");
}

/* A fact that should be the same on all nodes: names the nodes of each value. false: it differs. */
static bool compare(const struct run *run, const char *key, char *ret_text, size_t size_bytes) {
    size_t used = 0;
    const json_t *first = NULL;
    bool is_same = true;
    ret_text[0] = '\0';
    for (int i = 0; i < run->opts->n_nodes && used < size_bytes; i++) {
        const json_t *value = json_object_get(run->facts[i], key);
        if (value == NULL)
            continue;
        first = first == NULL ? value : first;
        is_same &= json_equal(first, value) != 0;
        if (json_is_string(value))
            used +=
                (size_t)snprintf(ret_text + used, size_bytes - used, "%snode %d: %s", used > 0 ? ", " : "", i, json_string_value(value));
        else
            used += (size_t)snprintf(ret_text + used, size_bytes - used, "%snode %d: %lld", used > 0 ? ", " : "", i,
                                     (long long)json_integer_value(value));
    }
    return is_same;
}

static void compare_nodes(struct run *run) {
    char text[VERIFY_TEXT_BYTES];
    if (run->opts->n_nodes < 2)
        return;
    if (!compare(run, "mtu", text, sizeof text))
        verify_findings_add(run->findings, VERIFY_ALL, VERIFY_WARN, "mtu", "Set the same MTU on all nodes' interfaces and on the switch",
                            "the MTU differs: %s", text);
    if (!compare(run, "speed", text, sizeof text))
        verify_findings_add(run->findings, VERIFY_ALL, VERIFY_WARN, "link",
                            "The slowest interface decides; is it the right one on each node?",
                            "the speed of the interfaces differs (Mb/s): %s", text);
    if (!compare(run, "cpu", text, sizeof text))
        verify_findings_add(run->findings, VERIFY_ALL, VERIFY_WARN, "cpu", "The slowest node decides", "the nodes' CPUs differ: %s", text);
    if (!compare(run, "fingerprint", text, sizeof text))
        verify_findings_add(run->findings, VERIFY_ALL, VERIFY_FAIL, "model", "Copy the same files to all nodes, or mount the shared cache",
                            "the model's files differ: %s", text);
}

/* Whether the model fits at all, if it is spread evenly. */
static void check_fit(struct run *run) {
    int n_there = 0;
    for (int i = 0; i < run->opts->n_nodes; i++)
        n_there += run->facts[i] != NULL;
    for (int i = 0; i < run->opts->n_nodes; i++) {
        double weights = (double)json_integer_value(json_object_get(run->facts[i], "model_bytes")) / (n_there > 0 ? n_there : 1);
        double available = (double)json_integer_value(json_object_get(run->facts[i], "memory_available"));
        if (weights > available)
            verify_findings_add(run->findings, i, VERIFY_WARN, "memory", "Free memory, use more nodes, or a smaller or quantised model",
                                "the model's share of %.1f GB is more than the %.1f GB that are free", weights / 1e9, available / 1e9);
    }
}

static bool has_broken_links(const struct verify_result *result) {
    for (int i = 0; i < result->n_nodes * result->n_nodes; i++)
        if (result->pairs[i].is_measured && result->pairs[i].trouble[0] != '\0')
            return true;
    return false;
}

int verify_run(const struct verify_opts *opts, struct verify_result *ret, struct err *err) {
    int64_t start_ns = clock_mono_ns();
    struct run run = {.opts = opts, .findings = &ret->findings};
    *ret = (struct verify_result){.n_nodes = opts->n_nodes};
    ret->pairs = calloc((size_t)opts->n_nodes * (size_t)opts->n_nodes, sizeof *ret->pairs);
    if (ret->pairs == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the links of %d nodes", opts->n_nodes);
    verify_asker_init(&run.asker, opts, run.findings);
    name_nodes(opts, ret);
    check_presence(&run);
    struct verify_arena arena = {.asker = &run.asker, .opts = opts, .result = ret};
    verify_pairs_measure(&arena);
    ask_nodes(&run, has_broken_links(ret));
    if (opts->n_nodes > 1)
        check_clocks(&run);
    if (!opts->is_quick)
        verify_npus(&run.asker, opts, run.facts);
    verify_pairs_judge(&arena);
    if (opts->model != NULL) /* last: a dead file server hangs whoever asks it */
        ask_models(&run);
    compare_nodes(&run);
    check_fit(&run);
    for (int i = 0; i < opts->n_nodes; i++)
        json_decref(run.facts[i]);
    bool is_stopped = run.asker.is_stopped;
    verify_asker_finish(&run.asker);
    ret->seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
    return is_stopped ? err_set(err, ERR_CANCELLED, "stopped during verification") : 0;
}

void verify_result_finish(struct verify_result *result) {
    verify_findings_finish(&result->findings);
    free(result->pairs);
    result->pairs = NULL;
}

void verify_result_print(const struct verify_result *result, bool worst_only, FILE *out) {
    const char *names[CLUSTER_MAX_NODES];
    for (int i = 0; i < result->n_nodes; i++)
        names[i] = result->names[i];
    verify_findings_print(&result->findings, names, result->n_nodes, worst_only, out);
    if (!worst_only)
        verify_pairs_print(result, out);
    fprintf(out, "%d ok, %d warning(s), %d FAILED, in %.1f s\n", verify_findings_count(&result->findings, VERIFY_OK),
            verify_findings_count(&result->findings, VERIFY_WARN),
            verify_findings_count(&result->findings, VERIFY_FAIL) + result->findings.is_cut, result->seconds);
}

json_t *verify_result_json(const struct verify_result *result) {
    json_t *nodes = json_array();
    for (int i = 0; i < result->n_nodes; i++)
        json_array_append_new(nodes, json_string(result->names[i]));
    return json_pack("{s:b, s:f, s:o, s:o, s:o, s:{s:i, s:f, s:f}}", "passed", verify_findings_worst(&result->findings) < VERIFY_FAIL,
                     "seconds", result->seconds, "nodes", nodes, "checks", verify_findings_to_json(&result->findings, false), "pairs",
                     verify_pairs_json(result), "allreduce", "n_floats", result->reduce_floats, "median_us", result->reduce_us, "p99_us",
                     result->reduce_p99_us);
}
