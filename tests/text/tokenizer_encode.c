/*
 * For the differential test: reads documents from stdin (a 4-byte length each, then bytes), writes for each the number of ids and the ids
 * (4 bytes each) to stdout, and the speed to stderr. usage: tokenizer_encode TOKENIZER.json|MODEL.gguf
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "text/tokenizer.h"
#include "weights/store.h"

int main(int argc, char **argv) {
    struct err err;
    struct text_tokenizer *tokenizer;
    struct weights_store *store = NULL;
    const char *path = argc > 1 ? argv[1] : "";
    size_t len = strlen(path);
    bool is_gguf = len > 5 && strcmp(path + len - 5, ".gguf") == 0;
    if (is_gguf ? weights_store_open(path, &store, &err) != 0 || text_tokenizer_open_gguf(weights_store_gguf(store), &tokenizer, &err) != 0
                : text_tokenizer_open_json(path, &tokenizer, &err) != 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    uint32_t n_bytes;
    int64_t spent_ns = 0;
    double total_bytes = 0;
    while (fread(&n_bytes, sizeof n_bytes, 1, stdin) == 1) {
        char *text = malloc(n_bytes + 1);
        if (text == NULL || fread(text, 1, n_bytes, stdin) != n_bytes)
            return 1;
        struct text_ids ids;
        text_ids_init(&ids, INT32_MAX);
        int64_t start_ns = clock_mono_ns();
        if (text_tokenizer_encode(tokenizer, text, n_bytes, TEXT_PARSE_SPECIAL, &ids, &err) != 0) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        spent_ns += clock_mono_ns() - start_ns;
        total_bytes += n_bytes;
        int32_t n = ids.n_ids;
        fwrite(&n, sizeof n, 1, stdout);
        fwrite(ids.ids, sizeof *ids.ids, (size_t)n, stdout);
        text_ids_finish(&ids);
        free(text);
    }
    fprintf(stderr, "%.1f MB in %.2f s: %.1f MB/s\n", total_bytes / 1e6, (double)spent_ns / 1e9, total_bytes * 1e3 / (double)spent_ns);
    text_tokenizer_close(tokenizer);
    weights_store_close(store);
    return 0;
}
