/* The floor of the decode time; see pace.h. */
#include "plan/pace.h"

#include <math.h>

/* Share of a layer's experts that n_seqs tokens hit when each picks its own at random. */
static double experts_share(const struct model_config *config, double n_seqs) {
    if (config->n_experts == 0)
        return 0;
    return 1 - pow(1 - (double)config->n_experts_active / config->n_experts, n_seqs);
}

static double rank_weights_bytes(const struct plan_ask *ask, const struct plan_rank *rank, double n_seqs) {
    const struct model_sizes *s = &rank->sizes;
    double skipped = (double)s->experts_bytes * (1 - experts_share(ask->config, n_seqs)) + (double)s->lookup_bytes;
    return (double)s->weights_bytes - skipped;
}

static double rank_kv_bytes(const struct plan_ask *ask, const struct plan_rank *rank, double n_seqs, int context) {
    return (double)rank->sizes.kv_block_bytes / ask->block_size * n_seqs * context;
}

/* One all-reduce of n bytes over `parts` nodes: every part to every other, or a slice each and then all slices (src/comm/select.c). */
static double allreduce_s(const struct plan_load *load, int parts, double n_bytes) {
    double others = parts - 1;
    double direct = load->link_latency_s + others * n_bytes / load->link_bps;
    double scattered = 2 * load->link_latency_s + 2 * others * n_bytes / (parts * load->link_bps);
    return direct < scattered ? direct : scattered;
}

/* The all-reduces of a stage, and its hop to the next one or of the sampled tokens back to the driver. */
static double stage_links_s(const struct plan_ask *ask, const struct plan_fit *fit, const struct plan_load *load, int stage, double n_seqs) {
    const struct plan_rank *ranks = &fit->ranks[stage * ask->tp_size];
    const struct model_split *split = &ranks[0].split;
    double hidden_bytes = n_seqs * ask->config->hidden * sizeof(float), seconds = 0;
    int n_parts = 1, n_crossing = 0;
    for (int i = 1; i < ask->tp_size; i++)
        n_parts += ranks[i].node != ranks[i - 1].node;
    if (n_parts > 1)
        seconds += (2 * (split->layer_end - split->layer_begin) + split->has_embedding) * allreduce_s(load, n_parts, hidden_bytes);
    if (split->has_head)
        return seconds + (ask->n_nodes > 1 ? load->link_latency_s : 0);
    for (int i = 0; i < ask->tp_size; i++)
        n_crossing += ranks[i].node != ranks[i + ask->tp_size].node;
    return seconds + (n_crossing > 0 ? load->link_latency_s + n_crossing * hidden_bytes / load->link_bps : 0);
}

/* Reading of a stage: its slowest node; its load is added to node_s. */
static double stage_memory_s(const struct plan_ask *ask, const struct plan_fit *fit, const struct plan_load *load, int stage, double n_seqs,
                             double *node_s) {
    double of_stage[COMM_MAX_NODES] = {0}, slowest = 0;
    for (int i = stage * ask->tp_size; i < (stage + 1) * ask->tp_size; i++) {
        const struct plan_rank *rank = &fit->ranks[i];
        double bytes = rank_weights_bytes(ask, rank, n_seqs) + rank_kv_bytes(ask, rank, n_seqs, load->context);
        of_stage[rank->node] += bytes / ask->nodes[rank->node].bandwidth_bps;
    }
    for (int i = 0; i < ask->n_nodes; i++) {
        node_s[i] += of_stage[i];
        slowest = fmax(slowest, of_stage[i]);
    }
    return slowest;
}

void plan_pace_compute(const struct plan_ask *ask, const struct plan_fit *fit, const struct plan_load *load, struct plan_pace *ret) {
    struct plan_pace pace = {.n_groups = load->n_seqs < ask->pp_size ? load->n_seqs : ask->pp_size};
    double group_seqs = (double)load->n_seqs / pace.n_groups, node_s[COMM_MAX_NODES] = {0}, bottleneck_s = 0;
    bool has_bandwidth = true;
    for (int i = 0; i < fit->n_ranks; i++) {
        pace.weights_bytes += pace.n_groups * rank_weights_bytes(ask, &fit->ranks[i], group_seqs);
        pace.kv_bytes += rank_kv_bytes(ask, &fit->ranks[i], load->n_seqs, load->context);
    }
    pace.n_experts = experts_share(ask->config, group_seqs) * ask->config->n_experts;
    for (int i = 0; i < ask->n_nodes; i++)
        has_bandwidth = has_bandwidth && ask->nodes[i].bandwidth_bps > 0;
    for (int stage = 0; stage < ask->pp_size && has_bandwidth; stage++) {
        double memory_s = stage_memory_s(ask, fit, load, stage, group_seqs, node_s), links_s = stage_links_s(ask, fit, load, stage, group_seqs);
        pace.memory_s += memory_s;
        pace.links_s += links_s;
        bottleneck_s = fmax(bottleneck_s, memory_s + links_s);
    }
    for (int i = 0; i < ask->n_nodes && has_bandwidth; i++)
        bottleneck_s = fmax(bottleneck_s, node_s[i]);
    pace.token_s = fmax(pace.memory_s + pace.links_s, pace.n_groups * bottleneck_s);
    *ret = pace;
}
