/* HELLO's body from anybody who holds the secret, or has stolen it. What is accepted must survive encoding again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes) {
    struct cluster_hello hello, again;
    struct err err;
    if (cluster_hello_decode((const char *)data, len_bytes, &hello, &err) != 0) {
        if (err.code != ERR_PEER || err.msg[0] == '\0')
            abort();
        return 0;
    }
    if (hello.protocol != CLUSTER_PROTOCOL)
        return 0;
    char *text = cluster_hello_encode(&hello);
    if (text != NULL && (cluster_hello_decode(text, strlen(text), &again, &err) != 0 || memcmp(&hello, &again, sizeof hello) != 0))
        abort();
    free(text);
    return 0;
}
