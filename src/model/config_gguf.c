/* GGUF metadata rewritten as config.json; see config_gguf.h. Key names: ggml/docs/gguf.md. Runs on the caller's thread. */
#include "model/config_gguf.h"

#include <stdio.h>
#include <string.h>

#include "weights/gguf.h"

static const struct gguf_architecture {
    const char *gguf, *huggingface;
    bool rope_pairs, is_mixture;
} architectures[] = {
    /* Mixtral goes by the name of llama. The converter of both reorders the rows of q and k. */
    {"llama", "LlamaForCausalLM", true, false},
    {"qwen2", "Qwen2ForCausalLM", false, false},
    {"qwen3", "Qwen3ForCausalLM", false, false},
    {"qwen3moe", "Qwen3MoeForCausalLM", false, true},
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0], KEY_BYTES = 96 };

/* "<architecture>.<name>" */
static const char *key_of(char key[KEY_BYTES], const char *arch, const char *name) {
    snprintf(key, KEY_BYTES, "%s.%s", arch, name);
    return key;
}

/* The integers and floats that only change their name. Absent ones stay absent: config.c knows which must be there. */
static const struct renamed {
    const char *gguf, *huggingface;
    bool is_float;
} renamed[] = {
    {"block_count", "num_hidden_layers", false},
    {"context_length", "max_position_embeddings", false},
    {"embedding_length", "hidden_size", false},
    {"feed_forward_length", "intermediate_size", false},
    {"attention.head_count", "num_attention_heads", false},
    {"attention.head_count_kv", "num_key_value_heads", false},
    {"attention.key_length", "head_dim", false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", true},
    {"rope.freq_base", "rope_theta", true},
    {"expert_count", "num_experts", false},
    {"expert_used_count", "num_experts_per_tok", false},
    {"expert_feed_forward_length", "moe_intermediate_size", false},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", false},
};

static int copy_numbers(const struct weights_gguf *gguf, const char *arch, json_t *json) {
    char key[KEY_BYTES];
    for (size_t i = 0; i < sizeof renamed / sizeof renamed[0]; i++) {
        int64_t integer;
        double number;
        int rc = 0;
        key_of(key, arch, renamed[i].gguf);
        if (!renamed[i].is_float && weights_gguf_get_int(gguf, key, &integer) == 0)
            rc = json_object_set_new(json, renamed[i].huggingface, json_integer(integer));
        else if (renamed[i].is_float && weights_gguf_get_double(gguf, key, &number) == 0)
            rc = json_object_set_new(json, renamed[i].huggingface, json_real(number));
        if (rc != 0)
            return -1;
    }
    return 0;
}

static int copy_rope(const struct weights_gguf *gguf, const char *arch, json_t *json) {
    char key[KEY_BYTES];
    const char *type = weights_gguf_get_str(gguf, key_of(key, arch, "rope.scaling.type"));
    double factor;
    int64_t original;
    if (type == NULL || strcmp(type, "none") == 0)
        return 0;
    json_t *rope = json_object();
    int rc = json_object_set_new(rope, "rope_type", json_string(type));
    if (weights_gguf_get_double(gguf, key_of(key, arch, "rope.scaling.factor"), &factor) == 0)
        rc |= json_object_set_new(rope, "factor", json_real(factor));
    if (weights_gguf_get_int(gguf, key_of(key, arch, "rope.scaling.original_context_length"), &original) == 0)
        rc |= json_object_set_new(rope, "original_max_position_embeddings", json_integer(original));
    return json_object_set_new(json, "rope_scaling", rope) | rc;
}

/* End of text, end of turn: generation stops at either. */
static int copy_eos(const struct weights_gguf *gguf, json_t *json) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    json_t *list = json_array();
    int rc = 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int64_t id;
        if (weights_gguf_get_int(gguf, keys[i], &id) == 0)
            rc |= json_array_append_new(list, json_integer(id));
    }
    return json_object_set_new(json, "eos_token_id", list) | rc;
}

static const struct gguf_architecture *find_architecture(const char *name, struct err *err) {
    char names[128];
    int len = 0;
    for (int i = 0; i < N_ARCHITECTURES; i++) {
        if (name != NULL && strcmp(name, architectures[i].gguf) == 0)
            return &architectures[i];
        len += snprintf(names + len, sizeof names - (size_t)len, "%s%s", i == 0 ? "" : ", ", architectures[i].gguf);
    }
    if (name == NULL)
        err_set(err, ERR_INVALID, "the metadata have no general.architecture; it should be one of %s", names);
    else
        err_set(err, ERR_UNSUPPORTED, "the model's architecture is '%.40s'; supported in GGUF are %s", name, names);
    return NULL;
}

json_t *model_config_from_gguf(const struct weights_store *store, bool *ret_rope_pairs, struct err *err) {
    const struct weights_gguf *gguf = weights_store_gguf(store);
    const struct gguf_architecture *arch = find_architecture(weights_gguf_get_str(gguf, "general.architecture"), err);
    const struct weights_tensor *embedding = weights_store_find(store, "token_embd.weight");
    char key[KEY_BYTES];
    int64_t head_dim, rotated;
    if (arch == NULL)
        return NULL;
    if (weights_gguf_get_int(gguf, key_of(key, arch->gguf, "attention.key_length"), &head_dim) == 0 &&
        weights_gguf_get_int(gguf, key_of(key, arch->gguf, "rope.dimension_count"), &rotated) == 0 && rotated != head_dim) {
        err_set(err, ERR_UNSUPPORTED, "%s.rope.dimension_count is %lld of a head's %lld dimensions; the whole head must be rotated", arch->gguf,
                (long long)rotated, (long long)head_dim);
        return NULL;
    }
    int64_t n_experts = 0;
    weights_gguf_get_int(gguf, key_of(key, arch->gguf, "expert_count"), &n_experts);
    bool is_mixtral = n_experts > 0 && strcmp(arch->gguf, "llama") == 0;
    json_t *json = json_pack("{s:[s], s:b}", "architectures", is_mixtral ? "MixtralForCausalLM" : arch->huggingface, "tie_word_embeddings",
                             weights_store_find(store, "output.weight") == NULL);
    int rc = json == NULL ? -1 : copy_numbers(gguf, arch->gguf, json) | copy_rope(gguf, arch->gguf, json) | copy_eos(gguf, json);
    if (rc == 0 && embedding != NULL)
        rc = json_object_set_new(json, "vocab_size", json_integer(embedding->dims[0]));
    if (rc == 0 && arch->is_mixture) /* the format has no switch for it: all models of this architecture do */
        rc = json_object_set_new(json, "norm_topk_prob", json_true());
    if (rc != 0) {
        json_decref(json);
        err_set(err, ERR_NOMEM, "no memory for the configuration");
        return NULL;
    }
    *ret_rope_pairs = arch->rope_pairs;
    return json;
}

void model_config_gguf_formats(const struct weights_store *store, struct model_config *config) {
    const struct weights_tensor *head = weights_store_find(store, config->tied ? "token_embd.weight" : "output.weight");
    if (head != NULL)
        config->head_dtype = head->dtype;
    config->weight_block = 1;
    for (int i = 0; i < weights_store_count(store); i++) {
        const struct weights_tensor *tensor = weights_store_at(store, i);
        if (strstr(tensor->name, ".ffn_down") != NULL && dtype_block_weights(tensor->dtype) > config->weight_block)
            config->weight_block = dtype_block_weights(tensor->dtype);
        if (strstr(tensor->name, ".ffn_up") != NULL) /* _K_M files keep some of the others in a larger format */
            config->layer_dtype = tensor->dtype;
    }
}
