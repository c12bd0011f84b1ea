/* Requests without a socket, for tests and fuzzers of the API: the symbols of http/server.h that a handler uses. */
#ifndef TESTS_FAKE_HTTP_H
#define TESTS_FAKE_HTTP_H

#include <stdbool.h>

#include "http/server.h"

struct http_conn {
    const char *request_id, *authorization; /* headers, or NULL */
    int gone_after;                         /* the client is gone from that question on (0: never) */
    int n_asked;
};

#endif
