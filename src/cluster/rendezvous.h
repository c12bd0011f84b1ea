/*
 * Driver side of joining: takes the proven callers from the door, checks their HELLO, and waits until every node of the
 * launch is there. Main thread. Knows nothing of how the workers were started but what launch_ops tell.
 */
#ifndef CLUSTER_RENDEZVOUS_H
#define CLUSTER_RENDEZVOUS_H

#include <stdint.h>

#include "base/err.h"
#include "cluster/backend.h"

/* Opens the door at cluster->iface and cluster->bound.port; bound becomes the true address. */
int cluster_rendezvous_open(struct cluster *cluster, struct err *err);
/*
 * Until all nodes have joined (their fd, host, pid, CPUs and memory are then filled in), the deadline passes, a worker ends, or
 * the launch is cancelled. On failure whoever had joined is told why.
 * Either way nobody can join any more.
 */
int cluster_rendezvous_wait(struct cluster *cluster, int64_t start_ms, int64_t deadline_ms, struct err *err);

#endif
