/* Many calls on one thread; see client_many.h. Owns the multi handle and the calls under way. */
#include "http/client_many.h"

#include <stdlib.h>

#include "http/client_parts.h"

struct many_call {
    struct http_transfer transfer;
    http_many_done_fn done;
    void *ctx;
    struct many_call *next, **at; /* in the list; what points to this */
};

struct http_many {
    CURLM *multi;
    struct many_call *calls;
};

int http_many_create(int n_idle, struct http_many **ret, struct err *err) {
    if (http_client_setup(err) != 0)
        return -1;
    struct http_many *many = calloc(1, sizeof *many);
    if (many == NULL || (many->multi = curl_multi_init()) == NULL) {
        free(many);
        return err_set(err, ERR_NOMEM, "no memory for HTTP calls");
    }
    curl_multi_setopt(many->multi, CURLMOPT_MAXCONNECTS, (long)n_idle);
    *ret = many;
    return 0;
}

static void remove_call(struct http_many *many, struct many_call *call) {
    curl_multi_remove_handle(many->multi, call->transfer.curl);
    http_transfer_finish(&call->transfer);
    *call->at = call->next;
    if (call->next != NULL)
        call->next->at = call->at;
    free(call);
}

void http_many_destroy(struct http_many *many) {
    if (many == NULL)
        return;
    while (many->calls != NULL)
        remove_call(many, many->calls);
    curl_multi_cleanup(many->multi);
    free(many);
}

int http_many_add(struct http_many *many, const struct http_call *call, struct http_answer *answer, http_many_done_fn done, void *ctx,
                  struct err *err) {
    struct many_call *added = calloc(1, sizeof *added);
    if (added == NULL)
        return err_set(err, ERR_NOMEM, "no memory for an HTTP call");
    if (http_transfer_init(call, answer, &added->transfer, err) != 0)
        goto free_call;
    curl_easy_setopt(added->transfer.curl, CURLOPT_PRIVATE, added);
    CURLMcode code = curl_multi_add_handle(many->multi, added->transfer.curl);
    if (code != CURLM_OK) {
        err_set(err, ERR_INTERNAL, "libcurl takes no further call: %s", curl_multi_strerror(code));
        goto finish_transfer;
    }
    added->done = done;
    added->ctx = ctx;
    added->next = many->calls;
    added->at = &many->calls;
    if (added->next != NULL)
        added->next->at = &added->next;
    many->calls = added;
    return 0;
finish_transfer:
    http_transfer_finish(&added->transfer);
free_call:
    free(added);
    return -1;
}

int http_many_run(struct http_many *many, int timeout_ms, struct err *err) {
    int n_running, n_left;
    CURLMcode code = curl_multi_poll(many->multi, NULL, 0, timeout_ms, NULL);
    if (code == CURLM_OK)
        code = curl_multi_perform(many->multi, &n_running);
    if (code != CURLM_OK)
        return err_set(err, ERR_INTERNAL, "libcurl: %s", curl_multi_strerror(code));
    for (CURLMsg *message; (message = curl_multi_info_read(many->multi, &n_left)) != NULL;) {
        struct many_call *call;
        struct err why = {0};
        if (message->msg != CURLMSG_DONE || curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call) != CURLE_OK)
            continue;
        int result = http_transfer_result(&call->transfer, message->data.result, &why);
        http_many_done_fn done = call->done;
        void *ctx = call->ctx;
        remove_call(many, call);
        done(ctx, result, &why);
    }
    return 0;
}
