/*
 * What a model is: sizes and switches of one decoder, read from config.json (Hugging Face) or GGUF metadata.
 * Pure data; no weights, no ranks.
 */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "weights/quant.h"
#include "weights/store.h"

enum model_rope_scaling { MODEL_ROPE_PLAIN, MODEL_ROPE_LINEAR, MODEL_ROPE_LLAMA3, MODEL_ROPE_YARN };
enum { MODEL_MAX_EOS = 8 };

struct model_config {
    char architecture[48];  /* "Qwen3ForCausalLM", … */
    int n_layers, hidden, n_heads, n_kv_heads, head_dim;
    int intermediate;       /* dense FFN; 0 when every layer is a mixture */
    int n_experts, n_experts_active, moe_intermediate; /* n_experts 0: dense */
    bool norm_topk_prob;
    int n_vocab;            /* rows of the embedding */
    int max_position;
    float rms_eps;
    float rope_theta;
    enum model_rope_scaling rope_scaling;
    float rope_factor, rope_low_freq, rope_high_freq, rope_beta_fast, rope_beta_slow, rope_attn_factor; /* rope_attn_factor 0: derived */
    int rope_original_max;
    bool rope_pairs;        /* GGUF's llama: adjacent pairs instead of halves */
    bool qk_norm;           /* Qwen3 */
    bool qkv_bias;          /* Qwen2 */
    bool mixtral_names;     /* tensors of the mixture are called as Mixtral calls them */
    bool tied;              /* output head = embedding */
    enum dtype dtype;       /* of the checkpoint's float weights, from "dtype"/"torch_dtype" */
    enum weights_quant_method quant; /* how the checkpoint itself is quantised (safetensors) */
    /* Of the layers' matrices, routers aside: dtype, or what a quantised checkpoint or --quantization makes of them. */
    enum dtype layer_dtype;
    enum dtype head_dtype;  /* of the output head's matrix */
    bool quantises;         /* layer_dtype comes from --quantization: floats are encoded on load */
    int weight_block;       /* FFN columns that must stay on one rank: the block of a quantised format, else 1 */
    int32_t eos[MODEL_MAX_EOS]; /* from config and generation_config */
    int n_eos;
};

/*
 * path: the model's folder or GGUF file, or a config.json under whatever name. overrides: --hf-overrides, merged into config.json before it is read, or NULL.
 * store may be NULL for a folder (config.json alone is enough: plan, dummy weights). An architecture or switch that is
 * not known is ERR_UNSUPPORTED and lists the known ones; sizes that contradict each other are ERR_INVALID.
 */
int model_config_load(const char *path, const struct weights_store *store, const json_t *overrides, struct model_config *ret, struct err *err);

/*
 * --quantization, after model_config_load with the same store. NULL or "": nothing. int8 (Q8_0) and int4 (Q4_1) are for float
 * weights: the layers' matrices are encoded on load, the output head (and a tied embedding with it) as Q8_0; norms, biases,
 * routers and an untied embedding stay. The name of the checkpoint's own format (gptq, fp8, gguf) changes nothing. Anything
 * else is ERR_INVALID and says what is possible.
 */
int model_config_quantize(struct model_config *config, const struct weights_store *store, const char *method, struct err *err);

#endif
