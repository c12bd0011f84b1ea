/* Ray's answers; see ray_parse.h. */
#include "cluster/ray_parse.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

static const char *const state_names[] = {"PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"};
enum { N_STATES = sizeof state_names / sizeof state_names[0] };

const char *cluster_ray_state_name(enum cluster_ray_state state) { return (unsigned)state < N_STATES ? state_names[state] : "unknown"; }

bool cluster_ray_state_is_end(enum cluster_ray_state state) { return state != RAY_PENDING && state != RAY_RUNNING; }

bool cluster_ray_id_is_plain(const char *id) {
    size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return len > 0 && len < CLUSTER_NAME_BYTES && id[len] == '\0';
}

/* data.a.b.… of an answer; NULL when any step is missing. */
static json_t *descend(json_t *json, const char *const *path) {
    for (; *path != NULL && json != NULL; path++)
        json = json_object_get(json, *path);
    return json;
}

static int take_node(const json_t *node, struct cluster_offer *ret, bool *ret_taken, struct err *err) {
    const char *id, *ip, *state;
    bool is_head;
    double cpus;
    json_t *resources = json_object_get(node, "resources_total");
    *ret_taken = false;
    if (json_get_str(node, "node_id", "", &id, err) != 0 || json_get_str(node, "node_ip", "", &ip, err) != 0 ||
        json_get_str(node, "state", "", &state, err) != 0 || json_get_bool(node, "is_head_node", false, &is_head, err) != 0)
        return -1;
    if (strcmp(state, "ALIVE") != 0 || ip[0] == '\0')
        return 0;
    if (!cluster_ray_id_is_plain(id) || strlen(ip) >= NET_ADDR_BYTES)
        return err_set(err, ERR_PEER, "a node with the id '%.80s' and the address '%.80s'", id, ip);
    if (json_get_double(resources, "CPU", 0, &cpus, err) != 0)
        return -1;
    if (!(cpus >= 0 && cpus <= 1 << 20))
        return err_set(err, ERR_PEER, "node %s with %g CPUs", ip, cpus);
    *ret = (struct cluster_offer){.is_head = is_head, .cpus_total = cpus};
    snprintf(ret->id, sizeof ret->id, "%s", id);
    snprintf(ret->host, sizeof ret->host, "%s", ip);
    *ret_taken = true;
    return 0;
}

int cluster_ray_parse_nodes(const char *text, size_t len_bytes, struct cluster_offer *ret, int *ret_n, struct err *err) {
    json_t *json = json_parse(text, len_bytes, err), *node;
    if (json == NULL)
        return err_wrap(err, "Ray's list of nodes");
    json_t *list = descend(json, (const char *const[]){"data", "result", "result", NULL});
    int result = json_is_array(list) ? 0 : err_set(err, ERR_PEER, "no list at data.result.result");
    int n = 0;
    size_t i;
    json_array_foreach(list, i, node) {
        bool taken;
        if (result != 0 || n == CLUSTER_MAX_OFFERS)
            break;
        result = take_node(node, &ret[n], &taken, err);
        n += result == 0 && taken;
    }
    json_decref(json);
    if (result != 0)
        return err_wrap(err, "Ray's list of nodes");
    *ret_n = n;
    return 0;
}

int cluster_ray_parse_usage(const char *text, size_t len_bytes, struct cluster_offer *offers, int n_offers, struct err *err) {
    json_t *json = json_parse(text, len_bytes, err);
    if (json == NULL)
        return err_wrap(err, "Ray's cluster status");
    json_t *by_node = descend(json, (const char *const[]){"data", "clusterStatus", "loadMetricsReport", "usageByNode", NULL});
    for (int i = 0; i < n_offers; i++) {
        json_t *used = json_array_get(json_object_get(json_object_get(by_node, offers[i].id), "CPU"), 0);
        double cpus = json_is_number(used) ? json_number_value(used) : 0;
        offers[i].cpus_used = cpus >= 0 && cpus <= 1 << 20 ? cpus : 0;
    }
    json_decref(json);
    return 0;
}

void cluster_ray_parse_log(const char *text, size_t len_bytes, struct cluster_tail *tail) {
    static const char *const noise[] = {"Running entrypoint for job ", "INFO job_manager.py:"};
    while (len_bytes > 0) {
        const char *newline = memchr(text, '\n', len_bytes);
        size_t line_bytes = newline == NULL ? len_bytes : (size_t)(newline - text) + 1;
        if (memmem(text, line_bytes, noise[0], strlen(noise[0])) != text && memmem(text, line_bytes, noise[1], strlen(noise[1])) == NULL)
            cluster_tail_add(tail, text, line_bytes);
        text += line_bytes;
        len_bytes -= line_bytes;
    }
}

static int take_status(const json_t *json, struct cluster_ray_status *ret, struct err *err) {
    const char *state, *message, *node_id;
    int64_t exit_code;
    if (json_get_str(json, "status", "", &state, err) != 0 || json_get_str(json, "message", "", &message, err) != 0 ||
        json_get_str(json, "driver_node_id", "", &node_id, err) != 0 ||
        json_get_int(json, "driver_exit_code", -1, INT_MIN, INT_MAX, &exit_code, err) != 0)
        return -1;
    int found = 0;
    while (found < N_STATES && strcmp(state, state_names[found]) != 0)
        found++;
    if (found == N_STATES)
        return err_set(err, ERR_PEER, "the state '%.40s'", state);
    ret->state = (enum cluster_ray_state)found;
    ret->exit_code = (int)exit_code;
    if (cluster_ray_id_is_plain(node_id))
        snprintf(ret->node_id, sizeof ret->node_id, "%s", node_id);
    size_t first_bytes = strcspn(message, "\n");
    snprintf(ret->message, sizeof ret->message, "%.*s", (int)(first_bytes < sizeof ret->message ? first_bytes : sizeof ret->message - 1),
             message);
    if (message[first_bytes] == '\n')
        cluster_ray_parse_log(message + first_bytes + 1, strlen(message + first_bytes + 1), &ret->tail);
    return 0;
}

int cluster_ray_parse_status(const char *text, size_t len_bytes, struct cluster_ray_status *ret, struct err *err) {
    struct cluster_ray_status status = {0};
    json_t *json = json_parse(text, len_bytes, err);
    int result = json == NULL           ? -1
                 : json_is_object(json) ? take_status(json, &status, err)
                                        : err_set(err, ERR_PEER, "it is %s", json_type_name(json));
    json_decref(json);
    if (result != 0)
        return err_wrap(err, "Ray's answer about a job");
    *ret = status;
    return 0;
}

void cluster_ray_parse_failure(const char *text, size_t len_bytes, char *ret_text, size_t size_bytes) {
    const char *best = text, *at = text, *end = text + len_bytes;
    size_t best_bytes = 0;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline == NULL ? end : newline;
        size_t len = (size_t)(stop - at);
        /* Ray ends tracebacks that it quotes with a lone full stop. */
        if (len > 3 && !isspace((unsigned char)at[0])) {
            best = at;
            best_bytes = len;
        }
        at = stop + 1;
    }
    snprintf(ret_text, size_bytes, "%.*s", (int)(best_bytes < size_bytes ? best_bytes : size_bytes - 1), best);
}
