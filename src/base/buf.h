/*
 * A growing byte buffer with a limit from birth. Failure is sticky: after one failed append every later append is
 * a no-op, and the caller checks once at the end with buf_failed. `data` is always NUL-terminated when not NULL
 * (the NUL is not counted in len_bytes). Not thread-safe.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data;
    size_t len_bytes;
    size_t cap_bytes;
    size_t limit_bytes;
    bool failed; /* out of memory or past the limit */
};

/* No allocation happens before the first append. */
void buf_init(struct buf *buf, size_t limit_bytes);
void buf_finish(struct buf *buf); /* frees; accepts a zeroed struct */
void buf_clear(struct buf *buf);  /* len 0, keeps memory, clears `failed` */

int buf_append(struct buf *buf, const void *bytes, size_t len_bytes); /* 0, or -1 when failed */
int buf_append_str(struct buf *buf, const char *str);
int buf_append_char(struct buf *buf, char c);
int buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for len_bytes more; returns where they go (not yet counted in len_bytes) or NULL. */
char *buf_reserve(struct buf *buf, size_t len_bytes);
/* Removes the first len_bytes (at most all). */
void buf_consume(struct buf *buf, size_t len_bytes);
/* Hands the memory to the caller (free with free()), leaves the buffer empty. NULL if failed; "" allocated if empty. */
char *buf_steal(struct buf *buf);
/* Never NULL: "" for an empty buffer. */
const char *buf_str(const struct buf *buf);

#endif
