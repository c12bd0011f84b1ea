/* Which command was asked for. The only place that turns results into the process's exit status. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cmd/build_id.h"
#include "cmd/commands.h"
#include "cmd/options.h"

static const char usage[] =
    "shoal serves one large language model over several ordinary machines.\n"
    "\n"
    "usage: shoal serve MODEL [options]   serve a model with an OpenAI-compatible API\n"
    "       shoal node start|status|stop  bring Ray up on this node, look at the cluster, end it\n"
    "       shoal verify [options]        check the nodes and the links between them\n"
    "       shoal plan MODEL [options]    does it fit, and how fast can it be\n"
    "       shoal bench serve|latency|throughput   how fast: any OpenAI server, or a model without one\n"
    "       shoal help [--man]            all options (--man: the manual page's source)\n"
    "       shoal version                 version and build\n"
    "\n"
    "MODEL is a Hugging Face folder, a GGUF file, or a name on the hub such as Qwen/Qwen3-0.6B.\n"
    "'shoal COMMAND --help' lists the options.\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"serve", cmd_serve},
    {"worker", cmd_worker},
    {"node", cmd_node},
    {"bench", cmd_bench},
    {"verify", cmd_verify},
    {"verify-agent", cmd_verify_agent},
    {"plan", cmd_plan},
};

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    /* A peer or client that has gone is an error where it is written to, not a signal. */
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(command, commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    if (strcmp(command, "version") == 0 || strcmp(command, "--version") == 0) {
        printf("shoal %s\n", cmd_build_id());
        return 0;
    }
    if (strcmp(command, "help") == 0 && argc > 2 && strcmp(argv[2], "--man") == 0) {
        options_print_man();
        return 0;
    }
    if (strcmp(command, "help") == 0 || strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) {
        fputs(usage, stdout);
        if (strcmp(command, "help") == 0)
            options_print_help(OPTIONS_SERVE);
        return 0;
    }
    if (command[0] == '\0')
        fputs(usage, stderr);
    else
        fprintf(stderr, "shoal: there is no command '%s'; known are serve, node, verify, plan, bench, help and version\n", command);
    return CMD_EXIT_USAGE;
}
