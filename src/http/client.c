/*
 * The HTTP client over libcurl; see client.h. Owns nothing beyond one call except libcurl's global state. Runs on the
 * caller's thread. Knows neither Ray nor a hub: retries, tokens and the meaning of a status are the caller's.
 */
#include "http/client.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "http/client_parts.h"

enum { CONNECT_TIMEOUT_MS = 10000, STALL_TIMEOUT_S = 60, MAX_REDIRECTS = 10, NO_PROXY_BYTES = 4096 };

/* What no proxy can reach on our behalf. Names are left to $no_proxy. */
static const char private_networks[] =
    "localhost,127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,100.64.0.0/10,::1,fc00::/7,fe80::/10";

static pthread_once_t g_once = PTHREAD_ONCE_INIT;
static CURLcode g_setup_code;

static void setup_once(void) { g_setup_code = curl_global_init(CURL_GLOBAL_DEFAULT); }

int http_client_setup(struct err *err) {
    pthread_once(&g_once, setup_once);
    return g_setup_code == CURLE_OK ? 0 : err_set(err, ERR_INTERNAL, "libcurl cannot start: %s", curl_easy_strerror(g_setup_code));
}

/* A status line begins a new response (after a redirect or a 100): only the last one's headers are kept. */
static size_t on_header(char *line, size_t one, size_t len_bytes, void *ctx) {
    struct http_transfer *transfer = ctx;
    (void)one;
    if (len_bytes >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        long status = 0;
        curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
        transfer->answer->status = (int)status;
        buf_clear(&transfer->answer->headers);
    }
    return buf_append(&transfer->answer->headers, line, len_bytes) == 0 ? len_bytes : 0;
}

static size_t on_body(char *bytes, size_t one, size_t len_bytes, void *ctx) {
    struct http_transfer *transfer = ctx;
    (void)one;
    long status = 0;
    curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
    transfer->answer->status = (int)status;
    if (transfer->call->sink != NULL && status >= 200 && status < 300) {
        if (transfer->call->sink(transfer->call->sink_ctx, bytes, len_bytes) == 0)
            return len_bytes;
        transfer->sink_stopped = true;
        return 0;
    }
    return buf_append(&transfer->answer->body, bytes, len_bytes) == 0 ? len_bytes : 0;
}

/* "GET http://host:port/path", without user and query, which may hold secrets. */
static void describe(const struct http_call *call, char *ret_text, size_t size_bytes) {
    char *text = NULL;
    CURLU *url = curl_url();
    if (url != NULL && curl_url_set(url, CURLUPART_URL, call->url, 0) == CURLUE_OK) {
        curl_url_set(url, CURLUPART_USER, NULL, 0);
        curl_url_set(url, CURLUPART_PASSWORD, NULL, 0);
        curl_url_set(url, CURLUPART_QUERY, NULL, 0);
        curl_url_set(url, CURLUPART_FRAGMENT, NULL, 0);
        curl_url_get(url, CURLUPART_URL, &text, CURLU_DEFAULT_PORT);
    }
    snprintf(ret_text, size_bytes, "%s %.500s", call->method, text != NULL ? text : call->url);
    curl_free(text);
    curl_url_cleanup(url);
}

static bool has_header(const struct http_call *call, const char *name) {
    size_t len = strlen(name);
    for (const char *const *line = call->headers; line != NULL && *line != NULL; line++)
        if (strncasecmp(*line, name, len) == 0 && (*line)[len] == ':')
            return true;
    return false;
}

static int add_line(struct curl_slist **list, const char *line, struct err *err) {
    if (strpbrk(line, "\r\n") != NULL)
        return err_set(err, ERR_INVALID, "the request header '%.*s' holds a line break", (int)strcspn(line, ":\r\n"), line);
    struct curl_slist *grown = curl_slist_append(*list, line);
    if (grown == NULL)
        return err_set(err, ERR_NOMEM, "no memory for request headers");
    *list = grown;
    return 0;
}

static int make_headers(const struct http_call *call, struct curl_slist **ret_list, struct err *err) {
    struct curl_slist *list = NULL;
    for (const char *const *line = call->headers; line != NULL && *line != NULL; line++)
        if (add_line(&list, *line, err) != 0)
            goto free_list;
    /* An empty value takes out what libcurl would add by itself: a wait for "100 Continue", and a type for forms. */
    if (add_line(&list, "Expect:", err) != 0 || (!has_header(call, "Content-Type") && add_line(&list, "Content-Type:", err) != 0))
        goto free_list;
    *ret_list = list;
    return 0;
free_list:
    curl_slist_free_all(list);
    return -1;
}

static void set_method(CURL *curl, const struct http_call *call) {
    if (strcmp(call->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
        return;
    }
    bool is_post = strcmp(call->method, "POST") == 0;
    if (is_post || call->body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_bytes);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body != NULL ? call->body : "");
    }
    if (!is_post && strcmp(call->method, "GET") != 0)
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, call->method);
}

static void set_options(CURL *curl, const struct http_call *call) {
    char no_proxy[NO_PROXY_BYTES];
    const char *listed = getenv("no_proxy");
    if (listed == NULL || *listed == '\0')
        listed = getenv("NO_PROXY");
    if (listed != NULL && strcmp(listed, "*") == 0)
        snprintf(no_proxy, sizeof no_proxy, "*");
    else
        snprintf(no_proxy, sizeof no_proxy, "%s,%s", private_networks, listed != NULL ? listed : "");

    curl_easy_setopt(curl, CURLOPT_URL, call->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, no_proxy);
    curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "shoal/" SHOAL_VERSION);
    const char *authorities = getenv("CURL_CA_BUNDLE");
    if (authorities == NULL || *authorities == '\0')
        authorities = getenv("SSL_CERT_FILE");
    if (authorities != NULL && *authorities != '\0')
        curl_easy_setopt(curl, CURLOPT_CAINFO, authorities);

    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(call->connect_timeout_ms > 0 ? call->connect_timeout_ms : CONNECT_TIMEOUT_MS));
    if (call->timeout_ms > 0) {
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)call->timeout_ms);
    } else {
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)(call->stall_timeout_s > 0 ? call->stall_timeout_s : STALL_TIMEOUT_S));
    }
    if (call->follow_redirects) {
        curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
        curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
        curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, strncasecmp(call->url, "https:", 6) == 0 ? "https" : "http,https");
    }
    set_method(curl, call);
}

static int explain(const struct http_transfer *transfer, CURLcode code, struct err *err) {
    char what[600];
    describe(transfer->call, what, sizeof what);
    const char *detail = transfer->detail[0] != '\0' ? transfer->detail : curl_easy_strerror(code);
    if (transfer->sink_stopped)
        return err_set(err, ERR_CANCELLED, "%s: stopped by the receiver", what);
    if (transfer->answer->body.failed)
        return err_set(err, ERR_LIMIT, "%s: the answer is larger than the %zu bytes that are accepted", what,
                       transfer->answer->body.limit_bytes);
    if (transfer->answer->headers.failed)
        return err_set(err, ERR_LIMIT, "%s: the answer's headers are larger than the %zu bytes that are accepted", what,
                       transfer->answer->headers.limit_bytes);
    long n_connects = 0;
    curl_easy_getinfo(transfer->curl, CURLINFO_NUM_CONNECTS, &n_connects);
    if (code == CURLE_UNSUPPORTED_PROTOCOL && n_connects > 0 && transfer->answer->status == 0)
        return err_set(err, ERR_PEER, "%s: what listens there does not speak HTTP", what);
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT: return err_set(err, ERR_TIMEOUT, "%s: %s", what, detail);
    case CURLE_OUT_OF_MEMORY: return err_set(err, ERR_NOMEM, "%s: %s", what, detail);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return err_set(err, ERR_INVALID, "%s: %s; an address begins with http:// or https://", what, detail);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return err_set(err, ERR_AUTH, "%s: %s (CURL_CA_BUNDLE names a file with further certificate authorities)", what, detail);
    default: return err_set(err, ERR_PEER, "%s: %s", what, detail);
    }
}

int http_transfer_init(const struct http_call *call, struct http_answer *answer, struct http_transfer *ret, struct err *err) {
    if (http_client_setup(err) != 0)
        return -1;
    CURL *curl = curl_easy_init();
    if (curl == NULL)
        return err_set(err, ERR_NOMEM, "no memory for an HTTP call");
    *ret = (struct http_transfer){.call = call, .answer = answer, .curl = curl};
    if (make_headers(call, &ret->headers, err) != 0) {
        curl_easy_cleanup(curl);
        return -1;
    }
    answer->status = 0;
    buf_clear(&answer->body);
    buf_clear(&answer->headers);
    set_options(curl, call);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, ret->headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, ret->detail);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, ret);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, ret);
    return 0;
}

int http_transfer_result(struct http_transfer *transfer, CURLcode code, struct err *err) {
    long status = 0;
    if (code != CURLE_OK)
        return explain(transfer, code, err);
    curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
    transfer->answer->status = (int)status;
    return 0;
}

void http_transfer_finish(struct http_transfer *transfer) {
    curl_slist_free_all(transfer->headers);
    curl_easy_cleanup(transfer->curl);
}

int http_client_call(const struct http_call *call, struct http_answer *ret, struct err *err) {
    struct http_transfer transfer;
    if (http_transfer_init(call, ret, &transfer, err) != 0)
        return -1;
    int result = http_transfer_result(&transfer, curl_easy_perform(transfer.curl), err);
    http_transfer_finish(&transfer);
    return result;
}

int http_client_header(const struct http_answer *answer, const char *name, char *ret_value, size_t size_bytes) {
    size_t name_bytes = strlen(name);
    for (const char *line = buf_str(&answer->headers); *line != '\0';) {
        size_t line_bytes = strcspn(line, "\r\n");
        if (line_bytes > name_bytes && line[name_bytes] == ':' && strncasecmp(line, name, name_bytes) == 0) {
            const char *value = line + name_bytes + 1;
            size_t value_bytes = line_bytes - name_bytes - 1;
            while (value_bytes > 0 && (*value == ' ' || *value == '\t')) {
                value++;
                value_bytes--;
            }
            while (value_bytes > 0 && (value[value_bytes - 1] == ' ' || value[value_bytes - 1] == '\t'))
                value_bytes--;
            snprintf(ret_value, size_bytes, "%.*s", (int)value_bytes, value);
            return 0;
        }
        line += line_bytes;
        line += strspn(line, "\r\n");
    }
    return -1;
}
