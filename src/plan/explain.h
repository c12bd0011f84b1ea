/* Why a split does not fit, and what would: one sentence or two, for `shoal plan` and for a refused start. Pure; any thread. */
#ifndef PLAN_EXPLAIN_H
#define PLAN_EXPLAIN_H

#include <stddef.h>

#include "plan/search.h"

enum { PLAN_EXPLAIN_BYTES = 768 };

/* For a fit that does not fit. smallest: what plan_search_smallest found, NULL for nothing. Returns ret_text. */
char *plan_explain(const struct plan_ask *ask, const struct plan_fit *fit, const struct plan_choice *smallest, char ret_text[PLAN_EXPLAIN_BYTES]);
/* "-tp 8 -pp 4 --enable-expert-parallel": the flags of a split. Returns ret_text. */
char *plan_split_text(int tp_size, int pp_size, bool expert_parallel, char ret_text[64]);

#endif
