/*
 * The driver waits for its workers; see rendezvous.h. While some are missing, those that are there get a PING each second
 * and must answer, so that both sides notice when the other is gone.
 */
#include "cluster/rendezvous.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/hello.h"
#include "net/frame.h"

enum {
    FRAME_TIMEOUT_MS = 2000, /* a proven worker sends its HELLO at once */
    SILENCE_MS = 10000,
    REMIND_GAP_MS = 10000,
    REASON_BYTES = 512,
    SHORT_BYTES = 256
};

/* What the rendezvous knows of a node beyond cluster_node; a node has joined when its fd is open. */
struct guest {
    int n_pings;                /* not answered yet */
    int64_t heard_ms;           /* last frame */
    char refused[REASON_BYTES]; /* why the last caller for this node was turned away, or "" */
};

struct rendezvous {
    struct cluster *cluster;
    struct guest guests[CLUSTER_MAX_NODES];
    struct buf body;
    int64_t start_ms;
};

int cluster_rendezvous_open(struct cluster *cluster, struct err *err) {
    struct net_door_opts opts = {.listen.port = cluster->bound.port, .secret = cluster->secret};
    snprintf(opts.listen.host, sizeof opts.listen.host, "%s", cluster->iface.host);
    if (net_door_open(&opts, &cluster->door, &cluster->bound, err) != 0)
        return err_wrap(err, "rendezvous");
    char text[NET_ADDR_BYTES + 8];
    launch_addr_text(&cluster->bound, text, sizeof text);
    log_info("Rendezvous on %s (interface %s, %s)", text, cluster->iface.name, cluster->iface_why);
    return 0;
}

static int waited_s(const struct rendezvous *r) { return (int)((clock_mono_ms() - r->start_ms) / 1000); }

static void refuse(int fd, const char *why) {
    struct err ignored;
    net_frame_send(fd, NET_FRAME_REFUSE, why, strlen(why), clock_mono_ms() + FRAME_TIMEOUT_MS, &ignored);
}

/* Why this HELLO cannot be let in, into ret_why; "" when it can. */
static void judge(const struct rendezvous *r, const struct cluster_hello *hello, char *ret_why, size_t size_bytes) {
    const struct cluster *cluster = r->cluster;
    ret_why[0] = '\0';
    if (hello->protocol != CLUSTER_PROTOCOL)
        snprintf(ret_why, size_bytes,
                 "it speaks protocol %d (build %s), this driver speaks %d (build %s); install the same build on all nodes",
                 (int)hello->protocol, hello->build, CLUSTER_PROTOCOL, cluster->opts.build);
    else if (!cluster->opts.is_survey && strcmp(hello->build, cluster->opts.build) != 0)
        snprintf(ret_why, size_bytes, "it is build %s, this driver is build %s; install the same build on all nodes", hello->build,
                 cluster->opts.build);
    else if (hello->slot < 0 || hello->slot >= cluster->n_nodes)
        snprintf(ret_why, size_bytes, "it wants to be node %d, this launch has nodes 0 to %d", (int)hello->slot, cluster->n_nodes - 1);
    else if (cluster->nodes[hello->slot].fd >= 0)
        snprintf(ret_why, size_bytes, "it wants to be node %d, which host %s (process %lld) is already", (int)hello->slot,
                 cluster->nodes[hello->slot].host, (long long)cluster->nodes[hello->slot].pid);
}

static void let_in(struct rendezvous *r, int fd, const struct cluster_hello *hello) {
    struct cluster_node *node = &r->cluster->nodes[hello->slot];
    struct guest *guest = &r->guests[hello->slot];
    node->fd = fd;
    node->pid = hello->pid;
    node->n_cpus = (int)hello->n_cpus;
    node->mem_total_bytes = (uint64_t)hello->mem_total_bytes;
    node->mem_available_bytes = (uint64_t)hello->mem_available_bytes;
    snprintf(node->host, sizeof node->host, "%s", hello->address);
    snprintf(node->host_name, sizeof node->host_name, "%s", hello->host_name);
    snprintf(node->build, sizeof node->build, "%s", hello->build);
    node->missing[0] = '\0';
    if (node->name[0] == '\0')
        snprintf(node->name, sizeof node->name, "%s", hello->host_name);
    guest->n_pings = 0;
    guest->heard_ms = clock_mono_ms();
    guest->refused[0] = '\0';
    log_info("Node %d joined: %s (%s), process %lld, %d CPUs, ranks %d to %d", (int)hello->slot, hello->host_name, node->host,
             (long long)node->pid, node->n_cpus, node->first_rank, node->first_rank + node->n_ranks - 1);
}

/* A proven caller: owns fd. -1 only when the launch cannot go on. */
static int greet(struct rendezvous *r, int fd, const struct net_addr *peer, struct err *err) {
    struct cluster *cluster = r->cluster;
    struct cluster_hello hello;
    enum net_frame_type type;
    struct err bad;
    int result = net_frame_recv(fd, &type, &r->body, clock_mono_ms() + FRAME_TIMEOUT_MS, &bad);
    if (result == 0 && type != NET_FRAME_HELLO)
        result = err_set(&bad, ERR_PEER, "%s instead of HELLO", net_frame_name(type));
    if (result == 0)
        result = cluster_hello_decode(buf_str(&r->body), r->body.len_bytes, &hello, &bad);
    if (result != 0) {
        log_warning("Dropped a caller from %s that is no worker of this build: %s", peer->host, bad.msg);
        cluster->n_garbled++;
        close(fd);
        return 0;
    }
    char why[REASON_BYTES];
    judge(r, &hello, why, sizeof why);
    if (why[0] == '\0') {
        let_in(r, fd, &hello);
        return 0;
    }
    refuse(fd, why);
    close(fd);
    log_warning("Refused a worker from %s: %s", peer->host, why);
    if (hello.protocol != CLUSTER_PROTOCOL)
        hello.slot = -1; /* not read */
    if (hello.slot >= 0 && hello.slot < cluster->n_nodes && cluster->nodes[hello.slot].fd < 0)
        snprintf(r->guests[hello.slot].refused, sizeof r->guests[0].refused, "%s", why);
    /* A worker that this launch started itself will not come again; one by hand may be replaced by its user. */
    bool is_final =
        cluster->opts.backend != CLUSTER_HAND && (hello.slot < 0 || hello.slot >= cluster->n_nodes || cluster->nodes[hello.slot].fd < 0);
    if (is_final && cluster->opts.is_survey && hello.slot >= 0 && hello.slot < cluster->n_nodes)
        launch_node_miss(cluster, (int)hello.slot, why);
    if (!is_final || cluster->opts.is_survey)
        return 0;
    if (hello.slot >= 0 && hello.slot < cluster->n_nodes)
        return err_set(err, ERR_PEER, "node %d (%s): its worker was refused: %s", (int)hello.slot, cluster->nodes[hello.slot].host, why);
    return err_set(err, ERR_PEER, "a worker from %s was refused: %s", peer->host, why);
}

/* A frame, or the end, from a node that has joined. */
static int hear(struct rendezvous *r, int index, struct err *err) {
    struct cluster_node *node = &r->cluster->nodes[index];
    struct guest *guest = &r->guests[index];
    enum net_frame_type type;
    if (net_frame_recv(node->fd, &type, &r->body, clock_mono_ms() + FRAME_TIMEOUT_MS, err) != 0)
        return err_wrap(err, "node %d (%s) joined and was lost again while others were awaited", index, node->host);
    if (type != NET_FRAME_PONG || guest->n_pings == 0)
        return err_set(err, ERR_PEER, "node %d (%s) sent %s while joining", index, node->host, net_frame_name(type));
    guest->n_pings--;
    guest->heard_ms = clock_mono_ms();
    return 0;
}

/* What a node that has joined did wrong: the end of the launch, or of the node's part in a survey. */
static int lose_node(struct rendezvous *r, int index, struct err *err) {
    if (!r->cluster->opts.is_survey)
        return -1;
    launch_node_miss(r->cluster, index, err->msg);
    return 0;
}

static int ping_all(struct rendezvous *r, struct err *err) {
    int64_t now_ms = clock_mono_ms();
    for (int i = 0; i < r->cluster->n_nodes; i++) {
        struct cluster_node *node = &r->cluster->nodes[i];
        if (node->fd < 0)
            continue;
        int result = 0;
        if (now_ms - r->guests[i].heard_ms > SILENCE_MS)
            result = err_set(err, ERR_PEER, "node %d (%s) joined and has been silent for %d s", i, node->host, SILENCE_MS / 1000);
        else if (net_frame_send(node->fd, NET_FRAME_PING, NULL, 0, now_ms + FRAME_TIMEOUT_MS, err) != 0)
            result = err_wrap(err, "node %d (%s) joined and was lost again while others were awaited", i, node->host);
        if (result != 0 && lose_node(r, i, err) != 0)
            return -1;
        r->guests[i].n_pings++;
    }
    return 0;
}

/* "node 1 (10.77.0.2): …; node 2 (…): …" */
static void missing_text(const struct rendezvous *r, char *ret_text, size_t size_bytes) {
    size_t used = 0;
    ret_text[0] = '\0';
    for (int i = 0; i < r->cluster->n_nodes && used < size_bytes; i++) {
        const struct cluster_node *node = &r->cluster->nodes[i];
        char why[SHORT_BYTES + REASON_BYTES];
        if (node->fd >= 0)
            continue;
        if (r->guests[i].refused[0] != '\0')
            snprintf(why, sizeof why, "its worker was refused: %s", r->guests[i].refused);
        else
            r->cluster->ops->describe(r->cluster, i, waited_s(r), why, sizeof why);
        used += (size_t)snprintf(ret_text + used, size_bytes - used, "%snode %d%s%s%s: %s", used > 0 ? "; " : "", i,
                                 node->host[0] ? " (" : "", node->host, node->host[0] ? ")" : "", why);
    }
}

static int missing_error(const struct rendezvous *r, struct err *err) {
    char missing[ERR_MSG_BYTES - SHORT_BYTES], dropped[SHORT_BYTES] = "";
    missing_text(r, missing, sizeof missing);
    uint64_t n_dropped = cluster_dropped(r->cluster);
    if (n_dropped > 0)
        snprintf(dropped, sizeof dropped, " (%llu foreign connections were dropped: one of them may be a worker with another secret)",
                 (unsigned long long)n_dropped);
    return err_set(err, ERR_TIMEOUT, "not all nodes have joined: %s%s", missing, dropped);
}

static bool all_here(const struct rendezvous *r) {
    for (int i = 0; i < r->cluster->n_nodes; i++)
        if (r->cluster->nodes[i].fd < 0 ? r->cluster->nodes[i].missing[0] == '\0' : r->guests[i].n_pings > 0)
            return false;
    return true;
}

/* A survey's deadline: whoever is not here is left out, and so is whoever joined and fell silent. */
static void leave_out_missing(struct rendezvous *r) {
    for (int i = 0; i < r->cluster->n_nodes; i++) {
        struct cluster_node *node = &r->cluster->nodes[i];
        char why[SHORT_BYTES + REASON_BYTES] = "it joined, but has not answered since";
        if (node->missing[0] != '\0' || (node->fd >= 0 && r->guests[i].n_pings == 0))
            continue;
        if (node->fd < 0)
            r->cluster->ops->describe(r->cluster, i, waited_s(r), why, sizeof why);
        launch_node_miss(r->cluster, i, why);
    }
}

/* Waits for callers and guests, at most timeout_ms, and serves them. */
static int serve(struct rendezvous *r, int timeout_ms, struct err *err) {
    struct cluster *cluster = r->cluster;
    struct pollfd fds[1 + CLUSTER_MAX_NODES] = {{.fd = net_door_fd(cluster->door), .events = POLLIN}};
    for (int i = 0; i < cluster->n_nodes; i++) /* poll skips negative ones */
        fds[1 + i] = (struct pollfd){.fd = cluster->nodes[i].fd, .events = POLLIN};
    int n = poll(fds, (nfds_t)(1 + cluster->n_nodes), timeout_ms);
    if (n < 0 && errno != EINTR)
        return err_set(err, ERR_IO, "poll: %s", strerror(errno));
    if (n <= 0)
        return 0;
    for (int i = 0; i < cluster->n_nodes; i++)
        if (fds[1 + i].fd >= 0 && fds[1 + i].revents != 0 && hear(r, i, err) != 0 && lose_node(r, i, err) != 0)
            return -1;
    if (fds[0].revents != 0) {
        int fd;
        struct net_addr peer;
        struct err none; /* the caller may be gone again */
        if (net_door_take(cluster->door, clock_mono_ms(), &fd, &peer, &none) == 0)
            return greet(r, fd, &peer, err);
        if (none.code != ERR_TIMEOUT)
            return err_copy(err, &none);
    }
    return 0;
}

static int wait_all(struct rendezvous *r, int64_t deadline_ms, struct err *err) {
    int64_t polled_ms = r->start_ms, reminded_ms = r->start_ms;
    while (!all_here(r)) {
        int64_t now_ms = clock_mono_ms();
        if (launch_is_cancelled(r->cluster))
            return err_set(err, ERR_CANCELLED, "stopped while the nodes joined");
        if (now_ms >= deadline_ms && r->cluster->opts.is_survey) {
            leave_out_missing(r);
            return 0;
        }
        if (now_ms >= deadline_ms)
            return missing_error(r, err);
        if (now_ms - polled_ms >= LAUNCH_POLL_GAP_MS) {
            polled_ms = now_ms;
            if (r->cluster->ops->poll(r->cluster, err) != 0 || ping_all(r, err) != 0)
                return -1;
        }
        if (now_ms - reminded_ms >= REMIND_GAP_MS) {
            char missing[ERR_MSG_BYTES];
            reminded_ms = now_ms;
            missing_text(r, missing, sizeof missing);
            log_info("Waiting for %s", missing);
        }
        int left_ms = clock_left_ms(deadline_ms), gap_ms = clock_left_ms(polled_ms + LAUNCH_POLL_GAP_MS);
        if (serve(r, left_ms < gap_ms ? left_ms : gap_ms, err) != 0)
            return -1;
    }
    return 0;
}

/* The driver's HELLO to all: everybody is there. */
static int welcome(struct rendezvous *r, struct err *err) {
    struct cluster_hello hello;
    cluster_hello_fill(&hello, r->cluster->opts.build, -1, r->cluster->iface.host);
    char *text = cluster_hello_encode(&hello);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a HELLO");
    int result = 0;
    for (int i = 0; i < r->cluster->n_nodes && result == 0; i++) {
        struct cluster_node *node = &r->cluster->nodes[i];
        if (node->fd < 0) /* a survey goes on without it */
            continue;
        result = net_frame_send(node->fd, NET_FRAME_HELLO, text, strlen(text), clock_mono_ms() + FRAME_TIMEOUT_MS, err);
        if (result != 0) {
            err_wrap(err, "node %d (%s)", i, node->host);
            result = lose_node(r, i, err);
        }
    }
    free(text);
    return result;
}

int cluster_rendezvous_wait(struct cluster *cluster, int64_t start_ms, int64_t deadline_ms, struct err *err) {
    struct err why;
    struct rendezvous r = {.cluster = cluster, .start_ms = start_ms};
    buf_init(&r.body, net_frame_limit(NET_FRAME_HELLO));
    int result = wait_all(&r, deadline_ms, &why);
    if (result == 0)
        result = welcome(&r, &why);
    buf_finish(&r.body);
    net_door_shut(cluster->door); /* nobody else is awaited */
    if (result == 0)
        return 0;
    for (int i = 0; i < cluster->n_nodes; i++)
        if (cluster->nodes[i].fd >= 0)
            refuse(cluster->nodes[i].fd, why.msg);
    return err_copy(err, &why);
}
