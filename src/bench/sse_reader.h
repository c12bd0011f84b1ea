/*
 * Takes server-sent events apart (WHATWG HTML, 9.2.6): bytes in, the data of each event out. Comments and fields other than "data" are
 * passed over. Not thread-safe; knows nothing of HTTP.
 */
#ifndef BENCH_SSE_READER_H
#define BENCH_SSE_READER_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

/* One event's data, NUL-terminated. -1 with err set ends the reading. */
typedef int (*bench_sse_event_fn)(void *ctx, const char *data, size_t len_bytes, struct err *err);

struct bench_sse_reader {
    struct buf line, data; /* the line under way; the data lines of the event under way */
    bool has_data, saw_return;
    bench_sse_event_fn on_event;
    void *ctx;
};

void bench_sse_reader_init(struct bench_sse_reader *reader, bench_sse_event_fn on_event, void *ctx);
void bench_sse_reader_finish(struct bench_sse_reader *reader);
/* ERR_PEER: a line that is no field of an event stream; ERR_LIMIT: an event of more than a megabyte. */
int bench_sse_reader_feed(struct bench_sse_reader *reader, const char *bytes, size_t len_bytes, struct err *err);

#endif
