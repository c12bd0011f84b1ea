/* Error values; see err.h. Owns nothing, any thread. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

int err_set(struct err *err, enum err_code code, const char *fmt, ...) {
    if (err != NULL) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
    }
    return -1;
}

int err_wrap(struct err *err, const char *fmt, ...) {
    if (err != NULL) {
        char where[ERR_MSG_BYTES];
        char whole[2 * ERR_MSG_BYTES + 4];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(where, sizeof where, fmt, ap);
        va_end(ap);
        snprintf(whole, sizeof whole, "%s: %s", where, err->msg);
        memcpy(err->msg, whole, sizeof err->msg - 1);
        err->msg[sizeof err->msg - 1] = '\0';
    }
    return -1;
}

int err_copy(struct err *dst, const struct err *src) {
    if (dst != NULL && src != NULL)
        *dst = *src;
    return -1;
}

const char *err_code_name(enum err_code code) {
    static const char *const names[] = {"none",        "invalid",      "not found", "i/o",       "out of memory", "limit reached",
                                        "unsupported", "peer failure", "not authenticated", "timeout", "cancelled", "internal"};
    return (unsigned)code < sizeof names / sizeof names[0] ? names[code] : "unknown";
}
