/*
 * A small blocking HTTP client over libcurl: one call, one answer. Any thread; each call has its own handle.
 *
 * Servers prove themselves by certificate ($CURL_CA_BUNDLE or $SSL_CERT_FILE instead of the system's list). The
 * environment's proxies are used, but never towards loopback and private addresses; $no_proxy adds to these.
 */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct http_call {
    const char *method;         /* "GET", "POST", "PUT", "DELETE", "HEAD" */
    const char *url;
    const char *const *headers; /* "Name: value" …, NULL-terminated, or NULL */
    const void *body;           /* or NULL */
    size_t body_bytes;
    int connect_timeout_ms;     /* 0: 10 s */
    int timeout_ms;             /* whole call; 0: none, then a stall below 1 byte/s ends it */
    int stall_timeout_s;        /* 0: 60 s. Only with timeout_ms 0 */
    int follow_redirects;       /* at most 10, never from https to http. Authorization is not sent on to another host */
    /*
     * Body sink. When NULL the body goes to ret->body. Returns 0 to go on, nonzero to abort (ERR_CANCELLED). Sees the
     * bodies of 2xx answers only, ret->status and ret->headers being set by then; what comes with another status goes
     * to ret->body.
     */
    int (*sink)(void *ctx, const void *bytes, size_t len_bytes);
    void *sink_ctx;
};

struct http_answer {
    int status;         /* HTTP status of the last response */
    struct buf body;    /* initialise with buf_init before the call; its limit is the limit on the answer */
    struct buf headers; /* likewise: raw header lines of the last response */
};

/* Once per process, before threads start (else the first call does it). */
int http_client_setup(struct err *err);
/*
 * 0 when a whole answer was received, whatever its status; -1 when there was none, or a broken one (err says host,
 * port and why; ERR_PEER and ERR_TIMEOUT may pass when tried again). Both buffers of ret are emptied first.
 */
int http_client_call(const struct http_call *call, struct http_answer *ret, struct err *err);
/* Value of a header of the answer into ret_value (cut to size), or -1 when absent. */
int http_client_header(const struct http_answer *answer, const char *name, char *ret_value, size_t size_bytes);

#endif
