/* From a launch's options to a plan of it; see plan_launch.h. */
#include "cmd/plan_launch.h"

#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "exec/settings.h"
#include "plan/explain.h"
#include "plan/search.h"

void cmd_plan_ask(const struct cmd_launch *l, int n_nodes, struct plan_ask *ret) {
    const struct options *o = l->options;
    int n_ranks = (int)(o->tensor_parallel_size * o->pipeline_parallel_size), per_node = (n_ranks + n_nodes - 1) / n_nodes;
    *ret = (struct plan_ask){.config = &l->files.config,
                             .store = strcmp(o->load_format, "dummy") == 0 ? NULL : l->files.store,
                             .floats = exec_dummy_dtype(o->dtype, l->files.config.dtype),
                             .tp_size = (int)o->tensor_parallel_size,
                             .pp_size = (int)o->pipeline_parallel_size,
                             .expert_parallel = o->enable_expert_parallel,
                             .kv_dtype = exec_kv_dtype(o->dtype, o->kv_cache_dtype),
                             .block_size = (int)o->block_size,
                             .max_model_len = l->max_model_len,
                             .max_seqs = l->max_seqs,
                             .max_step_tokens = l->max_step_tokens,
                             .n_threads = o->threads > 0 ? (int)o->threads : host_cpus() > per_node ? host_cpus() / per_node : 1,
                             .limits = {.n_blocks = o->num_gpu_blocks_override,
                                        .cache_bytes = o->kv_cache_memory_bytes,
                                        .share = o->gpu_memory_utilization},
                             .n_nodes = n_nodes};
    if (strcmp(o->load_format, "dummy") != 0 && ret->store == NULL)
        ret->floats = l->files.config.dtype; /* --dtype is no word on a checkpoint's weights */
    memcpy(ret->layers_per_stage, l->layers_per_stage, sizeof ret->layers_per_stage);
}

int cmd_plan_check(const struct cmd_launch *l, const struct plan_node *nodes, int n_nodes, const int *node_of_rank, struct err *err) {
    struct plan_ask ask;
    struct plan_choice smallest;
    char why[PLAN_EXPLAIN_BYTES];
    struct plan_fit *fit = malloc(sizeof *fit);
    if (fit == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a plan");
    cmd_plan_ask(l, n_nodes, &ask);
    memcpy(ask.nodes, nodes, (size_t)n_nodes * sizeof ask.nodes[0]);
    for (int i = 0; i < n_nodes; i++)
        if (ask.nodes[i].total_bytes == 0) /* the node could not tell */
            ask.nodes[i].total_bytes = ask.nodes[i].available_bytes = INT64_MAX;
    ask.node_of_rank = node_of_rank;
    int result = plan_fit_compute(&ask, fit, err);
    if (result == 0 && !plan_fit_may_start(&ask, fit)) {
        bool found = plan_search_smallest(&ask, &smallest);
        result = err_set(err, ERR_LIMIT, "the model does not fit: %s. 'shoal plan' shows the whole of it",
                         plan_explain(&ask, fit, found ? &smallest : NULL, why));
    }
    free(fit);
    return result;
}
