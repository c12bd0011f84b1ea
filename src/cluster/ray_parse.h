/* Ray's answers, as text, into what shoal wants of them. Pure; any thread. Every number and name is checked. */
#ifndef CLUSTER_RAY_PARSE_H
#define CLUSTER_RAY_PARSE_H

#include "cluster/ray_client.h"

/* GET /api/v0/nodes. Nodes that are not alive or have no address are left out; cpus_used is 0. */
int cluster_ray_parse_nodes(const char *text, size_t len_bytes, struct cluster_offer *ret, int *ret_n, struct err *err);
/* GET /api/cluster_status: fills cpus_used. A node that it does not mention yet keeps 0. */
int cluster_ray_parse_usage(const char *text, size_t len_bytes, struct cluster_offer *offers, int n_offers, struct err *err);
/* GET /api/jobs/ID */
int cluster_ray_parse_status(const char *text, size_t len_bytes, struct cluster_ray_status *ret, struct err *err);
/* What a failed call's body says, for people: the last line of a Python traceback that says something. */
void cluster_ray_parse_failure(const char *text, size_t len_bytes, char *ret_text, size_t size_bytes);
/* Lines of a job's log, without those that Ray itself puts among them. */
void cluster_ray_parse_log(const char *text, size_t len_bytes, struct cluster_tail *tail);
/* Whether a name from Ray can stand in a URL and in a shell as it is. */
bool cluster_ray_id_is_plain(const char *id);

#endif
