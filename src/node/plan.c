/* From wishes and facts to `ray start`; see plan.h. */
#include "node/plan.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { VISIBLE_BYTES = NODE_MAX_NPUS * 6 };

static void add(struct node_words *words, bool *failed, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void add(struct node_words *words, bool *failed, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    if (words->n == NODE_MAX_WORDS || vasprintf(&words->items[words->n], fmt, args) < 0)
        *failed = true;
    else
        words->n++;
    va_end(args);
    words->items[words->n] = NULL;
}

/* The devices that Ray may hand out: the user's list, else the first n of those that are there. */
static int visible_npus(const struct node_wish *wish, const struct node_facts *facts, char ret_list[VISIBLE_BYTES], int *ret_n, struct err *err) {
    int n = wish->n_npus < 0 ? facts->n_npus : wish->n_npus;
    size_t used = 0;
    ret_list[0] = '\0';
    *ret_n = n;
    if (n > facts->n_npus)
        return err_set(err, ERR_INVALID, "--npus %d, but this machine has %d (/dev/davinci*)", n, facts->n_npus);
    if (wish->visible_npus != NULL && wish->n_npus < 0 && facts->n_npus > 0) {
        if (strlen(wish->visible_npus) >= VISIBLE_BYTES)
            return err_set(err, ERR_INVALID, "ASCEND_RT_VISIBLE_DEVICES is longer than %d characters", VISIBLE_BYTES - 1);
        strcpy(ret_list, wish->visible_npus);
        *ret_n = ret_list[0] != '\0';
        for (const char *at = ret_list; *at != '\0'; at++)
            *ret_n += *at == ',';
        return 0;
    }
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(ret_list + used, VISIBLE_BYTES - used, "%s%d", i > 0 ? "," : "", facts->npus[i]);
    return 0;
}

static void add_env(const struct node_wish *wish, const struct node_facts *facts, const char *visible, struct node_words *env, bool *failed) {
    add(env, failed, "HCCL_IF_IP=%s", facts->iface.host);
    add(env, failed, "GLOO_SOCKET_IFNAME=%s", facts->iface.name);
    add(env, failed, "TP_SOCKET_IFNAME=%s", facts->iface.name);
    add(env, failed, "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES=1");
    if (visible[0] != '\0')
        add(env, failed, "ASCEND_RT_VISIBLE_DEVICES=%s", visible);
    if (wish->is_head) { /* the control store watches the nodes: three silences of 2 s, looked for every second, are a lost node */
        add(env, failed, "RAY_health_check_initial_delay_ms=5000");
        add(env, failed, "RAY_health_check_period_ms=1000");
        add(env, failed, "RAY_health_check_timeout_ms=2000");
        add(env, failed, "RAY_health_check_failure_threshold=3");
    }
    add(env, failed, "RAY_USAGE_STATS_ENABLED=0");
}

static void add_argv(const char *ray, const struct node_wish *wish, const struct node_facts *facts, int n_npus, struct node_words *argv,
                     bool *failed) {
    bool is_v6 = strchr(wish->head_host, ':') != NULL;
    uint64_t memory = wish->memory_bytes;
    if (memory == 0)
        memory = facts->memory_bytes > wish->object_store_bytes ? facts->memory_bytes - wish->object_store_bytes : facts->memory_bytes;
    add(argv, failed, "%s", ray);
    add(argv, failed, "start");
    if (wish->is_head) {
        add(argv, failed, "--head");
        add(argv, failed, "--port=%d", wish->head_port);
        add(argv, failed, "--include-dashboard=true");
        add(argv, failed, "--dashboard-host=%s", wish->dashboard_host);
        add(argv, failed, "--dashboard-port=%d", wish->dashboard_port);
    } else {
        add(argv, failed, "--address=%s%s%s:%d", is_v6 ? "[" : "", wish->head_host, is_v6 ? "]" : "", wish->head_port);
    }
    add(argv, failed, "--node-ip-address=%s", facts->iface.host);
    add(argv, failed, "--num-cpus=%d", wish->n_cpus > 0 ? wish->n_cpus : facts->n_cpus);
    add(argv, failed, "--memory=%llu", (unsigned long long)memory);
    add(argv, failed, "--object-store-memory=%llu", (unsigned long long)wish->object_store_bytes);
    if (n_npus > 0)
        add(argv, failed, "--resources={\"NPU\": %d}", n_npus);
    if (wish->temp_dir != NULL)
        add(argv, failed, "--temp-dir=%s", wish->temp_dir);
    add(argv, failed, "--disable-usage-stats");
    for (int i = 0; i < wish->n_extra; i++)
        add(argv, failed, "%s", wish->extra[i]);
}

int node_plan_make(const char *ray, const struct node_wish *wish, const struct node_facts *facts, struct node_plan *ret, struct err *err) {
    struct node_plan plan = {0};
    char visible[VISIBLE_BYTES];
    bool failed = false;
    int n_npus;
    if (visible_npus(wish, facts, visible, &n_npus, err) != 0)
        return -1;
    add_env(wish, facts, visible, &plan.env, &failed);
    add_argv(ray, wish, facts, n_npus, &plan.argv, &failed);
    if (failed) {
        node_plan_finish(&plan);
        return err_set(err, ERR_LIMIT, "ray start would get more than %d arguments, or there is no memory for them", NODE_MAX_WORDS);
    }
    *ret = plan;
    return 0;
}

static void finish_words(struct node_words *words) {
    for (int i = 0; i < words->n; i++)
        free(words->items[i]);
    words->n = 0;
}

void node_plan_finish(struct node_plan *plan) {
    finish_words(&plan->argv);
    finish_words(&plan->env);
}

static void print_quoted(const char *text, FILE *out) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@";
    if (text[0] != '\0' && text[strspn(text, plain)] == '\0') {
        fputs(text, out);
        return;
    }
    fputc('\'', out);
    for (; *text != '\0'; text++)
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    fputc('\'', out);
}

void node_plan_print(const struct node_plan *plan, FILE *out) {
    for (int i = 0; i < plan->env.n; i++) {
        fputs("export ", out);
        print_quoted(plan->env.items[i], out);
        fputc('\n', out);
    }
    for (int i = 0; i < plan->argv.n; i++) {
        if (i > 0)
            fputc(' ', out);
        print_quoted(plan->argv.items[i], out);
    }
    fputc('\n', out);
}

int node_plan_parse_head(const char *text, char ret_host[NET_ADDR_BYTES], int *ret_port, struct err *err) {
    const char *host = text, *host_end = text + strlen(text), *port_text = NULL;
    if (text[0] == '[') {
        host = text + 1;
        host_end = strchr(host, ']');
        if (host_end != NULL && host_end[1] == ':')
            port_text = host_end + 2;
        else if (host_end != NULL && host_end[1] != '\0')
            host_end = NULL;
    } else if (strchr(text, ':') != NULL && strchr(text, ':') == strrchr(text, ':')) {
        host_end = strchr(text, ':');
        port_text = host_end + 1;
    }
    char *end = NULL;
    long port = port_text == NULL ? NODE_GCS_PORT : strtol(port_text, &end, 10);
    size_t len = host_end == NULL ? 0 : (size_t)(host_end - host);
    if (len == 0 || len >= NET_ADDR_BYTES || strpbrk(text, "/ ") != NULL || port < 1 || port > 65535 ||
        (port_text != NULL && (end == port_text || *end != '\0')))
        return err_set(err, ERR_INVALID, "--address %.80s should be the head's, like 10.0.0.1:%d", text, NODE_GCS_PORT);
    memcpy(ret_host, host, len);
    ret_host[len] = '\0';
    *ret_port = (int)port;
    return 0;
}
