/*
 * Reader of Hugging Face's tokenizer.json (and of tokenizer_config.json beside it). Parts of the format that would change ids and are
 * not known are errors that name them.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer_parts.h"

enum { JSON_LIMIT = 256 << 20 };

static const char *type_of(const json_t *part) {
    const char *type = json_string_value(json_object_get(part, "type"));
    return type == NULL ? "" : type;
}

static int unsupported(const char *what, const char *type, const char *known, struct err *err) {
    return err_set(err, ERR_UNSUPPORTED, "the %s '%s' is not supported; supported are %s", what, type, known);
}

static int read_normalizer(struct text_tokenizer *t, const json_t *part, struct err *err) {
    size_t i;
    const json_t *item;
    if (part == NULL || json_is_null(part))
        return 0;
    if (strcmp(type_of(part), "Sequence") == 0) {
        json_array_foreach(json_object_get(part, "normalizers"), i, item) if (read_normalizer(t, item, err) != 0) return -1;
        return 0;
    }
    if (strcmp(type_of(part), "NFC") != 0)
        return unsupported("normalizer", type_of(part), "NFC and sequences of it", err);
    t->normalizes_nfc = true;
    return 0;
}

static int read_split(struct text_tokenizer *t, const json_t *part, struct err *err) {
    const char *regex = json_string_value(json_object_get(json_object_get(part, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(part, "behavior"));
    if (regex == NULL || behavior == NULL || strcmp(behavior, "Isolated") != 0 || json_is_true(json_object_get(part, "invert")))
        return err_set(err, ERR_UNSUPPORTED, "a Split pre-tokenizer should have a Regex pattern, the behavior Isolated and no inversion");
    return text_splitter_add(t->splitter, TEXT_SPLIT_REGEX, regex, err);
}

static int read_pre_tokenizer(struct text_tokenizer *t, const json_t *part, struct err *err) {
    const char *type = type_of(part);
    size_t i;
    const json_t *item;
    bool flag;
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(part, "pretokenizers"), i, item) if (read_pre_tokenizer(t, item, err) != 0) return -1;
        return 0;
    }
    if (strcmp(type, "Split") == 0)
        return read_split(t, part, err);
    if (strcmp(type, "Digits") == 0) {
        if (json_get_bool(part, "individual_digits", false, &flag, err) != 0)
            return -1;
        return text_splitter_add(t->splitter, flag ? TEXT_SPLIT_DIGITS : TEXT_SPLIT_DIGIT_RUNS, NULL, err);
    }
    if (strcmp(type, "ByteLevel") != 0)
        return unsupported("pre-tokenizer", type, "Split, Digits, ByteLevel and sequences of them", err);
    if (json_get_bool(part, "add_prefix_space", true, &t->adds_prefix_space, err) != 0 || json_get_bool(part, "use_regex", true, &flag, err) != 0)
        return -1;
    return flag ? text_splitter_add(t->splitter, TEXT_SPLIT_GPT2, NULL, err) : 0;
}

/* What a template puts before and after the text. */
static int read_template(struct text_tokenizer *t, const json_t *part, struct err *err) {
    const json_t *tokens = json_object_get(part, "special_tokens"), *item;
    bool is_behind = false;
    size_t i, k;
    json_array_foreach(json_object_get(part, "single"), i, item) {
        const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        if (name == NULL) {
            is_behind = true;
            continue;
        }
        const json_t *id;
        json_array_foreach(json_object_get(json_object_get(tokens, name), "ids"), k, id) {
            int *n = is_behind ? &t->n_suffix : &t->n_prefix;
            if (*n == TEXT_MAX_AFFIX)
                return err_set(err, ERR_LIMIT, "the post-processor adds more than %d tokens", TEXT_MAX_AFFIX);
            (is_behind ? t->suffix : t->prefix)[(*n)++] = (int32_t)json_integer_value(id);
        }
    }
    return 0;
}

static int read_post_processor(struct text_tokenizer *t, const json_t *part, struct err *err) {
    size_t i;
    const json_t *item;
    if (part == NULL || json_is_null(part) || strcmp(type_of(part), "ByteLevel") == 0)
        return 0;
    if (strcmp(type_of(part), "Sequence") == 0) {
        json_array_foreach(json_object_get(part, "processors"), i, item) if (read_post_processor(t, item, err) != 0) return -1;
        return 0;
    }
    if (strcmp(type_of(part), "TemplateProcessing") != 0)
        return unsupported("post-processor", type_of(part), "ByteLevel, TemplateProcessing and sequences of them", err);
    return read_template(t, part, err);
}

/* "left right", or ["left", "right"]. */
static int read_merge(struct text_tokenizer *t, const json_t *merge, struct err *err) {
    const char *left = json_string_value(json_array_get(merge, 0)), *right = json_string_value(json_array_get(merge, 1));
    if (left != NULL && right != NULL)
        return text_bpe_add_merge(t->bpe, left, strlen(left), right, strlen(right), err);
    const char *both = json_string_value(merge), *space = both == NULL ? NULL : strchr(both, ' ');
    if (space == NULL)
        return err_set(err, ERR_INVALID, "a merge should be two tokens, but is of type %s", json_type_name(merge));
    return text_bpe_add_merge(t->bpe, both, (size_t)(space - both), space + 1, strlen(space + 1), err);
}

static int read_model(struct text_tokenizer *t, const json_t *model, struct err *err) {
    const char *token;
    json_t *id, *merge;
    size_t i;
    bool ignores;
    if (strcmp(type_of(model), "BPE") != 0 && type_of(model)[0] != '\0')
        return unsupported("model", type_of(model), "BPE", err);
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return err_set(err, ERR_INVALID, "'model' should have 'vocab' and 'merges'");
    json_object_foreach(json_object_get(model, "vocab"), token, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= TEXT_MAX_VOCAB)
            return err_set(err, ERR_INVALID, "the id of '%.100s' should be 0 to %d", token, TEXT_MAX_VOCAB - 1);
        if (text_bpe_add_token(t->bpe, token, strlen(token), (int32_t)json_integer_value(id), err) != 0)
            return -1;
    }
    json_array_foreach(json_object_get(model, "merges"), i, merge) if (read_merge(t, merge, err) != 0) return -1;
    if (json_get_bool(model, "ignore_merges", false, &ignores, err) != 0)
        return -1;
    text_bpe_ignore_merges(t->bpe, ignores);
    return 0;
}

static int read_added(struct text_tokenizer *t, const json_t *list, struct err *err) {
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item) {
        struct text_added_token token = {0};
        const char *content;
        int64_t id;
        if (json_get_str(item, "content", NULL, &content, err) != 0 || json_get_int(item, "id", -1, 0, TEXT_MAX_VOCAB - 1, &id, err) != 0 ||
            json_get_bool(item, "special", false, &token.is_special, err) != 0 ||
            json_get_bool(item, "normalized", true, &token.is_normalized, err) != 0 ||
            json_get_bool(item, "lstrip", false, &token.strips_left, err) != 0 ||
            json_get_bool(item, "rstrip", false, &token.strips_right, err) != 0 ||
            json_get_bool(item, "single_word", false, &token.is_word, err) != 0)
            return err_wrap(err, "added token %zu", i + 1);
        if (content == NULL || id < 0)
            return err_set(err, ERR_INVALID, "added token %zu should have 'content' and 'id'", i + 1);
        token.text = (char *)content;
        token.len_bytes = strlen(content);
        token.id = (int32_t)id;
        if (text_added_add(&t->added, &token, err) != 0)
            return -1;
    }
    return 0;
}

/* "<s>" or {"content": "<s>"}. */
static int32_t named_token(const struct text_tokenizer *t, const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);
    const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    return text == NULL ? -1 : text_tokenizer_find(t, text);
}

static int read_config(struct text_tokenizer *t, const char *tokenizer_path, struct err *err) {
    char path[PATH_MAX];
    const char *slash = strrchr(tokenizer_path, '/');
    int len = slash == NULL ? 0 : (int)(slash - tokenizer_path) + 1;
    bool adds_bos;
    int result = -1;
    snprintf(path, sizeof path, "%.*stokenizer_config.json", len, tokenizer_path);
    if (!file_exists(path))
        return 0;
    json_t *config = json_parse_file(path, JSON_LIMIT, err);
    if (config == NULL)
        return -1;
    if (json_get_bool(config, "add_bos_token", false, &adds_bos, err) != 0) {
        err_wrap(err, "%s", path);
        goto decref_config;
    }
    t->bos = named_token(t, config, "bos_token");
    t->eos = named_token(t, config, "eos_token");
    if (adds_bos && t->bos >= 0 && t->n_prefix == 0)
        t->prefix[t->n_prefix++] = t->bos;
    result = 0;
decref_config:
    json_decref(config);
    return result;
}

int text_tokenizer_open_json(const char *path, struct text_tokenizer **ret, struct err *err) {
    struct text_tokenizer *t = NULL;
    json_t *json = json_parse_file(path, JSON_LIMIT, err);
    if (json == NULL)
        return -1;
    if (text_tokenizer_alloc(&t, err) != 0)
        goto decref_json;
    const json_t *pre = json_object_get(json, "pre_tokenizer");
    if (read_normalizer(t, json_object_get(json, "normalizer"), err) != 0 ||
        (pre != NULL && !json_is_null(pre) && read_pre_tokenizer(t, pre, err) != 0) ||
        read_post_processor(t, json_object_get(json, "post_processor"), err) != 0 || read_model(t, json_object_get(json, "model"), err) != 0 ||
        read_added(t, json_object_get(json, "added_tokens"), err) != 0 || text_tokenizer_seal(t, err) != 0) {
        err_wrap(err, "%s", path);
        goto close_tokenizer;
    }
    if (read_config(t, path, err) != 0)
        goto close_tokenizer;
    json_decref(json);
    *ret = t;
    return 0;
close_tokenizer:
    text_tokenizer_close(t);
decref_json:
    json_decref(json);
    return -1;
}
