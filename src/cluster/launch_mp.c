/* Backend `mp`: one worker process on this host runs all ranks; everything stays on loopback. See backend.h. */
#include <stdio.h>
#include <string.h>

#include "cluster/backend.h"
#include "cluster/spawn.h"

static int mp_place(struct cluster *cluster, struct err *err) {
    if (net_iface_choose("127.0.0.1", NULL, &cluster->iface, err) != 0)
        return -1;
    snprintf(cluster->iface_why, sizeof cluster->iface_why, "this host alone");
    cluster->n_nodes = 1;
    cluster->nodes[0].n_ranks = cluster->opts.tp_size * cluster->opts.pp_size;
    snprintf(cluster->nodes[0].host, sizeof cluster->nodes[0].host, "%s", cluster->iface.host);
    return 0;
}

static int mp_start(struct cluster *cluster, struct err *err) {
    struct cluster_spawn *spawn;
    if (cluster_spawn_start(cluster, 0, cluster->iface.host, &spawn, err) != 0)
        return -1;
    cluster->backend = spawn;
    return 0;
}

static int mp_poll(struct cluster *cluster, struct err *err) {
    struct err why;
    if (cluster_spawn_poll(cluster->backend, &why) == 0)
        return 0;
    err_wrap(&why, "node 0 (%s)", cluster->nodes[0].host);
    if (!cluster->opts.is_survey)
        return err_copy(err, &why);
    launch_node_miss(cluster, 0, why.msg);
    return 0;
}

static void mp_describe(const struct cluster *cluster, int node, int waited_s, char *ret_text, size_t size_bytes) {
    (void)node;
    snprintf(ret_text, size_bytes, "worker process %lld runs, but has not connected to 127.0.0.1:%u after %d s",
             (long long)cluster_spawn_pid(cluster->backend), cluster->bound.port, waited_s);
}

static void mp_stop(struct cluster *cluster, int grace_ms) { cluster_spawn_stop(cluster->backend, grace_ms); }

const struct launch_ops launch_mp_ops = {.place = mp_place, .start = mp_start, .poll = mp_poll, .describe = mp_describe, .stop = mp_stop};
