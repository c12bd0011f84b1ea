/*
 * Ray's processes on this node, found in /proc, and their end. A node is a network namespace here: of several hosts that share a
 * machine (and its processes), only the own one's Ray is seen. Main thread.
 */
#ifndef NODE_SCAN_H
#define NODE_SCAN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "net/sock.h"

enum { NODE_MAX_RAYLETS = 16 };

struct node_raylet {
    pid_t pid;
    char host[NET_ADDR_BYTES]; /* the address under which Ray knows this node */
};

/* The raylets of this node: one for each Ray that runs on it. */
int node_scan_raylets(struct node_raylet *ret, int max, int *ret_n, struct err *err);
/*
 * Ends Ray on this node with all that it started: SIGTERM to the raylets, which take leave of the cluster, and to what they run; SIGKILL
 * to all else once these have gone, at the latest at half of timeout_ms. host: only the Ray of that address, or NULL. *ret_n: how many processes there were (0: no Ray runs
 * here). ERR_TIMEOUT when some will not end, ERR_IO when they are another user's.
 */
int node_scan_stop(const char *host, int timeout_ms, int *ret_n, struct err *err);

#endif
