/*
 * The last lines of a log, for error messages. Not thread-safe: its owner locks.
 */
#ifndef CLUSTER_TAIL_H
#define CLUSTER_TAIL_H

#include <stddef.h>

enum { CLUSTER_TAIL_LINES = 20, CLUSTER_TAIL_LINE_BYTES = 512, CLUSTER_TAIL_TEXT_BYTES = 720 /* leaves room for a sentence in an err */ };

struct cluster_tail {
    char lines[CLUSTER_TAIL_LINES][CLUSTER_TAIL_LINE_BYTES];
    int first, n;
};

/* Adds one line (without its newline); a long one is cut. Empty lines are skipped. */
void cluster_tail_add(struct cluster_tail *tail, const char *line, size_t len_bytes);
/* As many of the last lines as fit, each on a line of its own behind "\n  | "; "" when there are none. */
void cluster_tail_text(const struct cluster_tail *tail, char *ret_text, size_t size_bytes);

#endif
