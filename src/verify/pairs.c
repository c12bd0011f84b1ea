/* Links; see pairs.h. A tournament: in each round every node measures with at most one other, first one way, then back. */
#include "verify/pairs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum {
    /* Of a moment's work, on a machine that may be overloaded while others start on it too. */
    OPEN_TIMEOUT_MS = 8000,
    COUNTERS_TIMEOUT_MS = 5000,
    PROBE_TIMEOUT_MS = 18000,
    PROBE_QUICK_TIMEOUT_MS = 13000,
    REDUCE_TIMEOUT_MS = 15000,
    QUICK_ROUNDS = 4,
    REDUCE_BUDGET_MS = 500,
    REDUCE_QUICK_BUDGET_MS = 100,
    REDUCE_FLOATS = 4096, /* hidden size of a model when none is known */
    LATENCY_WARN_US = 1000,
    LATENCY_SLACK_US = 100, /* of no interest, however many times the best it is */
    SLOW_MBITS = 1000
};

static struct verify_pair *pair_of(const struct verify_result *result, int from, int to) {
    return &result->pairs[from * result->n_nodes + to];
}

static double get_real(const json_t *json, const char *key) {
    double value = json_number_value(json_object_get(json, key));
    return isfinite(value) && value > 0 ? value : 0;
}

static void refused(struct verify_arena *arena, const struct verify_ask *ask) {
    if (!arena->asker->is_lost[ask->node])
        verify_findings_add(arena->asker->findings, ask->node, VERIFY_FAIL, "links", NULL, "%s: %s", ask->what, ask->trouble);
}

static void open_servers(struct verify_arena *arena) {
    const struct verify_opts *opts = arena->opts;
    struct verify_ask asks[CLUSTER_MAX_NODES];
    for (int i = 0; i < opts->n_nodes; i++)
        asks[i] = (struct verify_ask){
            .node = i, .what = "a listener for measurements", .timeout_ms = OPEN_TIMEOUT_MS, .ask = json_pack("{s:s}", "ask", "open")};
    verify_ask_all(arena->asker, asks, opts->n_nodes);
    for (int i = 0; i < opts->n_nodes; i++) {
        const char *host = json_string_value(json_object_get(asks[i].answer, "host"));
        if (host == NULL) {
            refused(arena, &asks[i]);
        } else {
            snprintf(arena->host[i], sizeof arena->host[i], "%s", host);
            arena->port[i] = (int)json_integer_value(json_object_get(asks[i].answer, "port"));
            arena->udp_port[i] = (int)json_integer_value(json_object_get(asks[i].answer, "udp_port"));
            const char *iface = json_string_value(json_object_get(asks[i].answer, "iface"));
            int64_t mtu = 0, speed = -1;
            json_get_int(asks[i].answer, "mtu", 0, 0, 1 << 20, &mtu, NULL);
            json_get_int(asks[i].answer, "speed", -1, -1, INT32_MAX, &speed, NULL);
            verify_clean_text(iface == NULL ? "?" : iface, arena->iface[i], sizeof arena->iface[i]);
            arena->mtu[i] = (int)mtu;
            arena->speed[i] = (int)speed;
            arena->errors[i] = json_integer_value(json_object_get(asks[i].answer, "errors"));
            arena->drops[i] = json_integer_value(json_object_get(asks[i].answer, "drops"));
            arena->nodes[arena->n++] = i;
        }
        json_decref(asks[i].answer);
    }
}

static void take_probe(struct verify_arena *arena, int from, int to, struct verify_ask *ask) {
    struct verify_pair *pair = pair_of(arena->result, from, to);
    pair->is_measured = ask->answer != NULL || !arena->asker->is_lost[from]; /* a lost node has its line already */
    const char *trouble = ask->answer == NULL ? ask->trouble : json_string_value(json_object_get(ask->answer, "trouble"));
    verify_clean_text(trouble == NULL ? "" : trouble, pair->trouble, sizeof pair->trouble);
    const json_t *figures = ask->answer;
    pair->small_us = get_real(figures, "small_us");
    pair->small_p99_us = get_real(figures, "small_p99_us");
    pair->large_us = get_real(figures, "large_us");
    pair->large_p99_us = get_real(figures, "large_p99_us");
    pair->mbits_1 = get_real(figures, "mbits_1");
    pair->mbits_n = get_real(figures, "mbits_n");
    pair->frame_tried = (int)get_real(figures, "frame_tried");
    pair->frame_passed = (int)get_real(figures, "frame_passed");
    json_decref(ask->answer);
}

/* One direction of each pair of a round, side by side. pairs: [n][2] indices into arena->nodes. */
static void probe_round(struct verify_arena *arena, int (*pairs)[2], int n, bool is_back) {
    struct verify_ask asks[CLUSTER_MAX_NODES];
    for (int i = 0; i < n; i++) {
        int from = arena->nodes[pairs[i][is_back]], to = arena->nodes[pairs[i][!is_back]];
        bool is_near = strcmp(arena->host[from], arena->host[to]) == 0; /* over loopback, which has no frames */
        asks[i] = (struct verify_ask){.node = from,
                                      .what = "measuring the way to another node",
                                      .timeout_ms = arena->opts->is_quick ? PROBE_QUICK_TIMEOUT_MS : PROBE_TIMEOUT_MS,
                                      .ask = json_pack("{s:s, s:s, s:i, s:i, s:i, s:b}", "ask", "probe", "host", arena->host[to], "port",
                                                       arena->port[to], "udp_port", arena->udp_port[to], "mtu",
                                                       is_near ? 0 : arena->mtu[from], "quick", arena->opts->is_quick)};
    }
    verify_ask_all(arena->asker, asks, n);
    for (int i = 0; i < n; i++)
        take_probe(arena, arena->nodes[pairs[i][is_back]], arena->nodes[pairs[i][!is_back]], &asks[i]);
}

/* The circle method: one place stays, the others move on by one each round. */
static void probe_all(struct verify_arena *arena) {
    int n_places = arena->n + arena->n % 2, n_rounds = n_places - 1;
    if (arena->opts->is_quick && n_rounds > QUICK_ROUNDS)
        n_rounds = QUICK_ROUNDS;
    for (int round = 0; round < n_rounds; round++) {
        int pairs[CLUSTER_MAX_NODES / 2][2], n = 0;
        for (int i = 0; i < n_places / 2; i++) {
            int a = i == 0 ? 0 : 1 + (i - 1 + round) % (n_places - 1), b = 1 + (n_places - 2 - i + round) % (n_places - 1);
            if (a >= arena->n || b >= arena->n) /* nobody: this one rests */
                continue;
            pairs[n][0] = a;
            pairs[n++][1] = b;
        }
        probe_round(arena, pairs, n, false);
        probe_round(arena, pairs, n, true);
    }
}

static void judge_pair(struct verify_arena *arena, int from, int to, double best_us, double best_mbits) {
    struct verify_findings *findings = arena->asker->findings;
    struct verify_pair *pair = pair_of(arena->result, from, to);
    int speed = arena->speed[from];
    if (!pair->is_measured)
        return;
    bool is_short = pair->frame_passed < pair->frame_tried;
    if (pair->trouble[0] != '\0' && is_short && pair->frame_passed > 0)
        verify_findings_add(findings, from, VERIFY_FAIL, "mtu",
                            "Raise the MTU of the switch's ports, or lower it on the nodes (ip link set … mtu)",
                            "to node %d: frames of %d bytes are lost on the way, %d bytes pass: %s", to, pair->frame_tried,
                            pair->frame_passed, pair->trouble);
    else if (pair->trouble[0] != '\0')
        verify_findings_add(
            findings, from, VERIFY_FAIL, "link",
            pair->small_us > 0 ? "Look at the switch between them, and for a firewall that knows connections"
                               : "Is it the right interface, and does a firewall let TCP through between the nodes (all ports above 1023)?",
            "to node %d (%s): %s", to, arena->host[to], pair->trouble);
    else if (is_short && pair->frame_passed > 0)
        verify_findings_add(findings, from, VERIFY_WARN, "mtu", "Set the same MTU on all nodes and on the switch's ports",
                            "to node %d: frames of %d bytes do not pass, %d bytes do", to, pair->frame_tried, pair->frame_passed);
    else if (is_short)
        verify_findings_add(findings, from, VERIFY_NOTE, "mtu", NULL, "to node %d: no UDP passes, so full frames could not be tried", to);
    else if (pair->frame_tried > 0)
        verify_findings_add(findings, from, VERIFY_OK, "mtu", NULL, "to node %d: a full frame of %d bytes passes", to, pair->frame_tried);
    if (pair->trouble[0] != '\0')
        return;
    double limit_us = 3 * best_us > best_us + LATENCY_SLACK_US ? 3 * best_us : best_us + LATENCY_SLACK_US;
    bool is_far = pair->small_us > LATENCY_WARN_US || pair->small_us > limit_us;
    double could_mbits = speed > 0 && speed < best_mbits ? speed : best_mbits; /* links inside one machine do more than they say */
    bool is_narrow = pair->mbits_1 < SLOW_MBITS || pair->mbits_1 < could_mbits / 3;
    pair->is_slow = is_far || is_narrow;
    char text[160];
    snprintf(text, sizeof text, "to node %d: %.0f µs one way (best of all links: %.0f), %.2f Gb/s (best: %.2f)", to, pair->small_us, best_us,
             pair->mbits_1 / 1000, best_mbits / 1000);
    if (is_far)
        verify_findings_add(findings, from, VERIFY_WARN, "latency",
                            "Find what delays: another route, a tunnel, power saving of the network card; prefer pipeline over tensor "
                            "parallelism across it",
                            "%s", text);
    if (is_narrow)
        verify_findings_add(findings, from, VERIFY_WARN, "bandwidth",
                            "Compare with the other links, see cable and port; prefer pipeline over tensor parallelism across it", "%s", text);
    if (!pair->is_slow)
        verify_findings_add(findings, from, VERIFY_OK, "link", NULL, "%s", text);
}

static void judge_pairs(struct verify_arena *arena) {
    double best_us = INFINITY, best_mbits = 0;
    int n = arena->opts->n_nodes;
    for (int i = 0; i < n * n; i++) {
        const struct verify_pair *pair = &arena->result->pairs[i];
        if (pair->small_us > 0 && pair->small_us < best_us)
            best_us = pair->small_us;
        if (pair->mbits_1 > best_mbits)
            best_mbits = pair->mbits_1;
    }
    for (int from = 0; from < n; from++)
        for (int to = 0; to < n; to++)
            judge_pair(arena, from, to, best_us, best_mbits);
}

static bool has_trouble(const struct verify_arena *arena, double *ret_worst_us) {
    int n = arena->opts->n_nodes;
    *ret_worst_us = 10;
    for (int i = 0; i < n * n; i++) {
        const struct verify_pair *pair = &arena->result->pairs[i];
        if (pair->is_measured && pair->trouble[0] != '\0')
            return true;
        if (pair->large_us > *ret_worst_us)
            *ret_worst_us = pair->large_us;
    }
    return false;
}

/* The all-reduce of one token's hidden state, over one rank on each node. */
static void time_reduce(struct verify_arena *arena) {
    struct verify_result *result = arena->result;
    struct verify_findings *findings = arena->asker->findings;
    struct verify_ask asks[CLUSTER_MAX_NODES];
    double worst_us;
    int n_floats = arena->opts->load.hidden > 0 ? arena->opts->load.hidden : REDUCE_FLOATS;
    bool is_broken = has_trouble(arena, &worst_us);
    for (int i = 0; i < arena->n; i++)
        is_broken |= arena->asker->is_lost[arena->nodes[i]];
    if (is_broken) {
        verify_findings_add(findings, VERIFY_ALL, VERIFY_NOTE, "all-reduce", NULL, "not measured, because not all links work");
        return;
    }
    double budget_us = (arena->opts->is_quick ? REDUCE_QUICK_BUDGET_MS : REDUCE_BUDGET_MS) * 1000.0;
    int n_times = (int)(budget_us / (worst_us * arena->n));
    n_times = n_times < 5 ? 5 : n_times > 500 ? 500 : n_times;
    for (int i = 0; i < arena->n; i++)
        asks[i] = (struct verify_ask){.node = arena->nodes[i],
                                      .what = "an all-reduce",
                                      .timeout_ms = OPEN_TIMEOUT_MS,
                                      .ask = json_pack("{s:s, s:i, s:i}", "ask", "reduce_open", "node", i, "n_nodes", arena->n)};
    verify_ask_all(arena->asker, asks, arena->n);
    json_t *peers = json_array();
    char trouble[sizeof asks[0].trouble] = "";
    for (int i = 0; i < arena->n; i++) {
        if (asks[i].answer == NULL)
            memcpy(trouble, asks[i].trouble, sizeof trouble);
        json_array_append_new(
            peers, json_pack("{s:s, s:O*}", "host", arena->host[arena->nodes[i]], "port", json_object_get(asks[i].answer, "port")));
        json_decref(asks[i].answer);
    }
    if (trouble[0] == '\0') {
        for (int i = 0; i < arena->n; i++)
            asks[i] = (struct verify_ask){
                .node = arena->nodes[i],
                .what = "an all-reduce",
                .timeout_ms = REDUCE_TIMEOUT_MS,
                .ask = json_pack("{s:s, s:O, s:i, s:i}", "ask", "reduce", "peers", peers, "n_floats", n_floats, "n", n_times)};
        verify_ask_all(arena->asker, asks, arena->n);
        for (int i = 0; i < arena->n; i++) {
            if (asks[i].answer == NULL)
                memcpy(trouble, asks[i].trouble, sizeof trouble);
            double median = get_real(asks[i].answer, "median_us"), p99 = get_real(asks[i].answer, "p99_us");
            result->reduce_us = fmax(result->reduce_us, median); /* the slowest rank's: all wait for it */
            result->reduce_p99_us = fmax(result->reduce_p99_us, p99);
            json_decref(asks[i].answer);
        }
    }
    json_decref(peers);
    result->reduce_floats = n_floats;
    if (trouble[0] != '\0') {
        result->reduce_us = result->reduce_p99_us = 0;
        verify_findings_add(findings, VERIFY_ALL, VERIFY_FAIL, "all-reduce", NULL, "%s", trouble);
    } else {
        verify_findings_add(findings, VERIFY_ALL, VERIFY_OK, "all-reduce", NULL,
                            "of %d floats (one token) over %d nodes: %.0f µs (99 %% within %.0f µs)", n_floats, arena->n, result->reduce_us,
                            result->reduce_p99_us);
    }
}

/* µs of one message of so many bytes on the slowest link: between and beyond the two sizes that were measured, on a line. */
static double hop_us(const struct verify_arena *arena, double n_bytes) {
    double worst = 0;
    int n = arena->opts->n_nodes;
    for (int i = 0; i < n * n; i++) {
        const struct verify_pair *pair = &arena->result->pairs[i];
        if (!pair->is_measured)
            continue;
        double slope = fmax(0, (pair->large_us - pair->small_us) / (16384 - 64));
        worst = fmax(worst, pair->small_us + slope * fmax(0, n_bytes - 64));
    }
    return worst;
}

static void tell_cost(const struct verify_arena *arena, int tp, int pp, const char *split) {
    const struct verify_load *load = &arena->opts->load;
    /* Ranks are placed stage by stage, so a stage is on several nodes only when there are more nodes than stages. */
    bool tp_crosses = tp > 1 && arena->n > pp;
    int n_hops = (pp < arena->n ? pp : arena->n) - 1;
    double reduces_ms = tp_crosses ? 2.0 * load->n_layers * arena->result->reduce_us / 1000 : 0;
    double hops_ms = n_hops * hop_us(arena, load->hidden * 4.0) / 1000, sum_ms = reduces_ms + hops_ms;
    char parts[160];
    if (tp_crosses && n_hops > 0)
        snprintf(parts, sizeof parts, "%d all-reduces %.2f ms, %d hop(s) %.2f ms", 2 * load->n_layers, reduces_ms, n_hops, hops_ms);
    else if (tp_crosses)
        snprintf(parts, sizeof parts, "%d all-reduces of %.0f µs", 2 * load->n_layers, arena->result->reduce_us);
    else
        snprintf(parts, sizeof parts, "%d hop(s) of %.2f ms", n_hops, n_hops > 0 ? hops_ms / n_hops : 0);
    if (sum_ms > 0)
        verify_findings_add(arena->asker->findings, VERIFY_ALL, VERIFY_OK, "cost", NULL,
                            "%s: the network takes %.2f ms of each token (%s), so one sequence gets at most %.0f tokens/s", split, sum_ms,
                            parts, 1000 / sum_ms);
}

static void tell_costs(const struct verify_arena *arena) {
    const struct verify_load *load = &arena->opts->load;
    char split[64];
    if (load->n_layers == 0 || arena->result->reduce_us <= 0)
        return;
    if (load->tp_size > 0 && load->pp_size > 0 && load->tp_size * load->pp_size > 1) {
        snprintf(split, sizeof split, "tensor parallel %d, pipeline parallel %d", load->tp_size, load->pp_size);
        tell_cost(arena, load->tp_size, load->pp_size, split);
        return;
    }
    snprintf(split, sizeof split, "tensor parallel over %d nodes", arena->n);
    tell_cost(arena, arena->n, 1, split);
    snprintf(split, sizeof split, "pipeline parallel over %d nodes", arena->n);
    tell_cost(arena, 1, arena->n, split);
}

/* Errors and drops that came while data was sent are this network's, whatever it did before. */
static void compare_counters(struct verify_arena *arena) {
    struct verify_ask asks[CLUSTER_MAX_NODES];
    for (int i = 0; i < arena->n; i++)
        asks[i] = (struct verify_ask){
            .node = arena->nodes[i], .what = "its counters", .timeout_ms = COUNTERS_TIMEOUT_MS, .ask = json_pack("{s:s}", "ask", "iface")};
    verify_ask_all(arena->asker, asks, arena->n);
    for (int i = 0; i < arena->n; i++) {
        int node = arena->nodes[i];
        long long errors = json_integer_value(json_object_get(asks[i].answer, "errors")) - arena->errors[node];
        long long drops = json_integer_value(json_object_get(asks[i].answer, "drops")) - arena->drops[node];
        if (asks[i].answer != NULL && (errors > 0 || drops > 0))
            verify_findings_add(arena->asker->findings, node, VERIFY_WARN, "errors",
                                "Look at cable, transceiver, switch port and the card's ring buffers",
                                "%s counted %lld errors and %lld drops while links were measured", arena->iface[node], errors, drops);
        json_decref(asks[i].answer);
    }
}

void verify_pairs_measure(struct verify_arena *arena) {
    int n_there = 0;
    for (int i = 0; i < arena->opts->n_nodes; i++)
        n_there += !arena->asker->is_lost[i];
    if (n_there < 2)
        return;
    open_servers(arena);
    if (arena->n >= 2)
        probe_all(arena);
}

void verify_pairs_judge(struct verify_arena *arena) {
    if (arena->n < 2)
        return;
    judge_pairs(arena);
    time_reduce(arena);
    tell_costs(arena);
    compare_counters(arena);
}

void verify_pairs_print(const struct verify_result *result, FILE *out) {
    int n = result->n_nodes;
    bool has_slow = false, has_any = false;
    for (int i = 0; i < n * n; i++)
        has_any |= result->pairs[i].is_measured;
    if (!has_any)
        return;
    fprintf(out, "links, from row to column: µs one way of 64 B (16 KiB) / Gb/s of one stream\n%10s", "");
    for (int to = 0; to < n; to++)
        fprintf(out, "  %20s%-3d", "node ", to);
    fputc('\n', out);
    for (int from = 0; from < n; from++) {
        fprintf(out, "  node %-3d", from);
        for (int to = 0; to < n; to++) {
            const struct verify_pair *pair = &result->pairs[from * n + to];
            char cell[64] = "-";
            if (pair->is_measured && pair->trouble[0] != '\0')
                snprintf(cell, sizeof cell, "FAIL");
            else if (pair->is_measured)
                snprintf(cell, sizeof cell, "%.0f (%.0f) / %.2f%s", pair->small_us, pair->large_us, pair->mbits_1 / 1000,
                         pair->is_slow ? " slow" : "");
            has_slow |= pair->is_slow;
            fprintf(out, "  %23s", cell);
        }
        fputc('\n', out);
    }
    if (has_slow)
        fprintf(out, "slow: more than %d µs or three times the best latency, less than 1 Gb/s or a third of what the best do\n",
                LATENCY_WARN_US);
}

json_t *verify_pairs_json(const struct verify_result *result) {
    json_t *list = json_array();
    for (int from = 0; from < result->n_nodes; from++) {
        for (int to = 0; to < result->n_nodes; to++) {
            const struct verify_pair *pair = pair_of(result, from, to);
            if (!pair->is_measured)
                continue;
            json_array_append_new(list, json_pack("{s:i, s:i, s:s, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:i}", "from", from, "to", to,
                                                  "trouble", pair->trouble, "slow", pair->is_slow, "us_64b", pair->small_us, "us_64b_p99",
                                                  pair->small_p99_us, "us_16kib", pair->large_us, "us_16kib_p99", pair->large_p99_us,
                                                  "mbits_1_stream", pair->mbits_1, "mbits_4_streams", pair->mbits_n, "frame_tried",
                                                  pair->frame_tried, "frame_passed", pair->frame_passed));
        }
    }
    return list;
}
