/* The options of `shoal node start`, `node status` and `node stop`. Data. */
#include <stddef.h>

#include "cmd/options_table.h"

#define AT(field) offsetof(struct options, field)
#define SECTION(title, entries) {title, entries, sizeof entries / sizeof entries[0]}

static const struct options_entry start_entries[] = {
    {"head", NULL, OPTIONS_BOOL, AT(node.head), "false", NULL, 0, 0, "This node is the head, which the others join"},
    {"address", NULL, OPTIONS_STR, AT(node.address), NULL, "HEAD:PORT", 0, 0, "The head to join, like 10.0.0.1:6379"},
    {"interface", NULL, OPTIONS_STR, AT(interface), NULL, "NAME", 0, 0, "Network interface or address of this node; default: the route to the other nodes"},
    {"port", NULL, OPTIONS_INT, AT(node.port), "6379", "PORT", 1, 65535, "Ray's port on the head"},
    {"dashboard-host", NULL, OPTIONS_STR, AT(node.dashboard_host), "0.0.0.0", "ADDRESS", 0, 0, "Where the head's dashboard listens, through which shoal asks Ray"},
    {"dashboard-port", NULL, OPTIONS_INT, AT(node.dashboard_port), "8265", "PORT", 1, 65535, "Port of the head's dashboard"},
    {"num-cpus", NULL, OPTIONS_INT, AT(node.num_cpus), "0", "N", 0, 65536, "CPUs that Ray may hand out; 0: those that this process may use (affinity, cgroup)"},
    {"npus", NULL, OPTIONS_INT, AT(node.npus), "-1", "N", -1, 64, "Ascend NPUs that Ray may hand out; -1: all of /dev/davinci*"},
    {"memory", NULL, OPTIONS_BYTES, AT(node.memory), "0", "BYTES", 0, 1e18, "Memory that Ray may hand out; 0: what is available"},
    {"object-store-memory", NULL, OPTIONS_BYTES, AT(node.object_store_memory), "128MiB", "BYTES", 80e6, 1e15, "Memory of Ray's object store, which shoal does not use"},
    {"temp-dir", NULL, OPTIONS_STR, AT(node.temp_dir), NULL, "DIR", 0, 0, "Ray's folder for logs and sockets"},
    {"timeout", NULL, OPTIONS_INT, AT(node.timeout_s), "120", "SECONDS", 5, 3600, "Until the node must be up"},
    {"block", NULL, OPTIONS_BOOL, AT(node.block), "false", NULL, 0, 0, "Stay in the foreground, end when Ray ends, and stop Ray on SIGTERM: for containers and systemd"},
    {"dry-run", NULL, OPTIONS_BOOL, AT(node.dry_run), "false", NULL, 0, 0, "Print the environment and the command, and run nothing"},
};
const struct options_section options_section_node_start = SECTION("Start", start_entries);

static const struct options_entry ray_entries[] = {
    {"ray-venv", NULL, OPTIONS_STR, AT(node.ray_venv), NULL, "DIR", 0, 0, "Virtual environment with Ray; default: SHOAL_RAY_VENV, else PATH, else ~/.local/share/shoal/ray"},
    {"install-ray", NULL, OPTIONS_BOOL, AT(node.install_ray), "false", NULL, 0, 0, "Install ray[default] from PyPI into --ray-venv first, unless it is there"},
    {"ray-version", NULL, OPTIONS_STR, AT(node.ray_version), "2.60.0", "VERSION", 0, 0, "Which Ray --install-ray installs; all nodes need the same"},
};
const struct options_section options_section_node_ray = SECTION("Ray", ray_entries);

static const struct options_entry status_entries[] = {
    {"ray-address", NULL, OPTIONS_STR, AT(ray_address), NULL, "URL", 0, 0, "Ray's dashboard; default: RAY_ADDRESS, else http://127.0.0.1:8265"},
    {"json", NULL, OPTIONS_BOOL, AT(node.json), "false", NULL, 0, 0, "One JSON object instead of a table"},
};
const struct options_section options_section_node_status = SECTION("Status", status_entries);

static const struct options_entry stop_entries[] = {
    {"timeout", NULL, OPTIONS_INT, AT(node.timeout_s), "20", "SECONDS", 2, 600, "Until all processes must have ended; half of it passes before they are killed"},
};
const struct options_section options_section_node_stop = SECTION("Stop", stop_entries);

static const struct options_entry log_entries[] = {
    {"log-level", NULL, OPTIONS_CHOICE, AT(log_level), "info", "debug,info,warning,error", 0, 0, "Lowest level that is logged"},
};
const struct options_section options_section_node_log = SECTION("Log", log_entries);
