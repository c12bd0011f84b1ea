/*
 * Ray's public REST interface, as far as shoal uses it: nodes, their free CPUs, jobs and packages, over the dashboard's
 * port. Blocking calls; one thread at a time for each client. Knows nothing of ranks or workers.
 */
#ifndef CLUSTER_RAY_CLIENT_H
#define CLUSTER_RAY_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "cluster/tail.h"
#include "cluster/topology.h"

enum { RAY_URL_BYTES = 512, RAY_TOKEN_BYTES = 4096, RAY_ID_BYTES = 128 };

struct cluster_ray {
    char url[RAY_URL_BYTES];                  /* "http://10.0.0.1:8265", without a slash at the end */
    char authorization[RAY_TOKEN_BYTES + 32]; /* header line, or "" without a token */
};

/*
 * The dashboard's address from what users write: NULL (RAY_ADDRESS, else this host's), "auto", URL, HOST:PORT; 6379 is taken for
 * Ray's own port, beside which the dashboard has 8265. ray:// is ERR_INVALID with what to write instead.
 */
int cluster_ray_address(const char *given, char ret_url[RAY_URL_BYTES], struct err *err);
/* Address and token alone, for a dashboard that may not be there yet. */
int cluster_ray_name(const char *address, struct cluster_ray *ret, struct err *err);
/* Finds address and token (RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token), and asks for Ray's version. Warns of a
 * dashboard that is open to others. */
int cluster_ray_open(const char *address, struct cluster_ray *ret, struct err *err);

/* Nodes that are alive, with their CPUs in all and in use; is_own is left false. ret: room for CLUSTER_MAX_OFFERS. */
int cluster_ray_nodes(const struct cluster_ray *ray, struct cluster_offer *ret, int *ret_n, struct err *err);

struct cluster_ray_job {
    const char *id;          /* submission id; each can be used once */
    const char *entrypoint;  /* for /bin/sh -c */
    const char *node_id;     /* where it must run */
    int n_cpus;              /* reserved there */
    const char *working_dir; /* URI of a package, or NULL */
    const char *ranks;       /* "0-7": kept as the job's metadata, for people */
    const char *const *env;  /* name, value, name, value, …, NULL */
};

enum cluster_ray_state { RAY_PENDING, RAY_RUNNING, RAY_SUCCEEDED, RAY_FAILED, RAY_STOPPED };

struct cluster_ray_status {
    enum cluster_ray_state state;
    int exit_code;              /* -1: none */
    char node_id[RAY_ID_BYTES]; /* where it ran, or "" */
    char message[256];          /* Ray's own words, first line */
    struct cluster_tail tail;   /* of its log, as far as the message has it */
};

int cluster_ray_submit(const struct cluster_ray *ray, const struct cluster_ray_job *job, struct err *err);
/* A job that Ray does not know is ERR_NOT_FOUND. */
int cluster_ray_status(const struct cluster_ray *ray, const char *id, int timeout_ms, struct cluster_ray_status *ret, struct err *err);
/* The last lines of its log, read from the node. */
int cluster_ray_log(const struct cluster_ray *ray, const char *id, const char *node_id, struct cluster_tail *ret, struct err *err);
/* SIGTERM to the job's processes, SIGKILL after 3 s. Returns at once. */
int cluster_ray_stop(const struct cluster_ray *ray, const char *id, struct err *err);
/* Of a job that has ended. */
int cluster_ray_delete(const struct cluster_ray *ray, const char *id, struct err *err);

/* Uploads a program as a package that holds it as "shoal", unless it is there already; its URI into ret_uri. */
int cluster_ray_ship(const struct cluster_ray *ray, const char *program_path, char *ret_uri, size_t size_bytes, struct err *err);
bool cluster_ray_state_is_end(enum cluster_ray_state state);
const char *cluster_ray_state_name(enum cluster_ray_state state); /* "PENDING", … */

#endif
