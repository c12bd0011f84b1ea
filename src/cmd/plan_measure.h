/* What this machine reads from memory with all its threads. */
#ifndef CMD_PLAN_MEASURE_H
#define CMD_PLAN_MEASURE_H

#include "base/err.h"

/* Bytes per second, the best of a few passes over up to 1 GiB. About a second; wants the machine for itself. */
int cmd_plan_measure(double *ret_bps, struct err *err);

#endif
