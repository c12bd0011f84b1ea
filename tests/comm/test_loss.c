/* What goes wrong between ranks: a peer that dies, one that never comes, an abort, and callers who do not belong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/inside.h"
#include "world_kit.h"

enum { LONG_MS = 20000 };

static void join_all(struct kit_seat *seat, struct comm_group **ret_group) {
    int members[COMM_MAX_RANKS] = {0};
    for (int i = 0; i < seat->kit->n_ranks; i++)
        members[i] = i;
    if (comm_group_join(seat->world, seat->rank, members, seat->kit->n_ranks, 1000000, ret_group, &seat->err) != 0)
        kit_die("join", &seat->err);
}

/* All-reduces until something fails. arg: the floats of each. */
static int reduce_for_ever(struct kit_seat *seat) {
    struct comm_group *group;
    size_t n = *(size_t *)seat->arg;
    float *data = calloc(n, sizeof *data);
    join_all(seat, &group);
    while (comm_allreduce(group, data, n, &seat->err) == 0) {
    }
    int again = comm_allreduce(group, data, n, NULL); /* all later calls fail at once */
    comm_group_leave(group);
    free(data);
    return again;
}

static void pause_ms(int ms) { usleep((useconds_t)ms * 1000); }

/* A node's process dies: its sockets close, as the kernel would do it. The others learn it at once, by name. */
static void test_node_dies(void **state) {
    (void)state;
    static const size_t sizes[] = {10, 200000};
    for (int s = 0; s < 2; s++) {
        struct kit kit;
        struct kit_seat seats[COMM_MAX_RANKS];
        kit_create(&kit, (int[]){2, 1, 2, 0}, 0, LONG_MS);
        kit_connect(&kit);
        kit_start(&kit, seats, reduce_for_ever, (void *)&sizes[s]);
        pause_ms(50);
        int64_t start_ms = clock_mono_ms();
        for (int rank = 0; rank < kit.n_ranks; rank++)
            if (kit.node_of_rank[rank] != 1)
                shutdown(comm_world_link(kit.worlds[1], 2, rank)->fd, SHUT_RDWR);
        kit_join(&kit, seats);
        assert_true(clock_mono_ms() - start_ms < 3000);
        int n_blamed = 0;
        for (int rank = 0; rank < kit.n_ranks; rank++) {
            const struct err *err = &seats[rank].err;
            assert_int_equal(seats[rank].rc, -1);
            assert_true(err->code == ERR_PEER || err->code == ERR_CANCELLED);
            assert_non_null(strstr(err->msg, "all-reduce of"));
            n_blamed += err->code == ERR_PEER && strstr(err->msg, "rank 2 on node 1 (127.0.0.1)") != NULL;
        }
        assert_true(n_blamed >= 1);
        kit_destroy(&kit);
    }
}

static int wait_by_kind(struct kit_seat *seat) {
    struct comm_group *group;
    float data[8] = {0};
    char *big = NULL;
    int rc = -1, kind = seat->rank == 0 ? -1 : *(int *)seat->arg;
    join_all(seat, &group);
    if (kind == 0)
        rc = comm_allreduce(group, data, 8, &seat->err);
    if (kind == 1)
        rc = comm_recv(seat->world, 0, seat->rank, data, sizeof data, &seat->err);
    if (kind == 2) {
        big = calloc(1, 64 << 20);
        rc = comm_send(seat->world, seat->rank, 0, big, 64 << 20, &seat->err);
    }
    if (kind == 3)
        rc = comm_gather(group, 0, data, sizeof data, NULL, &seat->err) != 0 ? -1 : comm_broadcast(group, 0, data, sizeof data, &seat->err);
    free(big);
    if (kind < 0) { /* rank 0 does nothing until the others have failed */
        while (!comm_world_is_aborted(seat->world))
            pause_ms(1);
        rc = err_set(&seat->err, ERR_CANCELLED, "did nothing");
    }
    comm_group_leave(group);
    return rc;
}

/* A rank that never comes is named when the deadline passes, and the operation too. */
static void test_timeouts(void **state) {
    (void)state;
    static const int layouts[2][3] = {{3, 0}, {1, 1, 0}};
    for (int kind = 0; kind < 4; kind++) {
        for (int l = 0; l < 2; l++) {
            struct kit kit;
            struct kit_seat seats[COMM_MAX_RANKS];
            kit_create(&kit, layouts[l], 0, 200);
            kit_connect(&kit);
            int64_t start_ms = clock_mono_ms();
            kit_start(&kit, seats, wait_by_kind, &kind);
            if (l == 1) { /* rank 0's own world hears of it only through its links, which nobody reads: end it by hand */
                pthread_join(seats[1].thread, NULL);
                comm_world_abort(kit.worlds[0], "the other node gave up");
                pthread_join(seats[0].thread, NULL);
            } else {
                kit_join(&kit, seats);
            }
            assert_in_range(clock_mono_ms() - start_ms, 190, 5000);
            int n_timeouts = 0;
            for (int rank = 1; rank < kit.n_ranks; rank++) {
                assert_int_equal(seats[rank].rc, -1);
                if (seats[rank].err.code == ERR_TIMEOUT) {
                    n_timeouts++;
                    assert_non_null(strstr(seats[rank].err.msg, "rank 0"));
                }
            }
            assert_true(n_timeouts >= 1);
            kit_destroy(&kit);
        }
    }
}

/* Wakes those who sleep in memory and those who sleep in poll(), at once, with the first reason. */
static void test_abort(void **state) {
    (void)state;
    static const int layouts[3][3] = {{3, 0}, {1, 1, 0}, {2, 2, 0}};
    for (int kind = 0; kind < 4; kind++) {
        for (int l = 0; l < 3; l++) {
            struct kit kit;
            struct kit_seat seats[COMM_MAX_RANKS];
            kit_create(&kit, layouts[l], 0, 0);
            kit_connect(&kit);
            kit_start(&kit, seats, wait_by_kind, &kind);
            pause_ms(60);
            int64_t start_ms = clock_mono_ms();
            for (int node = 0; node < kit.n_nodes; node++) {
                comm_world_abort(kit.worlds[node], "the driver said stop");
                comm_world_abort(kit.worlds[node], "another reason");
            }
            kit_join(&kit, seats);
            assert_true(clock_mono_ms() - start_ms < 2000);
            for (int rank = 1; rank < kit.n_ranks; rank++) {
                assert_int_equal(seats[rank].rc, -1);
                assert_null(strstr(seats[rank].err.msg, "another reason"));
                /* The second node may first see that the first has gone. */
                if (kit.node_of_rank[rank] == 0 && seats[rank].err.code == ERR_CANCELLED)
                    assert_non_null(strstr(seats[rank].err.msg, "the driver said stop"));
            }
            struct err err;
            char byte = 0;
            assert_int_equal(comm_send(kit.worlds[0], 0, 1, &byte, 1, &err), -1);
            assert_int_equal(err.code, ERR_CANCELLED);
            kit_destroy(&kit);
        }
    }
}

/* Two ends that are not in the same operation find out before they use a byte of it. */
static int disagree(struct kit_seat *seat) {
    float data[16] = {0};
    struct comm_group *group;
    int rc;
    join_all(seat, &group);
    switch (*(int *)seat->arg) {
    case 0:
        rc = comm_allreduce(group, data, seat->rank == 0 ? 8 : 9, &seat->err);
        break;
    case 1:
        rc = seat->rank == 0 ? comm_send(seat->world, 0, 1, data, 32, &seat->err) : comm_allreduce(group, data, 8, &seat->err);
        if (seat->rank == 0 && rc == 0)
            rc = comm_recv(seat->world, 1, 0, data, 32, &seat->err);
        break;
    default:
        rc = seat->rank == 0 ? comm_send(seat->world, 0, 1, data, 8, &seat->err) : comm_recv(seat->world, 0, 1, data, 16, &seat->err);
        break;
    }
    comm_group_leave(group);
    return rc;
}

static void test_disagreement(void **state) {
    (void)state;
    static const int layouts[2][3] = {{1, 1, 0}, {2, 0}};
    for (int l = 0; l < 2; l++) {
        for (int kind = l == 0 ? 0 : 2; kind < 3; kind++) {
            struct kit kit;
            struct kit_seat seats[COMM_MAX_RANKS];
            kit_create(&kit, layouts[l], 0, 2000);
            kit_connect(&kit);
            kit_start(&kit, seats, disagree, &kind);
            kit_join(&kit, seats);
            assert_int_equal(seats[1].rc, -1);
            assert_int_equal(seats[1].err.code, l == 0 ? ERR_PEER : ERR_INTERNAL);
            kit_destroy(&kit);
        }
    }
}

/* Foreign and misdirected callers while the nodes connect: dropped, counted, and nobody is held up. */
static void test_foreign_callers(void **state) {
    (void)state;
    struct kit kit;
    struct err err;
    enum { N_FOREIGN = 6 };
    int fds[N_FOREIGN], proven[2];
    kit_create(&kit, (int[]){1, 2, 0}, 0, LONG_MS);
    for (int i = 0; i < N_FOREIGN; i++) {
        assert_int_equal(net_connect("127.0.0.1", kit.addrs[1].port, clock_mono_ms() + LONG_MS, &fds[i], &err), 0);
        if (i % 2 == 0)
            net_send_all(fds[i], "GET / HTTP/1.1\r\n\r\n", 18, clock_mono_ms() + LONG_MS, NULL);
    }
    for (int i = 0; i < 2; i++) { /* proven, but one says nothing sensible and one closes */
        assert_int_equal(net_connect("127.0.0.1", kit.addrs[1].port, clock_mono_ms() + LONG_MS, &proven[i], &err), 0);
        assert_int_equal(net_auth_connect(proven[i], &kit.secret, clock_mono_ms() + LONG_MS, &err), 0);
    }
    uint8_t body[24] = {0};
    assert_int_equal(net_frame_send(proven[0], NET_FRAME_LINK, body, sizeof body, clock_mono_ms() + LONG_MS, &err), 0);
    close(proven[1]);
    kit_connect(&kit);
    assert_true(comm_world_dropped(kit.worlds[1]) >= 3 + 2); /* the silent ones go when the listener closes */
    assert_int_equal(comm_world_dropped(kit.worlds[0]), 0);
    size_t n = 100;
    struct kit_seat seats[COMM_MAX_RANKS];
    kit_start(&kit, seats, reduce_for_ever, &n);
    pause_ms(20);
    for (int node = 0; node < 2; node++)
        comm_world_abort(kit.worlds[node], "enough");
    kit_join(&kit, seats);
    for (int i = 0; i < N_FOREIGN; i++)
        close(fds[i]);
    close(proven[0]);
    kit_destroy(&kit);
}

static void *abort_soon(void *arg) {
    pause_ms(150);
    comm_world_abort(arg, "the driver said stop");
    return NULL;
}

/* A node that never comes is named. */
static void test_connect_fails(void **state) {
    (void)state;
    struct kit kit;
    struct err err;
    /* Nobody calls node 2. */
    kit_create(&kit, (int[]){1, 1, 1, 0}, 0, LONG_MS);
    assert_int_equal(comm_world_connect(kit.worlds[2], kit.addrs, 2, clock_mono_ms() + 100, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_int_equal(comm_world_connect(kit.worlds[2], kit.addrs, 3, clock_mono_ms() + 100, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "rank 0 on node 0 (127.0.0.1)"));
    assert_int_equal(comm_world_connect(kit.worlds[2], kit.addrs, 3, clock_mono_ms() + 100, &err), -1);
    assert_int_equal(err.code, ERR_CANCELLED);
    /* Node 1 is gone: nobody listens there. */
    comm_world_destroy(kit.worlds[1]);
    kit.worlds[1] = NULL;
    assert_int_equal(comm_world_connect(kit.worlds[0], kit.addrs, 3, clock_mono_ms() + 300, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "rank 1 on node 1 (127.0.0.1)"));
    kit_destroy(&kit);
}

/* Aborted while it waits for calls (node 1), for a listener that is not there, and for the proof of one that says nothing. */
static void test_connect_aborted(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct kit kit;
        struct err err;
        struct net_addr mute;
        pthread_t thread;
        int listener, node = kind == 0 ? 1 : 0;
        kit_create(&kit, (int[]){1, 1, 0}, 0, LONG_MS);
        assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &listener, &mute, &err), 0);
        if (kind == 1)
            close(listener);
        if (kind > 0)
            kit.addrs[1] = mute;
        pthread_create(&thread, NULL, abort_soon, kit.worlds[node]);
        int64_t start_ms = clock_mono_ms();
        assert_int_equal(comm_world_connect(kit.worlds[node], kit.addrs, 2, clock_mono_ms() + LONG_MS, &err), -1);
        assert_int_equal(err.code, ERR_CANCELLED);
        assert_non_null(strstr(err.msg, "the driver said stop"));
        assert_true(clock_mono_ms() - start_ms < 3000);
        pthread_join(thread, NULL);
        if (kind != 1)
            close(listener);
        kit_destroy(&kit);
    }
}

/* A node with another secret or another placement is refused. */
static void test_connect_refuses(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct kit kit;
        struct comm_world *other;
        struct err err;
        struct net_addr bound;
        pthread_t thread;
        int nodes[3] = {0, 1, 1};
        kit_create(&kit, (int[]){1, 1, 0}, 0, LONG_MS);
        struct comm_world_opts opts = {
            .n_ranks = kind == 0 ? 2 : 3, .node_of_rank = nodes, .node = 0, .secret = kit.secret, .listen = {.host = "127.0.0.1"}};
        opts.secret.bytes[0] ^= kind == 0;
        assert_int_equal(comm_world_create(&opts, &other, &bound, &err), 0);
        struct kit_connect waiting = {.kit = &kit, .node = 1, .timeout_ms = 1000};
        pthread_create(&thread, NULL, kit_connect_main, &waiting);
        assert_int_equal(comm_world_connect(other, kit.addrs, 2, clock_mono_ms() + LONG_MS, &err), -1);
        assert_int_equal(err.code, kind == 0 ? ERR_AUTH : ERR_PEER);
        assert_non_null(strstr(err.msg, "rank 1 on node 1"));
        pthread_join(thread, NULL);
        assert_int_equal(waiting.rc, -1);
        assert_int_equal(waiting.err.code, ERR_TIMEOUT);
        assert_true(comm_world_dropped(kit.worlds[1]) >= 1);
        comm_world_destroy(other);
        kit_destroy(&kit);
    }
    comm_world_destroy(NULL);
}

/* More links than descriptors: the soft limit is lifted, a hard limit is an error that says what to do. */
static int connect_with_limit(rlim_t soft, rlim_t hard) {
    struct kit kit;
    struct err err;
    if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){soft, hard}) != 0)
        return 10;
    kit_create(&kit, (int[]){3, 3, 0}, 0, LONG_MS);
    int rc = 0;
    if (hard < 64)
        rc = comm_world_connect(kit.worlds[1], kit.addrs, 2, clock_mono_ms() + LONG_MS, &err) == -1 && err.code == ERR_LIMIT &&
                     strstr(err.msg, "ulimit -n") != NULL
                 ? 0
                 : 11;
    else
        kit_connect(&kit);
    kit_destroy(&kit);
    return rc;
}

static void test_descriptors(void **state) {
    (void)state;
    for (int is_hard = 0; is_hard < 2; is_hard++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            _exit(connect_with_limit(40, is_hard ? 40 : 1024));
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_node_dies),       cmocka_unit_test(test_timeouts),        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_disagreement),    cmocka_unit_test(test_foreign_callers), cmocka_unit_test(test_connect_fails),
        cmocka_unit_test(test_connect_aborted), cmocka_unit_test(test_connect_refuses), cmocka_unit_test(test_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
