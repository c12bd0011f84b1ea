/* A rank of another node that is proven but garbled: any bytes on a link, where a receive and a send are under way. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "comm/inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BYTES = 64 << 10 /* fits the socket's buffer */, WANTED_BYTES = 40 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct comm_world world;
    static struct comm_link links[2];
    int fds[2];
    uint8_t wanted[WANTED_BYTES + 1] = {0}, sent[WANTED_BYTES] = {0};
    struct err err;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
        abort();
    world = (struct comm_world){
        .n_ranks = 2, .n_nodes = 2, .n_local = 1, .node_of_rank = {0, 1}, .local_of_rank = {0, -1}, .links = links, .op_timeout_ms = 1};
    pthread_mutex_init(&world.mutex, NULL);
    links[1] = (struct comm_link){.fd = fds[0]};
    net_send_all(fds[1], data, size < MOST_BYTES ? size : MOST_BYTES, 0, NULL);
    shutdown(fds[1], SHUT_WR);
    struct comm_xfer xfers[2] = {
        {.rank = 0, .peer = 1, .op = COMM_OP_SEND, .bytes = (char *)wanted, .len_bytes = WANTED_BYTES},
        {.rank = 0, .peer = 1, .is_send = true, .op = COMM_OP_SEND, .bytes = (char *)sent, .len_bytes = WANTED_BYTES},
    };
    if (comm_xfer_run(&world, xfers, 2, clock_mono_ms(), &err) == 0) {
        /* Only the one right frame passes. */
        uint8_t head[COMM_HEAD_BYTES] = {0};
        net_frame_header_encode(NET_FRAME_DATA, COMM_TAG_BYTES + WANTED_BYTES, head);
        head[NET_FRAME_HEADER_BYTES] = COMM_OP_SEND;
        if (size < sizeof head + WANTED_BYTES || memcmp(head, data, sizeof head) != 0 ||
            memcmp(wanted, data + sizeof head, WANTED_BYTES) != 0)
            abort();
    }
    if (wanted[WANTED_BYTES] != 0)
        abort();
    pthread_mutex_destroy(&world.mutex);
    close(fds[0]);
    close(fds[1]);
    return 0;
}
