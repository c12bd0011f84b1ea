/* One HTTP call under way, for client.c and client_many.c only. */
#ifndef HTTP_CLIENT_PARTS_H
#define HTTP_CLIENT_PARTS_H

#include <curl/curl.h>
#include <stdbool.h>

#include "http/client.h"

struct http_transfer {
    const struct http_call *call;
    struct http_answer *answer;
    CURL *curl;
    struct curl_slist *headers;
    bool sink_stopped;
    char detail[CURL_ERROR_SIZE];
};

/* Sets up a handle for the call and empties the answer. The transfer must not move until http_transfer_finish. */
int http_transfer_init(const struct http_call *call, struct http_answer *answer, struct http_transfer *ret, struct err *err);
/* After libcurl is through with it: what http_client_call returns. */
int http_transfer_result(struct http_transfer *transfer, CURLcode code, struct err *err);
void http_transfer_finish(struct http_transfer *transfer);

#endif
