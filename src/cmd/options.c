/* Parsing of command lines and --config files by the table; see options.h. Main thread, before anything else. */
#include "cmd/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/log.h"
#include "cmd/options_config.h"
#include "cmd/options_table.h"

enum { WORD_BYTES = 128, NEAR_EDITS = 4 };

static void *field(struct options *options, const struct options_entry *entry) { return (char *)options + entry->offset; }

const char *options_keep(struct options *options, const char *text) {
    json_t *kept = json_string(text);
    if (kept == NULL)
        kept = json_string("?"); /* ill-formed UTF-8 */
    json_array_append_new(options->kept, kept);
    return json_string_value(kept);
}

/* "8k" = 8000, "8K" = 8192, "25.6k" = 25600, as vLLM reads counts; bytes also as "4GiB", "4GB". */
static int parse_number(const struct options_entry *entry, const char *text, double *ret, struct err *err) {
    static const struct {
        const char *suffix;
        double factor;
    } suffixes[] = {{"", 1},           {"k", 1e3},          {"m", 1e6},          {"g", 1e9},          {"t", 1e12},  {"K", 1024},
                    {"M", 1048576},    {"G", 1073741824},   {"T", 1099511627776}, {"kB", 1e3},        {"MB", 1e6},  {"GB", 1e9},
                    {"TB", 1e12},      {"KiB", 1024},       {"MiB", 1048576},    {"GiB", 1073741824}, {"TiB", 1099511627776}};
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    int n_suffixes = entry->kind == OPTIONS_BYTES ? 17 : entry->kind == OPTIONS_INT ? 9 : 1;
    if (end != text && errno == 0 && isfinite(value))
        for (int i = 0; i < n_suffixes; i++)
            if (strcmp(end, suffixes[i].suffix) == 0) {
                *ret = value * suffixes[i].factor;
                if (entry->kind != OPTIONS_DOUBLE && *ret != floor(*ret))
                    break;
                if (*ret < entry->min || *ret > entry->max)
                    return err_set(err, ERR_INVALID, "--%s %s: %.15g to %.15g are possible", entry->name, text, entry->min, entry->max);
                return 0;
            }
    return err_set(err, ERR_INVALID, "--%s should be a%s number%s, but is '%s'", entry->name, entry->kind == OPTIONS_DOUBLE ? "" : " whole",
                   entry->kind == OPTIONS_BYTES ? " of bytes such as 4GiB" : "", text);
}

static int parse_choice(const struct options_entry *entry, const char *text, const char **ret, struct err *err) {
    size_t len = strlen(text);
    for (const char *at = entry->argument; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncasecmp(at, text, len) == 0 && (at[len] == ',' || at[len] == '\0')) {
            *ret = text;
            return 0;
        }
    }
    return err_set(err, ERR_INVALID, "--%s %s: possible are %s", entry->name, text, entry->argument);
}

static int list_add(const struct options_entry *entry, struct options_list *list, const char *text, struct err *err) {
    if (list->n == OPTIONS_MAX_LIST)
        return err_set(err, ERR_LIMIT, "--%s has more than %d values", entry->name, OPTIONS_MAX_LIST);
    list->items[list->n++] = text;
    return 0;
}

/* A word, or a JSON list of words as vLLM takes for origins. */
static int parse_list(struct options *options, const struct options_entry *entry, const char *text, struct err *err) {
    struct options_list *list = field(options, entry);
    json_t *json = text[0] == '[' ? json_loads(text, 0, NULL) : NULL;
    if (json == NULL)
        return list_add(entry, list, text, err);
    int result = 0;
    for (size_t i = 0; i < json_array_size(json) && result == 0; i++) {
        const char *item = json_string_value(json_array_get(json, i));
        result = item == NULL ? err_set(err, ERR_INVALID, "--%s: item %zu of %s is no text", entry->name, i + 1, text)
                              : list_add(entry, list, options_keep(options, item), err);
    }
    json_decref(json);
    return result;
}

static int parse_object(struct options *options, const struct options_entry *entry, const char *text, struct err *err) {
    json_t **object = field(options, entry);
    json_t *json = json_parse(text, strlen(text), err);
    if (json == NULL)
        return err_wrap(err, "--%s %s", entry->name, text);
    if (!json_is_object(json)) {
        err_set(err, ERR_INVALID, "--%s should be a JSON object, but is a %s", entry->name, json_type_name(json));
        json_decref(json);
        return -1;
    }
    json_decref(*object);
    *object = json;
    return 0;
}

int options_set(struct options *options, const struct options_entry *entry, const char *text, struct err *err) {
    void *at = field(options, entry);
    double number = 0;
    switch (entry->kind) {
    case OPTIONS_BOOL:
        if (strcasecmp(text, "true") != 0 && strcasecmp(text, "false") != 0)
            return err_set(err, ERR_INVALID, "--%s should be true or false, but is '%s'", entry->name, text);
        *(bool *)at = strcasecmp(text, "true") == 0;
        return 0;
    case OPTIONS_INT:
    case OPTIONS_BYTES:
        if (parse_number(entry, text, &number, err) != 0)
            return -1;
        *(int64_t *)at = (int64_t)number;
        char *end;
        long long exact = strtoll(text, &end, 10);
        if (*end == '\0') /* a double would round long seeds */
            *(int64_t *)at = exact;
        return 0;
    case OPTIONS_DOUBLE: return parse_number(entry, text, at, err);
    case OPTIONS_STR: *(const char **)at = text; return 0;
    case OPTIONS_CHOICE: return parse_choice(entry, text, at, err);
    case OPTIONS_LIST: return parse_list(options, entry, text, err);
    case OPTIONS_JSON: return parse_object(options, entry, text, err);
    }
    return 0;
}

/* Edits between two words (Levenshtein 1966), for the nearest name. */
static int distance(const char *a, const char *b) {
    int row[WORD_BYTES], n = (int)strlen(b);
    if (strlen(a) >= WORD_BYTES || n >= WORD_BYTES)
        return WORD_BYTES;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1] != '\0'; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int swap = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = swap < other ? swap : other;
        }
    }
    return row[n];
}

/* Walks over all entries of the command: *at counts from 0. NULL: no more. */
static const struct options_entry *next_entry(const struct options *options, int *at) {
    int i = (*at)++;
    for (const struct options_section *const *section = options_commands[options->command].sections; *section != NULL; section++) {
        if (i < (*section)->n)
            return &(*section)->entries[i];
        i -= (*section)->n;
    }
    return NULL;
}

const struct options_entry *options_find(const struct options *options, const char *name, size_t len) {
    const struct options_entry *entry;
    for (int at = 0; (entry = next_entry(options, &at)) != NULL;)
        if (strlen(entry->name) == len && memcmp(entry->name, name, len) == 0)
            return entry;
    return NULL;
}

static int unknown(const struct options *options, const char *typed, const char *name, struct err *err) {
    const char *nearest = NULL;
    const struct options_entry *entry;
    int least = (int)strlen(name) / 3 + 1; /* a third of the letters wrong is still a slip */
    if (least > NEAR_EDITS + 1)
        least = NEAR_EDITS + 1;
    for (int at = 0; (entry = next_entry(options, &at)) != NULL;) {
        int edits = distance(name, entry->name);
        if (edits < least) {
            least = edits;
            nearest = entry->name;
        }
    }
    if (nearest != NULL)
        return err_set(err, ERR_INVALID, "unknown option %s; did you mean --%s?", typed, nearest);
    return err_set(err, ERR_INVALID, "unknown option %s; 'shoal %s --help' lists all", typed, options_commands[options->command].name);
}

/* "--name" without dashes, underscores as dashes, up to '=' or '.'; the rest is told by *ret_rest. */
static void split_word(const char *word, char name[WORD_BYTES], const char **ret_rest) {
    size_t len = 0;
    for (word += 2; *word != '\0' && *word != '=' && *word != '.' && len + 1 < WORD_BYTES; word++)
        name[len++] = *word == '_' ? '-' : *word;
    name[len] = '\0';
    *ret_rest = word;
}

static const struct options_entry *find_alias(const struct options *options, const char *word, size_t len) {
    const struct options_entry *entry;
    for (int at = 0; (entry = next_entry(options, &at)) != NULL;)
        if (entry->alias != NULL && strlen(entry->alias) == len && memcmp(entry->alias, word, len) == 0)
            return entry;
    return NULL;
}

static bool is_flag(const char *word) { return word[0] == '-' && word[1] != '\0' && !(word[1] >= '0' && word[1] <= '9'); }

struct words {
    int n, next;
    char *const *at;
};

/* vLLM's other flags. 1: taken, 0: not one of them, -1: refused. */
static int take_foreign(struct words *words, const char *typed, const char *name, const char *rest, struct err *err) {
    for (int i = 0; i < options_foreign_len; i++) {
        const struct options_foreign *f = &options_foreign[i];
        bool is_negated = f->n_words == 0 && strncmp(name, "no-", 3) == 0 && strcmp(name + 3, f->name) == 0;
        if (strcmp(f->name, name) != 0 && !is_negated)
            continue;
        if (f->refusal != NULL && !is_negated)
            return err_set(err, ERR_UNSUPPORTED, "%s is not supported: %s", typed, f->refusal);
        log_warning("%s means nothing to shoal and is ignored", typed);
        for (int taken = 0; *rest != '=' && taken != f->n_words && words->next < words->n && !is_flag(words->at[words->next]); taken++)
            words->next++;
        return 1;
    }
    return 0;
}

/* "--hf-overrides.rope_parameters.factor 2": sets one key of an object. */
static int set_key(struct options *options, const struct options_entry *entry, const char *path, size_t path_len, const char *text, struct err *err) {
    json_t **object = field(options, entry), *at;
    char key[WORD_BYTES];
    if (*object == NULL)
        *object = json_object();
    at = *object;
    while (path_len > 0) {
        size_t len = 0;
        while (len < path_len && path[len] != '.')
            len++;
        if (len == 0 || len >= sizeof key || !json_is_object(at))
            return err_set(err, ERR_INVALID, "--%s.%.*s is no path of keys", entry->name, (int)path_len, path);
        memcpy(key, path, len);
        key[len] = '\0';
        if (len == path_len)
            break;
        if (json_object_get(at, key) == NULL)
            json_object_set_new(at, key, json_object());
        at = json_object_get(at, key);
        path += len + 1;
        path_len -= len + 1;
    }
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    json_object_set_new(at, key, value != NULL ? value : json_string(text));
    return 0;
}

static int take_value(struct options *options, struct words *words, const struct options_entry *entry, const char *typed, const char *rest,
                      struct err *err) {
    if (entry->kind == OPTIONS_BOOL)
        return options_set(options, entry, *rest == '=' ? rest + 1 : "true", err);
    if (*rest == '=')
        return options_set(options, entry, rest + 1, err);
    if (words->next == words->n || (is_flag(words->at[words->next]) && entry->kind != OPTIONS_STR))
        return err_set(err, ERR_INVALID, "%s needs a value (%s)", typed, entry->argument);
    const char *value = words->at[words->next++];
    if (*rest == '.' && entry->kind == OPTIONS_JSON)
        return set_key(options, entry, rest + 1, strlen(rest + 1), value, err);
    if (options_set(options, entry, value, err) != 0)
        return -1;
    while (entry->kind == OPTIONS_LIST && words->next < words->n && !is_flag(words->at[words->next]))
        if (options_set(options, entry, words->at[words->next++], err) != 0)
            return -1;
    return 0;
}

static int take_flag(struct options *options, struct words *words, struct err *err) {
    const char *typed = words->at[words->next++], *rest = "";
    char name[WORD_BYTES] = "";
    const char *equals = strchr(typed, '=');
    const struct options_entry *entry = find_alias(options, typed, equals != NULL ? (size_t)(equals - typed) : strlen(typed));
    if (entry != NULL)
        return take_value(options, words, entry, typed, equals != NULL ? equals : "", err);
    if (strncmp(typed, "--", 2) != 0)
        return unknown(options, typed, typed + 1, err);
    split_word(typed, name, &rest);
    if (strcmp(name, "config") == 0) { /* read before all others: only its value is passed over here */
        words->next += *rest != '=';
        return 0;
    }
    entry = options_find(options, name, strlen(name));
    if (entry != NULL && (*rest != '.' || entry->kind == OPTIONS_JSON))
        return take_value(options, words, entry, typed, rest, err);
    entry = strncmp(name, "no-", 3) == 0 ? options_find(options, name + 3, strlen(name + 3)) : NULL;
    if (entry != NULL && entry->kind == OPTIONS_BOOL)
        return options_set(options, entry, "false", err);
    int foreign = options_commands[options->command].takes_foreign ? take_foreign(words, typed, name, rest, err) : 0;
    return foreign > 0 ? 0 : foreign < 0 ? -1 : unknown(options, typed, name, err);
}

static const char *config_path(int argc, char *const *argv) {
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--config=", 9) == 0)
            return argv[i] + 9;
        if (strcmp(argv[i], "--config") == 0)
            return i + 1 < argc ? argv[i + 1] : "";
    }
    return NULL;
}

/* A list given on the command line replaces the one from the file. */
static void forget_lists(struct options *options, int argc, char *const *argv) {
    for (int i = 0; i < argc; i++) {
        char name[WORD_BYTES];
        const char *rest;
        if (strncmp(argv[i], "--", 2) != 0)
            continue;
        split_word(argv[i], name, &rest);
        const struct options_entry *entry = options_find(options, name, strlen(name));
        if (entry != NULL && entry->kind == OPTIONS_LIST)
            memset(field(options, entry), 0, sizeof(struct options_list));
    }
}

int options_parse(enum options_command command, int argc, char *const *argv, struct options *ret, struct err *err) {
    const struct options_command_def *def = &options_commands[command];
    struct options options = {.command = command, .kept = json_array()};
    struct words words = {argc, 0, argv};
    const char *config = config_path(argc, argv);
    const struct options_entry *entry;
    for (int at = 0; (entry = next_entry(&options, &at)) != NULL;)
        if (entry->fallback != NULL && options_set(&options, entry, entry->fallback, err) != 0)
            goto finish_options;
    if (config != NULL && options_read_config(&options, config, err) != 0)
        goto finish_options;
    forget_lists(&options, argc, argv);
    for (bool has_model = false; words.next < words.n;) {
        if (is_flag(argv[words.next])) {
            if (take_flag(&options, &words, err) != 0)
                goto finish_options;
        } else if (has_model || !def->takes_model) {
            if (has_model)
                err_set(err, ERR_INVALID, "'%s' is one word too many: the model is '%s'", argv[words.next], options.model);
            else
                err_set(err, ERR_INVALID, "'%s' is one word too many; usage: %s", argv[words.next], def->usage);
            goto finish_options;
        } else {
            options.model = argv[words.next++];
            has_model = true;
        }
    }
    if (def->check != NULL && def->check(&options, err) != 0)
        goto finish_options;
    *ret = options;
    return 0;
finish_options:
    options_finish(&options);
    return -1;
}

void options_finish(struct options *options) {
    json_decref(options->hf_overrides);
    json_decref(options->override_generation_config);
    json_decref(options->bench.extra_body);
    json_decref(options->kept);
    options->hf_overrides = options->override_generation_config = options->kept = NULL;
}
