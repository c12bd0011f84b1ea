/* The store over a real GGUF file (SmolLM2-135M-Instruct, Q4_1): metadata, every tensor's shape and place, and reads in pieces. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "weights/gguf.h"
#include "weights/store.h"

static int g_n_wrong;

#define EXPECT(condition)                                                     \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);   \
            g_n_wrong++;                                                      \
        }                                                                     \
    } while (0)

static void check_metadata(const struct weights_gguf *gguf) {
    int64_t value = 0;
    double base = 0;
    const char *arch = weights_gguf_get_str(gguf, "general.architecture");
    EXPECT(arch != NULL && strcmp(arch, "llama") == 0);
    EXPECT(weights_gguf_get_int(gguf, "llama.block_count", &value) == 0 && value == 30);
    EXPECT(weights_gguf_get_int(gguf, "llama.attention.head_count", &value) == 0 && value == 9);
    EXPECT(weights_gguf_get_int(gguf, "llama.attention.head_count_kv", &value) == 0 && value == 3);
    EXPECT(weights_gguf_get_double(gguf, "llama.rope.freq_base", &base) == 0 && base == 100000);
    EXPECT(weights_gguf_array_len(gguf, "tokenizer.ggml.tokens") == 49152);
    EXPECT(weights_gguf_array_len(gguf, "tokenizer.ggml.merges") == 48900);
    EXPECT(weights_gguf_array_len(gguf, "tokenizer.ggml.token_type") == 49152);
    for (int64_t i = 0; i < 49152; i++) {
        size_t len;
        const char *text = weights_gguf_array_str(gguf, "tokenizer.ggml.tokens", i, &len);
        EXPECT(text != NULL && strlen(text) == len && len > 0);
    }
    EXPECT(weights_gguf_get_str(gguf, "tokenizer.chat_template") != NULL);
}

/* A middle part of rows and columns in one read against the same cut out of the whole tensor. */
static void check_pieces(const struct weights_store *store, const struct weights_tensor *tensor, const uint8_t *whole) {
    if (tensor->n_dims != 2)
        return;
    int64_t block = dtype_block_weights(tensor->dtype), rows = tensor->dims[0] / 2, cols = tensor->dims[1] / 3 / block * block;
    size_t row_bytes = dtype_row_bytes(tensor->dtype, (size_t)tensor->dims[1]), part_bytes = dtype_row_bytes(tensor->dtype, (size_t)cols);
    uint8_t *part = malloc((size_t)rows * part_bytes);
    EXPECT(part != NULL && weights_store_read(store, tensor, rows / 2, rows, cols, cols, part, NULL) == 0);
    for (int64_t row = 0; part != NULL && row < rows; row++)
        EXPECT(memcmp(part + (size_t)row * part_bytes, whole + (size_t)(rows / 2 + row) * row_bytes + part_bytes, part_bytes) == 0);
    free(part);
}

int main(int argc, char **argv) {
    struct weights_store *store;
    struct err err;
    if (argc != 2 || weights_store_open(argv[1], &store, &err) != 0) {
        fprintf(stderr, "%s\n", argc != 2 ? "usage: check_real_gguf FILE" : err.msg);
        return 1;
    }
    check_metadata(weights_store_gguf(store));
    EXPECT(weights_store_count(store) == 272);
    EXPECT(weights_store_bytes(store) == 96576768);
    int fd = open(argv[1], O_RDONLY);
    uint64_t total = 0;
    for (int i = 0; i < weights_store_count(store); i++) {
        const struct weights_tensor *tensor = weights_store_at(store, i);
        int64_t rows = tensor->n_dims == 2 ? tensor->dims[0] : 1;
        uint8_t *whole = malloc(tensor->len_bytes), *raw = malloc(tensor->len_bytes);
        EXPECT(weights_store_find(store, tensor->name) == tensor);
        EXPECT(whole != NULL && weights_store_read(store, tensor, 0, rows, 0, tensor->dims[tensor->n_dims - 1], whole, &err) == 0);
        EXPECT(raw != NULL && pread(fd, raw, tensor->len_bytes, (off_t)tensor->offset) == (ssize_t)tensor->len_bytes);
        EXPECT(memcmp(whole, raw, tensor->len_bytes) == 0);
        total += tensor->len_bytes;
        EXPECT(i > 0 || weights_store_bytes_read(store) == tensor->len_bytes);
        check_pieces(store, tensor, whole);
        free(whole);
        free(raw);
    }
    EXPECT(total == weights_store_bytes(store));
    close(fd);
    weights_store_close(store);
    return g_n_wrong == 0 ? 0 : 1;
}
