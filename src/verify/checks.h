/*
 * The checks that one node makes of itself. Each adds lines to `findings` (node 0: the agent's own) and facts that the driver
 * compares over nodes to `facts`, an object. They change nothing on the node. Main thread of the agent; each says what bounds
 * its time. Known by them: this host. Not known: other nodes, but for the address of one.
 */
#ifndef VERIFY_CHECKS_H
#define VERIFY_CHECKS_H

#include <jansson.h>
#include <stdint.h>

#include "verify/findings.h"

struct check_iface_opts {
    const char *address; /* that this process listens on */
    const char *toward;  /* another node's address; "": this node is alone */
    bool is_quick;
};

/* The interface of the traffic: up, speed, MTU, route, counters, LLDP neighbour. At most 2 s, for lldpcli. */
void check_iface(const struct check_iface_opts *opts, struct verify_findings *findings, json_t *facts);

/* The least that measuring needs: name and MTU, speed in Mb/s (-1: unknown), errors and drops up to now. */
struct check_iface_state {
    char name[64];
    int mtu, speed;
    uint64_t errors, drops;
};
int check_iface_read(const char *address, struct check_iface_state *ret, struct err *err);

/* Memory, huge pages, NUMA, CPU features, limits, name. Reads /proc and asks hwloc: some ms. */
void check_host(const char *cpu_level, const char *address, bool is_quick, struct verify_findings *findings, json_t *facts);

/* The model's folder: its fingerprint, and the kind of file system that it is on. Unbounded: a dead NFS server can hang it. */
void check_model(const char *model, const char *revision, const char *download_dir, struct verify_findings *findings, json_t *facts);

struct check_npu_opts {
    const char *hccn_tool, *npu_smi, *hccn_conf; /* programs and file; "": the usual ones */
    int n_npus;                                  /* 0: as many as npu-smi, /dev or the file show */
};

/* NPUs: nothing but a note where there are none. Each call of a tool has 2 s, the NPUs' calls run side by side: at most 20 s. */
void check_npu(const struct check_npu_opts *opts, struct verify_findings *findings, json_t *facts);
/* One ping for each {npu, address}: [{"npu": 0, "address": "…", "loss": percent or -1, "text": …}, …]. At most 6 s for every 16. */
json_t *check_npu_pings(const struct check_npu_opts *opts, const json_t *pings);

#endif
