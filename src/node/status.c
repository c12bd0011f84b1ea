/* Nodes, devices and shoal's jobs; see status.h. */
#include "node/status.h"

#include <string.h>

#include "base/json.h"
#include "cluster/ray_call.h"

enum { MAX_NODES = 1000, TEXT_BYTES = 200 };

static const char *const devices[] = {"CPU", "NPU", "GPU", "memory"};
enum { N_DEVICES = sizeof devices / sizeof devices[0] };
static const char actor_prefix[] = "_ray_internal_job_actor_", shoal_prefix[] = "shoal-";

static json_t *descend(json_t *json, const char *const *path) {
    for (; *path != NULL && json != NULL; path++)
        json = json_object_get(json, *path);
    return json;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text == NULL ? "" : text;
}

static double number_of(const json_t *object, const char *key) {
    double value = json_number_value(json_object_get(object, key));
    return value >= 0 && value <= 1e18 ? value : 0;
}

static bool is_alive(const json_t *node) { return strcmp(text_of(node, "state"), "ALIVE") == 0; }

/* Of two entries for one address: the one that lives, else the one that ended last. */
static bool is_newer(const json_t *a, const json_t *b) {
    return is_alive(a) != is_alive(b) ? is_alive(a) : number_of(a, "end_time_ms") > number_of(b, "end_time_ms");
}

static const json_t *newest_of(const json_t *list, const char *address) {
    const json_t *newest = NULL, *node;
    size_t i;
    json_array_foreach(list, i, node) if (strcmp(text_of(node, "node_ip"), address) == 0 && (newest == NULL || is_newer(node, newest))) newest = node;
    return newest;
}

static json_t *devices_of(const json_t *node, const json_t *usage) {
    json_t *ret = json_object();
    for (int i = 0; i < N_DEVICES; i++) {
        double total = number_of(json_object_get(node, "resources_total"), devices[i]);
        double used = json_number_value(json_array_get(json_object_get(usage, devices[i]), 0));
        if (total > 0)
            json_object_set_new(ret, devices[i], json_pack("{s:f, s:f, s:f}", "total", total, "used", used > 0 ? used : 0, "shoal", 0.0));
    }
    return ret;
}

static json_t *entry_of(const json_t *node, const json_t *usage_by_node) {
    const char *message = text_of(node, "state_message"), *id = text_of(node, "node_id");
    bool is_expected = strncmp(message, "Expected termination", 20) == 0;
    return json_pack("{s:s, s:s, s:b, s:s, s:s, s:o, s:[]}", "address", text_of(node, "node_ip"), "node_id", id, "is_head",
                     json_is_true(json_object_get(node, "is_head_node")), "state",
                     is_alive(node)  ? "alive"
                     : is_expected   ? "stopped"
                                     : "lost",
                     "reason", message, "devices", devices_of(node, json_object_get(usage_by_node, id)), "jobs");
}

static json_t *find_by(const json_t *list, const char *key, const char *value) {
    json_t *item;
    size_t i;
    json_array_foreach(list, i, item) if (strcmp(text_of(item, key), value) == 0) return item;
    return NULL;
}

/* A job of shoal's that lives, as its supervising actor shows it: which node, and what it reserves there. */
static void add_job(json_t *nodes, const json_t *actor, const json_t *jobs) {
    const char *name = text_of(actor, "name");
    if (strcmp(text_of(actor, "state"), "ALIVE") != 0 || strncmp(name, actor_prefix, sizeof actor_prefix - 1) != 0)
        return;
    const char *id = name + sizeof actor_prefix - 1;
    json_t *node = find_by(nodes, "node_id", text_of(actor, "node_id"));
    if (strncmp(id, shoal_prefix, sizeof shoal_prefix - 1) != 0 || node == NULL)
        return;
    const json_t *job = find_by(jobs, "submission_id", id);
    json_t *entry = json_pack("{s:s, s:s}", "id", id, "ranks", text_of(json_object_get(job, "metadata"), "shoal_ranks"));
    for (int i = 0; i < N_DEVICES; i++) {
        double n = number_of(json_object_get(actor, "required_resources"), devices[i]);
        json_t *device = json_object_get(json_object_get(node, "devices"), devices[i]);
        if (n <= 0 || device == NULL)
            continue;
        json_object_set_new(entry, devices[i], json_real(n));
        json_object_set_new(device, "shoal", json_real(number_of(device, "shoal") + n));
    }
    json_array_append_new(json_object_get(node, "jobs"), entry);
}

static json_t *parse_list(const char *text, const char *what, struct err *err) {
    json_t *json = json_parse(text, strlen(text), err);
    if (json == NULL) {
        err_wrap(err, "Ray's list of %s", what);
        return NULL;
    }
    json_t *list = json_is_array(json) ? json : descend(json, (const char *const[]){"data", "result", "result", NULL});
    if (json_is_array(list))
        json_incref(list);
    else
        err_set(err, ERR_PEER, "Ray's list of %s is no list", what);
    json_decref(json);
    return json_is_array(list) ? list : NULL;
}

int node_status_parse(const struct node_answers *answers, json_t **ret, struct err *err) {
    json_t *list = parse_list(answers->nodes, "nodes", err);
    json_t *actors = list == NULL ? NULL : parse_list(answers->actors, "actors", err);
    json_t *jobs = actors == NULL ? NULL : parse_list(answers->jobs, "jobs", err);
    json_t *usage = jobs == NULL ? NULL : json_parse(answers->usage, strlen(answers->usage), err), *item;
    json_t *by_node = descend(usage, (const char *const[]){"data", "clusterStatus", "loadMetricsReport", "usageByNode", NULL});
    json_t *nodes = usage == NULL ? NULL : json_array();
    size_t i;
    if (nodes != NULL) {
        json_array_foreach(list, i, item) {
            const char *address = text_of(item, "node_ip");
            if (i == MAX_NODES)
                break;
            if (address[0] != '\0' && newest_of(list, address) == item)
                json_array_append_new(nodes, entry_of(item, by_node));
        }
        json_array_foreach(actors, i, item) add_job(nodes, item, jobs);
    }
    json_decref(list);
    json_decref(actors);
    json_decref(jobs);
    json_decref(usage);
    if (nodes == NULL)
        return -1;
    *ret = nodes;
    return 0;
}

static int get(const struct cluster_ray *ray, const char *path, struct buf *ret_body, struct err *err) {
    return cluster_ray_call(ray, &(struct cluster_ray_request){.method = "GET", .path = path}, ret_body, err);
}

int node_status_ask(const struct cluster_ray *ray, json_t **ret, struct err *err) {
    static const char *const paths[] = {
        "/api/v0/nodes?limit=1000&detail=True", "/api/cluster_status",
        "/api/v0/actors?limit=1000&detail=True&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE", "/api/jobs/", "/api/version"};
    enum { N_PATHS = sizeof paths / sizeof paths[0] };
    struct buf bodies[N_PATHS] = {0};
    json_t *nodes, *version = NULL;
    int result = 0;
    for (int i = 0; i < N_PATHS && result == 0; i++)
        result = get(ray, paths[i], &bodies[i], err);
    if (result == 0) {
        struct node_answers answers = {buf_str(&bodies[0]), buf_str(&bodies[1]), buf_str(&bodies[2]), buf_str(&bodies[3])};
        result = node_status_parse(&answers, &nodes, err);
        version = json_parse(buf_str(&bodies[4]), bodies[4].len_bytes, NULL);
    }
    if (result == 0)
        *ret = json_pack("{s:s, s:s, s:o}", "dashboard", ray->url, "ray_version", text_of(version, "ray_version"), "nodes", nodes);
    json_decref(version);
    for (int i = 0; i < N_PATHS; i++)
        buf_finish(&bodies[i]);
    return result;
}

json_t *node_status_find(const json_t *report, const char *address) {
    return find_by(json_object_get(report, "nodes"), "address", address);
}

int node_status_count(const json_t *report, const char *state) {
    json_t *node;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(report, "nodes"), i, node) n += strcmp(text_of(node, "state"), state) == 0;
    return n;
}

/* Ray's words, on one line and without control characters. */
static void plain(const char *text, char ret[TEXT_BYTES]) {
    size_t n = 0;
    for (; text[n] != '\0' && n < TEXT_BYTES - 1; n++)
        ret[n] = (unsigned char)text[n] < ' ' || text[n] == 0x7f ? ' ' : text[n];
    ret[n] = '\0';
}

static void print_device(const json_t *node, int device, FILE *out) {
    const json_t *entry = json_object_get(json_object_get(node, "devices"), devices[device]);
    double unit = strcmp(devices[device], "memory") == 0 ? 1 << 30 : 1;
    char text[48] = "-";
    if (entry != NULL)
        snprintf(text, sizeof text, unit > 1 ? "%.1f/%.1f" : "%g/%g", number_of(entry, "used") / unit, number_of(entry, "total") / unit);
    fprintf(out, "  %-11s", text);
}

static void print_node(const json_t *node, FILE *out) {
    char address[TEXT_BYTES], reason[TEXT_BYTES], id[TEXT_BYTES], ranks[TEXT_BYTES];
    const json_t *job;
    size_t i;
    plain(text_of(node, "address"), address);
    plain(text_of(node, "reason"), reason);
    fprintf(out, "%-16s  %-7s", address, text_of(node, "state"));
    for (int d = 0; d < N_DEVICES; d++)
        print_device(node, d, out);
    json_array_foreach(json_object_get(node, "jobs"), i, job) {
        plain(text_of(job, "id"), id);
        plain(text_of(job, "ranks"), ranks);
        fprintf(out, "%s%s", i > 0 ? ", " : "  ", id);
        if (ranks[0] != '\0')
            fprintf(out, " ranks %s", ranks);
        for (int d = 0; d < N_DEVICES; d++)
            if (number_of(job, devices[d]) > 0)
                fprintf(out, " %g %s", number_of(job, devices[d]), devices[d]);
    }
    if (strcmp(text_of(node, "state"), "alive") != 0)
        fprintf(out, "  %s", reason);
    fprintf(out, "%s\n", json_is_true(json_object_get(node, "is_head")) ? "  (head)" : "");
}

void node_status_print(const json_t *report, FILE *out) {
    int n_alive = node_status_count(report, "alive"), n_stopped = node_status_count(report, "stopped"), n_lost = node_status_count(report, "lost");
    char version[TEXT_BYTES];
    json_t *node;
    size_t i;
    plain(text_of(report, "ray_version"), version);
    fprintf(out, "Ray %s, dashboard %s: %d node%s alive, %d stopped, %d lost\n", version, text_of(report, "dashboard"), n_alive,
            n_alive == 1 ? "" : "s", n_stopped, n_lost);
    fprintf(out, "%-16s  %-7s  %-11s  %-11s  %-11s  %-11s  %s\n", "address", "state", "CPU", "NPU", "GPU", "memory GiB", "shoal's jobs");
    json_array_foreach(json_object_get(report, "nodes"), i, node) print_node(node, out);
}
