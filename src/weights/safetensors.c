/*
 * The header of a safetensors file: 8 bytes of length, then JSON that gives each tensor's type, shape and place; the
 * data follows without gaps. Runs on the opening thread. Knows nothing of models or of what a tensor is for.
 */
#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "weights/store_parts.h"

/* The limit that the format's reference implementation sets. */
static const uint64_t MAX_HEADER_BYTES = 100000000;

int weights_safetensors_dtype(const char *name) {
    static const struct {
        const char *name;
        enum dtype dtype;
    } known[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0)
            return (int)known[i].dtype;
    return -1;
}

/* Where one tensor lies in the data, to see that all together cover it exactly. */
struct extent {
    uint64_t begin, end;
    const char *name;
};

static int compare_extents(const void *a, const void *b) {
    const struct extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int read_extent(const json_t *entry, uint64_t data_bytes, struct extent *ret_extent, struct err *err) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) || json_integer_value(begin) < 0 ||
        json_integer_value(end) < json_integer_value(begin))
        return err_set(err, ERR_INVALID, "'data_offsets' should be two ascending numbers");
    ret_extent->begin = (uint64_t)json_integer_value(begin);
    ret_extent->end = (uint64_t)json_integer_value(end);
    if (ret_extent->end > data_bytes)
        return err_set(err, ERR_INVALID, "its data should end at byte %llu, but the file has only %llu bytes of data: it is truncated",
                       (unsigned long long)ret_extent->end, (unsigned long long)data_bytes);
    return 0;
}

/* *ret_n_dims may be larger than WEIGHTS_MAX_DIMS: then dims is not filled. */
static int read_shape(const json_t *entry, size_t *ret_n_dims, int64_t dims[WEIGHTS_MAX_DIMS], uint64_t *ret_count, struct err *err) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return err_set(err, ERR_INVALID, "'shape' should be a list, but is %s", json_type_name(shape));
    size_t n_dims = json_array_size(shape);
    uint64_t count = 1;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return err_set(err, ERR_INVALID, "'shape' should hold whole numbers from 0 up");
        if (__builtin_mul_overflow(count, (uint64_t)json_integer_value(dim), &count) || count > INT64_MAX)
            return err_set(err, ERR_INVALID, "'shape' multiplies to more than 2^63 elements");
        if (n_dims <= WEIGHTS_MAX_DIMS)
            dims[i] = json_integer_value(dim);
    }
    *ret_n_dims = n_dims;
    *ret_count = count;
    return 0;
}

static int read_entry(struct weights_store *store, int file, const char *name, const json_t *entry, bool wanted,
                      struct extent *ret_extent, struct err *err) {
    struct weights_tensor tensor = {.file = file};
    const char *format;
    size_t n_dims = 0;
    uint64_t count = 0;
    if (!json_is_object(entry))
        return err_set(err, ERR_INVALID, "its entry should be an object, but is %s", json_type_name(entry));
    if (json_get_str(entry, "dtype", "", &format, err) != 0 ||
        read_extent(entry, store->files[file].size_bytes - store->files[file].data_begin, ret_extent, err) != 0 ||
        read_shape(entry, &n_dims, tensor.dims, &count, err) != 0)
        return -1;
    ret_extent->name = name;
    tensor.offset = store->files[file].data_begin + ret_extent->begin;
    tensor.len_bytes = ret_extent->end - ret_extent->begin;
    tensor.n_dims = (int)n_dims;

    int dtype = weights_safetensors_dtype(format);
    uint64_t should_bytes;
    if (dtype >= 0 && (__builtin_mul_overflow(count, (uint64_t)dtype_block_bytes((enum dtype)dtype), &should_bytes) ||
                       should_bytes != tensor.len_bytes))
        return err_set(err, ERR_INVALID, "%llu elements of %s do not take %llu bytes", (unsigned long long)count, format,
                       (unsigned long long)tensor.len_bytes);
    if (!wanted)
        return 0;
    if (dtype < 0 || n_dims > WEIGHTS_MAX_DIMS || strlen(name) >= sizeof tensor.name)
        return weights_store_skip(store, name, &tensor, dtype < 0 ? format : "too many dimensions", err);
    tensor.dtype = (enum dtype)dtype;
    strcpy(tensor.name, name);
    return weights_store_add(store, &tensor, err);
}

static int check_cover(struct extent *extents, size_t n_extents, uint64_t data_bytes, struct err *err) {
    uint64_t at = 0;
    qsort(extents, n_extents, sizeof *extents, compare_extents);
    for (size_t i = 0; i < n_extents; i++) {
        if (extents[i].begin != at)
            return err_set(err, ERR_INVALID, "tensor '%.200s' begins at byte %llu of the data, but the one before it ends at %llu",
                           extents[i].name, (unsigned long long)extents[i].begin, (unsigned long long)at);
        at = extents[i].end;
    }
    return at == data_bytes ? 0
                            : err_set(err, ERR_INVALID, "the tensors take %llu bytes, but the file has %llu bytes of data",
                                      (unsigned long long)at, (unsigned long long)data_bytes);
}

/* The header's text, parsed; sets data_begin. */
static json_t *read_header(struct weights_file *file, struct err *err) {
    uint64_t len;
    json_t *header = NULL;
    if (file->size_bytes < sizeof len) {
        err_set(err, ERR_INVALID, "has %llu bytes, too few for a safetensors file", (unsigned long long)file->size_bytes);
        return NULL;
    }
    if (file_pread_all(file->fd, &len, sizeof len, 0, file->path, err) != 0)
        return NULL;
    len = le64toh(len);
    if (len > MAX_HEADER_BYTES) {
        err_set(err, ERR_INVALID,
                "is neither GGUF nor safetensors: its first 8 bytes announce a header of %llu bytes (at most %llu are accepted)",
                (unsigned long long)len, (unsigned long long)MAX_HEADER_BYTES);
        return NULL;
    }
    if (len > file->size_bytes - sizeof len) {
        err_set(err, ERR_INVALID,
                "announces a header of %llu bytes, but has only %llu bytes after that: it is truncated or not safetensors",
                (unsigned long long)len, (unsigned long long)(file->size_bytes - sizeof len));
        return NULL;
    }
    char *text = malloc(len + 1);
    if (text == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a header of %llu bytes", (unsigned long long)len);
        return NULL;
    }
    if (file_pread_all(file->fd, text, len, sizeof len, file->path, err) != 0)
        goto free_text;
    json_error_t where;
    header = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    if (header == NULL)
        err_set(err, ERR_INVALID, "its header is not valid JSON: byte %d: %s", where.position, where.text);
    else if (!json_is_object(header)) {
        err_set(err, ERR_INVALID, "its header should be a JSON object, but is a %s", json_type_name(header));
        json_decref(header);
        header = NULL;
    }
    file->data_begin = sizeof len + len;
free_text:
    free(text);
    return header;
}

int weights_safetensors_read(struct weights_store *store, int file, const json_t *weight_map, const char *file_name, size_t *ret_n_found,
                             struct err *err) {
    int result = -1;
    size_t n_extents = 0, n_found = 0;
    const char *name;
    json_t *entry;
    json_t *header = read_header(&store->files[file], err);
    if (header == NULL)
        return -1;
    struct extent *extents = calloc(json_object_size(header) + 1, sizeof *extents);
    if (extents == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %zu tensors", json_object_size(header));
        goto free_header;
    }
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        const char *place = json_string_value(json_object_get(weight_map, name));
        bool wanted = weight_map == NULL || (place != NULL && strcmp(place, file_name) == 0);
        if (read_entry(store, file, name, entry, wanted, &extents[n_extents], err) != 0) {
            err_wrap(err, "tensor '%.200s'", name);
            goto free_extents;
        }
        n_extents++;
        n_found += wanted;
    }
    if (check_cover(extents, n_extents, store->files[file].size_bytes - store->files[file].data_begin, err) != 0)
        goto free_extents;
    *ret_n_found = n_found;
    result = 0;
free_extents:
    free(extents);
free_header:
    json_decref(header);
    return result;
}
