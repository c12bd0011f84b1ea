/* A plan in words and as JSON. Main thread. */
#ifndef CMD_PLAN_PRINT_H
#define CMD_PLAN_PRINT_H

#include <stdio.h>

#include "plan/search.h"

enum { PLAN_MAX_LOADS = 2 };

/* All that is said. Pointers are borrowed. */
struct plan_view {
    const char *model;
    const struct plan_ask *ask;
    const struct plan_fit *fit;
    struct model_sizes whole;    /* the model on one rank */
    bool has_bandwidth;
    int n_loads;
    struct plan_load loads[PLAN_MAX_LOADS];
    struct plan_pace paces[PLAN_MAX_LOADS];
    const struct plan_choice *smallest, *faster; /* or NULL */
    int faster_load; /* which of the loads it is faster at */
};

void cmd_plan_print(const struct plan_view *view, FILE *out);
/* 0, or -1 when memory is out. */
int cmd_plan_print_json(const struct plan_view *view, FILE *out);

#endif
