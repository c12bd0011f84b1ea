/*
 * Mutual proof that both ends of a connection belong to one launch: HMAC-SHA-256 challenges over a shared secret,
 * before any other byte is read. docs/wire.md has the bytes. All fields have fixed sizes.
 */
#ifndef NET_AUTH_H
#define NET_AUTH_H

#include <stdbool.h>
#include <stddef.h>
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

/*
 * The accepting end speaks first. ERR_AUTH: the peer is foreign (close the socket, count it, go on). Blocks until the deadline.
 * A listener for more than one caller uses net/door.h, which proves many callers at the same time.
 */
int net_auth_accept(int fd, const struct net_secret *secret, int64_t deadline_ms, struct err *err);
int net_auth_connect(int fd, const struct net_secret *secret, int64_t deadline_ms, struct err *err);

/*
 * The accepting end's steps without the socket, for whoever reads and writes by himself: send a hello, read an answer
 * (giving up as soon as net_auth_answer_is_foreign says so of what has arrived), check it, send the proof.
 */
enum { NET_AUTH_HELLO_BYTES = 40, NET_AUTH_ANSWER_BYTES = 72, NET_AUTH_PROOF_BYTES = 32 };

int net_auth_hello_make(uint8_t ret_hello[NET_AUTH_HELLO_BYTES], struct err *err);
/* Whether the first len_bytes of an answer cannot come from a shoal of this wire version. */
bool net_auth_answer_is_foreign(const uint8_t *answer, size_t len_bytes);
/* ERR_AUTH when the answer does not prove knowledge of the secret. */
int net_auth_answer_check(const struct net_secret *secret, const uint8_t hello[NET_AUTH_HELLO_BYTES],
                          const uint8_t answer[NET_AUTH_ANSWER_BYTES], uint8_t ret_proof[NET_AUTH_PROOF_BYTES], struct err *err);

#endif
