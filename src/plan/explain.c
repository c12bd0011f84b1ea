/* The words for what does not fit; see explain.h. */
#include "plan/explain.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/progress.h"

struct text {
    char *at;
    size_t len, room;
};

static void __attribute__((format(printf, 2, 3))) say(struct text *text, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text->at + text->len, text->room - text->len, fmt, args);
    va_end(args);
    text->len += n < 0 ? 0 : (size_t)n;
    if (text->len >= text->room)
        text->len = text->room - 1;
}

char *plan_split_text(int tp_size, int pp_size, bool expert_parallel, char ret_text[64]) {
    snprintf(ret_text, 64, "-tp %d -pp %d%s", tp_size, pp_size, expert_parallel ? " --enable-expert-parallel" : "");
    return ret_text;
}

static void say_need(struct text *text, const struct plan_ask *ask, const struct plan_fit *fit, int node) {
    const struct plan_room *room = &fit->rooms[node];
    char weights[16], others[16], total[16], available[16], cache[16];
    uint64_t buffers = room->promised_bytes - fit->node_weights_bytes[node], needed = room->block_bytes * (uint64_t)fit->blocks_per_seq;
    int n_ranks = 0;
    for (int i = 0; i < fit->n_ranks; i++)
        n_ranks += fit->ranks[i].node == node;
    if (ask->n_nodes > 1)
        say(text, "node %d, with %d of %d ranks, ", node, n_ranks, fit->n_ranks);
    else
        say(text, "it ");
    say(text, "needs %s for weights, %s for buffers and %s for the KV cache of one sequence of %d tokens",
        progress_bytes_text(fit->node_weights_bytes[node], weights), progress_bytes_text(buffers, others), progress_bytes_text(needed, cache),
        ask->max_model_len);
    say(text, "; the node has %s, %s of it available", progress_bytes_text(room->total_bytes, total),
        progress_bytes_text(room->available_bytes, available));
    if (ask->limits.cache_bytes > 0)
        say(text, ", and --kv-cache-memory-bytes gives the cache %s", progress_bytes_text((uint64_t)ask->limits.cache_bytes, cache));
    else if (ask->limits.n_blocks == 0 && ask->limits.share < 1)
        say(text, ", and %.3g %% stay free (--gpu-memory-utilization %g)", 100 * (1 - ask->limits.share), ask->limits.share);
}

char *plan_explain(const struct plan_ask *ask, const struct plan_fit *fit, const struct plan_choice *smallest, char ret_text[PLAN_EXPLAIN_BYTES]) {
    struct text text = {.at = ret_text, .room = PLAN_EXPLAIN_BYTES};
    char split[64];
    if (fit->overfull < 0 && fit->tightest < 0) { /* no other split has more of them */
        say(&text, "%lld KV blocks of %d tokens hold less than one sequence of %d tokens, which needs %d", (long long)fit->n_blocks,
            ask->block_size, ask->max_model_len, fit->blocks_per_seq);
        return ret_text;
    }
    say_need(&text, ask, fit, fit->overfull >= 0 ? fit->overfull : fit->tightest);
    if (fit->overfull < 0 && fit->n_blocks > 0)
        say(&text, "; --max-model-len %lld would fit", (long long)fit->n_blocks * ask->block_size);
    if (smallest == NULL)
        say(&text, "; no split over up to %d nodes like this fits", COMM_MAX_NODES);
    else
        say(&text, "; the smallest split that fits on nodes like this is %s: %d rank%s on %d node%s",
            plan_split_text(smallest->tp_size, smallest->pp_size, smallest->expert_parallel, split), smallest->tp_size * smallest->pp_size,
            smallest->tp_size * smallest->pp_size > 1 ? "s" : "", smallest->n_nodes, smallest->n_nodes > 1 ? "s" : "");
    return ret_text;
}
