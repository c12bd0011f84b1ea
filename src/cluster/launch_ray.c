/*
 * Backend `ray`: one job on each chosen node of a Ray cluster, which reserves the CPUs, starts and stops the worker and
 * keeps its log. If one job fails, all are stopped. See backend.h; docs of the interface: ray_client.h.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "cluster/backend.h"
#include "cluster/ray_client.h"

enum {
    USAGE_LAG_MS = 8000,                    /* Ray's figures of CPUs in use are up to 5 s old: jobs that just ended still count */
    POLL_GAP_MS = LAUNCH_POLL_GAP_MS - 100, /* a little less than the callers' own, so that none of their calls comes too early */
    POLL_BUDGET_MS = 1500,                  /* of one cluster_poll, whatever the number of jobs */
    END_TIMEOUT_MS = 8000,                  /* Ray kills after 3 s; a node that is cut off may not answer at all */
    END_POLL_MS = 100,
    MONITOR_GAP_MS = 1200,
    MAX_IFACES = 256,
    MAX_ENV = 8,
    SHORT_ID_BYTES = 8,
    ENTRYPOINT_BYTES = PATH_MAX + LAUNCH_MAX_ARGS * (LAUNCH_ARG_BYTES + 4)
};

struct job {
    char id[RAY_ID_BYTES];
    char node_id[CLUSTER_NAME_BYTES];
    int n_cpus;
    bool is_submitted; /* or may be: the call was begun */
    enum cluster_ray_state state;
};

struct ray_launch {
    struct cluster_ray ray;
    struct job jobs[CLUSTER_MAX_NODES];
    int64_t polled_ms;
    int next;           /* job that the next poll begins with */
    bool is_deaf;       /* the dashboard did not answer last time */
    struct err failure; /* of the first job that ended */
};

static void mark_own(struct cluster_offer *offers, int n) {
    struct net_iface ifaces[MAX_IFACES];
    int n_ifaces = net_iface_list(ifaces, MAX_IFACES, NULL);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_ifaces; k++)
            offers[i].is_own |= strcmp(offers[i].host, ifaces[k].host) == 0;
}

static bool any_in_use(const struct cluster_offer *offers, int n) {
    for (int i = 0; i < n; i++)
        if (offers[i].cpus_used >= 1)
            return true;
    return false;
}

static void warn_of_sharing(const struct cluster_want *want, const struct cluster_share *shares, int n) {
    int n_cpus = 0, n_ranks = want->tp_size * want->pp_size;
    for (int i = 0; i < n; i++)
        n_cpus += shares[i].n_cpus;
    if (n_cpus < n_ranks)
        log_warning("The cluster has %d CPUs for %d ranks: ranks share CPUs and wait for each other, which is slow; fewer ranks would be faster",
                    n_cpus, n_ranks);
}

/*
 * Asks Ray and plans; again for a while when CPUs that are in use would do. Ranks share CPUs only in a cluster that never has one for
 * each, and then those in use are waited for too. offers: room for CLUSTER_MAX_OFFERS.
 */
static int find_room(struct cluster *cluster, struct cluster_offer *offers, int *ret_n_offers, struct cluster_share *shares, int *ret_n,
                     struct err *err) {
    struct ray_launch *launch = cluster->backend;
    const struct cluster_opts *opts = &cluster->opts;
    struct cluster_want want = {
        .tp_size = opts->tp_size, .pp_size = opts->pp_size, .n_nodes = opts->n_nodes, .threads_per_rank = opts->threads_per_rank};
    int64_t deadline_ms = clock_mono_ms() + (launch_timeout_ms(cluster) < USAGE_LAG_MS ? launch_timeout_ms(cluster) : USAGE_LAG_MS);
    for (bool said = false;; clock_nap_ms(LAUNCH_POLL_GAP_MS)) {
        if (launch_is_cancelled(cluster))
            return err_set(err, ERR_CANCELLED, "stopped while looking for room");
        if (cluster_ray_nodes(&launch->ray, offers, ret_n_offers, err) != 0)
            return -1;
        mark_own(offers, *ret_n_offers);
        want.may_share_cpus = false;
        want.may_share_cpus = !cluster_topology_fits_empty(&want, offers, *ret_n_offers);
        bool is_last = clock_left_ms(deadline_ms) == 0 || !cluster_topology_fits_empty(&want, offers, *ret_n_offers);
        if (is_last || !want.may_share_cpus || !any_in_use(offers, *ret_n_offers)) {
            if (cluster_topology_plan(&want, offers, *ret_n_offers, shares, ret_n, err) == 0) {
                warn_of_sharing(&want, shares, *ret_n);
                return 0;
            }
            if (is_last)
                return -1;
        }
        if (!said)
            log_info("Waiting up to %d s for CPUs that Ray counts as used", USAGE_LAG_MS / 1000);
        said = true;
    }
}

static void fill_node(struct cluster *cluster, int index, const struct cluster_offer *offer, const struct cluster_share *share) {
    struct ray_launch *launch = cluster->backend;
    struct cluster_node *node = &cluster->nodes[index];
    struct job *job = &launch->jobs[index];
    node->first_rank = share->first_rank;
    node->n_ranks = share->n_ranks;
    node->n_threads = share->n_threads;
    snprintf(node->host, sizeof node->host, "%s", offer->host);
    snprintf(node->placed_host, sizeof node->placed_host, "%s", offer->host);
    snprintf(node->name, sizeof node->name, "%.*s", SHORT_ID_BYTES, offer->id);
    snprintf(job->node_id, sizeof job->node_id, "%s", offer->id);
    snprintf(job->id, sizeof job->id, "shoal-%s-%d", cluster->id, index);
    job->n_cpus = share->n_cpus;
    log_info("Node %d: %s%s, ranks %d to %d, %d of %g CPUs (%g in use)", index, offer->host, offer->is_own ? " (this host)" : "",
             share->first_rank, share->first_rank + share->n_ranks - 1, job->n_cpus, offer->cpus_total, offer->cpus_used);
}

/* The rendezvous must be where all nodes reach it: on the way to the first one that is not this host. */
static int choose_iface(struct cluster *cluster, const struct cluster_offer *offers, int n_offers, const struct cluster_share *shares,
                        int n_shares, struct err *err) {
    const char *toward = offers[shares[0].offer].host;
    for (int i = 0; i < n_shares; i++) {
        if (!offers[shares[i].offer].is_own) {
            toward = offers[shares[i].offer].host;
            break;
        }
    }
    if (launch_iface_choose(cluster, toward, err) != 0)
        return -1;
    for (int i = 0; i < n_offers; i++)
        if (offers[i].is_own && strcmp(offers[i].host, cluster->iface.host) != 0)
            log_warning("Ray knows this host as %s, but the rendezvous is on %s (%s): set --interface if the nodes cannot reach it",
                        offers[i].host, cluster->iface.host, cluster->iface_why);
    return 0;
}

/* Every node that is alive, this host first, and a line for each that should be there and is not. No CPUs are reserved. */
static void share_survey(struct cluster *cluster, const struct cluster_offer *offers, int n_offers, struct cluster_share *ret, int *ret_n) {
    int n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n_offers && n < CLUSTER_MAX_NODES; i++)
            if (offers[i].is_own == (pass == 0)) {
                ret[n] = (struct cluster_share){.offer = i, .first_rank = n, .n_ranks = 1};
                n++;
            }
    *ret_n = n;
    char why[128];
    snprintf(why, sizeof why, "Ray has %d live node(s), but --nnodes says %d: start Ray on the missing ones", n_offers, cluster->opts.n_nodes);
    for (; n < cluster->opts.n_nodes; n++) {
        cluster->nodes[n].n_ranks = 1;
        launch_node_miss(cluster, n, why);
    }
    cluster->n_nodes = n;
}

static int survey_room(struct cluster *cluster, struct cluster_offer *offers, int *ret_n_offers, struct cluster_share *shares, int *ret_n,
                       struct err *err) {
    struct ray_launch *launch = cluster->backend;
    if (cluster_ray_nodes(&launch->ray, offers, ret_n_offers, err) != 0)
        return -1;
    if (*ret_n_offers == 0)
        return err_set(err, ERR_NOT_FOUND, "Ray has no live node");
    mark_own(offers, *ret_n_offers);
    share_survey(cluster, offers, *ret_n_offers, shares, ret_n);
    return 0;
}

static int ray_place(struct cluster *cluster, struct err *err) {
    struct ray_launch *launch = calloc(1, sizeof *launch);
    struct cluster_offer *offers = calloc(CLUSTER_MAX_OFFERS, sizeof *offers);
    struct cluster_share shares[CLUSTER_MAX_NODES];
    int n_offers, n_shares, result = -1;
    cluster->backend = launch;
    if (launch == NULL || offers == NULL)
        err_set(err, ERR_NOMEM, "no memory for a launch over Ray");
    else if (cluster_ray_open(cluster->opts.ray_address, &launch->ray, err) == 0 &&
             (cluster->opts.is_survey ? survey_room : find_room)(cluster, offers, &n_offers, shares, &n_shares, err) == 0 &&
             choose_iface(cluster, offers, n_offers, shares, n_shares, err) == 0) {
        for (int i = 0; i < n_shares; i++)
            fill_node(cluster, i, &offers[shares[i].offer], &shares[i]);
        if (!cluster->opts.is_survey)
            cluster->n_nodes = n_shares;
        result = 0;
    }
    free(offers);
    return result;
}

/* "exec 'PROGRAM' 'worker' …": exec, so that Ray's signals reach the worker itself. */
static int make_entrypoint(const struct cluster *cluster, int node, const char *program, struct buf *out, struct err *err) {
    struct launch_args args;
    if (launch_args_make(cluster, node, launch_iface_for_all(cluster->opts.interface), &args, err) != 0)
        return -1;
    buf_append_str(out, "exec ");
    launch_add_quoted(out, program);
    for (int i = 0; i < args.n; i++) {
        buf_append_char(out, ' ');
        launch_add_quoted(out, args.items[i]);
    }
    return out->failed ? err_set(err, ERR_LIMIT, "the worker's command line is longer than %zu bytes", out->limit_bytes) : 0;
}

static int submit(struct cluster *cluster, int index, const char *program, const char *working_dir, struct err *err) {
    struct ray_launch *launch = cluster->backend;
    struct job *job = &launch->jobs[index];
    const struct cluster_node *node = &cluster->nodes[index];
    char secret[2 * NET_SECRET_BYTES + 1], ranks[32];
    const char *env[2 * MAX_ENV + 1] = {"SHOAL_LAUNCH_SECRET", secret};
    static const char *const passed_on[] = {"SHOAL_IFNAME", "GLOO_SOCKET_IFNAME"};
    int n_env = 2;
    hash_hex(cluster->secret.bytes, NET_SECRET_BYTES, secret);
    snprintf(ranks, sizeof ranks, node->n_ranks > 1 ? "%d-%d" : "%d", node->first_rank, node->first_rank + node->n_ranks - 1);
    for (size_t i = 0; i < sizeof passed_on / sizeof passed_on[0]; i++) {
        const char *value = launch_iface_for_all(getenv(passed_on[i]));
        if (value != NULL) {
            env[n_env++] = passed_on[i];
            env[n_env++] = value;
        }
    }
    struct buf entrypoint;
    buf_init(&entrypoint, ENTRYPOINT_BYTES);
    int result = make_entrypoint(cluster, index, program, &entrypoint, err);
    if (result == 0) {
        struct cluster_ray_job order = {.id = job->id,
                                        .entrypoint = buf_str(&entrypoint),
                                        .node_id = job->node_id,
                                        .n_cpus = job->n_cpus,
                                        .working_dir = working_dir,
                                        .ranks = cluster->opts.is_survey ? NULL : ranks,
                                        .env = env};
        job->is_submitted = true;
        result = cluster_ray_submit(&launch->ray, &order, err);
    }
    buf_finish(&entrypoint);
    return result == 0 ? 0 : err_wrap(err, "node %d (%s)", index, cluster->nodes[index].host);
}

static int ray_start(struct cluster *cluster, struct err *err) {
    struct ray_launch *launch = cluster->backend;
    char own[PATH_MAX], package[128];
    const char *program = getenv("SHOAL_BINARY"), *working_dir = NULL;
    if (launch_own_program(own, sizeof own, err) != 0)
        return -1;
    if (cluster->opts.ray_ship_binary) {
        if (cluster_ray_ship(&launch->ray, own, package, sizeof package, err) != 0)
            return -1;
        program = "./shoal";
        working_dir = package;
    } else if (program == NULL || program[0] == '\0') {
        program = own;
    }
    for (int i = 0; i < cluster->n_nodes; i++) {
        struct err why;
        if (cluster->nodes[i].missing[0] != '\0')
            continue;
        if (launch_is_cancelled(cluster))
            return err_set(err, ERR_CANCELLED, "stopped while starting jobs");
        if (submit(cluster, i, program, working_dir, &why) == 0)
            continue;
        if (!cluster->opts.is_survey)
            return err_copy(err, &why);
        launch_node_miss(cluster, i, why.msg);
    }
    launch->polled_ms = clock_mono_ms();
    return 0;
}

/* A job that has ended: how, and the last lines of its log. */
static void note_failure(struct cluster *cluster, int index, const struct cluster_ray_status *status) {
    struct ray_launch *launch = cluster->backend;
    const struct job *job = &launch->jobs[index];
    struct cluster_tail tail = status->tail;
    char text[CLUSTER_TAIL_TEXT_BYTES - sizeof status->message + 64], whole[CLUSTER_TAIL_LINES * (CLUSTER_TAIL_LINE_BYTES + 8)],
        exit_code[32] = "";
    struct err ignored;
    if (tail.n == 0 && status->node_id[0] != '\0')
        cluster_ray_log(&launch->ray, job->id, status->node_id, &tail, &ignored);
    cluster_tail_text(&tail, text, sizeof text);
    cluster_tail_text(&tail, whole, sizeof whole);
    if (strlen(whole) > strlen(text))
        log_warning("The last lines of job %s:%s", job->id, whole);
    if (status->exit_code >= 0)
        snprintf(exit_code, sizeof exit_code, ", exit status %d", status->exit_code);
    bool is_plain = status->exit_code >= 0 && status->tail.n > 0; /* then Ray's message says nothing that is not said already */
    err_set(&launch->failure, ERR_PEER, "node %d (%s): its job %s on Ray has ended (%s%s)%s%s%s%s", index, cluster->nodes[index].host,
            job->id, cluster_ray_state_name(status->state), exit_code, is_plain ? "" : ": ", is_plain ? "" : status->message,
            text[0] ? "; its last lines:" : "", text);
}

static int poll_job(struct cluster *cluster, int index, int timeout_ms) {
    struct ray_launch *launch = cluster->backend;
    struct job *job = &launch->jobs[index];
    struct cluster_ray_status status;
    struct err err;
    if (cluster_ray_status(&launch->ray, job->id, timeout_ms, &status, &err) != 0) {
        if (err.code == ERR_NOT_FOUND)
            return err_set(&launch->failure, ERR_PEER, "node %d (%s): Ray no longer knows its job %s", index, cluster->nodes[index].host,
                           job->id);
        /* The workers' own connections decide: a dashboard may be started anew while all goes on. */
        if (!launch->is_deaf)
            log_warning("Cannot ask how job %s is doing: %s", job->id, err.msg);
        launch->is_deaf = true;
        return 0;
    }
    launch->is_deaf = false;
    job->state = status.state;
    if (!cluster_ray_state_is_end(status.state))
        return 0;
    note_failure(cluster, index, &status);
    return -1;
}

static int ray_poll(struct cluster *cluster, struct err *err) {
    struct ray_launch *launch = cluster->backend;
    int64_t now_ms = clock_mono_ms(), deadline_ms = now_ms + POLL_BUDGET_MS;
    if (launch->failure.code == ERR_NONE && now_ms - launch->polled_ms >= POLL_GAP_MS) {
        launch->polled_ms = now_ms;
        for (int i = 0; i < cluster->n_nodes && launch->failure.code == ERR_NONE && clock_left_ms(deadline_ms) > 0; i++) {
            if (launch->jobs[launch->next].is_submitted && cluster->nodes[launch->next].missing[0] == '\0' &&
                poll_job(cluster, launch->next, clock_left_ms(deadline_ms)) != 0 && cluster->opts.is_survey) {
                launch_node_miss(cluster, launch->next, launch->failure.msg);
                launch->failure.code = ERR_NONE;
            }
            launch->next = (launch->next + 1) % cluster->n_nodes;
        }
    }
    return launch->failure.code == ERR_NONE ? 0 : err_copy(err, &launch->failure);
}

static void ray_describe(const struct cluster *cluster, int node, int waited_s, char *ret_text, size_t size_bytes) {
    const struct ray_launch *launch = cluster->backend;
    const struct job *job = &launch->jobs[node];
    char at[NET_ADDR_BYTES + 8];
    launch_addr_text(&cluster->bound, at, sizeof at);
    if (job->state == RAY_PENDING)
        snprintf(ret_text, size_bytes, "its job %s is still PENDING on Ray after %d s: are its %d CPUs taken by another job?", job->id,
                 waited_s, job->n_cpus);
    else
        snprintf(ret_text, size_bytes, "job %s on Ray, but its worker has not connected to %s after %d s: is that port reachable from it?",
                 cluster_ray_state_name(job->state), at, waited_s);
}

/* Whether the job is over, or was never there. */
static bool is_over(struct ray_launch *launch, struct job *job) {
    struct cluster_ray_status status;
    struct err err;
    if (cluster_ray_status(&launch->ray, job->id, 0, &status, &err) != 0)
        return err.code == ERR_NOT_FOUND;
    job->state = status.state;
    return cluster_ray_state_is_end(status.state);
}

static void ray_stop(struct cluster *cluster, int grace_ms) {
    struct ray_launch *launch = cluster->backend;
    struct err err;
    if (launch == NULL)
        return;
    int64_t deadline_ms = clock_mono_ms() + (grace_ms > END_TIMEOUT_MS ? grace_ms : END_TIMEOUT_MS);
    for (int i = 0; i < CLUSTER_MAX_NODES && clock_left_ms(deadline_ms) > 0; i++)
        if (launch->jobs[i].is_submitted && cluster_ray_stop(&launch->ray, launch->jobs[i].id, &err) != 0 && err.code != ERR_NOT_FOUND)
            log_warning("Cannot stop job %s: %s", launch->jobs[i].id, err.msg);
    /* Ray kills after 3 s by itself; a job that was PENDING is stopped when it starts. */
    bool is_settled[CLUSTER_MAX_NODES] = {false};
    int n_settled = 0;
    for (int i = 0; i < CLUSTER_MAX_NODES; i++) {
        struct job *job = &launch->jobs[i];
        while (job->is_submitted && !(is_settled[i] = is_over(launch, job)) && clock_left_ms(deadline_ms) > 0)
            clock_nap_ms(END_POLL_MS);
        n_settled += is_settled[i];
        if (job->is_submitted && !is_settled[i])
            log_warning("Job %s on Ray has not ended (it was last seen %s); 'ray job stop %s' ends it", job->id,
                        cluster_ray_state_name(job->state), job->id);
    }
    /* The records hold the launch's secret. Ray's monitor of a job looks once a second and would write a record anew that it misses. */
    if (n_settled > 0)
        clock_nap_ms(MONITOR_GAP_MS);
    for (int i = 0; i < CLUSTER_MAX_NODES; i++)
        if (is_settled[i])
            cluster_ray_delete(&launch->ray, launch->jobs[i].id, NULL);
    free(launch);
}

const struct launch_ops launch_ray_ops = {
    .place = ray_place, .start = ray_start, .poll = ray_poll, .describe = ray_describe, .stop = ray_stop};
