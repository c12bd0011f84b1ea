/* See fake_http.h. */
#include "fake_http.h"

#include <stdio.h>
#include <strings.h>

const char *http_request_header(const struct http_request *request, const char *name) {
    if (strcasecmp(name, "X-Request-Id") == 0)
        return request->conn->request_id;
    return strcasecmp(name, "Authorization") == 0 ? request->conn->authorization : NULL;
}

const char *http_request_query(const struct http_request *request, const char *name) {
    (void)request;
    (void)name;
    return NULL;
}

bool http_request_client_gone(const struct http_request *request) {
    struct http_conn *conn = request->conn;
    conn->n_asked++;
    return conn->gone_after > 0 && conn->n_asked >= conn->gone_after;
}

void http_response_header(struct http_response *response, const char *name, const char *value) {
    int at = response->n_headers++;
    snprintf(response->headers[at].name, sizeof response->headers[at].name, "%s", name);
    snprintf(response->headers[at].value, sizeof response->headers[at].value, "%s", value);
}
