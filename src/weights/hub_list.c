/*
 * What a hub says about a model: Hugging Face's routes and ModelScope's, as one list of files. Runs on the resolving
 * thread, blocks for the network. Knows nothing of caches.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "http/client.h"
#include "weights/hub_parts.h"

enum { MAX_FILES = 20000, MAX_LISTING_BYTES = 64 << 20, MAX_HEADER_BYTES = 1 << 18, N_TRIES = 4, N_RELATIVE_REDIRECTS = 5 };
enum { PATIENT_CONNECT_MS = 10000, QUICK_CONNECT_MS = 3000, PATIENT_MS = 60000, QUICK_MS = 10000 };

bool weights_hub_is_safe_component(const char *text) {
    if (*text == '\0' || *text == '.')
        return false;
    for (; *text != '\0'; text++)
        if (!isalnum((unsigned char)*text) && strchr("._-", *text) == NULL)
            return false;
    return true;
}

bool weights_hub_is_safe_path(const char *path) {
    for (const char *part = path;; part++) {
        size_t len = strcspn(part, "/");
        if (len == 0 || *part == '.')
            return false;
        for (; len > 0; len--, part++)
            if ((unsigned char)*part < 0x20 || *part == 0x7f || *part == '\\')
                return false;
        if (*part == '\0')
            return true;
    }
}

/* Files that begin with a dot are real (.gitattributes) but never needed: left out by the callers, not refused here. */
static bool is_hidden(const char *path) { return path[0] == '.' && path[1] != '.' && path[1] != '/' && path[1] != '\0'; }

struct hub_file *weights_hub_listing_add(struct hub_listing *listing, const char *path, struct err *err) {
    if (!weights_hub_is_safe_path(path) || strlen(path) >= HUB_PATH_BYTES) {
        err_set(err, ERR_INVALID, "refusing the file name '%.200s': it could lie outside the model's folder", path);
        return NULL;
    }
    if (listing->n_files >= MAX_FILES) {
        err_set(err, ERR_LIMIT, "more than %d files", MAX_FILES);
        return NULL;
    }
    if (listing->n_files == listing->cap_files) {
        int cap = listing->cap_files == 0 ? 64 : 2 * listing->cap_files;
        struct hub_file *files = realloc(listing->files, (size_t)cap * sizeof *files);
        if (files == NULL) {
            err_set(err, ERR_NOMEM, "no memory for a list of %d files", cap);
            return NULL;
        }
        listing->files = files;
        listing->cap_files = cap;
    }
    struct hub_file *file = &listing->files[listing->n_files++];
    memset(file, 0, sizeof *file);
    strcpy(file->path, path);
    return file;
}

void weights_hub_listing_finish(struct hub_listing *listing) {
    free(listing->files);
    *listing = (struct hub_listing){0};
}

/* Appends text with all but unreserved characters as %XX; also_keep: further ones that stay ("/" in paths). */
static void append_encoded(char *url, const char *text, const char *also_keep) {
    size_t at = strlen(url);
    for (; *text != '\0' && at + 4 < HUB_URL_BYTES; text++) {
        if (isalnum((unsigned char)*text) || strchr("-._~", *text) != NULL || strchr(also_keep, *text) != NULL)
            url[at++] = *text;
        else
            at += (size_t)sprintf(url + at, "%%%02X", (unsigned char)*text);
    }
    url[at] = '\0';
}

void weights_hub_file_url(const struct hub_site *site, const char *commit, const char *path, char ret_url[HUB_URL_BYTES]) {
    const char *revision = *commit != '\0' ? commit : site->revision;
    if (site->is_modelscope) {
        snprintf(ret_url, HUB_URL_BYTES, "%s/api/v1/models/%s/repo?Revision=", site->endpoint, site->name);
        append_encoded(ret_url, revision, "");
        strcat(ret_url, "&FilePath=");
        append_encoded(ret_url, path, "");
    } else {
        snprintf(ret_url, HUB_URL_BYTES, "%s/%s/resolve/", site->endpoint, site->name);
        append_encoded(ret_url, revision, "");
        strcat(ret_url, "/");
        append_encoded(ret_url, path, "/");
    }
}

int weights_hub_explain_status(const struct hub_site *site, int status, const char *reason, struct err *err) {
    const char *variable = site->is_modelscope ? "MODELSCOPE_API_TOKEN" : "HF_TOKEN";
    char said[256] = "";
    if (*reason != '\0')
        snprintf(said, sizeof said, " (it says: %.220s)", reason);
    switch (status) {
    case 401:
        if (*site->credential != '\0')
            return err_set(err, ERR_AUTH, "%s does not let this account see %s%s: check the name, and the token in %s", site->endpoint,
                           site->name, said, variable);
        return err_set(err, ERR_AUTH, "%s knows no public model %s%s: check the spelling; for a private or gated model set %s to a token",
                       site->endpoint, site->name, said, variable);
    case 403:
        return err_set(err, ERR_AUTH,
                       "%s refuses access to %s%s: the model is gated; accept its conditions at %s/%s%s and set %s to a token of that"
                       " account",
                       site->endpoint, site->name, said, site->endpoint, site->is_modelscope ? "models/" : "", site->name, variable);
    case 404:
        return err_set(err, ERR_NOT_FOUND, "%s has no model %s with a revision '%s'%s: check the spelling", site->endpoint, site->name,
                       site->revision, said);
    default: return err_set(err, ERR_PEER, "%s answers with HTTP status %d%s", site->endpoint, status, said);
    }
}

/* A short reason that the hub gives beside an error status: its header, for it alone is plain text. */
static void read_reason(const struct http_answer *answer, char *ret_reason, size_t size_bytes) {
    if (http_client_header(answer, "X-Error-Message", ret_reason, size_bytes) != 0 &&
        http_client_header(answer, "X-Error-Code", ret_reason, size_bytes) != 0)
        *ret_reason = '\0';
    for (char *at = ret_reason; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = ' ';
}

static bool may_pass(int status) { return status == 408 || status == 429 || status >= 500; }

/* One call with retries. The answer is 2xx or 3xx. The caller has initialised and finishes both buffers. */
static int call_hub(const struct hub_site *site, const char *method, const char *url, bool is_patient, bool follow,
                    struct http_answer *ret, struct err *err) {
    const char *headers[] = {*site->credential != '\0' ? site->credential : NULL, NULL};
    struct http_call call = {.method = method,
                             .url = url,
                             .headers = headers,
                             .connect_timeout_ms = is_patient ? PATIENT_CONNECT_MS : QUICK_CONNECT_MS,
                             .timeout_ms = is_patient ? PATIENT_MS : QUICK_MS,
                             .follow_redirects = follow};
    for (int attempt = 1;; attempt++) {
        struct err why;
        char reason[256];
        if (http_client_call(&call, ret, &why) == 0) {
            if (ret->status >= 200 && ret->status < 400)
                return 0;
            read_reason(ret, reason, sizeof reason);
            weights_hub_explain_status(site, ret->status, reason, &why);
            if (!may_pass(ret->status))
                return err_copy(err, &why);
        } else if (why.code != ERR_PEER && why.code != ERR_TIMEOUT) {
            return err_copy(err, &why);
        }
        if (!is_patient || attempt >= N_TRIES)
            return err_copy(err, &why);
        log_warning("%s; trying again", why.msg);
        clock_nap_ms(250 << attempt);
    }
}

static bool is_hex(const char *text, size_t len) { return strlen(text) == len && strspn(text, "0123456789abcdef") == len; }

/* A hash by its length: 64 digits are a SHA-256 (of files in large-file storage), 40 a git blob's. */
static void set_hash(struct hub_file *file, const char *hash) {
    file->hash_kind = is_hex(hash, 64) ? HUB_HASH_SHA256 : is_hex(hash, 40) ? HUB_HASH_GIT : HUB_HASH_NONE;
    if (file->hash_kind != HUB_HASH_NONE)
        snprintf(file->hash, sizeof file->hash, "%s", hash);
    if (weights_hub_is_safe_component(hash))
        snprintf(file->blob, sizeof file->blob, "%.64s", hash);
}

static int set_size(struct hub_file *file, const json_t *size, struct err *err) {
    if (!json_is_integer(size))
        return 0;
    if (json_integer_value(size) < 0)
        return err_set(err, ERR_INVALID, "a size of %lld bytes for '%s'", (long long)json_integer_value(size), file->path);
    file->has_size = true;
    file->size_bytes = (uint64_t)json_integer_value(size);
    return 0;
}

static int parse_huggingface(const json_t *info, struct hub_listing *listing, struct err *err) {
    size_t i;
    json_t *sibling;
    const char *commit = json_string_value(json_object_get(info, "sha"));
    if (commit == NULL || strlen(commit) < 7 || strlen(commit) >= HUB_HASH_BYTES || !weights_hub_is_safe_component(commit))
        return err_set(err, ERR_INVALID, "the answer names no commit in 'sha'");
    strcpy(listing->commit, commit);
    json_array_foreach(json_object_get(info, "siblings"), i, sibling) {
        const char *path = json_string_value(json_object_get(sibling, "rfilename"));
        const json_t *lfs = json_object_get(sibling, "lfs");
        if (path == NULL)
            return err_set(err, ERR_INVALID, "file %zu of the answer has no 'rfilename'", i + 1);
        if (is_hidden(path))
            continue;
        struct hub_file *file = weights_hub_listing_add(listing, path, err);
        if (file == NULL || set_size(file, json_object_get(sibling, "size"), err) != 0)
            return -1;
        const char *hash = json_string_value(json_object_get(lfs, "sha256"));
        if (hash == NULL)
            hash = json_string_value(json_object_get(sibling, "blobId"));
        if (hash != NULL)
            set_hash(file, hash);
    }
    return 0;
}

static int parse_modelscope(const json_t *answer, struct hub_listing *listing, struct err *err) {
    size_t i;
    json_t *entry;
    const json_t *files = json_object_get(json_object_get(answer, "Data"), "Files");
    const char *message = json_string_value(json_object_get(answer, "Message"));
    if (!json_is_array(files)) /* errors come with status 200, too */
        return err_set(err, ERR_NOT_FOUND, "it holds no list of files (it says: %.200s)", message != NULL ? message : "nothing");
    json_array_foreach(files, i, entry) {
        const char *type = json_string_value(json_object_get(entry, "Type"));
        const char *path = json_string_value(json_object_get(entry, "Path"));
        const char *hash = json_string_value(json_object_get(entry, "Sha256"));
        if (path == NULL)
            return err_set(err, ERR_INVALID, "file %zu of the answer has no 'Path'", i + 1);
        if ((type != NULL && strcmp(type, "tree") == 0) || is_hidden(path))
            continue;
        struct hub_file *file = weights_hub_listing_add(listing, path, err);
        if (file == NULL || set_size(file, json_object_get(entry, "Size"), err) != 0)
            return -1;
        if (hash != NULL && is_hex(hash, 64))
            set_hash(file, hash);
    }
    return 0;
}

int weights_hub_list(const struct hub_site *site, bool is_patient, struct hub_listing *ret_listing, struct err *err) {
    char url[HUB_URL_BYTES];
    struct http_answer answer = {0};
    struct hub_listing listing = {0};
    int result = -1;
    if (site->is_modelscope) {
        snprintf(url, sizeof url, "%s/api/v1/models/%s/repo/files?Revision=", site->endpoint, site->name);
        append_encoded(url, site->revision, "");
        strcat(url, "&Recursive=true");
    } else {
        snprintf(url, sizeof url, "%s/api/models/%s/revision/", site->endpoint, site->name);
        append_encoded(url, site->revision, "");
        strcat(url, "?blobs=true");
    }
    buf_init(&answer.body, MAX_LISTING_BYTES);
    buf_init(&answer.headers, MAX_HEADER_BYTES);
    if (call_hub(site, "GET", url, is_patient, true, &answer, err) != 0)
        goto finish_answer;
    json_t *json = json_parse(buf_str(&answer.body), answer.body.len_bytes, err);
    if (json == NULL) {
        err_wrap(err, "the list of %s from %s", site->name, site->endpoint);
        goto finish_answer;
    }
    result = (site->is_modelscope ? parse_modelscope : parse_huggingface)(json, &listing, err);
    json_decref(json);
    if (result == 0 && listing.n_files == 0)
        result = err_set(err, ERR_NOT_FOUND, "it names no files");
    if (result != 0) {
        err_wrap(err, "the list of %s from %s", site->name, site->endpoint);
        weights_hub_listing_finish(&listing);
        goto finish_answer;
    }
    *ret_listing = listing;
finish_answer:
    buf_finish(&answer.body);
    buf_finish(&answer.headers);
    return result;
}

/* W/"abc" and "abc" → abc, in place. */
static char *strip_quotes(char *etag) {
    if (strncmp(etag, "W/", 2) == 0)
        etag += 2;
    if (*etag == '"')
        etag++;
    etag[strcspn(etag, "\"")] = '\0';
    return etag;
}

int weights_hub_describe(const struct hub_site *site, const char *commit, struct hub_file *file, struct err *err) {
    char url[HUB_URL_BYTES], value[HUB_URL_BYTES];
    struct http_answer answer = {0};
    int result = -1;
    weights_hub_file_url(site, commit, file->path, url);
    buf_init(&answer.body, MAX_HEADER_BYTES);
    buf_init(&answer.headers, MAX_HEADER_BYTES);
    /* A redirect within the hub (a renamed model) is followed; one to a storage host is not: this answer's headers count. */
    for (int i = 0; i <= N_RELATIVE_REDIRECTS; i++) {
        if (call_hub(site, "HEAD", url, true, false, &answer, err) != 0)
            goto finish_answer;
        if (answer.status < 300 || http_client_header(&answer, "Location", value, sizeof value) != 0 || *value != '/' || value[1] == '/')
            break;
        snprintf(url, sizeof url, "%s%.3000s", site->endpoint, value);
    }
    if (http_client_header(&answer, "X-Linked-Etag", value, sizeof value) == 0 ||
        http_client_header(&answer, "ETag", value, sizeof value) == 0)
        set_hash(file, strip_quotes(value));
    if (http_client_header(&answer, "X-Linked-Size", value, sizeof value) == 0 ||
        (answer.status < 300 && http_client_header(&answer, "Content-Length", value, sizeof value) == 0)) {
        char *end;
        unsigned long long size = strtoull(value, &end, 10);
        file->has_size = end != value && *end == '\0';
        file->size_bytes = file->has_size ? size : 0;
    }
    result = 0;
finish_answer:
    buf_finish(&answer.body);
    buf_finish(&answer.headers);
    return result;
}
