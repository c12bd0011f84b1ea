/* Facts about this machine from /proc and the cgroup; see host.h. */
#include "base/host.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

/* A number from a one-number file, or `fallback` ("max" and absent files too). */
static uint64_t read_number(const char *path, uint64_t fallback) {
    FILE *file = fopen(path, "re");
    unsigned long long value;
    if (file == NULL)
        return fallback;
    int n = fscanf(file, "%llu", &value);
    fclose(file);
    return n == 1 ? value : fallback;
}

/* Page cache that the cgroup counts as used, but gives up where memory is wanted. */
static uint64_t read_cgroup_cache(void) {
    FILE *file = fopen("/sys/fs/cgroup/memory.stat", "re");
    unsigned long long active = 0, inactive = 0;
    char line[256];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "active_file %llu", &active);
        sscanf(line, "inactive_file %llu", &inactive);
    }
    if (file != NULL)
        fclose(file);
    return active + inactive;
}

void host_memory(uint64_t *ret_total, uint64_t *ret_available) {
    unsigned long long total_kb = 0, available_kb = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "MemTotal: %llu", &total_kb);
        sscanf(line, "MemAvailable: %llu", &available_kb);
    }
    if (file != NULL)
        fclose(file);
    *ret_total = total_kb * 1024;
    *ret_available = available_kb * 1024;
    /* cgroup v2, as a container sees its own limit. */
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", UINT64_MAX);
    if (limit < *ret_total) {
        uint64_t used = read_number("/sys/fs/cgroup/memory.current", 0), cache = read_cgroup_cache();
        used -= cache < used ? cache : used;
        *ret_total = limit;
        uint64_t left = used < limit ? limit - used : 0;
        if (left < *ret_available)
            *ret_available = left;
    }
}

int host_cpus(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}
