/* A ring of steps with a cursor per rank; see queue.h. */
#include "exec/queue.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/host.h"
#include "comm/world.h"

/* A decode step's successor usually comes within this time: catching it awake saves a wake-up per step. On a single CPU the one who
   would send it may be waiting for that CPU. */
static const int64_t SPIN_NS = 30000;

struct exec_queue {
    int n_ranks;
    int64_t spin_ns;
    pthread_mutex_t lock;
    pthread_cond_t pushed;
    atomic_ullong n_pushed; /* written under lock, read without for the spin */
    atomic_bool is_closed;
    struct {
        struct buf body;
        struct exec_step step;
        int n_left; /* ranks that are not done with it */
    } ring[EXEC_MAX_IN_FLIGHT];
    unsigned long long n_done[COMM_MAX_RANKS]; /* under lock */
};

int exec_queue_create(int n_ranks, struct exec_queue **ret, struct err *err) {
    struct exec_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the step queue");
    queue->n_ranks = n_ranks;
    queue->spin_ns = host_cpus() > 1 ? SPIN_NS : 0;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->pushed, NULL);
    *ret = queue;
    return 0;
}

void exec_queue_destroy(struct exec_queue *queue) {
    if (queue == NULL)
        return;
    for (int i = 0; i < EXEC_MAX_IN_FLIGHT; i++) {
        exec_step_finish(&queue->ring[i].step);
        buf_finish(&queue->ring[i].body);
    }
    pthread_cond_destroy(&queue->pushed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

int exec_queue_push(struct exec_queue *queue, struct buf *body, struct exec_step *step, struct err *err) {
    int result = 0;
    pthread_mutex_lock(&queue->lock);
    unsigned long long at = atomic_load_explicit(&queue->n_pushed, memory_order_relaxed);
    if (queue->ring[at % EXEC_MAX_IN_FLIGHT].n_left > 0) {
        result = err_set(err, ERR_PEER, "the driver sent more than %d steps ahead", EXEC_MAX_IN_FLIGHT);
    } else {
        queue->ring[at % EXEC_MAX_IN_FLIGHT].body = *body;
        queue->ring[at % EXEC_MAX_IN_FLIGHT].step = *step;
        queue->ring[at % EXEC_MAX_IN_FLIGHT].n_left = queue->n_ranks;
        buf_init(body, body->limit_bytes);
        *step = (struct exec_step){0};
        atomic_store_explicit(&queue->n_pushed, at + 1, memory_order_release);
        pthread_cond_broadcast(&queue->pushed);
    }
    pthread_mutex_unlock(&queue->lock);
    return result;
}

const struct exec_step *exec_queue_take(struct exec_queue *queue, int local_rank) {
    unsigned long long wanted = queue->n_done[local_rank];
    int64_t spin_until = clock_mono_ns() + queue->spin_ns;
    while (atomic_load_explicit(&queue->n_pushed, memory_order_acquire) == wanted && clock_mono_ns() < spin_until)
        ;
    pthread_mutex_lock(&queue->lock);
    while (atomic_load_explicit(&queue->n_pushed, memory_order_relaxed) == wanted && !queue->is_closed)
        pthread_cond_wait(&queue->pushed, &queue->lock);
    bool is_closed = queue->is_closed;
    pthread_mutex_unlock(&queue->lock);
    return is_closed ? NULL : &queue->ring[wanted % EXEC_MAX_IN_FLIGHT].step;
}

void exec_queue_done(struct exec_queue *queue, int local_rank) {
    pthread_mutex_lock(&queue->lock);
    unsigned long long at = queue->n_done[local_rank]++ % EXEC_MAX_IN_FLIGHT;
    if (--queue->ring[at].n_left == 0) {
        exec_step_finish(&queue->ring[at].step);
        buf_finish(&queue->ring[at].body);
    }
    pthread_mutex_unlock(&queue->lock);
}

void exec_queue_close(struct exec_queue *queue) {
    pthread_mutex_lock(&queue->lock);
    queue->is_closed = true;
    pthread_cond_broadcast(&queue->pushed);
    pthread_mutex_unlock(&queue->lock);
}
