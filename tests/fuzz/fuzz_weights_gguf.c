/* Any bytes as a GGUF file: opened or refused; what is listed can be read and lies inside the file. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weights/gguf.h"
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

/* The keys of the corpus, each asked for as everything. */
static void ask_all(const struct weights_gguf *gguf) {
    static const char *const keys[] = {"general.architecture", "general.alignment", "n", "f", "b", "s", "a"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int64_t integer;
        double number;
        bool truth;
        size_t len;
        weights_gguf_get_int(gguf, keys[i], &integer);
        weights_gguf_get_double(gguf, keys[i], &number);
        weights_gguf_get_bool(gguf, keys[i], &truth);
        weights_gguf_get_str(gguf, keys[i]);
        for (int64_t at = -1; at <= weights_gguf_array_len(gguf, keys[i]) && at < 100; at++) {
            weights_gguf_array_int(gguf, keys[i], at, &integer);
            const char *text = weights_gguf_array_str(gguf, keys[i], at, &len);
            if (text != NULL && text[len] != '\0')
                abort();
        }
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
        if (weights_store_gguf(store) != NULL)
            ask_all(weights_store_gguf(store));
        read_all(store, size);
        if (weights_store_fingerprint(store, hex, NULL) != 0)
            abort();
        weights_store_close(store);
    }
    close(fd);
    return 0;
}
