/*
 * Starting and stopping the engine: for whoever owns the process. Request makers need engine.h alone.
 */
#ifndef ENGINE_RUN_H
#define ENGINE_RUN_H

#include "engine/engine.h"
#include "exec/driver.h"
#include "sched/sched.h"

struct engine_opts {
    struct exec_driver *driver; /* borrowed; only the engine's thread uses it from now on */
    struct sched_opts sched;
    int max_active;             /* choices that wait or run; more are refused; 0: no limit */
    const int32_t *eos;         /* [n_eos], copied */
    int n_eos;
    bool log_stats;             /* a line every 10 s while there is work */
    uint64_t (*n_dropped)(void *ctx); /* for engine_stats.dropped_connections, from any thread; NULL: none */
    void *dropped_ctx;
};

int engine_create(const struct engine_opts *opts, struct engine **ret, struct err *err);
/* Any thread: the launch is broken. Every request in flight gets this error at once, later ones are refused. The first reason stays. */
void engine_fail(struct engine *engine, const struct err *why);
/* Requests that are waiting or running. */
int engine_n_active(struct engine *engine);
/* Fails what is still in flight, joins the thread, frees. All streams must be closed. Accepts NULL. */
void engine_destroy(struct engine *engine);

#endif
