/* The three benches, and what they share. Private to src/cmd/bench_*.c. */
#ifndef CMD_BENCH_COMMANDS_H
#define CMD_BENCH_COMMANDS_H

#include "bench/prompts.h"
#include "cmd/options.h"

/* Each returns the exit status. */
int cmd_bench_serve(const struct options *options);
int cmd_bench_latency(const struct options *options);
int cmd_bench_throughput(const struct options *options);

/* The flags about prompts. Tokenizer, n_vocab and as_text are left to the caller. */
struct bench_prompts_opts cmd_bench_prompts_opts(const struct options *options);
/* Writes the object as a file of its own; a path of folders is made. */
int cmd_bench_save(const char *path, const json_t *object, struct err *err);

#endif
