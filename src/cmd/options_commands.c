/* The commands, each with its sections of options. Data, and the checks that concern several options. */
#include <string.h>

#include "cmd/options_table.h"

static int check_worker(const struct options *options, struct err *err) {
    return options->driver != NULL ? 0 : err_set(err, ERR_INVALID, "--driver is missing: workers are started by 'shoal serve'");
}

static int check_serve(const struct options *options, struct err *err) {
    if (options->model == NULL && !options->headless)
        return err_set(err, ERR_INVALID, "which model? usage: shoal serve MODEL [options]");
    if ((options->ssl_keyfile == NULL) != (options->ssl_certfile == NULL))
        return err_set(err, ERR_INVALID, "--ssl-keyfile and --ssl-certfile belong together");
    if (options->node_rank > 0 && options->node_rank >= options->nnodes)
        return err_set(err, ERR_INVALID, "--node-rank %d of --nnodes %d does not exist", (int)options->node_rank, (int)options->nnodes);
    if (options->nnodes > 1 && options->distributed_executor_backend != NULL && strcmp(options->distributed_executor_backend, "ray") == 0 &&
        options->node_rank > 0)
        return err_set(err, ERR_INVALID, "--node-rank is for launches without Ray; with Ray 'shoal serve' runs on one node only");
    return 0;
}

static int check_bench_offline(const struct options *options, struct err *err) {
    if (options->model == NULL)
        return err_set(err, ERR_INVALID, "which model? usage: %s", options_commands[options->command].usage);
    return options->node_rank > 0 || options->headless
               ? err_set(err, ERR_INVALID, "only machine 0 measures; the others run 'shoal serve --headless'")
               : 0;
}

static int check_node_start(const struct options *options, struct err *err) {
    if (options->node.head == (options->node.address != NULL))
        return err_set(err, ERR_INVALID, "either --head, on one node, or --address HEAD:6379, on all others");
    return 0;
}

static int check_verify(const struct options *options, struct err *err) {
    if (options->verify.local && options->verify.hosts != NULL)
        return err_set(err, ERR_INVALID, "--local and --hosts exclude each other");
    return 0;
}

static int check_plan(const struct options *options, struct err *err) {
    if (options->plan.measure && options->plan.memory_bandwidth != NULL)
        return err_set(err, ERR_INVALID, "--measure and --memory-bandwidth exclude each other");
    return options->model != NULL ? 0 : err_set(err, ERR_INVALID, "which model? usage: %s", options_commands[OPTIONS_PLAN].usage);
}

const struct options_command_def options_commands[OPTIONS_COMMAND_COUNT] = {
    [OPTIONS_SERVE] = {"serve", "shoal serve MODEL [options]", "Serves MODEL with an OpenAI-compatible API.", true, true,
                       {&options_section_model, &options_section_server, &options_section_scheduler, &options_section_parallel,
                        &options_section_compute, &options_section_verify_launch},
                       check_serve},
    [OPTIONS_WORKER] = {"worker", "shoal worker --driver HOST:PORT --slot N   (started by shoal, not by hand)", "Runs the ranks of one node.",
                        false, false,
                        {&options_section_worker, &options_section_server, &options_section_parallel, &options_section_compute},
                        check_worker},
    [OPTIONS_NODE_START] = {"node start", "shoal node start --head | --address HEAD:6379  [options] [-- arguments of ray start]",
                            "Starts Ray on this node, with what the node has, and waits until the cluster has it.", false, false,
                            {&options_section_node_start, &options_section_node_ray, &options_section_node_log}, check_node_start},
    [OPTIONS_NODE_STATUS] = {"node status", "shoal node status [options]",
                             "Shows the cluster's nodes, their devices and what shoal holds of them. Exit status 0: none is lost.", false, false,
                             {&options_section_node_status, &options_section_node_log}, NULL},
    [OPTIONS_NODE_STOP] = {"node stop", "shoal node stop [options]", "Ends Ray on this node, and on no other.", false, false,
                           {&options_section_node_stop, &options_section_node_log}, NULL},
    [OPTIONS_BENCH_SERVE] = {"bench serve", "shoal bench serve [--model NAME] [--base-url URL] [options]",
                             "Puts load on an OpenAI server and prints its throughput and latencies. $OPENAI_API_KEY is its key.", true, false,
                             {&options_section_bench_server, &options_section_bench_prompts, &options_section_bench_results}, NULL},
    [OPTIONS_BENCH_LATENCY] = {"bench latency", "shoal bench latency MODEL [options]", "Measures how long one batch of requests takes, without a server.",
                               true, true,
                               {&options_section_bench_latency, &options_section_model, &options_section_scheduler, &options_section_parallel,
                                &options_section_compute},
                               check_bench_offline},
    [OPTIONS_BENCH_THROUGHPUT] = {"bench throughput", "shoal bench throughput MODEL [options]",
                                  "Measures how many requests and tokens per second are possible, without a server.", true, true,
                                  {&options_section_bench_throughput, &options_section_model, &options_section_scheduler, &options_section_parallel,
                                   &options_section_compute},
                                  check_bench_offline},
    [OPTIONS_VERIFY] = {"verify", "shoal verify [MODEL] [--hosts A,B,… | --local] [options]",
                        "Checks the nodes of a Ray cluster (or hosts, over ssh) and all links between them. Exit status 0: nothing has failed.", true,
                        false, {&options_section_verify, &options_section_verify_npu}, check_verify},
    [OPTIONS_VERIFY_AGENT] = {"verify-agent", "shoal verify-agent --driver HOST:PORT --slot N   (started by shoal, not by hand)",
                              "Answers the questions of 'shoal verify' about one node.", false, false,
                              {&options_section_worker, &options_section_verify_agent}, check_worker},
    [OPTIONS_PLAN] = {"plan", "shoal plan MODEL [--nodes N] [--memory-per-node BYTES] [options of serve]",
                      "Says whether a model fits, what each rank holds and how fast it can be, from config.json alone. Exit status 0: it fits.", true, true,
                      {&options_section_plan, &options_section_model, &options_section_scheduler, &options_section_parallel, &options_section_compute,
                       &options_section_server},
                      check_plan},
};
