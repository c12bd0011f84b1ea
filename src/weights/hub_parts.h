/*
 * The inside of the hub: what a hub says about a model (hub_list.c), which of its files are needed (hub_choose.c), how
 * one comes over (hub_fetch.c) and where it is kept (hub_cache.c). hub.c puts them together. One thread.
 */
#ifndef WEIGHTS_HUB_PARTS_H
#define WEIGHTS_HUB_PARTS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/progress.h"

enum { HUB_NAME_BYTES = 256, HUB_PATH_BYTES = 512, HUB_HASH_BYTES = 65, HUB_URL_BYTES = 4096 };

/* Which hub, which model there, and as whom. */
struct hub_site {
    bool is_modelscope;
    char endpoint[512]; /* without a slash at the end */
    char credential[1024]; /* a request header for the endpoint's host alone, "" for none */
    char name[HUB_NAME_BYTES];
    char revision[HUB_NAME_BYTES];
};

enum hub_hash { HUB_HASH_NONE, HUB_HASH_SHA256, HUB_HASH_GIT /* SHA-1 over "blob SIZE\0" and the content */ };

struct hub_file {
    char path[HUB_PATH_BYTES]; /* relative to the model's root; stays below it */
    bool has_size;
    uint64_t size_bytes;
    enum hub_hash hash_kind;
    char hash[HUB_HASH_BYTES];   /* hex, or "" */
    char blob[HUB_HASH_BYTES];   /* name in a cache that is addressed by content, "" when the hub gave none */
    bool is_chosen;
};

struct hub_listing {
    char commit[HUB_HASH_BYTES]; /* of the revision; "" when the hub does not say */
    struct hub_file *files;
    int n_files, cap_files;
};

/* A copy of `path` as a new file of the listing, NULL with err for one that would leave the model's folder. */
struct hub_file *weights_hub_listing_add(struct hub_listing *listing, const char *path, struct err *err);
void weights_hub_listing_finish(struct hub_listing *listing);

/* True for a relative path of plain components: none empty, hidden, "." or "..", no backslash, no control character. */
bool weights_hub_is_safe_path(const char *path);
/* Names and hashes that become one component of a path. */
bool weights_hub_is_safe_component(const char *text);

/*
 * Asks the hub for the model's files. is_patient: tries again when the hub does not answer; otherwise gives up after a
 * few seconds with ERR_PEER or ERR_TIMEOUT. Refusals carry advice (ERR_AUTH, ERR_NOT_FOUND).
 */
int weights_hub_list(const struct hub_site *site, bool is_patient, struct hub_listing *ret_listing, struct err *err);
/* Fills size and hash of a file of which the listing gave none. */
int weights_hub_describe(const struct hub_site *site, const char *commit, struct hub_file *file, struct err *err);
void weights_hub_file_url(const struct hub_site *site, const char *commit, const char *path, char ret_url[HUB_URL_BYTES]);
/* Sentence and code for an HTTP status that is no success. Returns -1. */
int weights_hub_explain_status(const struct hub_site *site, int status, const char *reason, struct err *err);

/*
 * Marks the files that serving needs. wanted: "" for the whole model, else a .gguf file or the tail of its name
 * ("Q4_K_M"). *ret_main: index of the file that is the model (the first part of a split GGUF), -1 for the folder.
 */
int weights_hub_choose(struct hub_listing *listing, const char *wanted, int *ret_main, struct err *err);
bool weights_hub_is_weights(const char *path);

/* The bar over all files of a model. */
struct hub_bar {
    struct progress progress;
    uint64_t done_bytes;
};

/*
 * Brings one file over to `path`, through `path`.incomplete, which a later call goes on with. Size and hash are
 * checked before the file gets its name. Broken transfers are tried again a few times.
 */
int weights_hub_fetch(const struct hub_site *site, const char *commit, const struct hub_file *file, const char *path, struct hub_bar *bar,
                      struct err *err);
/* Hash of a whole file compared with what the hub said. 0: equal; 1: different; -1: error. */
int weights_hub_compare(const struct hub_file *file, const char *path, struct err *err);

/* Where one model lives in a cache. */
struct hub_place {
    char root[PATH_MAX];  /* of the cache */
    char repo[PATH_MAX];  /* of the model */
    char locks[PATH_MAX]; /* folder of its lock files */
    bool has_blobs;       /* Hugging Face's layout */
};

/* A path from pieces; ERR_INVALID when it is too long. */
int weights_hub_path(char ret_path[PATH_MAX], struct err *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/*
 * Is what the user wants (as for weights_hub_choose) whole in this folder? Then ret_path is the folder, or the file in
 * it that is the model.
 */
bool weights_hub_find_complete(const char *folder, const char *wanted, char ret_path[PATH_MAX]);
/* The commit of a revision as the cache remembers it: "" when it does not. */
void weights_hub_read_ref(const struct hub_place *place, const char *revision, char ret_commit[HUB_HASH_BYTES]);
int weights_hub_write_ref(const struct hub_place *place, const char *revision, const char *commit, struct err *err);
/* Downloads what is chosen and not there yet, weights last, and shows progress. */
int weights_hub_bring_chosen(const struct hub_site *site, const struct hub_place *place, struct hub_listing *listing, struct err *err);

#endif
