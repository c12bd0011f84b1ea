/* Hashes over libcrypto and xxhash; see hash.h. */
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct hash_sha256 {
    EVP_MD_CTX *ctx;
};

struct hash_sha256 *hash_sha256_create(void) {
    struct hash_sha256 *hash = malloc(sizeof *hash);
    if (hash == NULL)
        return NULL;
    hash->ctx = EVP_MD_CTX_new();
    if (hash->ctx == NULL || EVP_DigestInit_ex(hash->ctx, EVP_sha256(), NULL) != 1) {
        hash_sha256_destroy(hash);
        return NULL;
    }
    return hash;
}

void hash_sha256_update(struct hash_sha256 *hash, const void *bytes, size_t len_bytes) { EVP_DigestUpdate(hash->ctx, bytes, len_bytes); }

void hash_sha256_digest(struct hash_sha256 *hash, uint8_t ret_digest[HASH_SHA256_BYTES]) {
    EVP_DigestFinal_ex(hash->ctx, ret_digest, NULL);
}

void hash_sha256_destroy(struct hash_sha256 *hash) {
    if (hash == NULL)
        return;
    EVP_MD_CTX_free(hash->ctx);
    free(hash);
}

int hash_sha256_file(const char *path, uint8_t ret_digest[HASH_SHA256_BYTES], struct err *err) {
    enum { CHUNK_BYTES = 1 << 20 };
    int result = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    char *chunk = malloc(CHUNK_BYTES);
    struct hash_sha256 *hash = hash_sha256_create();
    if (chunk == NULL || hash == NULL) {
        err_set(err, ERR_NOMEM, "no memory to hash %s", path);
        goto free_all;
    }
    for (;;) {
        ssize_t n = read(fd, chunk, CHUNK_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
            goto free_all;
        }
        if (n == 0)
            break;
        hash_sha256_update(hash, chunk, (size_t)n);
    }
    hash_sha256_digest(hash, ret_digest);
    result = 0;
free_all:
    hash_sha256_destroy(hash);
    free(chunk);
    close(fd);
    return result;
}

void hash_hex(const uint8_t *bytes, size_t len_bytes, char *ret_hex) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len_bytes; i++) {
        ret_hex[2 * i] = digits[bytes[i] >> 4];
        ret_hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret_hex[2 * len_bytes] = '\0';
}

void hash_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t data_bytes, uint8_t ret_mac[HASH_SHA256_BYTES]) {
    unsigned len = HASH_SHA256_BYTES;
    HMAC(EVP_sha256(), key, (int)key_bytes, data, data_bytes, ret_mac, &len);
}

int hash_equal(const void *a, const void *b, size_t len_bytes) { return CRYPTO_memcmp(a, b, len_bytes) == 0; }

uint64_t hash_xxh64(const void *bytes, size_t len_bytes, uint64_t seed) { return XXH64(bytes, len_bytes, seed); }
