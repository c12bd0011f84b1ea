/* A configuration from anybody: read, then split every way. Whatever is accepted must split into parts that fit together. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/config.h"
#include "model/split.h"

static char folder[] = "/tmp/fuzz_config.XXXXXX";

static void remove_folder(void) {
    char path[64];
    snprintf(path, sizeof path, "%s/config.json", folder);
    remove(path);
    remove(folder);
}

/* The input arrives as overrides of an empty configuration, so that nothing is written for each of them. */
static void make_folder(void) {
    static int is_made;
    char path[64];
    if (is_made)
        return;
    is_made = 1;
    if (mkdtemp(folder) == NULL)
        abort();
    snprintf(path, sizeof path, "%s/config.json", folder);
    if (file_write_atomic(path, "{}", 2, 0600, NULL) != 0)
        abort();
    atexit(remove_folder);
}

static void check_splits(const struct model_config *config) {
    for (int tp = 1; tp <= 16; tp++) {
        int rows = 0, heads = 0;
        for (int rank = 0; rank < tp; rank++) {
            struct model_split split;
            if (model_split_compute(config, tp, 1, (tp & 1) != 0, NULL, rank, &split, NULL) != 0)
                goto next_size;
            if (split.vocab_begin != rows || split.head_begin != heads || split.vocab_len < 0 || split.n_heads < 1 || split.n_kv_heads < 1 ||
                split.kv_head_begin + split.n_kv_heads > config->n_kv_heads)
                abort();
            rows += split.vocab_len;
            heads += split.n_heads;
        }
        if (rows != config->n_vocab || heads != config->n_heads)
            abort();
    next_size:;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    struct model_config config;
    json_t *json = json_parse((const char *)data, len, NULL);
    if (json == NULL)
        return 0;
    make_folder();
    if (model_config_load(folder, NULL, json, &config, NULL) == 0)
        check_splits(&config);
    json_decref(json);
    return 0;
}
