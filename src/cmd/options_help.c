/* `--help` and the manual page, both from the table; see options.h. */
#include <stdio.h>
#include <string.h>

#include "cmd/options_table.h"

static void print_name(const struct options_entry *entry, char *ret, size_t size_bytes) {
    int len = snprintf(ret, size_bytes, "--%s", entry->name);
    if (entry->kind == OPTIONS_BOOL)
        len += snprintf(ret + len, size_bytes - (size_t)len, ", --no-%s", entry->name);
    if (entry->alias != NULL)
        len += snprintf(ret + len, size_bytes - (size_t)len, ", %s", entry->alias);
    if (entry->kind == OPTIONS_CHOICE)
        snprintf(ret + len, size_bytes - (size_t)len, " {%s}", entry->argument);
    else if (entry->argument != NULL)
        snprintf(ret + len, size_bytes - (size_t)len, " %s%s", entry->argument, entry->kind == OPTIONS_LIST ? " …" : "");
}

void options_print_help(enum options_command command) {
    const struct options_command_def *def = &options_commands[command];
    printf("usage: %s\n\n%s\n", def->usage, def->summary);
    for (const struct options_section *const *section = def->sections; *section != NULL; section++) {
        printf("\n%s:\n", (*section)->title);
        for (int i = 0; i < (*section)->n; i++) {
            const struct options_entry *entry = &(*section)->entries[i];
            char name[160];
            print_name(entry, name, sizeof name);
            printf("  %s\n        %s", name, entry->help);
            if (entry->fallback != NULL)
                printf(" (default: %s)", entry->fallback);
            putchar('\n');
        }
    }
    puts("\n  --config FILE\n        YAML file of \"option: value\" lines, read before the command line");
}

/* Text for roff: a leading dot or quote and every dash and backslash are masked. */
static void print_roff(const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '\\')
            fputs("\\e", stdout);
        else
            putchar(*text);
    }
}

static void print_man_entry(const struct options_entry *entry) {
    char name[160];
    print_name(entry, name, sizeof name);
    fputs(".TP\n.B ", stdout);
    print_roff(name);
    putchar('\n');
    print_roff(entry->help);
    if (entry->fallback != NULL) {
        fputs(" (default: ", stdout);
        print_roff(entry->fallback);
        putchar(')');
    }
    fputs(".\n", stdout);
}

static void print_man_command(const struct options_command_def *def) {
    printf(".SH OPTIONS OF shoal %s\n", def->name);
    print_roff(def->summary);
    putchar('\n');
    for (const struct options_section *const *section = def->sections; *section != NULL; section++) {
        printf(".SS %s\n", (*section)->title);
        for (int i = 0; i < (*section)->n; i++)
            print_man_entry(&(*section)->entries[i]);
    }
}

void options_print_man(void) {
    printf(".TH SHOAL 1 \"\" \"shoal %s\" \"User Commands\"\n", SHOAL_VERSION);
    puts(".SH NAME\nshoal \\- serve one large language model over several ordinary machines\n"
         ".SH SYNOPSIS\n.B shoal serve\n.I MODEL\n.RI [ options ]\n.br\n.B shoal bench serve|latency|throughput\n.RI [ options ]\n.br\n.B shoal help\n.RB [ \\-\\-man ]\n.br\n.B shoal version\n"
         ".SH DESCRIPTION\nServes MODEL (a Hugging Face folder, a GGUF file or a hub name) with an OpenAI-compatible API, with the flags of\n"
         "vLLM, on this machine, over a Ray cluster or over machines started by hand.");
    for (int command = 0; command < OPTIONS_COMMAND_COUNT; command++)
        if (command != OPTIONS_WORKER)
            print_man_command(&options_commands[command]);
    puts(".SH ENVIRONMENT\n.TP\n.B HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, SHOAL_USE_MODELSCOPE\nwhere models are downloaded from and to.\n"
         ".TP\n.B RAY_ADDRESS, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH\nthe Ray dashboard and its token.\n"
         ".TP\n.B SHOAL_IFNAME, GLOO_SOCKET_IFNAME\nthe network interface for links between nodes.\n"
         ".TP\n.B SHOAL_LAUNCH_SECRET\nthe secret that all nodes of a launch by hand share.\n"
         ".SH EXIT STATUS\n0 after a stop on request, 1 when something failed, 2 for wrong use of the command line.");
}
