/*
 * Brings one file of a hub to the disk: into PATH.incomplete, on from where an earlier run stopped, hashed on the way,
 * renamed when size and hash are right. Runs on the resolving thread, blocks for the network and the disk. Knows
 * neither the layout of a cache nor which files are needed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "http/client.h"
#include "weights/hub_parts.h"

enum { MAX_ERROR_BODY_BYTES = 1 << 16, MAX_HEADER_BYTES = 1 << 18, CHUNK_BYTES = 1 << 20 };
/* Attempts in a row that brought nothing, and attempts in all: a link that breaks now and then still gets through. */
enum { MAX_VAIN_TRIES = 5, MAX_TRIES = 200, FIRST_PAUSE_MS = 250, STALL_S = 30 };

struct transfer {
    const struct hub_file *file;
    const char *path; /* of the incomplete file */
    int fd;
    EVP_MD_CTX *hash; /* over the bytes before `at`; NULL when there is no hash to compare with */
    uint64_t at;
    struct hub_bar *bar;
    const struct http_answer *answer;
    bool has_begun; /* this attempt's body */
    struct err err; /* why the sink stopped the call */
};

static EVP_MD_CTX *begin_hash(const struct hub_file *file) {
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    char head[32];
    if (hash == NULL || EVP_DigestInit_ex(hash, file->hash_kind == HUB_HASH_SHA256 ? EVP_sha256() : EVP_sha1(), NULL) != 1) {
        EVP_MD_CTX_free(hash);
        return NULL;
    }
    if (file->hash_kind == HUB_HASH_GIT)
        EVP_DigestUpdate(hash, head, (size_t)snprintf(head, sizeof head, "blob %llu", (unsigned long long)file->size_bytes) + 1);
    return hash;
}

static bool has_hash(const struct hub_file *file) {
    return file->hash_kind == HUB_HASH_SHA256 || (file->hash_kind == HUB_HASH_GIT && file->has_size);
}

static bool hash_matches(const struct hub_file *file, EVP_MD_CTX *hash, char ret_found[HUB_HASH_BYTES]) {
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    EVP_DigestFinal_ex(hash, digest, &len);
    hash_hex(digest, len, ret_found);
    return strcmp(ret_found, file->hash) == 0;
}

/* Feeds the first len_bytes of the file to the hash. */
static int hash_begin_of(int fd, const char *path, uint64_t len_bytes, EVP_MD_CTX *hash, struct err *err) {
    int result = 0;
    char *chunk = malloc(CHUNK_BYTES);
    if (chunk == NULL)
        return err_set(err, ERR_NOMEM, "no memory to hash %s", path);
    for (uint64_t at = 0; at < len_bytes && result == 0;) {
        size_t part = len_bytes - at < CHUNK_BYTES ? (size_t)(len_bytes - at) : CHUNK_BYTES;
        result = file_pread_all(fd, chunk, part, at, path, err);
        if (result == 0)
            EVP_DigestUpdate(hash, chunk, part);
        at += part;
    }
    free(chunk);
    return result;
}

int weights_hub_compare(const struct hub_file *file, const char *path, struct err *err) {
    char found[HUB_HASH_BYTES];
    struct stat st;
    int result = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    EVP_MD_CTX *hash = begin_hash(file);
    if (hash == NULL || fstat(fd, &st) != 0)
        err_set(err, ERR_IO, "cannot hash %s", path);
    else if (hash_begin_of(fd, path, (uint64_t)st.st_size, hash, err) == 0)
        result = hash_matches(file, hash, found) ? 0 : 1;
    EVP_MD_CTX_free(hash);
    close(fd);
    return result;
}

/* Throws away what is there of the file. */
static int start_over(struct transfer *transfer, struct err *err) {
    transfer->bar->done_bytes -= transfer->at;
    transfer->at = 0;
    if (transfer->hash != NULL) {
        EVP_MD_CTX_free(transfer->hash);
        transfer->hash = begin_hash(transfer->file);
        if (transfer->hash == NULL)
            return err_set(err, ERR_NOMEM, "no memory to hash %s", transfer->path);
    }
    if (ftruncate(transfer->fd, 0) != 0 || lseek(transfer->fd, 0, SEEK_SET) != 0)
        return err_set(err, ERR_IO, "cannot write %s: %s", transfer->path, strerror(errno));
    return 0;
}

/* A server that ignores the range answers 200 and begins with the first byte. */
static int begin_body(struct transfer *transfer) {
    char range[64];
    unsigned long long from = 0;
    transfer->has_begun = true;
    if (transfer->answer->status != 206)
        return transfer->at == 0 ? 0 : start_over(transfer, &transfer->err);
    if (http_client_header(transfer->answer, "Content-Range", range, sizeof range) != 0 || sscanf(range, "bytes %llu-", &from) != 1 ||
        from != transfer->at)
        return err_set(&transfer->err, ERR_PEER, "asked for bytes from %llu on, the answer begins at another place",
                       (unsigned long long)transfer->at);
    return 0;
}

static int on_bytes(void *ctx, const void *bytes, size_t len_bytes) {
    struct transfer *transfer = ctx;
    const char *from = bytes;
    if (!transfer->has_begun && begin_body(transfer) != 0)
        return -1;
    if (transfer->file->has_size && transfer->at + len_bytes > transfer->file->size_bytes)
        return err_set(&transfer->err, ERR_PEER, "more than the announced %llu bytes arrive",
                       (unsigned long long)transfer->file->size_bytes);
    for (size_t left = len_bytes; left > 0;) {
        ssize_t n = write(transfer->fd, from, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(&transfer->err, ERR_IO, "cannot write %s: %s", transfer->path, strerror(errno));
        from += n;
        left -= (size_t)n;
    }
    if (transfer->hash != NULL)
        EVP_DigestUpdate(transfer->hash, bytes, len_bytes);
    transfer->at += len_bytes;
    transfer->bar->done_bytes += len_bytes;
    progress_update(&transfer->bar->progress, transfer->bar->done_bytes, transfer->file->path);
    return 0;
}

/* One request for what is missing. ERR_PEER and ERR_TIMEOUT may pass. */
static int try_once(const struct hub_site *site, const char *url, struct transfer *transfer, struct err *err) {
    char range[64];
    const char *headers[3] = {0};
    int n_headers = 0, result = -1;
    struct http_answer answer = {0};
    if (*site->credential != '\0')
        headers[n_headers++] = site->credential;
    if (transfer->at > 0) {
        snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)transfer->at);
        headers[n_headers++] = range;
    }
    struct http_call call = {.method = "GET",
                             .url = url,
                             .headers = headers,
                             .stall_timeout_s = STALL_S,
                             .follow_redirects = 1,
                             .sink = on_bytes,
                             .sink_ctx = transfer};
    buf_init(&answer.body, MAX_ERROR_BODY_BYTES);
    buf_init(&answer.headers, MAX_HEADER_BYTES);
    transfer->answer = &answer;
    transfer->has_begun = false;
    transfer->err = (struct err){0};
    if (http_client_call(&call, &answer, err) != 0) {
        if (transfer->err.code != ERR_NONE)
            err_copy(err, &transfer->err);
    } else if (answer.status == 416) { /* there is more here than the hub has: another file */
        if (start_over(transfer, err) == 0)
            err_set(err, ERR_PEER, "the hub does not have the bytes that were asked for");
    } else if (answer.status < 200 || answer.status > 299) {
        weights_hub_explain_status(site, answer.status, "", err);
        if (answer.status == 404)
            err_set(err, ERR_NOT_FOUND, "%s has no such file", site->endpoint);
    } else if (transfer->file->has_size && transfer->at != transfer->file->size_bytes) {
        err_set(err, ERR_PEER, "only %llu of %llu bytes arrived", (unsigned long long)transfer->at,
                (unsigned long long)transfer->file->size_bytes);
    } else {
        result = 0;
    }
    buf_finish(&answer.body);
    buf_finish(&answer.headers);
    return result;
}

static int transfer_all(const struct hub_site *site, const char *url, struct transfer *transfer, struct err *err) {
    bool is_whole = transfer->file->has_size && transfer->at == transfer->file->size_bytes;
    for (int vain = 0, n = 0; !is_whole; n++) {
        struct err why = {0};
        uint64_t before = transfer->at;
        if (try_once(site, url, transfer, &why) == 0)
            return 0;
        vain = transfer->at > before ? 0 : vain + 1;
        if ((why.code != ERR_PEER && why.code != ERR_TIMEOUT) || vain >= MAX_VAIN_TRIES || n >= MAX_TRIES)
            return err_copy(err, &why);
        log_warning("%s: %s; going on from byte %llu", transfer->file->path, why.msg, (unsigned long long)transfer->at);
        clock_nap_ms(FIRST_PAUSE_MS << (vain < 5 ? vain : 5));
    }
    return 0;
}

/* What an earlier run left, hashed; more than the file can have is thrown away. */
static int resume(struct transfer *transfer, struct err *err) {
    struct stat st;
    if (fstat(transfer->fd, &st) != 0)
        return err_set(err, ERR_IO, "cannot look at %s: %s", transfer->path, strerror(errno));
    transfer->at = (uint64_t)st.st_size;
    transfer->bar->done_bytes += transfer->at;
    if (transfer->file->has_size && transfer->at > transfer->file->size_bytes)
        return start_over(transfer, err);
    if (transfer->hash != NULL && hash_begin_of(transfer->fd, transfer->path, transfer->at, transfer->hash, err) != 0)
        return -1;
    if (lseek(transfer->fd, (off_t)transfer->at, SEEK_SET) < 0)
        return err_set(err, ERR_IO, "cannot write %s: %s", transfer->path, strerror(errno));
    return 0;
}

int weights_hub_fetch(const struct hub_site *site, const char *commit, const struct hub_file *file, const char *path, struct hub_bar *bar,
                      struct err *err) {
    enum { N_ROUNDS = 2 }; /* a wrong hash may come from a broken earlier run: the second round starts from nothing */
    char incomplete[PATH_MAX], url[HUB_URL_BYTES], found[HUB_HASH_BYTES] = "";
    int result = -1;
    if (snprintf(incomplete, sizeof incomplete, "%s.incomplete", path) >= (int)sizeof incomplete)
        return err_set(err, ERR_INVALID, "the path %.400s is too long", path);
    weights_hub_file_url(site, commit, file->path, url);
    struct transfer transfer = {.file = file, .path = incomplete, .bar = bar};
    transfer.fd = open(incomplete, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (transfer.fd < 0)
        return err_set(err, ERR_IO, "cannot create %s: %s", incomplete, strerror(errno));
    if (has_hash(file) && (transfer.hash = begin_hash(file)) == NULL) {
        err_set(err, ERR_NOMEM, "no memory to hash %s", incomplete);
        goto close_fd;
    }
    if (resume(&transfer, err) != 0)
        goto close_fd;
    for (int round = 1;; round++) {
        if (transfer_all(site, url, &transfer, err) != 0)
            goto close_fd;
        if (transfer.hash == NULL || hash_matches(file, transfer.hash, found))
            break;
        if (start_over(&transfer, err) != 0)
            goto close_fd;
        if (round == N_ROUNDS) {
            err_set(err, ERR_INVALID, "what arrives is not what the hub announces: its %s is %s instead of %s",
                    file->hash_kind == HUB_HASH_SHA256 ? "SHA-256" : "git hash", found, file->hash);
            goto close_fd;
        }
        log_warning("%s: the hash is wrong; fetching it again from the begin", file->path);
    }
    if (fsync(transfer.fd) != 0 || rename(incomplete, path) != 0) {
        err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
        goto close_fd;
    }
    result = 0;
close_fd:
    EVP_MD_CTX_free(transfer.hash);
    close(transfer.fd);
    return result == 0 ? 0 : err_wrap(err, "downloading %s of %s", file->path, site->name);
}
