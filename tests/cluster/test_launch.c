/*
 * Whole launches on this host: real worker processes (this program again, as a stand-in), every way they can fail to join,
 * and that nothing is left over. The program runs itself again through /proc/self/exe, as shoal does.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/hash.h"
#include "cluster/standin.h"

static struct cluster_opts mp_opts(void) {
    return (struct cluster_opts){.backend = CLUSTER_MP,
                                 .tp_size = 2,
                                 .pp_size = 2,
                                 .timeout_ms = 10000,
                                 .build = STANDIN_BUILD,
                                 .log_level = "info",
                                 .threads_per_rank = 3};
}

static uint16_t free_port(void) {
    int fd;
    struct net_addr bound;
    assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &fd, &bound, NULL), 0);
    close(fd);
    return bound.port;
}

static struct cluster_opts hand_opts(int n_nodes) {
    struct cluster_opts opts = mp_opts();
    opts.backend = CLUSTER_HAND;
    opts.n_nodes = n_nodes;
    opts.master_addr = "127.0.0.1";
    opts.master_port = free_port();
    return opts;
}

static bool is_alive(int64_t pid) { return kill((pid_t)pid, 0) == 0 || errno != ESRCH; }

static int setup(void **state) {
    (void)state;
    unsetenv("SHOAL_STANDIN");
    unsetenv("SHOAL_STANDIN_SLOT");
    setenv("SHOAL_LAUNCH_SECRET", "a secret for this test alone", 1);
    return 0;
}

static void test_mp_starts_and_stops(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    if (cluster_start(&opts, &cluster, &err) != 0)
        fail_msg("%s", err.msg);
    int n;
    const struct cluster_node *node = cluster_nodes(cluster, &n);
    assert_int_equal(n, 1);
    assert_int_equal(node->first_rank, 0);
    assert_int_equal(node->n_ranks, 4);
    assert_int_equal(node->n_threads, 3);
    assert_true(node->n_cpus >= 1);
    assert_true(node->mem_total_bytes > 0);
    assert_string_equal(node->host, "127.0.0.1");
    assert_true(is_alive(node->pid));
    assert_int_equal(cluster_poll(cluster, &err), 0);
    assert_int_equal(cluster_dropped(cluster), 0);
    int64_t pid = node->pid, start_ms = clock_mono_ms();
    cluster_stop(cluster, 4000);
    assert_true(clock_mono_ms() - start_ms < 1500); /* it leaves when the connection ends, without any signal */
    assert_false(is_alive(pid));
}

static void test_mp_worker_dies_before_joining(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    setenv("SHOAL_STANDIN", "die", 1);
    int64_t start_ms = clock_mono_ms();
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_true(clock_mono_ms() - start_ms < 4000);
    assert_int_equal(err.code, ERR_PEER);
    assert_non_null(strstr(err.msg, "node 0"));
    assert_non_null(strstr(err.msg, "exit status 3"));
    assert_non_null(strstr(err.msg, "first line"));
    assert_non_null(strstr(err.msg, "last words of slot 0"));
}

static void test_mp_worker_never_connects(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    opts.timeout_ms = 1500;
    setenv("SHOAL_STANDIN", "mute", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "node 0 (127.0.0.1): worker process"));
    assert_non_null(strstr(err.msg, "has not connected"));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left, not even a dead one */
    assert_int_equal(errno, ECHILD);
}

static void test_mp_refuses_another_build(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    setenv("SHOAL_STANDIN", "build", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_non_null(strstr(err.msg, "stand-in 2"));
    assert_non_null(strstr(err.msg, "stand-in 1"));
}

static void test_mp_notices_a_worker_that_leaves(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    setenv("SHOAL_STANDIN", "leave", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), 0);
    int64_t deadline_ms = clock_mono_ms() + 5000;
    int result = 0;
    while (result == 0 && clock_left_ms(deadline_ms) > 0) {
        result = cluster_poll(cluster, &err);
        usleep(20000);
    }
    assert_int_equal(result, -1);
    assert_non_null(strstr(err.msg, "exit status 4"));
    assert_non_null(strstr(err.msg, "gone on purpose"));
    assert_int_equal(cluster_poll(cluster, &err), -1); /* and says so again */
    cluster_stop(cluster, 1000);
}

static void test_mp_kills_a_stubborn_worker(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    setenv("SHOAL_STANDIN", "stubborn", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), 0);
    int n;
    int64_t pid = cluster_nodes(cluster, &n)->pid, start_ms = clock_mono_ms();
    cluster_stop(cluster, 600);
    assert_true(clock_mono_ms() - start_ms < 2500);
    assert_false(is_alive(pid));
}

static bool cancel_soon(void *ctx) { return clock_mono_ms() > *(int64_t *)ctx; }

static void test_mp_can_be_cancelled(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    int64_t when_ms = clock_mono_ms() + 200;
    opts.timeout_ms = 60000;
    opts.is_cancelled = cancel_soon;
    opts.cancel_ctx = &when_ms;
    setenv("SHOAL_STANDIN", "mute", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_int_equal(err.code, ERR_CANCELLED);
    assert_true(clock_mono_ms() - when_ms < 4000);
}

/* kill -9 of a driver takes its worker along. */
static void test_mp_worker_dies_with_its_driver(void **state) {
    (void)state;
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    setenv("SHOAL_STANDIN", "stubborn", 1);
    pid_t driver = fork();
    if (driver == 0) {
        struct cluster *cluster;
        struct err err;
        struct cluster_opts opts = mp_opts();
        int n;
        int64_t pid = cluster_start(&opts, &cluster, &err) == 0 ? cluster_nodes(cluster, &n)->pid : -1;
        ssize_t written = write(pipe_fds[1], &pid, sizeof pid);
        (void)written;
        for (;;)
            pause();
    }
    int64_t pid = -1;
    assert_int_equal(read(pipe_fds[0], &pid, sizeof pid), sizeof pid);
    assert_true(pid > 0);
    assert_true(is_alive(pid));
    kill(driver, SIGKILL);
    waitpid(driver, NULL, 0);
    int64_t deadline_ms = clock_mono_ms() + 3000;
    char path[64];
    snprintf(path, sizeof path, "/proc/%lld/fd/0", (long long)pid); /* gone or a zombie: nothing open any more */
    while (access(path, F_OK) == 0 && clock_left_ms(deadline_ms) > 0)
        usleep(20000);
    assert_int_not_equal(access(path, F_OK), 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* A further node of a launch by hand, on a thread of this process. */
struct further {
    struct cluster_join_opts opts;
    int delay_ms;
    pthread_t thread;
    int result, fd;
    struct err err;
};

static void *further_run(void *arg) {
    struct further *f = arg;
    struct net_iface iface;
    usleep((useconds_t)f->delay_ms * 1000);
    f->result = cluster_join(&f->opts, &f->fd, &iface, &f->err);
    return NULL;
}

static void further_start(struct further *f, const struct cluster_opts *cluster, int slot, const char *build) {
    f->opts = (struct cluster_join_opts){
        .driver_host = "127.0.0.1", .driver_port = cluster->master_port, .slot = slot, .build = build, .timeout_ms = 5000};
    assert_int_equal(cluster_hand_secret(&f->opts.secret, NULL), 0);
    assert_int_equal(pthread_create(&f->thread, NULL, further_run, f), 0);
}

static void test_hand_waits_for_all_nodes(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = hand_opts(2);
    struct further late = {.delay_ms = 2300}; /* node 0 sits through two PINGs */
    further_start(&late, &opts, 1, STANDIN_BUILD);
    if (cluster_start(&opts, &cluster, &err) != 0)
        fail_msg("%s", err.msg);
    pthread_join(late.thread, NULL);
    assert_int_equal(late.result, 0);
    int n;
    const struct cluster_node *nodes = cluster_nodes(cluster, &n);
    assert_int_equal(n, 2);
    assert_int_equal(nodes[0].n_ranks, 2);
    assert_int_equal(nodes[1].first_rank, 2);
    assert_int_equal(nodes[1].n_ranks, 2);
    assert_int_equal(nodes[1].pid, getpid());
    close(late.fd);
    cluster_stop(cluster, 2000);
}

static void test_hand_names_who_is_missing(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = hand_opts(4);
    struct further wrong_build = {0}, taken = {0};
    opts.timeout_ms = 2500;
    further_start(&wrong_build, &opts, 2, "another build");
    taken.delay_ms = 800;
    further_start(&taken, &opts, 0, STANDIN_BUILD);
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    pthread_join(wrong_build.thread, NULL);
    pthread_join(taken.thread, NULL);
    assert_int_equal(err.code, ERR_TIMEOUT);
    assert_non_null(strstr(err.msg, "node 1: nobody with --node-rank 1"));
    assert_non_null(strstr(err.msg, "node 2: its worker was refused: it is build another build, this driver is build " STANDIN_BUILD));
    assert_non_null(strstr(err.msg, "node 3"));
    assert_null(strstr(err.msg, "node 0"));
    assert_int_equal(wrong_build.result, -1);
    assert_non_null(strstr(wrong_build.err.msg, "another build"));
    assert_non_null(strstr(wrong_build.err.msg, STANDIN_BUILD));
    assert_int_equal(taken.result, -1);
    assert_non_null(strstr(taken.err.msg, "which host 127.0.0.1"));
}

static void test_hand_counts_another_secret(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = hand_opts(2);
    struct further stranger = {.delay_ms = 100};
    opts.timeout_ms = 1500;
    further_start(&stranger, &opts, 1, STANDIN_BUILD);
    stranger.opts.secret.bytes[0] ^= 1;
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    pthread_join(stranger.thread, NULL);
    assert_int_equal(stranger.result, -1);
    assert_int_equal(stranger.err.code, ERR_AUTH);
    assert_non_null(strstr(err.msg, "1 foreign connection"));
}

/* A proven worker that breaks the protocol, and callers who are no worker at all, disturb nobody. */
static void test_hand_survives_garbage(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = hand_opts(2);
    struct further late = {.delay_ms = 1200};
    further_start(&late, &opts, 1, STANDIN_BUILD);
    /* From a second process, as cluster_start blocks this thread. */
    pid_t vandal = fork();
    if (vandal == 0) {
        int fd;
        if (net_connect("127.0.0.1", opts.master_port, clock_mono_ms() + 3000, &fd, NULL) == 0)
            net_send_all(fd, "GET / HTTP/1.1\r\n\r\n", 18, clock_mono_ms() + 1000, NULL);
        int silent;
        net_connect("127.0.0.1", opts.master_port, clock_mono_ms() + 3000, &silent, NULL);
        struct net_secret secret;
        cluster_hand_secret(&secret, NULL);
        const char *bodies[] = {"",    "{}", "[1]", "{\"protocol\":7,\"build\":\"old\"}", "{\"protocol\":1,\"build\":\"x\",\"slot\":1e9}",
                                "\xff"};
        for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
            if (net_connect("127.0.0.1", opts.master_port, clock_mono_ms() + 3000, &fd, NULL) == 0 &&
                net_auth_connect(fd, &secret, clock_mono_ms() + 3000, NULL) == 0)
                net_frame_send(fd, NET_FRAME_HELLO, bodies[i], strlen(bodies[i]), clock_mono_ms() + 1000, NULL);
        if (net_connect("127.0.0.1", opts.master_port, clock_mono_ms() + 3000, &fd, NULL) == 0 &&
            net_auth_connect(fd, &secret, clock_mono_ms() + 3000, NULL) == 0)
            net_frame_send(fd, NET_FRAME_STATUS, "{}", 2, clock_mono_ms() + 1000, NULL);
        usleep(2500000);
        _exit(0);
    }
    int result = cluster_start(&opts, &cluster, &err);
    pthread_join(late.thread, NULL);
    if (result != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(late.result, 0);
    /* HTTP, the silent one when the door shuts, and all that were proven but the one of another protocol, which is refused. */
    for (int64_t deadline_ms = clock_mono_ms() + 3000; cluster_dropped(cluster) < 2 + 6 && clock_left_ms(deadline_ms) > 0;)
        usleep(10000);
    assert_int_equal(cluster_dropped(cluster), 2 + 6);
    close(late.fd);
    cluster_stop(cluster, 2000);
    waitpid(vandal, NULL, 0);
}

static void test_join_ends_with_its_driver(void **state) {
    (void)state;
    /* A driver that proves itself and closes; one that is silent is left after 10 s, which is not waited for here. */
    int listen_fd, fd;
    struct net_addr bound;
    struct net_secret secret;
    assert_int_equal(net_listen(&(struct net_addr){.host = "127.0.0.1"}, &listen_fd, &bound, NULL), 0);
    struct cluster_opts opts = {.master_port = bound.port};
    struct further worker = {0};
    further_start(&worker, &opts, 0, STANDIN_BUILD);
    assert_int_equal(net_accept(listen_fd, clock_mono_ms() + 3000, &fd, NULL, NULL), 0);
    assert_int_equal(cluster_hand_secret(&secret, NULL), 0);
    assert_int_equal(net_auth_accept(fd, &secret, clock_mono_ms() + 3000, NULL), 0);
    usleep(200000);
    close(fd);
    pthread_join(worker.thread, NULL);
    assert_int_equal(worker.result, -1);
    assert_int_equal(worker.err.code, ERR_PEER);
    assert_non_null(strstr(worker.err.msg, "the driver was lost"));
    close(listen_fd);
}

static void test_join_gives_up_at_its_deadline(void **state) {
    (void)state;
    struct cluster_opts opts = {.master_port = free_port()};
    struct further worker = {0};
    further_start(&worker, &opts, 3, STANDIN_BUILD);
    pthread_join(worker.thread, NULL);
    assert_int_equal(worker.result, -1);
    assert_int_equal(worker.err.code, ERR_TIMEOUT);
    assert_non_null(strstr(worker.err.msg, "node 3 cannot reach its driver"));
}

static void test_hand_refuses_bad_settings(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = hand_opts(3);
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_non_null(strstr(err.msg, "4 ranks"));
    opts = hand_opts(2);
    opts.master_addr = "192.0.2.1";
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_non_null(strstr(err.msg, "must be an address of this host"));
    opts.master_addr = NULL;
    assert_int_equal(cluster_start(&opts, &cluster, &err), -1);
    assert_non_null(strstr(err.msg, "--master-addr"));
}

static void test_hand_secret_file(void **state) {
    (void)state;
    char folder[] = "/tmp/shoal-secret-XXXXXX", path[128];
    struct net_secret made, again;
    struct err err = {0};
    struct stat st;
    unsetenv("SHOAL_LAUNCH_SECRET");
    assert_non_null(mkdtemp(folder));
    setenv("XDG_CACHE_HOME", folder, 1);
    snprintf(path, sizeof path, "%s/shoal/launch-secret", folder);
    assert_int_equal(cluster_hand_secret(&made, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(cluster_hand_secret(&again, &err), 0);
    assert_memory_equal(&made, &again, sizeof made);
    chmod(path, 0644);
    assert_int_equal(cluster_hand_secret(&again, &err), -1);
    assert_non_null(strstr(err.msg, "chmod 600"));
    setenv("SHOAL_LAUNCH_SECRET", "short", 1);
    assert_int_equal(cluster_hand_secret(&again, &err), -1);
    unlink(path);
    snprintf(path, sizeof path, "%s/shoal", folder);
    rmdir(path);
    rmdir(folder);
    unsetenv("XDG_CACHE_HOME");
}

/* Three "hosts" over a script in the place of ssh, one of which misbehaves: it alone is left out, and says why. */
static struct cluster *run_survey(const char *mode, const char *third) {
    char script[] = "/tmp/shoal-ssh-XXXXXX";
    static const char text[] =
        "#!/bin/sh\nfor last; do :; done\nfor host; do [ \"$host\" = nowhere ] && echo 'no such host' >&2 && exit 255; done\n"
        "unset SHOAL_LAUNCH_SECRET\nexec sh -c \"$last\"\n";
    const char *hosts[] = {"localhost", "me@localhost", third};
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = {.backend = CLUSTER_SSH,
                                .tp_size = 1,
                                .pp_size = 1,
                                .timeout_ms = 1500,
                                .build = STANDIN_BUILD,
                                .log_level = "info",
                                .interface = "127.0.0.1",
                                .is_survey = true,
                                .hosts = hosts,
                                .n_hosts = 3,
                                .ssh_command = script};
    int fd = mkstemp(script);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    fchmod(fd, 0755);
    close(fd);
    setenv("SHOAL_STANDIN", mode, 1);
    setenv("SHOAL_STANDIN_SLOT", "1", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), 0);
    unlink(script);
    return cluster;
}

static void expect_survey(const char *mode, const char *third, int who, const char *why) {
    struct cluster *cluster = run_survey(mode, third);
    int n;
    const struct cluster_node *nodes = cluster_nodes(cluster, &n);
    assert_int_equal(n, 3);
    for (int i = 0; i < n; i++) {
        assert_true((nodes[i].fd >= 0) == (i != who));
        if (i != who)
            assert_string_equal(nodes[i].missing, "");
        else if (strstr(nodes[i].missing, why) == NULL) {
            print_error("%s\n", nodes[i].missing);
            fail();
        }
    }
    cluster_stop(cluster, 2000);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void test_survey_leaves_out(void **state) {
    (void)state;
    expect_survey("", "localhost", -1, "");
    expect_survey("", "nowhere", 2, "ssh to nowhere: its process");
    expect_survey("die", "localhost", 1, "last words of slot 1");
    expect_survey("mute", "localhost", 1, "has not connected");
}

static void test_survey_takes_another_build(void **state) {
    (void)state;
    struct cluster *cluster = run_survey("build", "localhost");
    int n;
    const struct cluster_node *nodes = cluster_nodes(cluster, &n);
    assert_string_equal(nodes[0].build, "stand-in 1");
    assert_string_equal(nodes[1].build, "stand-in 2");
    assert_true(nodes[1].fd >= 0 && nodes[2].fd >= 0);
    cluster_stop(cluster, 2000);
}

static void test_local_survey_of_a_dead_agent(void **state) {
    (void)state;
    struct cluster *cluster;
    struct err err = {0};
    struct cluster_opts opts = mp_opts();
    opts.is_survey = true;
    setenv("SHOAL_STANDIN", "die", 1);
    assert_int_equal(cluster_start(&opts, &cluster, &err), 0);
    int n;
    assert_non_null(strstr(cluster_nodes(cluster, &n)->missing, "last words"));
    cluster_stop(cluster, 1000);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return standin_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_mp_starts_and_stops, setup),
        cmocka_unit_test_setup(test_mp_worker_dies_before_joining, setup),
        cmocka_unit_test_setup(test_mp_worker_never_connects, setup),
        cmocka_unit_test_setup(test_mp_refuses_another_build, setup),
        cmocka_unit_test_setup(test_mp_notices_a_worker_that_leaves, setup),
        cmocka_unit_test_setup(test_mp_kills_a_stubborn_worker, setup),
        cmocka_unit_test_setup(test_mp_can_be_cancelled, setup),
        cmocka_unit_test_setup(test_mp_worker_dies_with_its_driver, setup),
        cmocka_unit_test_setup(test_hand_waits_for_all_nodes, setup),
        cmocka_unit_test_setup(test_hand_names_who_is_missing, setup),
        cmocka_unit_test_setup(test_hand_counts_another_secret, setup),
        cmocka_unit_test_setup(test_hand_survives_garbage, setup),
        cmocka_unit_test_setup(test_join_ends_with_its_driver, setup),
        cmocka_unit_test_setup(test_join_gives_up_at_its_deadline, setup),
        cmocka_unit_test_setup(test_hand_refuses_bad_settings, setup),
        cmocka_unit_test_setup(test_hand_secret_file, setup),
        cmocka_unit_test_setup(test_survey_leaves_out, setup),
        cmocka_unit_test_setup(test_survey_takes_another_build, setup),
        cmocka_unit_test_setup(test_local_survey_of_a_dead_agent, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
