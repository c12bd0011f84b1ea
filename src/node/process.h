/*
 * One program run to its end, with a deadline: for `ray start`, `python3 -m venv` and `pip`. Main thread. Whatever the
 * program leaves running in the background goes on.
 */
#ifndef NODE_PROCESS_H
#define NODE_PROCESS_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

struct node_process {
    char *const *argv;        /* NULL-terminated; argv[0] is a path or is looked for on PATH */
    const char *const *env;   /* "NAME=value" …, NULL-terminated, on top of this process's environment; or NULL */
    int timeout_ms;
    bool is_shown;            /* its output goes to this process's stderr as it comes, and is not kept */
    bool (*is_cancelled)(void); /* asked ten times a second; or NULL */
};

/*
 * 0 when it ended with status 0. Else -1: how it ended and the last lines of its output; it and its children are killed when the
 * deadline passes (ERR_TIMEOUT) or is_cancelled says so (ERR_CANCELLED). ret_output (may be NULL): what it wrote, stdout and stderr.
 */
int node_process_run(const struct node_process *process, struct buf *ret_output, struct err *err);

#endif
