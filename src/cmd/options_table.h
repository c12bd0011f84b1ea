/* The one table of options, from which parsing, help and the manual page come. Private to src/cmd/options*.c. */
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

enum options_group { GROUP_MODEL, GROUP_SERVER, GROUP_SCHEDULER, GROUP_PARALLEL, GROUP_COMPUTE, GROUP_WORKER, GROUP_COUNT };

struct options_entry {
    const char *name;       /* without dashes */
    const char *alias;      /* "-tp", a second long name such as "--device-memory-utilization", or NULL */
    enum options_kind kind;
    enum options_group group;
    size_t offset;          /* of the field in struct options */
    const char *fallback;   /* the default, as it would be typed; NULL: nothing */
    const char *argument;   /* how help calls the argument, or the choices "a,b,c" */
    double min, max;        /* of numbers */
    const char *help;       /* one sentence */
};

extern const struct options_entry options_table[];
extern const int options_table_len;
extern const char *const options_group_titles[GROUP_COUNT];

/* vLLM's flags that mean nothing here: accepted with a line of warning. n_words: 0, 1, or -1 for one or more. */
struct options_foreign {
    const char *name;
    int n_words;
    const char *refusal; /* not NULL: an error instead, since ignoring it would change results */
};
extern const struct options_foreign options_foreign[];
extern const int options_foreign_len;

const struct options_entry *options_find(const char *name, size_t len);

#endif
