/* Hashes: SHA-256 and HMAC-SHA-256 from libcrypto, xxh64 for keys that need no secrecy. Any thread. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define HASH_SHA256_BYTES 32
#define HASH_SHA256_HEX_BYTES 65 /* with the NUL */

/* Incremental SHA-256. create returns NULL when memory is out; destroy accepts NULL. */
struct hash_sha256;
struct hash_sha256 *hash_sha256_create(void);
void hash_sha256_update(struct hash_sha256 *hash, const void *bytes, size_t len_bytes);
void hash_sha256_digest(struct hash_sha256 *hash, uint8_t ret_digest[HASH_SHA256_BYTES]);
void hash_sha256_destroy(struct hash_sha256 *hash);

/* Whole file, streamed. Blocks. */
int hash_sha256_file(const char *path, uint8_t ret_digest[HASH_SHA256_BYTES], struct err *err);
void hash_hex(const uint8_t *bytes, size_t len_bytes, char *ret_hex); /* ret_hex: 2·len + 1 bytes */

void hash_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t data_bytes, uint8_t ret_mac[HASH_SHA256_BYTES]);
/* Compares without leaking the place of the first difference; nonzero when equal. */
int hash_equal(const void *a, const void *b, size_t len_bytes);

uint64_t hash_xxh64(const void *bytes, size_t len_bytes, uint64_t seed);

#endif
