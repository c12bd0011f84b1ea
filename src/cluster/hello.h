/*
 * The first frame each way between a worker and its driver: who is speaking, of which build. A worker's HELLO asks to
 * join; the driver's HELLO, sent when all nodes are there, lets it in. docs/wire.md has the fields.
 */
#ifndef CLUSTER_HELLO_H
#define CLUSTER_HELLO_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cluster/cluster.h"

struct cluster_hello {
    int64_t protocol;
    char build[CLUSTER_BUILD_BYTES];
    int64_t slot;
    char host_name[CLUSTER_NAME_BYTES];
    char address[NET_ADDR_BYTES]; /* that this process binds its listener to */
    int64_t pid, n_cpus, mem_total_bytes, mem_available_bytes;
};

/* What this process says of itself. slot: -1 for the driver. */
void cluster_hello_fill(struct cluster_hello *ret, const char *build, int slot, const char *address);
/* JSON text of the frame's body; free() it. NULL when memory is out. */
char *cluster_hello_encode(const struct cluster_hello *hello);
/*
 * Of another protocol only protocol and build are read, so that it can be refused by name. A field that is missing,
 * of the wrong type or out of range is ERR_PEER.
 */
int cluster_hello_decode(const char *text, size_t len_bytes, struct cluster_hello *ret, struct err *err);

#endif
