/* NPUs over all nodes: each node's own checks, TLS switches that must agree, pings from device to device. Main thread of the driver. */
#ifndef VERIFY_NPU_COMPARE_H
#define VERIFY_NPU_COMPARE_H

#include <jansson.h>

#include "verify/ask.h"
#include "verify/verify.h"

/* facts: [n_nodes] objects or NULL; "npus" is added to them. */
void verify_npus(struct verify_asker *asker, const struct verify_opts *opts, json_t **facts);

#endif
