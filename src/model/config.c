/*
 * Reading a model's configuration: config.json with generation_config.json and --hf-overrides, and every check of it.
 * GGUF metadata is first rewritten as such a config.json (config_gguf.c), so that there is one reader and one set of
 * checks. Runs on the caller's thread; knows nothing of weights beyond the store's list of tensors.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/config.h"
#include "model/config_gguf.h"

enum { CONFIG_LIMIT_BYTES = 4 << 20, MAX_SIZE = 1 << 24, MAX_LAYERS = 1024, MAX_EXPERTS = 4096, MAX_HEAD_DIM = 256 };

/* The decoders that are known, and what sets them apart. */
static const struct known {
    const char *name;
    bool qk_norm, qkv_bias, is_mixture, is_mixtral;
} known_models[] = {
    {"Qwen3ForCausalLM", true, false, false, false},
    {"Qwen3MoeForCausalLM", true, false, true, false},
    {"Qwen2ForCausalLM", false, true, false, false},
    {"LlamaForCausalLM", false, false, false, false},
    {"MixtralForCausalLM", false, false, true, true},
};
enum { N_KNOWN = sizeof known_models / sizeof known_models[0] };

/* A switch that must have one value (or be absent), because nothing here computes anything else. */
static int refuse_unless_bool(const json_t *json, const char *key, bool needed, const char *meaning, struct err *err) {
    bool value;
    if (json_get_bool(json, key, needed, &value, err) != 0)
        return -1;
    if (value != needed)
        return err_set(err, ERR_UNSUPPORTED, "\"%s\": %s (%s) is not supported; it must be %s", key, value ? "true" : "false", meaning,
                       needed ? "true" : "false");
    return 0;
}

static int get_size(const json_t *json, const char *key, int64_t fallback, int64_t max, int *ret, struct err *err) {
    int64_t value;
    if (json_get_int(json, key, fallback, 0, max, &value, err) != 0)
        return -1;
    *ret = (int)value;
    return 0;
}

/* The same for a size that must be there. */
static int need_size(const json_t *json, const char *key, int64_t max, int *ret, struct err *err) {
    int64_t value;
    if (json_get_int(json, key, 0, 1, max, &value, err) != 0)
        return -1;
    if (value == 0)
        return err_set(err, ERR_INVALID, "\"%s\" is missing; the model's configuration must give it", key);
    *ret = (int)value;
    return 0;
}

static int get_float(const json_t *json, const char *key, double fallback, float *ret, struct err *err) {
    double value;
    if (json_get_double(json, key, fallback, &value, err) != 0)
        return -1;
    if (!isfinite(value) || value < 0)
        return err_set(err, ERR_INVALID, "\"%s\" is %g; it should be a finite number, 0 or more", key, value);
    *ret = (float)value;
    return 0;
}

static int add_eos(struct model_config *config, int64_t id, struct err *err) {
    for (int i = 0; i < config->n_eos; i++)
        if (config->eos[i] == id)
            return 0;
    if (id < 0)
        return err_set(err, ERR_INVALID, "\"eos_token_id\" names token %lld; token ids begin at 0", (long long)id);
    if (id >= config->n_vocab) /* never sampled: a vocabulary that was cut down by --hf-overrides */
        return 0;
    if (config->n_eos == MODEL_MAX_EOS)
        return err_set(err, ERR_LIMIT, "\"eos_token_id\" lists more than %d tokens", MODEL_MAX_EOS);
    config->eos[config->n_eos++] = (int32_t)id;
    return 0;
}

/* A number, a list of numbers, null or nothing. */
static int read_eos(const json_t *json, struct model_config *config, struct err *err) {
    const json_t *eos = json_object_get(json, "eos_token_id"), *one;
    size_t i;
    if (eos == NULL || json_is_null(eos))
        return 0;
    if (json_is_integer(eos))
        return add_eos(config, json_integer_value(eos), err);
    if (!json_is_array(eos))
        return err_set(err, ERR_INVALID, "\"eos_token_id\" should be a token id or a list of them, but is a %s", json_type_name(eos));
    json_array_foreach(eos, i, one) {
        if (!json_is_integer(one))
            return err_set(err, ERR_INVALID, "\"eos_token_id\" lists a %s; it should list token ids", json_type_name(one));
        if (add_eos(config, json_integer_value(one), err) != 0)
            return -1;
    }
    return 0;
}

static int read_dtype(const json_t *json, struct model_config *config, struct err *err) {
    const char *name, *older;
    if (json_get_str(json, "torch_dtype", "bfloat16", &older, err) != 0 || json_get_str(json, "dtype", older, &name, err) != 0)
        return -1;
    if (strcmp(name, "bfloat16") == 0)
        config->dtype = DTYPE_BF16;
    else if (strcmp(name, "float16") == 0)
        config->dtype = DTYPE_F16;
    else if (strcmp(name, "float32") == 0)
        config->dtype = DTYPE_F32;
    else
        return err_set(err, ERR_UNSUPPORTED, "\"dtype\" is \"%s\"; bfloat16, float16 and float32 are supported", name);
    return 0;
}

/* rope: "rope_parameters" (new) or "rope_scaling" (old), or NULL. */
static int read_rope_scaling(const json_t *rope, struct model_config *config, struct err *err) {
    const char *older, *type;
    int original;
    if (json_get_str(rope, "type", "default", &older, err) != 0 || json_get_str(rope, "rope_type", older, &type, err) != 0)
        return -1;
    if (json_object_get(rope, "mrope_section") != NULL)
        return err_set(err, ERR_UNSUPPORTED, "rotary embedding in sections (\"mrope_section\"), as vision models use it, is not supported");
    if (strcmp(type, "default") == 0)
        return 0;
    if (get_float(rope, "factor", 1, &config->rope_factor, err) != 0 ||
        get_size(rope, "original_max_position_embeddings", config->max_position, MAX_SIZE, &original, err) != 0)
        return -1;
    if (config->rope_factor < 1)
        return err_set(err, ERR_INVALID, "the rotary embedding's \"factor\" is %g; it should be 1 or more", (double)config->rope_factor);
    config->rope_original_max = original;
    double stretched = (double)original * (double)config->rope_factor;
    if (strcmp(type, "linear") == 0) {
        config->rope_scaling = MODEL_ROPE_LINEAR;
        stretched = (double)config->max_position * (double)config->rope_factor;
    } else if (strcmp(type, "llama3") == 0) {
        config->rope_scaling = MODEL_ROPE_LLAMA3;
        stretched = config->max_position;
        if (get_float(rope, "low_freq_factor", 1, &config->rope_low_freq, err) != 0 ||
            get_float(rope, "high_freq_factor", 4, &config->rope_high_freq, err) != 0)
            return -1;
        if (config->rope_high_freq <= config->rope_low_freq)
            return err_set(err, ERR_INVALID, "\"high_freq_factor\" %g should be greater than \"low_freq_factor\" %g",
                           (double)config->rope_high_freq, (double)config->rope_low_freq);
    } else if (strcmp(type, "yarn") == 0) {
        config->rope_scaling = MODEL_ROPE_YARN;
        if (json_object_get(rope, "mscale") != NULL || json_object_get(rope, "mscale_all_dim") != NULL)
            return err_set(err, ERR_UNSUPPORTED, "yarn with \"mscale\" is not supported");
        if (refuse_unless_bool(rope, "truncate", true, "corrections that are not rounded to whole dimensions", err) != 0 ||
            get_float(rope, "beta_fast", 32, &config->rope_beta_fast, err) != 0 ||
            get_float(rope, "beta_slow", 1, &config->rope_beta_slow, err) != 0 ||
            get_float(rope, "attention_factor", 0, &config->rope_attn_factor, err) != 0)
            return -1;
    } else {
        return err_set(err, ERR_UNSUPPORTED, "the rotary embedding's type is \"%s\"; default, linear, llama3 and yarn are supported", type);
    }
    /* What the scaling is for: more positions than the model was trained on. */
    if (stretched > config->max_position)
        config->max_position = stretched > MAX_SIZE ? MAX_SIZE : (int)stretched;
    return 0;
}

static int read_rope(const json_t *json, struct model_config *config, struct err *err) {
    const json_t *rope = json_object_get(json, "rope_parameters");
    if (rope == NULL || json_is_null(rope))
        rope = json_object_get(json, "rope_scaling");
    if (rope != NULL && !json_is_null(rope) && !json_is_object(rope))
        return err_set(err, ERR_INVALID, "\"rope_parameters\" should be an object, but is a %s", json_type_name(rope));
    float theta = 0, partial = 1;
    if (get_float(json, "rope_theta", 10000, &theta, err) != 0 || get_float(json, "partial_rotary_factor", 1, &partial, err) != 0)
        return -1;
    config->rope_factor = 1;
    config->rope_original_max = config->max_position;
    if (json_is_object(rope)) {
        if (get_float(rope, "rope_theta", (double)theta, &theta, err) != 0 ||
            get_float(rope, "partial_rotary_factor", (double)partial, &partial, err) != 0 || read_rope_scaling(rope, config, err) != 0)
            return -1;
    }
    if (partial != 1)
        return err_set(err, ERR_UNSUPPORTED, "\"partial_rotary_factor\": %g is not supported; the whole head is rotated", (double)partial);
    if (theta <= 1)
        return err_set(err, ERR_INVALID, "\"rope_theta\" is %g; it should be greater than 1", (double)theta);
    config->rope_theta = theta;
    return 0;
}

static int read_architecture(const json_t *json, struct model_config *config, const struct known **ret, struct err *err) {
    const json_t *list = json_object_get(json, "architectures");
    const char *name = json_string_value(json_is_array(list) ? json_array_get(list, 0) : list);
    char names[256];
    int len = 0;
    for (int i = 0; i < N_KNOWN; i++) {
        if (name != NULL && strcmp(name, known_models[i].name) == 0) {
            snprintf(config->architecture, sizeof config->architecture, "%s", name);
            *ret = &known_models[i];
            return 0;
        }
        len += snprintf(names + len, sizeof names - (size_t)len, "%s%s", i == 0 ? "" : ", ", known_models[i].name);
    }
    if (name == NULL)
        return err_set(err, ERR_INVALID, "\"architectures\" is missing; it should name one of %s", names);
    return err_set(err, ERR_UNSUPPORTED, "the model's architecture is '%.80s'; supported are %s", name, names);
}

/* Layers that attend to a window only. Qwen's configurations carry a window that is switched off. */
static int refuse_windows(const json_t *json, const struct model_config *config, struct err *err) {
    const json_t *types = json_object_get(json, "layer_types"), *type, *window = json_object_get(json, "sliding_window");
    bool in_use;
    int first;
    size_t i;
    if (json_get_bool(json, "use_sliding_window", false, &in_use, err) != 0 ||
        get_size(json, "max_window_layers", config->n_layers, MAX_SIZE, &first, err) != 0)
        return -1;
    if (in_use && window != NULL && !json_is_null(window) && first < config->n_layers)
        return err_set(err, ERR_UNSUPPORTED, "\"use_sliding_window\": true is not supported: layers %d to %d would attend to a window only", first,
                       config->n_layers - 1);
    if (types != NULL && !json_is_null(types) && !json_is_array(types))
        return err_set(err, ERR_INVALID, "\"layer_types\" should be a list, but is a %s", json_type_name(types));
    json_array_foreach(types, i, type) {
        if ((int)i < config->n_layers && (json_string_value(type) == NULL || strcmp(json_string_value(type), "full_attention") != 0))
            return err_set(err, ERR_UNSUPPORTED, "\"layer_types\" gives layer %zu as '%.40s'; only full_attention is supported", i,
                           json_string_value(type) != NULL ? json_string_value(type) : json_type_name(type));
    }
    return 0;
}

/* What a quantised checkpoint keeps of its layers. */
static int read_quant(const json_t *json, struct model_config *config, struct err *err) {
    struct weights_quant quant;
    if (weights_quant_parse(json, &quant, err) != 0)
        return -1;
    config->quant = quant.method;
    config->head_dtype = config->dtype;
    config->layer_dtype = quant.method == WEIGHTS_QUANT_NONE ? config->dtype : weights_quant_dtype(quant.method);
    config->weight_block = dtype_block_weights(config->layer_dtype);
    return 0;
}

/* is_mixtral: "intermediate_size" is the experts', and the shares of the chosen ones always sum to one. */
static int read_mixture(const json_t *json, bool is_mixtral, struct model_config *config, struct err *err) {
    const json_t *dense = json_object_get(json, "mlp_only_layers");
    int local, step, shared;
    if (get_size(json, "num_local_experts", 0, MAX_EXPERTS, &local, err) != 0 ||
        get_size(json, "num_experts", local, MAX_EXPERTS, &config->n_experts, err) != 0 ||
        get_size(json, "decoder_sparse_step", 1, MAX_SIZE, &step, err) != 0 ||
        get_size(json, "shared_expert_intermediate_size", 0, MAX_SIZE, &shared, err) != 0)
        return -1;
    if (config->n_experts == 0)
        return err_set(err, ERR_INVALID, "\"num_experts\" is missing; a mixture of experts must give it");
    if (need_size(json, "num_experts_per_tok", MAX_EXPERTS, &config->n_experts_active, err) != 0 ||
        need_size(json, is_mixtral ? "intermediate_size" : "moe_intermediate_size", MAX_SIZE, &config->moe_intermediate, err) != 0 ||
        json_get_bool(json, "norm_topk_prob", is_mixtral, &config->norm_topk_prob, err) != 0)
        return -1;
    if (config->n_experts_active > config->n_experts)
        return err_set(err, ERR_INVALID, "\"num_experts_per_tok\" is %d, but there are %d experts", config->n_experts_active, config->n_experts);
    if (step != 1)
        return err_set(err, ERR_UNSUPPORTED, "\"decoder_sparse_step\": %d is not supported; every layer must be a mixture (1)", step);
    if (json_array_size(dense) > 0)
        return err_set(err, ERR_UNSUPPORTED, "\"mlp_only_layers\" lists %zu dense layers, which is not supported; every layer must be a mixture",
                       json_array_size(dense));
    if (shared != 0)
        return err_set(err, ERR_UNSUPPORTED, "a shared expert (\"shared_expert_intermediate_size\": %d) is not supported", shared);
    config->intermediate = 0;
    return 0;
}

static int check_sizes(const struct model_config *config, struct err *err) {
    if (config->n_heads % config->n_kv_heads != 0)
        return err_set(err, ERR_INVALID, "\"num_attention_heads\" %d is no multiple of \"num_key_value_heads\" %d", config->n_heads,
                       config->n_kv_heads);
    if (config->head_dim % 8 != 0 || config->head_dim > MAX_HEAD_DIM)
        return err_set(err, ERR_UNSUPPORTED, "\"head_dim\" %d is not supported; it must be a multiple of 8, at most %d", config->head_dim,
                       MAX_HEAD_DIM);
    if ((int64_t)config->n_heads * config->head_dim > MAX_SIZE)
        return err_set(err, ERR_LIMIT, "%d heads of %d are more than shoal computes with", config->n_heads, config->head_dim);
    return 0;
}

static int read_config(const json_t *json, struct model_config *config, struct err *err) {
    const struct known *known = NULL;
    const char *act;
    if (!json_is_object(json))
        return err_set(err, ERR_INVALID, "the configuration should be an object, but is a %s", json_type_name(json));
    if (read_architecture(json, config, &known, err) != 0 ||
        need_size(json, "num_hidden_layers", MAX_LAYERS, &config->n_layers, err) != 0 ||
        need_size(json, "hidden_size", MAX_SIZE, &config->hidden, err) != 0 ||
        need_size(json, "num_attention_heads", MAX_SIZE, &config->n_heads, err) != 0 ||
        need_size(json, "vocab_size", MAX_SIZE, &config->n_vocab, err) != 0 ||
        need_size(json, "max_position_embeddings", MAX_SIZE, &config->max_position, err) != 0 ||
        get_size(json, "num_key_value_heads", config->n_heads, MAX_SIZE, &config->n_kv_heads, err) != 0 ||
        get_size(json, "head_dim", 0, MAX_SIZE, &config->head_dim, err) != 0 ||
        get_float(json, "rms_norm_eps", 1e-6, &config->rms_eps, err) != 0 || json_get_str(json, "hidden_act", "silu", &act, err) != 0 ||
        json_get_bool(json, "tie_word_embeddings", false, &config->tied, err) != 0)
        return -1;
    if (config->head_dim == 0) {
        if (config->hidden % config->n_heads != 0)
            return err_set(err, ERR_INVALID, "\"head_dim\" is missing and \"hidden_size\" %d is no multiple of \"num_attention_heads\" %d",
                           config->hidden, config->n_heads);
        config->head_dim = config->hidden / config->n_heads;
    }
    if (config->n_kv_heads == 0)
        return err_set(err, ERR_INVALID, "\"num_key_value_heads\" is 0; it should be 1 or more");
    if (strcmp(act, "silu") != 0)
        return err_set(err, ERR_UNSUPPORTED, "\"hidden_act\" is \"%.40s\"; only silu is supported", act);
    config->qk_norm = known->qk_norm;
    config->qkv_bias = known->qkv_bias;
    config->mixtral_names = known->is_mixtral;
    if (check_sizes(config, err) != 0 || refuse_windows(json, config, err) != 0 || read_rope(json, config, err) != 0 ||
        read_dtype(json, config, err) != 0 || read_quant(json, config, err) != 0 || read_eos(json, config, err) != 0 ||
        refuse_unless_bool(json, "mlp_bias", false, "biases in the feed-forward layers", err) != 0 ||
        refuse_unless_bool(json, "qkv_bias", known->qkv_bias, "whether queries, keys and values have a bias", err) != 0 ||
        refuse_unless_bool(json, "use_qk_norm", known->qk_norm, "whether queries and keys are normed", err) != 0)
        return -1;
    /* Qwen2 has its biases whatever this switch says. */
    if (!known->qkv_bias && refuse_unless_bool(json, "attention_bias", false, "biases in the attention layers", err) != 0)
        return -1;
    if (known->is_mixture)
        return read_mixture(json, known->is_mixtral, config, err);
    return need_size(json, "intermediate_size", MAX_SIZE, &config->intermediate, err);
}

/* Objects are merged, everything else is replaced. */
static int merge(json_t *into, const json_t *from) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)from, key, value) {
        json_t *old = json_object_get(into, key);
        if (json_is_object(old) && json_is_object(value) ? merge(old, value) : json_object_set(into, key, value))
            return -1;
    }
    return 0;
}

/* A JSON file beside the model; *ret stays NULL when there is none. */
static int read_beside(const char *folder, const char *name, json_t **ret, struct err *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return err_set(err, ERR_LIMIT, "the path '%.100s…' is too long", folder);
    if (!file_exists(path))
        return 0;
    *ret = json_parse_file(path, CONFIG_LIMIT_BYTES, err);
    return *ret == NULL ? -1 : 0;
}

/* name: of the configuration, most often config.json. */
static int load_folder(const char *folder, const char *name, const json_t *overrides, struct model_config *config, struct err *err) {
    json_t *json = NULL, *generation = NULL, *quant = NULL;
    int rc = -1;
    if (read_beside(folder, name, &json, err) != 0 || read_beside(folder, "generation_config.json", &generation, err) != 0 ||
        read_beside(folder, "hf_quant_config.json", &quant, err) != 0)
        goto release;
    if (json == NULL) {
        err_set(err, ERR_NOT_FOUND, "there is no %s in %s", name, folder);
        goto release;
    }
    if (quant != NULL) {
        const char *how = json_string_value(json_object_get(json_object_get(quant, "quantization"), "quant_algo"));
        err_set(err, ERR_UNSUPPORTED, "the checkpoint is quantised (hf_quant_config.json: %.40s), which is not supported; use the BF16 checkpoint",
                how != NULL ? how : "of an unnamed kind");
        goto release;
    }
    if (overrides != NULL && json_is_object(json) && merge(json, overrides) != 0) {
        err_set(err, ERR_NOMEM, "no memory for the merged configuration");
        goto release;
    }
    if (read_config(json, config, err) != 0)
        err_wrap(err, "%s/%s", folder, name);
    else if (generation != NULL && read_eos(generation, config, err) != 0)
        err_wrap(err, "%s/generation_config.json", folder);
    else
        rc = 0;
release:
    json_decref(json);
    json_decref(generation);
    json_decref(quant);
    return rc;
}

static int load_gguf(const char *path, const struct weights_store *store, const json_t *overrides, struct model_config *config, struct err *err) {
    bool rope_pairs;
    json_t *json = model_config_from_gguf(store, &rope_pairs, err);
    int rc = -1;
    if (json == NULL)
        return err_wrap(err, "%s", path);
    if (overrides != NULL && merge(json, overrides) != 0)
        err_set(err, ERR_NOMEM, "no memory for the merged configuration");
    else if (read_config(json, config, err) == 0)
        rc = 0;
    if (rc != 0)
        err_wrap(err, "%s", path);
    config->rope_pairs = rope_pairs;
    model_config_gguf_formats(store, config);
    json_decref(json);
    return rc;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

int model_config_load(const char *path, const struct weights_store *store, const json_t *overrides, struct model_config *ret, struct err *err) {
    struct model_config config = {0};
    if (overrides != NULL && !json_is_object(overrides))
        return err_set(err, ERR_INVALID, "--hf-overrides should be a JSON object, but is a %s", json_type_name(overrides));
    int rc;
    if (store != NULL && weights_store_gguf(store) != NULL) {
        rc = load_gguf(path, store, overrides, &config, err);
    } else if (store == NULL && ends_with(path, ".gguf")) {
        struct weights_store *own;
        if (weights_store_open(path, &own, err) != 0)
            return -1;
        rc = load_gguf(path, own, overrides, &config, err);
        weights_store_close(own);
    } else if (file_is_dir(path)) {
        rc = load_folder(path, "config.json", overrides, &config, err);
    } else {
        /* One safetensors file: its configuration lies beside it. Or the configuration itself. */
        char folder[PATH_MAX];
        const char *slash = strrchr(path, '/'), *file = slash == NULL ? path : slash + 1;
        snprintf(folder, sizeof folder, "%.*s", slash == NULL ? 1 : (int)(slash - path), slash == NULL ? "." : path);
        rc = load_folder(folder, ends_with(file, ".json") ? file : "config.json", overrides, &config, err);
    }
    if (rc == 0)
        *ret = config;
    return rc;
}
