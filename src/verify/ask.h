/*
 * The driver's side of questions to agents (agent.h): sends them, waits for the answers of all with a deadline for each, and keeps
 * the others awake meanwhile. Whoever does not answer in time, or breaks off, is lost: it gets one line of its own and no further
 * questions, so that no node holds up the rest. Main thread.
 */
#ifndef VERIFY_ASK_H
#define VERIFY_ASK_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buf.h"
#include "cluster/cluster.h"
#include "verify/findings.h"
#include "verify/verify.h"

struct verify_asker {
    const struct cluster_node *nodes; /* borrowed */
    int n_nodes;
    bool (*is_cancelled)(void *ctx);  /* or NULL */
    bool is_stopped;                  /* it has said so: no question is sent or waited for any more */
    struct verify_findings *findings; /* borrowed: where lines about lost nodes go */
    bool is_lost[CLUSTER_MAX_NODES];  /* at the start: whoever has no connection */
    int64_t last_id, pinged_ms;
    struct buf body;
};

void verify_asker_init(struct verify_asker *asker, const struct verify_opts *opts, struct verify_findings *findings);
void verify_asker_finish(struct verify_asker *asker);

/* One question to one node. answer: new reference, set by verify_ask_all; NULL when the node is lost or refused (trouble says why). */
struct verify_ask {
    int node;
    json_t *ask;      /* given away to verify_ask_all */
    const char *what; /* for lines: "its interface and memory" */
    int timeout_ms;
    json_t *answer;
    char trouble[256];
    int64_t sent_ns, answered_ns; /* wall clock */
    int64_t id, deadline_ms;      /* verify_ask_all's own */
};

/* At most one question for each node. Nodes that are lost are left out. */
void verify_ask_all(struct verify_asker *asker, struct verify_ask *asks, int n);

#endif
