/* Cutting text into pieces; see splitter.h. Patterns as in the tokenizer.json files of GPT-2, Qwen2 and Llama 3. */
#include "text/splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/unicode.h"

enum { MAX_STEPS = 8, MATCH_LIMIT = 10000000 };

struct step {
    enum text_split_kind kind;
    pcre2_code *code; /* TEXT_SPLIT_REGEX */
};

struct text_splitter {
    struct step steps[MAX_STEPS];
    int n_steps;
};

static const struct {
    enum text_split_kind kind;
    const char *pattern;
} known_patterns[] = {
    {TEXT_SPLIT_QWEN2, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {TEXT_SPLIT_LLAMA3,
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {TEXT_SPLIT_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
};

struct text_splitter *text_splitter_create(void) { return calloc(1, sizeof(struct text_splitter)); }

void text_splitter_destroy(struct text_splitter *splitter) {
    if (splitter == NULL)
        return;
    for (int i = 0; i < splitter->n_steps; i++)
        pcre2_code_free(splitter->steps[i].code);
    free(splitter);
}

int text_splitter_add(struct text_splitter *splitter, enum text_split_kind kind, const char *pattern, struct err *err) {
    if (splitter->n_steps == MAX_STEPS)
        return err_set(err, ERR_LIMIT, "more than %d pre-tokenizers in a row", MAX_STEPS);
    struct step step = {.kind = kind};
    for (size_t i = 0; kind == TEXT_SPLIT_REGEX && i < sizeof known_patterns / sizeof known_patterns[0]; i++)
        if (strcmp(pattern, known_patterns[i].pattern) == 0)
            step.kind = known_patterns[i].kind;
    if (step.kind == TEXT_SPLIT_REGEX) {
        int code;
        PCRE2_SIZE at;
        step.code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK, &code, &at, NULL);
        if (step.code == NULL) {
            PCRE2_UCHAR why[128];
            pcre2_get_error_message(code, why, sizeof why);
            return err_set(err, ERR_UNSUPPORTED, "the pre-tokenizer's pattern cannot be used: %s at character %zu of '%.200s'", (const char *)why, at, pattern);
        }
        pcre2_jit_compile(step.code, PCRE2_JIT_COMPLETE); /* slower, but right, where there is no JIT */
    }
    splitter->steps[splitter->n_steps++] = step;
    return 0;
}

/* A place in valid UTF-8 and what stands there; at the end len is 0 and there are no classes. */
struct cursor {
    const char *text;
    size_t end, at;
    uint32_t cp;
    int len;
    uint8_t classes;
};

static void look(struct cursor *c) {
    c->len = 0;
    c->classes = 0;
    c->cp = UINT32_MAX;
    if (c->at >= c->end)
        return;
    c->len = utf8_decode(c->text + c->at, c->end - c->at, &c->cp);
    c->len = c->len < 0 ? -c->len : c->len;
    c->classes = text_unicode_classes(c->cp);
}

static void step_over(struct cursor *c) {
    c->at += (size_t)c->len;
    look(c);
}

static struct cursor cursor_at(const char *text, size_t end, size_t at) {
    struct cursor c = {.text = text, .end = end, .at = at};
    look(&c);
    return c;
}

/* A letter of a contraction; the long s folds to s where case does not count. */
static uint32_t folded(uint32_t cp, bool folds) {
    if (!folds)
        return cp;
    return cp == 0x17f ? 's' : cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
}

/* End of 's 't 're 've 'm 'll 'd at the cursor, or 0. */
static size_t contraction(struct cursor c, bool folds) {
    if (c.cp != '\'')
        return 0;
    step_over(&c);
    uint32_t first = folded(c.cp, folds);
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return c.at + (size_t)c.len;
    step_over(&c);
    uint32_t second = folded(c.cp, folds);
    bool is_match = ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l');
    return is_match ? c.at + (size_t)c.len : 0;
}

static void pass(struct cursor *c, uint8_t classes) {
    while (c->len > 0 && (c->classes & classes) != 0)
        step_over(c);
}

static bool is_other(const struct cursor *c) { return c->len > 0 && (c->classes & (TEXT_SPACE | TEXT_LETTER | TEXT_NUMBER)) == 0; }

/* White space at the cursor: up to its last line break (when those count), else all but its last character when something follows. */
static size_t white_space(struct cursor c, bool breaks_count) {
    size_t begin = c.at, last = c.at, after_break = 0;
    while (c.len > 0 && (c.classes & TEXT_SPACE) != 0) {
        last = c.at;
        if (c.cp == '\r' || c.cp == '\n')
            after_break = c.at + 1;
        step_over(&c);
    }
    if (breaks_count && after_break > 0)
        return after_break;
    return c.len == 0 || last == begin ? c.at : last;
}

static size_t next_gpt2(const char *text, size_t end, size_t at) {
    struct cursor c = cursor_at(text, end, at);
    size_t short_end = contraction(c, false);
    if (short_end > 0)
        return short_end;
    struct cursor body = c;
    if (c.cp == ' ')
        step_over(&body);
    if ((body.classes & (TEXT_LETTER | TEXT_NUMBER)) != 0) {
        pass(&body, (body.classes & TEXT_LETTER) != 0 ? TEXT_LETTER : TEXT_NUMBER);
        return body.at;
    }
    if (is_other(&body)) {
        while (is_other(&body))
            step_over(&body);
        return body.at;
    }
    return white_space(c, false);
}

static size_t next_qwen2(const char *text, size_t end, size_t at, int most_digits) {
    struct cursor c = cursor_at(text, end, at);
    size_t short_end = contraction(c, true);
    if (short_end > 0)
        return short_end;
    struct cursor body = c;
    if ((c.classes & (TEXT_LETTER | TEXT_NUMBER)) == 0 && c.cp != '\r' && c.cp != '\n')
        step_over(&body);
    if ((body.classes & TEXT_LETTER) != 0) {
        pass(&body, TEXT_LETTER);
        return body.at;
    }
    if ((c.classes & TEXT_NUMBER) != 0) {
        for (int i = 0; i < most_digits && (c.classes & TEXT_NUMBER) != 0; i++)
            step_over(&c);
        return c.at;
    }
    body = c;
    if (c.cp == ' ')
        step_over(&body);
    if (is_other(&body)) {
        while (is_other(&body))
            step_over(&body);
        while (body.cp == '\r' || body.cp == '\n')
            step_over(&body);
        return body.at;
    }
    return white_space(c, true);
}

static size_t next_digits(const char *text, size_t end, size_t at, bool are_single) {
    struct cursor c = cursor_at(text, end, at);
    bool is_digit = (c.classes & TEXT_DIGIT) != 0;
    do
        step_over(&c);
    while (c.len > 0 && ((c.classes & TEXT_DIGIT) != 0) == is_digit && !(is_digit && are_single));
    return c.at;
}

struct run {
    const struct text_splitter *splitter;
    int (*piece)(void *ctx, const char *text, size_t len_bytes);
    void *ctx;
};

static int run_step(const struct run *run, int number, const char *text, size_t len_bytes);

/* Matches are pieces, and so is what lies between them. */
static int run_regex(const struct run *run, int number, const char *text, size_t len_bytes) {
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    size_t at = 0, from = 0;
    int result = match == NULL || context == NULL ? -1 : 0;
    if (context != NULL)
        pcre2_set_match_limit(context, MATCH_LIMIT);
    while (result == 0 && from <= len_bytes) {
        int rc = pcre2_match(run->splitter->steps[number].code, (PCRE2_SPTR)text, len_bytes, from, PCRE2_NO_UTF_CHECK, match, context);
        if (rc < 0)
            break;
        size_t begin = pcre2_get_ovector_pointer(match)[0], end = pcre2_get_ovector_pointer(match)[1];
        if (end == begin) { /* an empty match cuts nothing: go on behind the next character */
            uint32_t cp;
            int n = from < len_bytes ? utf8_decode(text + from, len_bytes - from, &cp) : 1;
            from += (size_t)(n < 0 ? -n : n);
            continue;
        }
        if (begin > at)
            result = run_step(run, number + 1, text + at, begin - at);
        if (result == 0)
            result = run_step(run, number + 1, text + begin, end - begin);
        at = from = end;
    }
    if (result == 0 && at < len_bytes)
        result = run_step(run, number + 1, text + at, len_bytes - at);
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    return result;
}

static int run_step(const struct run *run, int number, const char *text, size_t len_bytes) {
    if (number == run->splitter->n_steps)
        return run->piece(run->ctx, text, len_bytes);
    enum text_split_kind kind = run->splitter->steps[number].kind;
    if (kind == TEXT_SPLIT_REGEX)
        return run_regex(run, number, text, len_bytes);
    for (size_t at = 0; at < len_bytes;) {
        size_t end = at;
        switch (kind) {
        case TEXT_SPLIT_GPT2: end = next_gpt2(text, len_bytes, at); break;
        case TEXT_SPLIT_QWEN2: end = next_qwen2(text, len_bytes, at, 1); break;
        case TEXT_SPLIT_LLAMA3: end = next_qwen2(text, len_bytes, at, 3); break;
        case TEXT_SPLIT_DIGITS: end = next_digits(text, len_bytes, at, true); break;
        case TEXT_SPLIT_DIGIT_RUNS: end = next_digits(text, len_bytes, at, false); break;
        case TEXT_SPLIT_REGEX: break;
        }
        int result = run_step(run, number + 1, text + at, end - at);
        if (result != 0)
            return result;
        at = end;
    }
    return 0;
}

int text_splitter_run(const struct text_splitter *splitter, const char *text, size_t len_bytes,
                      int (*piece)(void *ctx, const char *text, size_t len_bytes), void *ctx) {
    struct run run = {splitter, piece, ctx};
    return len_bytes == 0 ? 0 : run_step(&run, 0, text, len_bytes);
}
