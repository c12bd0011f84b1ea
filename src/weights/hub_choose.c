/* Which of a model's files serving needs. Pure: works on names alone, whether they come from a hub or from a folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "weights/hub_parts.h"

static bool has_suffix(const char *text, const char *suffix) {
    size_t text_bytes = strlen(text), suffix_bytes = strlen(suffix);
    return text_bytes >= suffix_bytes && strcasecmp(text + text_bytes - suffix_bytes, suffix) == 0;
}

static bool has_prefix(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

bool weights_hub_is_weights(const char *path) { return has_suffix(path, ".safetensors") || has_suffix(path, ".gguf"); }

/* "consolidated*" is the same model a second time, in another naming. */
static bool is_safetensors(const char *path) {
    return strchr(path, '/') == NULL && has_suffix(path, ".safetensors") && !has_prefix(path, "consolidated");
}

static bool is_beside_weights(const char *path) {
    static const char *const names[] = {"config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json",
                                        "merges.txt",  "model.safetensors.index.json"};
    static const char *const prefixes[] = {"tokenizer", "vocab", "chat_template"};
    if (strchr(path, '/') != NULL)
        return false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(path, names[i]) == 0)
            return true;
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
        if (has_prefix(path, prefixes[i]))
            return true;
    return false;
}

/* Number of parts of "…-00001-of-00003.gguf", 1 for any other name; *ret_part is that part's own number. */
static int split_parts(const char *path, int *ret_part) {
    enum { TAIL_BYTES = sizeof "-00001-of-00003.gguf" - 1 };
    size_t len = strlen(path);
    int part = 1, n_parts = 1, used = 0;
    if (len < TAIL_BYTES || sscanf(path + len - TAIL_BYTES, "-%5d-of-%5d.gguf%n", &part, &n_parts, &used) != 2 || used != TAIL_BYTES ||
        part < 1 || part > n_parts) {
        part = n_parts = 1;
    }
    *ret_part = part;
    return n_parts;
}

/* A file that can be named as a model: a GGUF file, of a split one the first part, and not the vision part beside one. */
static bool is_gguf_model(const char *path) {
    int part;
    const char *base = strrchr(path, '/');
    split_parts(path, &part);
    return has_suffix(path, ".gguf") && part == 1 && !has_prefix(base == NULL ? path : base + 1, "mmproj");
}

/* Does the user's word mean this file? A whole name, or the end of one without ".gguf" (and without the part). */
static bool is_meant(const char *path, const char *wanted) {
    char stem[HUB_PATH_BYTES];
    int part;
    size_t cut = split_parts(path, &part) > 1 ? strlen("-00001-of-00003.gguf") : strlen(".gguf");
    if (!is_gguf_model(path))
        return false;
    if (has_suffix(wanted, ".gguf"))
        return strcmp(path, wanted) == 0;
    snprintf(stem, sizeof stem, "%.*s", (int)(strlen(path) - cut), path);
    size_t stem_bytes = strlen(stem), wanted_bytes = strlen(wanted);
    return has_suffix(stem, wanted) && (stem_bytes == wanted_bytes || strchr("-._/", stem[stem_bytes - wanted_bytes - 1]) != NULL);
}

static int refuse_gguf(const struct hub_listing *listing, const char *what, const char *wanted, struct err *err) {
    struct buf names;
    int n = 0;
    buf_init(&names, 600);
    for (int i = 0; i < listing->n_files; i++)
        if (is_gguf_model(listing->files[i].path))
            buf_printf(&names, "%s%s", n++ == 0 ? "" : ", ", listing->files[i].path);
    err_set(err, ERR_NOT_FOUND, "%s%s; name one of its files behind a colon: %.500s%s", what, wanted,
            n > 0 ? buf_str(&names) : "there are none", names.failed ? ", …" : "");
    buf_finish(&names);
    return -1;
}

/* Marks a GGUF file and the other parts of a split one. */
static int choose_gguf(struct hub_listing *listing, int main, struct err *err) {
    const char *path = listing->files[main].path;
    int part, n_found = 0, n_parts = split_parts(path, &part);
    size_t prefix_bytes = strlen(path) - strlen("-00001-of-00003.gguf") * (n_parts > 1);
    for (int i = 0; i < listing->n_files; i++) {
        struct hub_file *file = &listing->files[i];
        if (i == main || (n_parts > 1 && strncmp(file->path, path, prefix_bytes) == 0 && split_parts(file->path, &part) == n_parts)) {
            file->is_chosen = true;
            n_found++;
        }
    }
    return n_found == n_parts ? 0 : err_set(err, ERR_NOT_FOUND, "of the %d parts of %s only %d are there", n_parts, path, n_found);
}

int weights_hub_choose(struct hub_listing *listing, const char *wanted, int *ret_main, struct err *err) {
    int main = -1, n_safetensors = 0, n_gguf = 0;
    for (int i = 0; i < listing->n_files; i++) {
        const char *path = listing->files[i].path;
        n_safetensors += is_safetensors(path);
        if (*wanted != '\0' ? is_meant(path, wanted) : is_gguf_model(path)) {
            n_gguf++;
            main = i;
        }
    }
    if (*wanted == '\0' && n_safetensors > 0) {
        for (int i = 0; i < listing->n_files; i++)
            listing->files[i].is_chosen = is_safetensors(listing->files[i].path) || is_beside_weights(listing->files[i].path);
        *ret_main = -1;
        return 0;
    }
    if (n_gguf > 1)
        return refuse_gguf(listing, *wanted != '\0' ? "several GGUF files are meant by " : "there are several GGUF files", wanted, err);
    if (n_gguf == 0 && *wanted != '\0')
        return refuse_gguf(listing, "there is no GGUF file ", wanted, err);
    if (n_gguf == 0)
        return err_set(err, ERR_NOT_FOUND, "among the %d files are no weights that shoal reads (.safetensors or .gguf)", listing->n_files);
    if (choose_gguf(listing, main, err) != 0)
        return -1;
    *ret_main = main;
    return 0;
}
