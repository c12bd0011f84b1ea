/* Memory, CPUs and limits of this node; see checks.h. */
#include <hwloc.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/host.h"
#include "base/progress.h"
#include "net/iface.h"
#include "verify/checks.h"
#include "verify/tool.h"

enum { MEMORY_LEAST_MIB = 512, FILES_LEAST = 256, FILES_WANTED = 4096, MAX_IFACES = 64, NAME_BYTES = 256, NAME_TIMEOUT_MS = 2000 };

static void check_memory(struct verify_findings *findings, json_t *facts) {
    uint64_t total, available;
    char total_text[16], available_text[16];
    host_memory(&total, &available);
    progress_bytes_text(total, total_text);
    progress_bytes_text(available, available_text);
    json_object_set_new(facts, "memory_available", json_integer((json_int_t)available));
    bool is_short = available < (uint64_t)MEMORY_LEAST_MIB << 20 || available < total / 20;
    verify_findings_add(findings, 0, is_short ? VERIFY_WARN : VERIFY_OK, "memory",
                        is_short ? "See what uses it (top), or choose another node" : NULL, "%s of %s free%s", available_text, total_text,
                        is_short ? ": little for weights and KV cache" : "");
}

/* The number behind "Name:" in /proc/meminfo; 0 when it is not there. */
static uint64_t meminfo(const char *text, const char *name) {
    const char *at = strstr(text, name);
    return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 10);
}

static void check_huge_pages(struct verify_findings *findings) {
    struct buf info, thp;
    buf_init(&info, 1 << 16);
    buf_init(&thp, 4096);
    uint64_t total = 0, free_pages = 0, kib = 0;
    char mode[32] = "unknown";
    if (file_read("/proc/meminfo", &info, NULL) == 0) {
        total = meminfo(info.data, "HugePages_Total:");
        free_pages = meminfo(info.data, "HugePages_Free:");
        kib = meminfo(info.data, "Hugepagesize:");
    }
    if (file_read("/sys/kernel/mm/transparent_hugepage/enabled", &thp, NULL) == 0) {
        const char *open = strchr(buf_str(&thp), '['), *end = open == NULL ? NULL : strchr(open, ']');
        if (end != NULL)
            snprintf(mode, sizeof mode, "%.*s", (int)(end - open - 1), open + 1);
    }
    bool is_off = strcmp(mode, "never") == 0;
    verify_findings_add(findings, 0, is_off ? VERIFY_WARN : VERIFY_OK, "huge pages",
                        is_off ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled makes large models faster" : NULL,
                        "transparent: %s; reserved: %" PRIu64 " of %" PRIu64 " free, %" PRIu64 " KiB each", mode, free_pages, total, kib);
    buf_finish(&info);
    buf_finish(&thp);
}

static void check_numa(struct verify_findings *findings) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return;
    if (hwloc_topology_load(topology) != 0) {
        verify_findings_add(findings, 0, VERIFY_NOTE, "numa", NULL, "hwloc cannot tell the layout");
    } else {
        int n_nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE),
            n_packages = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE);
        int n_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE), n_empty = 0;
        for (int i = 0; i < n_nodes; i++) {
            hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
            n_empty += node != NULL && node->attr->numanode.local_memory == 0;
        }
        bool is_odd = n_empty > 0 && n_nodes > 1;
        verify_findings_add(findings, 0, is_odd ? VERIFY_WARN : VERIFY_OK, "numa",
                            is_odd ? "Memory sticks may be missing or in the wrong slots: CPUs there read everything from afar" : NULL,
                            "%d package(s), %d NUMA node(s), %d core(s), %d CPU(s) for this process%s", n_packages, n_nodes, n_cores,
                            host_cpus(), is_odd ? "; a NUMA node has no memory" : "");
    }
    hwloc_topology_destroy(topology);
}

static void check_cpu(const char *level, struct verify_findings *findings, json_t *facts) {
    bool is_slow = strcmp(level, "c") == 0;
    json_object_set_new(facts, "cpu", json_string(level));
    json_object_set_new(facts, "n_cpus", json_integer(host_cpus()));
    verify_findings_add(findings, 0, is_slow ? VERIFY_WARN : VERIFY_OK, "cpu",
                        is_slow ? "A virtual machine may hide them: set its CPU model to 'host'" : NULL, "%d CPU(s), kernels for %s%s",
                        host_cpus(), level, is_slow ? ": no AVX2, which is many times slower" : "");
}

static void limit_text(rlim_t limit, char ret_text[32]) {
    if (limit == RLIM_INFINITY)
        snprintf(ret_text, 32, "unlimited");
    else
        snprintf(ret_text, 32, "%llu", (unsigned long long)limit);
}

static void check_limits(struct verify_findings *findings) {
    struct rlimit files, locked;
    char soft[32], hard[32], locked_text[32];
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
        return;
    limit_text(files.rlim_cur, soft);
    limit_text(files.rlim_max, hard);
    enum verify_status status = files.rlim_max < FILES_LEAST ? VERIFY_FAIL : files.rlim_max < FILES_WANTED ? VERIFY_WARN : VERIFY_OK;
    verify_findings_add(findings, 0, status, "open files",
                        status == VERIFY_OK ? NULL : "Raise the hard limit: ulimit -Hn, or LimitNOFILE= of the service",
                        "%s, may be raised to %s", soft, hard);
    limit_text(locked.rlim_cur == RLIM_INFINITY ? RLIM_INFINITY : locked.rlim_cur / 1024, locked_text);
    verify_findings_add(findings, 0, VERIFY_OK, "memlock", NULL, "%s%s (shoal needs none on CPUs)", locked_text,
                        locked.rlim_cur == RLIM_INFINITY ? "" : " KiB");
}

/* What the node's own name means on the node itself. In a process of its own, because a name server may keep it waiting. */
static void check_name(const char *address, struct verify_findings *findings) {
    char name[NAME_BYTES], host[NET_ADDR_BYTES] = "";
    struct net_iface list[MAX_IFACES];
    if (gethostname(name, sizeof name) != 0)
        return;
    name[sizeof name - 1] = '\0';
    struct tool_run run = {.args = {"getent", "ahosts", name}, .timeout_ms = NAME_TIMEOUT_MS};
    tool_run_all(&run, 1);
    if (run.end != TOOL_EXITED || run.code != 0 || run.output[0] == '\0') {
        verify_findings_add(findings, 0, VERIFY_NOTE, "name", NULL, "%s has no address here; shoal and Ray go by addresses (%s)", name,
                            address);
        return;
    }
    int n = net_iface_list(list, MAX_IFACES, NULL);
    bool is_own = false;
    char *rest = NULL;
    for (char *line = strtok_r(run.output, "\n", &rest); line != NULL && !is_own; line = strtok_r(NULL, "\n", &rest)) {
        snprintf(host, sizeof host, "%.*s", (int)strcspn(line, " \t"), line);
        is_own = strncmp(host, "127.", 4) == 0; /* 127.0.1.1 is Debian's way */
        for (int i = 0; i < n; i++)
            is_own |= strcmp(host, list[i].host) == 0;
    }
    verify_findings_add(findings, 0, is_own ? VERIFY_OK : VERIFY_WARN, "name",
                        is_own ? NULL : "Correct /etc/hosts or the name server: programs that go by names will reach another machine",
                        "%s is %s%s", name, host, is_own ? "" : ", which is no address of this node");
}

void check_host(const char *cpu_level, const char *address, bool is_quick, struct verify_findings *findings, json_t *facts) {
    check_memory(findings, facts);
    check_cpu(cpu_level, findings, facts);
    check_limits(findings);
    if (is_quick)
        return;
    check_huge_pages(findings);
    check_numa(findings);
    check_name(address, findings);
}
