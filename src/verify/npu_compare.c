/* NPUs over all nodes; see npu_compare.h. */
#include "verify/npu_compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/npu_parse.h"

enum {
    NPU_TIMEOUT_MS = 25000 /* 7 calls one after the other with 2 s each, npu-smi with 5 s, and some air */,
    PING_TIMEOUT_MS = 5500,
    MAX_PINGS = 4096
};

/* One ping from an NPU to its like on another node. */
struct ping {
    int from, to, npu; /* nodes; the NPU's number on both */
    int sent, received;
    char address[NPU_ADDR_BYTES], why[200];
};

static const char *tool_or_empty(const char *text) { return text == NULL ? "" : text; }

static json_t *make_ask(const struct verify_opts *opts, const char *name) {
    return json_pack("{s:s, s:s, s:s, s:s, s:i}", "ask", name, "hccn_tool", tool_or_empty(opts->hccn_tool), "npu_smi",
                     tool_or_empty(opts->npu_smi), "hccn_conf", tool_or_empty(opts->hccn_conf), "n_npus", opts->n_npus);
}

static void ask_npus(struct verify_asker *asker, const struct verify_opts *opts, json_t **facts) {
    struct verify_ask asks[CLUSTER_MAX_NODES];
    struct err err;
    for (int i = 0; i < opts->n_nodes; i++)
        asks[i] = (struct verify_ask){.node = i, .what = "its NPUs", .timeout_ms = NPU_TIMEOUT_MS, .ask = make_ask(opts, "npu")};
    verify_ask_all(asker, asks, opts->n_nodes);
    for (int i = 0; i < opts->n_nodes; i++) {
        if (asks[i].answer == NULL) {
            if (!asker->is_lost[i])
                verify_findings_add(asker->findings, i, VERIFY_FAIL, "npu", NULL, "%s", asks[i].trouble);
            continue;
        }
        if (verify_findings_from_json(asker->findings, i, json_object_get(asks[i].answer, "lines"), &err) != 0)
            verify_findings_add(asker->findings, i, VERIFY_FAIL, "npu", NULL, "%s", err.msg);
        json_t *npus = json_object_get(json_object_get(asks[i].answer, "facts"), "npus");
        if (facts[i] != NULL && json_is_array(npus))
            json_object_set(facts[i], "npus", npus);
        json_decref(asks[i].answer);
    }
}

static const json_t *npus_of(json_t *const *facts, int node) { return json_object_get(facts[node], "npus"); }

static const char *get_str(const json_t *json, const char *key) {
    const char *text = json_string_value(json_object_get(json, key));
    return text == NULL ? "" : text;
}

/* TLS switches that differ are a classic: links come up, and the first collective waits for ever. */
static void compare_tls(struct verify_asker *asker, const struct verify_opts *opts, json_t *const *facts) {
    char on[VERIFY_TEXT_BYTES / 2 - 40] = "", off[VERIFY_TEXT_BYTES / 2 - 40] = "";
    size_t used[2] = {0, 0};
    int n[2] = {0, 0};
    for (int i = 0; i < opts->n_nodes; i++) {
        size_t k;
        json_t *npu;
        json_array_foreach((json_t *)npus_of(facts, i), k, npu) {
            int tls = (int)json_integer_value(json_object_get(npu, "tls"));
            if (tls != 0 && tls != 1)
                continue;
            char *list = tls ? on : off;
            n[tls]++;
            if (used[tls] < sizeof on)
                used[tls] += (size_t)snprintf(list + used[tls], sizeof on - used[tls], "%snode %d NPU %d", used[tls] > 0 ? ", " : "", i,
                                              (int)json_integer_value(json_object_get(npu, "id")));
        }
    }
    if (n[0] > 0 && n[1] > 0)
        verify_findings_add(asker->findings, VERIFY_ALL, VERIFY_FAIL, "npu tls", "Set all alike: hccn_tool -i N -tls -s enable 0 (or 1)",
                            "the TLS switch differs: off on %s; on on %s", off, on);
    else if (n[0] + n[1] > 0)
        verify_findings_add(asker->findings, VERIFY_ALL, VERIFY_OK, "npu tls", NULL, "the TLS switch is %s on all %d NPUs",
                            n[1] > 0 ? "on" : "off", n[0] + n[1]);
}

static const json_t *find_npu(const json_t *list, json_int_t id) {
    size_t i;
    json_t *npu;
    json_array_foreach((json_t *)list, i, npu) if (json_integer_value(json_object_get(npu, "id")) == id) return npu;
    return NULL;
}

/* Device by device: NPU i of each node to NPU i of every other. Cards that are cabled to each other reach only their own network. */
static int list_pings(const struct verify_opts *opts, json_t *const *facts, struct ping *ret, int *ret_n_apart) {
    int n = 0;
    *ret_n_apart = 0;
    for (int from = 0; from < opts->n_nodes; from++) {
        for (int to = 0; to < opts->n_nodes; to++) {
            size_t k;
            json_t *npu;
            json_array_foreach((json_t *)npus_of(facts, from), k, npu) {
                json_int_t id = json_integer_value(json_object_get(npu, "id"));
                const json_t *peer = from == to ? NULL : find_npu(npus_of(facts, to), id);
                const char *address = get_str(peer, "address");
                if (peer == NULL || address[0] == '\0' || strlen(address) >= NPU_ADDR_BYTES || get_str(npu, "address")[0] == '\0' ||
                    n == MAX_PINGS)
                    continue;
                bool is_cabled = strcmp(get_str(npu, "peer"), "npu") == 0;
                if (is_cabled && !npu_same_network(get_str(npu, "address"), address, get_str(npu, "mask"))) {
                    ++*ret_n_apart;
                    continue;
                }
                ret[n] = (struct ping){.from = from, .to = to, .npu = (int)id};
                snprintf(ret[n].address, sizeof ret[n].address, "%s", address);
                n++;
            }
        }
    }
    return n;
}

static void run_pings(struct verify_asker *asker, const struct verify_opts *opts, struct ping *pings, int n) {
    struct verify_ask asks[CLUSTER_MAX_NODES];
    for (int node = 0; node < opts->n_nodes; node++) {
        json_t *list = json_array(), *ask = make_ask(opts, "npu_ping");
        int longest[NPU_MAX] = {0}, most = 0; /* pings of one NPU come one after the other */
        for (int i = 0; i < n; i++) {
            if (pings[i].from != node)
                continue;
            json_array_append_new(list, json_pack("{s:i, s:s}", "npu", pings[i].npu, "address", pings[i].address));
            int *count = &longest[(unsigned)pings[i].npu % NPU_MAX];
            most = ++*count > most ? *count : most;
        }
        json_object_set_new(ask, "pings", list);
        asks[node] =
            (struct verify_ask){.node = node, .what = "pings between NPUs", .timeout_ms = (most + 1) * PING_TIMEOUT_MS, .ask = ask};
    }
    verify_ask_all(asker, asks, opts->n_nodes);
    for (int node = 0; node < opts->n_nodes; node++) {
        const json_t *list = json_object_get(asks[node].answer, "pings");
        size_t at = 0;
        for (int i = 0; i < n; i++) {
            if (pings[i].from != node)
                continue;
            const json_t *ping = json_array_get(list, at++);
            pings[i].sent = (int)json_integer_value(json_object_get(ping, "sent"));
            pings[i].received = (int)json_integer_value(json_object_get(ping, "received"));
            if (ping == NULL)
                snprintf(pings[i].why, sizeof pings[i].why, "not tried: %.150s", asks[node].trouble);
            else if (pings[i].sent == 0)
                snprintf(pings[i].why, sizeof pings[i].why, "%.100s (%.60s)", get_str(ping, "output"), get_str(ping, "end"));
        }
        json_decref(asks[node].answer);
    }
}

static bool is_whole(const struct ping *ping) { return ping->sent > 0 && ping->received == ping->sent; }

static bool is_whole_back(const struct ping *pings, int n, const struct ping *of) {
    for (int i = 0; i < n; i++)
        if (pings[i].from == of->to && pings[i].to == of->from && pings[i].npu == of->npu)
            return is_whole(&pings[i]);
    return false;
}

static void judge_pings(struct verify_asker *asker, const struct verify_opts *opts, const struct ping *pings, int n) {
    for (int node = 0; node < opts->n_nodes; node++) {
        char bad[VERIFY_TEXT_BYTES] = "";
        size_t used = 0;
        int n_own = 0;
        for (int i = 0; i < n; i++) {
            const struct ping *ping = &pings[i];
            char why[sizeof ping->why + 64];
            n_own += ping->from == node;
            if (ping->from != node || is_whole(ping) || used >= sizeof bad)
                continue;
            if (ping->sent > 0)
                snprintf(why, sizeof why, "%d of %d lost%s", ping->sent - ping->received, ping->sent,
                         is_whole_back(pings, n, ping) ? ", none the other way round" : "");
            else
                snprintf(why, sizeof why, "%s", ping->why);
            used += (size_t)snprintf(bad + used, sizeof bad - used, "%sNPU %d to node %d (%s): %s", used > 0 ? "; " : "", ping->npu,
                                     ping->to, ping->address, why);
        }
        if (used > 0)
            verify_findings_add(asker->findings, node, VERIFY_FAIL, "npu ping",
                                "Look at both cards' ports of the switch, and at addresses, masks and gateways", "%s", bad);
        else if (n_own > 0)
            verify_findings_add(asker->findings, node, VERIFY_OK, "npu ping", NULL, "%d to NPUs of other nodes, no loss", n_own);
    }
}

void verify_npus(struct verify_asker *asker, const struct verify_opts *opts, json_t **facts) {
    ask_npus(asker, opts, facts);
    compare_tls(asker, opts, facts);
    struct ping *pings = calloc(MAX_PINGS, sizeof *pings);
    int n_apart, n = pings == NULL ? 0 : list_pings(opts, facts, pings, &n_apart);
    if (n > 0) {
        run_pings(asker, opts, pings, n);
        judge_pings(asker, opts, pings, n);
    }
    if (pings != NULL && n_apart > 0)
        verify_findings_add(asker->findings, VERIFY_ALL, VERIFY_NOTE, "npu ping", NULL,
                            "%d pair(s) of NPUs are cabled card to card in networks of their own, and were not tried", n_apart);
    free(pings);
}
