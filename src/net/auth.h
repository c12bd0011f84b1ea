/*
 * Mutual proof that both ends of a connection belong to one launch: HMAC-SHA-256 challenges over a shared secret,
 * before any other byte is read. docs/wire.md has the bytes. All fields have fixed sizes.
 */
#ifndef NET_AUTH_H
#define NET_AUTH_H

#include <stdint.h>

#include "base/err.h"

enum { NET_SECRET_BYTES = 32 };

struct net_secret {
    uint8_t bytes[NET_SECRET_BYTES];
};

/* A fresh random secret. */
int net_secret_make(struct net_secret *ret, struct err *err);
/* From 64 hex digits, or from any other text of at least 16 characters by SHA-256. */
int net_secret_parse(const char *text, struct net_secret *ret, struct err *err);

/* The accepting end speaks first. ERR_AUTH: the peer is foreign (close the socket, count it, go on). Blocks until the deadline. */
int net_auth_accept(int fd, const struct net_secret *secret, int64_t deadline_ms, struct err *err);
int net_auth_connect(int fd, const struct net_secret *secret, int64_t deadline_ms, struct err *err);

#endif
