/* The options of `shoal plan` beyond those of `serve`. Data. */
#include <stddef.h>

#include "cmd/options_table.h"

#define AT(field) offsetof(struct options, field)

static const struct options_entry plan_entries[] = {
    {"nodes", NULL, OPTIONS_INT, AT(nnodes), NULL, "N", 0, 64, "Number of machines, as --nnodes; 0: one for each size of --memory-per-node"},
    {"memory-per-node", NULL, OPTIONS_STR, AT(plan.memory_per_node), NULL, "BYTES,…", 0, 0, "Memory of each node, such as 128GiB or 128GiB,64GiB; default: as this machine has available"},
    {"memory-bandwidth", NULL, OPTIONS_STR, AT(plan.memory_bandwidth), NULL, "RATE,…", 0, 0, "What each node reads from memory, such as 40GB/s"},
    {"measure", NULL, OPTIONS_BOOL, AT(plan.measure), "false", NULL, 0, 0, "Measure this machine's memory bandwidth and take it for all nodes"},
    {"link-latency", NULL, OPTIONS_STR, AT(plan.link_latency), "50us", "TIME", 0, 0, "One way between two nodes, with all software on the way"},
    {"link-rate", NULL, OPTIONS_STR, AT(plan.link_rate), "10Gbit", "RATE", 0, 0, "Of a node's link in each direction, such as 10Gbit or 1.2GB/s"},
    {"batch", NULL, OPTIONS_INT, AT(plan.batch), "0", "N", 0, 1024, "Sequences that decode at once; 0: --max-num-seqs, or as many as the KV cache holds"},
    {"context", NULL, OPTIONS_INT, AT(plan.context), "1024", "N", 0, 1 << 24, "Tokens that each of them has in the KV cache; at most --max-model-len"},
    {"json", NULL, OPTIONS_BOOL, AT(plan.json), "false", NULL, 0, 0, "One JSON object instead of a table"},
};
const struct options_section options_section_plan = {"Plan", plan_entries, sizeof plan_entries / sizeof plan_entries[0]};
