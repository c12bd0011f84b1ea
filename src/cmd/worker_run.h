/* The part of `shoal worker` that `shoal serve --headless` uses too. */
#ifndef CMD_WORKER_RUN_H
#define CMD_WORKER_RUN_H

#include "base/err.h"
#include "cluster/cluster.h"
#include "cmd/options.h"

/* Joins the driver, answers its questions (verify/agent.h), and computes until it says stop. cpu_max: --cpu-max or NULL. Main thread; blocks. */
int cmd_worker_run(const struct cluster_join_opts *join, const char *cpu_max, struct err *err);
/* `shoal verify-agent`: joins in the same way, and only answers. */
int cmd_agent_run(const struct options *options, struct err *err);

#endif
