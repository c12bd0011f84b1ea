/*
 * A thread team: the threads of one rank, which run the same function side by side (SPMD) and meet at barriers.
 *
 * The creator is thread 0 of the team; team_run must always be called by that same thread. Waiting threads spin
 * briefly and then sleep on a futex, so that a machine with fewer cores than threads still makes progress.
 */
#ifndef BASE_TEAM_H
#define BASE_TEAM_H

#include "base/err.h"

#define TEAM_MAX_THREADS 1024

struct team;

typedef void (*team_fn)(void *arg, int thread);

/*
 * Starts n_threads - 1 threads (1 ≤ n_threads ≤ TEAM_MAX_THREADS). cpus: n_threads CPU numbers to pin to, the
 * caller's thread included, or NULL to leave the threads where the system puts them.
 */
int team_create(int n_threads, const int *cpus, struct team **ret_team, struct err *err);
void team_destroy(struct team *team); /* accepts NULL; no team_run may be under way */

int team_size(const struct team *team);

/* Runs fn(arg, thread) on every thread, thread 0 being the caller. Returns when all have returned. */
void team_run(struct team *team, team_fn fn, void *arg);

/* Inside team_run: returns when all threads of the team have called it. What was written before is seen after. */
void team_barrier(struct team *team);

/*
 * Inside team_run, between two barriers: hands out 0, 1, 2, … over all threads, so that a slow thread takes less.
 * Starts at 0 again after each barrier and at each team_run. One such loop between two barriers.
 */
int team_take(struct team *team);

/* Splits n items evenly: this thread's share is [*ret_begin, *ret_end). */
void team_share(const struct team *team, int thread, int n, int *ret_begin, int *ret_end);

#endif
