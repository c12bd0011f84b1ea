/* Reading memory as fast as all threads can; see plan_measure.h. Main thread and a team of its own. */
#include "cmd/plan_measure.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/host.h"
#include "base/team.h"

enum { STREAMS = 4, RUN_WORDS = 8192, N_PASSES = 5, HUGE_PAGE_BYTES = 2 << 20 };
static const uint64_t MOST_BYTES = 1 << 30;

struct reading {
    struct team *team;
    uint64_t *words;
    size_t n_parts; /* of STREAMS runs each */
    uint64_t sums[TEAM_MAX_THREADS];
};

static void touch(void *arg, int thread) {
    struct reading *r = arg;
    int begin, end;
    team_share(r->team, thread, (int)r->n_parts, &begin, &end);
    memset(r->words + (size_t)begin * STREAMS * RUN_WORDS, 1, (size_t)(end - begin) * STREAMS * RUN_WORDS * sizeof *r->words);
}

/* Four streams at a time: one alone stays below what a core can read. */
static void read_all(void *arg, int thread) {
    struct reading *r = arg;
    uint64_t sums[STREAMS * 2] = {0};
    int begin, end;
    team_share(r->team, thread, (int)r->n_parts, &begin, &end);
    for (int part = begin; part < end; part++) {
        const uint64_t *at = r->words + (size_t)part * STREAMS * RUN_WORDS;
        for (size_t i = 0; i < RUN_WORDS; i += 2)
            for (int j = 0; j < STREAMS * 2; j++)
                sums[j] ^= at[(size_t)(j / 2) * RUN_WORDS + i + (size_t)j % 2];
    }
    for (int j = 0; j < STREAMS * 2; j++)
        r->sums[thread] += sums[j]; /* kept, or there would be nothing to read for */
}

int cmd_plan_measure(double *ret_bps, struct err *err) {
    const size_t part_bytes = STREAMS * RUN_WORDS * sizeof(uint64_t);
    uint64_t total, available;
    double best_s = 0;
    int result = -1;
    struct reading *r = calloc(1, sizeof *r);
    if (r == NULL)
        return err_set(err, ERR_NOMEM, "no memory to measure with");
    host_memory(&total, &available);
    r->n_parts = (available / 4 < MOST_BYTES ? available / 4 : MOST_BYTES) / part_bytes;
    size_t n_pages = (r->n_parts * part_bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES;
    r->words = n_pages == 0 ? NULL : aligned_alloc(HUGE_PAGE_BYTES, n_pages * HUGE_PAGE_BYTES);
    if (r->words == NULL) {
        err_set(err, ERR_NOMEM, "no memory to measure with");
        goto free_reading;
    }
    madvise(r->words, r->n_parts * part_bytes, MADV_HUGEPAGE); /* only a wish */
    if (team_create(host_cpus() < TEAM_MAX_THREADS ? host_cpus() : TEAM_MAX_THREADS, NULL, &r->team, err) != 0)
        goto free_reading;
    team_run(r->team, touch, r);
    for (int pass = 0; pass < N_PASSES; pass++) {
        int64_t begin_ns = clock_mono_ns();
        team_run(r->team, read_all, r);
        double seconds = (double)(clock_mono_ns() - begin_ns) * 1e-9;
        best_s = pass == 0 || seconds < best_s ? seconds : best_s;
    }
    *ret_bps = (double)(r->n_parts * part_bytes) / best_s;
    result = 0;
    team_destroy(r->team);
free_reading:
    free(r->words);
    free(r);
    return result;
}
