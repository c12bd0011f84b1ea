/* Text and tokens of a template; see jinja_lex.h. */
#include "text/jinja_lex.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void jinja_lexer_init(struct jinja_lexer *lexer, const char *source, size_t len_bytes, struct jinja_arena *arena, struct err *err) {
    *lexer = (struct jinja_lexer){.source = source, .len_bytes = len_bytes, .line = 1, .arena = arena, .err = err};
}

static int fail(const struct jinja_lexer *l, const char *what) { return err_set(l->err, ERR_INVALID, "line %d: %s", l->line, what); }

static bool sees(const struct jinja_lexer *l, size_t at, const char *text) {
    size_t n = strlen(text);
    return at + n <= l->len_bytes && memcmp(l->source + at, text, n) == 0;
}

static void move_to(struct jinja_lexer *l, size_t at) {
    for (; l->at < at; l->at++)
        l->line += l->source[l->at] == '\n';
}

static size_t skip_spaces(const struct jinja_lexer *l, size_t at) {
    while (at < l->len_bytes && isspace((unsigned char)l->source[at]))
        at++;
    return at;
}

/* The next "{{", "{%" or "{#", or the end. */
static size_t find_tag(const struct jinja_lexer *l, size_t at) {
    for (; at + 1 < l->len_bytes; at++)
        if (l->source[at] == '{' && (l->source[at + 1] == '{' || l->source[at + 1] == '%' || l->source[at + 1] == '#'))
            return at;
    return l->len_bytes;
}

/* Blanks in front of a block or comment that begins its line are dropped (lstrip_blocks). */
static size_t stripped_end(const struct jinja_lexer *l, size_t begin, size_t tag) {
    size_t end = tag;
    if (tag + 2 < l->len_bytes && l->source[tag + 2] == '-') {
        while (end > begin && isspace((unsigned char)l->source[end - 1]))
            end--;
        return end;
    }
    if (tag >= l->len_bytes || l->source[tag + 1] == '{' || (tag + 2 < l->len_bytes && l->source[tag + 2] == '+'))
        return end;
    while (end > begin && l->source[end - 1] != '\n' && isspace((unsigned char)l->source[end - 1]))
        end--;
    return end == 0 || l->source[end - 1] == '\n' ? end : tag;
}

/* Where text begins behind a tag, after what the tag drops. */
static void begin_text(struct jinja_lexer *l) {
    if (l->strips_next)
        move_to(l, skip_spaces(l, l->at));
    else if (l->trims_next && sees(l, l->at, "\n"))
        move_to(l, l->at + 1);
    l->strips_next = l->trims_next = false;
}

static int skip_comment(struct jinja_lexer *l) {
    for (size_t at = l->at + 2; at + 1 < l->len_bytes; at++)
        if (l->source[at] == '#' && l->source[at + 1] == '}') {
            l->strips_next = l->source[at - 1] == '-' && at - 1 > l->at + 1;
            l->trims_next = true;
            move_to(l, at + 2);
            return 0;
        }
    return fail(l, "a comment is not closed with '#}'");
}

/* Text, or the beginning of a tag. */
static int next_outside(struct jinja_lexer *l, struct jinja_token *ret) {
    for (;;) {
        begin_text(l);
        size_t begin = l->at, tag = find_tag(l, begin), end = stripped_end(l, begin, tag);
        if (end > begin) {
            *ret = (struct jinja_token){.kind = TOKEN_TEXT, .line = l->line, .text = {l->source + begin, end - begin}};
            move_to(l, tag);
            return 0;
        }
        move_to(l, tag);
        if (tag >= l->len_bytes) {
            *ret = (struct jinja_token){.kind = TOKEN_END, .line = l->line};
            return 0;
        }
        if (l->source[tag + 1] == '#') {
            if (skip_comment(l) != 0)
                return -1;
            continue;
        }
        l->in_print = l->source[tag + 1] == '{';
        l->in_block = !l->in_print;
        l->depth = 0;
        *ret = (struct jinja_token){.kind = l->in_print ? TOKEN_PRINT_BEGIN : TOKEN_BLOCK_BEGIN, .line = l->line};
        move_to(l, tag + 2);
        if (sees(l, l->at, "-") || sees(l, l->at, "+"))
            l->at++;
        return 0;
    }
}

static int hex_value(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* \xhh, \uhhhh, \Uhhhhhhhh. Returns the digits taken, 0 when malformed. */
static int hex_escape(const char *at, const char *end, int n_digits, uint32_t *ret) {
    uint32_t value = 0;
    if (end - at < n_digits)
        return 0;
    for (int i = 0; i < n_digits; i++) {
        int digit = hex_value(at[i]);
        if (digit < 0)
            return 0;
        value = value * 16 + (uint32_t)digit;
    }
    *ret = value;
    return n_digits;
}

/* A Python string's escapes; unknown ones stay as they are. */
static size_t unescape(const char *at, const char *end, char *out) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char *begin = out;
    while (at < end) {
        if (*at != '\\' || at + 1 == end) {
            *out++ = *at++;
            continue;
        }
        char c = at[1];
        const char *known = c == '\0' ? NULL : strchr(from, c);
        uint32_t cp;
        int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (known != NULL) {
            *out++ = to[known - from];
            at += 2;
        } else if (c == '\n') {
            at += 2;
        } else if (c >= '0' && c <= '7') { /* up to three octal digits */
            cp = 0;
            at++;
            for (int i = 0; i < 3 && at < end && *at >= '0' && *at <= '7'; i++)
                cp = cp * 8 + (uint32_t)(*at++ - '0');
            out += utf8_encode(cp, out);
        } else if (digits > 0 && hex_escape(at + 2, end, digits, &cp) > 0 && cp < 0x110000) {
            out += utf8_encode(cp >= 0xd800 && cp < 0xe000 ? 0xfffd : cp, out); /* half a pair is no character */
            at += 2 + digits;
        } else {
            *out++ = *at++;
        }
    }
    return (size_t)(out - begin);
}

static int next_string(struct jinja_lexer *l, struct jinja_token *ret) {
    char quote = l->source[l->at];
    size_t end = l->at + 1;
    while (end < l->len_bytes && l->source[end] != quote)
        end += l->source[end] == '\\' ? 2 : 1;
    if (end >= l->len_bytes)
        return fail(l, "a string is not closed");
    char *text = jinja_alloc(l->arena, end - l->at + 8);
    if (text == NULL)
        return err_set(l->err, ERR_LIMIT, "line %d: the template takes too much memory", l->line);
    size_t n = unescape(l->source + l->at + 1, l->source + end, text);
    *ret = (struct jinja_token){.kind = TOKEN_STRING, .line = l->line, .text = {text, n}};
    move_to(l, end + 1);
    return 0;
}

static int next_number(struct jinja_lexer *l, struct jinja_token *ret) {
    char text[64];
    size_t n = 0, at = l->at;
    bool is_float = false;
    for (; at < l->len_bytes && n + 1 < sizeof text; at++) {
        char c = l->source[at], after = at + 1 < l->len_bytes ? l->source[at + 1] : '\0';
        if (c == '_' && isdigit((unsigned char)after))
            continue;
        bool starts_fraction = c == '.' && !is_float && isdigit((unsigned char)after);
        bool starts_exponent = (c == 'e' || c == 'E') && (isdigit((unsigned char)after) || ((after == '+' || after == '-') && at + 2 < l->len_bytes && isdigit((unsigned char)l->source[at + 2])));
        bool is_sign = (c == '+' || c == '-') && n > 0 && (text[n - 1] == 'e' || text[n - 1] == 'E');
        if (!isdigit((unsigned char)c) && !starts_fraction && !starts_exponent && !is_sign)
            break;
        is_float = is_float || starts_fraction || starts_exponent;
        text[n++] = c;
    }
    text[n] = '\0';
    *ret = (struct jinja_token){.kind = is_float ? TOKEN_FLOAT : TOKEN_INT, .line = l->line, .integer = strtoll(text, NULL, 10), .real = strtod(text, NULL)};
    l->at = at;
    return 0;
}

static bool is_name_byte(char c) { return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80; }

static int next_operator(struct jinja_lexer *l, struct jinja_token *ret) {
    static const char *const operators[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", ".", ":",
                                            "|",  ",",  ";",  "(",  ")",  "[",  "]", "{", "}"};
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!sees(l, l->at, operators[i]))
            continue;
        char c = operators[i][0];
        l->depth += c == '(' || c == '[' || c == '{' ? 1 : c == ')' || c == ']' || c == '}' ? -1 : 0;
        *ret = (struct jinja_token){.kind = TOKEN_OPERATOR, .line = l->line, .text = {operators[i], strlen(operators[i])}};
        l->at += strlen(operators[i]);
        return 0;
    }
    return fail(l, "an unexpected character in a tag");
}

/* "%}", "-%}", "}}", "-}}": the end of the tag, if it stands here. */
static bool take_end(struct jinja_lexer *l, struct jinja_token *ret) {
    bool strips = sees(l, l->at, "-"), keeps = sees(l, l->at, "+");
    size_t at = l->at + ((strips || keeps) ? 1 : 0);
    if (!sees(l, at, l->in_print ? "}}" : "%}") || (l->in_print && l->depth > 0))
        return false;
    *ret = (struct jinja_token){.kind = l->in_print ? TOKEN_PRINT_END : TOKEN_BLOCK_END, .line = l->line};
    l->strips_next = strips;
    l->trims_next = l->in_block && !keeps;
    l->in_print = l->in_block = false;
    move_to(l, at + 2);
    return true;
}

int jinja_lexer_next(struct jinja_lexer *l, struct jinja_token *ret) {
    if (!l->in_print && !l->in_block)
        return next_outside(l, ret);
    move_to(l, skip_spaces(l, l->at));
    if (l->at >= l->len_bytes)
        return fail(l, l->in_print ? "a tag is not closed with '}}'" : "a tag is not closed with '%}'");
    if (take_end(l, ret))
        return 0;
    char c = l->source[l->at];
    if (c == '"' || c == '\'')
        return next_string(l, ret);
    if (isdigit((unsigned char)c))
        return next_number(l, ret);
    if (!is_name_byte(c))
        return next_operator(l, ret);
    size_t end = l->at;
    while (end < l->len_bytes && is_name_byte(l->source[end]))
        end++;
    *ret = (struct jinja_token){.kind = TOKEN_NAME, .line = l->line, .text = {l->source + l->at, end - l->at}};
    l->at = end;
    return 0;
}

int jinja_lexer_raw(struct jinja_lexer *l, struct jinja_token *ret) {
    begin_text(l);
    for (size_t tag = l->at; tag + 1 < l->len_bytes; tag++) {
        if (!sees(l, tag, "{%"))
            continue;
        size_t at = tag + 2;
        at += sees(l, at, "-") || sees(l, at, "+");
        at = skip_spaces(l, at);
        if (!sees(l, at, "endraw"))
            continue;
        at = skip_spaces(l, at + 6);
        bool strips = sees(l, at, "-");
        at += strips || sees(l, at, "+");
        if (!sees(l, at, "%}"))
            continue;
        size_t end = stripped_end(l, l->at, tag);
        *ret = (struct jinja_token){.kind = TOKEN_TEXT, .line = l->line, .text = {l->source + l->at, end - l->at}};
        l->strips_next = strips;
        l->trims_next = true;
        move_to(l, at + 2);
        return 0;
    }
    return fail(l, "'raw' is not closed with 'endraw'");
}
