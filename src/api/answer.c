/* Answers of the API; see answer.h. */
#include "api/answer.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

enum { FLOAT_DIGITS = 9 /* tell every float32 apart */ };

static int fail_va(struct api_error *error, int status, const char *type, const char *param, const char *fmt, va_list args) {
    error->status = status;
    error->type = type == NULL ? "BadRequestError" : type;
    snprintf(error->param, sizeof error->param, "%s", param == NULL ? "" : param);
    vsnprintf(error->message, sizeof error->message, fmt, args);
    /* a cut must not leave half a character, which JSON would refuse */
    size_t len = strlen(error->message);
    error->message[len - utf8_incomplete_tail(error->message, len)] = '\0';
    return -1;
}

int api_fail(struct api_error *error, int status, const char *type, const char *param, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_va(error, status, type, param, fmt, args);
    va_end(args);
    return -1;
}

int api_refuse(struct api_error *error, const char *param, const char *value, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_va(error, 400, NULL, param, fmt, args);
    va_end(args);
    size_t len = strlen(error->message);
    if (value == NULL)
        snprintf(error->message + len, sizeof error->message - len, " (parameter=%s)", param);
    else
        snprintf(error->message + len, sizeof error->message - len, " (parameter=%s, value=%s)", param, value);
    return -1;
}

int api_fail_memory(struct api_error *error) { return api_fail(error, 500, "InternalServerError", NULL, "The server is out of memory."); }

char *api_text(const json_t *value) { return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(FLOAT_DIGITS)); }

void api_answer_json(struct http_response *ret, int status, json_t *body) {
    char *text = body == NULL ? NULL : api_text(body);
    json_decref(body);
    ret->status = text == NULL ? 500 : status;
    ret->body = text;
    ret->body_bytes = text == NULL ? 0 : strlen(text);
}

json_t *api_error_json(const struct api_error *error) {
    json_t *param = error->param[0] == '\0' ? json_null() : json_string(error->param);
    return json_pack("{s:{s:s, s:s, s:o, s:i}}", "error", "message", error->message, "type", error->type, "param", param, "code",
                     error->status);
}

void api_answer_error(struct http_response *ret, const struct api_error *error) {
    api_answer_json(ret, error->status, api_error_json(error));
    if (error->status == 503)
        http_response_header(ret, "retry-after", "1"); /* seconds: a place in the queue may be free by then */
}

void api_answer_detail(struct http_response *ret, int status, const char *detail) {
    api_answer_json(ret, status, json_pack("{s:s}", "detail", detail));
}
