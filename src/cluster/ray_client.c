/* Calls to Ray's dashboard; see ray_client.h. */
#include "cluster/ray_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "cluster/ray_call.h"
#include "cluster/ray_parse.h"

enum {
    CALL_TIMEOUT_MS = 15000,
    STOP_TIMEOUT_MS = 4000 /* the dashboard asks the node, which may be cut off */,
    PATH_BYTES = 512,
    DASHBOARD_PORT = 8265,
    GCS_PORT = 6379,
    REASON_BYTES = 300
};

static const char default_url[] = "http://127.0.0.1:8265";

static int use_url(const char *scheme, const char *rest, size_t rest_bytes, char ret_url[RAY_URL_BYTES], struct err *err) {
    while (rest_bytes > 0 && rest[rest_bytes - 1] == '/')
        rest_bytes--;
    int n = snprintf(ret_url, RAY_URL_BYTES, "%s%.*s", scheme, (int)rest_bytes, rest);
    if (rest_bytes == 0 || n < 0 || n >= RAY_URL_BYTES)
        return err_set(err, ERR_INVALID, "Ray's address '%s%.80s' should be the dashboard's, like %s", scheme, rest, default_url);
    return 0;
}

int cluster_ray_address(const char *given, char ret_url[RAY_URL_BYTES], struct err *err) {
    const char *address = given != NULL ? given : getenv("RAY_ADDRESS");
    if (address == NULL || address[0] == '\0' || strcmp(address, "auto") == 0)
        address = default_url;
    const char *scheme_end = strstr(address, "://");
    if (scheme_end != NULL && (strncasecmp(address, "http://", 7) == 0 || strncasecmp(address, "https://", 8) == 0))
        return use_url("", address, strlen(address), ret_url, err);
    if (strncasecmp(address, "ray://", 6) == 0)
        return err_set(err, ERR_INVALID, "%s is the address of Ray Client; shoal needs the dashboard's: http://%.*s:%d", address,
                       (int)strcspn(address + 6, ":/"), address + 6, DASHBOARD_PORT);
    const char *colon = strrchr(address, ':');
    char *end = NULL;
    long port = colon == NULL ? 0 : strtol(colon + 1, &end, 10);
    if (scheme_end != NULL || strcmp(address, "local") == 0 || (colon != NULL && (port < 1 || port > 65535 || *end != '\0')))
        return err_set(err, ERR_INVALID, "Ray's address '%.80s' should be the dashboard's, like %s or 10.0.0.1:%d", address, default_url,
                       DASHBOARD_PORT);
    char rest[RAY_URL_BYTES];
    int host_bytes = (int)(colon == NULL ? strlen(address) : (size_t)(colon - address));
    if (port == GCS_PORT)
        log_info("%s is the address of Ray's control store; asking the dashboard beside it, on port %d", address, DASHBOARD_PORT);
    int n = snprintf(rest, sizeof rest, "%.*s:%ld", host_bytes, address, colon == NULL || port == GCS_PORT ? (long)DASHBOARD_PORT : port);
    if (n < 0 || (size_t)n >= sizeof rest)
        return err_set(err, ERR_INVALID, "Ray's address is longer than %d characters", RAY_URL_BYTES);
    return use_url("http://", rest, strlen(rest), ret_url, err);
}

static int use_token(const char *token, size_t len_bytes, const char *source, struct cluster_ray *ray, struct err *err) {
    while (len_bytes > 0 && strchr(" \t\r\n", token[len_bytes - 1]) != NULL)
        len_bytes--;
    if (len_bytes == 0 || len_bytes >= RAY_TOKEN_BYTES)
        return err_set(err, ERR_INVALID, "%s should hold a token of 1 to %d characters, but has %zu", source, RAY_TOKEN_BYTES - 1,
                       len_bytes);
    for (size_t i = 0; i < len_bytes; i++)
        if (token[i] <= ' ' || token[i] > '~')
            return err_set(err, ERR_INVALID, "%s holds a character that no token has", source);
    snprintf(ray->authorization, sizeof ray->authorization, "Authorization: Bearer %.*s", (int)len_bytes, token);
    return 0;
}

static int find_token(struct cluster_ray *ray, struct err *err) {
    const char *token = getenv("RAY_AUTH_TOKEN"), *path = getenv("RAY_AUTH_TOKEN_PATH"), *home = getenv("HOME");
    char default_path[4096];
    if (token != NULL && token[0] != '\0')
        return use_token(token, strlen(token), "RAY_AUTH_TOKEN", ray, err);
    if (path == NULL || path[0] == '\0') {
        snprintf(default_path, sizeof default_path, "%s/.ray/auth_token", home == NULL ? "" : home);
        if (home == NULL || !file_exists(default_path))
            return 0;
        path = default_path;
    }
    struct buf text;
    buf_init(&text, RAY_TOKEN_BYTES);
    int result = file_read(path, &text, err);
    if (result != 0)
        err_wrap(err, "Ray's token");
    else
        result = use_token(buf_str(&text), text.len_bytes, path, ray, err);
    buf_finish(&text);
    return result;
}

int cluster_ray_call(const struct cluster_ray *ray, const struct cluster_ray_request *request, struct buf *ret_body, struct err *err) {
    char url[RAY_URL_BYTES + PATH_BYTES], reason[REASON_BYTES];
    const char *headers[4] = {NULL};
    int n_headers = 0;
    if (ray->authorization[0] != '\0')
        headers[n_headers++] = ray->authorization;
    if (request->content_type != NULL)
        headers[n_headers++] = request->content_type;
    snprintf(url, sizeof url, "%s%s", ray->url, request->path);
    struct http_call call = {.method = request->method,
                             .url = url,
                             .headers = headers,
                             .body = request->body,
                             .body_bytes = request->body_bytes,
                             .connect_timeout_ms = request->timeout_ms > 0 ? request->timeout_ms : 0,
                             .timeout_ms = request->timeout_ms > 0 ? request->timeout_ms : CALL_TIMEOUT_MS};
    struct http_answer answer = {0};
    buf_init(&answer.body, RAY_ANSWER_LIMIT_BYTES);
    buf_init(&answer.headers, 64 << 10);
    int result = http_client_call(&call, &answer, err);
    if (result != 0) {
        err_wrap(err, "Ray's dashboard %s", ray->url);
    } else if (answer.status == 401 || answer.status == 403) {
        result = err_set(err, ERR_AUTH,
                         ray->authorization[0] ? "Ray's dashboard %s does not accept the token that it was given (status %d)"
                                               : "Ray's dashboard %s wants a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (status %d)",
                         ray->url, answer.status);
    } else if (answer.status < 200 || answer.status > 299) {
        cluster_ray_parse_failure(buf_str(&answer.body), answer.body.len_bytes, reason, sizeof reason);
        result = err_set(err, answer.status == 404 ? ERR_NOT_FOUND : ERR_PEER, "Ray's dashboard %s answers %s %s with status %d: %s",
                         ray->url, request->method, request->path, answer.status, reason);
    } else if (ret_body != NULL) {
        buf_finish(ret_body);
        *ret_body = answer.body;
        answer.body = (struct buf){0};
    }
    buf_finish(&answer.body);
    buf_finish(&answer.headers);
    return result;
}

static int get(const struct cluster_ray *ray, const char *path, int timeout_ms, struct buf *ret_body, struct err *err) {
    return cluster_ray_call(ray, &(struct cluster_ray_request){.method = "GET", .path = path, .timeout_ms = timeout_ms}, ret_body, err);
}

/* http://127.0.0.1:…, http://localhost…, http://[::1]… */
static bool is_loopback(const char *url) {
    const char *host = strstr(url, "://") + 3;
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "localhost", 9) == 0 || strncmp(host, "[::1]", 5) == 0;
}

int cluster_ray_name(const char *address, struct cluster_ray *ret, struct err *err) {
    struct cluster_ray ray = {0};
    if (cluster_ray_address(address, ray.url, err) != 0 || find_token(&ray, err) != 0)
        return -1;
    *ret = ray;
    return 0;
}

int cluster_ray_open(const char *address, struct cluster_ray *ret, struct err *err) {
    struct cluster_ray ray;
    struct buf body = {0};
    const char *version = "of unknown version";
    if (cluster_ray_name(address, &ray, err) != 0)
        return -1;
    struct err why;
    if (get(&ray, "/api/version", 0, &body, &why) != 0) {
        err_copy(err, &why);
        if (why.code == ERR_AUTH)
            return -1;
        return err_wrap(
            err, "cannot ask Ray for its nodes (is the cluster up, and is this its dashboard? RAY_ADDRESS or --ray-address sets it)");
    }
    json_t *json = json_parse(buf_str(&body), body.len_bytes, NULL);
    if (!json_is_object(json) || json_get_str(json, "ray_version", version, &version, err) != 0) {
        json_decref(json);
        buf_finish(&body);
        return err_set(err, ERR_PEER, "%s answers, but is no Ray dashboard", ray.url);
    }
    log_info("Ray %s at %s", version, ray.url);
    if (ray.authorization[0] == '\0' && !is_loopback(ray.url))
        log_warning("Ray's dashboard %s needs no token: whoever reaches it can run programs on all nodes (RAY_AUTH_MODE=token closes it)",
                    ray.url);
    json_decref(json);
    buf_finish(&body);
    *ret = ray;
    return 0;
}

int cluster_ray_nodes(const struct cluster_ray *ray, struct cluster_offer *ret, int *ret_n, struct err *err) {
    struct buf body = {0};
    int result =
        get(ray, "/api/v0/nodes?limit=1000&detail=False&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE", 0, &body, err);
    if (result == 0)
        result = cluster_ray_parse_nodes(buf_str(&body), body.len_bytes, ret, ret_n, err);
    if (result == 0)
        result = get(ray, "/api/cluster_status", 0, &body, err);
    if (result == 0)
        result = cluster_ray_parse_usage(buf_str(&body), body.len_bytes, ret, *ret_n, err);
    buf_finish(&body);
    return result;
}

static json_t *job_json(const struct cluster_ray_job *job) {
    json_t *env = json_object(), *runtime = json_object();
    for (const char *const *at = job->env; at != NULL && at[0] != NULL; at += 2)
        json_object_set_new(env, at[0], json_string(at[1]));
    json_object_set_new(runtime, "env_vars", env);
    if (job->working_dir != NULL)
        json_object_set_new(runtime, "working_dir", json_string(job->working_dir));
    return json_pack("{s:s, s:s, s:{s:s}, s:i, s:o, s:{s:s*}}", "submission_id", job->id, "entrypoint", job->entrypoint, "entrypoint_label_selector",
                     "ray.io/node-id", job->node_id, "entrypoint_num_cpus", job->n_cpus, "runtime_env", runtime, "metadata",
                     "shoal_ranks", job->ranks);
}

int cluster_ray_submit(const struct cluster_ray *ray, const struct cluster_ray_job *job, struct err *err) {
    json_t *json = job_json(job);
    char *text = json == NULL ? NULL : json_text(json);
    json_decref(json);
    if (text == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a job");
    struct cluster_ray_request request = {
        .method = "POST", .path = "/api/jobs/", .content_type = "Content-Type: application/json", .body = text, .body_bytes = strlen(text)};
    int result = cluster_ray_call(ray, &request, NULL, err);
    free(text);
    return result;
}

static void job_path(const char *id, const char *rest, char ret_path[PATH_BYTES]) {
    snprintf(ret_path, PATH_BYTES, "/api/jobs/%s%s", id, rest);
}

int cluster_ray_status(const struct cluster_ray *ray, const char *id, int timeout_ms, struct cluster_ray_status *ret, struct err *err) {
    char path[PATH_BYTES];
    struct buf body = {0};
    job_path(id, "", path);
    int result = get(ray, path, timeout_ms, &body, err);
    if (result == 0)
        result = cluster_ray_parse_status(buf_str(&body), body.len_bytes, ret, err);
    buf_finish(&body);
    return result;
}

int cluster_ray_log(const struct cluster_ray *ray, const char *id, const char *node_id, struct cluster_tail *ret, struct err *err) {
    char path[PATH_BYTES];
    struct buf body = {0};
    snprintf(path, sizeof path, "/api/v0/logs/file?node_id=%s&filename=job-driver-%s.log&lines=%d", node_id, id, CLUSTER_TAIL_LINES);
    int result = get(ray, path, 0, &body, err);
    if (result == 0) {
        *ret = (struct cluster_tail){0};
        cluster_ray_parse_log(buf_str(&body), body.len_bytes, ret);
    }
    buf_finish(&body);
    return result;
}

int cluster_ray_stop(const struct cluster_ray *ray, const char *id, struct err *err) {
    char path[PATH_BYTES];
    job_path(id, "/stop", path);
    return cluster_ray_call(ray, &(struct cluster_ray_request){.method = "POST", .path = path, .timeout_ms = STOP_TIMEOUT_MS}, NULL, err);
}

int cluster_ray_delete(const struct cluster_ray *ray, const char *id, struct err *err) {
    char path[PATH_BYTES];
    job_path(id, "", path);
    return cluster_ray_call(ray, &(struct cluster_ray_request){.method = "DELETE", .path = path, .timeout_ms = STOP_TIMEOUT_MS}, NULL, err);
}
