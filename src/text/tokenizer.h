/*
 * Byte-level BPE tokenizers: from a Hugging Face tokenizer.json or from GGUF metadata. Gives the same ids as Hugging
 * Face's `tokenizers` for the splitters of GPT-2, Qwen2/3, SmolLM and Llama 3.
 *
 * A tokenizer is immutable once made: any number of threads may use it at once. It knows nothing of models or chats.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct text_tokenizer;
struct weights_gguf;

/* Reads tokenizer.json (and tokenizer_config.json beside it for add_bos_token, eos_token, bos_token when there is one). */
int text_tokenizer_open_json(const char *path, struct text_tokenizer **ret, struct err *err);
/* From tokenizer.ggml.*; an unknown tokenizer.ggml.pre is ERR_UNSUPPORTED and lists the known ones. */
int text_tokenizer_open_gguf(const struct weights_gguf *gguf, struct text_tokenizer **ret, struct err *err);
void text_tokenizer_close(struct text_tokenizer *tokenizer); /* accepts NULL */

struct text_ids {
    int32_t *ids; /* malloc'd; free with text_ids_finish */
    int n_ids, cap;
    int limit; /* most ids that may be appended */
};
void text_ids_init(struct text_ids *ids, int limit);
void text_ids_finish(struct text_ids *ids);

enum { TEXT_ADD_SPECIAL = 1 /* BOS where the tokenizer adds one */, TEXT_PARSE_SPECIAL = 2 /* "<|im_end|>" in the text is that token */ };

/* Appends the ids of the text; ill-formed UTF-8 is repaired as in utf8_append_repaired. ERR_LIMIT past ids->limit. */
int text_tokenizer_encode(const struct text_tokenizer *tokenizer, const char *text, size_t len_bytes, unsigned flags, struct text_ids *ids,
                          struct err *err);

/* Ids in [0, n_vocab). The model's vocabulary may be larger: ids without a token decode to nothing. */
int text_tokenizer_n_vocab(const struct text_tokenizer *tokenizer);
/* The raw bytes that a token stands for (a special one: its text), not NUL-terminated; NULL when there is no such token. */
const char *text_tokenizer_token_bytes(const struct text_tokenizer *tokenizer, int32_t id, size_t *ret_len_bytes);
bool text_tokenizer_is_special(const struct text_tokenizer *tokenizer, int32_t id);
/* Id of a token by its exact text (for special tokens), -1 when absent. */
int32_t text_tokenizer_find(const struct text_tokenizer *tokenizer, const char *text);
int32_t text_tokenizer_bos(const struct text_tokenizer *tokenizer); /* -1: none */
int32_t text_tokenizer_eos(const struct text_tokenizer *tokenizer); /* -1: none */
bool text_tokenizer_adds_bos(const struct text_tokenizer *tokenizer);

/* Appends the text of the ids, ill-formed UTF-8 repaired at the end of all (Hugging Face's decode without clean-up). */
int text_tokenizer_decode(const struct text_tokenizer *tokenizer, const int32_t *ids, int n_ids, bool skip_special, struct buf *out);

#endif
