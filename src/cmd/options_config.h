/* --config files: the part of YAML that lists flags. Private to src/cmd/options*.c. */
#ifndef CMD_OPTIONS_CONFIG_H
#define CMD_OPTIONS_CONFIG_H

#include "cmd/options_table.h"

/* Sets the options that the file names. Errors name file and line. */
int options_read_config(struct options *options, const char *path, struct err *err);

/* options.c: sets one option from text; keeps a copy of a text as long as the options live. */
int options_set(struct options *options, const struct options_entry *entry, const char *text, struct err *err);
const char *options_keep(struct options *options, const char *text);

#endif
