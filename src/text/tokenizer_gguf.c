/* Reader of the tokenizer in GGUF metadata (tokenizer.ggml.*; ggml/docs/gguf.md). */
#include <stdio.h>
#include <string.h>

#include "text/tokenizer_parts.h"
#include "weights/gguf.h"

enum { TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

/* The splitters by tokenizer.ggml.pre; n_steps of them in a row. */
static const struct {
    const char *pre;
    bool normalizes_nfc, ignores_merges;
    int n_steps;
    enum text_split_kind steps[2];
} known_pres[] = {
    {"qwen2", true, false, 1, {TEXT_SPLIT_QWEN2}},
    {"smollm", false, false, 2, {TEXT_SPLIT_DIGITS, TEXT_SPLIT_GPT2}},
    {"gpt-2", false, false, 1, {TEXT_SPLIT_GPT2}},
    {"default", false, false, 1, {TEXT_SPLIT_GPT2}},
    {"llama-bpe", false, true, 1, {TEXT_SPLIT_LLAMA3}},
    {"llama3", false, true, 1, {TEXT_SPLIT_LLAMA3}},
};
enum { N_PRES = sizeof known_pres / sizeof known_pres[0] };

static int choose_pre(struct text_tokenizer *t, const struct weights_gguf *gguf, struct err *err) {
    char known[128] = "";
    size_t len = 0;
    const char *pre = weights_gguf_get_str(gguf, "tokenizer.ggml.pre");
    for (int i = 0; i < N_PRES; i++) {
        if (strcmp(known_pres[i].pre, pre == NULL ? "default" : pre) == 0) {
            t->normalizes_nfc = known_pres[i].normalizes_nfc;
            text_bpe_ignore_merges(t->bpe, known_pres[i].ignores_merges);
            for (int s = 0; s < known_pres[i].n_steps; s++)
                if (text_splitter_add(t->splitter, known_pres[i].steps[s], NULL, err) != 0)
                    return -1;
            return 0;
        }
        len += (size_t)snprintf(known + len, sizeof known - len, "%s%s", i > 0 ? ", " : "", known_pres[i].pre);
    }
    return err_set(err, ERR_UNSUPPORTED, "tokenizer.ggml.pre '%s' is not supported; supported are %s", pre, known);
}

static int read_tokens(struct text_tokenizer *t, const struct weights_gguf *gguf, int64_t n, struct err *err) {
    for (int64_t i = 0; i < n; i++) {
        size_t len;
        int64_t type = 0;
        const char *text = weights_gguf_array_str(gguf, "tokenizer.ggml.tokens", i, &len);
        weights_gguf_array_int(gguf, "tokenizer.ggml.token_type", i, &type);
        if (text == NULL)
            return err_set(err, ERR_INVALID, "tokenizer.ggml.tokens should be texts");
        if (type != TYPE_CONTROL && type != TYPE_USER_DEFINED) {
            if (text_bpe_add_token(t->bpe, text, len, (int32_t)i, err) != 0)
                return -1;
            continue;
        }
        struct text_added_token token = {.text = (char *)text, .len_bytes = len, .id = (int32_t)i, .is_special = type == TYPE_CONTROL};
        if (text_added_add(&t->added, &token, err) != 0)
            return -1;
    }
    return 0;
}

static int read_merges(struct text_tokenizer *t, const struct weights_gguf *gguf, struct err *err) {
    int64_t n = weights_gguf_array_len(gguf, "tokenizer.ggml.merges");
    for (int64_t i = 0; i < n; i++) {
        size_t len;
        const char *text = weights_gguf_array_str(gguf, "tokenizer.ggml.merges", i, &len);
        const char *space = text == NULL || len < 3 ? NULL : memchr(text + 1, ' ', len - 1);
        if (space == NULL)
            return err_set(err, ERR_INVALID, "merge %lld of tokenizer.ggml.merges should be two tokens with a space between", (long long)i + 1);
        if (text_bpe_add_merge(t->bpe, text, (size_t)(space - text), space + 1, len - (size_t)(space + 1 - text), err) != 0)
            return -1;
    }
    return 0;
}

static int read_all(struct text_tokenizer *t, const struct weights_gguf *gguf, struct err *err) {
    int64_t n = weights_gguf_array_len(gguf, "tokenizer.ggml.tokens"), id;
    const char *model = weights_gguf_get_str(gguf, "tokenizer.ggml.model");
    bool adds_bos = false;
    if (model == NULL || strcmp(model, "gpt2") != 0)
        return err_set(err, ERR_UNSUPPORTED, "tokenizer.ggml.model '%s' is not supported; supported is gpt2 (byte-level BPE)", model == NULL ? "" : model);
    if (n < 1 || n > TEXT_MAX_VOCAB)
        return err_set(err, ERR_INVALID, "tokenizer.ggml.tokens has %lld tokens; 1 to %d are possible", (long long)n, TEXT_MAX_VOCAB);
    if (choose_pre(t, gguf, err) != 0 || read_tokens(t, gguf, n, err) != 0 || read_merges(t, gguf, err) != 0)
        return -1;
    if (weights_gguf_get_int(gguf, "tokenizer.ggml.bos_token_id", &id) == 0 && id >= 0 && id < n)
        t->bos = (int32_t)id;
    if (weights_gguf_get_int(gguf, "tokenizer.ggml.eos_token_id", &id) == 0 && id >= 0 && id < n)
        t->eos = (int32_t)id;
    weights_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &adds_bos);
    if (adds_bos && t->bos >= 0)
        t->prefix[t->n_prefix++] = t->bos;
    return text_tokenizer_seal(t, err);
}

int text_tokenizer_open_gguf(const struct weights_gguf *gguf, struct text_tokenizer **ret, struct err *err) {
    struct text_tokenizer *t;
    if (text_tokenizer_alloc(&t, err) != 0)
        return -1;
    if (read_all(t, gguf, err) != 0) {
        text_tokenizer_close(t);
        return err_wrap(err, "tokenizer");
    }
    *ret = t;
    return 0;
}
