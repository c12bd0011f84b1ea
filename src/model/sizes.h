/*
 * What a rank of a split takes and reads, before anything is allocated: from the configuration and the formats alone.
 * The figures are those of the list of parts and of the layout of buffers that loading uses. Any thread.
 */
#ifndef MODEL_SIZES_H
#define MODEL_SIZES_H

#include <stdint.h>

#include "model/config.h"
#include "model/model.h"
#include "model/split.h"

struct model_sizes {
    /* Exactly what model_load, model_kv_create for each block, and model_create will take. */
    uint64_t weights_bytes, kv_block_bytes, buffers_bytes;
    /* Of weights_bytes: the experts', and what is only looked up (an embedding that is not the output head too). */
    uint64_t experts_bytes, lookup_bytes;
    /* Weights that the rank holds, and their bytes in the checkpoint: without padding (and without the scales of GPTQ and FP8). */
    uint64_t n_params, plain_bytes;
};

/*
 * store: where the formats come from, or NULL: as the configuration says, with `floats` for what is not quantised. opts->team and
 * opts->tp are not looked at; n_threads is the team's size.
 */
int model_sizes_compute(const struct model_config *config, const struct model_split *split, const struct model_opts *opts, int n_threads,
                        const struct weights_store *store, enum dtype floats, struct model_sizes *ret, struct err *err);

#endif
