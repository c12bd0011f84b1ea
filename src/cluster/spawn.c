/* A local worker process; see spawn.h. A thread of its own forwards its lines; the rest is the caller's thread. */
#include "cluster/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "cluster/tail.h"

enum { DRAIN_MS = 500, STEP_MS = 10, EXIT_CANNOT_RUN = 127, INPUT_MAX_BYTES = 4096 };

static const char secret_name[] = "SHOAL_LAUNCH_SECRET=";

struct cluster_spawn {
    pid_t pid;
    const char *what;
    int status; /* of waitpid, once it has ended */
    bool is_ended;
    int pipe_fd; /* its output; the forwarder's */
    pthread_t forwarder;
    pthread_mutex_t mutex; /* over the two below */
    bool is_quiet;
    struct cluster_tail tail;
    bool is_drained; /* the pipe has ended */
};

/* Complete lines go on to stderr in one write each, so that they do not mix with the driver's own. */
static void *forward(void *arg) {
    struct cluster_spawn *spawn = arg;
    char line[4096];
    size_t used = 0;
    for (;;) {
        ssize_t n = read(spawn->pipe_fd, line + used, sizeof line - used);
        if (n < 0 && errno == EINTR)
            continue;
        used += n > 0 ? (size_t)n : 0;
        bool is_end = n <= 0;
        char *from = line, *newline;
        while (used > 0 && ((newline = memchr(from, '\n', used)) != NULL || is_end || (from == line && used == sizeof line))) {
            size_t len = newline == NULL ? used : (size_t)(newline - from) + 1;
            pthread_mutex_lock(&spawn->mutex);
            cluster_tail_add(&spawn->tail, from, len);
            pthread_mutex_unlock(&spawn->mutex);
            ssize_t written = spawn->is_quiet ? 0 : write(STDERR_FILENO, from, len);
            (void)written; /* a stderr that is closed is no reason to stop reading */
            from += len;
            used -= len;
        }
        memmove(line, from, used);
        if (!is_end)
            continue;
        pthread_mutex_lock(&spawn->mutex);
        spawn->is_drained = true;
        pthread_mutex_unlock(&spawn->mutex);
        return NULL;
    }
}

/* environ without the secret, and then with this launch's (secret_entry, or NULL). The array is malloc'd, its strings are borrowed. */
static char **make_environment(char *secret_entry) {
    size_t n = 0;
    while (environ[n] != NULL)
        n++;
    char **env = calloc(n + 2, sizeof *env);
    if (env == NULL)
        return NULL;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], secret_name, sizeof secret_name - 1) != 0)
            env[kept++] = environ[i];
    env[kept] = secret_entry;
    return env;
}

/* Between fork and exec: nothing but what signal handlers may do. */
static void run_child(pid_t driver, int input_fd, int output_fd, const struct cluster_spawn_command *command, char *const env[]) {
    static const char failed[] = "this program could not be run\n";
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != driver)
        _exit(EXIT_CANNOT_RUN); /* it died in between */
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (input_fd < 0)
        input_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input_fd >= 0)
        dup2(input_fd, STDIN_FILENO);
    dup2(output_fd, STDOUT_FILENO);
    dup2(output_fd, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, 0);
    execvpe(command->program, command->argv, env);
    ssize_t written = write(STDERR_FILENO, failed, sizeof failed - 1);
    (void)written;
    _exit(EXIT_CANNOT_RUN);
}

/* The reading end of a pipe that holds the text and then ends; -1 without one, -2 on error. */
static int make_input(const char *text, struct err *err) {
    int fds[2];
    if (text == NULL)
        return -1;
    size_t len_bytes = strlen(text);
    if (len_bytes > INPUT_MAX_BYTES || pipe2(fds, O_CLOEXEC) != 0) {
        err_set(err, ERR_IO, "cannot make a pipe of %zu bytes", len_bytes);
        return -2;
    }
    ssize_t written = write(fds[1], text, len_bytes); /* fits the pipe */
    close(fds[1]);
    if (written == (ssize_t)len_bytes)
        return fds[0];
    close(fds[0]);
    err_set(err, ERR_IO, "cannot write to a pipe");
    return -2;
}

int cluster_spawn_run(const struct cluster_spawn_command *command, struct cluster_spawn **ret, struct err *err) {
    char secret_entry[sizeof secret_name + 2 * NET_SECRET_BYTES];
    memcpy(secret_entry, secret_name, sizeof secret_name);
    if (command->env_secret != NULL)
        hash_hex(command->env_secret->bytes, NET_SECRET_BYTES, secret_entry + sizeof secret_name - 1);
    struct cluster_spawn *spawn = calloc(1, sizeof *spawn);
    char **env = make_environment(command->env_secret != NULL ? secret_entry : NULL);
    int pipe_fds[2], input_fd = -1;
    if (spawn == NULL || env == NULL) {
        err_set(err, ERR_NOMEM, "no memory for a process");
        goto free_memory;
    }
    if ((input_fd = make_input(command->input, err)) < -1)
        goto free_memory;
    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
        err_set(err, ERR_IO, "pipe: %s", strerror(errno));
        goto close_input;
    }
    spawn->pipe_fd = pipe_fds[0];
    spawn->what = command->what;
    spawn->is_quiet = command->is_quiet;
    pthread_mutex_init(&spawn->mutex, NULL);
    pid_t driver = getpid();
    spawn->pid = fork();
    if (spawn->pid == 0)
        run_child(driver, input_fd, pipe_fds[1], command, env);
    close(pipe_fds[1]);
    if (spawn->pid < 0) {
        err_set(err, ERR_IO, "cannot start a process: %s", strerror(errno));
        goto close_pipe;
    }
    int rc = pthread_create(&spawn->forwarder, NULL, forward, spawn);
    if (rc != 0) {
        err_set(err, ERR_IO, "cannot start a thread: %s", strerror(rc));
        goto end_child;
    }
    if (input_fd >= 0)
        close(input_fd);
    free(env);
    *ret = spawn;
    return 0;

end_child:
    kill(spawn->pid, SIGKILL);
    waitpid(spawn->pid, NULL, 0);
close_pipe:
    pthread_mutex_destroy(&spawn->mutex);
    close(pipe_fds[0]);
close_input:
    if (input_fd >= 0)
        close(input_fd);
free_memory:
    free(env);
    free(spawn);
    return -1;
}

int cluster_spawn_start(const struct cluster *cluster, int node, const char *interface, struct cluster_spawn **ret, struct err *err) {
    struct launch_args args;
    char *argv[LAUNCH_MAX_ARGS + 2] = {(char *)"shoal"};
    if (launch_args_make(cluster, node, interface, &args, err) != 0)
        return -1;
    for (int i = 0; i < args.n; i++)
        argv[1 + i] = args.items[i];
    struct cluster_spawn_command command = {.what = "worker process",
                                            .program = "/proc/self/exe",
                                            .argv = argv,
                                            .env_secret = &cluster->secret,
                                            .is_quiet = cluster->opts.is_survey};
    return cluster_spawn_run(&command, ret, err);
}

int64_t cluster_spawn_pid(const struct cluster_spawn *spawn) { return spawn->pid; }

static bool has_ended(struct cluster_spawn *spawn) {
    if (!spawn->is_ended) {
        pid_t rc = waitpid(spawn->pid, &spawn->status, WNOHANG);
        spawn->is_ended = rc == spawn->pid || (rc < 0 && errno == ECHILD);
    }
    return spawn->is_ended;
}

static bool wait_ended(struct cluster_spawn *spawn, int64_t deadline_ms) {
    while (!has_ended(spawn)) {
        if (clock_left_ms(deadline_ms) == 0)
            return false;
        clock_nap_ms(STEP_MS);
    }
    return true;
}

static bool is_drained(struct cluster_spawn *spawn) {
    pthread_mutex_lock(&spawn->mutex);
    bool drained = spawn->is_drained;
    pthread_mutex_unlock(&spawn->mutex);
    return drained;
}

int cluster_spawn_poll(struct cluster_spawn *spawn, struct err *err) {
    char how[64], tail[CLUSTER_TAIL_TEXT_BYTES];
    if (!has_ended(spawn))
        return 0;
    for (int64_t deadline_ms = clock_mono_ms() + DRAIN_MS; !is_drained(spawn) && clock_left_ms(deadline_ms) > 0;)
        clock_nap_ms(STEP_MS);
    if (WIFSIGNALED(spawn->status))
        snprintf(how, sizeof how, "was ended by signal %d (%s)", WTERMSIG(spawn->status), strsignal(WTERMSIG(spawn->status)));
    else
        snprintf(how, sizeof how, "ended with exit status %d", WEXITSTATUS(spawn->status));
    pthread_mutex_lock(&spawn->mutex);
    cluster_tail_text(&spawn->tail, tail, sizeof tail);
    pthread_mutex_unlock(&spawn->mutex);
    return err_set(err, ERR_PEER, "%s %d %s%s%s", spawn->what, (int)spawn->pid, how, tail[0] ? "; its last lines:" : "", tail);
}

void cluster_spawn_stop(struct cluster_spawn *spawn, int grace_ms) {
    if (spawn == NULL)
        return;
    int64_t start_ms = clock_mono_ms();
    if (!wait_ended(spawn, start_ms + grace_ms / 2))
        kill(spawn->pid, SIGTERM);
    if (!wait_ended(spawn, start_ms + grace_ms)) {
        kill(spawn->pid, SIGKILL);
        wait_ended(spawn, NET_NO_DEADLINE);
    }
    /* Descendants could hold the pipe open; workers have none, but nothing here may hang on it. */
    for (int64_t deadline_ms = clock_mono_ms() + DRAIN_MS; !is_drained(spawn) && clock_left_ms(deadline_ms) > 0;)
        clock_nap_ms(STEP_MS);
    if (!is_drained(spawn))
        pthread_cancel(spawn->forwarder);
    pthread_join(spawn->forwarder, NULL);
    close(spawn->pipe_fd);
    pthread_mutex_destroy(&spawn->mutex);
    free(spawn);
}
