/* Which part of a decoder each rank has; see split.h. Pure arithmetic: any thread. */
#include "model/split.h"

#include <stdio.h>
#include <string.h>

#include "kernels/matrix.h"

static int min_int(int a, int b) { return a < b ? a : b; }

/* n items over `parts` parts as evenly as whole items allow, the first ones getting one more. */
static void share(int n, int parts, int part, int *ret_begin, int *ret_len) {
    int each = n / parts, more = n % parts;
    *ret_begin = part * each + min_int(part, more);
    *ret_len = each + (part < more);
}

/*
 * FFN columns are dealt out in units: whole quant blocks, and groups of activations that share a scale where there are
 * enough of them. 0 when no unit gives every rank at least one.
 */
static int ffn_unit(int n_cols, int weight_block, int tp_size) {
    const int wanted[] = {KERNELS_GROUP, KERNELS_PANEL_ROWS, 1};
    for (int i = 0; i < 3; i++) {
        int unit = wanted[i] > weight_block ? wanted[i] : weight_block;
        if (n_cols % unit == 0 && n_cols / unit >= tp_size)
            return unit;
    }
    return 0;
}

static bool heads_fit(const struct model_config *config, int tp_size) {
    return config->n_heads % tp_size == 0 && (config->n_kv_heads % tp_size == 0 || tp_size % config->n_kv_heads == 0);
}

static bool ffn_fits(const struct model_config *config, int tp_size, bool expert_parallel) {
    if (config->n_experts == 0)
        return ffn_unit(config->intermediate, config->weight_block, tp_size) != 0;
    return expert_parallel ? tp_size <= config->n_experts : ffn_unit(config->moe_intermediate, config->weight_block, tp_size) != 0;
}

/* "1, 2, 4": the tensor-parallel sizes that this model can have. */
static void list_fitting(const struct model_config *config, bool expert_parallel, char *text, size_t text_bytes) {
    size_t len = 0;
    text[0] = '\0';
    for (int tp = 1; tp <= config->n_heads && len + 8 < text_bytes; tp++)
        if (heads_fit(config, tp) && ffn_fits(config, tp, expert_parallel))
            len += (size_t)snprintf(text + len, text_bytes - len, "%s%d", len == 0 ? "" : ", ", tp);
}

/* How many layers have as many bytes as the output head: what a decoding step reads is what it takes time for. */
static int head_layers(const struct model_config *config) {
    int64_t hidden = config->hidden, dim = config->head_dim, inner = config->intermediate;
    if (config->n_experts > 0)
        inner = (int64_t)config->n_experts * config->moe_intermediate;
    int64_t layer = hidden * (2 * config->n_heads * dim + 2 * config->n_kv_heads * dim + 3 * inner);
    int64_t layer_bytes = (int64_t)dtype_row_bytes(config->layer_dtype, (size_t)layer);
    int64_t head_bytes = (int64_t)dtype_row_bytes(config->head_dtype, (size_t)(config->n_vocab * hidden));
    return (int)((head_bytes + layer_bytes / 2) / layer_bytes);
}

/* The default: stages of equal bytes. The last one has the head too, and so fewer layers; the others differ by one at most. */
static int even_layers(const struct model_config *config, int n_stages, int stage) {
    if (n_stages == 1)
        return config->n_layers;
    int head = head_layers(config), last = (config->n_layers + head) / n_stages - head;
    last = last < 1 ? 1 : last;
    int n_others = n_stages - 1, rest = config->n_layers - last;
    return stage == n_others ? last : rest / n_others + (stage >= n_others - rest % n_others);
}

static int split_layers(const struct model_config *config, const int *layers_per_stage, struct model_split *split, struct err *err) {
    int n_stages = split->pp_size, sum = 0;
    if (n_stages > config->n_layers)
        return err_set(err, ERR_INVALID, "%d pipeline stages are more than the model's %d layers; 1 to %d are possible", n_stages,
                       config->n_layers, config->n_layers);
    for (int stage = 0; stage < n_stages; stage++) {
        int n;
        if (layers_per_stage != NULL) {
            n = layers_per_stage[stage];
            if (n < 1 || n > config->n_layers)
                return err_set(err, ERR_INVALID, "stage %d would have %d of the model's %d layers; each stage needs at least one", stage, n,
                               config->n_layers);
        } else {
            n = even_layers(config, n_stages, stage);
        }
        if (stage == split->pp_rank) {
            split->layer_begin = sum;
            split->layer_end = sum + n;
        }
        sum += n;
    }
    if (sum != config->n_layers)
        return err_set(err, ERR_INVALID, "the stages' layers sum to %d; the model has %d", sum, config->n_layers);
    return 0;
}

static int split_tensors(const struct model_config *config, struct model_split *split, struct err *err) {
    int tp = split->tp_size, rank = split->tp_rank;
    if (!heads_fit(config, tp) || !ffn_fits(config, tp, split->expert_parallel)) {
        char sizes[160];
        list_fitting(config, split->expert_parallel, sizes, sizeof sizes);
        if (!heads_fit(config, tp))
            return err_set(err, ERR_INVALID, "%d heads and %d KV heads cannot be split over %d tensor-parallel ranks; possible are %s",
                           config->n_heads, config->n_kv_heads, tp, sizes);
        if (split->expert_parallel && config->n_experts > 0)
            return err_set(err, ERR_INVALID, "%d experts are fewer than %d ranks; possible tensor-parallel sizes are %s", config->n_experts, tp,
                           sizes);
        return err_set(err, ERR_INVALID, "%d feed-forward columns in blocks of %d cannot be split over %d tensor-parallel ranks; possible are %s",
                       config->n_experts > 0 ? config->moe_intermediate : config->intermediate, config->weight_block, tp, sizes);
    }
    split->n_heads = config->n_heads / tp;
    split->head_begin = rank * split->n_heads;
    split->n_kv_heads = tp < config->n_kv_heads ? config->n_kv_heads / tp : 1;
    /* Ranks that share a KV head follow one another, as their query heads do. */
    split->kv_head_begin = (int)((int64_t)split->head_begin * config->n_kv_heads / config->n_heads);
    int unit, begin, len;
    if (config->n_experts == 0) {
        unit = ffn_unit(config->intermediate, config->weight_block, tp);
        share(config->intermediate / unit, tp, rank, &begin, &len);
        split->ffn_begin = begin * unit;
        split->ffn_len = len * unit;
    } else if (split->expert_parallel) {
        share(config->n_experts, tp, rank, &split->expert_begin, &split->n_experts);
        split->moe_ffn_len = config->moe_intermediate;
    } else {
        unit = ffn_unit(config->moe_intermediate, config->weight_block, tp);
        share(config->moe_intermediate / unit, tp, rank, &begin, &len);
        split->moe_ffn_begin = begin * unit;
        split->moe_ffn_len = len * unit;
        split->n_experts = config->n_experts;
    }
    share((config->n_vocab + KERNELS_PANEL_ROWS - 1) / KERNELS_PANEL_ROWS, tp, rank, &begin, &len);
    split->vocab_begin = min_int(begin * KERNELS_PANEL_ROWS, config->n_vocab);
    split->vocab_len = min_int((begin + len) * KERNELS_PANEL_ROWS, config->n_vocab) - split->vocab_begin;
    return 0;
}

int model_split_compute(const struct model_config *config, int tp_size, int pp_size, bool expert_parallel, const int *layers_per_stage,
                        int rank, struct model_split *ret, struct err *err) {
    if (tp_size < 1 || pp_size < 1 || rank < 0 || rank / tp_size >= pp_size)
        return err_set(err, ERR_INVALID, "there is no rank %d among %d stages of %d ranks", rank, pp_size, tp_size);
    struct model_split split = {.tp_size = tp_size,
                                .tp_rank = rank % tp_size,
                                .pp_size = pp_size,
                                .pp_rank = rank / tp_size,
                                .expert_parallel = expert_parallel};
    if (split_layers(config, layers_per_stage, &split, err) != 0 || split_tensors(config, &split, err) != 0)
        return -1;
    split.has_embedding = split.pp_rank == 0;
    split.has_head = split.pp_rank == pp_size - 1;
    *ret = split;
    return 0;
}
