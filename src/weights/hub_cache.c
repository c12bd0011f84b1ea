/*
 * The caches that models are downloaded into: Hugging Face's (blobs by content, snapshots of links, refs) and
 * ModelScope's (plain folders). Runs on the resolving thread; other processes that fill the same cache are kept apart by
 * lock files. Knows no environment and no names that a user types.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "weights/hub_parts.h"

enum { MAX_INDEX_BYTES = 100000000, MAX_DEPTH = 3, LOCK_PAUSE_MS = 200 };
/* ModelScope's folders do not say which version a file is: up to this size it is told by its hash, above by its size. */
static const uint64_t REHASH_BYTES = 32 << 20;

int weights_hub_path(char ret_path[PATH_MAX], struct err *err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(ret_path, PATH_MAX, fmt, ap);
    va_end(ap);
    return len < PATH_MAX ? 0 : err_set(err, ERR_INVALID, "the path %.400s… is too long", ret_path);
}

/* ---- what is there already ---- */

static int list_folder(const char *folder, const char *below, int depth, struct hub_listing *listing, struct err *err) {
    char path[PATH_MAX], relative[PATH_MAX];
    int result = 0;
    if (weights_hub_path(path, err, "%s/%s", folder, below) != 0)
        return -1;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot list the folder %s: %s", path, strerror(errno));
    for (struct dirent *entry; result == 0 && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        result = weights_hub_path(relative, err, "%s%s%s", below, *below != '\0' ? "/" : "", entry->d_name);
        if (result == 0)
            result = weights_hub_path(path, err, "%s/%s", folder, relative);
        if (result != 0 || !file_exists(path)) /* a link to a blob that is not there is no file */
            continue;
        if (file_is_dir(path))
            result = depth < MAX_DEPTH ? list_folder(folder, relative, depth + 1, listing, err) : 0;
        else if (weights_hub_is_safe_path(relative) && weights_hub_listing_add(listing, relative, err) == NULL)
            result = -1;
    }
    closedir(dir);
    return result;
}

/* Are all files there that the index names? True also when there is no index. */
static bool has_indexed(const char *folder) {
    char path[PATH_MAX];
    const char *tensor;
    json_t *value;
    bool is_complete = true;
    if (weights_hub_path(path, NULL, "%s/model.safetensors.index.json", folder) != 0 || !file_exists(path))
        return true;
    json_t *index = json_parse_file(path, MAX_INDEX_BYTES, NULL);
    json_t *weight_map = json_object_get(index, "weight_map");
    json_object_foreach(weight_map, tensor, value) {
        const char *name = json_string_value(value);
        is_complete = is_complete && name != NULL && weights_hub_is_safe_path(name) &&
                      weights_hub_path(path, NULL, "%s/%s", folder, name) == 0 && file_exists(path);
    }
    is_complete = is_complete && json_object_size(weight_map) > 0;
    json_decref(index);
    return is_complete;
}

/*
 * Is what the user wants whole in this folder? Weights come last, so that with them the rest is there. Writes the path
 * of the folder or of the file in it.
 */
bool weights_hub_find_complete(const char *folder, const char *wanted, char ret_path[PATH_MAX]) {
    struct hub_listing listing = {0};
    char config[PATH_MAX];
    int main;
    bool is_complete = list_folder(folder, "", 0, &listing, NULL) == 0 && weights_hub_choose(&listing, wanted, &main, NULL) == 0;
    if (is_complete && main >= 0)
        is_complete = weights_hub_path(ret_path, NULL, "%s/%s", folder, listing.files[main].path) == 0;
    else if (is_complete)
        is_complete = weights_hub_path(config, NULL, "%s/config.json", folder) == 0 && file_exists(config) && has_indexed(folder) &&
                      weights_hub_path(ret_path, NULL, "%s", folder) == 0;
    weights_hub_listing_finish(&listing);
    return is_complete;
}

/* The commit of a revision as the cache remembers it: "" when it does not. */
void weights_hub_read_ref(const struct hub_place *place, const char *revision, char ret_commit[HUB_HASH_BYTES]) {
    char path[PATH_MAX];
    struct buf text;
    *ret_commit = '\0';
    if (strlen(revision) == 40 && strspn(revision, "0123456789abcdef") == 40) {
        strcpy(ret_commit, revision);
        return;
    }
    buf_init(&text, HUB_HASH_BYTES - 1);
    if (weights_hub_path(path, NULL, "%s/refs/%s", place->repo, revision) == 0 && file_read(path, &text, NULL) == 0) {
        snprintf(ret_commit, HUB_HASH_BYTES, "%.*s", (int)strcspn(buf_str(&text), " \r\n"), buf_str(&text));
        if (!weights_hub_is_safe_component(ret_commit))
            *ret_commit = '\0';
    }
    buf_finish(&text);
}

int weights_hub_write_ref(const struct hub_place *place, const char *revision, const char *commit, struct err *err) {
    char path[PATH_MAX];
    if (strcmp(revision, commit) == 0)
        return 0;
    if (weights_hub_path(path, err, "%s/refs/%s", place->repo, revision) != 0)
        return -1;
    char *slash = strrchr(path, '/');
    *slash = '\0';
    if (file_make_dirs(path, err) != 0)
        return -1;
    *slash = '/';
    return file_write_atomic(path, commit, strlen(commit), 0644, err);
}

/* ---- download ---- */

/* Waits until no other process holds the lock. The kernel gives it back when this process ends, however it ends. */
static int take_lock(const struct hub_place *place, const char *what, int *ret_fd, struct err *err) {
    char path[PATH_MAX];
    bool has_said = false;
    if (file_make_dirs(place->locks, err) != 0 || weights_hub_path(path, err, "%s/%s.lock", place->locks, what) != 0)
        return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot create %s: %s", path, strerror(errno));
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS) {
            log_warning("%s: this file system has no locks (%s); nothing keeps two downloads of a file apart", path, strerror(errno));
            break;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) {
            err_set(err, ERR_IO, "cannot lock %s: %s", path, strerror(errno));
            close(fd);
            return -1;
        }
        if (!has_said)
            log_info("Another process downloads the same file; waiting for it (%s)", path);
        has_said = true;
        clock_nap_ms(LOCK_PAUSE_MS);
    }
    *ret_fd = fd;
    return 0;
}

/* Where a file's bytes go, and the link that shows them under their name ("" where there are no links). */
static int file_paths(const struct hub_place *place, const char *commit, const struct hub_file *file, char ret_bytes[PATH_MAX],
                      char ret_link[PATH_MAX], struct err *err) {
    *ret_link = '\0';
    if (!place->has_blobs)
        return weights_hub_path(ret_bytes, err, "%s/%s", place->repo, file->path);
    if (weights_hub_path(ret_bytes, err, "%s/blobs/%s", place->repo, file->blob) != 0)
        return -1;
    return weights_hub_path(ret_link, err, "%s/snapshots/%s/%s", place->repo, commit, file->path);
}

static int make_parent(const char *path, struct err *err) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = '\0';
    return file_make_dirs(folder, err);
}

static uint64_t size_of(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* 1: there and right; 0: not there, or another version; -1: error. A blob's name says what is in it. */
static int is_present(const struct hub_place *place, const struct hub_file *file, const char *path, struct err *err) {
    if (!file_exists(path) || (file->has_size && size_of(path) != file->size_bytes))
        return 0;
    if (place->has_blobs || file->hash_kind == HUB_HASH_NONE || file->size_bytes > REHASH_BYTES)
        return 1;
    int different = weights_hub_compare(file, path, err);
    return different < 0 ? -1 : !different;
}

/* snapshots/COMMIT/a/b → ../../../blobs/BLOB */
static int make_link(const struct hub_file *file, const char *link_path, struct err *err) {
    char target[PATH_MAX] = "../..", temp[PATH_MAX];
    for (const char *slash = file->path; (slash = strchr(slash, '/')) != NULL; slash++)
        strncat(target, "/..", sizeof target - strlen(target) - 1);
    strncat(target, "/blobs/", sizeof target - strlen(target) - 1);
    strncat(target, file->blob, sizeof target - strlen(target) - 1);
    if (make_parent(link_path, err) != 0 || weights_hub_path(temp, err, "%s.tmp%ld", link_path, (long)getpid()) != 0)
        return -1;
    unlink(temp);
    if (symlink(target, temp) != 0 || rename(temp, link_path) != 0) {
        err_set(err, ERR_IO, "cannot link %s: %s", link_path, strerror(errno));
        unlink(temp);
        return -1;
    }
    return 0;
}

static int bring_file(const struct hub_site *site, const struct hub_place *place, const char *commit, const struct hub_file *file,
                      struct hub_bar *bar, struct err *err) {
    char bytes[PATH_MAX], link_path[PATH_MAX], lock[HUB_PATH_BYTES];
    int lock_fd = -1, result = -1;
    if (file_paths(place, commit, file, bytes, link_path, err) != 0 || make_parent(bytes, err) != 0)
        return -1;
    snprintf(lock, sizeof lock, "%s", place->has_blobs ? file->blob : file->path);
    for (char *slash = lock; (slash = strchr(slash, '/')) != NULL;)
        *slash = '_';
    if (take_lock(place, lock, &lock_fd, err) != 0)
        return -1;
    int present = is_present(place, file, bytes, err);
    if (present < 0)
        goto give_lock;
    if (present)
        bar->done_bytes += size_of(bytes);
    else if (weights_hub_fetch(site, commit, file, bytes, bar, err) != 0)
        goto give_lock;
    if (*link_path != '\0' && make_link(file, link_path, err) != 0)
        goto give_lock;
    result = 0;
give_lock:
    close(lock_fd);
    return result;
}

/* Bytes of the chosen files in all, there already in whole or in part, and still to come. */
static int measure(const struct hub_place *place, const char *commit, const struct hub_listing *listing, uint64_t *ret_total_bytes,
                   uint64_t *ret_there_bytes, struct err *err) {
    uint64_t total = 0, there = 0;
    for (int i = 0; i < listing->n_files; i++) {
        char bytes[PATH_MAX], link_path[PATH_MAX], incomplete[PATH_MAX];
        const struct hub_file *file = &listing->files[i];
        if (!file->is_chosen)
            continue;
        if (file_paths(place, commit, file, bytes, link_path, err) != 0 || weights_hub_path(incomplete, err, "%s.incomplete", bytes) != 0)
            return -1;
        total += file->size_bytes;
        uint64_t found = size_of(file_exists(bytes) ? bytes : incomplete);
        there += found < file->size_bytes ? found : file->size_bytes;
    }
    *ret_total_bytes = total;
    *ret_there_bytes = there;
    return 0;
}

static int check_space(const char *folder, uint64_t need_bytes, struct err *err) {
    struct statvfs fs;
    char need[16], free_text[16];
    if (statvfs(folder, &fs) != 0)
        return 0; /* the writes will tell */
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (need_bytes <= free_bytes)
        return 0;
    return err_set(err, ERR_IO,
                   "%s has %s free, but %s are still to be downloaded (--download-dir or HF_HOME choose another place)", folder,
                   progress_bytes_text(free_bytes, free_text), progress_bytes_text(need_bytes, need));
}

int weights_hub_bring_chosen(const struct hub_site *site, const struct hub_place *place, struct hub_listing *listing, struct err *err) {
    struct hub_bar bar = {0};
    char title[HUB_NAME_BYTES + 16];
    uint64_t total_bytes, there_bytes;
    const char *commit = listing->commit;
    for (int i = 0; i < listing->n_files; i++) {
        struct hub_file *file = &listing->files[i];
        if (!file->is_chosen)
            continue;
        bool is_described = file->has_size && (file->hash_kind != HUB_HASH_NONE || site->is_modelscope);
        if (!is_described && !site->is_modelscope && weights_hub_describe(site, commit, file, err) != 0)
            return err_wrap(err, "asking about %s of %s", file->path, site->name);
        if (place->has_blobs && *file->blob == '\0')
            return err_set(err, ERR_PEER, "%s gives no ETag for %s of %s, by which it could be kept", site->endpoint, file->path,
                           site->name);
    }
    if (file_make_dirs(place->repo, err) != 0 || measure(place, commit, listing, &total_bytes, &there_bytes, err) != 0 ||
        check_space(place->repo, total_bytes - there_bytes, err) != 0)
        return -1;
    snprintf(title, sizeof title, "Downloading %s", site->name);
    progress_start(&bar.progress, title, there_bytes, total_bytes);
    for (int pass = 0; pass < 2; pass++) /* weights last: see weights_hub_find_complete */
        for (int i = 0; i < listing->n_files; i++) {
            const struct hub_file *file = &listing->files[i];
            if (file->is_chosen && weights_hub_is_weights(file->path) == (pass == 1) &&
                bring_file(site, place, commit, file, &bar, err) != 0)
                return -1;
        }
    if (there_bytes < total_bytes)
        progress_finish(&bar.progress, bar.done_bytes, NULL);
    return 0;
}
