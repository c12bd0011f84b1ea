/*
 * Ships this program to the nodes as a package of Ray's (--ray-ship-binary): a zip with the one file "shoal", named after
 * the program's hash, so that it is uploaded once. Ray unpacks it and keeps the executable bit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/progress.h"
#include "cluster/ray_call.h"

enum { PACKAGE_LIMIT_BYTES = 100 << 20, NAME_HASH_BYTES = 16, UPLOAD_TIMEOUT_MS = 300000 };

/* The zip's bytes into `out`; libzip owns the source while the archive is open. */
static int make_zip(const struct buf *program, struct buf *out, struct err *err) {
    zip_error_t why;
    zip_error_init(&why);
    int result = -1;
    zip_source_t *target = zip_source_buffer_create(NULL, 0, 0, &why);
    if (target == NULL)
        goto fail;
    zip_source_keep(target); /* zip_close drops one reference, and the bytes are read after it */
    zip_t *archive = zip_open_from_source(target, ZIP_TRUNCATE, &why);
    if (archive == NULL) {
        zip_source_free(target);
        goto free_target;
    }
    zip_source_t *content = zip_source_buffer(archive, program->data, program->len_bytes, 0);
    zip_int64_t index = content == NULL ? -1 : zip_file_add(archive, "shoal", content, ZIP_FL_ENC_UTF_8);
    if (index < 0 || zip_file_set_external_attributes(archive, (zip_uint64_t)index, 0, ZIP_OPSYS_UNIX, (S_IFREG | 0755u) << 16) != 0 ||
        zip_close(archive) != 0) {
        zip_error_set(&why, zip_error_code_zip(zip_get_error(archive)), 0);
        if (index < 0 && content != NULL)
            zip_source_free(content);
        zip_discard(archive);
        goto free_target;
    }
    zip_stat_t st;
    if (zip_source_stat(target, &st) != 0 || !(st.valid & ZIP_STAT_SIZE) || zip_source_open(target) != 0) {
        zip_error_set(&why, ZIP_ER_READ, 0);
        goto free_target;
    }
    char *room = buf_reserve(out, (size_t)st.size);
    if (room == NULL) {
        err_set(err, ERR_LIMIT, "the package has %llu bytes, Ray takes at most %d", (unsigned long long)st.size, PACKAGE_LIMIT_BYTES);
    } else if (zip_source_read(target, room, st.size) != (zip_int64_t)st.size) {
        zip_error_set(&why, ZIP_ER_READ, 0);
        room = NULL;
    } else {
        out->len_bytes += (size_t)st.size;
        result = 0;
    }
    zip_source_close(target);
free_target:
    zip_source_free(target);
fail:
    if (result != 0 && zip_error_code_zip(&why) != ZIP_ER_OK)
        err_set(err, ERR_IO, "cannot make a package: %s", zip_error_strerror(&why));
    zip_error_fini(&why);
    return result;
}

static int upload(const struct cluster_ray *ray, const char *path, const struct buf *program, struct err *err) {
    struct buf zip;
    char size[16];
    buf_init(&zip, PACKAGE_LIMIT_BYTES);
    int result = make_zip(program, &zip, err);
    if (result == 0) {
        log_info("Uploading this program to Ray (%s)", progress_bytes_text(zip.len_bytes, size));
        struct cluster_ray_request request = {.method = "PUT",
                                              .path = path,
                                              .content_type = "Content-Type: application/octet-stream",
                                              .body = zip.data,
                                              .body_bytes = zip.len_bytes,
                                              .timeout_ms = UPLOAD_TIMEOUT_MS};
        result = cluster_ray_call(ray, &request, NULL, err);
    }
    buf_finish(&zip);
    return result;
}

int cluster_ray_ship(const struct cluster_ray *ray, const char *program_path, char *ret_uri, size_t size_bytes, struct err *err) {
    struct buf program;
    struct err absent;
    uint8_t digest[HASH_SHA256_BYTES];
    char hex[2 * NAME_HASH_BYTES + 1], path[128];
    buf_init(&program, 4 * (size_t)PACKAGE_LIMIT_BYTES);
    int result = file_read(program_path, &program, err);
    if (result == 0)
        result = hash_sha256_file(program_path, digest, err);
    if (result == 0) {
        hash_hex(digest, NAME_HASH_BYTES, hex);
        snprintf(path, sizeof path, "/api/packages/gcs/_ray_pkg_%s.zip", hex);
        result = cluster_ray_call(ray, &(struct cluster_ray_request){.method = "GET", .path = path}, NULL, &absent);
        if (result != 0 && absent.code == ERR_NOT_FOUND)
            result = upload(ray, path, &program, err);
        else if (result != 0)
            err_copy(err, &absent);
    }
    buf_finish(&program);
    if (result == 0)
        snprintf(ret_uri, size_bytes, "gcs://_ray_pkg_%s.zip", hex);
    return result == 0 ? 0 : err_wrap(err, "shipping %s to Ray", program_path);
}
