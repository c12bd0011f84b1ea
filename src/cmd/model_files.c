/* Configuration, tokenizer, chat template and generation defaults of a model; see model_files.h. Main thread. */
#include "cmd/model_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "weights/gguf.h"
#include "weights/hub.h"

enum { TEMPLATE_LIMIT = 1 << 20, JSON_LIMIT = 64 << 20 };

/* "folder/name" when path is a folder, or beside it when it is a file. */
static void sibling(const char *path, const char *name, char ret[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    int len = file_is_dir(path) ? (int)strlen(path) : slash == NULL ? 0 : (int)(slash - path);
    snprintf(ret, PATH_MAX, "%.*s%s%s", len, path, len > 0 ? "/" : "", name);
}

static int open_tokenizer(const struct options *options, struct model_files *files, struct err *err) {
    char path[PATH_MAX];
    const struct weights_gguf *gguf = files->store == NULL ? NULL : weights_store_gguf(files->store);
    if (options->tokenizer == NULL && gguf != NULL)
        return text_tokenizer_open_gguf(gguf, &files->tokenizer, err);
    if (options->tokenizer == NULL)
        snprintf(path, sizeof path, "%s", files->path);
    else if (weights_hub_resolve(options->tokenizer, options->revision, options->download_dir, path, err) != 0)
        return err_wrap(err, "--tokenizer");
    if (file_is_dir(path)) {
        char in_folder[PATH_MAX];
        sibling(path, "tokenizer.json", in_folder);
        return text_tokenizer_open_json(in_folder, &files->tokenizer, err);
    }
    return text_tokenizer_open_json(path, &files->tokenizer, err);
}

/* "chat_template" of tokenizer_config.json: a text, or a list of named ones of which "default" counts. */
static const char *template_of_config(const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    if (json_is_string(value))
        return json_string_value(value);
    size_t i;
    const json_t *item;
    json_array_foreach(value, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(item, "template"));
    }
    return NULL;
}

/* Appends the template's source to `out`; leaves it empty when the model has none. */
static int find_template(const struct options *options, const struct model_files *files, struct buf *out, struct err *err) {
    char path[PATH_MAX];
    if (options->chat_template != NULL) /* a file, or the template itself, as in vLLM */
        return file_exists(options->chat_template)           ? file_read(options->chat_template, out, err)
               : strpbrk(options->chat_template, "{}\n") != NULL ? buf_append_str(out, options->chat_template)
                                                                 : err_set(err, ERR_NOT_FOUND, "--chat-template %s: there is no such file, and it does not look like a template",
                                                                           options->chat_template);
    const struct weights_gguf *gguf = files->store == NULL ? NULL : weights_store_gguf(files->store);
    if (gguf != NULL) {
        const char *text = weights_gguf_get_str(gguf, "tokenizer.chat_template");
        return text == NULL ? 0 : buf_append_str(out, text);
    }
    sibling(files->path, "chat_template.jinja", path);
    if (file_exists(path))
        return file_read(path, out, err);
    sibling(files->path, "tokenizer_config.json", path);
    if (!file_exists(path))
        return 0;
    json_t *config = json_parse_file(path, JSON_LIMIT, err);
    if (config == NULL)
        return -1;
    const char *text = template_of_config(config);
    int result = text == NULL ? 0 : buf_append_str(out, text);
    json_decref(config);
    return result;
}

static int open_template(const struct options *options, struct model_files *files, struct err *err) {
    struct buf source;
    buf_init(&source, TEMPLATE_LIMIT);
    int result = find_template(options, files, &source, err);
    if (result != 0 && source.failed)
        err_set(err, ERR_LIMIT, "the chat template is longer than %d bytes", (int)TEMPLATE_LIMIT);
    if (result == 0 && source.len_bytes > 0)
        result = text_template_compile(source.data, source.len_bytes, &files->chat_template, err);
    buf_finish(&source);
    return result == 0 ? 0 : err_wrap(err, "chat template");
}

/* --generation-config auto: the model's file; vllm: none; else a folder. --override-generation-config goes on top. */
static int open_generation_defaults(const struct options *options, struct model_files *files, struct err *err) {
    char path[PATH_MAX] = "";
    const char *from = options->generation_config;
    if (from == NULL || strcmp(from, "auto") == 0)
        sibling(files->path, "generation_config.json", path);
    else if (strcmp(from, "vllm") != 0)
        sibling(from, "generation_config.json", path);
    if (path[0] != '\0' && file_exists(path))
        files->generation_defaults = json_parse_file(path, JSON_LIMIT, err);
    else
        files->generation_defaults = json_object();
    if (files->generation_defaults == NULL)
        return err_wrap(err, "generation defaults");
    if (options->override_generation_config != NULL)
        json_object_update(files->generation_defaults, options->override_generation_config);
    return 0;
}

int cmd_model_files_open(const struct options *options, struct model_files *ret, struct err *err) {
    struct model_files files = {0};
    bool is_dummy = strcmp(options->load_format, "dummy") == 0;
    if (weights_hub_resolve(options->model, options->revision, options->download_dir, files.path, err) != 0)
        return -1;
    /* A GGUF file holds the configuration too, so it is opened even for dummy weights. */
    if ((!is_dummy || !file_is_dir(files.path)) && weights_store_open(files.path, &files.store, err) != 0)
        goto close_files;
    if (!is_dummy && weights_store_fingerprint(files.store, files.fingerprint, err) != 0)
        goto close_files;
    if (model_config_load(files.path, files.store, options->hf_overrides, &files.config, err) != 0 ||
        model_config_quantize(&files.config, files.store, options->quantization, err) != 0 || open_tokenizer(options, &files, err) != 0 ||
        open_template(options, &files, err) != 0 || open_generation_defaults(options, &files, err) != 0)
        goto close_files;
    *ret = files;
    return 0;
close_files:
    cmd_model_files_close(&files);
    return -1;
}

void cmd_model_files_close(struct model_files *files) {
    weights_store_close(files->store);
    text_tokenizer_close(files->tokenizer);
    text_template_destroy(files->chat_template);
    json_decref(files->generation_defaults);
}
