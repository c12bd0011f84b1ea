/* Questions and answers; see ask.h. */
#include "verify/ask.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "net/frame.h"

enum { FRAME_TIMEOUT_MS = 2000, PING_GAP_MS = 1000 };

void verify_asker_init(struct verify_asker *asker, const struct verify_opts *opts, struct verify_findings *findings) {
    *asker = (struct verify_asker){.nodes = opts->nodes,
                                   .n_nodes = opts->n_nodes,
                                   .is_cancelled = opts->is_cancelled,
                                   .findings = findings,
                                   .pinged_ms = clock_mono_ms()};
    buf_init(&asker->body, net_frame_limit(NET_FRAME_REPORT));
    for (int i = 0; i < opts->n_nodes; i++)
        asker->is_lost[i] = opts->nodes[i].fd < 0;
}

/* Everybody counts as lost then, so that what is left of the verification ends at once. */
static bool stop_if_cancelled(struct verify_asker *asker, struct verify_ask *asks, int n) {
    if (!asker->is_stopped && asker->is_cancelled != NULL && asker->is_cancelled(NULL)) {
        asker->is_stopped = true;
        for (int i = 0; i < asker->n_nodes; i++)
            asker->is_lost[i] = true;
        for (int i = 0; i < n; i++)
            asks[i].deadline_ms = 0;
    }
    return asker->is_stopped;
}

void verify_asker_finish(struct verify_asker *asker) { buf_finish(&asker->body); }

static int64_t wall_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void lose(struct verify_asker *asker, int node, struct verify_ask *ask, const char *why) {
    asker->is_lost[node] = true;
    verify_findings_add(asker->findings, node, VERIFY_FAIL, "agent", "Look at this node: its further checks are left out", "%s%s%s",
                        ask != NULL ? ask->what : "", ask != NULL ? ": " : "", why);
    if (ask != NULL) {
        verify_clean_text(why, ask->trouble, sizeof ask->trouble);
        ask->deadline_ms = 0;
    }
}

static struct verify_ask *pending_of(struct verify_ask *asks, int n, int node) {
    for (int i = 0; i < n; i++)
        if (asks[i].node == node && asks[i].deadline_ms != 0)
            return &asks[i];
    return NULL;
}

static void send_ask(struct verify_asker *asker, struct verify_ask *ask) {
    struct err err;
    ask->answer = NULL;
    ask->trouble[0] = '\0';
    ask->deadline_ms = 0;
    ask->id = ++asker->last_id;
    if (ask->ask != NULL)
        json_object_set_new(ask->ask, "id", json_integer(ask->id));
    char *text = ask->ask == NULL ? NULL : json_text(ask->ask);
    json_decref(ask->ask);
    ask->ask = NULL;
    if (text == NULL || asker->is_lost[ask->node]) {
        snprintf(ask->trouble, sizeof ask->trouble, "%s", text == NULL ? "no memory" : "it is lost");
        free(text);
        return;
    }
    ask->deadline_ms = clock_mono_ms() + ask->timeout_ms;
    ask->sent_ns = wall_ns();
    if (net_frame_send(asker->nodes[ask->node].fd, NET_FRAME_VERIFY, text, strlen(text), clock_mono_ms() + FRAME_TIMEOUT_MS, &err) != 0)
        lose(asker, ask->node, ask, err.msg);
    free(text);
}

/* A frame has come from a node. */
static void hear(struct verify_asker *asker, int node, struct verify_ask *ask) {
    enum net_frame_type type;
    struct err err;
    int64_t now_ns = wall_ns();
    if (net_frame_recv(asker->nodes[node].fd, &type, &asker->body, clock_mono_ms() + FRAME_TIMEOUT_MS, &err) != 0) {
        lose(asker, node, ask, err.msg);
        return;
    }
    if (type == NET_FRAME_PONG)
        return;
    if (type == NET_FRAME_FAILURE) {
        lose(asker, node, ask, buf_str(&asker->body));
        return;
    }
    json_t *answer = type == NET_FRAME_REPORT ? json_parse(buf_str(&asker->body), asker->body.len_bytes, NULL) : NULL;
    if (!json_is_object(answer) || ask == NULL || json_integer_value(json_object_get(answer, "id")) != ask->id) {
        json_decref(answer);
        lose(asker, node, ask, "it sent something that is no answer to a question");
        return;
    }
    const char *error = json_string_value(json_object_get(answer, "error"));
    ask->answered_ns = now_ns;
    ask->deadline_ms = 0;
    if (error == NULL) {
        ask->answer = answer;
        return;
    }
    verify_clean_text(error, ask->trouble, sizeof ask->trouble);
    json_decref(answer);
}

static void ping_idle(struct verify_asker *asker, struct verify_ask *asks, int n) {
    struct err err;
    if (clock_mono_ms() - asker->pinged_ms < PING_GAP_MS)
        return;
    asker->pinged_ms = clock_mono_ms();
    for (int i = 0; i < asker->n_nodes; i++)
        if (!asker->is_lost[i] && pending_of(asks, n, i) == NULL &&
            net_frame_send(asker->nodes[i].fd, NET_FRAME_PING, NULL, 0, clock_mono_ms() + FRAME_TIMEOUT_MS, &err) != 0)
            lose(asker, i, NULL, err.msg);
}

/* Milliseconds until the next deadline or ping; -1: nobody is asked any more. */
static int wait_ms(const struct verify_asker *asker, const struct verify_ask *asks, int n) {
    int64_t until_ms = 0;
    for (int i = 0; i < n; i++)
        if (asks[i].deadline_ms != 0 && (until_ms == 0 || asks[i].deadline_ms < until_ms))
            until_ms = asks[i].deadline_ms;
    if (until_ms == 0)
        return -1;
    int64_t ping_ms = asker->pinged_ms + PING_GAP_MS;
    return clock_left_ms(ping_ms < until_ms ? ping_ms : until_ms);
}

void verify_ask_all(struct verify_asker *asker, struct verify_ask *asks, int n) {
    struct pollfd fds[CLUSTER_MAX_NODES];
    for (int i = 0; i < n; i++)
        asks[i].deadline_ms = 0;
    for (int i = 0; i < n; i++)
        send_ask(asker, &asks[i]);
    for (int left_ms; !stop_if_cancelled(asker, asks, n) && (left_ms = wait_ms(asker, asks, n)) >= 0; ping_idle(asker, asks, n)) {
        for (int i = 0; i < asker->n_nodes; i++) /* poll skips negative ones */
            fds[i] = (struct pollfd){.fd = asker->is_lost[i] ? -1 : asker->nodes[i].fd, .events = POLLIN};
        if (poll(fds, (nfds_t)asker->n_nodes, left_ms) > 0)
            for (int i = 0; i < asker->n_nodes; i++)
                if (fds[i].fd >= 0 && fds[i].revents != 0 && !asker->is_lost[i])
                    hear(asker, i, pending_of(asks, n, i));
        for (int i = 0; i < n; i++) {
            char why[64];
            if (asks[i].deadline_ms == 0 || clock_left_ms(asks[i].deadline_ms) > 0)
                continue;
            snprintf(why, sizeof why, "no answer within %.1f s", (double)asks[i].timeout_ms / 1000);
            lose(asker, asks[i].node, &asks[i], why);
        }
    }
}
