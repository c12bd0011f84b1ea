/* One HTTP call to the dashboard, for the files of the Ray client and for `node`, which asks more than a launch does. */
#ifndef CLUSTER_RAY_CALL_H
#define CLUSTER_RAY_CALL_H

#include "base/buf.h"
#include "cluster/ray_client.h"
#include "http/client.h"

enum { RAY_ANSWER_LIMIT_BYTES = 32 << 20 };

struct cluster_ray_request {
    const char *method, *path;
    const char *content_type; /* header line, or NULL */
    const void *body;
    size_t body_bytes;
    int timeout_ms; /* 0: the client's own */
};

/*
 * 0 for a status of 2xx, the body then being in *ret_body (finished first; may be NULL). Else -1: 404 is ERR_NOT_FOUND, 401 and 403 are
 * ERR_AUTH, any other status is ERR_PEER with Ray's reason.
 */
int cluster_ray_call(const struct cluster_ray *ray, const struct cluster_ray_request *request, struct buf *ret_body, struct err *err);

#endif
