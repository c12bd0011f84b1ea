/* The table and the JSON object of a plan; see plan_print.h. */
#include "cmd/plan_print.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "plan/explain.h"

/* Two digits after the point for what is small. */
static char *seconds_text(double seconds, char ret_text[16]) {
    if (seconds >= 1)
        snprintf(ret_text, 16, "%.2f s", seconds);
    else if (seconds >= 1e-3)
        snprintf(ret_text, 16, "%.1f ms", seconds * 1e3);
    else
        snprintf(ret_text, 16, "%.0f us", seconds * 1e6);
    return ret_text;
}

/* "204,800" */
static char *count_text(int64_t n, char ret_text[32]) {
    char digits[24];
    size_t len = (size_t)snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (size_t i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            ret_text[at++] = ',';
        ret_text[at++] = digits[i];
    }
    ret_text[at] = '\0';
    return ret_text;
}

static char *bytes_text(double bytes, char ret_text[16]) { return progress_bytes_text(bytes > 0 ? (uint64_t)bytes : 0, ret_text); }

/* "235.09 B", "596.0 M" */
static char *params_text(double n, char ret_text[16]) {
    snprintf(ret_text, 16, n >= 1e9 ? "%.2f B" : "%.1f M", n >= 1e9 ? n / 1e9 : n / 1e6);
    return ret_text;
}

/* "3" or "3-7" */
static char *range_text(int first, int last, char ret_text[32]) {
    snprintf(ret_text, 32, first == last ? "%d" : "%d-%d", first, last);
    return ret_text;
}

/* Weights that one token passes through. */
static double active_params(const struct plan_view *v) {
    const struct model_config *c = v->ask->config;
    double experts = 3.0 * c->n_layers * c->n_experts * c->hidden * c->moe_intermediate;
    return (double)v->whole.n_params - (c->n_experts > 0 ? experts * (1 - (double)c->n_experts_active / c->n_experts) : 0);
}

static uint64_t all_weights_bytes(const struct plan_view *v) {
    uint64_t sum = 0;
    for (int i = 0; i < v->fit->n_ranks; i++)
        sum += v->fit->ranks[i].sizes.weights_bytes;
    return sum;
}

/* " as BF16", or of a checkpoint with several formats nothing. */
static char *packed_text(const struct plan_view *v, char ret_text[32]) {
    const struct model_config *c = v->ask->config;
    bool is_gguf = v->ask->store != NULL && weights_store_gguf(v->ask->store) != NULL && !c->quantises;
    snprintf(ret_text, 32, is_gguf ? "" : " as %s", dtype_name(c->layer_dtype != c->dtype ? c->layer_dtype : v->ask->floats));
    return ret_text;
}

static void print_model(const struct plan_view *v, FILE *out) {
    const struct plan_ask *ask = v->ask;
    const struct model_config *c = ask->config;
    char all[16], active[16], plain[16], held[16], split[64], length[32], packed[32];
    fprintf(out, "%s: %s, %d layers, %s parameters", v->model, c->architecture, c->n_layers, params_text((double)v->whole.n_params, all));
    if (c->n_experts > 0)
        fprintf(out, " (%s active)", params_text(active_params(v), active));
    fprintf(out, ", %s\n", bytes_text((double)v->whole.plain_bytes, plain));
    fprintf(out, "%s: %d rank%s on %d node%s; %d sequences of up to %s tokens, %d tokens a step\n",
            plan_split_text(ask->tp_size, ask->pp_size, ask->expert_parallel, split), v->fit->n_ranks, v->fit->n_ranks > 1 ? "s" : "", ask->n_nodes,
            ask->n_nodes > 1 ? "s" : "", ask->max_seqs, count_text(ask->max_model_len, length), ask->max_step_tokens);
    fprintf(out, "The ranks hold %s, packed%s; what several of them need counts for each\n\n", bytes_text((double)all_weights_bytes(v), held),
            packed_text(v, packed));
}

static bool rows_alike(const struct plan_rank *a, const struct plan_rank *b) {
    return a->node == b->node && a->split.layer_begin == b->split.layer_begin && a->sizes.weights_bytes == b->sizes.weights_bytes &&
           a->sizes.kv_block_bytes == b->sizes.kv_block_bytes && a->buffers_bytes == b->buffers_bytes;
}

static void print_ranks(const struct plan_view *v, FILE *out) {
    const struct plan_fit *fit = v->fit;
    bool has_each = false;
    fprintf(out, "%-9s %4s  %-9s %10s %10s %10s %10s\n", "rank", "node", "layers", "weights", "KV cache", "buffers", "total");
    for (int i = 0, end; i < fit->n_ranks; i = end) {
        const struct plan_rank *rank = &fit->ranks[i];
        char ranks[32], layers[32], weights[16], kv[16], buffers[16], total[16];
        double kv_bytes = (double)rank->sizes.kv_block_bytes * (double)fit->n_blocks;
        for (end = i + 1; end < fit->n_ranks && rows_alike(rank, &fit->ranks[end]); end++)
            has_each = true;
        fprintf(out, "%-9s %4d  %-9s %10s %10s %10s %10s\n", range_text(i, end - 1, ranks), rank->node,
                range_text(rank->split.layer_begin, rank->split.layer_end - 1, layers), bytes_text((double)rank->sizes.weights_bytes, weights),
                bytes_text(kv_bytes, kv), bytes_text((double)rank->buffers_bytes, buffers),
                bytes_text((double)rank->sizes.weights_bytes + kv_bytes + (double)rank->buffers_bytes, total));
    }
    fprintf(out, "%s\n", has_each ? "(each)\n" : "");
}

static double node_total_bytes(const struct plan_fit *fit, int node) {
    double total = 0;
    for (int i = 0; i < fit->n_ranks; i++) {
        const struct plan_rank *rank = &fit->ranks[i];
        if (rank->node == node)
            total += (double)rank->sizes.weights_bytes + (double)rank->sizes.kv_block_bytes * (double)fit->n_blocks + (double)rank->buffers_bytes;
    }
    return total;
}

static bool nodes_alike(const struct plan_view *v, int a, int b) {
    const struct plan_room *x = &v->fit->rooms[a], *y = &v->fit->rooms[b];
    return x->total_bytes == y->total_bytes && x->available_bytes == y->available_bytes && x->promised_bytes == y->promised_bytes &&
           x->block_bytes == y->block_bytes;
}

static void print_nodes(const struct plan_view *v, FILE *out) {
    for (int i = 0, end; i < v->ask->n_nodes; i = end) {
        char nodes[32], used[16], total[16], usable[16];
        for (end = i + 1; end < v->ask->n_nodes && nodes_alike(v, i, end);)
            end++;
        fprintf(out, "%s %s: %s of %s that may be filled%s; memory %s\n", end - i > 1 ? "nodes" : "node", range_text(i, end - 1, nodes),
                bytes_text(node_total_bytes(v->fit, i), used), bytes_text(plan_fit_usable_bytes(v->ask, i), usable), end - i > 1 ? ", each" : "",
                bytes_text((double)v->fit->rooms[i].total_bytes, total));
    }
}

static double concurrency(const struct plan_view *v) { return (double)v->fit->n_blocks / v->fit->blocks_per_seq; }

static void print_verdict(const struct plan_view *v, FILE *out) {
    char why[PLAN_EXPLAIN_BYTES], tokens[32], length[32], blocks[32];
    if (!v->fit->fits) {
        fprintf(out, "Does not fit: %s.\n", plan_explain(v->ask, v->fit, v->smallest, why));
        return;
    }
    fprintf(out, "Fits. KV cache: %s blocks of %d tokens = %s tokens, %.2f sequences of %s tokens at once (limit: ",
            count_text(v->fit->n_blocks, blocks), v->ask->block_size, count_text(v->fit->n_blocks * v->ask->block_size, tokens), concurrency(v),
            count_text(v->ask->max_model_len, length));
    if (v->fit->tightest >= 0)
        fprintf(out, "memory of node %d)\n", v->fit->tightest);
    else
        fprintf(out, "%s)\n", v->ask->limits.n_blocks > 0 ? "--num-gpu-blocks-override" : "--max-num-seqs");
}

static void print_pace(const struct plan_view *v, FILE *out) {
    char latency[16], rate[16], context[32];
    fprintf(out, "\nDecode: bytes that one token of every sequence must read, at a context of %s tokens",
            count_text(v->loads[0].context, context));
    if (v->has_bandwidth) {
        fprintf(out, ", and the least time that takes\nwith %s/s of memory on %s", bytes_text(v->ask->nodes[0].bandwidth_bps, rate),
                v->ask->n_nodes > 1 ? "node 0" : "the node");
        if (v->ask->n_nodes > 1)
            fprintf(out, " and links of %s and %.3g Gbit/s", seconds_text(v->loads[0].link_latency_s, latency), v->loads[0].link_bps * 8 / 1e9);
    }
    fprintf(out, ":\n%5s %10s %10s", "batch", "weights", "KV cache");
    if (v->ask->config->n_experts > 0)
        fprintf(out, " %11s", "experts");
    if (v->has_bandwidth)
        fprintf(out, " %10s %10s %10s %9s", "memory", "links", "per token", "tokens/s");
    fprintf(out, "\n");
    for (int i = 0; i < v->n_loads; i++) {
        const struct plan_pace *pace = &v->paces[i];
        char weights[16], kv[16], memory[16], links[16], token[16];
        fprintf(out, "%5d %10s %10s", v->loads[i].n_seqs, bytes_text(pace->weights_bytes, weights), bytes_text(pace->kv_bytes, kv));
        if (v->ask->config->n_experts > 0)
            fprintf(out, "  %5.1f/%-4d", pace->n_experts, v->ask->config->n_experts);
        if (v->has_bandwidth)
            fprintf(out, " %10s %10s %10s %9.4g", seconds_text(pace->memory_s, memory), seconds_text(pace->links_s, links),
                    seconds_text(pace->token_s, token), v->loads[i].n_seqs / pace->token_s);
        fprintf(out, "\n");
    }
    if (!v->has_bandwidth)
        fprintf(out, "--memory-bandwidth 40GB/s (or --measure) gives the time that this takes at least\n");
    if (v->faster != NULL) {
        char split[64];
        fprintf(out, "Faster on the same nodes at batch %d: %s, %.4g tokens/s\n", v->loads[v->faster_load].n_seqs,
                plan_split_text(v->faster->tp_size, v->faster->pp_size, v->faster->expert_parallel, split),
                v->loads[v->faster_load].n_seqs / v->faster->pace.token_s);
    }
}

void cmd_plan_print(const struct plan_view *v, FILE *out) {
    print_model(v, out);
    print_ranks(v, out);
    print_nodes(v, out);
    print_verdict(v, out);
    print_pace(v, out);
}

/* --- JSON: bytes, seconds and counts as plain numbers --- */

static json_t *ranks_json(const struct plan_fit *fit) {
    json_t *list = json_array();
    for (int i = 0; i < fit->n_ranks; i++) {
        const struct plan_rank *r = &fit->ranks[i];
        json_array_append_new(list, json_pack("{s:i, s:i, s:i, s:[i, i], s:I, s:I, s:I, s:I, s:I}", "rank", i, "node", r->node, "stage",
                                              r->split.pp_rank, "layers", r->split.layer_begin, r->split.layer_end, "n_params",
                                              (json_int_t)r->sizes.n_params, "weights_bytes", (json_int_t)r->sizes.weights_bytes, "kv_block_bytes",
                                              (json_int_t)r->sizes.kv_block_bytes, "kv_bytes",
                                              (json_int_t)r->sizes.kv_block_bytes * (json_int_t)fit->n_blocks, "buffers_bytes",
                                              (json_int_t)r->buffers_bytes));
    }
    return list;
}

static json_t *nodes_json(const struct plan_view *v) {
    json_t *list = json_array();
    for (int i = 0; i < v->ask->n_nodes; i++)
        json_array_append_new(list, json_pack("{s:i, s:I, s:I, s:I, s:I, s:f}", "node", i, "memory_bytes", (json_int_t)v->fit->rooms[i].total_bytes,
                                              "available_bytes", (json_int_t)v->fit->rooms[i].available_bytes, "weights_bytes",
                                              (json_int_t)v->fit->node_weights_bytes[i], "used_bytes", (json_int_t)node_total_bytes(v->fit, i),
                                              "bandwidth_bytes_per_s", v->ask->nodes[i].bandwidth_bps));
    return list;
}

static json_t *decode_json(const struct plan_view *v) {
    json_t *list = json_array();
    for (int i = 0; i < v->n_loads; i++) {
        const struct plan_pace *p = &v->paces[i];
        json_t *item = json_pack("{s:i, s:i, s:I, s:I, s:f}", "batch", v->loads[i].n_seqs, "context", v->loads[i].context, "weights_bytes",
                                 (json_int_t)p->weights_bytes, "kv_bytes", (json_int_t)p->kv_bytes, "experts_per_layer", p->n_experts);
        if (v->has_bandwidth && item != NULL) {
            json_object_set_new(item, "memory_s", json_real(p->memory_s));
            json_object_set_new(item, "links_s", json_real(p->links_s));
            json_object_set_new(item, "token_s", json_real(p->token_s));
            json_object_set_new(item, "tokens_per_s", json_real(v->loads[i].n_seqs / p->token_s));
        }
        json_array_append_new(list, item);
    }
    return list;
}

static json_t *choice_json(const struct plan_choice *choice) {
    return choice == NULL ? json_null()
                          : json_pack("{s:i, s:i, s:b, s:i}", "tensor_parallel_size", choice->tp_size, "pipeline_parallel_size", choice->pp_size,
                                      "enable_expert_parallel", choice->expert_parallel, "nodes", choice->n_nodes);
}

int cmd_plan_print_json(const struct plan_view *v, FILE *out) {
    char why[PLAN_EXPLAIN_BYTES];
    json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:o, s:o, s:{s:I, s:i, s:I, s:f}, s:o, s:o, s:o, s:o}", "model", v->model,
                             "architecture", v->ask->config->architecture, "n_params", (json_int_t)v->whole.n_params, "n_active_params",
                             (json_int_t)active_params(v), "checkpoint_bytes", (json_int_t)v->whole.plain_bytes, "weights_bytes",
                             (json_int_t)all_weights_bytes(v), "fits", v->fit->fits, "ranks", ranks_json(v->fit), "nodes", nodes_json(v),
                             "kv_cache", "n_blocks", (json_int_t)v->fit->n_blocks, "block_size", v->ask->block_size, "n_tokens",
                             (json_int_t)v->fit->n_blocks * v->ask->block_size, "concurrency", concurrency(v), "decode", decode_json(v), "why",
                             v->fit->fits ? json_null() : json_string(plan_explain(v->ask, v->fit, v->smallest, why)), "smallest",
                             choice_json(v->smallest), "faster", choice_json(v->faster));
    int result = json == NULL ? -1 : json_dumpf(json, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (result == 0)
        fputc('\n', out);
    json_decref(json);
    return result;
}
