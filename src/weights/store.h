/*
 * The tensors of a model on disk: a folder of safetensors (one file, or many with an index), one safetensors file,
 * or a GGUF file. Opening reads headers only; data is read with pread into the caller's memory, never mapped, so
 * that a process holds one copy of its weights. Matrices of a quantised checkpoint (weights/quant.h) are listed and read in a
 * format with kernels of their own.
 *
 * A store is immutable after opening: any number of threads may read from it at once.
 */
#ifndef WEIGHTS_STORE_H
#define WEIGHTS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"

enum { WEIGHTS_MAX_DIMS = 4, WEIGHTS_NAME_BYTES = 160 };

struct weights_tensor {
    char name[WEIGHTS_NAME_BYTES];
    enum dtype dtype;
    int n_dims;
    int64_t dims[WEIGHTS_MAX_DIMS]; /* outermost first: a matrix is [rows, cols], stacked experts [experts, rows, cols] */
    int file;                       /* which file of the store */
    uint64_t offset;                /* of the data in that file */
    uint64_t len_bytes; /* in the files */
    int quantised;      /* the store's own: 0 for data that stands in the file as it is listed */
};

struct weights_store;
struct weights_gguf; /* weights/gguf.h */

/*
 * path: a folder, a safetensors or a GGUF file (of a split GGUF any part). Errors name the file, the place in it, what
 * was expected and what was found. Tensors of formats that shoal does not compute with are left out of the list.
 */
int weights_store_open(const char *path, struct weights_store **ret_store, struct err *err);
void weights_store_close(struct weights_store *store); /* accepts NULL */

int weights_store_count(const struct weights_store *store);
const struct weights_tensor *weights_store_at(const struct weights_store *store, int index);
/* NULL when there is none of that name. */
const struct weights_tensor *weights_store_find(const struct weights_store *store, const char *name);
/* The same for a tensor that the model cannot do without: err says that it is missing, or in which format it stands. */
int weights_store_need(const struct weights_store *store, const char *name, const struct weights_tensor **ret_tensor, struct err *err);
/* The GGUF metadata, or NULL for safetensors. Owned by the store. */
const struct weights_gguf *weights_store_gguf(const struct weights_store *store);
/* Sum of the listed tensors' bytes. */
uint64_t weights_store_bytes(const struct weights_store *store);

/*
 * Reads rows [row_begin, row_begin + n_rows) and columns [col_begin, col_begin + n_cols) of a tensor seen as a
 * matrix [dims[0] · … · dims[n-2], dims[n-1]] into dst, densely packed, in the tensor's dtype. Columns must be whole
 * blocks. One pread for full rows, one per row otherwise; quantised matrices need more, but no other bytes. Blocks.
 */
int weights_store_read(const struct weights_store *store, const struct weights_tensor *tensor, int64_t row_begin, int64_t n_rows,
                       int64_t col_begin, int64_t n_cols, void *dst, struct err *err);
/*
 * A hint that n_cols columns of these rows will be read soon: whole rows are fetched by the kernel in the background, also where
 * slices of them are wanted, as far as that is faster. Returns at once, fails never; pages fetched so count as read by nobody.
 */
void weights_store_expect(const struct weights_store *store, const struct weights_tensor *tensor, int64_t row_begin, int64_t n_rows,
                          int64_t n_cols);
/* Bytes that weights_store_read reads for so many rows and columns; of a quantised matrix its even share of len_bytes. */
uint64_t weights_store_read_bytes(const struct weights_tensor *tensor, int64_t n_rows, int64_t n_cols);
/* Bytes read from files so far by weights_store_read on this store, all threads together. */
uint64_t weights_store_bytes_read(const struct weights_store *store);

/*
 * 16 hex digits and NUL: a hash over every tensor's name, format, shape and place, the sizes and headers of the files
 * and a sample of their data. The same model copied to another node has the same one. Blocks.
 */
int weights_store_fingerprint(const struct weights_store *store, char ret_hex[17], struct err *err);

#endif
