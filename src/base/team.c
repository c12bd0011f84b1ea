/* A thread team with spinning-then-sleeping barriers; see team.h. Owns the threads it starts. */
#include "base/team.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Long enough for the gap between two phases of a layer, short enough not to starve others on a full machine. */
enum { SPIN_ROUNDS = 1000 };

struct team {
    int n_threads;
    pthread_t *threads; /* n_threads - 1 */
    struct team_seat *seats;
    team_fn fn;
    void *arg;
    bool stopping;
    /* Each on a cache line of its own: they are written by different threads at different times. */
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint generation; /* futex word */
    atomic_int sleepers;
    _Alignas(64) atomic_int next_item;
};

struct team_seat {
    struct team *team;
    int thread;
    int cpu; /* -1: anywhere */
};

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(atomic_uint *word, unsigned seen) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); }

static void futex_wake_all(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }

void team_barrier(struct team *team) {
    if (team->n_threads == 1) {
        atomic_store_explicit(&team->next_item, 0, memory_order_relaxed);
        return;
    }
    unsigned seen = atomic_load_explicit(&team->generation, memory_order_acquire);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->n_threads - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next_item, 0, memory_order_relaxed);
        /* seq_cst pairs with the sleeper's: it either sees the new generation or is counted here. */
        atomic_fetch_add(&team->generation, 1);
        if (atomic_load(&team->sleepers) > 0)
            futex_wake_all(&team->generation);
        return;
    }
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (atomic_load_explicit(&team->generation, memory_order_acquire) != seen)
            return;
        cpu_relax();
    }
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->generation) == seen)
        futex_wait(&team->generation, seen);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void pin_self(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    /* A cpuset that forbids the CPU is no reason to stop: the thread then runs where it may. */
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static void *seat_main(void *arg) {
    struct team_seat *seat = arg;
    struct team *team = seat->team;
    if (seat->cpu >= 0)
        pin_self(seat->cpu);
    for (;;) {
        team_barrier(team); /* a run begins */
        if (team->stopping)
            return NULL;
        team->fn(team->arg, seat->thread);
        team_barrier(team); /* the run ends */
    }
}

int team_create(int n_threads, const int *cpus, struct team **ret_team, struct err *err) {
    if (n_threads < 1 || n_threads > TEAM_MAX_THREADS)
        return err_set(err, ERR_INVALID, "a team of %d threads was asked for; 1 to %d are possible", n_threads, TEAM_MAX_THREADS);
    struct team *team = aligned_alloc(64, sizeof *team);
    if (team == NULL)
        return err_set(err, ERR_NOMEM, "no memory for a team of threads");
    memset(team, 0, sizeof *team);
    team->n_threads = 1; /* grows as threads start, so that destroy stops just those */
    team->threads = calloc((size_t)n_threads, sizeof *team->threads);
    team->seats = calloc((size_t)n_threads, sizeof *team->seats);
    if (team->threads == NULL || team->seats == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a team of %d threads", n_threads);
        goto free_team;
    }
    if (cpus != NULL)
        pin_self(cpus[0]);
    team->n_threads = n_threads;
    for (int i = 1; i < n_threads; i++) {
        team->seats[i] = (struct team_seat){.team = team, .thread = i, .cpu = cpus == NULL ? -1 : cpus[i]};
        int rc = pthread_create(&team->threads[i - 1], NULL, seat_main, &team->seats[i]);
        if (rc != 0) {
            err_set(err, ERR_LIMIT, "cannot start thread %d of %d: %s", i + 1, n_threads, strerror(rc));
            /* The started ones wait at a barrier of n_threads: release them by arriving for the missing ones too. */
            team->stopping = true;
            atomic_fetch_add(&team->arrived, n_threads - 1 - i);
            team_barrier(team);
            for (int j = 1; j < i; j++)
                pthread_join(team->threads[j - 1], NULL);
            goto free_team;
        }
    }
    *ret_team = team;
    return 0;
free_team:
    free(team->threads);
    free(team->seats);
    free(team);
    return -1;
}

void team_destroy(struct team *team) {
    if (team == NULL)
        return;
    team->stopping = true;
    team_barrier(team);
    for (int i = 1; i < team->n_threads; i++)
        pthread_join(team->threads[i - 1], NULL);
    free(team->threads);
    free(team->seats);
    free(team);
}

int team_size(const struct team *team) { return team->n_threads; }

void team_run(struct team *team, team_fn fn, void *arg) {
    team->fn = fn;
    team->arg = arg;
    team_barrier(team);
    fn(arg, 0);
    team_barrier(team);
}

int team_take(struct team *team) { return atomic_fetch_add_explicit(&team->next_item, 1, memory_order_relaxed); }

void team_share(const struct team *team, int thread, int n, int *ret_begin, int *ret_end) {
    *ret_begin = (int)((int64_t)n * thread / team->n_threads);
    *ret_end = (int)((int64_t)n * (thread + 1) / team->n_threads);
}
