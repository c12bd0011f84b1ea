/*
 * Quantised checkpoints in safetensors: which method "quantization_config" in config.json names, and its sizes. Pure data.
 *
 * GPTQ   X.qweight I32 [cols / 8, rows], X.qzeros I32 [cols / group, rows / 8], X.scales F16 [cols / group, rows]; 4 bits.
 *        A store lists them as X.weight in Q4_1: scale and nibbles as they are, minimum = −scale · zero rounded to F16, which
 *        is exact for symmetric ones (zero 8).
 * FP8    X.weight F8_E4M3 [rows, cols], X.weight_scale_inv BF16 or F32 [rows / block_rows, cols / block_cols], rounded up. A
 *        store lists it as F8_E4M3, every 32 columns behind their scale. A NaN among them is an error.
 *
 * What such a checkpoint keeps in BF16 or F16 (norms, routers, output head) is listed as it is.
 */
#ifndef WEIGHTS_QUANT_H
#define WEIGHTS_QUANT_H

#include <jansson.h>

#include "base/dtype.h"
#include "base/err.h"

enum weights_quant_method { WEIGHTS_QUANT_NONE, WEIGHTS_QUANT_GPTQ, WEIGHTS_QUANT_FP8 };

struct weights_quant {
    enum weights_quant_method method;
    int group;                  /* GPTQ: columns that share scale and zero, a multiple of 32 */
    int zero_offset;            /* GPTQ: what is added to stored zeros; 1, but 0 in the newer "gptq_v2" */
    int block_rows, block_cols; /* FP8: multiples of 16 and 32 */
};

/* config: config.json as a whole. No "quantization_config" is NONE; a method or size that is not known is ERR_UNSUPPORTED. */
int weights_quant_parse(const json_t *config, struct weights_quant *ret, struct err *err);
/* "gptq", "fp8"; NULL for NONE. */
const char *weights_quant_name(enum weights_quant_method method);
/* In which format a store lists what the method has quantised; not for NONE. */
enum dtype weights_quant_dtype(enum weights_quant_method method);

#endif
