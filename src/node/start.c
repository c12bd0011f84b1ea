/* `ray start`, and the wait until it holds; see start.h. */
#include "node/start.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/process.h"
#include "node/scan.h"
#include "node/status.h"

enum { REACH_TIMEOUT_MS = 10000, STOP_TIMEOUT_MS = 20000, ASK_GAP_MS = 300, DASHBOARD_PATIENCE_MS = 10000 };

static int check_free(struct err *err) {
    struct node_raylet raylet;
    int n;
    if (node_scan_raylets(&raylet, 1, &n, err) != 0)
        return -1;
    return n == 0 ? 0
                  : err_set(err, ERR_INVALID, "Ray runs on this node already, as %s (process %d); 'shoal node stop' ends it", raylet.host,
                            (int)raylet.pid);
}

static int reach_head(const struct node_wish *wish, struct err *err) {
    int fd;
    if (net_connect(wish->head_host, (uint16_t)wish->head_port, clock_mono_ms() + REACH_TIMEOUT_MS, &fd, err) != 0)
        return err_wrap(err, "the head %s does not answer on port %d (is 'shoal node start --head' done there, and is the port open?)",
                        wish->head_host, wish->head_port);
    close(fd);
    return 0;
}

/* Whether the cluster lists this node as alive: 1, 0, or -1 when the dashboard does not answer. */
static int is_listed(const struct cluster_ray *ray, const char *host, struct err *err) {
    json_t *report;
    if (node_status_ask(ray, &report, err) != 0)
        return -1;
    const char *state = json_string_value(json_object_get(node_status_find(report, host), "state"));
    int listed = state != NULL && strcmp(state, "alive") == 0;
    json_decref(report);
    return listed;
}

static int wait_listed(const struct cluster_ray *ray, const struct node_wish *wish, const char *host, int64_t deadline_ms,
                       bool (*is_cancelled)(void), bool *ret_listed, struct err *err) {
    int64_t patience_ms = clock_mono_ms() + DASHBOARD_PATIENCE_MS;
    for (;; clock_nap_ms(ASK_GAP_MS)) {
        int listed = is_listed(ray, host, err);
        bool is_given_up = listed < 0 && !wish->is_head && clock_left_ms(patience_ms) == 0;
        if (listed == 1 || is_given_up) {
            *ret_listed = !is_given_up;
            return 0;
        }
        if (is_cancelled())
            return err_set(err, ERR_CANCELLED, "stopped");
        if (clock_left_ms(deadline_ms) > 0)
            continue;
        return listed < 0 ? err_wrap(err, "Ray has started, but its dashboard does not answer as it should")
                          : err_set(err, ERR_TIMEOUT, "Ray has started, but does not list %s among its nodes", host);
    }
}

static int name_dashboard(const struct node_wish *wish, const struct node_facts *facts, struct cluster_ray *ret, struct err *err) {
    char url[NET_ADDR_BYTES + 32];
    bool is_everywhere = strcmp(wish->dashboard_host, "0.0.0.0") == 0 || strcmp(wish->dashboard_host, "::") == 0;
    const char *host = !wish->is_head ? wish->head_host : is_everywhere ? facts->iface.host : wish->dashboard_host;
    bool is_v6 = strchr(host, ':') != NULL;
    snprintf(url, sizeof url, "http://%s%s%s:%d", is_v6 ? "[" : "", host, is_v6 ? "]" : "", wish->dashboard_port);
    return cluster_ray_name(url, ret, err);
}

int node_start(const struct node_plan *plan, const struct node_wish *wish, const struct node_facts *facts, int timeout_ms,
               bool (*is_cancelled)(void), struct cluster_ray *ret_ray, bool *ret_listed, struct err *err) {
    struct node_process process = {.argv = plan->argv.items,
                                   .env = (const char *const *)plan->env.items,
                                   .timeout_ms = timeout_ms,
                                   .is_cancelled = is_cancelled};
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    if (check_free(err) != 0 || (!wish->is_head && reach_head(wish, err) != 0))
        return -1;
    log_info("Starting Ray on %s (%s)", facts->iface.host, facts->iface.name);
    int result = node_process_run(&process, NULL, err), n;
    if (result != 0)
        err_wrap(err, "ray start");
    if (result == 0)
        result = name_dashboard(wish, facts, ret_ray, err);
    if (result == 0)
        result = wait_listed(ret_ray, wish, facts->iface.host, deadline_ms, is_cancelled, ret_listed, err);
    if (result != 0 && node_scan_stop(NULL, STOP_TIMEOUT_MS, &n, NULL) == 0 && n > 0)
        log_info("Ended the %d processes that Ray had started", n);
    return result;
}
