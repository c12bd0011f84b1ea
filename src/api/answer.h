/*
 * Answers of the API: JSON bodies and errors in vLLM's shapes. Any thread; no state.
 */
#ifndef API_ANSWER_H
#define API_ANSWER_H

#include <jansson.h>
#include <stdarg.h>

#include "http/server.h"

/* An error on its way to the client. type NULL: BadRequestError. */
struct api_error {
    int status;
    const char *type; /* static */
    char param[128];  /* "": null */
    char message[4096];
};

/* All return -1, so that `return api_fail(…)` reads as one statement. */
int api_fail(struct api_error *error, int status, const char *type, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* 400 whose message ends in " (parameter=…, value=…)", as vLLM's checks write it; value NULL leaves that part out. */
int api_refuse(struct api_error *error, const char *param, const char *value, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* 500 for what is nobody's fault outside. */
int api_fail_memory(struct api_error *error);

/* Compact text with floats as precise as float32 is; free() it. NULL when memory is out. */
char *api_text(const json_t *value);
/* Takes over the reference; NULL becomes an answer of status 500. */
void api_answer_json(struct http_response *ret, int status, json_t *body);
void api_answer_error(struct http_response *ret, const struct api_error *error);
/* {"error":{"message":…,"type":…,"param":…,"code":…}}, a new reference or NULL. */
json_t *api_error_json(const struct api_error *error);
/* {"detail":"…"}, as the framework under vLLM answers for routes. */
void api_answer_detail(struct http_response *ret, int status, const char *detail);

#endif
