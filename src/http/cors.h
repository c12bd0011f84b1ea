/*
 * Cross-origin rules (CORS) as vLLM answers them: which headers an answer carries for a browser, and the answer to
 * a preflight. Any thread; no state beyond the list of allowed origins.
 */
#ifndef HTTP_CORS_H
#define HTTP_CORS_H

#include <stdbool.h>

#include "http/server.h"

/* True for an OPTIONS request with Origin and Access-Control-Request-Method. */
bool http_cors_is_preflight(const struct http_request *request);
/* The whole answer to a preflight: 200 "OK", or 400 "Disallowed CORS origin". */
void http_cors_preflight(const char *const *allowed_origins, const struct http_request *request, struct http_response *ret);
/* Adds what any other answer needs. */
void http_cors_decorate(const char *const *allowed_origins, const struct http_request *request, struct http_response *response);

#endif
