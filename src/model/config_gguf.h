/*
 * GGUF metadata as a config.json would say it. For config.c alone.
 */
#ifndef MODEL_CONFIG_GGUF_H
#define MODEL_CONFIG_GGUF_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "weights/store.h"

/* New reference, or NULL with err. *ret_rope_pairs: queries and keys are stored for adjacent pairs. */
json_t *model_config_from_gguf(const struct weights_store *store, bool *ret_rope_pairs, struct err *err);
/* Columns that a cut through the feed-forward layers must keep together: the largest block among their weights. */
int model_config_gguf_block(const struct weights_store *store);

#endif
