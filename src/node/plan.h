/*
 * The command line and environment of `ray start` on this node. Pure; any thread. Knows nothing of processes.
 */
#ifndef NODE_PLAN_H
#define NODE_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "node/facts.h"

enum { NODE_MAX_WORDS = 96, NODE_GCS_PORT = 6379, NODE_DASHBOARD_PORT = 8265 };

/* What the user asks for. Strings are borrowed. */
struct node_wish {
    bool is_head;
    char head_host[NET_ADDR_BYTES]; /* whom to join, for other nodes */
    int head_port;                  /* Ray's own port, there or here */
    const char *dashboard_host;     /* where the head's dashboard listens */
    int dashboard_port;
    int n_cpus;             /* 0: as the machine has */
    int n_npus;             /* -1: as the machine has */
    uint64_t memory_bytes;  /* 0: as the machine has */
    uint64_t object_store_bytes;
    const char *temp_dir;   /* or NULL */
    const char *visible_npus; /* $ASCEND_RT_VISIBLE_DEVICES as it is, or NULL */
    char *const *extra;     /* further arguments of ray start */
    int n_extra;
};

struct node_words {
    int n;
    char *items[NODE_MAX_WORDS + 1]; /* owned; NULL-terminated */
};

struct node_plan {
    struct node_words argv, env; /* env: "NAME=value" */
};

/* ray: the program. ERR_LIMIT for too many words, ERR_INVALID for NPUs that are not there. */
int node_plan_make(const char *ray, const struct node_wish *wish, const struct node_facts *facts, struct node_plan *ret, struct err *err);
void node_plan_finish(struct node_plan *plan); /* accepts a zeroed struct */
/* As lines for a shell: export NAME=value …, and the command. */
void node_plan_print(const struct node_plan *plan, FILE *out);

/* "HOST:PORT", "HOST" (port 6379), "[IPv6]:PORT" */
int node_plan_parse_head(const char *text, char ret_host[NET_ADDR_BYTES], int *ret_port, struct err *err);

#endif
