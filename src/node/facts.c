/* This machine's share of a cluster; see facts.h. */
#include "node/facts.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"

enum { MAX_IFACES = 256 };

/* 192.0.2.1 is for examples only (RFC 5737): no host has a route of its own to it, and nothing is sent. */
static const char somewhere[] = "192.0.2.1";

/* "max 100000" or "QUOTA PERIOD" in microseconds; 0: no limit. */
static int quota_cpus(const char *root, const char *group) {
    char path[PATH_MAX];
    long long quota, period;
    snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/cpu.max", root, group);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    int n = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    if (n != 2 || quota <= 0 || period <= 0)
        return 0;
    return quota < period ? 1 : quota / period > INT_MAX ? 0 : (int)(quota / period);
}

/* The process's own cgroup (v2) and all above it; in a container the outermost is the container's. */
static int least_quota(const char *root) {
    char path[PATH_MAX], line[PATH_MAX] = "", *group = line;
    int least = quota_cpus(root, "");
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return least;
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "0::/", 4) == 0)
            break;
    fclose(file);
    if (strncmp(line, "0::/", 4) != 0)
        return least;
    line[strcspn(line, "\n")] = '\0';
    for (group = line + 3; strlen(group) > 1; *strrchr(group, '/') = '\0') {
        int n = quota_cpus(root, group);
        if (n > 0 && (least == 0 || n < least))
            least = n;
    }
    return least;
}

int node_facts_cpus(const char *root) {
    int n = host_cpus(), quota = least_quota(root);
    return quota > 0 && quota < n ? quota : n;
}

static int compare_ints(const void *a, const void *b) { return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b); }

/* /dev/davinci0, /dev/davinci1, …; /dev/davinci_manager is none. */
int node_facts_npus(const char *root, int ret[NODE_MAX_NPUS]) {
    static const char prefix[] = "davinci";
    char path[PATH_MAX];
    int n = 0;
    snprintf(path, sizeof path, "%s/dev", root);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    for (const struct dirent *entry; n < NODE_MAX_NPUS && (entry = readdir(dir)) != NULL;) {
        char *end;
        const char *digits = entry->d_name + sizeof prefix - 1;
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) != 0 || *digits < '0' || *digits > '9')
            continue;
        long number = strtol(digits, &end, 10);
        if (*end == '\0' && number <= 9999)
            ret[n++] = (int)number;
    }
    closedir(dir);
    qsort(ret, (size_t)n, sizeof ret[0], compare_ints);
    return n;
}

static int choose_for_head(struct net_iface *ret, struct err *err) {
    struct net_iface list[MAX_IFACES];
    const struct net_iface *found = NULL;
    char names[ERR_MSG_BYTES / 2] = "";
    size_t used = 0;
    bool is_only = true;
    int n = net_iface_list(list, MAX_IFACES, err);
    for (int i = 0; i < n; i++) {
        if (!list[i].is_up || list[i].is_loopback || strchr(list[i].host, '%') != NULL) /* a link-local address names its interface */
            continue;
        if (found == NULL)
            found = &list[i];
        is_only &= strcmp(found->name, list[i].name) == 0;
        if (used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s (%s)", used > 0 ? ", " : "", list[i].name, list[i].host);
    }
    if (n < 0)
        return -1;
    if (found == NULL)
        return err_set(err, ERR_NOT_FOUND,
                       "no network interface but loopback is up; '--interface lo' makes a cluster of this machine alone");
    if (!is_only)
        return err_set(err, ERR_NOT_FOUND, "several network interfaces and no default route: --interface says which reaches the other nodes: %s",
                       names);
    *ret = *found;
    return 0;
}

int node_facts_read(const char *root, const char *interface, const char *head_host, struct node_facts *ret, struct err *err) {
    struct node_facts facts = {0};
    uint64_t total;
    if (net_iface_choose(interface, head_host != NULL ? head_host : somewhere, &facts.iface, err) != 0)
        return -1;
    bool was_asked = interface != NULL && interface[0] != '\0';
    if (!was_asked && head_host == NULL && facts.iface.is_loopback && choose_for_head(&facts.iface, err) != 0)
        return -1;
    if (!facts.iface.is_up)
        return err_set(err, ERR_INVALID, "the network interface %s (%s) is down", facts.iface.name, facts.iface.host);
    host_memory(&total, &facts.memory_bytes);
    facts.n_cpus = node_facts_cpus(root);
    facts.n_npus = node_facts_npus(root, facts.npus);
    *ret = facts;
    return 0;
}
