/* The options of `shoal verify`, of its agents, and of the check that `shoal serve` begins with. Data only. */
#include "cmd/options_table.h"

#define AT(field) offsetof(struct options, field)
#define SECTION(title, entries) {title, entries, sizeof entries / sizeof entries[0]}

static const struct options_entry verify_entries[] = {
    {"local", NULL, OPTIONS_BOOL, AT(verify.local), "false", NULL, 0, 0, "This node alone"},
    {"hosts", NULL, OPTIONS_STR, AT(verify.hosts), NULL, "A,B,…", 0, 0, "These hosts over ssh, instead of the nodes of a Ray cluster"},
    {"ssh-command", NULL, OPTIONS_STR, AT(verify.ssh_command), "ssh", "PROGRAM", 0, 0, "Program and options in the place of ssh"},
    {"ray-address", NULL, OPTIONS_STR, AT(ray_address), NULL, "URL", 0, 0, "Ray's dashboard; $RAY_ADDRESS or http://127.0.0.1:8265 by default"},
    {"ray-ship-binary", NULL, OPTIONS_BOOL, AT(ray_ship_binary), "false", NULL, 0, 0, "Upload this program to the nodes"},
    {"nnodes", "-n", OPTIONS_INT, AT(nnodes), "0", "N", 0, 64, "How many nodes there should be: one that Ray does not have is a failure"},
    {"interface", NULL, OPTIONS_STR, AT(interface), NULL, "NAME", 0, 0, "Network interface for the links between nodes"},
    {"model", NULL, OPTIONS_STR, AT(model), NULL, "MODEL", 0, 0, "Compare this model's files, and say what the links mean for it; also the first word"},
    {"revision", NULL, OPTIONS_STR, AT(revision), NULL, "REV", 0, 0, "Branch, tag or commit on the hub"},
    {"download-dir", NULL, OPTIONS_STR, AT(download_dir), NULL, "DIR", 0, 0, "Cache of downloaded models"},
    {"tensor-parallel-size", "-tp", OPTIONS_INT, AT(verify.tp_size), "0", "N", 0, 256, "The split that is meant; without one both ways are told"},
    {"pipeline-parallel-size", "-pp", OPTIONS_INT, AT(verify.pp_size), "0", "N", 0, 256, "Likewise"},
    {"quick", NULL, OPTIONS_BOOL, AT(verify.quick), "false", NULL, 0, 0, "Only what 'shoal serve' checks before it loads"},
    {"json", NULL, OPTIONS_BOOL, AT(verify.json), "false", NULL, 0, 0, "One JSON object instead of the table"},
    {"timeout-s", NULL, OPTIONS_INT, AT(verify.timeout_s), "30", "SECONDS", 1, 3600, "How long nodes may take to answer at first"},
    {"cpu-max", NULL, OPTIONS_STR, AT(cpu_max), NULL, "ISA", 0, 0, "Best instruction set that will be used"},
    {"log-level", NULL, OPTIONS_CHOICE, AT(log_level), "warning", "debug,info,warning,error", 0, 0, "Least important messages that are shown"},
};
const struct options_section options_section_verify = SECTION("Verification", verify_entries);

static const struct options_entry npu_entries[] = {
    {"npus", NULL, OPTIONS_INT, AT(verify.npus), "0", "N", 0, 64, "NPUs of each node; 0: as many as it shows"},
    {"hccn-tool", NULL, OPTIONS_STR, AT(verify.hccn_tool), NULL, "PATH", 0, 0, "On PATH or in /usr/local/Ascend/driver/tools by default"},
    {"npu-smi", NULL, OPTIONS_STR, AT(verify.npu_smi), NULL, "PATH", 0, 0, "On PATH by default"},
    {"hccn-conf", NULL, OPTIONS_STR, AT(verify.hccn_conf), "/etc/hccn.conf", "FILE", 0, 0, "What hccn_tool's answers must agree with"},
};
const struct options_section options_section_verify_npu = SECTION("Ascend NPUs", npu_entries);

static const struct options_entry agent_entries[] = {
    {"interface", NULL, OPTIONS_STR, AT(interface), NULL, "NAME", 0, 0, "Network interface or address for the links between nodes"},
    {"cpu-max", NULL, OPTIONS_STR, AT(cpu_max), NULL, "ISA", 0, 0, "Best instruction set that will be used"},
    {"log-level", NULL, OPTIONS_CHOICE, AT(log_level), "info", "debug,info,warning,error", 0, 0, "Least important messages that are shown"},
    {"secret-stdin", NULL, OPTIONS_BOOL, AT(verify.secret_stdin), "false", NULL, 0, 0, "The launch's secret is a line on standard input"},
    {"clock-offset-ms", NULL, OPTIONS_INT, AT(verify.clock_offset_ms), "0", "MS", -1e12, 1e12, "Pretend that the clock is off by so much: for tests"},
};
const struct options_section options_section_verify_agent = SECTION("Agent (internal)", agent_entries);

static const struct options_entry launch_entries[] = {
    {"verify", NULL, OPTIONS_CHOICE, AT(verify.level), "quick", "quick,full,off", 0, 0,
     "Check nodes and links before loading; a failure stops the start ('shoal verify' shows all)"},
};
const struct options_section options_section_verify_launch = SECTION("Verification before the start", launch_entries);
