/*
 * GGUF metadata as a config.json would say it. For config.c alone.
 */
#ifndef MODEL_CONFIG_GGUF_H
#define MODEL_CONFIG_GGUF_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "model/config.h"
#include "weights/store.h"

/* New reference, or NULL with err. *ret_rope_pairs: queries and keys are stored for adjacent pairs. */
json_t *model_config_from_gguf(const struct weights_store *store, bool *ret_rope_pairs, struct err *err);
/* Fills layer_dtype (that of most of a layer's weights), head_dtype and weight_block (the largest block that a cut through the
   feed-forward layers meets) from what the file holds. */
void model_config_gguf_formats(const struct weights_store *store, struct model_config *config);

#endif
