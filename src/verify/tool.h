/*
 * Runs other programs for checks: each in a process group of its own, with a deadline after which the whole group is
 * killed, its output kept up to a limit. Several run side by side. Never a shell. Nothing outlives the call, and a program
 * dies with the thread that called.
 *
 * Blocks. One thread at a time for each list.
 */
#ifndef VERIFY_TOOL_H
#define VERIFY_TOOL_H

#include <stdbool.h>
#include <stddef.h>

enum { TOOL_MAX_ARGS = 16, TOOL_OUTPUT_BYTES = 16384, TOOL_MAX_SIDE_BY_SIDE = 16 };

enum tool_end { TOOL_EXITED, TOOL_SIGNALLED, TOOL_TIMED_OUT, TOOL_NOT_FOUND, TOOL_NOT_STARTED };

struct tool_run {
    /* in */
    const char *args[TOOL_MAX_ARGS + 1]; /* args[0]: a path, or a name on PATH; NULL-terminated; borrowed */
    int lane;                            /* of the runs with the same lane one is at work at a time, in the order of the list */
    int timeout_ms;                      /* from its start */
    /* out */
    enum tool_end end;
    int code;                       /* exit status or signal */
    char output[TOOL_OUTPUT_BYTES]; /* stdout and stderr; what is beyond is dropped. NULs become '?' */
};

void tool_run_all(struct tool_run *runs, int n);
/* "exit status 2", "killed after 2.0 s without an answer", … */
void tool_end_text(const struct tool_run *run, char *ret_text, size_t size_bytes);

#endif
