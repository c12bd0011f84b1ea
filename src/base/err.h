/*
 * Errors as values: a code for programs and a sentence for people.
 *
 * A function that can fail returns 0 or -1 and takes `struct err *err` last. The function that first sees the
 * error describes it (what was wrong, what would be right); callers add where with err_wrap. Outputs are written
 * only on success. `err` may be NULL when the caller does not care. Any thread; no shared state.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

enum err_code {
    ERR_NONE = 0,
    ERR_INVALID,     /* input from a user, a file or a request is wrong */
    ERR_NOT_FOUND,   /* a named thing does not exist */
    ERR_IO,          /* the operating system or a disk said no */
    ERR_NOMEM,       /* an allocation failed */
    ERR_LIMIT,       /* a limit of shoal was reached */
    ERR_UNSUPPORTED, /* understood, but shoal cannot do it */
    ERR_PEER,        /* another process closed, died or broke the protocol */
    ERR_AUTH,        /* a peer could not prove that it belongs to this launch */
    ERR_TIMEOUT,     /* a deadline passed */
    ERR_CANCELLED,   /* stopped on request */
    ERR_INTERNAL     /* a broken invariant of shoal itself */
};

#define ERR_MSG_BYTES 1024

struct err {
    enum err_code code;
    char msg[ERR_MSG_BYTES];
};

/* Both always return -1, so that `return err_set(err, …)` reads as one statement. Over-long text is cut. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "where: " (formatted) in front of the message; keeps the code. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Copies src over dst (either may be NULL). Returns -1. */
int err_copy(struct err *dst, const struct err *src);

/* "invalid", "not found", …: never NULL. */
const char *err_code_name(enum err_code code);

#endif
