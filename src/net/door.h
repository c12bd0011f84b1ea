/*
 * A listener that lets in only peers of this launch. One thread of its own accepts, and proves many callers at the
 * same time (poll() over small state machines), so that a slow or foreign caller holds up nobody. Whoever cannot prove
 * itself within the time, or is pushed out because too many unproven callers wait, is closed and counted.
 *
 * Use (rendezvous, worker links):
 *     net_door_open(&(struct net_door_opts){.listen = {.host = "10.0.0.1"}, .secret = secret}, &door, &bound, err);
 *     while (somebody is missing)
 *         if (net_door_take(door, deadline_ms, &fd, &peer, err) == 0)
 *             … net_frame_recv(fd, …) — the caller is authenticated, fd is the caller's own …
 *     net_door_close(door);
 * The other end calls net_connect and then net_auth_connect. A loop with its own poll() waits for net_door_fd to become
 * readable and then calls net_door_take with a deadline in the past.
 */
#ifndef NET_DOOR_H
#define NET_DOOR_H

#include <stdint.h>

#include "base/err.h"
#include "net/auth.h"
#include "net/sock.h"

struct net_door;

struct net_door_opts {
    struct net_addr listen; /* address to bind; port 0 picks one */
    struct net_secret secret;
    int max_unproven;     /* callers that may be in the middle of their proof; 0: 128. One more pushes the oldest out. */
    int max_ready;        /* proven callers that wait for net_door_take; 0: 1024. Beyond it nobody is accepted until one is taken. */
    int proof_timeout_ms; /* a caller's time for its whole proof; 0: 5000 */
};

/* Starts listening and the door's thread. ret_bound: where it listens. */
int net_door_open(const struct net_door_opts *opts, struct net_door **ret_door, struct net_addr *ret_bound, struct err *err);
/*
 * The next proven caller, in the order of proof; the caller owns ret_fd. ret_peer may be NULL. Blocks until the deadline (ERR_TIMEOUT) or
 * until net_door_shut (ERR_CANCELLED). Several threads may call it.
 */
int net_door_take(struct net_door *door, int64_t deadline_ms, int *ret_fd, struct net_addr *ret_peer, struct err *err);
/* Readable while a proven caller waits or the door is shut; only for poll(). */
int net_door_fd(const struct net_door *door);
/* Callers that were closed because they did not prove themselves. Any thread. */
uint64_t net_door_dropped(const struct net_door *door);
/* Stops listening for good and wakes those in net_door_take. Any thread, any number of times. */
void net_door_shut(struct net_door *door);
/* Shuts, closes whoever was not taken, and frees. No other call may be under way. Accepts NULL. */
void net_door_close(struct net_door *door);

#endif
