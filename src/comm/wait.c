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

/* Some tens of microseconds: longer than a neighbour needs for its slice, too short to starve others on a full machine. */
enum { SPIN_ROUNDS = 1000 };

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

enum err_code comm_bell_wait(struct comm_world *world, struct comm_bell *bell, comm_ready_fn ready, const void *arg, int64_t deadline_ms) {
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (ready(arg))
            return ERR_NONE;
        comm_cpu_relax();
    }
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
