/*
 * One progress line on a terminal (redrawn), or a plain line every few seconds where stderr is no terminal:
 * "Loading weights  62% |██████    | 1.2/1.9 GB  640 MB/s  ETA 0:01  slowest rank 1". One thread at a time.
 */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>

struct progress {
    char title[64];
    uint64_t total_bytes; /* 0: unknown */
    uint64_t start_bytes; /* done before this run (a resumed download): not counted in the rate */
    int64_t start_ns;
    int64_t last_draw_ns;
    int is_terminal;
    /* For a caller with several sources, each with a clock of its own; rate 0: bytes over time is what it is. */
    double rate_bps, left_s;
};

void progress_start(struct progress *bar, const char *title, uint64_t start_bytes, uint64_t total_bytes);
/* note: a few words behind the bar, or NULL. Draws at most ten times a second. */
void progress_update(struct progress *bar, uint64_t done_bytes, const char *note);
/* Draws the last state and ends the line. */
void progress_finish(struct progress *bar, uint64_t done_bytes, const char *note);

/* "12.3 GB": three significant digits in powers of 1000. Returns ret_text. */
char *progress_bytes_text(uint64_t bytes, char ret_text[16]);

#endif
