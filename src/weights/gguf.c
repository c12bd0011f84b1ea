/*
 * GGUF files, versions 2 and 3 (ggml/docs/gguf.md): reading the header into metadata and a list of tensors, and look-ups
 * in the metadata. The opening thread reads; afterwards any thread looks up. Knows nothing of what a key means, except
 * general.alignment.
 *
 * Layout: magic, version, n_tensors, n_entries; entries (key, type, value); tensors (name, shape innermost first, type,
 * offset from the begin of the data); padding; data. Lengths are 64 bits, all little-endian.
 */
#include "weights/gguf.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "weights/store_parts.h"

enum { WINDOW_BYTES = 1 << 16, MAX_ENTRIES = 4096, MAX_KEY_BYTES = 65535, MAX_ARRAY_DEPTH = 4, MAX_GGUF_TENSORS = 1 << 20 };
static const uint64_t MAX_ELEMENTS = 1 << 24;
/* Far above any vocabulary; keeps a hostile file from filling the memory. */
static const uint64_t MAX_METADATA_BYTES = 1 << 28;

/* Types of values, as numbered in the file. */
enum value_type { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_VALUE_TYPES };

static const struct {
    const char *name;
    unsigned bytes; /* 0: not of fixed size */
} value_types[N_VALUE_TYPES] = {
    [U8] = {"u8", 1},   [I8] = {"i8", 1},     [U16] = {"u16", 2},       [I16] = {"i16", 2},     [U32] = {"u32", 4},
    [I32] = {"i32", 4}, [F32] = {"f32", 4},   [BOOL] = {"bool", 1},     [STRING] = {"string", 0}, [ARRAY] = {"array", 0},
    [U64] = {"u64", 8}, [I64] = {"i64", 8},   [F64] = {"f64", 8},
};

struct entry {
    char *key;
    uint32_t type;
    uint32_t element_type; /* of an array */
    uint64_t count;        /* elements of an array, 1 otherwise */
    char *bytes;           /* numbers as in the file; strings one after another, each with a NUL */
    size_t *starts;        /* [count + 1] of each string in bytes; NULL for numbers and for arrays of arrays */
};

struct weights_gguf {
    struct entry *entries;
    size_t n_entries;
};

/* Reads forwards through the header, a window at a time. The first error stays. */
struct reader {
    const struct weights_file *file;
    uint64_t pos;
    uint64_t window_begin;
    size_t window_bytes;
    char *window; /* WINDOW_BYTES */
    struct err *err;
};

/* Fails when fewer than n more bytes are in the file; `what` names them. */
static int check_left(const struct reader *reader, uint64_t n, const char *what) {
    if (n <= reader->file->size_bytes - reader->pos)
        return 0;
    return err_set(reader->err, ERR_INVALID,
                   "%s at byte %llu should take %llu bytes, but the file ends at byte %llu: it is truncated or corrupt", what,
                   (unsigned long long)reader->pos, (unsigned long long)n, (unsigned long long)reader->file->size_bytes);
}

static int take(struct reader *reader, void *dst, uint64_t n, const char *what) {
    if (check_left(reader, n, what) != 0)
        return -1;
    for (char *at = dst; n > 0;) {
        if (reader->pos < reader->window_begin || reader->pos >= reader->window_begin + reader->window_bytes) {
            uint64_t left = reader->file->size_bytes - reader->pos;
            reader->window_bytes = left < WINDOW_BYTES ? left : WINDOW_BYTES;
            reader->window_begin = reader->pos;
            if (file_pread_all(reader->file->fd, reader->window, reader->window_bytes, reader->pos, reader->file->path, reader->err) != 0) {
                reader->window_bytes = 0;
                return -1;
            }
        }
        size_t skip = reader->pos - reader->window_begin, part = reader->window_bytes - skip;
        if (part > n)
            part = n;
        memcpy(at, reader->window + skip, part);
        at += part;
        reader->pos += part;
        n -= part;
    }
    return 0;
}

static int take_u32(struct reader *reader, uint32_t *ret_value, const char *what) {
    if (take(reader, ret_value, sizeof *ret_value, what) != 0)
        return -1;
    *ret_value = le32toh(*ret_value);
    return 0;
}

static int take_u64(struct reader *reader, uint64_t *ret_value, const char *what) {
    if (take(reader, ret_value, sizeof *ret_value, what) != 0)
        return -1;
    *ret_value = le64toh(*ret_value);
    return 0;
}

/* Appends a string and a NUL. */
static int take_string(struct reader *reader, struct buf *out, uint64_t max_bytes, const char *what) {
    uint64_t at = reader->pos, len;
    if (take_u64(reader, &len, what) != 0)
        return -1;
    if (len > max_bytes)
        return err_set(reader->err, ERR_LIMIT, "%s at byte %llu has %llu bytes; at most %llu are accepted", what, (unsigned long long)at,
                       (unsigned long long)len, (unsigned long long)max_bytes);
    if (check_left(reader, len, what) != 0)
        return -1;
    char *room = buf_reserve(out, len + 1);
    if (room == NULL)
        return err_set(reader->err, ERR_NOMEM, "no memory for %s of %llu bytes", what, (unsigned long long)len);
    if (take(reader, room, len, what) != 0)
        return -1;
    room[len] = '\0';
    out->len_bytes += len + 1;
    return 0;
}

static int check_type(const struct reader *reader, uint32_t type) {
    return type < N_VALUE_TYPES ? 0
                                : err_set(reader->err, ERR_INVALID, "type %u before byte %llu is not among GGUF's (0 to %d)", type,
                                          (unsigned long long)reader->pos, N_VALUE_TYPES - 1);
}

/* `count` values of one type into entry->bytes and, for strings, entry->starts. */
static int take_strings(struct reader *reader, struct entry *entry) {
    struct buf all;
    buf_init(&all, 2 * MAX_METADATA_BYTES);
    entry->starts = malloc((entry->count + 1) * sizeof *entry->starts);
    if (entry->starts == NULL)
        return err_set(reader->err, ERR_NOMEM, "no memory for %llu strings", (unsigned long long)entry->count);
    for (uint64_t i = 0; i < entry->count; i++) {
        entry->starts[i] = all.len_bytes;
        if (take_string(reader, &all, MAX_METADATA_BYTES, "a string") != 0)
            goto free_all;
    }
    entry->starts[entry->count] = all.len_bytes;
    entry->bytes = buf_steal(&all);
    if (entry->bytes != NULL)
        return 0;
    err_set(reader->err, ERR_NOMEM, "no memory for %llu strings", (unsigned long long)entry->count);
free_all:
    buf_finish(&all);
    return -1;
}

static int take_numbers(struct reader *reader, struct entry *entry, uint32_t type) {
    uint64_t len_bytes = entry->count * value_types[type].bytes;
    if (check_left(reader, len_bytes, value_types[type].name) != 0)
        return -1;
    entry->bytes = malloc(len_bytes + 1);
    if (entry->bytes == NULL)
        return err_set(reader->err, ERR_NOMEM, "no memory for %llu numbers", (unsigned long long)entry->count);
    if (take(reader, entry->bytes, len_bytes, value_types[type].name) != 0)
        return -1;
    for (uint64_t i = 0; type == BOOL && i < len_bytes; i++)
        if ((unsigned char)entry->bytes[i] > 1)
            return err_set(reader->err, ERR_INVALID, "a bool before byte %llu is %u; it should be 0 or 1", (unsigned long long)reader->pos,
                           (unsigned char)entry->bytes[i]);
    return 0;
}

static int take_array_head(struct reader *reader, uint32_t *ret_type, uint64_t *ret_count) {
    if (take_u32(reader, ret_type, "an array's type") != 0 || check_type(reader, *ret_type) != 0 ||
        take_u64(reader, ret_count, "an array's length") != 0)
        return -1;
    if (*ret_count > MAX_ELEMENTS)
        return err_set(reader->err, ERR_LIMIT, "an array before byte %llu has %llu elements; at most %llu are accepted",
                       (unsigned long long)reader->pos, (unsigned long long)*ret_count, (unsigned long long)MAX_ELEMENTS);
    /* What takes no memory of the file must not take ours: a string has at least its length, an array its head. */
    uint64_t least_bytes = *ret_type == STRING ? 8 : *ret_type == ARRAY ? 12 : value_types[*ret_type].bytes;
    return check_left(reader, *ret_count * least_bytes, "an array");
}

/* An array of arrays: walked through, not kept, since no model asks for one. */
static int skip_arrays(struct reader *reader, uint64_t count, int depth) {
    if (depth > MAX_ARRAY_DEPTH)
        return err_set(reader->err, ERR_LIMIT, "arrays at byte %llu are nested more than %d deep", (unsigned long long)reader->pos,
                       MAX_ARRAY_DEPTH);
    for (uint64_t i = 0; i < count; i++) {
        struct entry inner = {0};
        uint32_t type;
        int result = take_array_head(reader, &type, &inner.count);
        if (result == 0)
            result = type == ARRAY    ? skip_arrays(reader, inner.count, depth + 1)
                     : type == STRING ? take_strings(reader, &inner)
                                      : take_numbers(reader, &inner, type);
        free(inner.bytes);
        free(inner.starts);
        if (result != 0)
            return -1;
    }
    return 0;
}

static int take_value(struct reader *reader, struct entry *entry) {
    entry->count = 1;
    entry->element_type = entry->type;
    if (entry->type == ARRAY && take_array_head(reader, &entry->element_type, &entry->count) != 0)
        return -1;
    if (entry->element_type == ARRAY)
        return skip_arrays(reader, entry->count, 1);
    if (entry->element_type == STRING)
        return take_strings(reader, entry);
    return take_numbers(reader, entry, entry->element_type);
}

static const struct entry *find(const struct weights_gguf *gguf, const char *key) {
    for (size_t i = 0; i < gguf->n_entries; i++)
        if (strcmp(gguf->entries[i].key, key) == 0)
            return &gguf->entries[i];
    return NULL;
}

static int take_entry(struct reader *reader, struct weights_gguf *gguf) {
    struct buf key;
    struct entry *entry = &gguf->entries[gguf->n_entries];
    buf_init(&key, MAX_KEY_BYTES + 1);
    if (take_string(reader, &key, MAX_KEY_BYTES, "a key") != 0) {
        buf_finish(&key);
        return -1;
    }
    if (find(gguf, key.data) != NULL) {
        err_set(reader->err, ERR_INVALID, "the key '%.200s' is there twice", key.data);
        buf_finish(&key);
        return -1;
    }
    entry->key = key.data;
    gguf->n_entries++;
    if (take_u32(reader, &entry->type, "a value's type") != 0 || check_type(reader, entry->type) != 0 || take_value(reader, entry) != 0)
        return err_wrap(reader->err, "key '%.200s'", entry->key);
    if (reader->pos > MAX_METADATA_BYTES)
        return err_set(reader->err, ERR_LIMIT, "the metadata take more than %llu bytes", (unsigned long long)MAX_METADATA_BYTES);
    return 0;
}

/* GGML's numbers of tensor formats. dtype is -1 for those that shoal does not compute with. */
struct tensor_format {
    const char *name;
    int dtype;
};

static struct tensor_format tensor_format(uint32_t type) {
    static const struct tensor_format known[] = {
        [0] = {"F32", DTYPE_F32},    [1] = {"F16", DTYPE_F16},    [2] = {"Q4_0", DTYPE_Q4_0},  [3] = {"Q4_1", DTYPE_Q4_1},
        [6] = {"Q5_0", -1},          [7] = {"Q5_1", -1},          [8] = {"Q8_0", DTYPE_Q8_0},  [9] = {"Q8_1", -1},
        [10] = {"Q2_K", -1},         [11] = {"Q3_K", -1},         [12] = {"Q4_K", DTYPE_Q4_K}, [13] = {"Q5_K", DTYPE_Q5_K},
        [14] = {"Q6_K", DTYPE_Q6_K}, [15] = {"Q8_K", -1},         [16] = {"IQ2_XXS", -1},      [17] = {"IQ2_XS", -1},
        [18] = {"IQ3_XXS", -1},      [19] = {"IQ1_S", -1},        [20] = {"IQ4_NL", -1},       [21] = {"IQ3_S", -1},
        [22] = {"IQ2_S", -1},        [23] = {"IQ4_XS", -1},       [24] = {"I8", -1},           [25] = {"I16", -1},
        [26] = {"I32", -1},          [27] = {"I64", -1},          [28] = {"F64", -1},          [29] = {"IQ1_M", -1},
        [30] = {"BF16", DTYPE_BF16}, [34] = {"TQ1_0", -1},        [35] = {"TQ2_0", -1},        [39] = {"MXFP4", -1},
    };
    if (type < sizeof known / sizeof known[0] && known[type].name != NULL)
        return known[type];
    return (struct tensor_format){.name = NULL, .dtype = -1};
}

/* The tensor's line in the header. Its offset is still relative to the data, whose begin is not known yet. */
struct tensor_line {
    struct buf name;
    uint32_t n_dims, type;
    uint64_t dims[WEIGHTS_MAX_DIMS]; /* innermost first */
    uint64_t offset;
};

static int take_tensor_line(struct reader *reader, struct tensor_line *line) {
    if (take_string(reader, &line->name, MAX_KEY_BYTES, "a tensor's name") != 0 || take_u32(reader, &line->n_dims, "a shape") != 0)
        return -1;
    if (line->n_dims > WEIGHTS_MAX_DIMS)
        return err_set(reader->err, ERR_INVALID, "tensor '%.200s' has %u dimensions; GGUF has at most %d", line->name.data, line->n_dims,
                       WEIGHTS_MAX_DIMS);
    for (uint32_t i = 0; i < line->n_dims; i++)
        if (take_u64(reader, &line->dims[i], "a shape") != 0)
            return -1;
    return take_u32(reader, &line->type, "a tensor's type") != 0 || take_u64(reader, &line->offset, "a tensor's offset") != 0 ? -1 : 0;
}

/* Bytes of a tensor of a known format. */
static int measure(const struct tensor_line *line, enum dtype dtype, uint64_t *ret_len_bytes, struct err *err) {
    uint64_t count = 1, cols = line->n_dims > 0 ? line->dims[0] : 1, len_bytes;
    uint64_t block_weights = (uint64_t)dtype_block_weights(dtype);
    for (uint32_t i = 0; i < line->n_dims; i++) {
        if (line->dims[i] == 0)
            return err_set(err, ERR_INVALID, "it has a dimension of 0");
        if (__builtin_mul_overflow(count, line->dims[i], &count) || count > INT64_MAX)
            return err_set(err, ERR_INVALID, "its shape multiplies to more than 2^63 elements");
    }
    if (cols % block_weights != 0)
        return err_set(err, ERR_INVALID, "its rows of %llu weights are not whole blocks of %llu, as %s needs", (unsigned long long)cols,
                       (unsigned long long)block_weights, dtype_name(dtype));
    if (__builtin_mul_overflow(count / block_weights, (uint64_t)dtype_block_bytes(dtype), &len_bytes))
        return err_set(err, ERR_INVALID, "its shape takes more than 2^64 bytes");
    *ret_len_bytes = len_bytes;
    return 0;
}

static int add_tensor(struct weights_store *store, int file, const struct tensor_line *line, uint64_t alignment, struct err *err) {
    struct tensor_format format = tensor_format(line->type);
    struct weights_tensor tensor = {.file = file, .n_dims = (int)line->n_dims};
    uint64_t data_begin = store->files[file].data_begin, data_bytes = store->files[file].size_bytes - data_begin;
    char number[WEIGHTS_FORMAT_BYTES];
    if (format.name == NULL) {
        snprintf(number, sizeof number, "GGML type %u", line->type);
        format.name = number;
    }
    if (line->offset % alignment != 0)
        return err_set(err, ERR_INVALID, "its offset %llu is not a multiple of the alignment %llu", (unsigned long long)line->offset,
                       (unsigned long long)alignment);
    if (format.dtype < 0 || strlen(line->name.data) >= sizeof tensor.name)
        return weights_store_skip(store, line->name.data, &tensor, format.name, err);
    tensor.dtype = (enum dtype)format.dtype;
    if (measure(line, tensor.dtype, &tensor.len_bytes, err) != 0)
        return -1;
    if (line->offset > data_bytes || tensor.len_bytes > data_bytes - line->offset)
        return err_set(err, ERR_INVALID,
                       "its %llu bytes at byte %llu of the data do not fit into the file's %llu bytes of data: it is truncated",
                       (unsigned long long)tensor.len_bytes, (unsigned long long)line->offset, (unsigned long long)data_bytes);
    for (uint32_t i = 0; i < line->n_dims; i++)
        tensor.dims[i] = (int64_t)line->dims[line->n_dims - 1 - i];
    tensor.offset = data_begin + line->offset;
    strcpy(tensor.name, line->name.data);
    return weights_store_add(store, &tensor, err);
}

static int take_head(struct reader *reader, uint64_t *ret_n_tensors, uint64_t *ret_n_entries) {
    char magic[4];
    uint32_t version;
    if (take(reader, magic, sizeof magic, "the letters GGUF") != 0 || take_u32(reader, &version, "the version") != 0)
        return -1;
    if (memcmp(magic, "GGUF", sizeof magic) != 0)
        return err_set(reader->err, ERR_INVALID, "is not a GGUF file: it does not begin with the letters GGUF");
    if (version != 2 && version != 3)
        return err_set(reader->err, ERR_UNSUPPORTED, "is of GGUF version %u%s; versions 2 and 3, little-endian, are read", version,
                       version > 0xffff ? " (big-endian?)" : "");
    if (take_u64(reader, ret_n_tensors, "the number of tensors") != 0 || take_u64(reader, ret_n_entries, "the number of entries") != 0)
        return -1;
    if (*ret_n_tensors > MAX_GGUF_TENSORS || *ret_n_entries > MAX_ENTRIES)
        return err_set(reader->err, ERR_LIMIT, "announces %llu tensors and %llu entries of metadata; at most %d and %d are accepted",
                       (unsigned long long)*ret_n_tensors, (unsigned long long)*ret_n_entries, MAX_GGUF_TENSORS, MAX_ENTRIES);
    return 0;
}

/* The tensors' lines are read twice: first to find where the data begin, then to place each. */
static int take_tensors(struct reader *reader, struct weights_store *store, int file, uint64_t n_tensors, int64_t alignment) {
    struct tensor_line line;
    uint64_t lines_begin = reader->pos;
    int result = -1;
    buf_init(&line.name, MAX_KEY_BYTES + 1);
    for (int pass = 0; pass < 2; pass++) {
        reader->pos = lines_begin;
        for (uint64_t i = 0; i < n_tensors; i++) {
            buf_clear(&line.name);
            if (take_tensor_line(reader, &line) != 0) {
                err_wrap(reader->err, "tensor %llu of %llu", (unsigned long long)i + 1, (unsigned long long)n_tensors);
                goto free_name;
            }
            if (pass == 1 && add_tensor(store, file, &line, (uint64_t)alignment, reader->err) != 0) {
                err_wrap(reader->err, "tensor '%.200s'", line.name.data);
                goto free_name;
            }
        }
        uint64_t begin = (reader->pos + (uint64_t)alignment - 1) / (uint64_t)alignment * (uint64_t)alignment;
        store->files[file].data_begin = begin < reader->file->size_bytes ? begin : reader->file->size_bytes;
    }
    result = 0;
free_name:
    buf_finish(&line.name);
    return result;
}

int weights_gguf_read(struct weights_store *store, int file, struct weights_gguf **ret_gguf, struct err *err) {
    int64_t alignment = 32;
    uint64_t n_tensors, n_entries;
    int result = -1;
    struct reader reader = {.file = &store->files[file], .window = malloc(WINDOW_BYTES), .err = err};
    struct weights_gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf == NULL || reader.window == NULL) {
        err_set(err, ERR_NOMEM, "no memory to read a GGUF header");
        goto free_all;
    }
    if (take_head(&reader, &n_tensors, &n_entries) != 0)
        goto free_all;
    gguf->entries = calloc(n_entries + 1, sizeof *gguf->entries);
    if (gguf->entries == NULL) {
        err_set(err, ERR_NOMEM, "no memory for %llu entries of metadata", (unsigned long long)n_entries);
        goto free_all;
    }
    for (uint64_t i = 0; i < n_entries; i++)
        if (take_entry(&reader, gguf) != 0)
            goto free_all;
    if (find(gguf, "general.alignment") != NULL &&
        (weights_gguf_get_int(gguf, "general.alignment", &alignment) != 0 || alignment < 8 || alignment > 65536 || alignment % 8 != 0)) {
        err_set(err, ERR_INVALID, "'general.alignment' should be a multiple of 8, up to 65536");
        goto free_all;
    }
    if (take_tensors(&reader, store, file, n_tensors, alignment) != 0)
        goto free_all;
    *ret_gguf = gguf;
    result = 0;
free_all:
    free(reader.window);
    if (result != 0)
        weights_gguf_destroy(gguf);
    return result;
}

void weights_gguf_destroy(struct weights_gguf *gguf) {
    if (gguf == NULL)
        return;
    for (size_t i = 0; i < gguf->n_entries; i++) {
        free(gguf->entries[i].key);
        free(gguf->entries[i].bytes);
        free(gguf->entries[i].starts);
    }
    free(gguf->entries);
    free(gguf);
}

/* ---- look-ups ---- */

static int decode_int(uint32_t type, const char *bytes, int64_t *ret_value) {
    uint64_t value = 0;
    unsigned len = value_types[type].bytes;
    if (type == F32 || type == F64 || len == 0)
        return -1;
    memcpy(&value, bytes, len);
    value = le64toh(value);
    if (type == I8 || type == I16 || type == I32) /* the sign fills what the memory did not give */
        value = (uint64_t)((int64_t)(value << (64 - 8 * len)) >> (64 - 8 * len));
    if (type == U64 && value > INT64_MAX)
        return -1;
    *ret_value = (int64_t)value;
    return 0;
}

static const struct entry *find_scalar(const struct weights_gguf *gguf, const char *key) {
    const struct entry *entry = find(gguf, key);
    return entry != NULL && entry->type != ARRAY ? entry : NULL;
}

int weights_gguf_get_int(const struct weights_gguf *gguf, const char *key, int64_t *ret_value) {
    const struct entry *entry = find_scalar(gguf, key);
    return entry == NULL || entry->type == BOOL ? -1 : decode_int(entry->type, entry->bytes, ret_value);
}

int weights_gguf_get_double(const struct weights_gguf *gguf, const char *key, double *ret_value) {
    const struct entry *entry = find_scalar(gguf, key);
    int64_t integer;
    if (entry == NULL || entry->type == BOOL)
        return -1;
    if (entry->type == F32) {
        float value;
        memcpy(&value, entry->bytes, sizeof value);
        *ret_value = value;
    } else if (entry->type == F64) {
        memcpy(ret_value, entry->bytes, sizeof *ret_value);
    } else if (decode_int(entry->type, entry->bytes, &integer) == 0) {
        *ret_value = (double)integer;
    } else {
        return -1;
    }
    return 0;
}

int weights_gguf_get_bool(const struct weights_gguf *gguf, const char *key, bool *ret_value) {
    const struct entry *entry = find_scalar(gguf, key);
    if (entry == NULL || entry->type != BOOL)
        return -1;
    *ret_value = entry->bytes[0] != 0;
    return 0;
}

const char *weights_gguf_get_str(const struct weights_gguf *gguf, const char *key) {
    const struct entry *entry = find_scalar(gguf, key);
    return entry != NULL && entry->type == STRING ? entry->bytes : NULL;
}

static const struct entry *find_array(const struct weights_gguf *gguf, const char *key) {
    const struct entry *entry = find(gguf, key);
    return entry != NULL && entry->type == ARRAY ? entry : NULL;
}

int64_t weights_gguf_array_len(const struct weights_gguf *gguf, const char *key) {
    const struct entry *entry = find_array(gguf, key);
    return entry != NULL ? (int64_t)entry->count : -1;
}

const char *weights_gguf_array_str(const struct weights_gguf *gguf, const char *key, int64_t index, size_t *ret_len_bytes) {
    const struct entry *entry = find_array(gguf, key);
    if (entry == NULL || entry->element_type != STRING || index < 0 || (uint64_t)index >= entry->count)
        return NULL;
    if (ret_len_bytes != NULL)
        *ret_len_bytes = entry->starts[index + 1] - entry->starts[index] - 1;
    return entry->bytes + entry->starts[index];
}

int weights_gguf_array_int(const struct weights_gguf *gguf, const char *key, int64_t index, int64_t *ret_value) {
    const struct entry *entry = find_array(gguf, key);
    if (entry == NULL || index < 0 || (uint64_t)index >= entry->count || value_types[entry->element_type].bytes == 0)
        return -1;
    return decode_int(entry->element_type, entry->bytes + (uint64_t)index * value_types[entry->element_type].bytes, ret_value);
}
