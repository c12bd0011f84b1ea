/* Runs a program with a deadline; see process.h. */
#include "node/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cluster/tail.h"

enum { OUTPUT_LIMIT_BYTES = 1 << 20, STEP_MS = 20, EXIT_CANNOT_RUN = 127 };

/* Between fork and exec. Its own process group: a deadline ends all of it, a terminal's Ctrl-C none of it. */
static void run_child(const struct node_process *process, int output_fd) {
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd >= 0)
        dup2(null_fd, STDIN_FILENO);
    dup2(output_fd, STDOUT_FILENO);
    dup2(output_fd, STDERR_FILENO);
    close_range(STDERR_FILENO + 1, ~0U, 0);
    for (const char *const *entry = process->env; entry != NULL && *entry != NULL; entry++)
        putenv((char *)*entry); /* the child has a copy of all memory, and one thread */
    execvp(process->argv[0], process->argv);
    dprintf(STDERR_FILENO, "%s: %s\n", process->argv[0], strerror(errno));
    _exit(EXIT_CANNOT_RUN);
}

/* A file in memory, not a pipe: what stays in the background may keep its end open for ever. */
static void read_output(int fd, struct buf *out) {
    off_t size = lseek(fd, 0, SEEK_END);
    off_t from = size > OUTPUT_LIMIT_BYTES ? size - OUTPUT_LIMIT_BYTES : 0;
    char *room = buf_reserve(out, (size_t)(size - from));
    ssize_t n = room == NULL ? 0 : pread(fd, room, (size_t)(size - from), from);
    if (room != NULL)
        room[n > 0 ? n : 0] = '\0'; /* a buffer ends in one, also when nothing was appended */
    if (n <= 0)
        return;
    for (ssize_t i = 0; i < n; i++)
        if (room[i] == '\0')
            room[i] = ' ';
    out->len_bytes += (size_t)n;
}

static int wait_for(const struct node_process *process, pid_t pid, int *ret_status, struct err *err) {
    int64_t deadline_ms = clock_mono_ms() + process->timeout_ms;
    for (;;) {
        pid_t rc = waitpid(pid, ret_status, WNOHANG);
        if (rc == pid)
            return 0;
        if (rc < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "waiting for %s: %s", process->argv[0], strerror(errno));
        bool is_cancelled = process->is_cancelled != NULL && process->is_cancelled();
        if (is_cancelled || clock_left_ms(deadline_ms) == 0) {
            kill(-pid, SIGKILL);
            waitpid(pid, ret_status, 0);
            return is_cancelled ? err_set(err, ERR_CANCELLED, "stopped")
                                : err_set(err, ERR_TIMEOUT, "it has not ended within %d s", process->timeout_ms / 1000);
        }
        clock_nap_ms(STEP_MS);
    }
}

static void add_tail(const char *output, struct err *err) {
    struct cluster_tail tail = {0};
    char text[CLUSTER_TAIL_TEXT_BYTES];
    for (const char *at = output; *at != '\0';) {
        size_t len = strcspn(at, "\n");
        cluster_tail_add(&tail, at, len);
        at += len + (at[len] == '\n');
    }
    cluster_tail_text(&tail, text, sizeof text);
    if (err == NULL || text[0] == '\0')
        return;
    size_t used = strlen(err->msg);
    snprintf(err->msg + used, sizeof err->msg - used, "; its last lines:%s", text);
}

int node_process_run(const struct node_process *process, struct buf *ret_output, struct err *err) {
    int fd = process->is_shown ? dup(STDERR_FILENO) : memfd_create("output", MFD_CLOEXEC), status = 0;
    if (fd < 0)
        return err_set(err, ERR_IO, "no file for the output of %s: %s", process->argv[0], strerror(errno));
    struct buf output;
    buf_init(&output, OUTPUT_LIMIT_BYTES + 1);
    pid_t pid = fork();
    if (pid == 0)
        run_child(process, fd);
    if (pid > 0)
        setpgid(pid, pid); /* as the child does itself: whoever comes first, the group is there before it is killed */
    int result = pid < 0 ? err_set(err, ERR_IO, "cannot start %s: %s", process->argv[0], strerror(errno))
                         : wait_for(process, pid, &status, err);
    if (!process->is_shown)
        read_output(fd, &output);
    close(fd);
    if (result == 0 && WIFSIGNALED(status))
        result = err_set(err, ERR_PEER, "it was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (result == 0 && WEXITSTATUS(status) != 0)
        result = err_set(err, ERR_PEER, "it ended with exit status %d", WEXITSTATUS(status));
    if (result != 0)
        add_tail(buf_str(&output), err);
    if (ret_output != NULL) {
        *ret_output = output;
        return result;
    }
    buf_finish(&output);
    return result;
}
