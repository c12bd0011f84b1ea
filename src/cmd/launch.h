/*
 * A launch as commands see it: the model's files, the nodes, their ranks and the engine above them. Main thread.
 * Knows nothing of HTTP: `serve` puts the API on top, `bench` its own requests.
 */
#ifndef CMD_LAUNCH_H
#define CMD_LAUNCH_H

#include <stdbool.h>

#include "cluster/cluster.h"
#include "cmd/model_files.h"
#include "cmd/options.h"
#include "engine/engine.h"
#include "exec/driver.h"

/* Everything below the API, in the order in which it is made; what is not made yet is NULL. */
struct cmd_launch {
    const struct options *options; /* borrowed */
    bool (*is_cancelled)(void *ctx); /* asked at least once a second while starting, with ctx NULL */
    struct model_files files;
    int max_model_len, max_seqs, max_step_tokens;
    int layers_per_stage[COMM_MAX_RANKS]; /* all 0: even */
    struct cluster *cluster;
    struct exec_driver *driver;
    struct exec_driver_info info;
    struct engine *engine;
};

/* Opens the model's files and checks the options against its configuration; starts nothing. After a failure, here and below,
   cmd_launch_close is still due. */
int cmd_launch_open(const struct options *options, bool (*is_cancelled)(void *ctx), struct cmd_launch *ret, struct err *err);
/* Of cmd_launch_open: with options and files.config set, fills the sizes and the split. Needs no weights. */
int cmd_launch_check(struct cmd_launch *launch, struct err *err);
/* Places and starts the workers, loads the weights, starts the engine. Blocks. */
int cmd_launch_start(struct cmd_launch *launch, struct err *err);
/* Stops whatever was started. All streams of the engine must be closed. */
void cmd_launch_close(struct cmd_launch *launch);
/* --distributed-timeout-seconds, with its default filled in. */
int cmd_launch_timeout_s(const struct options *options);

#endif
