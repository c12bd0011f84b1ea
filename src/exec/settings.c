/* Launch settings to and from JSON; see settings.h. */
#include "exec/settings.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "exec/step.h"

static json_t *ints_to_json(const int *values, int n) {
    json_t *list = json_array();
    for (int i = 0; list != NULL && i < n; i++)
        json_array_append_new(list, json_integer(values[i]));
    return list;
}

enum dtype exec_kv_dtype(const char *dtype, const char *kv_cache_dtype) {
    const char *wanted = strcmp(kv_cache_dtype, "auto") == 0 ? dtype : kv_cache_dtype;
    return strcmp(wanted, "float32") == 0 ? DTYPE_F32 : strcmp(wanted, "int8") == 0 ? DTYPE_I8 : DTYPE_BF16;
}

enum dtype exec_dummy_dtype(const char *dtype, enum dtype checkpoint) { return strcmp(dtype, "float32") == 0 ? DTYPE_F32 : checkpoint; }

json_t *exec_settings_to_json(const struct exec_settings *s, int node) {
    json_t *json = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:i, s:b, s:i, s:i, s:i, s:i, s:i, s:i}", "node", node, "model",
                             s->model, "revision", s->revision, "download_dir", s->download_dir, "load_format", s->load_format, "dtype",
                             s->dtype, "kv_cache_dtype", s->kv_cache_dtype, "seed", (json_int_t)s->seed, "tp_size", s->tp_size, "pp_size",
                             s->pp_size, "expert_parallel", s->expert_parallel, "n_nodes", s->n_nodes, "block_size", s->block_size,
                             "max_seqs", s->max_seqs, "max_step_tokens", s->max_step_tokens, "max_model_len", s->max_model_len,
                             "op_timeout_ms", s->op_timeout_ms);
    if (json == NULL)
        return NULL;
    json_object_set_new(json, "weights_cache", json_string(s->weights_cache));
    json_object_set_new(json, "quantization", json_string(s->quantization));
    json_object_set_new(json, "layers_per_stage", ints_to_json(s->layers_per_stage, s->pp_size));
    json_object_set_new(json, "node_of_rank", ints_to_json(s->node_of_rank, s->tp_size * s->pp_size));
    json_object_set_new(json, "threads_of_node", ints_to_json(s->threads_of_node, s->n_nodes));
    if (s->hf_overrides != NULL)
        json_object_set(json, "hf_overrides", s->hf_overrides);
    return json;
}

static int get_text(const json_t *json, const char *key, char *ret, size_t size_bytes, struct err *err) {
    const char *text;
    if (json_get_str(json, key, "", &text, err) != 0)
        return -1;
    if ((size_t)snprintf(ret, size_bytes, "%s", text) >= size_bytes)
        return err_set(err, ERR_LIMIT, "'%s' is longer than %zu characters", key, size_bytes - 1);
    return 0;
}

static int get_int(const json_t *json, const char *key, int min, int max, int *ret, struct err *err) {
    int64_t value;
    if (json_get_int(json, key, min, min, max, &value, err) != 0)
        return -1;
    *ret = (int)value;
    return 0;
}

static int get_ints(const json_t *json, const char *key, int n, int max, int *ret, struct err *err) {
    const json_t *list = json_object_get(json, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return err_set(err, ERR_PEER, "'%s' should be a list of %d numbers", key, n);
    for (int i = 0; i < n; i++) {
        json_int_t value = json_integer_value(json_array_get(list, (size_t)i));
        if (value < 0 || value > max)
            return err_set(err, ERR_PEER, "'%s' has %lld; 0 to %d are possible", key, (long long)value, max);
        ret[i] = (int)value;
    }
    return 0;
}

int exec_settings_from_json(const json_t *json, struct exec_settings *ret, int *ret_node, struct err *err) {
    struct exec_settings s = {0};
    int64_t seed;
    int node;
    if (get_text(json, "model", s.model, sizeof s.model, err) != 0 || get_text(json, "revision", s.revision, sizeof s.revision, err) != 0 ||
        get_text(json, "download_dir", s.download_dir, sizeof s.download_dir, err) != 0 ||
        get_text(json, "weights_cache", s.weights_cache, sizeof s.weights_cache, err) != 0 ||
        get_text(json, "load_format", s.load_format, sizeof s.load_format, err) != 0 ||
        get_text(json, "dtype", s.dtype, sizeof s.dtype, err) != 0 ||
        get_text(json, "quantization", s.quantization, sizeof s.quantization, err) != 0 ||
        get_text(json, "kv_cache_dtype", s.kv_cache_dtype, sizeof s.kv_cache_dtype, err) != 0 ||
        json_get_int(json, "seed", 0, INT64_MIN, INT64_MAX, &seed, err) != 0 ||
        get_int(json, "tp_size", 1, COMM_MAX_RANKS, &s.tp_size, err) != 0 || get_int(json, "pp_size", 1, COMM_MAX_RANKS, &s.pp_size, err) != 0 ||
        json_get_bool(json, "expert_parallel", false, &s.expert_parallel, err) != 0 ||
        get_int(json, "n_nodes", 1, COMM_MAX_NODES, &s.n_nodes, err) != 0 || get_int(json, "block_size", 1, 1024, &s.block_size, err) != 0 ||
        get_int(json, "max_seqs", 1, EXEC_MAX_SEQS, &s.max_seqs, err) != 0 ||
        get_int(json, "max_step_tokens", 1, EXEC_MAX_STEP_TOKENS, &s.max_step_tokens, err) != 0 ||
        get_int(json, "max_model_len", 1, EXEC_MAX_CONTEXT, &s.max_model_len, err) != 0 ||
        get_int(json, "op_timeout_ms", 0, INT_MAX, &s.op_timeout_ms, err) != 0)
        return err_wrap(err, "settings from the driver");
    if (s.tp_size * s.pp_size > COMM_MAX_RANKS)
        return err_set(err, ERR_PEER, "settings from the driver: %d × %d ranks; at most %d are possible", s.tp_size, s.pp_size, COMM_MAX_RANKS);
    if (get_int(json, "node", 0, s.n_nodes - 1, &node, err) != 0 ||
        get_ints(json, "layers_per_stage", s.pp_size, INT_MAX, s.layers_per_stage, err) != 0 ||
        get_ints(json, "node_of_rank", s.tp_size * s.pp_size, s.n_nodes - 1, s.node_of_rank, err) != 0 ||
        get_ints(json, "threads_of_node", s.n_nodes, 4096, s.threads_of_node, err) != 0)
        return err_wrap(err, "settings from the driver");
    s.seed = (uint64_t)seed;
    s.hf_overrides = json_incref(json_object_get(json, "hf_overrides"));
    *ret = s;
    *ret_node = node;
    return 0;
}

void exec_settings_finish(struct exec_settings *settings) {
    json_decref(settings->hf_overrides);
    settings->hf_overrides = NULL;
}
