/* Cross-origin rules; see cors.h. */
#include "http/cors.h"

#include <string.h>

static bool any_allowed(const char *const *allowed) {
    for (; allowed != NULL && *allowed != NULL; allowed++)
        if (strcmp(*allowed, "*") == 0)
            return true;
    return false;
}

static bool origin_allowed(const char *const *allowed, const char *origin) {
    for (; allowed != NULL && *allowed != NULL; allowed++)
        if (strcmp(*allowed, "*") == 0 || strcmp(*allowed, origin) == 0)
            return true;
    return false;
}

static void allow_origin(const char *const *allowed, const char *origin, struct http_response *response) {
    http_response_header(response, "access-control-allow-origin", any_allowed(allowed) ? "*" : origin);
}

bool http_cors_is_preflight(const struct http_request *request) {
    return strcmp(request->method, "OPTIONS") == 0 && http_request_header(request, "Origin") != NULL &&
           http_request_header(request, "Access-Control-Request-Method") != NULL;
}

void http_cors_preflight(const char *const *allowed_origins, const struct http_request *request, struct http_response *ret) {
    const char *origin = http_request_header(request, "Origin");
    const char *wanted = http_request_header(request, "Access-Control-Request-Headers");
    bool allowed = origin_allowed(allowed_origins, origin);
    const char *text = allowed ? "OK" : "Disallowed CORS origin";
    *ret = (struct http_response){.status = allowed ? 200 : 400, .content_type = "text/plain; charset=utf-8", .body = strdup(text)};
    ret->body_bytes = ret->body == NULL ? 0 : strlen(text);
    http_response_header(ret, "vary",
                         "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network");
    http_response_header(ret, "access-control-allow-methods", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY");
    http_response_header(ret, "access-control-max-age", "600");
    if (!allowed)
        return;
    allow_origin(allowed_origins, origin, ret);
    if (wanted != NULL)
        http_response_header(ret, "access-control-allow-headers", wanted);
}

void http_cors_decorate(const char *const *allowed_origins, const struct http_request *request, struct http_response *response) {
    if (!any_allowed(allowed_origins))
        http_response_header(response, "vary", "Origin");
    const char *origin = http_request_header(request, "Origin");
    if (origin != NULL && origin_allowed(allowed_origins, origin))
        allow_origin(allowed_origins, origin, response);
}
