/*
 * What the driver needs of a model besides its weights: configuration, tokenizer, chat template, generation defaults.
 */
#ifndef CMD_MODEL_FILES_H
#define CMD_MODEL_FILES_H

#include <jansson.h>
#include <limits.h>

#include "cmd/options.h"
#include "model/config.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "weights/store.h"

struct model_files {
    char path[PATH_MAX];          /* local folder or GGUF file */
    struct weights_store *store;  /* NULL with --load-format dummy */
    char fingerprint[17];         /* "" with dummy weights */
    struct model_config config;
    struct text_tokenizer *tokenizer;
    struct text_template *chat_template; /* NULL: the model has none */
    json_t *generation_defaults;  /* object, maybe empty */
};

/* Finds (downloads if need be) and reads all of it. Blocks. */
int cmd_model_files_open(const struct options *options, struct model_files *ret, struct err *err);
void cmd_model_files_close(struct model_files *files);

#endif
