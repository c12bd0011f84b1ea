/* Any bytes as a safetensors file: opened or refused; what is listed can be read and lies inside the file. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weights/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const struct weights_store *store, size_t size) {
    for (int i = 0; i < weights_store_count(store); i++) {
        const struct weights_tensor *tensor = weights_store_at(store, i);
        int64_t rows = 1, cols = tensor->n_dims > 0 ? tensor->dims[tensor->n_dims - 1] : 1;
        for (int d = 0; d + 1 < tensor->n_dims; d++)
            rows *= tensor->dims[d];
        if (weights_store_find(store, tensor->name) != tensor || tensor->offset > size || tensor->len_bytes > size - tensor->offset)
            abort();
        uint8_t *bytes = malloc(tensor->len_bytes + 1);
        if (bytes == NULL || weights_store_read(store, tensor, 0, rows, 0, cols, bytes, NULL) != 0)
            abort();
        free(bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64], hex[17];
    struct weights_store *store;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (weights_store_open(path, &store, NULL) == 0) {
        read_all(store, size);
        if (weights_store_fingerprint(store, hex, NULL) != 0)
            abort();
        weights_store_close(store);
    }
    close(fd);
    return 0;
}
