/* Verification between placement and loading; see verify_launch.h. */
#include "cmd/verify_launch.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/build_id.h"
#include "verify/verify.h"

/* One log line for each warning, and one for the sum. */
static void log_result(const struct verify_result *result) {
    for (int i = 0; i < result->findings.n; i++) {
        const struct verify_finding *item = &result->findings.items[i];
        if (item->status == VERIFY_WARN)
            log_warning("Verification: %s: %s: %s", item->node == VERIFY_ALL ? "all nodes" : result->names[item->node], item->check,
                        item->text);
    }
    log_info("Verified %d nodes in %.1f s: %d ok, %d warning(s)", result->n_nodes, result->seconds,
             verify_findings_count(&result->findings, VERIFY_OK), verify_findings_count(&result->findings, VERIFY_WARN));
}

/* The first failure, for the error; the table has all. */
static int refuse(const struct verify_result *result, struct err *err) {
    verify_result_print(result, true, stderr);
    for (int i = 0; i < result->findings.n; i++) {
        const struct verify_finding *item = &result->findings.items[i];
        if (item->status == VERIFY_FAIL)
            return err_set(err, ERR_PEER, "verification failed: %s: %s: %s ('shoal verify' shows more; --verify off starts nevertheless)",
                           item->node == VERIFY_ALL ? "all nodes" : result->names[item->node], item->check, item->text);
    }
    return err_set(err, ERR_PEER, "verification failed: too many lines");
}

int cmd_verify_launch(const struct cmd_launch *launch, struct err *err) {
    const struct options *o = launch->options;
    const char *level = o->verify.level == NULL ? "off" : o->verify.level;
    if (strcmp(level, "off") == 0)
        return 0;
    struct verify_opts opts = {.is_cancelled = launch->is_cancelled,
                               .is_quick = strcmp(level, "quick") == 0,
                               .build = cmd_build_id(),
                               .load = {.n_layers = launch->files.config.n_layers,
                                        .hidden = launch->files.config.hidden,
                                        .tp_size = (int)o->tensor_parallel_size,
                                        .pp_size = (int)o->pipeline_parallel_size}};
    opts.nodes = cluster_nodes(launch->cluster, &opts.n_nodes);
    struct verify_result result;
    int rc = verify_run(&opts, &result, err);
    if (rc == 0 && verify_findings_worst(&result.findings) == VERIFY_FAIL)
        rc = refuse(&result, err);
    else if (rc == 0 && opts.n_nodes > 1)
        log_result(&result);
    verify_result_finish(&result);
    return rc;
}
