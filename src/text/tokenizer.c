/* Encoding and decoding; see tokenizer.h. The readers are in tokenizer_json.c and tokenizer_gguf.c. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/tokenizer_parts.h"
#include "text/unicode.h"

void text_ids_init(struct text_ids *ids, int limit) { *ids = (struct text_ids){.limit = limit}; }

void text_ids_finish(struct text_ids *ids) {
    free(ids->ids);
    ids->ids = NULL;
    ids->n_ids = ids->cap = 0;
}

int text_tokenizer_alloc(struct text_tokenizer **ret, struct err *err) {
    struct text_tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a tokenizer");
    t->bos = t->eos = -1;
    t->splitter = text_splitter_create();
    if (t->splitter == NULL || text_bpe_create(&t->bpe, err) != 0) {
        text_tokenizer_close(t);
        return err_set(err, ERR_NOMEM, "no memory for a tokenizer");
    }
    *ret = t;
    return 0;
}

void text_tokenizer_close(struct text_tokenizer *tokenizer) {
    if (tokenizer == NULL)
        return;
    text_bpe_destroy(tokenizer->bpe);
    text_splitter_destroy(tokenizer->splitter);
    text_added_finish(&tokenizer->added);
    free(tokenizer->added_of_id);
    free(tokenizer);
}

int text_tokenizer_seal(struct text_tokenizer *t, struct err *err) {
    t->n_ids = text_bpe_n_ids(t->bpe);
    text_added_sort(&t->added);
    for (int i = 0; i < t->added.n; i++)
        if (t->added.tokens[i].id >= t->n_ids)
            t->n_ids = t->added.tokens[i].id + 1;
    for (int i = 0; i < t->n_prefix + t->n_suffix; i++) {
        int32_t id = i < t->n_prefix ? t->prefix[i] : t->suffix[i - t->n_prefix];
        if (id < 0 || id >= t->n_ids)
            return err_set(err, ERR_INVALID, "the template puts the token %d around a text; the vocabulary ends at %d", (int)id, t->n_ids - 1);
    }
    t->added_of_id = calloc((size_t)t->n_ids + 1, sizeof *t->added_of_id);
    if (t->added_of_id == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d tokens", t->n_ids);
    for (int i = 0; i < t->added.n; i++)
        t->added_of_id[t->added.tokens[i].id] = i + 1;
    return 0;
}

/* ---- Encoding ---- */

struct encoding {
    const struct text_tokenizer *tokenizer;
    bool skips_special;
    struct text_ids *ids;
    struct err *err;
};

static int encode_piece(void *ctx, const char *text, size_t len_bytes) {
    struct encoding *e = ctx;
    return text_bpe_encode(e->tokenizer->bpe, text, len_bytes, e->ids, e->err);
}

static int encode_plain(struct encoding *e, const char *text, size_t len_bytes) {
    if (len_bytes == 0)
        return 0;
    if (!e->tokenizer->adds_prefix_space || text[0] == ' ')
        return text_splitter_run(e->tokenizer->splitter, text, len_bytes, encode_piece, e);
    struct buf spaced;
    buf_init(&spaced, len_bytes + 1);
    int result = buf_append_char(&spaced, ' ') != 0 || buf_append(&spaced, text, len_bytes) != 0
                     ? err_set(e->err, ERR_NOMEM, "no memory for %zu bytes of text", len_bytes)
                     : text_splitter_run(e->tokenizer->splitter, spaced.data, spaced.len_bytes, encode_piece, e);
    buf_finish(&spaced);
    return result;
}

typedef int (*encode_fn)(struct encoding *e, const char *text, size_t len_bytes);

/* Cuts added tokens out; what lies between goes to `rest`. */
static int cut_added(struct encoding *e, bool is_normalized, const char *text, size_t len_bytes, encode_fn rest) {
    size_t at = 0, begin, end;
    int32_t id;
    while (text_added_find(&e->tokenizer->added, is_normalized, e->skips_special, text, len_bytes, at, &begin, &end, &id)) {
        if (rest(e, text + at, begin - at) != 0 || text_ids_reserve(e->ids, 1, e->err) != 0)
            return -1;
        e->ids->ids[e->ids->n_ids++] = id;
        at = end;
    }
    return rest(e, text + at, len_bytes - at);
}

static int encode_normalized(struct encoding *e, const char *text, size_t len_bytes) { return cut_added(e, true, text, len_bytes, encode_plain); }

static int encode_raw(struct encoding *e, const char *text, size_t len_bytes) {
    struct buf nfc;
    if (!e->tokenizer->normalizes_nfc || len_bytes == 0)
        return encode_normalized(e, text, len_bytes);
    buf_init(&nfc, 4 * len_bytes + 64); /* NFC grows UTF-8 by a factor of three at most */
    int result = text_unicode_nfc(text, len_bytes, &nfc) != 0 ? err_set(e->err, ERR_NOMEM, "no memory to normalise %zu bytes of text", len_bytes)
                                                              : encode_normalized(e, buf_str(&nfc), nfc.len_bytes);
    buf_finish(&nfc);
    return result;
}

static int append_affix(const int32_t *affix, int n, struct text_ids *ids, struct err *err) {
    if (text_ids_reserve(ids, n, err) != 0)
        return -1;
    for (int i = 0; i < n; i++)
        ids->ids[ids->n_ids++] = affix[i];
    return 0;
}

int text_tokenizer_encode(const struct text_tokenizer *tokenizer, const char *text, size_t len_bytes, unsigned flags, struct text_ids *ids,
                          struct err *err) {
    struct encoding e = {tokenizer, (flags & TEXT_PARSE_SPECIAL) == 0, ids, err};
    bool adds = (flags & TEXT_ADD_SPECIAL) != 0;
    int n_before = ids->n_ids, result = -1;
    struct buf repaired;
    buf_init(&repaired, 3 * len_bytes + 1);
    if (!utf8_valid(text, len_bytes)) {
        if (utf8_append_repaired(&repaired, text, len_bytes) != 0) {
            err_set(err, ERR_NOMEM, "no memory for %zu bytes of text", len_bytes);
            goto finish_repaired;
        }
        text = buf_str(&repaired);
        len_bytes = repaired.len_bytes;
    }
    if ((adds && append_affix(tokenizer->prefix, tokenizer->n_prefix, ids, err) != 0) || cut_added(&e, false, text, len_bytes, encode_raw) != 0 ||
        (adds && append_affix(tokenizer->suffix, tokenizer->n_suffix, ids, err) != 0))
        ids->n_ids = n_before;
    else
        result = 0;
finish_repaired:
    buf_finish(&repaired);
    return result;
}

/* ---- Looking up ---- */

static const struct text_added_token *added_token(const struct text_tokenizer *t, int32_t id) {
    return id < 0 || id >= t->n_ids || t->added_of_id[id] == 0 ? NULL : &t->added.tokens[t->added_of_id[id] - 1];
}

int text_tokenizer_n_vocab(const struct text_tokenizer *tokenizer) { return tokenizer->n_ids; }

const char *text_tokenizer_token_bytes(const struct text_tokenizer *tokenizer, int32_t id, size_t *ret_len_bytes) {
    const struct text_added_token *added = added_token(tokenizer, id);
    if (added == NULL)
        return text_bpe_bytes(tokenizer->bpe, id, ret_len_bytes);
    *ret_len_bytes = added->len_bytes;
    return added->text;
}

bool text_tokenizer_is_special(const struct text_tokenizer *tokenizer, int32_t id) {
    const struct text_added_token *added = added_token(tokenizer, id);
    return added != NULL && added->is_special;
}

int32_t text_tokenizer_find(const struct text_tokenizer *tokenizer, const char *text) {
    size_t len = strlen(text);
    for (int i = 0; i < tokenizer->added.n; i++)
        if (tokenizer->added.tokens[i].len_bytes == len && memcmp(tokenizer->added.tokens[i].text, text, len) == 0)
            return tokenizer->added.tokens[i].id;
    return text_bpe_find(tokenizer->bpe, text, len);
}

int32_t text_tokenizer_bos(const struct text_tokenizer *tokenizer) { return tokenizer->bos; }
int32_t text_tokenizer_eos(const struct text_tokenizer *tokenizer) { return tokenizer->eos; }
bool text_tokenizer_adds_bos(const struct text_tokenizer *tokenizer) { return tokenizer->n_prefix > 0; }

int text_tokenizer_decode(const struct text_tokenizer *tokenizer, const int32_t *ids, int n_ids, bool skip_special, struct buf *out) {
    struct buf raw;
    buf_init(&raw, out->limit_bytes);
    for (int i = 0; i < n_ids; i++) {
        size_t len;
        const char *bytes = skip_special && text_tokenizer_is_special(tokenizer, ids[i]) ? NULL : text_tokenizer_token_bytes(tokenizer, ids[i], &len);
        if (bytes != NULL)
            buf_append(&raw, bytes, len);
    }
    int result = raw.failed ? -1 : utf8_append_repaired(out, buf_str(&raw), raw.len_bytes);
    buf_finish(&raw);
    return result;
}
