/*
 * Packed shards on disk: one file for each shard, a header and then the very bytes of model->weights; see model_load_cached.
 *
 * The rank's main thread opens, checks and renames; the team's threads read or write a chunk each and hash it. The name says
 * which model and which shard it is; the header says it again, with the layout, the sizes and a hash of the data, so that
 * nothing is believed of a file but what was written as a whole. A file is replaced by renaming, never changed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "model/decoder.h"

enum { CHUNK_BYTES = 4 << 20, DATA_BEGIN = 4096 };

static const char MAGIC[8] = "shoalpk";

/* Little-endian, as all that shoal runs on; elsewhere the layout reads as another number. */
struct head {
    char magic[8];
    uint32_t layout, data_begin;
    char fingerprint[24];
    uint64_t shard; /* hash of the shard's rectangles and formats */
    uint64_t data_bytes, data_hash;
    uint64_t head_hash; /* of all before */
};

struct transfer {
    struct model *model;
    const char *path;
    int fd;
    bool is_write;
    model_progress *progress;
    const atomic_int *cancel;
    uint64_t *hashes; /* [n_chunks] */
    int n_chunks;
    atomic_int failed;
    struct err err; /* of the first that failed */
};

/* Which rectangles of which tensors the shard has, in which formats: all that its bytes depend on besides model and layout. */
static uint64_t shard_hash(const struct model *model) {
    uint64_t hash = 0;
    for (int i = 0; i < model->n_parts; i++) {
        const struct model_part *part = &model->parts[i];
        const int32_t fields[] = {(int32_t)part->tensor,        part->layer,     part->expert,    part->rows,   part->cols,
                                  part->row_begin,              part->n_rows,    part->col_begin, part->n_cols, (int32_t)part->dtype,
                                  (int32_t)part->source->dtype, part->matrix == NULL,
                                  part->matrix != NULL && part->matrix->is_i16};
        hash = hash_xxh64(fields, sizeof fields, hash);
    }
    return hash;
}

static struct head make_head(const struct model *model, const struct model_cache *cache, uint64_t data_hash) {
    struct head head = {.layout = KERNELS_LAYOUT_VERSION,
                        .data_begin = DATA_BEGIN,
                        .shard = shard_hash(model),
                        .data_bytes = model->weights_bytes,
                        .data_hash = data_hash};
    memcpy(head.magic, MAGIC, sizeof head.magic);
    snprintf(head.fingerprint, sizeof head.fingerprint, "%s", cache->fingerprint);
    head.head_hash = hash_xxh64(&head, offsetof(struct head, head_hash), 0);
    return head;
}

static int pwrite_all(int fd, const void *bytes, size_t len_bytes, uint64_t offset, const char *path, struct err *err) {
    const char *at = bytes;
    while (len_bytes > 0) {
        ssize_t n = pwrite(fd, at, len_bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
        at += n;
        offset += (uint64_t)n;
        len_bytes -= (size_t)n;
    }
    return 0;
}

static void move_chunks(void *arg, int thread) {
    struct transfer *t = arg;
    (void)thread;
    for (int i; (i = team_take(t->model->opts.team)) < t->n_chunks;) {
        struct err err;
        size_t at = (size_t)i * CHUNK_BYTES, left = t->model->weights_bytes - at, len = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        uint8_t *chunk = t->model->weights + at;
        if (atomic_load_explicit(&t->failed, memory_order_relaxed))
            return;
        int rc = t->cancel != NULL && atomic_load_explicit(t->cancel, memory_order_relaxed)
                     ? err_set(&err, ERR_CANCELLED, "loading was stopped")
                 : t->is_write ? pwrite_all(t->fd, chunk, len, DATA_BEGIN + at, t->path, &err)
                               : file_pread_all(t->fd, chunk, len, DATA_BEGIN + at, t->path, &err);
        if (rc != 0) {
            if (atomic_exchange(&t->failed, 1) == 0)
                t->err = err;
            return;
        }
        t->hashes[i] = hash_xxh64(chunk, len, 0);
        atomic_fetch_add_explicit(t->progress, len, memory_order_relaxed);
    }
}

/* Moves the shard's bytes from or to the file with the whole team. *ret_hash is over the chunks' hashes, which are made side by side. */
static int move_data(struct transfer *t, uint64_t *ret_hash, struct err *err) {
    t->n_chunks = (int)((t->model->weights_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
    t->hashes = malloc(((size_t)t->n_chunks + 1) * sizeof *t->hashes);
    if (t->hashes == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the hashes of %d chunks", t->n_chunks);
    team_run(t->model->opts.team, move_chunks, t);
    int rc = atomic_load(&t->failed) ? err_copy(err, &t->err) : 0;
    if (rc == 0)
        *ret_hash = hash_xxh64(t->hashes, (size_t)t->n_chunks * sizeof *t->hashes, 0);
    free(t->hashes);
    return rc;
}

/* Whether an open file is the shard as this program would write it; data_hash comes from the file. */
static int check_head(const struct model *model, const struct model_cache *cache, int fd, const char *path, struct head *ret,
                      struct err *err) {
    struct head head;
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return err_set(err, ERR_INVALID, "%s is not a plain file", path);
    if (file_pread_all(fd, &head, sizeof head, 0, path, err) != 0)
        return -1;
    struct head expected = make_head(model, cache, head.data_hash);
    if (memcmp(head.magic, expected.magic, sizeof head.magic) != 0)
        return err_set(err, ERR_INVALID, "%s does not begin as a packed shard does", path);
    if (head.layout != expected.layout)
        return err_set(err, ERR_INVALID, "%s was packed in layout %u; this program has layout %u", path, head.layout, expected.layout);
    if (memcmp(&head, &expected, sizeof head) != 0)
        return err_set(err, ERR_INVALID, "%s is damaged, or of another shard", path);
    if ((uint64_t)st.st_size != DATA_BEGIN + model->weights_bytes)
        return err_set(err, ERR_INVALID, "%s has %lld bytes; %llu are needed", path, (long long)st.st_size,
                       (unsigned long long)(DATA_BEGIN + model->weights_bytes));
    *ret = head;
    return 0;
}

/* ERR_NOT_FOUND: there is no such file. */
static int cache_read(struct model *model, const struct model_cache *cache, const char *path, model_progress *progress,
                      const atomic_int *cancel, struct err *err) {
    struct head head = {0};
    uint64_t hash = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), result = -1; /* a FIFO of that name holds nobody up */
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct transfer t = {.model = model, .path = path, .fd = fd, .progress = progress, .cancel = cancel};
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    if (check_head(model, cache, fd, path, &head, err) != 0 || move_data(&t, &hash, err) != 0)
        goto close_fd;
    if (hash != head.data_hash)
        err_set(err, ERR_INVALID, "%s is damaged: its data do not have the hash that its header gives", path);
    else
        result = 0;
close_fd:
    close(fd);
    return result;
}

/*
 * The temporary file has one name for all writers of a shard and is locked while it is written: what a writer that was killed
 * has left behind is written over by the next. 1: another process is writing; 0: *ret_fd is locked and empty.
 */
static int open_temporary(const char *temp, int *ret_fd, struct err *err) {
    struct stat mine, there;
    int fd = open(temp, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644), result = -1;
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot create %s: %s", temp, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        result = errno == EWOULDBLOCK ? 1 : err_set(err, ERR_IO, "cannot lock %s: %s", temp, strerror(errno));
        goto close_fd;
    }
    /* Between opening and locking, another writer may have finished and renamed it. */
    if (fstat(fd, &mine) != 0 || stat(temp, &there) != 0 || mine.st_ino != there.st_ino || mine.st_dev != there.st_dev) {
        result = 1;
        goto close_fd;
    }
    if (ftruncate(fd, 0) != 0) {
        err_set(err, ERR_IO, "cannot empty %s: %s", temp, strerror(errno));
        goto close_fd;
    }
    *ret_fd = fd;
    return 0;
close_fd:
    close(fd);
    return result;
}

static int write_shard(struct model *model, const struct model_cache *cache, int fd, const char *temp, const char *path,
                       model_progress *saved, const atomic_int *cancel, struct err *err) {
    struct transfer t = {.model = model, .path = temp, .fd = fd, .is_write = true, .progress = saved, .cancel = cancel};
    uint64_t hash = 0;
    /* Says at once that a disk is too full. */
    if (fallocate(fd, 0, 0, (off_t)(DATA_BEGIN + model->weights_bytes)) != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return err_set(err, ERR_IO, "cannot make room for %zu bytes in %s: %s", model->weights_bytes, temp, strerror(errno));
    if (move_data(&t, &hash, err) != 0)
        return -1;
    struct head head = make_head(model, cache, hash);
    if (pwrite_all(fd, &head, sizeof head, 0, temp, err) != 0)
        return -1;
    return rename(temp, path) == 0 ? 0 : err_set(err, ERR_IO, "cannot rename %s: %s", temp, strerror(errno));
}

/* Not synced to the disk: what a power cut leaves of it does not have its hash. */
static int cache_write(struct model *model, const struct model_cache *cache, const char *path, model_progress *saved,
                       const atomic_int *cancel, struct err *err) {
    char temp[PATH_MAX + 8];
    int fd = -1;
    snprintf(temp, sizeof temp, "%s.tmp", path);
    if (file_make_dirs(cache->folder, err) != 0)
        return -1;
    int rc = open_temporary(temp, &fd, err);
    if (rc != 0) {
        if (rc > 0)
            log_info("Another process is writing %s", path);
        return rc > 0 ? 0 : -1;
    }
    rc = write_shard(model, cache, fd, temp, path, saved, cancel, err);
    if (rc != 0)
        unlink(temp);
    close(fd);
    return rc;
}

int model_load_cached(struct model *model, const struct weights_store *store, const struct model_cache *cache, model_progress *progress,
                      model_progress *saved, const atomic_int *cancel, struct err *err) {
    struct err why;
    char path[PATH_MAX];
    if (model_load_prepare(model, store, err) != 0)
        return -1;
    if (snprintf(path, sizeof path, "%s/%.16s-%016llx.shard", cache->folder, cache->fingerprint, (unsigned long long)shard_hash(model)) >=
        (int)sizeof path)
        return err_set(err, ERR_INVALID, "the path of the weights cache %.200s… is too long", cache->folder);
    if (cache_read(model, cache, path, progress, cancel, &why) == 0)
        return 0;
    if (why.code == ERR_CANCELLED)
        return err_copy(err, &why);
    if (why.code != ERR_NOT_FOUND)
        log_warning("Weights cache: %s; the shard is loaded from the model and written anew", why.msg);
    /* Back to zeros: whatever came from the file is no part of the shard. */
    madvise(model->weights, model->weights_bytes, MADV_DONTNEED);
    atomic_store(progress, 0);
    if (model_load_read(model, store, progress, cancel, err) != 0)
        return -1;
    if (cache_write(model, cache, path, saved, cancel, &why) != 0) {
        if (why.code == ERR_CANCELLED)
            return err_copy(err, &why);
        log_warning("Weights cache: %s; the next start will read the model again", why.msg);
    }
    return 0;
}
