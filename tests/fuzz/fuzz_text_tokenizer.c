/*
 * Any bytes as a tokenizer, of either format, and any text through it. The input: a length n, n bytes of text, then a tokenizer.json or a
 * GGUF file. What is encoded must be ids of the tokenizer, and decodes to well-formed UTF-8.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/utf8.h"
#include "text/tokenizer.h"
#include "weights/gguf.h"
#include "weights/store.h"

enum { MOST_IDS = 4096, TEXT_LIMIT = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_decoded(const struct text_tokenizer *tokenizer, const struct text_ids *ids, bool skip_special) {
    struct buf text;
    buf_init(&text, TEXT_LIMIT);
    text_tokenizer_decode(tokenizer, ids->ids, ids->n_ids, skip_special, &text);
    if (!text.failed && !utf8_valid(buf_str(&text), text.len_bytes))
        abort();
    buf_finish(&text);
}

static void encode(const struct text_tokenizer *tokenizer, const char *text, size_t len_bytes, unsigned flags) {
    struct text_ids ids;
    text_ids_init(&ids, MOST_IDS);
    if (text_tokenizer_encode(tokenizer, text, len_bytes, flags, &ids, NULL) == 0) {
        for (int i = 0; i < ids.n_ids; i++)
            if (ids.ids[i] < 0 || ids.ids[i] >= text_tokenizer_n_vocab(tokenizer))
                abort();
        check_decoded(tokenizer, &ids, flags == 0);
    }
    text_ids_finish(&ids);
}

/* Every token and both neighbours of the vocabulary. */
static void ask_all(const struct text_tokenizer *tokenizer) {
    int n_vocab = text_tokenizer_n_vocab(tokenizer);
    for (int32_t id = -1; id <= n_vocab && id < MOST_IDS; id++) {
        size_t len = 0;
        const char *bytes = text_tokenizer_token_bytes(tokenizer, id, &len);
        volatile char last = bytes != NULL && len > 0 ? bytes[len - 1] : 0;
        (void)last;
        text_tokenizer_is_special(tokenizer, id);
    }
    int32_t bos = text_tokenizer_bos(tokenizer), eos = text_tokenizer_eos(tokenizer);
    if (bos < -1 || bos >= n_vocab || eos < -1 || eos >= n_vocab)
        abort();
    text_tokenizer_find(tokenizer, "<|endoftext|>");
}

static int open_tokenizer(const char *path, bool is_gguf, struct text_tokenizer **ret) {
    struct weights_store *store;
    if (!is_gguf)
        return text_tokenizer_open_json(path, ret, NULL);
    if (weights_store_open(path, &store, NULL) != 0)
        return -1;
    int result = weights_store_gguf(store) != NULL ? text_tokenizer_open_gguf(weights_store_gguf(store), ret, NULL) : -1;
    weights_store_close(store); /* a tokenizer stands on its own */
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    struct text_tokenizer *tokenizer;
    if (size == 0 || (size_t)data[0] + 1 > size)
        return 0;
    const char *text = (const char *)data + 1, *file = text + data[0];
    size_t text_bytes = data[0], file_bytes = size - 1 - data[0];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, file, file_bytes) != (ssize_t)file_bytes)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (open_tokenizer(path, file_bytes >= 4 && memcmp(file, "GGUF", 4) == 0, &tokenizer) == 0) {
        ask_all(tokenizer);
        encode(tokenizer, text, text_bytes, 0);
        encode(tokenizer, text, text_bytes, TEXT_ADD_SPECIAL | TEXT_PARSE_SPECIAL);
        encode(tokenizer, file, file_bytes < MOST_IDS ? file_bytes : MOST_IDS, TEXT_PARSE_SPECIAL);
        text_tokenizer_close(tokenizer);
    }
    close(fd);
    return 0;
}
