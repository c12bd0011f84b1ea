/*
 * Any bytes as the safetensors file of a quantised checkpoint (GPTQ or FP8 by the first byte): opened or refused; what is listed can
 * be read, or is refused for what stands in it. The folder is made once.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "weights/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const configs[] = {
    "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32}}",
    "{\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [16, 32]}}",
};
static char folder[] = "/tmp/shoal-fuzz-quantised.XXXXXX";

static void write_file(const char *name, const void *bytes, size_t len_bytes) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, bytes, len_bytes) != (ssize_t)len_bytes)
        abort();
    close(fd);
}

static void remove_folder(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    rmdir(folder);
}

static void read_all(const struct weights_store *store) {
    for (int i = 0; i < weights_store_count(store); i++) {
        const struct weights_tensor *tensor = weights_store_at(store, i);
        int64_t rows = 1, cols = tensor->n_dims > 0 ? tensor->dims[tensor->n_dims - 1] : 1;
        for (int d = 0; d + 1 < tensor->n_dims; d++)
            rows *= tensor->dims[d];
        size_t bytes = dtype_row_bytes(tensor->dtype, (size_t)cols) * (size_t)rows;
        struct err err;
        uint8_t *read = malloc(bytes + 1);
        if (read == NULL)
            abort();
        if (weights_store_read(store, tensor, 0, rows, 0, cols, read, &err) != 0 && err.code != ERR_INVALID)
            abort();
        free(read);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct weights_store *store;
    static int is_made;
    if (size == 0)
        return 0;
    if (!is_made) {
        if (mkdtemp(folder) == NULL)
            abort();
        atexit(remove_folder);
        is_made = 1;
    }
    const char *config = configs[data[0] % 2];
    write_file("config.json", config, strlen(config));
    write_file("model.safetensors", data + 1, size - 1);
    if (weights_store_open(folder, &store, NULL) == 0) {
        read_all(store);
        weights_store_close(store);
    }
    return 0;
}
