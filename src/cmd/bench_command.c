/* `shoal bench`: which of the three it is, and what they share; see bench_commands.h. Main thread. */
#include "cmd/bench_commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "cmd/commands.h"
#include "cmd/stop_signal.h"

struct bench_prompts_opts cmd_bench_prompts_opts(const struct options *o) {
    return (struct bench_prompts_opts){.n = (int)o->bench.num_prompts,
                                       .seed = o->seed,
                                       .input_len = (int)o->bench.input_len,
                                       .output_len = (int)o->bench.output_len,
                                       .prefix_len = (int)o->bench.random_prefix_len,
                                       .range_ratio = o->bench.random_range_ratio,
                                       .path = o->bench.dataset_path,
                                       .file_output_len = (int)o->bench.custom_output_len,
                                       .keep_order = o->bench.disable_shuffle,
                                       .never_repeat = o->bench.no_oversample};
}

int cmd_bench_save(const char *path, const json_t *object, struct err *err) {
    const char *slash = strrchr(path, '/');
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    char *folder = slash != NULL ? strndup(path, (size_t)(slash - path)) : NULL;
    int result = text == NULL || (slash != NULL && folder == NULL) ? err_set(err, ERR_NOMEM, "no memory for the results") : 0;
    if (result == 0 && folder != NULL && *folder != '\0')
        result = file_make_dirs(folder, err);
    if (result == 0)
        result = file_write_atomic(path, text, strlen(text), 0644, err);
    free(folder);
    free(text);
    return result;
}

static const struct {
    const char *name, *summary;
    enum options_command command;
    int (*run)(const struct options *options);
} benches[] = {
    {"serve", "load on an OpenAI server: throughput and latencies", OPTIONS_BENCH_SERVE, cmd_bench_serve},
    {"latency", "how long one batch takes, without a server", OPTIONS_BENCH_LATENCY, cmd_bench_latency},
    {"throughput", "how much is possible at once, without a server", OPTIONS_BENCH_THROUGHPUT, cmd_bench_throughput},
};
enum { N_BENCHES = sizeof benches / sizeof benches[0] };

static void print_usage(FILE *out) {
    for (int i = 0; i < N_BENCHES; i++)
        fprintf(out, "%s shoal bench %-10s %s\n", i == 0 ? "usage:" : "      ", benches[i].name, benches[i].summary);
    fputs("'shoal bench NAME --help' lists the options.\n", out);
}

static bool is_help(const char *word) { return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0; }

static int run_bench(int which, int argc, char **argv) {
    struct options options;
    struct err err;
    if (argc > 0 && is_help(argv[0])) {
        options_print_help(benches[which].command);
        return 0;
    }
    if (options_parse(benches[which].command, argc, argv, &options, &err) != 0) {
        fprintf(stderr, "shoal bench %s: %s\n", benches[which].name, err.msg);
        return CMD_EXIT_USAGE;
    }
    enum log_level level = LOG_INFO;
    if (options.log_level != NULL)
        log_level_parse(options.log_level, &level);
    log_setup(level, "bench");
    stop_signal_catch();
    int status = benches[which].run(&options);
    options_finish(&options);
    return status;
}

int cmd_bench(int argc, char **argv) {
    for (int i = 0; argc > 0 && i < N_BENCHES; i++)
        if (strcmp(argv[0], benches[i].name) == 0)
            return run_bench(i, argc - 1, argv + 1);
    bool asked = argc > 0 && is_help(argv[0]);
    print_usage(asked ? stdout : stderr);
    return asked ? 0 : CMD_EXIT_USAGE;
}
