/*
 * Reader of GGUF headers (format: ggml/docs/gguf.md): metadata into a typed table, tensor records into the store. One thread while a
 * store is being opened; the table is immutable afterwards. Knows nothing of models.
 */
#include "weights/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "weights/store_parts.h"

enum { MAX_ENTRIES = 1 << 16, MAX_KEY_BYTES = 1 << 16, MAX_TENSORS = 1 << 20, WINDOW_BYTES = 1 << 20, MAX_ALIGNMENT = 1 << 20 };
/* A vocabulary of a million tokens with merges takes some 50 MB; nothing sane takes more than this. */
static const uint64_t MAX_METADATA_BYTES = 512u << 20;

/* Value types, by their numbers in the file. */
enum gguf_type { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_TYPES };
static const uint8_t type_bytes[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct gguf_entry {
    char *key;
    enum gguf_type type; /* of the value, or of the elements of an array */
    bool is_array;
    int64_t n;           /* elements; 1 for a single value */
    uint8_t *data;       /* numbers: n · type_bytes; strings: their bytes, each with a NUL */
    uint64_t *begin;     /* strings: [n + 1] offsets in data; the NULs are counted */
};

struct weights_gguf {
    struct gguf_entry *entries;
    int n_entries;
};

/* The header, read through a window; a read past the end of the file or of the limit is an error with its place. */
struct reader {
    const struct weights_file *file;
    uint64_t at;            /* place in the file of the next byte */
    uint8_t *window;
    uint64_t window_at;
    size_t window_bytes;
    uint64_t stored_bytes;  /* memory taken so far */
    struct err *err;
};

static int take(struct reader *in, void *dst, uint64_t n) {
    uint8_t *to = dst;
    if (n > in->file->size_bytes - in->at)
        return err_set(in->err, ERR_INVALID, "the header is cut off: %" PRIu64 " bytes are needed at byte %" PRIu64 ", the file has %" PRIu64, n, in->at,
                       in->file->size_bytes);
    while (n > 0) {
        if (in->at < in->window_at || in->at >= in->window_at + in->window_bytes) {
            uint64_t left = in->file->size_bytes - in->at;
            size_t bytes = left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES;
            if (file_pread_all(in->file->fd, in->window, bytes, in->at, in->file->path, in->err) != 0)
                return -1;
            in->window_at = in->at;
            in->window_bytes = bytes;
        }
        size_t offset = (size_t)(in->at - in->window_at), there = in->window_bytes - offset, part = n < there ? (size_t)n : there;
        memcpy(to, in->window + offset, part);
        to += part;
        in->at += part;
        n -= part;
    }
    return 0;
}

static void *reserve(struct reader *in, uint64_t bytes) {
    in->stored_bytes += bytes;
    if (bytes > MAX_METADATA_BYTES || in->stored_bytes > MAX_METADATA_BYTES) {
        err_set(in->err, ERR_LIMIT, "the metadata takes more than %" PRIu64 " bytes at byte %" PRIu64, MAX_METADATA_BYTES, in->at);
        return NULL;
    }
    void *memory = malloc(bytes > 0 ? bytes : 1);
    if (memory == NULL)
        err_set(in->err, ERR_NOMEM, "no memory for %" PRIu64 " bytes of metadata", bytes);
    return memory;
}

static int take_u32(struct reader *in, uint32_t *ret) { return take(in, ret, sizeof *ret); }
static int take_u64(struct reader *in, uint64_t *ret) { return take(in, ret, sizeof *ret); }

/* A short string, such as a key or a tensor's name, NUL-terminated and malloc'd. */
static int take_name(struct reader *in, char **ret) {
    uint64_t len;
    if (take_u64(in, &len) != 0)
        return -1;
    if (len > MAX_KEY_BYTES)
        return err_set(in->err, ERR_INVALID, "a name of %" PRIu64 " bytes at byte %" PRIu64 "; at most %d are possible", len, in->at, MAX_KEY_BYTES);
    char *name = reserve(in, len + 1);
    if (name == NULL)
        return -1;
    if (take(in, name, len) != 0) {
        free(name);
        return -1;
    }
    name[len] = '\0';
    *ret = name;
    return 0;
}

static int take_strings(struct reader *in, struct gguf_entry *entry) {
    uint64_t used = 0, cap = 0;
    entry->begin = reserve(in, ((uint64_t)entry->n + 1) * sizeof *entry->begin);
    if (entry->begin == NULL)
        return -1;
    for (int64_t i = 0; i < entry->n; i++) {
        uint64_t len;
        if (take_u64(in, &len) != 0)
            return -1;
        if (len > in->file->size_bytes - in->at)
            return err_set(in->err, ERR_INVALID, "a string of %" PRIu64 " bytes at byte %" PRIu64 " passes the end of the file", len, in->at);
        if (used + len + 1 > cap) {
            uint64_t grown = (used + len + 1) * 2;
            uint8_t *data = reserve(in, grown - cap); /* counts; the memory itself comes from realloc */
            free(data);
            data = data == NULL ? NULL : realloc(entry->data, grown);
            if (data == NULL)
                return in->err->code == ERR_LIMIT ? -1 : err_set(in->err, ERR_NOMEM, "no memory for %" PRIu64 " bytes of metadata", grown);
            entry->data = data;
            cap = grown;
        }
        entry->begin[i] = used;
        if (take(in, entry->data + used, len) != 0)
            return -1;
        entry->data[used + len] = '\0';
        used += len + 1;
    }
    entry->begin[entry->n] = used;
    return 0;
}

static int take_value(struct reader *in, struct gguf_entry *entry) {
    uint32_t type;
    uint64_t n = 1;
    if (take_u32(in, &type) != 0)
        return -1;
    entry->is_array = type == ARRAY;
    if (entry->is_array && (take_u32(in, &type) != 0 || take_u64(in, &n) != 0))
        return -1;
    if (type >= N_TYPES || type == ARRAY)
        return err_set(in->err, ERR_INVALID, "'%.200s' is of type %u, which is not known%s", entry->key, type, type == ARRAY ? " (lists of lists)" : "");
    /* Every element takes at least a byte of the file, a string eight: this bounds n before memory is asked for. */
    uint64_t least = type == STRING ? sizeof(uint64_t) : type_bytes[type];
    if (n > (in->file->size_bytes - in->at) / least)
        return err_set(in->err, ERR_INVALID, "'%.200s' says it has %" PRIu64 " elements, which passes the end of the file", entry->key, n);
    entry->type = (enum gguf_type)type;
    entry->n = (int64_t)n;
    if (type == STRING)
        return take_strings(in, entry);
    entry->data = reserve(in, n * type_bytes[type]);
    return entry->data == NULL ? -1 : take(in, entry->data, n * type_bytes[type]);
}

static int take_metadata(struct reader *in, uint64_t n_entries, struct weights_gguf *gguf) {
    if (n_entries > MAX_ENTRIES)
        return err_set(in->err, ERR_INVALID, "%" PRIu64 " metadata entries; at most %d are possible", n_entries, MAX_ENTRIES);
    gguf->entries = calloc(n_entries > 0 ? n_entries : 1, sizeof *gguf->entries);
    if (gguf->entries == NULL)
        return err_set(in->err, ERR_NOMEM, "no memory for %" PRIu64 " metadata entries", n_entries);
    for (uint64_t i = 0; i < n_entries; i++) {
        struct gguf_entry *entry = &gguf->entries[gguf->n_entries++]; /* counted first: what it holds is freed in any case */
        if (take_name(in, &entry->key) != 0 || take_value(in, entry) != 0)
            return err_wrap(in->err, "metadata entry %" PRIu64, i + 1);
    }
    return 0;
}

/* ggml's numbers of tensor formats (enum ggml_type in its documentation): those that shoal computes with, and names of the rest. */
static const struct {
    uint32_t number;
    int dtype;
} known_formats[] = {{0, DTYPE_F32},  {1, DTYPE_F16},  {2, DTYPE_Q4_0},  {3, DTYPE_Q4_1}, {8, DTYPE_Q8_0},
                     {12, DTYPE_Q4_K}, {13, DTYPE_Q5_K}, {14, DTYPE_Q6_K}, {30, DTYPE_BF16}};

static int find_format(uint32_t number) {
    for (size_t i = 0; i < sizeof known_formats / sizeof known_formats[0]; i++)
        if (known_formats[i].number == number)
            return known_formats[i].dtype;
    return -1;
}

/* One tensor record; offsets are relative to the data for now. */
static int take_tensor(struct reader *in, struct weights_store *store, int file) {
    struct weights_tensor tensor = {.file = file};
    uint32_t n_dims, format;
    uint64_t dims[WEIGHTS_MAX_DIMS] = {0}, offset, count = 1;
    char *name;
    int result = -1;
    if (take_name(in, &name) != 0)
        return -1;
    if (take_u32(in, &n_dims) != 0)
        goto free_name;
    if (n_dims < 1 || n_dims > WEIGHTS_MAX_DIMS) {
        err_set(in->err, ERR_INVALID, "tensor '%.200s' has %u dimensions; 1 to %d are possible", name, n_dims, WEIGHTS_MAX_DIMS);
        goto free_name;
    }
    if (take(in, dims, n_dims * sizeof dims[0]) != 0 || take_u32(in, &format) != 0 || take_u64(in, &offset) != 0)
        goto free_name;
    for (uint32_t d = 0; d < n_dims; d++) {
        if (dims[d] == 0 || dims[d] > INT64_MAX || count > (uint64_t)1 << 60 || dims[d] > ((uint64_t)1 << 60) / count) {
            err_set(in->err, ERR_INVALID, "tensor '%.200s' has an impossible dimension %" PRIu64, name, dims[d]);
            goto free_name;
        }
        count *= dims[d];
        tensor.dims[n_dims - 1 - d] = (int64_t)dims[d]; /* the file has the innermost first */
    }
    int dtype = find_format(format);
    if (dtype < 0) {
        char text[WEIGHTS_FORMAT_BYTES];
        snprintf(text, sizeof text, "ggml type %u", format);
        result = weights_store_skip(store, name, text, in->err);
        goto free_name;
    }
    tensor.dtype = (enum dtype)dtype;
    tensor.n_dims = (int)n_dims;
    tensor.offset = offset;
    if (dims[0] % (uint64_t)dtype_block_weights(tensor.dtype) != 0) {
        err_set(in->err, ERR_INVALID, "tensor '%.200s' has rows of %" PRIu64 " columns, which are no whole blocks of %s", name, dims[0],
                dtype_name(tensor.dtype));
        goto free_name;
    }
    tensor.len_bytes = count / (uint64_t)dtype_block_weights(tensor.dtype) * (uint64_t)dtype_block_bytes(tensor.dtype);
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    result = strlen(name) < sizeof tensor.name ? weights_store_add(store, &tensor, in->err) : 0;
free_name:
    free(name);
    return result;
}

static int place_tensors(struct reader *in, struct weights_store *store, int file, int first, const struct weights_gguf *gguf) {
    int64_t alignment = 32;
    weights_gguf_get_int(gguf, "general.alignment", &alignment);
    if (alignment < 1 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return err_set(in->err, ERR_INVALID, "'general.alignment' is %lld; it should be a power of two", (long long)alignment);
    uint64_t begin = (in->at + (uint64_t)alignment - 1) / (uint64_t)alignment * (uint64_t)alignment, size = in->file->size_bytes;
    store->files[file].data_begin = begin;
    for (int i = first; i < store->n_tensors; i++) {
        struct weights_tensor *tensor = &store->tensors[i];
        if (begin > size || tensor->offset > size - begin || tensor->len_bytes > size - begin - tensor->offset)
            return err_set(in->err, ERR_INVALID, "tensor '%s' should have %" PRIu64 " bytes at byte %" PRIu64 ", but the file has %" PRIu64 " bytes: it is truncated",
                           tensor->name, tensor->len_bytes, begin + tensor->offset, size);
        tensor->offset += begin;
    }
    return 0;
}

static int read_header(struct reader *in, struct weights_store *store, int file, struct weights_gguf *gguf) {
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_entries;
    int first = store->n_tensors;
    if (take(in, magic, sizeof magic) != 0 || take_u32(in, &version) != 0 || take_u64(in, &n_tensors) != 0 || take_u64(in, &n_entries) != 0)
        return -1;
    if (memcmp(magic, "GGUF", sizeof magic) != 0)
        return err_set(in->err, ERR_INVALID, "this is not a GGUF file: it does not begin with the letters GGUF");
    if (version != 2 && version != 3)
        return err_set(in->err, ERR_UNSUPPORTED, "GGUF version %u%s; versions 2 and 3 are supported", version,
                       (version & 0xffff) == 0 ? " (big-endian?)" : "");
    if (n_tensors > MAX_TENSORS)
        return err_set(in->err, ERR_INVALID, "%" PRIu64 " tensors; at most %d are possible", n_tensors, MAX_TENSORS);
    if (take_metadata(in, n_entries, gguf) != 0)
        return -1;
    for (uint64_t i = 0; i < n_tensors; i++)
        if (take_tensor(in, store, file) != 0)
            return -1;
    return place_tensors(in, store, file, first, gguf);
}

int weights_gguf_read(struct weights_store *store, int file, struct weights_gguf **ret_gguf, struct err *err) {
    struct err unheard;
    struct reader in = {.file = &store->files[file], .err = err != NULL ? err : &unheard};
    struct weights_gguf *gguf = calloc(1, sizeof *gguf);
    int result = -1;
    in.window = malloc(WINDOW_BYTES);
    if (gguf == NULL || in.window == NULL)
        err_set(in.err, ERR_NOMEM, "no memory for a GGUF header");
    else
        result = read_header(&in, store, file, gguf);
    free(in.window);
    if (result != 0) {
        weights_gguf_destroy(gguf);
        return -1;
    }
    *ret_gguf = gguf;
    return 0;
}

void weights_gguf_destroy(struct weights_gguf *gguf) {
    if (gguf == NULL)
        return;
    for (int i = 0; i < gguf->n_entries; i++) {
        free(gguf->entries[i].key);
        free(gguf->entries[i].data);
        free(gguf->entries[i].begin);
    }
    free(gguf->entries);
    free(gguf);
}

static const struct gguf_entry *find(const struct weights_gguf *gguf, const char *key, bool is_array) {
    for (int i = 0; gguf != NULL && i < gguf->n_entries; i++)
        if (strcmp(gguf->entries[i].key, key) == 0)
            return gguf->entries[i].is_array == is_array ? &gguf->entries[i] : NULL;
    return NULL;
}

static int get_int(const struct gguf_entry *entry, int64_t index, int64_t *ret) {
    if (entry == NULL || index < 0 || index >= entry->n)
        return -1;
    const uint8_t *at = entry->data + (uint64_t)index * type_bytes[entry->type];
    uint64_t raw = 0;
    if (entry->type == F32 || entry->type == F64 || entry->type == BOOL || entry->type == STRING)
        return -1;
    memcpy(&raw, at, type_bytes[entry->type]);
    switch (entry->type) {
    case I8: *ret = (int8_t)raw; return 0;
    case I16: *ret = (int16_t)raw; return 0;
    case I32: *ret = (int32_t)raw; return 0;
    case U64:
        if (raw > INT64_MAX)
            return -1;
        *ret = (int64_t)raw;
        return 0;
    default: *ret = (int64_t)raw; return 0;
    }
}

int weights_gguf_get_int(const struct weights_gguf *gguf, const char *key, int64_t *ret_value) { return get_int(find(gguf, key, false), 0, ret_value); }

int weights_gguf_get_double(const struct weights_gguf *gguf, const char *key, double *ret_value) {
    const struct gguf_entry *entry = find(gguf, key, false);
    int64_t whole;
    float single;
    if (entry != NULL && entry->type == F64) {
        memcpy(ret_value, entry->data, sizeof *ret_value);
        return 0;
    }
    if (entry != NULL && entry->type == F32) {
        memcpy(&single, entry->data, sizeof single);
        *ret_value = (double)single;
        return 0;
    }
    if (get_int(entry, 0, &whole) != 0)
        return -1;
    *ret_value = (double)whole;
    return 0;
}

int weights_gguf_get_bool(const struct weights_gguf *gguf, const char *key, bool *ret_value) {
    const struct gguf_entry *entry = find(gguf, key, false);
    if (entry == NULL || entry->type != BOOL)
        return -1;
    *ret_value = entry->data[0] != 0;
    return 0;
}

static const char *get_str(const struct gguf_entry *entry, int64_t index, size_t *ret_len_bytes) {
    if (entry == NULL || entry->type != STRING || index < 0 || index >= entry->n)
        return NULL;
    if (ret_len_bytes != NULL)
        *ret_len_bytes = (size_t)(entry->begin[index + 1] - entry->begin[index] - 1);
    return (const char *)entry->data + entry->begin[index];
}

const char *weights_gguf_get_str(const struct weights_gguf *gguf, const char *key) { return get_str(find(gguf, key, false), 0, NULL); }

int64_t weights_gguf_array_len(const struct weights_gguf *gguf, const char *key) {
    const struct gguf_entry *entry = find(gguf, key, true);
    return entry == NULL ? -1 : entry->n;
}

const char *weights_gguf_array_str(const struct weights_gguf *gguf, const char *key, int64_t index, size_t *ret_len_bytes) {
    return get_str(find(gguf, key, true), index, ret_len_bytes);
}

int weights_gguf_array_int(const struct weights_gguf *gguf, const char *key, int64_t index, int64_t *ret_value) {
    return get_int(find(gguf, key, true), index, ret_value);
}
