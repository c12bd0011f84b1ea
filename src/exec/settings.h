/*
 * The settings of a launch, which the driver decides and every rank follows; they travel in the ASSIGN frame as JSON.
 */
#ifndef EXEC_SETTINGS_H
#define EXEC_SETTINGS_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "comm/world.h"

struct exec_settings {
    /* the model, as each node finds it */
    char model[PATH_MAX];
    char revision[128], download_dir[PATH_MAX]; /* "": default */
    char weights_cache[PATH_MAX]; /* folder of packed shards on each node; "": none */
    char load_format[16];   /* "auto", "safetensors", "gguf", "dummy" */
    char dtype[16];         /* "auto", "float32", "bfloat16", "int8" */
    char quantization[16];  /* --quantization, "": none */
    char kv_cache_dtype[16]; /* "auto", "float32", "bfloat16", "int8" */
    json_t *hf_overrides;   /* or NULL; owned */
    uint64_t seed;
    /* the split */
    int tp_size, pp_size;
    bool expert_parallel;
    int layers_per_stage[COMM_MAX_RANKS]; /* all 0: even */
    int n_nodes;
    int node_of_rank[COMM_MAX_RANKS];
    int threads_of_node[COMM_MAX_NODES]; /* threads for each rank there */
    /* sizes */
    int block_size, max_seqs, max_step_tokens, max_model_len;
    int op_timeout_ms;
};

/* Formats that --dtype and --kv-cache-dtype mean: of the KV cache, and of dummy weights that are not quantised. */
enum dtype exec_kv_dtype(const char *dtype, const char *kv_cache_dtype);
enum dtype exec_dummy_dtype(const char *dtype, enum dtype checkpoint);

/* New reference, NULL when memory is out. `node` is told to the worker that gets it. */
json_t *exec_settings_to_json(const struct exec_settings *settings, int node);
int exec_settings_from_json(const json_t *json, struct exec_settings *ret, int *ret_node, struct err *err);
void exec_settings_finish(struct exec_settings *settings);

#endif
