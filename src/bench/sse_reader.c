/* Server-sent events; see sse_reader.h. */
#include "bench/sse_reader.h"

#include <string.h>

enum { EVENT_LIMIT = 1 << 20 };

void bench_sse_reader_init(struct bench_sse_reader *reader, bench_sse_event_fn on_event, void *ctx) {
    *reader = (struct bench_sse_reader){.on_event = on_event, .ctx = ctx};
    buf_init(&reader->line, EVENT_LIMIT);
    buf_init(&reader->data, EVENT_LIMIT);
}

void bench_sse_reader_finish(struct bench_sse_reader *reader) {
    buf_finish(&reader->line);
    buf_finish(&reader->data);
}

static int take_line(struct bench_sse_reader *reader, const char *line, size_t len_bytes, struct err *err) {
    if (len_bytes == 0) { /* the end of an event */
        if (!reader->has_data)
            return 0;
        int result = reader->on_event(reader->ctx, buf_str(&reader->data), reader->data.len_bytes, err);
        buf_clear(&reader->data);
        reader->has_data = false;
        return result;
    }
    const char *colon = memchr(line, ':', len_bytes);
    size_t name_bytes = colon != NULL ? (size_t)(colon - line) : len_bytes;
    if (name_bytes == 4 && memcmp(line, "data", 4) == 0) {
        size_t skip = colon == NULL ? 4 : 5;
        skip += skip < len_bytes && line[skip] == ' ';
        if (reader->has_data)
            buf_append_char(&reader->data, '\n');
        reader->has_data = true;
        if (buf_append(&reader->data, line + skip, len_bytes - skip) != 0)
            return err_set(err, ERR_LIMIT, "an event of the answer is longer than %d bytes", (int)EVENT_LIMIT);
        return 0;
    }
    if (name_bytes > 0 && !(name_bytes == 5 && memcmp(line, "event", 5) == 0) && !(name_bytes == 2 && memcmp(line, "id", 2) == 0) &&
        !(name_bytes == 5 && memcmp(line, "retry", 5) == 0))
        return err_set(err, ERR_PEER, "the answer is no event stream: '%.*s'", (int)(len_bytes < 120 ? len_bytes : 120), line);
    return 0;
}

int bench_sse_reader_feed(struct bench_sse_reader *reader, const char *bytes, size_t len_bytes, struct err *err) {
    while (len_bytes > 0) {
        if (reader->saw_return && *bytes == '\n') { /* the second half of "\r\n" */
            reader->saw_return = false;
            bytes++;
            len_bytes--;
            continue;
        }
        reader->saw_return = false;
        size_t n = 0;
        while (n < len_bytes && bytes[n] != '\n' && bytes[n] != '\r')
            n++;
        if (n < len_bytes && reader->line.len_bytes == 0) { /* most lines come whole */
            if (take_line(reader, bytes, n, err) != 0)
                return -1;
        } else {
            if (buf_append(&reader->line, bytes, n) != 0)
                return err_set(err, ERR_LIMIT, "a line of the answer is longer than %d bytes", (int)EVENT_LIMIT);
            if (n == len_bytes)
                return 0;
            if (take_line(reader, buf_str(&reader->line), reader->line.len_bytes, err) != 0)
                return -1;
            buf_clear(&reader->line);
        }
        reader->saw_return = bytes[n] == '\r';
        bytes += n + 1;
        len_bytes -= n + 1;
    }
    return 0;
}
