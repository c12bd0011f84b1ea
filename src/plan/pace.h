/*
 * The floor of the decode time: bytes that must come from memory and over links, divided by their rates. Compute, and
 * whatever else takes time, comes on top. Pure; any thread.
 *
 * A step computes one token of each sequence in it. Its stages follow one another; inside a stage all nodes read at once,
 * and the ranks of a node share its bandwidth. With several stages as many groups of sequences are under way, so that no
 * stage stands idle where there are enough sequences.
 */
#ifndef PLAN_PACE_H
#define PLAN_PACE_H

#include "plan/fit.h"

struct plan_load {
    double link_latency_s, link_bps; /* one way; bytes per second in each direction of a node */
    int n_seqs;                      /* that decode at once: --batch */
    int context;                     /* tokens that each has in the KV cache */
};

struct plan_pace {
    /* All ranks together, for one token of every sequence. */
    double weights_bytes, kv_bytes;
    double n_experts; /* of one layer that are read, at batch n_seqs, expected; 0: dense */
    int n_groups;     /* steps under way at once */
    /* Seconds from one token of a sequence to its next. */
    double memory_s, links_s;
    double token_s; /* of both, or more where a node or a stage is the bottleneck of several groups; 0: the bandwidth is not known */
};

void plan_pace_compute(const struct plan_ask *ask, const struct plan_fit *fit, const struct plan_load *load, struct plan_pace *ret);

#endif
