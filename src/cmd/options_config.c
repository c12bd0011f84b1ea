/*
 * --config FILE: "flag: value" lines, "- item" lines under "flag:", comments and quotes; see options_config.h. Anything else of YAML is
 * an error with its line. JSON objects stand on one line.
 */
#include "cmd/options_config.h"

#include <ctype.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"

enum { CONFIG_LIMIT = 1 << 20 };

/* Cuts blanks at both ends, a comment behind a blank, and one pair of quotes. Changes the text in place. */
static char *clean(char *text) {
    while (isspace((unsigned char)*text))
        text++;
    char quote = *text == '"' || *text == '\'' ? *text : '\0';
    for (char *at = text; *at != '\0' && quote == '\0'; at++)
        if (*at == '#' && (at == text || isspace((unsigned char)at[-1])))
            *at = '\0';
    size_t len = strlen(text);
    while (len > 0 && isspace((unsigned char)text[len - 1]))
        text[--len] = '\0';
    if (quote != '\0' && len >= 2 && text[len - 1] == quote) {
        text[len - 1] = '\0';
        text++;
    }
    return text;
}

static const struct options_entry *find_key(const struct options *options, const char *line, size_t len, struct err *err) {
    char name[128];
    if (len >= sizeof name) {
        err_set(err, ERR_INVALID, "'%.*s' is no option", (int)len, line);
        return NULL;
    }
    for (size_t i = 0; i < len; i++)
        name[i] = line[i] == '_' ? '-' : line[i];
    name[len] = '\0';
    const struct options_entry *entry = options_find(options, name, len);
    if (entry == NULL)
        err_set(err, ERR_INVALID, "'%s' is no option; 'shoal %s --help' lists all", name, options_commands[options->command].name);
    return entry;
}

static int read_line(struct options *options, char *line, const struct options_entry **list, struct err *err) {
    bool is_indented = isspace((unsigned char)line[0]) != 0;
    char *text = clean(line);
    if (*text == '\0' || strcmp(text, "---") == 0)
        return 0;
    if (text[0] == '-' && isspace((unsigned char)text[1])) {
        if (*list == NULL)
            return err_set(err, ERR_INVALID, "a list item without an option above it");
        return options_set(options, *list, options_keep(options, clean(text + 1)), err);
    }
    char *colon = strchr(text, ':');
    if (is_indented || colon == NULL || (colon[1] != '\0' && !isspace((unsigned char)colon[1])))
        return err_set(err, ERR_INVALID, "this should be 'option: value' or '- item', but is '%s'", text);
    const struct options_entry *entry = find_key(options, text, (size_t)(colon - text), err);
    if (entry == NULL)
        return -1;
    char *value = clean(colon + 1);
    *list = *value == '\0' ? entry : NULL;
    return *value == '\0' ? 0 : options_set(options, entry, options_keep(options, value), err);
}

int options_read_config(struct options *options, const char *path, struct err *err) {
    struct buf file;
    const struct options_entry *list = NULL;
    int number = 0, result;
    buf_init(&file, CONFIG_LIMIT);
    result = file_read(path, &file, err);
    for (char *line = file.data; result == 0 && line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        number++;
        if (read_line(options, line, &list, err) != 0)
            result = err_wrap(err, "%s line %d", path, number);
        line = end != NULL ? end + 1 : NULL;
    }
    buf_finish(&file);
    return result;
}
