/*
 * What this machine brings into a Ray cluster: the interface that carries the traffic, CPUs, memory, NPUs.
 * Any thread, no shared state; asks the kernel each time.
 */
#ifndef NODE_FACTS_H
#define NODE_FACTS_H

#include <stdint.h>

#include "base/err.h"
#include "net/iface.h"

enum { NODE_MAX_NPUS = 64 };

struct node_facts {
    struct net_iface iface;
    int n_cpus;            /* that this process may use: affinity, cut to the cgroup's quota */
    uint64_t memory_bytes; /* that can still be had */
    int npus[NODE_MAX_NPUS], n_npus; /* numbers of the Ascend devices, ascending */
};

/*
 * root: "" or a folder that stands in for / (/dev, /proc and /sys below it), for tests. interface: a name or an address, or NULL. head_host:
 * whom this node joins, or NULL for a head itself. The interface is `interface`, else as net_iface_choose has it towards the head; a head takes the
 * one of its default route, else its only one. ERR_NOT_FOUND lists what there is.
 */
int node_facts_read(const char *root, const char *interface, const char *head_host, struct node_facts *ret, struct err *err);

/* Parts of it, each below root. */
int node_facts_cpus(const char *root);
int node_facts_npus(const char *root, int ret[NODE_MAX_NPUS]);

#endif
