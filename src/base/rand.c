/* Random numbers; see rand.h. */
#include "base/rand.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

uint64_t rand_ctr_u64(uint64_t seed, uint64_t counter) {
    return rand_mix64(rand_mix64(seed + 0x9e3779b97f4a7c15u) ^ rand_mix64(counter * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u));
}

double rand_ctr_unit(uint64_t seed, uint64_t counter) { return (double)(rand_ctr_u64(seed, counter) >> 11) * 0x1.0p-53; }

int rand_secret(void *bytes, size_t len_bytes, struct err *err) {
    char *at = bytes;
    while (len_bytes > 0) {
        ssize_t n = getrandom(at, len_bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(err, ERR_IO, "cannot read random bytes: %s", strerror(errno));
        at += n;
        len_bytes -= (size_t)n;
    }
    return 0;
}
