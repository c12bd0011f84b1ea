/*
 * Telling the kernel what will be read soon, so that the disk works while threads pack: above all for slices of rows, which look
 * like random reads and would come page by page. Reads nothing, counts nothing; any thread. Knows nothing of ranks.
 */
#include <fcntl.h>

#include "weights/store_parts.h"

enum {
    HINT_BYTES = 128 << 10,   /* of one hint: the kernel cuts longer ones to the device's read-ahead */
    MAX_ROW_BYTES = 32 << 10, /* of rows of which slices are read: where more lies between two slices, passing over it is faster */
    MAX_BYTES = 16 << 20
};

void weights_store_expect(const struct weights_store *store, const struct weights_tensor *tensor, int64_t row_begin, int64_t n_rows,
                          int64_t n_cols) {
    if (tensor->quantised != 0 || tensor->n_dims == 0)
        return;
    int64_t cols = tensor->dims[tensor->n_dims - 1];
    uint64_t row_bytes = dtype_row_bytes(tensor->dtype, (size_t)cols), len_bytes = (uint64_t)n_rows * row_bytes;
    if (n_cols < cols && row_bytes > MAX_ROW_BYTES)
        return;
    len_bytes = len_bytes < MAX_BYTES ? len_bytes : MAX_BYTES;
    uint64_t from = tensor->offset + (uint64_t)row_begin * row_bytes;
    for (uint64_t at = 0; at < len_bytes; at += HINT_BYTES)
        posix_fadvise(store->files[tensor->file].fd, (off_t)(from + at), len_bytes - at < HINT_BYTES ? (off_t)(len_bytes - at) : HINT_BYTES,
                      POSIX_FADV_WILLNEED);
}
