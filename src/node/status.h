/*
 * The state of the cluster over Ray's REST interface: nodes, their devices, and what shoal's jobs hold of them. Main thread. Blocks.
 * The report is one JSON object, for programs as it is and as a table for people:
 *   {"dashboard": URL, "ray_version": "2.60.0", "nodes": [{"address", "node_id", "is_head", "state", "reason", "devices", "jobs"}, …]}
 *   state: "alive"; "stopped" (took leave); "lost" (did not). A node that came back is listed once.
 *   devices: {"CPU": {"total", "used", "shoal"}, …} of CPU, NPU, GPU and memory (bytes), those with a total only. "used" is Ray's count and some
 *   seconds old; "shoal" is what shoal's running jobs reserve.
 *   jobs: shoal's on that node, [{"id", "ranks", "CPU", …}]
 */
#ifndef NODE_STATUS_H
#define NODE_STATUS_H

#include <jansson.h>
#include <stdio.h>

#include "cluster/ray_client.h"

/* New reference in *ret. */
int node_status_ask(const struct cluster_ray *ray, json_t **ret, struct err *err);

/* Ray's answers, as text: GET /api/v0/nodes?detail=True, /api/cluster_status, /api/v0/actors?detail=True, /api/jobs/. Pure. */
struct node_answers {
    const char *nodes, *usage, *actors, *jobs;
};
/* The list "nodes" of the report. New reference in *ret; ERR_PEER or ERR_INVALID for what is no such answer. */
int node_status_parse(const struct node_answers *answers, json_t **ret, struct err *err);

/* The node with that address in a report: borrowed, or NULL. */
json_t *node_status_find(const json_t *report, const char *address);
/* How many nodes are in that state. */
int node_status_count(const json_t *report, const char *state);
void node_status_print(const json_t *report, FILE *out);

#endif
