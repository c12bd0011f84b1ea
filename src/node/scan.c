/* Ray's processes, by their command lines and by who started them; see scan.h. */
#include "node/scan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { MAX_PROCESSES = 65536, COMMAND_BYTES = 65536, STAT_BYTES = 1024, NAMESPACE_BYTES = 64, STEP_MS = 50, FREEZE_MS = 3000 };

/* One process of this network namespace. */
struct process {
    pid_t pid, parent;
    unsigned long long started; /* clock ticks since boot: with the pid, a name that is never used again */
    bool is_raylet, is_ray;     /* is_ray: Ray's own, or a descendant */
    bool is_job;                /* a raylet, or a descendant of one: what it runs for others is among them */
    char host[NET_ADDR_BYTES];  /* Ray's own: the address of its node */
};

struct processes {
    struct process *items;
    int n;
};

static ssize_t read_proc(pid_t pid, const char *name, char *ret, size_t size_bytes) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size_t used = 0;
    for (ssize_t n; used < size_bytes - 1 && (n = read(fd, ret + used, size_bytes - 1 - used)) > 0;)
        used += (size_t)n;
    close(fd);
    ret[used] = '\0';
    return (ssize_t)used;
}

static bool in_namespace(const char *pid, const char *own) {
    char path[64], text[NAMESPACE_BYTES];
    snprintf(path, sizeof path, "/proc/%.20s/ns/net", pid);
    ssize_t n = readlink(path, text, sizeof text - 1);
    if (n < 0)
        return false;
    text[n] = '\0';
    return strcmp(text, own) == 0;
}

/* Parent, state and start of a living process; false for one that has ended. */
static bool read_stat(pid_t pid, pid_t *ret_parent, unsigned long long *ret_started) {
    char stat[STAT_BYTES], state;
    int parent;
    if (read_proc(pid, "stat", stat, sizeof stat) <= 0)
        return false;
    const char *rest = strrchr(stat, ')'); /* the name may hold anything */
    if (rest == NULL ||
        sscanf(rest + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state, &parent, ret_started) != 3)
        return false;
    *ret_parent = parent;
    return state != 'Z' && state != 'X';
}

static bool ends_with(const char *text, const char *end) {
    size_t len = strlen(text), end_len = strlen(end);
    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* Whether a command line (NUL between words) is one of those that `ray start` runs, and for which address. */
static void recognise(const char *command, size_t len_bytes, struct process *process) {
    static const struct {
        const char *word, *host; /* how a word of it ends, and the option with the node's address */
    } own[] = {{"/raylet/raylet", "--node_ip_address="},
               {"/gcs/gcs_server", "--node-ip-address="},
               {"/ray/dashboard/dashboard.py", "--node-ip-address="},
               {"/ray/_private/log_monitor.py", "--node-ip-address="},
               {"/ray/autoscaler/_private/monitor.py", "--monitor-ip="},
               {"ray.util.client.server", "--host="}};
    int kind = -1;
    for (const char *at = command; at < command + len_bytes; at += strlen(at) + 1) {
        for (size_t k = 0; k < sizeof own / sizeof own[0] && kind < 0; k++)
            if (ends_with(at, own[k].word))
                kind = (int)k;
        if (kind < 0 || strncmp(at, own[kind].host, strlen(own[kind].host)) != 0)
            continue;
        process->is_raylet = process->is_job = kind == 0;
        process->is_ray = true;
        snprintf(process->host, sizeof process->host, "%s", at + strlen(own[kind].host));
        return;
    }
}

static struct process *find(const struct processes *list, pid_t pid) {
    for (int i = 0; i < list->n; i++)
        if (list->items[i].pid == pid)
            return &list->items[i];
    return NULL;
}

/* A process belongs to the Ray that an ancestor of it belongs to. */
static void mark_descendants(const struct processes *list) {
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < list->n; i++) {
            struct process *process = &list->items[i];
            const struct process *parent = process->is_ray ? NULL : find(list, process->parent);
            if (parent == NULL || !parent->is_ray || process->pid == getpid())
                continue;
            process->is_ray = again = true;
            process->is_job = parent->is_job;
            memcpy(process->host, parent->host, sizeof process->host);
        }
    }
}

/* All processes of this network namespace that can be seen; those of `known` are Ray's. ret->items: free(). */
static int scan(const struct processes *known, struct processes *ret, struct err *err) {
    char own[NAMESPACE_BYTES] = "";
    struct processes list = {NULL, 0};
    int room = 0, result = -1;
    char *command = malloc(COMMAND_BYTES);
    DIR *dir = opendir("/proc");
    if (readlink("/proc/self/ns/net", own, sizeof own - 1) < 0 || dir == NULL || command == NULL) {
        err_set(err, ERR_IO, "cannot look for processes in /proc: %s", strerror(errno));
        goto close_all;
    }
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        struct process process = {.pid = pid};
        if (pid <= 0 || !in_namespace(entry->d_name, own) || !read_stat(pid, &process.parent, &process.started))
            continue;
        const struct process *before = find(known, pid);
        ssize_t len = read_proc(pid, "cmdline", command, COMMAND_BYTES);
        if (before != NULL && before->started == process.started)
            process = *before;
        else if (len > 0)
            recognise(command, (size_t)len, &process);
        if (list.n == room) {
            struct process *grown = room == MAX_PROCESSES ? NULL : realloc(list.items, (size_t)(room + 256) * sizeof *grown);
            if (grown == NULL) {
                err_set(err, ERR_LIMIT, "more than %d processes, or no memory for a list of them", room);
                goto close_all;
            }
            list.items = grown;
            room += 256;
        }
        list.items[list.n++] = process;
    }
    mark_descendants(&list);
    *ret = list;
    list.items = NULL;
    result = 0;
close_all:
    free(list.items);
    free(command);
    if (dir != NULL)
        closedir(dir);
    return result;
}

int node_scan_raylets(struct node_raylet *ret, int max, int *ret_n, struct err *err) {
    struct processes list;
    if (scan(&(struct processes){0}, &list, err) != 0)
        return -1;
    int n = 0;
    for (int i = 0; i < list.n && n < max; i++) {
        if (!list.items[i].is_raylet || !list.items[i].is_ray)
            continue;
        ret[n].pid = list.items[i].pid;
        memcpy(ret[n++].host, list.items[i].host, sizeof ret->host);
    }
    free(list.items);
    *ret_n = n;
    return 0;
}

/* Keeps Ray's own with their descendants, of one address or of all. */
static void keep_ray(struct processes *list, const char *host) {
    int n = 0;
    for (int i = 0; i < list->n; i++)
        if (list->items[i].is_ray && (host == NULL || strcmp(list->items[i].host, host) == 0))
            list->items[n++] = list->items[i];
    list->n = n;
}

static bool is_alive(const struct process *process) {
    pid_t parent;
    unsigned long long started;
    return read_stat(process->pid, &parent, &started) && started == process->started;
}

static int n_alive(const struct processes *list, bool jobs_only) {
    int n = 0;
    for (int i = 0; i < list->n; i++)
        n += (!jobs_only || list->items[i].is_job) && is_alive(&list->items[i]);
    return n;
}

static int signal_all(const struct processes *list, int signum, bool jobs_only, struct err *err) {
    for (int i = 0; i < list->n; i++) {
        const struct process *process = &list->items[i];
        if ((jobs_only && !process->is_job) || !is_alive(process))
            continue;
        if (kill(process->pid, signum) != 0 && errno != ESRCH)
            return err_set(err, ERR_IO, "cannot end Ray's process %d: %s (it is another user's?)", (int)process->pid, strerror(errno));
    }
    return 0;
}

static void wait_gone(const struct processes *list, bool jobs_only, int64_t deadline_ms) {
    while (n_alive(list, jobs_only) > 0 && clock_left_ms(deadline_ms) > 0)
        clock_nap_ms(STEP_MS);
}

/* Scans again until nothing new is seen, all that was seen being stopped: Ray's dashboard, for one, replaces children that are killed. */
static int freeze(struct processes *list, const char *host, int64_t deadline_ms, struct err *err) {
    for (;;) {
        struct processes now;
        if (signal_all(list, SIGSTOP, false, err) != 0 || scan(list, &now, err) != 0)
            return -1;
        keep_ray(&now, host);
        bool is_complete = true;
        for (int i = 0; i < now.n; i++)
            is_complete &= find(list, now.items[i].pid) != NULL;
        free(list->items);
        *list = now;
        if (is_complete || clock_left_ms(deadline_ms) == 0)
            return 0;
    }
}

int node_scan_stop(const char *host, int timeout_ms, int *ret_n, struct err *err) {
    struct processes list;
    int64_t begin_ms = clock_mono_ms();
    if (scan(&(struct processes){0}, &list, err) != 0)
        return -1;
    keep_ray(&list, host);
    int n = list.n, result = signal_all(&list, SIGTERM, true, err);
    if (result == 0) {
        wait_gone(&list, true, begin_ms + timeout_ms / 2);
        result = freeze(&list, host, begin_ms + timeout_ms / 2 + FREEZE_MS, err);
    }
    if (result == 0)
        result = signal_all(&list, SIGKILL, false, err);
    if (result == 0) {
        wait_gone(&list, false, begin_ms + timeout_ms);
        int left = n_alive(&list, false);
        if (left > 0)
            result = err_set(err, ERR_TIMEOUT, "%d of Ray's %d processes have not ended within %d s", left, n, timeout_ms / 1000);
    }
    if (result == 0)
        *ret_n = n;
    free(list.items);
    return result;
}
