/* Byte-level BPE; see bpe.h. Owns vocabulary, merges and their hash tables. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/utf8.h"

struct token {
    char *spelling; /* as in the vocabulary; NULL: no such id */
    char *bytes;    /* what it stands for */
    uint32_t spelling_bytes, n_bytes;
};

struct merge {
    uint64_t pair;  /* left << 32 | right; EMPTY: no merge */
    int32_t rank, id;
};
static const uint64_t EMPTY = UINT64_MAX;

struct text_bpe {
    struct token *tokens;
    int n_ids, cap_ids;
    int32_t *by_spelling; /* open addressing, -1 empty */
    uint32_t n_spellings, cap_spellings;
    struct merge *merges; /* open addressing */
    uint32_t n_merges, cap_merges;
    int32_t byte_id[256]; /* of the one-byte tokens, -1: none */
    bool ignores_merges;
};

/* GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 and up in order. */
static uint32_t char_of_byte(int byte) {
    bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (is_printable)
        return (uint32_t)byte;
    return 256 + (uint32_t)(byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

static int byte_of_char(uint32_t cp) {
    if (cp < 256)
        return char_of_byte((int)cp) == cp ? (int)cp : -1;
    uint32_t n = cp - 256;
    return n <= 32 ? (int)n : n < 67 ? (int)(n - 33 + 127) : n == 67 ? 173 : -1;
}

int text_bpe_create(struct text_bpe **ret, struct err *err) {
    struct text_bpe *bpe = calloc(1, sizeof *bpe);
    if (bpe == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a tokenizer");
    memset(bpe->byte_id, -1, sizeof bpe->byte_id);
    *ret = bpe;
    return 0;
}

void text_bpe_destroy(struct text_bpe *bpe) {
    if (bpe == NULL)
        return;
    for (int i = 0; i < bpe->n_ids; i++) {
        free(bpe->tokens[i].spelling);
        free(bpe->tokens[i].bytes);
    }
    free(bpe->tokens);
    free(bpe->by_spelling);
    free(bpe->merges);
    free(bpe);
}

/* Slot of a spelling, or the empty one where it belongs. */
static uint32_t spelling_slot(const struct text_bpe *bpe, const char *text, size_t len_bytes) {
    uint32_t mask = bpe->cap_spellings - 1;
    uint32_t slot = (uint32_t)hash_xxh64(text, len_bytes, 0) & mask;
    for (; bpe->by_spelling[slot] >= 0; slot = (slot + 1) & mask) {
        const struct token *token = &bpe->tokens[bpe->by_spelling[slot]];
        if (token->spelling_bytes == len_bytes && memcmp(token->spelling, text, len_bytes) == 0)
            break;
    }
    return slot;
}

static int grow_spellings(struct text_bpe *bpe, struct err *err) {
    if (2 * bpe->n_spellings < bpe->cap_spellings)
        return 0;
    uint32_t cap = bpe->cap_spellings == 0 ? 1024 : 2 * bpe->cap_spellings;
    int32_t *table = malloc(cap * sizeof *table);
    if (table == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a vocabulary of %u tokens", cap / 2);
    memset(table, -1, cap * sizeof *table);
    int32_t *old = bpe->by_spelling;
    uint32_t old_cap = bpe->cap_spellings;
    bpe->by_spelling = table;
    bpe->cap_spellings = cap;
    for (uint32_t i = 0; i < old_cap; i++)
        if (old[i] >= 0)
            table[spelling_slot(bpe, bpe->tokens[old[i]].spelling, bpe->tokens[old[i]].spelling_bytes)] = old[i];
    free(old);
    return 0;
}

static int grow_ids(struct text_bpe *bpe, int32_t id, struct err *err) {
    if (id < 0 || id >= TEXT_MAX_VOCAB)
        return err_set(err, ERR_INVALID, "token id %d; 0 to %d are possible", id, TEXT_MAX_VOCAB - 1);
    if (id >= bpe->cap_ids) {
        int cap = bpe->cap_ids < 1024 ? 1024 : bpe->cap_ids;
        while (cap <= id)
            cap *= 2;
        struct token *tokens = realloc(bpe->tokens, (size_t)cap * sizeof *tokens);
        if (tokens == NULL)
            return err_set(err, ERR_NOMEM, "no memory for a vocabulary of %d tokens", cap);
        memset(tokens + bpe->cap_ids, 0, (size_t)(cap - bpe->cap_ids) * sizeof *tokens);
        bpe->tokens = tokens;
        bpe->cap_ids = cap;
    }
    if (id >= bpe->n_ids)
        bpe->n_ids = id + 1;
    return 0;
}

/* Spelling to bytes; characters outside the table stand for their own UTF-8. Returns the number of bytes. */
static size_t spelled_bytes(const char *text, size_t len_bytes, char *ret_bytes) {
    size_t n = 0;
    for (size_t i = 0; i < len_bytes;) {
        uint32_t cp;
        int len = utf8_decode(text + i, len_bytes - i, &cp), byte;
        len = len < 0 ? -len : len;
        byte = byte_of_char(cp);
        if (byte >= 0) {
            ret_bytes[n++] = (char)byte;
        } else {
            memcpy(ret_bytes + n, text + i, (size_t)len);
            n += (size_t)len;
        }
        i += (size_t)len;
    }
    return n;
}

int text_bpe_add_token(struct text_bpe *bpe, const char *text, size_t len_bytes, int32_t id, struct err *err) {
    if (len_bytes > TEXT_MAX_TOKEN_BYTES)
        return err_set(err, ERR_INVALID, "token %d is %zu bytes long; at most %d are possible", id, len_bytes, TEXT_MAX_TOKEN_BYTES);
    if (grow_ids(bpe, id, err) != 0 || grow_spellings(bpe, err) != 0)
        return -1;
    struct token *token = &bpe->tokens[id];
    if (token->spelling != NULL)
        return err_set(err, ERR_INVALID, "token id %d is given twice: '%.100s' and '%.*s'", id, token->spelling, (int)(len_bytes < 100 ? len_bytes : 100), text);
    char *spelling = malloc(len_bytes + 1), *bytes = malloc(len_bytes + 1);
    if (spelling == NULL || bytes == NULL) {
        free(spelling);
        free(bytes);
        return err_set(err, ERR_NOMEM, "no memory for token %d", id);
    }
    memcpy(spelling, text, len_bytes);
    spelling[len_bytes] = '\0';
    size_t n_bytes = spelled_bytes(text, len_bytes, bytes);
    bytes[n_bytes] = '\0';
    *token = (struct token){spelling, bytes, (uint32_t)len_bytes, (uint32_t)n_bytes};
    if (n_bytes == 1 && bpe->byte_id[(uint8_t)bytes[0]] < 0)
        bpe->byte_id[(uint8_t)bytes[0]] = id;
    uint32_t slot = spelling_slot(bpe, text, len_bytes);
    if (bpe->by_spelling[slot] < 0) { /* the first of two that are spelled alike stays */
        bpe->by_spelling[slot] = id;
        bpe->n_spellings++;
    }
    return 0;
}

static uint32_t merge_slot(const struct text_bpe *bpe, uint64_t pair) {
    uint32_t mask = bpe->cap_merges - 1;
    uint64_t z = (pair ^ (pair >> 29)) * 0xbf58476d1ce4e5b9u;
    uint32_t slot = (uint32_t)(z >> 32) & mask;
    while (bpe->merges[slot].pair != EMPTY && bpe->merges[slot].pair != pair)
        slot = (slot + 1) & mask;
    return slot;
}

static int grow_merges(struct text_bpe *bpe, struct err *err) {
    if (2 * bpe->n_merges < bpe->cap_merges)
        return 0;
    uint32_t cap = bpe->cap_merges == 0 ? 1024 : 2 * bpe->cap_merges;
    struct merge *table = malloc(cap * sizeof *table), *old = bpe->merges;
    if (table == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %u merges", cap / 2);
    uint32_t old_cap = bpe->cap_merges;
    for (uint32_t i = 0; i < cap; i++)
        table[i].pair = EMPTY;
    bpe->merges = table;
    bpe->cap_merges = cap;
    for (uint32_t i = 0; i < old_cap; i++)
        if (old[i].pair != EMPTY)
            table[merge_slot(bpe, old[i].pair)] = old[i];
    free(old);
    return 0;
}

int text_bpe_add_merge(struct text_bpe *bpe, const char *left, size_t left_bytes, const char *right, size_t right_bytes, struct err *err) {
    char *whole = malloc(left_bytes + right_bytes + 1);
    if (whole == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a merge");
    memcpy(whole, left, left_bytes);
    memcpy(whole + left_bytes, right, right_bytes);
    int32_t a = text_bpe_find(bpe, left, left_bytes), b = text_bpe_find(bpe, right, right_bytes);
    int32_t id = text_bpe_find(bpe, whole, left_bytes + right_bytes);
    free(whole);
    if (a < 0 || b < 0 || id < 0)
        return err_set(err, ERR_INVALID, "merge %u of '%.*s' and '%.*s': %s is not in the vocabulary", bpe->n_merges + 1, (int)left_bytes, left,
                       (int)right_bytes, right, a < 0 ? "the left half" : b < 0 ? "the right half" : "their sum");
    if (bpe->n_merges >= TEXT_MAX_VOCAB * 2u)
        return err_set(err, ERR_LIMIT, "more than %u merges", TEXT_MAX_VOCAB * 2u);
    if (grow_merges(bpe, err) != 0)
        return -1;
    uint64_t pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    uint32_t slot = merge_slot(bpe, pair);
    bpe->merges[slot] = (struct merge){pair, (int32_t)bpe->n_merges, id}; /* of two for one pair the later counts */
    bpe->n_merges++;
    return 0;
}

void text_bpe_ignore_merges(struct text_bpe *bpe, bool ignores) { bpe->ignores_merges = ignores; }

int32_t text_bpe_find(const struct text_bpe *bpe, const char *text, size_t len_bytes) {
    return bpe->cap_spellings == 0 ? -1 : bpe->by_spelling[spelling_slot(bpe, text, len_bytes)];
}

int text_bpe_n_ids(const struct text_bpe *bpe) { return bpe->n_ids; }

const char *text_bpe_bytes(const struct text_bpe *bpe, int32_t id, size_t *ret_len_bytes) {
    if (id < 0 || id >= bpe->n_ids || bpe->tokens[id].bytes == NULL)
        return NULL;
    *ret_len_bytes = bpe->tokens[id].n_bytes;
    return bpe->tokens[id].bytes;
}

/* ---- Encoding: symbols in a list, candidates for merging in a heap ---- */

struct symbol {
    int32_t id; /* -1: merged into the one before */
    int32_t prev, next;
};

struct candidate {
    int32_t rank, left; /* place of the left symbol */
    int32_t left_id, right_id, id;
};

/* Lower rank first, then further left: the order of the reference. */
static bool is_before(const struct candidate *a, const struct candidate *b) { return a->rank != b->rank ? a->rank < b->rank : a->left < b->left; }

struct heap {
    struct candidate *items;
    int n;
};

static void heap_push(struct heap *heap, struct candidate item) {
    int at = heap->n++;
    for (int parent; at > 0 && is_before(&item, &heap->items[parent = (at - 1) / 2]); at = parent)
        heap->items[at] = heap->items[parent];
    heap->items[at] = item;
}

static struct candidate heap_pop(struct heap *heap) {
    struct candidate top = heap->items[0], last = heap->items[--heap->n];
    int at = 0;
    for (int child; (child = 2 * at + 1) < heap->n; at = child) {
        if (child + 1 < heap->n && is_before(&heap->items[child + 1], &heap->items[child]))
            child++;
        if (!is_before(&heap->items[child], &last))
            break;
        heap->items[at] = heap->items[child];
    }
    heap->items[at] = last;
    return top;
}

static void consider(const struct text_bpe *bpe, const struct symbol *symbols, int32_t left, struct heap *heap) {
    if (left < 0 || symbols[left].next < 0)
        return;
    int32_t a = symbols[left].id, b = symbols[symbols[left].next].id;
    const struct merge *merge = &bpe->merges[merge_slot(bpe, (uint64_t)(uint32_t)a << 32 | (uint32_t)b)];
    if (merge->pair != EMPTY)
        heap_push(heap, (struct candidate){merge->rank, left, a, b, merge->id});
}

static void merge_all(const struct text_bpe *bpe, struct symbol *symbols, int n, struct heap *heap) {
    for (int i = 0; i + 1 < n; i++)
        consider(bpe, symbols, i, heap);
    while (heap->n > 0) {
        struct candidate c = heap_pop(heap);
        struct symbol *left = &symbols[c.left];
        if (left->id != c.left_id || left->next < 0 || symbols[left->next].id != c.right_id)
            continue; /* one of the two was merged meanwhile */
        int32_t gone = left->next;
        left->id = c.id;
        left->next = symbols[gone].next;
        symbols[gone].id = -1;
        if (left->next >= 0)
            symbols[left->next].prev = c.left;
        consider(bpe, symbols, left->prev, heap);
        consider(bpe, symbols, c.left, heap);
    }
}

int text_ids_reserve(struct text_ids *ids, int n, struct err *err) {
    if (n > ids->limit - ids->n_ids)
        return err_set(err, ERR_LIMIT, "the text has more than %d tokens", ids->limit);
    if (ids->n_ids + n <= ids->cap)
        return 0;
    int cap = ids->cap < 64 ? 64 : ids->cap;
    while (cap < ids->n_ids + n)
        cap += cap / 2;
    int32_t *grown = realloc(ids->ids, (size_t)cap * sizeof *grown);
    if (grown == NULL)
        return err_set(err, ERR_NOMEM, "no memory for %d token ids", cap);
    ids->ids = grown;
    ids->cap = cap;
    return 0;
}

/* The token that is spelled like these bytes, or -1. */
static int32_t find_bytes(const struct text_bpe *bpe, const char *text, size_t len_bytes) {
    char spelling[256] = "";
    size_t n = 0;
    if (2 * len_bytes > sizeof spelling)
        return -1;
    for (size_t i = 0; i < len_bytes; i++)
        n += (size_t)utf8_encode(char_of_byte((uint8_t)text[i]), spelling + n);
    return text_bpe_find(bpe, spelling, n);
}

enum { STACK_SYMBOLS = 128 };

int text_bpe_encode(const struct text_bpe *bpe, const char *text, size_t len_bytes, struct text_ids *ids, struct err *err) {
    struct symbol few[STACK_SYMBOLS], *symbols = few;
    struct candidate few_candidates[3 * STACK_SYMBOLS];
    struct heap heap = {few_candidates, 0};
    int32_t whole = bpe->ignores_merges ? find_bytes(bpe, text, len_bytes) : -1;
    int result = -1, n = 0;
    if (whole >= 0) {
        if (text_ids_reserve(ids, 1, err) != 0)
            return -1;
        ids->ids[ids->n_ids++] = whole;
        return 0;
    }
    if (len_bytes > INT32_MAX / 4)
        return err_set(err, ERR_LIMIT, "a piece of %zu bytes", len_bytes);
    if (len_bytes > STACK_SYMBOLS) { /* every merge adds at most two candidates to the first n - 1 */
        symbols = malloc(len_bytes * sizeof *symbols);
        heap.items = malloc(3 * len_bytes * sizeof *heap.items);
        if (symbols == NULL || heap.items == NULL) {
            err_set(err, ERR_NOMEM, "no memory for a piece of %zu bytes", len_bytes);
            goto free_symbols;
        }
    }
    for (size_t i = 0; i < len_bytes; i++) {
        int32_t id = bpe->byte_id[(uint8_t)text[i]];
        if (id < 0) /* a vocabulary without this byte: the reference drops it as well */
            continue;
        symbols[n] = (struct symbol){id, n - 1, n + 1};
        n++;
    }
    if (n > 0) {
        symbols[n - 1].next = -1;
        if (bpe->n_merges > 0)
            merge_all(bpe, symbols, n, &heap);
    }
    for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[i].next) {
        if (text_ids_reserve(ids, 1, err) != 0)
            goto free_symbols;
        ids->ids[ids->n_ids++] = symbols[i].id;
    }
    result = 0;
free_symbols:
    if (symbols != few)
        free(symbols);
    if (heap.items != few_candidates)
        free(heap.items);
    return result;
}
