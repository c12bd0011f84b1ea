/*
 * The tables of options, from which parsing, help and the manual page come: entries in sections, sections in commands.
 * Private to src/cmd/options*.c.
 */
#ifndef CMD_OPTIONS_TABLE_H
#define CMD_OPTIONS_TABLE_H

#include <stddef.h>

#include "cmd/options.h"

enum options_kind {
    OPTIONS_BOOL,   /* bool; also as --no-NAME */
    OPTIONS_INT,    /* int64_t in [min, max]; k, m, g (thousands) and K, M, G (1024s) as in vLLM */
    OPTIONS_BYTES,  /* int64_t; also with KiB, MiB, GiB, kB, MB, GB */
    OPTIONS_DOUBLE, /* double in [min, max] */
    OPTIONS_STR,    /* const char * */
    OPTIONS_CHOICE, /* const char *, one of `choices` */
    OPTIONS_LIST,   /* struct options_list: one or more words, and again */
    OPTIONS_JSON    /* json_t *, an object; also as --NAME.KEY VALUE */
};

struct options_entry {
    const char *name;       /* without dashes */
    const char *alias;      /* "-tp", a second long name such as "--device-memory-utilization", or NULL */
    enum options_kind kind;
    size_t offset;          /* of the field in struct options */
    const char *fallback;   /* the default, as it would be typed; NULL: nothing */
    const char *argument;   /* how help calls the argument, or the choices "a,b,c" */
    double min, max;        /* of numbers */
    const char *help;       /* one sentence */
};

struct options_section {
    const char *title;
    const struct options_entry *entries;
    int n;
};
extern const struct options_section options_section_model, options_section_server, options_section_scheduler, options_section_parallel,
    options_section_compute, options_section_worker, options_section_node_start, options_section_node_ray, options_section_node_status, options_section_node_stop,
    options_section_node_log, options_section_bench_server, options_section_bench_prompts, options_section_bench_results,
    options_section_bench_latency, options_section_bench_throughput, options_section_verify, options_section_verify_npu, options_section_verify_agent,
    options_section_verify_launch, options_section_plan;

enum { OPTIONS_MAX_SECTIONS = 8 };

/* One command's command line. */
struct options_command_def {
    const char *name;    /* "serve" */
    const char *usage;   /* "shoal serve MODEL [options]" */
    const char *summary; /* what it does, for help and the manual page */
    bool takes_model;    /* the first free word is the model */
    bool takes_foreign;  /* vLLM's serving flags are known, see options_foreign */
    const struct options_section *sections[OPTIONS_MAX_SECTIONS + 1]; /* NULL-terminated */
    /* What no single entry can check; or NULL. */
    int (*check)(const struct options *options, struct err *err);
};
extern const struct options_command_def options_commands[OPTIONS_COMMAND_COUNT];

/* vLLM's flags that mean nothing here: accepted with a line of warning. n_words: 0, 1, or -1 for one or more. */
struct options_foreign {
    const char *name;
    int n_words;
    const char *refusal; /* not NULL: an error instead, since ignoring it would change results */
};
extern const struct options_foreign options_foreign[];
extern const int options_foreign_len;

/* By long name, among the options of options->command. */
const struct options_entry *options_find(const struct options *options, const char *name, size_t len);

#endif
