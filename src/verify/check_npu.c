/*
 * This node's NPUs, asked through hccn_tool and npu-smi; see checks.h. One line for each kind of check, which names the NPUs
 * that are not well. What the tools print is read in npu_parse.c.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "verify/checks.h"
#include "verify/npu_parse.h"
#include "verify/tool.h"

enum {
    TOOL_TIMEOUT_MS = 2000,
    SMI_TIMEOUT_MS = 5000,
    PING_TIMEOUT_MS = 5000,
    MAX_PINGS = 4096,
    CONF_LIMIT_BYTES = 1 << 20,
    REASON_BYTES = 160
};

enum kind { KIND_LLDP, KIND_LINK, KIND_HEALTH, KIND_NETDETECT, KIND_GATEWAY, KIND_IP, KIND_TLS, N_KINDS };

static const struct {
    const char *flag, *check, *advice;
} kinds[N_KINDS] = {
    [KIND_LLDP] = {"-lldp", "npu switch",
                   "Look at the cable to the switch; an empty answer can also mean a 400GE port of the switch that is not split"},
    [KIND_LINK] = {"-link", "npu link", "Look at the optical module and the cable, and at the port of the switch"},
    [KIND_HEALTH] = {"-net_health", "npu health", "See that the probe address answers: hccn_tool -i N -netdetect -g"},
    [KIND_NETDETECT] = {"-netdetect", "npu probe",
                        "Set an address that always answers, such as the gateway: hccn_tool -i N -netdetect -s address GATEWAY"},
    [KIND_GATEWAY] = {"-gateway", "npu gateway", "Set it: hccn_tool -i N -gateway -s gateway ADDRESS"},
    [KIND_IP] = {"-ip", "npu address", "Set it: hccn_tool -i N -ip -s address A netmask M"},
    [KIND_TLS] = {"-tls", "npu tls", "Ask again by hand: hccn_tool -i N -tls -g"},
};

struct npu {
    int id;
    enum verify_status status[N_KINDS];
    char reason[N_KINDS][REASON_BYTES]; /* "" where all is well */
    enum npu_peer peer;
    char port[NPU_PORT_BYTES], health[NPU_HEALTH_BYTES];
    char netdetect[NPU_ADDR_BYTES], gateway[NPU_ADDR_BYTES], address[NPU_ADDR_BYTES], mask[NPU_ADDR_BYTES]; /* "": none */
    int tls;                                                                                                /* -1: not known */
};

static bool is_given(const char *text) { return text != NULL && text[0] != '\0'; }

static const char *hccn_tool_of(const struct check_npu_opts *opts) {
    static const char usual[] = "/usr/local/Ascend/driver/tools/hccn_tool";
    if (is_given(opts->hccn_tool))
        return opts->hccn_tool;
    return file_exists(usual) ? usual : "hccn_tool";
}

/* NPUs as the driver shows them: /dev/davinci0, … */
static int device_ids(int ret_ids[NPU_MAX]) {
    int n = 0;
    for (int id = 0; id < NPU_MAX; id++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/davinci%d", id);
        if (access(path, F_OK) == 0)
            ret_ids[n++] = id;
    }
    return n;
}

static bool is_among(const int *ids, int n, int id) {
    for (int i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* npu-smi's health of each, and their ids into ret_ids (distinct). Adds a line only where the program is. */
static int ask_smi(const struct check_npu_opts *opts, int ret_ids[NPU_MAX], struct verify_findings *findings) {
    struct tool_run run = {.args = {is_given(opts->npu_smi) ? opts->npu_smi : "npu-smi", "info"}, .timeout_ms = SMI_TIMEOUT_MS};
    struct npu_smi_row rows[NPU_MAX];
    char bad[VERIFY_TEXT_BYTES] = "", end[128];
    size_t used = 0;
    tool_run_all(&run, 1);
    if (run.end == TOOL_NOT_FOUND && !is_given(opts->npu_smi))
        return 0;
    int n_rows = run.end == TOOL_EXITED && run.code == 0 ? npu_parse_smi(run.output, rows) : 0, n = 0;
    tool_end_text(&run, end, sizeof end);
    if (n_rows == 0) {
        verify_findings_add(findings, 0, VERIFY_FAIL, "npu-smi", "Is the driver loaded? Run npu-smi info by hand",
                            "no table of NPUs: %s: %.200s", end, run.output);
        return 0;
    }
    enum verify_status status = VERIFY_OK;
    for (int i = 0; i < n_rows; i++) {
        if (!is_among(ret_ids, n, rows[i].npu))
            ret_ids[n++] = rows[i].npu;
        if (strcmp(rows[i].health, "OK") == 0)
            continue;
        enum verify_status own = strcmp(rows[i].health, "Warning") == 0 ? VERIFY_WARN : VERIFY_FAIL;
        status = own > status ? own : status;
        if (used < sizeof bad)
            used += (size_t)snprintf(bad + used, sizeof bad - used, "%sNPU %d: %s", used > 0 ? "; " : "", rows[i].npu, rows[i].health);
    }
    if (status == VERIFY_OK)
        verify_findings_add(findings, 0, VERIFY_OK, "npu-smi", NULL, "%d NPU(s), %s, health OK", n, rows[0].name);
    else
        verify_findings_add(findings, 0, status, "npu-smi", "See npu-smi info -t health -i N, and the device's log", "%s", bad);
    return n;
}

static void set_reason(struct npu *npu, enum kind kind, enum verify_status status, const char *reason) {
    npu->status[kind] = status;
    verify_clean_text(reason, npu->reason[kind], sizeof npu->reason[kind]);
}

/* Whether the answer could be read at all; its values into npu. */
static int parse_answer(struct npu *npu, enum kind kind, const char *text) {
    bool is_up;
    switch (kind) {
    case KIND_LLDP: return npu_parse_lldp(text, npu->port, &npu->peer);
    case KIND_LINK:
        if (npu_parse_link(text, &is_up) != 0)
            return -1;
        if (!is_up)
            set_reason(npu, kind, VERIFY_FAIL, "DOWN");
        return 0;
    case KIND_HEALTH: return npu_parse_health(text, npu->health);
    case KIND_NETDETECT: return npu_parse_netdetect(text, npu->netdetect);
    case KIND_GATEWAY: return npu_parse_gateway(text, npu->gateway);
    case KIND_IP: return npu_parse_ip(text, npu->address, npu->mask);
    case KIND_TLS: return npu_parse_tls(text, &npu->tls);
    case N_KINDS: break;
    }
    return -1;
}

static void take_answer(struct npu *npu, enum kind kind, const struct tool_run *run) {
    char end[128], text[REASON_BYTES], reason[REASON_BYTES + 192];
    if (run->end == TOOL_EXITED && run->code == 0 && parse_answer(npu, kind, run->output) == 0)
        return;
    verify_clean_text(run->output, text, sizeof text);
    tool_end_text(run, end, sizeof end);
    if (run->end == TOOL_EXITED && run->code == 0)
        snprintf(reason, sizeof reason, "%s%s", text[0] ? "an answer that cannot be read: " : "an empty answer", text);
    else
        snprintf(reason, sizeof reason, "%s%s%s", text, text[0] ? " " : "", end);
    set_reason(npu, kind, VERIFY_FAIL, reason);
}

/* What only several answers together tell. */
static void judge_together(struct npu *npu) {
    bool has_probe = npu->netdetect[0] != '\0' && strcmp(npu->netdetect, "0.0.0.0") != 0;
    if (npu->netdetect[0] != '\0' && !has_probe)
        set_reason(npu, KIND_NETDETECT, VERIFY_WARN, "no probe address is set");
    if (npu->health[0] != '\0' && strcmp(npu->health, "Success") != 0) {
        bool is_unset = strcmp(npu->health, "Init") == 0 && npu->netdetect[0] != '\0' && !has_probe; /* then it never looked: no fault */
        set_reason(npu, KIND_HEALTH, is_unset ? VERIFY_WARN : VERIFY_FAIL, is_unset ? "Init, since no probe address is set" : npu->health);
    }
    /* Cards that are cabled to each other have a network of their own, and no way out of it. */
    if (npu->status[KIND_GATEWAY] == VERIFY_FAIL && npu->peer == NPU_PEER_NPU)
        set_reason(npu, KIND_GATEWAY, VERIFY_NOTE, "none, being cabled card to card");
}

/* "8 of 8 up" for people. */
static void good_text(const struct npu *npus, int n, enum kind kind, char *ret_text, size_t size_bytes) {
    const struct npu *npu = &npus[0];
    const char *value = kind == KIND_LLDP      ? npu->port
                        : kind == KIND_LINK    ? "UP"
                        : kind == KIND_HEALTH  ? npu->health
                        : kind == KIND_GATEWAY ? npu->gateway
                        : kind == KIND_IP      ? npu->address
                        : kind == KIND_TLS     ? (npu->tls == 1 ? "switch 1" : "switch 0")
                                               : npu->netdetect;
    snprintf(ret_text, size_bytes, "%d of %d: %s%s", n, n, value, kind == KIND_LINK || kind == KIND_HEALTH || n == 1 ? "" : ", …");
}

static void add_kind_line(const struct npu *npus, int n, enum kind kind, struct verify_findings *findings) {
    char text[VERIFY_TEXT_BYTES] = "";
    size_t used = 0;
    enum verify_status worst = VERIFY_OK;
    for (int i = 0; i < n; i++) {
        if (npus[i].reason[kind][0] == '\0')
            continue;
        worst = npus[i].status[kind] > worst ? npus[i].status[kind] : worst;
        if (used < sizeof text)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%sNPU %d: %s", used > 0 ? "; " : "", npus[i].id, npus[i].reason[kind]);
    }
    if (used == 0)
        good_text(npus, n, kind, text, sizeof text);
    verify_findings_add(findings, 0, worst, kinds[kind].check, worst >= VERIFY_WARN ? kinds[kind].advice : NULL, "%s", text);
}

/* One key of the file against one answer. */
static void compare_conf(const char *conf, const struct npu *npu, const char *key, const char *answer, char *text, size_t size_bytes,
                         size_t *used, enum verify_status *status) {
    char value[NPU_ADDR_BYTES];
    bool has_answer = answer[0] != '\0' && strcmp(answer, "0.0.0.0") != 0;
    bool is_there = npu_parse_conf(conf, key, npu->id, value) == 0;
    enum verify_status own = VERIFY_OK;
    if (*used >= size_bytes || (is_there && strcmp(value, answer) == 0) || (!is_there && !has_answer))
        return;
    if (is_there) {
        own = VERIFY_FAIL;
        *used += (size_t)snprintf(text + *used, size_bytes - *used, "%s%s_%d is %s there and %s on the NPU", *used > 0 ? "; " : "", key,
                                  npu->id, value, has_answer ? answer : "not set");
    } else {
        own = VERIFY_WARN;
        *used += (size_t)snprintf(text + *used, size_bytes - *used, "%s%s_%d is not there, but set on the NPU: gone after the next start",
                                  *used > 0 ? "; " : "", key, npu->id);
    }
    *status = own > *status ? own : *status;
}

static void check_conf(const struct check_npu_opts *opts, const struct npu *npus, int n, struct verify_findings *findings) {
    const char *path = is_given(opts->hccn_conf) ? opts->hccn_conf : "/etc/hccn.conf";
    char text[VERIFY_TEXT_BYTES] = "";
    size_t used = 0;
    enum verify_status status = VERIFY_OK;
    struct buf conf;
    struct err err;
    buf_init(&conf, CONF_LIMIT_BYTES);
    if (file_read(path, &conf, &err) != 0) {
        verify_findings_add(findings, 0, VERIFY_WARN, "hccn.conf", "Without it the NPUs lose their addresses at the next start", "%s",
                            err.msg);
        buf_finish(&conf);
        return;
    }
    for (int i = 0; i < n; i++) {
        const struct {
            const char *key, *answer;
            enum kind kind;
        } pairs[] = {{"address", npus[i].address, KIND_IP},
                     {"netmask", npus[i].mask, KIND_IP},
                     {"gateway", npus[i].gateway, KIND_GATEWAY},
                     {"netdetect", npus[i].netdetect, KIND_NETDETECT}};
        for (size_t k = 0; k < sizeof pairs / sizeof pairs[0]; k++)
            if (npus[i].status[pairs[k].kind] != VERIFY_FAIL || pairs[k].answer[0] != '\0') /* no answer: a line of its own says so */
                compare_conf(buf_str(&conf), &npus[i], pairs[k].key, pairs[k].answer, text, sizeof text, &used, &status);
        if (npus[i].tls >= 0) {
            char value[NPU_ADDR_BYTES];
            if (npu_parse_conf(buf_str(&conf), "tls_enable", npus[i].id, value) == 0)
                compare_conf(buf_str(&conf), &npus[i], "tls_enable", npus[i].tls ? "1" : "0", text, sizeof text, &used, &status);
        }
    }
    verify_findings_add(findings, 0, status, "hccn.conf", status == VERIFY_OK ? NULL : "Set both alike: the file counts at the next start",
                        "%s: %s", path, used > 0 ? text : "agrees with the NPUs");
    buf_finish(&conf);
}

static json_t *npu_facts(const struct npu *npus, int n) {
    static const char *const peers[] = {
        [NPU_PEER_NONE] = "none", [NPU_PEER_SWITCH] = "switch", [NPU_PEER_NPU] = "npu", [NPU_PEER_OTHER] = "other"};
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:i, s:s, s:s, s:i, s:s}", "id", npus[i].id, "address", npus[i].address, "mask",
                                              npus[i].mask, "tls", npus[i].tls, "peer", peers[npus[i].peer]));
    return list;
}

static void ask_hccn(const struct check_npu_opts *opts, const int *ids, int n, struct verify_findings *findings, json_t *facts) {
    struct npu *npus = calloc((size_t)n, sizeof *npus);
    struct tool_run *runs = calloc((size_t)n * N_KINDS, sizeof *runs);
    char numbers[NPU_MAX][12];
    const char *tool = hccn_tool_of(opts);
    if (npus == NULL || runs == NULL) {
        verify_findings_add(findings, 0, VERIFY_FAIL, "npu", NULL, "no memory for the checks of %d NPUs", n);
        goto free_memory;
    }
    for (int i = 0; i < n; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%d", ids[i]);
        npus[i].id = ids[i];
        npus[i].tls = -1;
        for (int kind = 0; kind < N_KINDS; kind++)
            runs[i * N_KINDS + kind] =
                (struct tool_run){.args = {tool, "-i", numbers[i], kinds[kind].flag, "-g"}, .lane = i, .timeout_ms = TOOL_TIMEOUT_MS};
    }
    tool_run_all(runs, n * N_KINDS);
    if (runs[0].end == TOOL_NOT_FOUND) {
        verify_findings_add(findings, 0, VERIFY_FAIL, "npu", "Install Ascend's driver package, or give --hccn-tool",
                            "%d NPU(s), but no program '%s'", n, tool);
        goto free_memory;
    }
    for (int i = 0; i < n; i++) {
        for (int kind = 0; kind < N_KINDS; kind++)
            take_answer(&npus[i], (enum kind)kind, &runs[i * N_KINDS + kind]);
        judge_together(&npus[i]);
    }
    for (int kind = 0; kind < N_KINDS; kind++)
        add_kind_line(npus, n, (enum kind)kind, findings);
    check_conf(opts, npus, n, findings);
    json_object_set_new(facts, "npus", npu_facts(npus, n));
free_memory:
    free(runs);
    free(npus);
}

void check_npu(const struct check_npu_opts *opts, struct verify_findings *findings, json_t *facts) {
    int ids[NPU_MAX], n = ask_smi(opts, ids, findings);
    if (opts->n_npus > 0) {
        if (n > 0 && n != opts->n_npus)
            verify_findings_add(findings, 0, VERIFY_FAIL, "npu", "A card may have dropped out: see the system's log",
                                "%d NPU(s) are there, --npus says %d", n, opts->n_npus);
        n = opts->n_npus < NPU_MAX ? opts->n_npus : NPU_MAX;
        for (int i = 0; i < n; i++)
            ids[i] = i;
    }
    if (n == 0)
        n = device_ids(ids);
    if (n == 0 && is_given(opts->hccn_tool)) {
        struct buf conf;
        buf_init(&conf, CONF_LIMIT_BYTES);
        if (file_read(is_given(opts->hccn_conf) ? opts->hccn_conf : "/etc/hccn.conf", &conf, NULL) == 0)
            n = npu_parse_conf_ids(buf_str(&conf), ids);
        buf_finish(&conf);
    }
    if (n == 0)
        verify_findings_add(findings, 0, VERIFY_NOTE, "npu", NULL, "no NPUs here");
    else
        ask_hccn(opts, ids, n, findings, facts);
}

json_t *check_npu_pings(const struct check_npu_opts *opts, const json_t *pings) {
    int n = (int)json_array_size(pings);
    json_t *list = json_array();
    struct tool_run *runs = n > 0 && n <= MAX_PINGS ? calloc((size_t)n, sizeof *runs) : NULL;
    char (*numbers)[12] = runs == NULL ? NULL : calloc((size_t)n, sizeof *numbers);
    for (int i = 0; i < n && numbers != NULL; i++) {
        const json_t *ping = json_array_get(pings, (size_t)i);
        const char *address = json_string_value(json_object_get(ping, "address"));
        int npu = (int)json_integer_value(json_object_get(ping, "npu"));
        snprintf(numbers[i], sizeof numbers[i], "%d", npu);
        runs[i] =
            (struct tool_run){.args = {hccn_tool_of(opts), "-i", numbers[i], "-ping", "-g", "address", address == NULL ? "" : address},
                              .lane = npu,
                              .timeout_ms = PING_TIMEOUT_MS};
    }
    if (numbers != NULL)
        tool_run_all(runs, n);
    for (int i = 0; i < n && numbers != NULL; i++) {
        int sent = 0, received = 0;
        char end[128], text[REASON_BYTES];
        bool is_read = npu_parse_ping(runs[i].output, &sent, &received) == 0; /* a ping with loss may have any exit status */
        tool_end_text(&runs[i], end, sizeof end);
        verify_clean_text(runs[i].output, text, sizeof text);
        json_array_append_new(
            list, json_pack("{s:i, s:i, s:s, s:s}", "sent", is_read ? sent : 0, "received", received, "end", end, "output", text));
    }
    free(numbers);
    free(runs);
    return list;
}
