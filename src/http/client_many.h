/*
 * Many HTTP calls at once on one thread, over libcurl's multi interface: for clients that hold streams open beside each
 * other. Single-threaded; callbacks run inside http_many_run. Nothing is retried.
 */
#ifndef HTTP_CLIENT_MANY_H
#define HTTP_CLIENT_MANY_H

#include "http/client.h"

struct http_many;

/* result and err as http_client_call gives them. May add further calls. */
typedef void (*http_many_done_fn)(void *ctx, int result, const struct err *err);

/* Keeps at most n_idle connections for further calls. */
int http_many_create(int n_idle, struct http_many **ret, struct err *err);
/* Drops what is under way, without telling. Accepts NULL. */
void http_many_destroy(struct http_many *many);

/* Begins a call. The call, what it points to and the answer must live until done was called. */
int http_many_add(struct http_many *many, const struct http_call *call, struct http_answer *answer, http_many_done_fn done, void *ctx,
                  struct err *err);
/* Moves what can be moved, after waiting at most timeout_ms for something to come. Signals may end the wait early. */
int http_many_run(struct http_many *many, int timeout_ms, struct err *err);

#endif
