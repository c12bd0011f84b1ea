/*
 * A worker that only joins: what `shoal worker` does up to the first step. SHOAL_STANDIN says how it misbehaves: "die" (before
 * joining), "mute" (never connects), "build" (of another build), "leave" (half a second after joining), "stubborn" (ignores
 * SIGTERM and the end of the connection).
 */
#ifndef TESTS_CLUSTER_STANDIN_H
#define TESTS_CLUSTER_STANDIN_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/cluster.h"
#include "net/frame.h"

#define STANDIN_BUILD "stand-in 1"

static const char *standin_arg(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return NULL;
}

static int standin_serve(int fd) {
    struct buf body;
    struct err err;
    enum net_frame_type type = NET_FRAME_PING;
    buf_init(&body, 1 << 20);
    while (type != NET_FRAME_STOP && net_frame_recv(fd, &type, &body, NET_NO_DEADLINE, &err) == 0)
        if (type == NET_FRAME_PING)
            net_frame_send(fd, NET_FRAME_PONG, NULL, 0, clock_mono_ms() + 1000, &err);
    buf_finish(&body);
    return type == NET_FRAME_STOP ? 0 : 1;
}

/* The main of a stand-in: argv as `shoal worker` gets it, argv[1] being "worker". */
static int standin_main(int argc, char **argv) {
    const char *driver = standin_arg(argc, argv, "--driver"), *slot = standin_arg(argc, argv, "--slot"),
               *secret = getenv("SHOAL_LAUNCH_SECRET");
    char line[128] = "";
    if (secret == NULL && argc > 1 && strcmp(argv[argc - 1], "--secret-stdin") == 0 && fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        secret = line;
    }
    const char *mode = getenv("SHOAL_STANDIN") == NULL ? "" : getenv("SHOAL_STANDIN"), *victim = getenv("SHOAL_STANDIN_SLOT");
    char host[128] = "";
    unsigned port = 0;
    struct err err;
    log_setup(LOG_INFO, "stand-in");
    if (driver == NULL || slot == NULL || secret == NULL || sscanf(driver, "%127[^:]:%u", host, &port) != 2) {
        fprintf(stderr, "stand-in: bad arguments\n");
        return 2;
    }
    if (victim != NULL && strcmp(victim, slot) != 0)
        mode = "";
    if (strcmp(mode, "die") == 0) {
        fprintf(stderr, "first line\nlast words of slot %s\n", slot);
        return 3;
    }
    if (strcmp(mode, "stubborn") == 0)
        signal(SIGTERM, SIG_IGN);
    while (strcmp(mode, "mute") == 0)
        pause();
    struct cluster_join_opts opts = {.driver_host = host,
                                     .driver_port = (uint16_t)port,
                                     .slot = atoi(slot),
                                     .interface = standin_arg(argc, argv, "--interface"),
                                     .build = strcmp(mode, "build") == 0 ? "stand-in 2" : STANDIN_BUILD};
    int fd;
    struct net_iface iface;
    if (net_secret_parse(secret, &opts.secret, &err) != 0 || cluster_join(&opts, &fd, &iface, &err) != 0) {
        log_error("%s", err.msg);
        return 1;
    }
    log_info("joined as slot %s on %s", slot, iface.host);
    if (strcmp(mode, "leave") == 0) {
        usleep(500000);
        fprintf(stderr, "gone on purpose\n");
        return 4;
    }
    int status = standin_serve(fd);
    while (strcmp(mode, "stubborn") == 0)
        pause();
    return status;
}

#endif
