/* What --quantization makes of a configuration; see config.h. Pure data, on the caller's thread. */
#include <stdio.h>
#include <string.h>

#include "model/config.h"

static const struct quantisation {
    const char *name;
    enum dtype dtype;
} quantisations[] = {{"int8", DTYPE_Q8_0}, {"int4", DTYPE_Q4_1}};
enum { N_QUANTISATIONS = sizeof quantisations / sizeof quantisations[0] };

/* Of a GGUF file: the first matrix of a layer that is not of floats, or NULL. */
static const struct weights_tensor *first_quantised(const struct weights_store *store) {
    for (int i = 0; i < weights_store_count(store); i++) {
        const struct weights_tensor *tensor = weights_store_at(store, i);
        if (strncmp(tensor->name, "blk.", 4) == 0 && dtype_block_weights(tensor->dtype) > 1)
            return tensor;
    }
    return NULL;
}

/* vLLM tells the kernels that it runs gptq with by name; here it is one format. */
static bool names_own(const char *method, const char *own) {
    return strcmp(method, own) == 0 || (strcmp(own, "gptq") == 0 && strcmp(method, "gptq_marlin") == 0);
}

int model_config_quantize(struct model_config *config, const struct weights_store *store, const char *method, struct err *err) {
    bool is_gguf = store != NULL && weights_store_gguf(store) != NULL;
    const struct weights_tensor *quantised = is_gguf ? first_quantised(store) : NULL;
    const char *own = is_gguf ? "gguf" : weights_quant_name(config->quant);
    char is[96] = "made of floats", possible[32] = "int8, int4";
    if (method == NULL || method[0] == '\0' || (own != NULL && names_own(method, own)))
        return 0;
    if (quantised != NULL) {
        snprintf(is, sizeof is, "a GGUF file that is quantised already (%s)", dtype_name(quantised->dtype));
        snprintf(possible, sizeof possible, "gguf");
    } else if (is_gguf) {
        snprintf(is, sizeof is, "a GGUF file of floats");
        snprintf(possible, sizeof possible, "int8, int4, gguf");
    } else if (own != NULL) {
        snprintf(is, sizeof is, "quantised already (%s)", own);
        snprintf(possible, sizeof possible, "%s", own);
    }
    for (int i = 0; i < N_QUANTISATIONS; i++) {
        if (strcmp(method, quantisations[i].name) == 0 && quantised == NULL && config->quant == WEIGHTS_QUANT_NONE) {
            config->layer_dtype = quantisations[i].dtype;
            config->head_dtype = DTYPE_Q8_0;
            config->quantises = true;
            config->weight_block = dtype_block_weights(quantisations[i].dtype);
            return 0;
        }
    }
    return err_set(err, ERR_INVALID,
                   "--quantization %.40s does not fit: the model is %s; possible are %s, or to leave the option out", method,
                   is, possible);
}
