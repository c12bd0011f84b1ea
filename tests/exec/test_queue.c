/* exec: the queue between a worker's main thread and its ranks: every rank sees every step, in order, and no more are taken than fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

#include "exec/queue.h"

enum { N_RANKS = 3, N_STEPS = 5000 };

static atomic_int n_taken[N_RANKS];

struct rank_arg {
    struct exec_queue *queue;
    int local;
};

static void *rank_main(void *arg) {
    struct rank_arg *rank = arg;
    uint64_t wanted = 1;
    for (const struct exec_step *step; (step = exec_queue_take(rank->queue, rank->local)) != NULL; wanted++) {
        if (step->number != wanted || step->n_entries != 1 || step->entries[0].slot != (int)(wanted % 7))
            abort();
        exec_queue_done(rank->queue, rank->local);
        atomic_fetch_add(&n_taken[rank->local], 1);
    }
    return NULL;
}

static int push(struct exec_queue *queue, uint64_t number) {
    struct exec_step step = {.number = number, .n_entries = 1, .entries = calloc(1, sizeof *step.entries)};
    struct buf body;
    struct err err;
    buf_init(&body, 64);
    buf_append_str(&body, "frame");
    step.entries[0].slot = (int)(number % 7);
    int result = exec_queue_push(queue, &body, &step, &err);
    if (result != 0)
        assert_string_equal(err.msg, "the driver sent more than 128 steps ahead");
    exec_step_finish(&step); /* both are empty when the queue took them */
    buf_finish(&body);
    return result;
}

static void test_every_rank_sees_every_step(void **state) {
    (void)state;
    struct exec_queue *queue;
    struct err err;
    pthread_t threads[N_RANKS];
    struct rank_arg ranks[N_RANKS];
    assert_int_equal(exec_queue_create(N_RANKS, &queue, &err), 0);
    for (int i = 0; i < N_RANKS; i++) {
        ranks[i] = (struct rank_arg){queue, i};
        pthread_create(&threads[i], NULL, rank_main, &ranks[i]);
    }
    for (uint64_t number = 1; number <= N_STEPS;)
        if (push(queue, number) == 0)
            number++;
        else
            sched_yield();
    for (int i = 0; i < N_RANKS; i++)
        while (atomic_load(&n_taken[i]) < N_STEPS)
            sched_yield();
    exec_queue_close(queue);
    for (int i = 0; i < N_RANKS; i++)
        pthread_join(threads[i], NULL);
    exec_queue_destroy(queue);
}

static void test_a_full_queue_refuses(void **state) {
    (void)state;
    struct exec_queue *queue;
    struct err err;
    assert_int_equal(exec_queue_create(2, &queue, &err), 0);
    for (uint64_t i = 1; i <= EXEC_MAX_IN_FLIGHT; i++)
        assert_int_equal(push(queue, i), 0);
    assert_int_equal(push(queue, 999), -1);
    assert_int_equal(exec_queue_take(queue, 0)->number, 1);
    exec_queue_done(queue, 0);
    assert_int_equal(push(queue, 999), -1); /* the other rank still has it */
    assert_int_equal(exec_queue_take(queue, 1)->number, 1);
    exec_queue_done(queue, 1);
    assert_int_equal(push(queue, EXEC_MAX_IN_FLIGHT + 1), 0);
    exec_queue_close(queue);
    assert_null(exec_queue_take(queue, 0));
    exec_queue_destroy(queue); /* what was never computed is freed */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rank_sees_every_step),
        cmocka_unit_test(test_a_full_queue_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
