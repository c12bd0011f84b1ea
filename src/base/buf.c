/* Bounded byte buffer; see buf.h. */
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *buf, size_t limit_bytes) { *buf = (struct buf){.limit_bytes = limit_bytes}; }

void buf_finish(struct buf *buf) {
    free(buf->data);
    buf->data = NULL;
    buf->len_bytes = buf->cap_bytes = 0;
}

void buf_clear(struct buf *buf) {
    buf->len_bytes = 0;
    buf->failed = false;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

char *buf_reserve(struct buf *buf, size_t len_bytes) {
    if (buf->failed)
        return NULL;
    if (len_bytes > buf->limit_bytes || buf->len_bytes > buf->limit_bytes - len_bytes) {
        buf->failed = true;
        return NULL;
    }
    size_t need = buf->len_bytes + len_bytes + 1;
    if (need > buf->cap_bytes) {
        size_t cap = buf->cap_bytes < 64 ? 64 : buf->cap_bytes;
        while (cap < need)
            cap += cap / 2;
        char *grown = realloc(buf->data, cap);
        if (grown == NULL) {
            buf->failed = true;
            return NULL;
        }
        buf->data = grown;
        buf->cap_bytes = cap;
    }
    return buf->data + buf->len_bytes;
}

int buf_append(struct buf *buf, const void *bytes, size_t len_bytes) {
    char *at = buf_reserve(buf, len_bytes);
    if (at == NULL)
        return -1;
    if (len_bytes > 0)
        memcpy(at, bytes, len_bytes);
    at[len_bytes] = '\0';
    buf->len_bytes += len_bytes;
    return 0;
}

int buf_append_str(struct buf *buf, const char *str) { return buf_append(buf, str, strlen(str)); }

int buf_append_char(struct buf *buf, char c) { return buf_append(buf, &c, 1); }

int buf_printf(struct buf *buf, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int need = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *at = need < 0 ? NULL : buf_reserve(buf, (size_t)need);
    if (at != NULL) {
        vsnprintf(at, (size_t)need + 1, fmt, again);
        buf->len_bytes += (size_t)need;
    }
    va_end(again);
    return at == NULL ? -1 : 0;
}

void buf_consume(struct buf *buf, size_t len_bytes) {
    if (len_bytes > buf->len_bytes)
        len_bytes = buf->len_bytes;
    buf->len_bytes -= len_bytes;
    if (buf->data != NULL)
        memmove(buf->data, buf->data + len_bytes, buf->len_bytes + 1);
}

char *buf_steal(struct buf *buf) {
    if (buf->failed || buf_reserve(buf, 0) == NULL)
        return NULL;
    buf->data[buf->len_bytes] = '\0';
    char *data = buf->data;
    buf->data = NULL;
    buf->len_bytes = buf->cap_bytes = 0;
    return data;
}

const char *buf_str(const struct buf *buf) { return buf->data == NULL ? "" : buf->data; }
