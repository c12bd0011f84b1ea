/* Ranks, nodes and KV blocks; see fit.h. */
#include "plan/fit.h"

/* n items over `parts` parts, the first ones getting one more: the part of item i. */
static int part_of(int n, int parts, int i) {
    int each = n / parts, more = n % parts;
    return i < more * (each + 1) ? i / (each + 1) : more + (i - more * (each + 1)) / each;
}

int plan_fit_place(int tp_size, int pp_size, int n_nodes, int rank) {
    return pp_size >= n_nodes ? part_of(pp_size, n_nodes, rank / tp_size) : part_of(tp_size * pp_size, n_nodes, rank);
}

/* Ranks whose tensors have the same shapes and formats. */
static bool are_alike(const struct model_split *a, const struct model_split *b) {
    return a->layer_begin == b->layer_begin && a->layer_end == b->layer_end && a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads &&
           a->ffn_len == b->ffn_len && a->moe_ffn_len == b->moe_ffn_len && a->n_experts == b->n_experts && a->vocab_len == b->vocab_len;
}

static int rank_compute(const struct plan_ask *ask, struct plan_fit *fit, int number, struct err *err) {
    struct plan_rank *rank = &fit->ranks[number];
    const int *layers = ask->layers_per_stage[0] > 0 ? ask->layers_per_stage : NULL;
    if (model_split_compute(ask->config, ask->tp_size, ask->pp_size, ask->expert_parallel, layers, number, &rank->split, err) != 0)
        return -1;
    rank->node = ask->node_of_rank != NULL ? ask->node_of_rank[number] : plan_fit_place(ask->tp_size, ask->pp_size, ask->n_nodes, number);
    for (int i = number - 1; i >= 0 && fit->ranks[i].split.pp_rank == rank->split.pp_rank; i--) {
        if (are_alike(&fit->ranks[i].split, &rank->split)) {
            rank->sizes = fit->ranks[i].sizes;
            rank->buffers_bytes = fit->ranks[i].buffers_bytes;
            return 0;
        }
    }
    struct model_opts opts = {.kv_dtype = ask->kv_dtype,
                              .block_size = ask->block_size,
                              .max_step_tokens = ask->max_step_tokens,
                              .max_step_seqs = ask->max_seqs,
                              .max_context = ask->max_model_len};
    if (model_sizes_compute(ask->config, &rank->split, &opts, ask->n_threads, ask->store, ask->floats, &rank->sizes, err) != 0)
        return -1;
    rank->buffers_bytes = rank->sizes.buffers_bytes;
    if (ask->pp_size > 1)
        rank->buffers_bytes += (uint64_t)ask->max_step_tokens * (uint64_t)ask->config->hidden * sizeof(float);
    if (rank->split.has_head)
        rank->buffers_bytes += (uint64_t)ask->max_seqs * (uint64_t)rank->split.vocab_len * sizeof(float);
    return 0;
}

static void fill_rooms(const struct plan_ask *ask, struct plan_fit *fit) {
    for (int i = 0; i < ask->n_nodes; i++)
        fit->rooms[i] = (struct plan_room){.total_bytes = ask->nodes[i].total_bytes, .available_bytes = ask->nodes[i].available_bytes};
    for (int i = 0; i < fit->n_ranks; i++) {
        const struct plan_rank *rank = &fit->ranks[i];
        struct plan_room *room = &fit->rooms[rank->node];
        fit->node_weights_bytes[rank->node] += rank->sizes.weights_bytes;
        room->promised_bytes += rank->sizes.weights_bytes + rank->sizes.buffers_bytes;
        room->block_bytes += rank->sizes.kv_block_bytes;
    }
}

static bool has_given_cache(const struct plan_ask *ask) { return ask->limits.n_blocks > 0 || ask->limits.cache_bytes > 0; }

double plan_fit_usable_bytes(const struct plan_ask *ask, int node) {
    const struct plan_node *memory = &ask->nodes[node];
    return (double)memory->available_bytes - (has_given_cache(ask) ? 0 : (1 - ask->limits.share) * (double)memory->total_bytes);
}

int plan_fit_compute(const struct plan_ask *ask, struct plan_fit *ret, struct err *err) {
    *ret = (struct plan_fit){.n_ranks = ask->tp_size * ask->pp_size, .tightest = -1, .overfull = -1};
    if (ret->n_ranks > COMM_MAX_RANKS)
        return err_set(err, ERR_INVALID, "%d × %d ranks were asked for; at most %d are possible", ask->tp_size, ask->pp_size, COMM_MAX_RANKS);
    if (ask->n_nodes < 1 || ask->n_nodes > COMM_MAX_NODES || ask->n_nodes > ret->n_ranks)
        return err_set(err, ERR_INVALID, "%d ranks cannot be on %d nodes; 1 to %d are possible", ret->n_ranks, ask->n_nodes,
                       ret->n_ranks < COMM_MAX_NODES ? ret->n_ranks : COMM_MAX_NODES);
    for (int i = 0; i < ret->n_ranks; i++)
        if (rank_compute(ask, ret, i, err) != 0)
            return -1;
    fill_rooms(ask, ret);
    ret->blocks_per_seq = (ask->max_model_len + ask->block_size - 1) / ask->block_size;
    ret->n_blocks = plan_kv_blocks(ret->rooms, ask->n_nodes, &ask->limits, (int64_t)ret->blocks_per_seq * ask->max_seqs, &ret->tightest);
    double worst = 0;
    for (int i = 0; i < ask->n_nodes; i++) {
        const struct plan_room *room = &ret->rooms[i];
        double needed = (double)room->promised_bytes, usable = plan_fit_usable_bytes(ask, i);
        if (has_given_cache(ask))
            needed += (double)ret->n_blocks * (double)room->block_bytes;
        if (needed > usable && needed - usable > worst) {
            worst = needed - usable;
            ret->overfull = i;
        }
    }
    ret->fits = ret->overfull < 0 && ret->n_blocks >= ret->blocks_per_seq;
    return 0;
}

bool plan_fit_may_start(const struct plan_ask *ask, const struct plan_fit *fit) {
    bool is_given = has_given_cache(ask);
    for (int i = 0; i < ask->n_nodes; i++) {
        const struct plan_room *room = &fit->rooms[i];
        double blocks = is_given ? (double)fit->n_blocks : fit->blocks_per_seq;
        double needed = (double)fit->node_weights_bytes[i] + blocks * (double)room->block_bytes;
        if (needed > (is_given ? (double)room->total_bytes : plan_fit_usable_bytes(ask, i)))
            return false;
    }
    return true;
}
