/*
 * How a model is split over ranks: which layers a stage has and which heads, columns, experts and vocabulary rows a
 * tensor-parallel rank has. Pure arithmetic.
 */
#ifndef MODEL_SPLIT_H
#define MODEL_SPLIT_H

#include <stdbool.h>

#include "base/err.h"
#include "model/config.h"

/* One rank's share. Ranks are numbered stage-major: rank = pp_rank · tp_size + tp_rank (vLLM's order). */
struct model_split {
    int tp_size, tp_rank, pp_size, pp_rank;
    bool expert_parallel;
    int layer_begin, layer_end;   /* of the whole model's layers */
    bool has_embedding, has_head; /* first stage, last stage */
    int head_begin, n_heads;      /* query heads */
    int kv_head_begin, n_kv_heads; /* KV heads held here; replicated when tp_size > the model's */
    int ffn_begin, ffn_len;       /* columns of the dense FFN; of each expert too unless expert_parallel */
    int moe_ffn_begin, moe_ffn_len;
    int expert_begin, n_experts;  /* experts held here (all of them, sliced, unless expert_parallel) */
    int vocab_begin, vocab_len;   /* rows of embedding and head; ranks may differ by KERNELS' panel, some may have 0 */
};

/*
 * layers_per_stage: pp_size counts that sum to the model's layers, or NULL for stages of equal bytes (the output head
 * counts as so many layers as have its bytes). Sizes that do not divide are ERR_INVALID and name those that would.
 */
int model_split_compute(const struct model_config *config, int tp_size, int pp_size, bool expert_parallel, const int *layers_per_stage,
                        int rank, struct model_split *ret, struct err *err);

#endif
