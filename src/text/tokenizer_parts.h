/* The inside of a tokenizer, for tokenizer.c and its two readers only. */
#ifndef TEXT_TOKENIZER_PARTS_H
#define TEXT_TOKENIZER_PARTS_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/splitter.h"
#include "text/tokenizer.h"

enum { TEXT_MAX_AFFIX = 8 };

struct text_tokenizer {
    struct text_bpe *bpe;
    struct text_splitter *splitter;
    struct text_added added;
    bool normalizes_nfc, adds_prefix_space;
    int32_t bos, eos;
    int32_t prefix[TEXT_MAX_AFFIX], suffix[TEXT_MAX_AFFIX]; /* what TEXT_ADD_SPECIAL puts around */
    int n_prefix, n_suffix;
    /* By id, of the added tokens: index + 1 in added.tokens, 0 for others. Filled at the end. */
    int *added_of_id;
    int n_ids;
};

int text_tokenizer_alloc(struct text_tokenizer **ret, struct err *err);
/* After everything was added: sorts and indexes. */
int text_tokenizer_seal(struct text_tokenizer *tokenizer, struct err *err);

#endif
