/* Whole files and paths. Blocks. Any thread. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* Appends the whole file to `out`; a file past the buffer's limit is ERR_LIMIT with both numbers. */
int file_read(const char *path, struct buf *out, struct err *err);
/* Writes to a temporary name beside `path`, syncs and renames, so that a reader sees the old or the new file. mode as for open(). */
int file_write_atomic(const char *path, const void *bytes, size_t len_bytes, unsigned mode, struct err *err);
/* mkdir -p. */
int file_make_dirs(const char *path, struct err *err);
bool file_exists(const char *path);
bool file_is_dir(const char *path);
/* Reads exactly len_bytes at offset. */
int file_pread_all(int fd, void *dst, size_t len_bytes, uint64_t offset, const char *path, struct err *err);

#endif
