/*
 * `shoal worker`: one node's ranks. Started by the driver's launcher or by Ray, never typed by a user; `shoal serve
 * --headless` on further nodes ends here too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cluster/cluster.h"
#include "cmd/build_id.h"
#include "cmd/commands.h"
#include "cmd/options.h"
#include "cmd/worker_run.h"
#include "exec/worker.h"
#include "http/client.h"
#include "kernels/dispatch.h"
#include "verify/agent.h"

enum { DRIVER_TIMEOUT_MS = 10000 };

/* Joins, and answers questions until something else comes. *ret_fd is then the caller's to close. */
static int join_and_answer(const struct cluster_join_opts *join, const char *cpu_max, int64_t clock_offset_ms, int *ret_fd,
                           struct net_iface *ret_iface, struct err *err) {
    enum kernels_isa isa = kernels_isa_detect();
    if (cpu_max != NULL && kernels_isa_parse(cpu_max, &isa, err) != 0)
        return -1;
    isa = kernels_setup(isa);
    int fd;
    struct net_iface iface;
    if (http_client_setup(err) != 0 || cluster_join(join, &fd, &iface, err) != 0)
        return -1;
    struct verify_agent_opts agent = {.fd = fd,
                                      .listen_host = iface.host,
                                      .secret = join->secret,
                                      .cpu_level = kernels_isa_name(isa),
                                      .driver_timeout_ms = DRIVER_TIMEOUT_MS,
                                      .clock_offset_ms = clock_offset_ms};
    log_info("Joined the driver at %s:%u from %s (interface %s); kernels: %s", join->driver_host, join->driver_port, iface.host, iface.name,
             kernels_isa_name(isa));
    if (verify_agent_serve(&agent, err) != 0) {
        close(fd);
        return -1;
    }
    *ret_fd = fd;
    *ret_iface = iface;
    return 0;
}

int cmd_worker_run(const struct cluster_join_opts *join, const char *cpu_max, struct err *err) {
    int fd;
    struct net_iface iface;
    if (join_and_answer(join, cpu_max, 0, &fd, &iface, err) != 0)
        return -1;
    struct exec_worker_opts opts = {.fd = fd, .listen_host = iface.host, .secret = join->secret, .driver_timeout_ms = DRIVER_TIMEOUT_MS};
    int result = exec_worker_run(&opts, err);
    close(fd);
    return result;
}

/* "HOST:PORT", "[IPv6]:PORT". */
static int parse_driver(const char *text, char *ret_host, size_t host_bytes, uint16_t *ret_port, struct err *err) {
    const char *colon = text == NULL ? NULL : strrchr(text, ':');
    char *end = NULL;
    long port = colon == NULL ? 0 : strtol(colon + 1, &end, 10);
    if (colon == NULL || port < 1 || port > 65535 || *end != '\0' || (size_t)(colon - text) >= host_bytes)
        return err_set(err, ERR_INVALID, "--driver should be HOST:PORT, but is '%s'", text == NULL ? "" : text);
    const char *host = text;
    size_t len = (size_t)(colon - text);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    }
    memcpy(ret_host, host, len);
    ret_host[len] = '\0';
    *ret_port = (uint16_t)port;
    return 0;
}

/* One line of standard input: how ssh hands it over. */
static int read_secret_line(struct net_secret *ret, struct err *err) {
    char line[2 * NET_SECRET_BYTES + 2] = "";
    if (fgets(line, sizeof line, stdin) == NULL)
        return err_set(err, ERR_INVALID, "there is no secret on standard input");
    line[strcspn(line, "\r\n")] = '\0';
    return net_secret_parse(line, ret, err);
}

int cmd_agent_run(const struct options *options, struct err *err) {
    char host[NET_ADDR_BYTES];
    struct cluster_join_opts join = {
        .driver_host = host, .slot = (int)options->slot, .interface = options->interface, .build = cmd_build_id()};
    const char *secret = getenv("SHOAL_LAUNCH_SECRET");
    if (!options->verify.secret_stdin && secret == NULL)
        return err_set(err, ERR_INVALID, "SHOAL_LAUNCH_SECRET is not set: agents are started by 'shoal verify', not by hand");
    if (parse_driver(options->driver, host, sizeof host, &join.driver_port, err) != 0 ||
        (options->verify.secret_stdin ? read_secret_line(&join.secret, err) : net_secret_parse(secret, &join.secret, err)) != 0)
        return -1;
    int fd;
    struct net_iface iface;
    if (join_and_answer(&join, options->cpu_max, options->verify.clock_offset_ms, &fd, &iface, err) != 0)
        return -1;
    close(fd);
    return 0;
}

static int worker_command(const struct options *options, struct err *err) {
    char host[NET_ADDR_BYTES];
    struct cluster_join_opts join = {.driver_host = host,
                                     .slot = (int)options->slot,
                                     .interface = options->interface,
                                     .build = cmd_build_id(),
                                     .timeout_ms = (int)options->distributed_timeout_s * 1000};
    const char *secret = getenv("SHOAL_LAUNCH_SECRET");
    if (secret == NULL)
        return err_set(err, ERR_INVALID, "SHOAL_LAUNCH_SECRET is not set: workers are started by 'shoal serve', not by hand");
    if (parse_driver(options->driver, host, sizeof host, &join.driver_port, err) != 0 || net_secret_parse(secret, &join.secret, err) != 0)
        return -1;
    return cmd_worker_run(&join, options->cpu_max, err);
}

int cmd_worker(int argc, char **argv) {
    struct options options;
    struct err err;
    if (options_parse(OPTIONS_WORKER, argc, argv, &options, &err) != 0) {
        fprintf(stderr, "shoal worker: %s\n", err.msg);
        return CMD_EXIT_USAGE;
    }
    char tag[32];
    enum log_level level = LOG_INFO;
    snprintf(tag, sizeof tag, "worker %d", (int)options.slot);
    log_level_parse(options.log_level, &level);
    log_setup(level, tag);
    int result = worker_command(&options, &err);
    if (result != 0)
        log_error("%s", err.msg);
    options_finish(&options);
    return result == 0 ? 0 : CMD_EXIT_FAILURE;
}
