/* Counts of the engine and the line in the log; see engine.h. The engine's thread counts, others read what it publishes once a turn. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_state.h"

enum { STATS_GAP_MS = 10000 };

void engine_count_step(struct engine *engine, const struct sched_plan *plan) {
    struct engine_stats *now = &engine->now;
    int bucket = 0;
    while (bucket < ENGINE_N_STEP_BOUNDS && plan->n_tokens > engine_step_bound(bucket))
        bucket++;
    now->step_tokens_counts[bucket]++;
    now->step_tokens += (uint64_t)plan->n_tokens;
    now->steps++;
    for (int i = 0; i < plan->n_entries; i++) {
        const struct sched_entry *entry = &plan->entries[i];
        int left = entry->seq->n_prompt - entry->position, n = left < entry->n_tokens ? left : entry->n_tokens;
        if (entry->seq->n_preemptions > 0)
            continue; /* computed again: counted before */
        if (n > 0)
            now->prompt_tokens += (uint64_t)n;
        if (entry->fresh)
            now->prompt_tokens += (uint64_t)entry->position; /* vLLM counts cached tokens of a prompt too */
    }
}

void engine_publish_stats(struct engine *engine) {
    struct engine_stats *now = &engine->now;
    now->n_running = sched_n_running(engine->sched);
    now->n_waiting = sched_n_waiting(engine->sched);
    now->kv_usage = 1 - (double)sched_n_free_blocks(engine->sched) / engine->opts.sched.n_blocks;
    now->preemptions = sched_n_preemptions(engine->sched);
    sched_cache_counts(engine->sched, &now->prefix_queries, &now->prefix_hits);
    now->driver_seconds_sum = (double)clock_thread_ns() * 1e-9;
    pthread_mutex_lock(&engine->lock);
    engine->stats = *now;
    pthread_mutex_unlock(&engine->lock);
}

void engine_log_stats(struct engine *engine) {
    const struct engine_stats *now = &engine->now;
    int64_t now_ms = clock_mono_ms(), gap_ms = now_ms - engine->logged_ms;
    if (!engine->opts.log_stats || gap_ms < STATS_GAP_MS)
        return;
    double prompt = (double)(now->prompt_tokens - engine->logged.prompt_tokens);
    double generation = (double)(now->generation_tokens - engine->logged.generation_tokens);
    double queries = (double)(now->prefix_queries - engine->logged.prefix_queries);
    double hits = (double)(now->prefix_hits - engine->logged.prefix_hits);
    engine->logged_ms = now_ms;
    if (queries > 0) /* as long as nobody asks, the last rate holds */
        engine->logged_hit_rate = hits / queries;
    engine->logged = *now;
    if (prompt + generation == 0 && now->n_running + now->n_waiting == 0)
        return;
    log_info("Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: %d reqs, Waiting: %d reqs, "
             "KV cache usage: %.1f%%, Prefix cache hit rate: %.1f%%",
             prompt * 1000 / (double)gap_ms, generation * 1000 / (double)gap_ms, now->n_running, now->n_waiting, now->kv_usage * 100,
             engine->logged_hit_rate * 100);
}

void engine_stats_read(struct engine *engine, struct engine_stats *ret) {
    pthread_mutex_lock(&engine->lock);
    *ret = engine->stats;
    pthread_mutex_unlock(&engine->lock);
    if (engine->opts.n_dropped != NULL)
        ret->dropped_connections = engine->opts.n_dropped(engine->opts.dropped_ctx);
}
