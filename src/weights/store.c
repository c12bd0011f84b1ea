/*
 * The tensors of a model on disk; see store.h. Owns the open files and the list. One thread opens; then any thread
 * reads. Knows the two formats only through their readers (store_parts.h), and nothing of models.
 */
#include "weights/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "weights/gguf.h"
#include "weights/store_parts.h"

enum { MAX_FILES = 4096, MAX_TENSORS = 1 << 20, MAX_INDEX_BYTES = 100000000, MAX_CONFIG_BYTES = 4 << 20 };

/* Makes room for one more in an array that doubles. */
static int grow(void **array, int n, int *cap, size_t item_bytes, struct err *err) {
    if (n < *cap)
        return 0;
    if (n >= MAX_TENSORS)
        return err_set(err, ERR_LIMIT, "more than %d tensors", MAX_TENSORS);
    int grown_cap = *cap == 0 ? 256 : 2 * *cap;
    void *grown = realloc(*array, (size_t)grown_cap * item_bytes);
    if (grown == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a list of %d tensors", grown_cap);
    *array = grown;
    *cap = grown_cap;
    return 0;
}

int weights_store_add(struct weights_store *store, const struct weights_tensor *tensor, struct err *err) {
    if (grow((void **)&store->tensors, store->n_tensors, &store->cap_tensors, sizeof *store->tensors, err) != 0)
        return -1;
    store->tensors[store->n_tensors++] = *tensor;
    store->total_bytes += tensor->len_bytes;
    return 0;
}

int weights_store_skip(struct weights_store *store, const char *name, const struct weights_tensor *place, const char *format,
                       struct err *err) {
    log_debug("%s: tensor '%.200s' left out: %s", store->files[store->n_files - 1].path, name, format);
    if (strlen(name) >= WEIGHTS_NAME_BYTES)
        return 0;
    if (grow((void **)&store->skipped, store->n_skipped, &store->cap_skipped, sizeof *store->skipped, err) != 0)
        return -1;
    struct weights_skipped *skipped = &store->skipped[store->n_skipped++];
    skipped->tensor = *place;
    snprintf(skipped->tensor.name, sizeof skipped->tensor.name, "%s", name);
    snprintf(skipped->format, sizeof skipped->format, "%s", format);
    return 0;
}

static int add_file(struct weights_store *store, const char *path, struct err *err) {
    struct stat st;
    if (store->n_files >= MAX_FILES)
        return err_set(err, ERR_LIMIT, "more than %d files", MAX_FILES);
    struct weights_file *files = realloc(store->files, ((size_t)store->n_files + 1) * sizeof *files);
    if (files == NULL)
        return err_set(err, ERR_NOMEM, "no memory to open %s", path);
    store->files = files;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        err_set(err, ERR_INVALID, "%s is not a plain file", path);
        goto close_fd;
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        err_set(err, ERR_NOMEM, "no memory to open %s", path);
        goto close_fd;
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    store->files[store->n_files++] = (struct weights_file){.path = copy, .fd = fd, .size_bytes = (uint64_t)st.st_size};
    return 0;
close_fd:
    close(fd);
    return -1;
}

static int join(char ret_path[PATH_MAX], const char *folder, const char *name, struct err *err) {
    if (snprintf(ret_path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        return err_set(err, ERR_INVALID, "the path %.200s/%.200s is too long", folder, name);
    return 0;
}

static bool has_suffix(const char *text, const char *suffix) {
    size_t text_bytes = strlen(text), suffix_bytes = strlen(suffix);
    return text_bytes >= suffix_bytes && strcmp(text + text_bytes - suffix_bytes, suffix) == 0;
}

static int open_safetensors(struct weights_store *store, const char *path, struct err *err) {
    size_t n_found;
    if (add_file(store, path, err) != 0)
        return -1;
    if (weights_safetensors_read(store, store->n_files - 1, NULL, NULL, &n_found, err) != 0)
        return err_wrap(err, "%s", path);
    return 0;
}

/* "PREFIX-00001-of-00003.gguf" (part 1 of 3) into its three pieces; false for a name of another form. */
static bool parse_split_name(const char *path, size_t *ret_prefix_bytes, int *ret_part, int *ret_n_parts) {
    enum { TAIL_BYTES = sizeof "-00001-of-00003.gguf" - 1 };
    size_t len = strlen(path);
    int used = 0;
    if (len < TAIL_BYTES)
        return false;
    if (sscanf(path + len - TAIL_BYTES, "-%5d-of-%5d.gguf%n", ret_part, ret_n_parts, &used) != 2 || used != TAIL_BYTES)
        return false;
    *ret_prefix_bytes = len - TAIL_BYTES;
    return *ret_part >= 1 && *ret_part <= *ret_n_parts;
}

static int open_gguf_part(struct weights_store *store, const char *path, int part, int n_parts, struct err *err) {
    struct weights_gguf *gguf;
    int64_t no = 0, count = 1;
    if (add_file(store, path, err) != 0)
        return -1;
    if (weights_gguf_read(store, store->n_files - 1, &gguf, err) != 0)
        return err_wrap(err, "%s", path);
    weights_gguf_get_int(gguf, "split.no", &no);
    weights_gguf_get_int(gguf, "split.count", &count);
    if (part == 0)
        store->gguf = gguf;
    else
        weights_gguf_destroy(gguf);
    if (count > 1 && n_parts == 1)
        return err_set(err, ERR_INVALID, "%s is one of %lld parts; their names should end in -00001-of-%05lld.gguf and so on", path,
                       (long long)count, (long long)count);
    if (n_parts > 1 && (no != part || count != n_parts))
        return err_set(err, ERR_INVALID, "%s says inside that it is part %lld of %lld, but its name says %d of %d", path, (long long)no + 1,
                       (long long)count, part + 1, n_parts);
    return 0;
}

static int open_gguf(struct weights_store *store, const char *path, struct err *err) {
    size_t prefix_bytes;
    int named_part, n_parts;
    if (!parse_split_name(path, &prefix_bytes, &named_part, &n_parts))
        return open_gguf_part(store, path, 0, 1, err);
    for (int part = 0; part < n_parts; part++) {
        char part_path[PATH_MAX];
        if (snprintf(part_path, sizeof part_path, "%.*s-%05d-of-%05d.gguf", (int)prefix_bytes, path, part + 1, n_parts) >= PATH_MAX)
            return err_set(err, ERR_INVALID, "the path %.400s is too long", path);
        if (open_gguf_part(store, part_path, part, n_parts, err) != 0)
            return -1;
    }
    return 0;
}

/* By what the file begins with, so that a blob of a cache without an ending opens as well. */
static int open_file(struct weights_store *store, const char *path, struct err *err) {
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path, strerror(errno));
    ssize_t n = pread(fd, magic, sizeof magic, 0);
    close(fd);
    bool is_gguf = n == (ssize_t)sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
    if (!is_gguf && has_suffix(path, ".gguf"))
        return err_set(err, ERR_INVALID, "%s is not a GGUF file: it does not begin with the letters GGUF", path);
    return is_gguf ? open_gguf(store, path, err) : open_safetensors(store, path, err);
}

static bool is_safe_name(const char *name) {
    return *name != '\0' && *name != '/' && strcmp(name, "..") != 0 && strncmp(name, "../", 3) != 0 && strstr(name, "/../") == NULL &&
           !has_suffix(name, "/..");
}

static int compare_strings(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The distinct file names of a weight map, sorted; free() the array alone. */
static int list_shards(const json_t *weight_map, const char ***ret_names, size_t *ret_n_names, struct err *err) {
    size_t n_all = 0, n_names = 0;
    const char *tensor;
    json_t *value;
    const char **names = malloc((json_object_size(weight_map) + 1) * sizeof *names);
    if (names == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %zu tensors", json_object_size(weight_map));
    json_object_foreach((json_t *)weight_map, tensor, value) {
        const char *name = json_string_value(value);
        if (name == NULL || !is_safe_name(name)) {
            free(names);
            return err_set(err, ERR_INVALID, "'weight_map' should give a file of the same folder for '%.200s'", tensor);
        }
        names[n_all++] = name;
    }
    qsort(names, n_all, sizeof *names, compare_strings);
    for (size_t i = 0; i < n_all; i++)
        if (n_names == 0 || strcmp(names[n_names - 1], names[i]) != 0)
            names[n_names++] = names[i];
    *ret_names = names;
    *ret_n_names = n_names;
    return 0;
}

static int open_indexed(struct weights_store *store, const char *folder, const char *index_path, struct err *err) {
    int result = -1;
    const char **names = NULL;
    size_t n_names = 0, n_found = 0, n_expected = 0;
    json_t *index = json_parse_file(index_path, MAX_INDEX_BYTES, err);
    if (index == NULL)
        return -1;
    const json_t *weight_map = json_object_get(index, "weight_map");
    if (!json_is_object(weight_map)) {
        err_set(err, ERR_INVALID, "%s: 'weight_map' should be an object, but is %s", index_path, json_type_name(weight_map));
        goto free_index;
    }
    if (list_shards(weight_map, &names, &n_names, err) != 0) {
        err_wrap(err, "%s", index_path);
        goto free_index;
    }
    n_expected = json_object_size(weight_map);
    for (size_t i = 0; i < n_names; i++) {
        char path[PATH_MAX];
        size_t n_here = 0;
        if (join(path, folder, names[i], err) != 0 || add_file(store, path, err) != 0) {
            err_wrap(err, "%s", index_path);
            goto free_names;
        }
        if (weights_safetensors_read(store, store->n_files - 1, weight_map, names[i], &n_here, err) != 0) {
            err_wrap(err, "%s", path);
            goto free_names;
        }
        n_found += n_here;
    }
    if (n_found != n_expected) {
        err_set(err, ERR_INVALID, "%s names %zu tensors, but its %zu files hold only %zu of them", index_path, n_expected, n_names,
                n_found);
        goto free_names;
    }
    result = 0;
free_names:
    free(names);
free_index:
    json_decref(index);
    return result;
}

static int keep_safetensors(const struct dirent *entry) {
    return has_suffix(entry->d_name, ".safetensors") && strncmp(entry->d_name, "consolidated", 12) != 0;
}

/* Parts of a split GGUF after the first belong to the first. */
static int keep_gguf(const struct dirent *entry) {
    size_t prefix_bytes;
    int part = 1, n_parts;
    if (!has_suffix(entry->d_name, ".gguf"))
        return 0;
    return !parse_split_name(entry->d_name, &prefix_bytes, &part, &n_parts) || part == 1;
}

/* All files of the folder that `keep` likes, in order of their names; at most one when only_one is set. */
static int open_matching(struct weights_store *store, const char *folder, int (*keep)(const struct dirent *), bool only_one, int *ret_n,
                         struct err *err) {
    struct dirent **entries;
    int result = 0;
    int n = scandir(folder, &entries, keep, alphasort);
    if (n < 0)
        return err_set(err, ERR_IO, "cannot list the folder %s: %s", folder, strerror(errno));
    if (only_one && n > 1)
        result = err_set(err, ERR_INVALID, "%s holds %d models (%s, %s, …): name the file", folder, n, entries[0]->d_name,
                         entries[1]->d_name);
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        if (result == 0)
            result = join(path, folder, entries[i]->d_name, err);
        if (result == 0)
            result = open_file(store, path, err);
        free(entries[i]);
    }
    free(entries);
    *ret_n = n;
    return result;
}

static int open_folder(struct weights_store *store, const char *folder, struct err *err) {
    char path[PATH_MAX];
    int n = 0;
    if (join(path, folder, "model.safetensors.index.json", err) != 0)
        return -1;
    if (file_exists(path))
        return open_indexed(store, folder, path, err);
    if (join(path, folder, "model.safetensors", err) != 0)
        return -1;
    if (file_exists(path))
        return open_safetensors(store, path, err);
    if (open_matching(store, folder, keep_safetensors, false, &n, err) != 0)
        return -1;
    if (n == 0 && open_matching(store, folder, keep_gguf, true, &n, err) != 0)
        return -1;
    if (n > 0)
        return 0;
    return err_set(err, ERR_NOT_FOUND,
                   "%s holds no weights: neither model.safetensors.index.json, nor *.safetensors, nor a .gguf file"
                   " (.bin and .pth are not read)",
                   folder);
}

static int compare_names(const void *a, const void *b, void *ctx) {
    const struct weights_store *store = ctx;
    return strcmp(store->tensors[*(const int *)a].name, store->tensors[*(const int *)b].name);
}

static int compare_skipped(const void *a, const void *b) {
    return strcmp(((const struct weights_skipped *)a)->tensor.name, ((const struct weights_skipped *)b)->tensor.name);
}

static int sort_names(struct weights_store *store, struct err *err) {
    free(store->by_name);
    store->by_name = malloc(((size_t)store->n_tensors + 1) * sizeof *store->by_name);
    if (store->by_name == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a list of %d tensors", store->n_tensors);
    for (int i = 0; i < store->n_tensors; i++)
        store->by_name[i] = i;
    qsort_r(store->by_name, (size_t)store->n_tensors, sizeof *store->by_name, compare_names, store);
    store->n_named = store->n_tensors;
    for (int i = 1; i < store->n_tensors; i++) {
        const struct weights_tensor *tensor = &store->tensors[store->by_name[i]], *before = &store->tensors[store->by_name[i - 1]];
        if (strcmp(tensor->name, before->name) == 0)
            return err_set(err, ERR_INVALID, "tensor '%s' is there twice: in %s and in %s", tensor->name, store->files[before->file].path,
                           store->files[tensor->file].path);
    }
    return 0;
}

/* What the config.json beside the first file says of safetensors that are quantised. */
static int list_quantised(struct weights_store *store, struct err *err) {
    char path[PATH_MAX];
    const char *file = store->files[0].path, *slash = strrchr(file, '/');
    if (snprintf(path, sizeof path, "%.*s/config.json", slash == NULL ? 1 : (int)(slash - file), slash == NULL ? "." : file) >= PATH_MAX)
        return err_set(err, ERR_INVALID, "the path %.400s is too long", file);
    if (store->gguf != NULL || !file_exists(path))
        return 0;
    json_t *config = json_parse_file(path, MAX_CONFIG_BYTES, err);
    if (config == NULL)
        return -1;
    int rc = weights_quant_parse(config, &store->quant, err);
    json_decref(config);
    if (rc != 0)
        return err_wrap(err, "%s", path);
    if (store->n_skipped > 0)
        qsort(store->skipped, (size_t)store->n_skipped, sizeof *store->skipped, compare_skipped);
    return weights_quantised_list(store, err) != 0 ? -1 : sort_names(store, err);
}

int weights_store_open(const char *path, struct weights_store **ret_store, struct err *err) {
    struct weights_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return err_set(err, ERR_NOMEM, "no memory to open %s", path);
    if ((file_is_dir(path) ? open_folder : open_file)(store, path, err) != 0 || sort_names(store, err) != 0 ||
        list_quantised(store, err) != 0) {
        weights_store_close(store);
        return -1;
    }
    *ret_store = store;
    return 0;
}

void weights_store_close(struct weights_store *store) {
    if (store == NULL)
        return;
    for (int i = 0; i < store->n_files; i++) {
        close(store->files[i].fd);
        free(store->files[i].path);
    }
    weights_gguf_destroy(store->gguf);
    free(store->files);
    free(store->tensors);
    free(store->by_name);
    free(store->skipped);
    free(store->quantised);
    free(store);
}

int weights_store_count(const struct weights_store *store) { return store->n_tensors; }
const struct weights_tensor *weights_store_at(const struct weights_store *store, int index) { return &store->tensors[index]; }
const struct weights_gguf *weights_store_gguf(const struct weights_store *store) { return store->gguf; }
uint64_t weights_store_bytes(const struct weights_store *store) { return store->total_bytes; }
uint64_t weights_store_bytes_read(const struct weights_store *store) { return atomic_load(&store->bytes_read); }

const struct weights_tensor *weights_store_find(const struct weights_store *store, const char *name) {
    for (int low = 0, high = store->n_named; low < high;) {
        int middle = low + (high - low) / 2;
        const struct weights_tensor *tensor = &store->tensors[store->by_name[middle]];
        int order = strcmp(name, tensor->name);
        if (order == 0)
            return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct weights_skipped *weights_store_find_skipped(const struct weights_store *store, const char *name) {
    struct weights_skipped wanted;
    if (store->n_skipped == 0 || (size_t)snprintf(wanted.tensor.name, sizeof wanted.tensor.name, "%s", name) >= sizeof wanted.tensor.name)
        return NULL;
    return bsearch(&wanted, store->skipped, (size_t)store->n_skipped, sizeof *store->skipped, compare_skipped);
}

int weights_store_need(const struct weights_store *store, const char *name, const struct weights_tensor **ret_tensor, struct err *err) {
    const struct weights_tensor *tensor = weights_store_find(store, name);
    if (tensor != NULL) {
        *ret_tensor = tensor;
        return 0;
    }
    for (int i = 0; i < store->n_skipped; i++)
        if (strcmp(store->skipped[i].tensor.name, name) == 0)
            return err_set(err, ERR_UNSUPPORTED,
                           "tensor '%s' is stored as %s; shoal reads F32, F16 and BF16, gptq and fp8 where config.json has their"
                           " quantization_config, and from GGUF also Q8_0, Q4_0, Q4_1, Q4_K, Q5_K and Q6_K",
                           name, store->skipped[i].format);
    return err_set(err, ERR_NOT_FOUND, "there is no tensor '%s' among the %d of %s", name, store->n_tensors, store->files[0].path);
}

int weights_store_pread(const struct weights_store *store, struct weights_place place, uint64_t offset, void *dst, size_t len_bytes,
                        struct err *err) {
    const struct weights_file *file = &store->files[place.file];
    if (file_pread_all(file->fd, dst, len_bytes, place.offset + offset, file->path, err) != 0)
        return -1;
    /* The counter alone changes after opening; the store itself was never created const. */
    atomic_fetch_add_explicit(&((struct weights_store *)store)->bytes_read, len_bytes, memory_order_relaxed);
    return 0;
}

int weights_store_read(const struct weights_store *store, const struct weights_tensor *tensor, int64_t row_begin, int64_t n_rows,
                       int64_t col_begin, int64_t n_cols, void *dst, struct err *err) {
    int64_t rows = 1, cols = tensor->n_dims > 0 ? tensor->dims[tensor->n_dims - 1] : 1;
    for (int i = 0; i + 1 < tensor->n_dims; i++)
        rows *= tensor->dims[i];
    int block = dtype_block_weights(tensor->dtype);
    if (row_begin < 0 || n_rows < 0 || row_begin > rows || n_rows > rows - row_begin || col_begin < 0 || n_cols < 0 || col_begin > cols ||
        n_cols > cols - col_begin || col_begin % block != 0 || n_cols % block != 0)
        return err_set(err, ERR_INTERNAL, "rows %lld+%lld and columns %lld+%lld of tensor '%s' [%lld, %lld] in blocks of %d were asked for",
                       (long long)row_begin, (long long)n_rows, (long long)col_begin, (long long)n_cols, tensor->name, (long long)rows,
                       (long long)cols, block);

    struct weights_place place = {tensor->file, tensor->offset};
    uint64_t row_bytes = dtype_row_bytes(tensor->dtype, (size_t)cols), part_bytes = dtype_row_bytes(tensor->dtype, (size_t)n_cols);
    uint64_t from = (uint64_t)row_begin * row_bytes + dtype_row_bytes(tensor->dtype, (size_t)col_begin);
    int result = 0;
    if (tensor->quantised != 0)
        result = weights_quantised_read(store, tensor, row_begin, n_rows, col_begin, n_cols, dst, err);
    else if (n_cols == cols)
        result = weights_store_pread(store, place, from, dst, (uint64_t)n_rows * row_bytes, err);
    else
        for (int64_t row = 0; row < n_rows && result == 0; row++)
            result = weights_store_pread(store, place, from + (uint64_t)row * row_bytes, (char *)dst + (uint64_t)row * part_bytes,
                                         part_bytes, err);
    return result == 0 ? 0 : err_wrap(err, "tensor '%s'", tensor->name);
}

uint64_t weights_store_read_bytes(const struct weights_tensor *tensor, int64_t n_rows, int64_t n_cols) {
    double n_all = (double)tensor->dims[0] * (double)tensor->dims[1];
    if (tensor->quantised != 0)
        return (uint64_t)((double)tensor->len_bytes * (double)n_rows * (double)n_cols / n_all);
    return (uint64_t)n_rows * dtype_row_bytes(tensor->dtype, (size_t)n_cols);
}

static uint64_t fold(uint64_t hash, const void *bytes, size_t len_bytes) { return hash_xxh64(bytes, len_bytes, hash); }

/* The header whole, then pieces of the data spread evenly, the last bytes among them. */
static int fold_file(const struct weights_file *file, uint64_t *hash, struct err *err) {
    enum { CHUNK_BYTES = 1 << 16, PIECE_BYTES = 4096, N_PIECES = 16 };
    char *chunk = malloc(CHUNK_BYTES);
    int result = -1;
    if (chunk == NULL)
        return err_set(err, ERR_NOMEM, "no memory to read %s", file->path);
    *hash = fold(*hash, &file->size_bytes, sizeof file->size_bytes);
    for (uint64_t at = 0; at < file->data_begin; at += CHUNK_BYTES) {
        uint64_t len = file->data_begin - at < CHUNK_BYTES ? file->data_begin - at : CHUNK_BYTES;
        if (file_pread_all(file->fd, chunk, len, at, file->path, err) != 0)
            goto free_chunk;
        *hash = fold(*hash, chunk, len);
    }
    uint64_t data_bytes = file->size_bytes - file->data_begin;
    uint64_t piece_bytes = data_bytes < PIECE_BYTES ? data_bytes : PIECE_BYTES;
    for (uint64_t i = 0; i < N_PIECES; i++) {
        uint64_t at = file->data_begin + (data_bytes - piece_bytes) / (N_PIECES - 1) * i;
        if (i == N_PIECES - 1)
            at = file->size_bytes - piece_bytes;
        if (file_pread_all(file->fd, chunk, piece_bytes, at, file->path, err) != 0)
            goto free_chunk;
        *hash = fold(*hash, chunk, piece_bytes);
    }
    result = 0;
free_chunk:
    free(chunk);
    return result;
}

int weights_store_fingerprint(const struct weights_store *store, char ret_hex[17], struct err *err) {
    uint64_t hash = 0;
    for (int i = 0; i < store->n_tensors; i++) {
        const struct weights_tensor *tensor = &store->tensors[store->by_name[i]];
        hash = fold(hash, tensor->name, strlen(tensor->name) + 1);
        hash = fold(hash, &tensor->dtype, sizeof tensor->dtype);
        hash = fold(hash, tensor->dims, (size_t)tensor->n_dims * sizeof tensor->dims[0]);
        hash = fold(hash, &tensor->file, sizeof tensor->file);
        hash = fold(hash, &tensor->offset, sizeof tensor->offset);
    }
    for (int i = 0; i < store->n_files; i++)
        if (fold_file(&store->files[i], &hash, err) != 0)
            return -1;
    snprintf(ret_hex, 17, "%016llx", (unsigned long long)hash);
    return 0;
}
