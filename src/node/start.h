/*
 * Brings Ray up on this node and waits until the cluster really has it. Main thread. Blocks, with deadlines.
 */
#ifndef NODE_START_H
#define NODE_START_H

#include <stdbool.h>

#include "base/err.h"
#include "cluster/ray_client.h"
#include "node/plan.h"

/*
 * ERR_INVALID when a Ray runs on this node already (its process is named), ERR_PEER or ERR_TIMEOUT when the head cannot be reached or Ray
 * does not come up: then what was begun is ended again, and err has Ray's own last lines. *ret_ray: the head's dashboard, for further questions;
 * *ret_listed is false where it does not answer (another may have started the head without one): then Ray's own word is all there is.
 */
int node_start(const struct node_plan *plan, const struct node_wish *wish, const struct node_facts *facts, int timeout_ms,
               bool (*is_cancelled)(void), struct cluster_ray *ret_ray, bool *ret_listed, struct err *err);

#endif
