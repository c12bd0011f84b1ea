/* The check of a launch that has just been placed, over its own workers' connections. */
#ifndef CMD_VERIFY_LAUNCH_H
#define CMD_VERIFY_LAUNCH_H

#include "cmd/launch.h"

/* As --verify says. A failure prints the table to stderr and is an error; warnings are logged when there are several nodes. Main thread;
 * blocks. */
int cmd_verify_launch(const struct cmd_launch *launch, struct err *err);

#endif
