/*
 * Spin briefly, then sleep on a futex; see inside.h. The bell is an event count: a sleeper counts itself, reads the
 * word, looks once more, and sleeps only if the word is still the same; so no ring between the look and the sleep is lost.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "comm/inside.h"

enum {
    /* Some tens of microseconds: longer than a neighbour needs for its slice, too short to starve others on a full machine. */
    LONG_ROUNDS = 1000,
    SHORT_ROUNDS = 40,
    FAILED_SPINS = 3, /* in a row, until spins become short */
    SHORT_SPINS = 20  /* until a long one is tried again */
};

bool comm_patience_is_long(struct comm_patience *patience) {
    if (patience->n_failed < FAILED_SPINS)
        return true;
    patience->n_short = (uint8_t)((patience->n_short + 1) % SHORT_SPINS);
    return patience->n_short == 0;
}

void comm_patience_learn(struct comm_patience *patience, bool was_enough) {
    if (was_enough)
        patience->n_failed = 0;
    else if (patience->n_failed < FAILED_SPINS)
        patience->n_failed++;
}

void comm_bell_ring(struct comm_bell *bell) {
    if (atomic_load(&bell->n_sleepers) == 0)
        return;
    atomic_fetch_add(&bell->word, 1);
    syscall(SYS_futex, &bell->word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void sleep_on(struct comm_bell *bell, unsigned seen, int64_t deadline_ms) {
    struct timespec left, *timeout = NULL;
    if (deadline_ms != NET_NO_DEADLINE) {
        int left_ms = clock_left_ms(deadline_ms);
        left = (struct timespec){.tv_sec = left_ms / 1000, .tv_nsec = (long)(left_ms % 1000) * 1000000};
        timeout = &left;
    }
    syscall(SYS_futex, &bell->word, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0);
}

enum err_code comm_bell_wait(struct comm_world *world, struct comm_bell *bell, struct comm_patience *patience, comm_ready_fn ready,
                             const void *arg, int64_t deadline_ms) {
    if (ready(arg))
        return ERR_NONE;
    for (int i = comm_patience_is_long(patience) ? LONG_ROUNDS : SHORT_ROUNDS; i > 0; i--) {
        comm_cpu_relax();
        if (ready(arg)) {
            comm_patience_learn(patience, true);
            return ERR_NONE;
        }
    }
    comm_patience_learn(patience, false);
    enum err_code code = ERR_NONE;
    atomic_fetch_add(&bell->n_sleepers, 1);
    for (;;) {
        unsigned seen = atomic_load(&bell->word);
        if (ready(arg))
            break;
        if (comm_world_is_aborted(world)) {
            code = ERR_CANCELLED;
            break;
        }
        if (deadline_ms != NET_NO_DEADLINE && clock_left_ms(deadline_ms) == 0) {
            code = ERR_TIMEOUT;
            break;
        }
        sleep_on(bell, seen, deadline_ms);
    }
    atomic_fetch_sub(&bell->n_sleepers, 1);
    return code;
}
