/*
 * Finding a model; see hub.h. Reads what the user typed and the environment, and puts the other parts together. Runs on
 * the caller's thread. Knows nothing of what is in the files.
 */
#include "weights/hub.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "weights/hub_parts.h"

enum { MAX_TOKEN_BYTES = 1000 };

/* NULL when unset or empty. */
static const char *env(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

static bool env_is_on(const char *name) {
    const char *value = env(name);
    return value != NULL && (strcmp(value, "1") == 0 || strcasecmp(value, "true") == 0 || strcasecmp(value, "yes") == 0 ||
                             strcasecmp(value, "on") == 0);
}

/* ~/.cache, or where XDG_CACHE_HOME puts it. */
static int user_cache(char ret_path[PATH_MAX], struct err *err) {
    if (env("XDG_CACHE_HOME") != NULL)
        return weights_hub_path(ret_path, err, "%s", env("XDG_CACHE_HOME"));
    return weights_hub_path(ret_path, err, "%s/.cache", env("HOME") != NULL ? env("HOME") : "/root");
}

static int hf_home(char ret_path[PATH_MAX], struct err *err) {
    char cache[PATH_MAX];
    if (env("HF_HOME") != NULL)
        return weights_hub_path(ret_path, err, "%s", env("HF_HOME"));
    return user_cache(cache, err) != 0 ? -1 : weights_hub_path(ret_path, err, "%s/huggingface", cache);
}

/* The token from the environment or from the file that "hf auth login" writes; "" when there is none. */
static int read_token(char ret_token[MAX_TOKEN_BYTES], struct err *err) {
    char home[PATH_MAX], path[PATH_MAX];
    struct buf text;
    int result = 0;
    *ret_token = '\0';
    const char *given = env("HF_TOKEN") != NULL ? env("HF_TOKEN") : env("HUGGING_FACE_HUB_TOKEN");
    buf_init(&text, MAX_TOKEN_BYTES - 1);
    if (given != NULL) {
        buf_append_str(&text, given);
    } else {
        if (env("HF_TOKEN_PATH") != NULL)
            result = weights_hub_path(path, err, "%s", env("HF_TOKEN_PATH"));
        else
            result = hf_home(home, err) != 0 ? -1 : weights_hub_path(path, err, "%s/token", home);
        if (result == 0 && file_exists(path))
            result = file_read(path, &text, err);
    }
    if (text.failed)
        result = err_set(err, ERR_INVALID, "the hub's token is longer than %d bytes", MAX_TOKEN_BYTES - 1);
    if (result == 0) {
        const char *begin = buf_str(&text) + strspn(buf_str(&text), " \t\r\n");
        snprintf(ret_token, MAX_TOKEN_BYTES, "%.*s", (int)strcspn(begin, " \t\r\n"), begin);
    }
    buf_finish(&text);
    return result;
}

static int find_site(bool is_modelscope, const char *name, const char *revision, struct hub_site *ret_site, struct err *err) {
    struct hub_site site = {.is_modelscope = is_modelscope};
    char token[MAX_TOKEN_BYTES];
    const char *endpoint = env(is_modelscope ? "MODELSCOPE_ENDPOINT" : "HF_ENDPOINT");
    if (endpoint == NULL)
        endpoint = is_modelscope ? "https://www.modelscope.cn" : "https://huggingface.co";
    if (revision == NULL || *revision == '\0')
        revision = is_modelscope ? "master" : "main";
    if (!weights_hub_is_safe_path(revision) || strlen(revision) >= sizeof site.revision)
        return err_set(err, ERR_INVALID, "'%.200s' is not the name of a branch, tag or commit", revision);
    if (strlen(endpoint) >= sizeof site.endpoint || (strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0))
        return err_set(err, ERR_INVALID, "the hub's address '%.200s' should begin with http:// or https://", endpoint);
    strcpy(site.endpoint, endpoint);
    for (size_t len = strlen(site.endpoint); len > 0 && site.endpoint[len - 1] == '/'; len--)
        site.endpoint[len - 1] = '\0';
    snprintf(site.name, sizeof site.name, "%s", name);
    snprintf(site.revision, sizeof site.revision, "%s", revision);
    if (is_modelscope) {
        if (env("MODELSCOPE_API_TOKEN") != NULL)
            snprintf(site.credential, sizeof site.credential, "Cookie: m_session_id=%.900s", env("MODELSCOPE_API_TOKEN"));
    } else {
        if (read_token(token, err) != 0)
            return -1;
        if (*token != '\0')
            snprintf(site.credential, sizeof site.credential, "Authorization: Bearer %s", token);
    }
    *ret_site = site;
    return 0;
}

/* "Qwen/Qwen3-0.6B" → models--Qwen--Qwen3-0.6B, or Qwen/Qwen3-0___6B for ModelScope. */
static int find_place(const struct hub_site *site, const char *download_dir, struct hub_place *ret_place, struct err *err) {
    char cache[PATH_MAX], folder[3 * HUB_NAME_BYTES];
    size_t at = 0;
    for (const char *from = site->name; *from != '\0'; from++) {
        bool is_last_part = strchr(from, '/') == NULL;
        if (*from == '/' && !site->is_modelscope)
            at += (size_t)sprintf(folder + at, "--");
        else if (*from == '.' && site->is_modelscope && is_last_part)
            at += (size_t)sprintf(folder + at, "___");
        else
            at += (size_t)sprintf(folder + at, "%c", *from);
    }
    int result = 0;
    if (download_dir != NULL && *download_dir != '\0')
        result = weights_hub_path(ret_place->root, err, "%s", download_dir);
    else if (!site->is_modelscope && env("HF_HUB_CACHE") != NULL)
        result = weights_hub_path(ret_place->root, err, "%s", env("HF_HUB_CACHE"));
    else if (!site->is_modelscope)
        result = hf_home(cache, err) != 0 ? -1 : weights_hub_path(ret_place->root, err, "%s/hub", cache);
    else if (env("MODELSCOPE_CACHE") != NULL)
        result = weights_hub_path(ret_place->root, err, "%s/models", env("MODELSCOPE_CACHE"));
    else
        result = user_cache(cache, err) != 0 ? -1 : weights_hub_path(ret_place->root, err, "%s/modelscope/hub/models", cache);
    ret_place->has_blobs = !site->is_modelscope;
    const char *prefix = site->is_modelscope ? "" : "models--";
    if (result != 0 || weights_hub_path(ret_place->repo, err, "%s/%s%s", ret_place->root, prefix, folder) != 0)
        return -1;
    for (char *slash = folder; site->is_modelscope && (slash = strchr(slash, '/')) != NULL;)
        *slash = '_';
    return weights_hub_path(ret_place->locks, err, "%s/.locks/%s%s", ret_place->root, prefix, folder);
}

/* "ORG/NAME" or "ORG/NAME:WANTED" */
static bool parse_name(const char *model, char ret_name[HUB_NAME_BYTES], char ret_wanted[HUB_PATH_BYTES]) {
    size_t name_bytes = strcspn(model, ":");
    const char *wanted = model[name_bytes] == ':' ? model + name_bytes + 1 : "";
    if (name_bytes >= HUB_NAME_BYTES || strlen(wanted) >= HUB_PATH_BYTES)
        return false;
    snprintf(ret_name, HUB_NAME_BYTES, "%.*s", (int)name_bytes, model);
    strcpy(ret_wanted, wanted);
    char *slash = strchr(ret_name, '/');
    if (slash == NULL || strchr(slash + 1, '/') != NULL || (model[name_bytes] == ':' && !weights_hub_is_safe_path(wanted)))
        return false;
    *slash = '\0';
    bool is_name = weights_hub_is_safe_component(ret_name) && weights_hub_is_safe_component(slash + 1);
    *slash = '/';
    return is_name;
}

/* The configuration alone: what a plan needs. */
static int choose_config(struct hub_listing *listing, struct err *err) {
    bool found = false;
    for (int i = 0; i < listing->n_files; i++) {
        struct hub_file *file = &listing->files[i];
        bool is_config = strcmp(file->path, "config.json") == 0;
        file->is_chosen = is_config || strcmp(file->path, "generation_config.json") == 0 || strcmp(file->path, "hf_quant_config.json") == 0;
        found = found || is_config;
    }
    return found ? 0 : err_set(err, ERR_NOT_FOUND, "there is no config.json; a GGUF file tells its sizes once it is here");
}

/* Is the configuration in this folder, whatever else is not? */
static bool has_config(const char *folder) {
    char path[PATH_MAX];
    return weights_hub_path(path, NULL, "%s/config.json", folder) == 0 && file_exists(path);
}

static int resolve_on_hub(const struct hub_site *site, const struct hub_place *place, const char *wanted, bool config_only,
                          char ret_path[PATH_MAX], struct err *err) {
    char commit[HUB_HASH_BYTES] = "", folder[PATH_MAX];
    struct hub_listing listing = {0};
    struct err why;
    int main = -1, result = -1;
    if (place->has_blobs)
        weights_hub_read_ref(place, site->revision, commit);
    if ((place->has_blobs ? weights_hub_path(folder, err, "%s/snapshots/%s", place->repo, commit)
                          : weights_hub_path(folder, err, "%s", place->repo)) != 0)
        return -1;
    bool is_complete = (!place->has_blobs || *commit != '\0') && weights_hub_find_complete(folder, wanted, ret_path);
    if (!is_complete && config_only && *wanted == '\0' && (!place->has_blobs || *commit != '\0') && has_config(folder))
        is_complete = weights_hub_path(ret_path, err, "%s", folder) == 0;
    if (is_complete && (strcmp(commit, site->revision) == 0 || env_is_on("HF_HUB_OFFLINE")))
        return 0;
    if (env_is_on("HF_HUB_OFFLINE"))
        return err_set(err, ERR_NOT_FOUND, "HF_HUB_OFFLINE is set, and %s%s%s (revision %s) is not complete in %s", site->name,
                       *wanted != '\0' ? ":" : "", wanted, site->revision, place->root);

    if (config_only && !is_complete && *wanted != '\0')
        return err_set(err, ERR_NOT_FOUND, "%s:%s is not here yet, and a GGUF file tells its sizes only then", site->name, wanted);

    /* A hub that is away, or that does not have the model any more, does not matter when an earlier run brought everything. */
    if (weights_hub_list(site, !is_complete, &listing, &why) != 0) {
        bool is_away = why.code == ERR_PEER || why.code == ERR_TIMEOUT || why.code == ERR_AUTH || why.code == ERR_NOT_FOUND;
        if (!is_complete || !is_away)
            return err_copy(err, &why);
        log_warning("%s; using what was downloaded earlier", why.msg);
        return 0;
    }
    if ((config_only && *wanted == '\0' ? choose_config(&listing, err) : weights_hub_choose(&listing, wanted, &main, err)) != 0) {
        err_wrap(err, "%s", site->name);
        goto finish_listing;
    }
    if (weights_hub_bring_chosen(site, place, &listing, err) != 0)
        goto finish_listing;
    if (place->has_blobs) {
        if ((!config_only && weights_hub_write_ref(place, site->revision, listing.commit, err) != 0) ||
            weights_hub_path(folder, err, "%s/snapshots/%s", place->repo, listing.commit) != 0)
            goto finish_listing;
    }
    if (main >= 0)
        result = weights_hub_path(ret_path, err, "%s/%s", folder, listing.files[main].path);
    else
        result = weights_hub_path(ret_path, err, "%s", folder);
finish_listing:
    weights_hub_listing_finish(&listing);
    return result;
}

static int resolve(const char *model, const char *revision, const char *download_dir, bool config_only, char ret_path[PATH_MAX],
                   struct err *err) {
    char name[HUB_NAME_BYTES], wanted[HUB_PATH_BYTES], found[PATH_MAX];
    struct hub_site site;
    struct hub_place place;
    if (file_exists(model))
        return weights_hub_path(ret_path, err, "%s", model);
    if (!parse_name(model, name, wanted))
        return err_set(err, ERR_NOT_FOUND,
                       "'%s' is neither an existing folder or file nor the name of a model on a hub, which looks like ORG/NAME or"
                       " ORG/NAME:FILE.gguf",
                       model);
    bool is_modelscope = env_is_on("SHOAL_USE_MODELSCOPE") || env_is_on("VLLM_USE_MODELSCOPE");
    if (find_site(is_modelscope, name, revision, &site, err) != 0 || find_place(&site, download_dir, &place, err) != 0)
        return -1;
    if (resolve_on_hub(&site, &place, wanted, config_only, found, err) != 0)
        return err_wrap(err, "'%s' is no local path; as a name on a hub", model);
    strcpy(ret_path, found);
    return 0;
}

int weights_hub_resolve(const char *model, const char *revision, const char *download_dir, char ret_path[PATH_MAX], struct err *err) {
    return resolve(model, revision, download_dir, false, ret_path, err);
}

int weights_hub_resolve_config(const char *model, const char *revision, const char *download_dir, char ret_path[PATH_MAX], struct err *err) {
    return resolve(model, revision, download_dir, true, ret_path, err);
}
