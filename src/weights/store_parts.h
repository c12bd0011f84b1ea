/*
 * The inside of a store, for store.c and the readers of the two formats only. Filled by one thread while the store is
 * being opened, immutable afterwards (bytes_read aside).
 */
#ifndef WEIGHTS_STORE_PARTS_H
#define WEIGHTS_STORE_PARTS_H

#include <jansson.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "weights/quant.h"
#include "weights/store.h"

enum { WEIGHTS_FORMAT_BYTES = 24 };

struct weights_file {
    char *path;
    int fd;
    uint64_t size_bytes;
    uint64_t data_begin; /* end of the header */
};

/* A tensor that is in a file but not in the list (without a dtype), and the name of the format that keeps it out. */
struct weights_skipped {
    struct weights_tensor tensor;
    char format[WEIGHTS_FORMAT_BYTES];
};

/* Where a tensor's data begins. */
struct weights_place {
    int file;
    uint64_t offset;
};

/* What a listed tensor of a quantised checkpoint is made of; see quant.h. */
struct weights_quantised {
    struct weights_place weights, scales, zeros; /* zeros: GPTQ only */
    enum dtype scales_dtype;                     /* FP8: BF16 or F32 */
};

struct weights_store {
    struct weights_file *files;
    int n_files;
    struct weights_tensor *tensors;
    int n_tensors, cap_tensors;
    int *by_name; /* [n_named], indices of tensors in order of their names */
    int n_named;
    struct weights_skipped *skipped; /* in order of their names once all headers are read */
    int n_skipped, cap_skipped;
    struct weights_gguf *gguf; /* NULL for safetensors */
    struct weights_quant quant;
    struct weights_quantised *quantised;
    int n_quantised, cap_quantised;
    uint64_t total_bytes;
    _Atomic uint64_t bytes_read;
};

/* Both copy; place: where it lies and its shape. A name that is too long for the list is dropped: nothing can ask for it. */
int weights_store_add(struct weights_store *store, const struct weights_tensor *tensor, struct err *err);
int weights_store_skip(struct weights_store *store, const char *name, const struct weights_tensor *place, const char *format,
                       struct err *err);
/* NULL when there is none of that name. */
const struct weights_skipped *weights_store_find_skipped(const struct weights_store *store, const char *name);
/* Reads and counts bytes from `offset` behind a place. Blocks. */
int weights_store_pread(const struct weights_store *store, struct weights_place place, uint64_t offset, void *dst, size_t len_bytes,
                        struct err *err);

/* Adds what quant.method makes of the skipped tensors to the list. Names are sorted before, and are to be sorted again. */
int weights_quantised_list(struct weights_store *store, struct err *err);
/* As weights_store_read for one of those; the rectangle is inside the tensor and made of whole groups of 32 columns. */
int weights_quantised_read(const struct weights_store *store, const struct weights_tensor *tensor, int64_t row_begin, int64_t n_rows,
                           int64_t col_begin, int64_t n_cols, void *dst, struct err *err);

/* Format of a safetensors file by its name there, or -1. */
int weights_safetensors_dtype(const char *name);
/*
 * Reads the header of files[file] and adds its tensors; with a weight_map (JSON: tensor name → file name) only those
 * that it places in file_name. *ret_n_added: how many of the map's tensors were found.
 */
int weights_safetensors_read(struct weights_store *store, int file, const json_t *weight_map, const char *file_name, size_t *ret_n_found,
                             struct err *err);

/* Reads the header of files[file], adds its tensors and hands out its metadata (weights_gguf_destroy). */
int weights_gguf_read(struct weights_store *store, int file, struct weights_gguf **ret_gguf, struct err *err);
void weights_gguf_destroy(struct weights_gguf *gguf); /* accepts NULL */

#endif
