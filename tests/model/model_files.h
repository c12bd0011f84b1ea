/*
 * Writing model files for the tests: the tensors of a tiny model read into memory, renamed, stacked or taken apart there, and
 * written as safetensors, as sharded safetensors with an index, or as GGUF. The folder is the including test's: model_files_folder.
 */
#ifndef TESTS_MODEL_MODEL_FILES_H
#define TESTS_MODEL_MODEL_FILES_H

#include <dirent.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/dtype.h"
#include "base/file.h"
#include "weights/store.h"

enum { MODEL_FILES_LIMIT = 64 << 20, MAX_COPIES = 2048 };
static char model_files_folder[] = "/tmp/shoal-test-model.XXXXXX";

static inline int model_files_setup(void) { return mkdtemp(model_files_folder) == NULL ? -1 : 0; }

/* Removes the folder and the plain files in it. */
static inline int model_files_teardown(void) {
    DIR *dir = opendir(model_files_folder);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", model_files_folder, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (dir != NULL)
        closedir(dir);
    return rmdir(model_files_folder);
}

struct copy {
    char name[WEIGHTS_NAME_BYTES];
    enum dtype dtype;
    int n_dims;
    int64_t dims[3]; /* outermost first */
    char *data;
    size_t len;
    const char *format; /* in safetensors, where it is not the name of dtype; else NULL */
};

struct copies {
    struct copy items[MAX_COPIES];
    int n;
};

static inline void read_all(const char *model, struct copies *ret) {
    char path[512];
    struct err err;
    struct weights_store *store;
    snprintf(path, sizeof path, "%s/models/%s", TEST_DATA_DIR, model);
    assert_int_equal(weights_store_open(path, &store, &err), 0);
    ret->n = weights_store_count(store);
    assert_in_range(ret->n, 1, MAX_COPIES);
    for (int i = 0; i < ret->n; i++) {
        const struct weights_tensor *t = weights_store_at(store, i);
        struct copy *c = &ret->items[i];
        *c = (struct copy){.dtype = t->dtype, .n_dims = t->n_dims, .len = t->len_bytes, .data = malloc(t->len_bytes)};
        memcpy(c->name, t->name, sizeof c->name);
        memcpy(c->dims, t->dims, sizeof c->dims);
        int64_t rows = t->n_dims > 1 ? t->dims[0] : 1;
        assert_int_equal(weights_store_read(store, t, 0, rows, 0, t->dims[t->n_dims - 1], c->data, &err), 0);
    }
    weights_store_close(store);
}

static inline void free_all(struct copies *copies) {
    for (int i = 0; i < copies->n; i++)
        free(copies->items[i].data);
}

static inline struct copy *find(struct copies *copies, const char *name) {
    for (int i = 0; i < copies->n; i++)
        if (strcmp(copies->items[i].name, name) == 0)
            return &copies->items[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static inline void drop(struct copies *copies, struct copy *c) {
    free(c->data);
    *c = copies->items[--copies->n];
}

static inline void write_file(const char *name, const struct buf *bytes) {
    char path[256];
    struct err err;
    snprintf(path, sizeof path, "%s/%s", model_files_folder, name);
    assert_false(bytes->failed);
    assert_int_equal(file_write_atomic(path, bytes->data, bytes->len_bytes, 0644, &err), 0);
}

static inline void write_config(const char *model) {
    char path[512];
    struct err err;
    struct buf text;
    buf_init(&text, MODEL_FILES_LIMIT);
    snprintf(path, sizeof path, "%s/models/%s/config.json", TEST_DATA_DIR, model);
    assert_int_equal(file_read(path, &text, &err), 0);
    write_file("config.json", &text);
    buf_finish(&text);
}

/* Tensors [begin, end) as one file. */
static inline void write_safetensors_part(const struct copies *copies, int begin, int end, const char *name) {
    struct buf header, file;
    buf_init(&header, MODEL_FILES_LIMIT);
    buf_init(&file, MODEL_FILES_LIMIT);
    size_t offset = 0;
    for (int i = begin; i < end; i++) {
        const struct copy *c = &copies->items[i];
        buf_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i == begin ? "{" : ",", c->name,
                   c->format != NULL ? c->format : dtype_name(c->dtype));
        for (int d = 0; d < c->n_dims; d++)
            buf_printf(&header, "%s%lld", d == 0 ? "" : ",", (long long)c->dims[d]);
        buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + c->len);
        offset += c->len;
    }
    buf_append_char(&header, '}');
    uint64_t len = header.len_bytes;
    buf_append(&file, &len, 8);
    buf_append(&file, header.data, header.len_bytes);
    for (int i = begin; i < end; i++)
        buf_append(&file, copies->items[i].data, copies->items[i].len);
    write_file(name, &file);
    buf_finish(&header);
    buf_finish(&file);
}

static inline void write_safetensors(const struct copies *copies) { write_safetensors_part(copies, 0, copies->n, "model.safetensors"); }

/* In three files with an index. */
static inline void write_sharded(const struct copies *copies) {
    struct buf index;
    buf_init(&index, MODEL_FILES_LIMIT);
    buf_append_str(&index, "{\"weight_map\":{");
    for (int part = 0; part < 3; part++) {
        char name[64];
        int begin = copies->n * part / 3, end = copies->n * (part + 1) / 3;
        snprintf(name, sizeof name, "model-%05d-of-00003.safetensors", part + 1);
        write_safetensors_part(copies, begin, end, name);
        for (int i = begin; i < end; i++)
            buf_printf(&index, "%s\"%s\":\"%s\"", i == 0 ? "" : ",", copies->items[i].name, name);
    }
    buf_append_str(&index, "}}");
    write_file("model.safetensors.index.json", &index);
    buf_finish(&index);
}

static inline void put_u32(struct buf *out, uint32_t value) { buf_append(out, &value, 4); }
static inline void put_u64(struct buf *out, uint64_t value) { buf_append(out, &value, 8); }

static inline void put_str(struct buf *out, const char *text) {
    put_u64(out, strlen(text));
    buf_append_str(out, text);
}

static inline void put_pad(struct buf *out) {
    while (out->len_bytes % 32 != 0)
        buf_append_char(out, 0);
}

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_STR = 8 };

static inline void put_gguf_int(struct buf *out, const char *arch, const char *key, uint32_t value) {
    char full[96];
    snprintf(full, sizeof full, "%s%s%s", arch, arch[0] == '\0' ? "" : ".", key);
    put_str(out, full);
    put_u32(out, GGUF_U32);
    put_u32(out, value);
}

static inline void put_gguf_float(struct buf *out, const char *arch, const char *key, float value) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    put_str(out, full);
    put_u32(out, GGUF_F32);
    buf_append(out, &value, 4);
}

static inline uint32_t gguf_type(enum dtype dtype) {
    switch (dtype) {
    case DTYPE_F32: return 0;
    case DTYPE_F16: return 1;
    case DTYPE_BF16: return 30;
    case DTYPE_Q8_0: return 8;
    case DTYPE_Q4_1: return 3;
    case DTYPE_Q4_K: return 12;
    case DTYPE_Q5_K: return 13;
    case DTYPE_Q6_K: return 14;
    default: fail(); return 0;
    }
}

/* The tiny models' geometry under GGUF's names. */
static inline void write_gguf(const struct copies *copies, bool is_mixture) {
    const char *arch = is_mixture ? "qwen3moe" : "qwen3";
    struct buf file;
    buf_init(&file, MODEL_FILES_LIMIT);
    buf_append_str(&file, "GGUF");
    put_u32(&file, 3);
    put_u64(&file, (uint64_t)copies->n);
    put_u64(&file, is_mixture ? 14 : 11);
    put_str(&file, "general.architecture");
    put_u32(&file, GGUF_STR);
    put_str(&file, arch);
    put_gguf_int(&file, arch, "block_count", 6);
    put_gguf_int(&file, arch, "context_length", 4096);
    put_gguf_int(&file, arch, "embedding_length", 192);
    put_gguf_int(&file, arch, "feed_forward_length", 512);
    put_gguf_int(&file, arch, "attention.head_count", 8);
    put_gguf_int(&file, arch, "attention.head_count_kv", 2);
    put_gguf_int(&file, arch, "attention.key_length", 32);
    put_gguf_float(&file, arch, "attention.layer_norm_rms_epsilon", 1e-6f);
    put_gguf_float(&file, arch, "rope.freq_base", 1e6f);
    put_gguf_int(&file, "", "tokenizer.ggml.eos_token_id", 2047);
    if (is_mixture) {
        put_gguf_int(&file, arch, "expert_count", 16);
        put_gguf_int(&file, arch, "expert_used_count", 4);
        put_gguf_int(&file, arch, "expert_feed_forward_length", 64);
    }
    uint64_t offset = 0;
    for (int i = 0; i < copies->n; i++) {
        const struct copy *c = &copies->items[i];
        put_str(&file, c->name);
        put_u32(&file, (uint32_t)c->n_dims);
        for (int d = c->n_dims - 1; d >= 0; d--)
            put_u64(&file, (uint64_t)c->dims[d]);
        put_u32(&file, gguf_type(c->dtype));
        put_u64(&file, offset);
        offset += (c->len + 31) / 32 * 32;
    }
    put_pad(&file);
    for (int i = 0; i < copies->n; i++) {
        buf_append(&file, copies->items[i].data, copies->items[i].len);
        put_pad(&file);
    }
    write_file("model.gguf", &file);
    buf_finish(&file);
}

static inline void rename_to_gguf(struct copies *copies) {
    static const char *const pairs[][2] = {
        {"model.embed_tokens.weight", "token_embd.weight"},
        {"model.norm.weight", "output_norm.weight"},
        {"lm_head.weight", "output.weight"},
        {"input_layernorm", "attn_norm"},
        {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"},
        {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"},
        {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
        {"mlp.gate", "ffn_gate_inp"},
    };
    for (int i = 0; i < copies->n; i++) {
        char old[WEIGHTS_NAME_BYTES], part[WEIGHTS_NAME_BYTES];
        int layer;
        memcpy(old, copies->items[i].name, sizeof old);
        bool in_layer = sscanf(old, "model.layers.%d.%159s", &layer, part) == 2;
        for (size_t p = 0; p < sizeof pairs / sizeof pairs[0]; p++) {
            size_t len = strlen(pairs[p][0]);
            if (!in_layer && strcmp(old, pairs[p][0]) == 0)
                snprintf(copies->items[i].name, WEIGHTS_NAME_BYTES, "%s", pairs[p][1]);
            else if (in_layer && strncmp(part, pairs[p][0], len) == 0 && part[len] == '.')
                snprintf(copies->items[i].name, WEIGHTS_NAME_BYTES, "blk.%d.%s%s", layer, pairs[p][1], part + len);
        }
    }
}

/* Replaces a layer's experts by one stack of parts; HF: gate above up within each expert. */
static inline void stack_experts(struct copies *copies, const char *const *parts, int n_parts, int layer, const char *name) {
    char one[WEIGHTS_NAME_BYTES];
    struct copy stack = {0};
    for (int e = 0; e < 16; e++) {
        for (int p = 0; p < n_parts; p++) {
            snprintf(one, sizeof one, "model.layers.%d.mlp.experts.%d.%s.weight", layer, e, parts[p]);
            struct copy *c = find(copies, one);
            if (stack.data == NULL) {
                stack = (struct copy){.dtype = c->dtype, .n_dims = 3, .dims = {16, n_parts * c->dims[0], c->dims[1]}};
                stack.data = malloc(c->len * 16 * (size_t)n_parts);
            }
            memcpy(stack.data + stack.len, c->data, c->len);
            stack.len += c->len;
            drop(copies, c);
        }
    }
    snprintf(stack.name, sizeof stack.name, "%s", name);
    copies->items[copies->n++] = stack;
}

/* tiny-qwen3-moe under GGUF's names, its experts stacked. */
static inline void stack_all_to_gguf(struct copies *copies) {
    static const char *const kinds[][2] = {{"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"}, {"down_proj", "ffn_down_exps"}};
    for (int layer = 0; layer < 6; layer++) {
        for (int k = 0; k < 3; k++) {
            char name[WEIGHTS_NAME_BYTES];
            snprintf(name, sizeof name, "blk.%d.%s.weight", layer, kinds[k][1]);
            stack_experts(copies, &kinds[k][0], 1, layer, name);
        }
    }
    rename_to_gguf(copies);
}

#endif
