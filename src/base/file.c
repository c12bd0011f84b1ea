/* Whole files and paths; see file.h. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_read(const char *path, struct buf *out, struct err *err) {
    int result = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path, strerror(errno));
    for (;;) {
        char chunk[65536];
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
            goto close_fd;
        }
        if (n == 0)
            break;
        if (buf_append(out, chunk, (size_t)n) != 0) {
            err_set(err, ERR_LIMIT, "%s is larger than the %zu bytes that are read of such a file", path, out->limit_bytes);
            goto close_fd;
        }
    }
    result = 0;
close_fd:
    close(fd);
    return result;
}

int file_write_atomic(const char *path, const void *bytes, size_t len_bytes, unsigned mode, struct err *err) {
    char temp[PATH_MAX];
    if (snprintf(temp, sizeof temp, "%s.tmp%ld", path, (long)getpid()) >= (int)sizeof temp)
        return err_set(err, ERR_INVALID, "the path %s is too long", path);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot create %s: %s", temp, strerror(errno));
    const char *at = bytes;
    while (len_bytes > 0) {
        ssize_t n = write(fd, at, len_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            goto fail;
        at += n;
        len_bytes -= (size_t)n;
    }
    if (fsync(fd) != 0 || rename(temp, path) != 0)
        goto fail;
    close(fd);
    return 0;
fail:
    err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    close(fd);
    unlink(temp);
    return -1;
}

int file_make_dirs(const char *path, struct err *err) {
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return err_set(err, ERR_INVALID, "the path %s is too long", path);
    for (char *slash = part + 1;; slash++) {
        if (*slash != '/' && *slash != '\0')
            continue;
        char keep = *slash;
        *slash = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return err_set(err, ERR_IO, "cannot create the folder %s: %s", part, strerror(errno));
        if (keep == '\0')
            return file_is_dir(path) ? 0 : err_set(err, ERR_IO, "%s is not a folder", path);
        *slash = keep;
    }
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int file_pread_all(int fd, void *dst, size_t len_bytes, uint64_t offset, const char *path, struct err *err) {
    char *at = dst;
    while (len_bytes > 0) {
        ssize_t n = pread(fd, at, len_bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "cannot read %s at byte %llu: %s", path, (unsigned long long)offset, strerror(errno));
        if (n == 0)
            return err_set(err, ERR_INVALID, "%s ends at byte %llu, but %zu more bytes are needed there: the file is truncated", path,
                           (unsigned long long)offset, len_bytes);
        at += n;
        offset += (uint64_t)n;
        len_bytes -= (size_t)n;
    }
    return 0;
}
