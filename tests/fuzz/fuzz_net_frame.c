/* A peer that is proven but garbled: any stream of bytes read as frames, and as the answer of a caller that is not proven yet. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "net/auth.h"
#include "net/frame.h"
#include "net/sock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BYTES = 64 << 10 /* fits the socket's buffer */ };

static void read_frames(const uint8_t *data, size_t size) {
    int fds[2];
    struct buf body;
    struct err err;
    enum net_frame_type type;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        abort();
    net_send_all(fds[0], data, size < MOST_BYTES ? size : MOST_BYTES, 0, NULL);
    shutdown(fds[0], SHUT_WR);
    buf_init(&body, 1 << 20);
    while (net_frame_recv(fds[1], &type, &body, 0, &err) == 0) {
        if (body.len_bytes > net_frame_limit(type))
            abort();
    }
    if (err.code != ERR_PEER && err.code != ERR_LIMIT)
        abort();
    buf_finish(&body);
    close(fds[0]);
    close(fds[1]);
}

static void answer_as_caller(const uint8_t *data, size_t size) {
    static const struct net_secret secret = {{1, 2, 3}};
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        abort();
    net_send_all(fds[0], data, size < MOST_BYTES ? size : MOST_BYTES, 0, NULL);
    shutdown(fds[0], SHUT_WR);
    if (net_auth_accept(fds[1], &secret, 0, NULL) == 0)
        abort(); /* nobody guesses a fresh challenge */
    close(fds[0]);
    close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_frames(data, size);
    answer_as_caller(data, size);
    return 0;
}
