/*
 * The HMAC challenge of both ends; see auth.h and docs/wire.md. Any thread, no shared state. All reads have a fixed
 * size, and nothing that a peer says before its proof is used for anything but the proof.
 */
#include "net/auth.h"

#include <string.h>

#include "base/hash.h"
#include "base/rand.h"
#include "net/sock.h"

enum {
    MAGIC_BYTES = 8, /* the last byte is the wire version */
    NONCE_BYTES = 32,
    SECRET_TEXT_LEAST = 16
};

static const uint8_t magic[MAGIC_BYTES] = {'s', 'h', 'o', 'a', 'l', '/', 'a', 1};

static const char label_connect[] = "shoal-connect";
static const char label_accept[] = "shoal-accept";

int net_secret_make(struct net_secret *ret, struct err *err) { return rand_secret(ret->bytes, sizeof ret->bytes, err); }

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool parse_hex(const char *text, size_t len, struct net_secret *ret) {
    if (len != 2 * NET_SECRET_BYTES)
        return false;
    for (size_t i = 0; i < NET_SECRET_BYTES; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

int net_secret_parse(const char *text, struct net_secret *ret, struct err *err) {
    struct net_secret secret;
    size_t len = strlen(text);
    if (!parse_hex(text, len, &secret)) {
        if (len < SECRET_TEXT_LEAST)
            return err_set(err, ERR_INVALID, "the launch's secret has %zu characters; it needs 64 hex digits or at least %d characters",
                           len, SECRET_TEXT_LEAST);
        struct hash_sha256 *hash = hash_sha256_create();
        if (hash == NULL)
            return err_set(err, ERR_NOMEM, "no memory for a hash");
        hash_sha256_update(hash, text, len);
        hash_sha256_digest(hash, secret.bytes);
        hash_sha256_destroy(hash);
    }
    *ret = secret;
    return 0;
}

/* HMAC(secret, label || first || second). The labels differ, so that no proof can be sent back as the other one. */
static void prove(const struct net_secret *secret, const char *label, const uint8_t *first, const uint8_t *second,
                  uint8_t ret_mac[HASH_SHA256_BYTES]) {
    uint8_t data[sizeof label_connect + 2 * NONCE_BYTES];
    size_t label_bytes = strlen(label);
    memcpy(data, label, label_bytes);
    memcpy(data + label_bytes, first, NONCE_BYTES);
    memcpy(data + label_bytes + NONCE_BYTES, second, NONCE_BYTES);
    hash_hmac_sha256(secret->bytes, sizeof secret->bytes, data, label_bytes + 2 * NONCE_BYTES, ret_mac);
}

int net_auth_hello_make(uint8_t ret_hello[NET_AUTH_HELLO_BYTES], struct err *err) {
    memcpy(ret_hello, magic, MAGIC_BYTES);
    return rand_secret(ret_hello + MAGIC_BYTES, NONCE_BYTES, err);
}

bool net_auth_answer_is_foreign(const uint8_t *answer, size_t len_bytes) {
    return memcmp(answer, magic, len_bytes < MAGIC_BYTES ? len_bytes : MAGIC_BYTES) != 0;
}

/* "not a shoal", or a shoal of another version, told apart for people who mixed builds. */
static int refuse_magic(const uint8_t *got, struct err *err) {
    if (memcmp(got, magic, MAGIC_BYTES - 1) == 0)
        return err_set(err, ERR_AUTH, "the peer speaks version %u of shoal's wire format, this build speaks %u", got[MAGIC_BYTES - 1],
                       magic[MAGIC_BYTES - 1]);
    return err_set(err, ERR_AUTH, "the peer does not speak shoal's wire format");
}

int net_auth_answer_check(const struct net_secret *secret, const uint8_t hello[NET_AUTH_HELLO_BYTES],
                          const uint8_t answer[NET_AUTH_ANSWER_BYTES], uint8_t ret_proof[NET_AUTH_PROOF_BYTES], struct err *err) {
    const uint8_t *nonce_a = hello + MAGIC_BYTES, *nonce_c = answer + MAGIC_BYTES;
    uint8_t expected[HASH_SHA256_BYTES];
    if (net_auth_answer_is_foreign(answer, NET_AUTH_ANSWER_BYTES))
        return refuse_magic(answer, err);
    prove(secret, label_connect, nonce_a, nonce_c, expected);
    if (!hash_equal(expected, nonce_c + NONCE_BYTES, sizeof expected))
        return err_set(err, ERR_AUTH, "the peer does not hold this launch's secret");
    prove(secret, label_accept, nonce_c, nonce_a, ret_proof);
    return 0;
}

int net_auth_accept(int fd, const struct net_secret *secret, int64_t deadline_ms, struct err *err) {
    uint8_t hello[NET_AUTH_HELLO_BYTES], answer[NET_AUTH_ANSWER_BYTES], proof[NET_AUTH_PROOF_BYTES];
    if (net_auth_hello_make(hello, err) != 0 || net_send_all(fd, hello, sizeof hello, deadline_ms, err) != 0 ||
        net_recv_all(fd, answer, MAGIC_BYTES, deadline_ms, err) != 0)
        return -1;
    /* A foreign peer may never send a whole answer: its first bytes are enough. */
    if (net_auth_answer_is_foreign(answer, MAGIC_BYTES))
        return refuse_magic(answer, err);
    if (net_recv_all(fd, answer + MAGIC_BYTES, sizeof answer - MAGIC_BYTES, deadline_ms, err) != 0 ||
        net_auth_answer_check(secret, hello, answer, proof, err) != 0)
        return -1;
    return net_send_all(fd, proof, sizeof proof, deadline_ms, err);
}

int net_auth_connect(int fd, const struct net_secret *secret, int64_t deadline_ms, struct err *err) {
    uint8_t hello[NET_AUTH_HELLO_BYTES], answer[NET_AUTH_ANSWER_BYTES];
    uint8_t proof[NET_AUTH_PROOF_BYTES], expected[HASH_SHA256_BYTES];
    if (net_recv_all(fd, hello, MAGIC_BYTES, deadline_ms, err) != 0)
        return -1;
    if (net_auth_answer_is_foreign(hello, MAGIC_BYTES))
        return refuse_magic(hello, err);
    if (net_recv_all(fd, hello + MAGIC_BYTES, NONCE_BYTES, deadline_ms, err) != 0)
        return -1;
    const uint8_t *nonce_a = hello + MAGIC_BYTES, *nonce_c = answer + MAGIC_BYTES;
    memcpy(answer, magic, MAGIC_BYTES);
    if (rand_secret(answer + MAGIC_BYTES, NONCE_BYTES, err) != 0)
        return -1;
    prove(secret, label_connect, nonce_a, nonce_c, answer + MAGIC_BYTES + NONCE_BYTES);
    if (net_send_all(fd, answer, sizeof answer, deadline_ms, err) != 0)
        return -1;
    if (net_recv_all(fd, proof, sizeof proof, deadline_ms, err) != 0) {
        if (err != NULL && err->code == ERR_PEER)
            return err_set(err, ERR_AUTH, "the peer refused this end's proof: the two do not hold the same secret");
        return -1;
    }
    prove(secret, label_accept, nonce_c, nonce_a, expected);
    if (!hash_equal(expected, proof, sizeof expected))
        return err_set(err, ERR_AUTH, "the peer does not hold this launch's secret");
    return 0;
}
