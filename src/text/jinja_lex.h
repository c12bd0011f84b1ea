/*
 * The lexer: a template's text between tags, and the tokens inside a tag. Applies trim_blocks, lstrip_blocks and the "-" and "+" marks.
 */
#ifndef TEXT_JINJA_LEX_H
#define TEXT_JINJA_LEX_H

#include "text/jinja_value.h"

enum jinja_token_kind {
    TOKEN_END,       /* of the source */
    TOKEN_TEXT,
    TOKEN_PRINT_BEGIN, TOKEN_PRINT_END, /* {{ }} */
    TOKEN_BLOCK_BEGIN, TOKEN_BLOCK_END, /* {% %} */
    TOKEN_NAME, TOKEN_STRING, TOKEN_INT, TOKEN_FLOAT,
    TOKEN_OPERATOR
};

struct jinja_token {
    enum jinja_token_kind kind;
    int line;
    struct jinja_string text;  /* of names and operators; a string with its escapes resolved */
    int64_t integer;
    double real;
};

struct jinja_lexer {
    const char *source;
    size_t len_bytes, at;
    int line;
    int depth;          /* open brackets inside a tag: "}}" ends a tag only outside of them */
    bool in_print, in_block;
    bool strips_next;   /* the last tag ended with "-" */
    bool trims_next;    /* … was a block or comment: one line break is dropped */
    struct jinja_arena *arena;
    struct err *err;
};

void jinja_lexer_init(struct jinja_lexer *lexer, const char *source, size_t len_bytes, struct jinja_arena *arena, struct err *err);
int jinja_lexer_next(struct jinja_lexer *lexer, struct jinja_token *ret);
/* After "raw" and its "%}" were read: the text up to {% endraw %}, whose tag is passed over. */
int jinja_lexer_raw(struct jinja_lexer *lexer, struct jinja_token *ret);

#endif
