/* Programs with deadlines; see tool.h. One loop over poll() for all that are at work. */
#include "verify/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { EXIT_NOT_FOUND = 127, POLL_GAP_MS = 20, BURY_TRIES = 60 };

struct active {
    struct tool_run *run;
    pid_t pid;
    int fd; /* its output; -1 once it has ended */
    size_t used;
    int64_t start_ms;
};

static void run_child(pid_t parent, int output_fd, const char *const *args) {
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_NOT_FOUND);
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd >= 0)
        dup2(null_fd, STDIN_FILENO);
    dup2(output_fd, STDOUT_FILENO);
    dup2(output_fd, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, 0);
    execvp(args[0], (char *const *)args);
    _exit(errno == ENOENT ? EXIT_NOT_FOUND : 126);
}

static bool start(struct active *slot, struct tool_run *run) {
    int fds[2];
    run->output[0] = '\0';
    run->end = TOOL_NOT_STARTED;
    run->code = errno;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return false;
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        run_child(parent, fds[1], run->args);
    run->code = errno;
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return false;
    }
    setpgid(pid, pid); /* here too: whoever comes first */
    *slot = (struct active){.run = run, .pid = pid, .fd = fds[0], .start_ms = clock_mono_ms()};
    return true;
}

/* Takes what has arrived; closes at the end of it. */
static void drain(struct active *slot) {
    char scrap[4096];
    while (slot->fd >= 0) {
        ssize_t n = read(slot->fd, scrap, sizeof scrap);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close(slot->fd);
            slot->fd = -1;
            return;
        }
        size_t room = TOOL_OUTPUT_BYTES - 1 - slot->used, take = (size_t)n < room ? (size_t)n : room;
        for (size_t i = 0; i < take; i++)
            slot->run->output[slot->used++] = scrap[i] == '\0' ? '?' : scrap[i];
        slot->run->output[slot->used] = '\0';
    }
}

/* One that hangs in the kernel does not die of a SIGKILL either: it is left behind, so that nothing waits for it. */
static void bury(pid_t pid) {
    for (int i = 0; i < BURY_TRIES && waitpid(pid, NULL, WNOHANG) == 0; i++)
        clock_nap_ms(5);
}

/* Whether it is over: it has ended, or its time is up. A grandchild that keeps the pipe open is killed with the group. */
static bool settle(struct active *slot) {
    struct tool_run *run = slot->run;
    int status;
    drain(slot);
    pid_t rc = waitpid(slot->pid, &status, WNOHANG);
    if (rc == 0 && clock_mono_ms() - slot->start_ms < run->timeout_ms)
        return false;
    kill(-slot->pid, SIGKILL);
    if (rc == 0) {
        bury(slot->pid);
        run->end = TOOL_TIMED_OUT;
    } else if (rc < 0) {
        run->end = TOOL_NOT_STARTED;
        run->code = errno;
    } else if (WIFSIGNALED(status)) {
        run->end = TOOL_SIGNALLED;
        run->code = WTERMSIG(status);
    } else {
        run->code = WEXITSTATUS(status);
        run->end = run->code == EXIT_NOT_FOUND && slot->used == 0 ? TOOL_NOT_FOUND : TOOL_EXITED;
    }
    drain(slot);
    if (slot->fd >= 0)
        close(slot->fd);
    return true;
}

static bool lane_is_busy(const struct active *slots, int n, int lane) {
    for (int i = 0; i < n; i++)
        if (slots[i].run->lane == lane)
            return true;
    return false;
}

/* Starts what may start. is_begun: [n], set for runs that were started or could not be. */
static void start_more(struct active *slots, int *n_slots, struct tool_run *runs, bool *is_begun, int n) {
    for (int i = 0; i < n && *n_slots < TOOL_MAX_SIDE_BY_SIDE; i++) {
        if (is_begun[i] || lane_is_busy(slots, *n_slots, runs[i].lane))
            continue;
        is_begun[i] = true;
        *n_slots += start(&slots[*n_slots], &runs[i]);
    }
}

void tool_run_all(struct tool_run *runs, int n) {
    struct active slots[TOOL_MAX_SIDE_BY_SIDE];
    bool is_begun[n > 0 ? n : 1];
    int n_slots = 0;
    memset(is_begun, 0, sizeof is_begun);
    for (start_more(slots, &n_slots, runs, is_begun, n); n_slots > 0; start_more(slots, &n_slots, runs, is_begun, n)) {
        struct pollfd fds[TOOL_MAX_SIDE_BY_SIDE];
        for (int i = 0; i < n_slots; i++)
            fds[i] = (struct pollfd){.fd = slots[i].fd, .events = POLLIN};
        poll(fds, (nfds_t)n_slots, POLL_GAP_MS);
        for (int i = n_slots - 1; i >= 0; i--)
            if (settle(&slots[i]))
                slots[i] = slots[--n_slots];
    }
}

void tool_end_text(const struct tool_run *run, char *ret_text, size_t size_bytes) {
    switch (run->end) {
    case TOOL_EXITED: snprintf(ret_text, size_bytes, "exit status %d", run->code); return;
    case TOOL_SIGNALLED: snprintf(ret_text, size_bytes, "ended by signal %d", run->code); return;
    case TOOL_TIMED_OUT: snprintf(ret_text, size_bytes, "no answer within %.1f s; it was killed", (double)run->timeout_ms / 1000); return;
    case TOOL_NOT_FOUND: snprintf(ret_text, size_bytes, "there is no program '%s'", run->args[0]); return;
    case TOOL_NOT_STARTED: snprintf(ret_text, size_bytes, "it could not be started: %s", strerror(run->code)); return;
    }
}
