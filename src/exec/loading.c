/* Reports of loading, and what follows from them; see loading.h. */
#include "exec/loading.h"

#include <stddef.h>

#include "base/json.h"
#include "comm/world.h"

/* The fields as they travel; one table for both ways. */
static const struct field {
    const char *name;
    size_t offset;
} fields[] = {
    {"done", offsetof(struct exec_load_report, done_bytes)},   {"total", offsetof(struct exec_load_report, total_bytes)},
    {"saved", offsetof(struct exec_load_report, saved_bytes)}, {"read", offsetof(struct exec_load_report, read_bytes)},
    {"block", offsetof(struct exec_load_report, block_bytes)}, {"idle", offsetof(struct exec_load_report, idle_bytes)},
    {"ms", offsetof(struct exec_load_report, elapsed_ms)},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

json_t *exec_load_reports_to_json(const struct exec_load_report *reports, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n && list != NULL; i++) {
        json_t *item = json_object();
        for (int f = 0; f < N_FIELDS; f++)
            json_object_set_new(item, fields[f].name, json_integer(*(const int64_t *)((const char *)&reports[i] + fields[f].offset)));
        json_array_append_new(list, item);
    }
    return list;
}

int exec_load_reports_from_json(const json_t *list, int n, struct exec_load_report *ret, struct err *err) {
    if (json_array_size(list) != (size_t)n)
        return err_set(err, ERR_PEER, "a status has reports of %zu ranks; %d are there", json_array_size(list), n);
    for (int i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        if (!json_is_object(item))
            return err_set(err, ERR_PEER, "a status has %s for a rank's report", json_type_name(item));
        for (int f = 0; f < N_FIELDS; f++) {
            int64_t value;
            if (json_get_int(item, fields[f].name, 0, 0, INT64_MAX, &value, err) != 0)
                return err_wrap(err, "status of a rank");
            *(int64_t *)((char *)&ret[i] + fields[f].offset) = value;
        }
    }
    return 0;
}

void exec_load_sum(const struct exec_load_report *reports, int n_ranks, struct exec_load_summary *ret) {
    struct exec_load_summary sum = {.slowest_share = 2};
    int64_t slowest_ms = 0;
    for (int i = 0; i < n_ranks; i++) {
        const struct exec_load_report *r = &reports[i];
        double share = r->total_bytes > 0 ? (double)r->done_bytes / (double)r->total_bytes : 0;
        double rate_bps = r->elapsed_ms > 0 ? (double)r->done_bytes * 1000 / (double)r->elapsed_ms : 0;
        double left_s = rate_bps > 0 ? ((double)r->total_bytes - (double)r->done_bytes) / rate_bps : 0;
        sum.done_bytes += r->done_bytes;
        sum.total_bytes += r->total_bytes;
        sum.saved_bytes += r->saved_bytes;
        sum.read_bytes += r->read_bytes;
        sum.rate_bps += rate_bps;
        sum.left_s = left_s > sum.left_s ? left_s : sum.left_s;
        sum.n_cached += r->total_bytes > 0 && r->done_bytes == r->total_bytes && r->read_bytes == 0;
        if (share < sum.slowest_share || (share == sum.slowest_share && r->elapsed_ms > slowest_ms)) {
            sum.slowest_share = share;
            sum.slowest = i;
            slowest_ms = r->elapsed_ms;
        }
    }
    *ret = sum;
}

int64_t exec_kv_blocks_fit(const struct exec_load_report *reports, const int *node_of_rank, int n_ranks, const struct exec_node_memory *nodes,
                           int n_nodes, const struct plan_kv_limits *limits, int64_t wanted, int *ret_tightest) {
    struct plan_room rooms[COMM_MAX_NODES];
    for (int i = 0; i < n_nodes; i++)
        rooms[i] = (struct plan_room){.total_bytes = nodes[i].total_bytes, .available_bytes = nodes[i].available_bytes};
    for (int i = 0; i < n_ranks; i++) {
        rooms[node_of_rank[i]].block_bytes += reports[i].block_bytes;
        rooms[node_of_rank[i]].promised_bytes += reports[i].idle_bytes;
    }
    return plan_kv_blocks(rooms, n_nodes, limits, wanted, ret_tightest);
}
