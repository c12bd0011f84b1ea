/* HELLO's body, both ways; see hello.h. Any thread, no shared state. */
#include "cluster/hello.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host.h"
#include "base/json.h"

void cluster_hello_fill(struct cluster_hello *ret, const char *build, int slot, const char *address) {
    uint64_t total, available;
    host_memory(&total, &available);
    *ret = (struct cluster_hello){.protocol = CLUSTER_PROTOCOL,
                                  .slot = slot,
                                  .pid = getpid(),
                                  .n_cpus = host_cpus(),
                                  .mem_total_bytes = (int64_t)total,
                                  .mem_available_bytes = (int64_t)available};
    snprintf(ret->build, sizeof ret->build, "%s", build);
    snprintf(ret->address, sizeof ret->address, "%s", address);
    if (gethostname(ret->host_name, sizeof ret->host_name) != 0)
        snprintf(ret->host_name, sizeof ret->host_name, "%s", address);
    ret->host_name[sizeof ret->host_name - 1] = '\0';
}

char *cluster_hello_encode(const struct cluster_hello *hello) {
    json_t *json = json_pack("{s:I, s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I}", "protocol", (json_int_t)hello->protocol, "build",
                             hello->build, "slot", (json_int_t)hello->slot, "host_name", hello->host_name, "address", hello->address, "pid",
                             (json_int_t)hello->pid, "n_cpus", (json_int_t)hello->n_cpus, "memory_total_bytes",
                             (json_int_t)hello->mem_total_bytes, "memory_available_bytes", (json_int_t)hello->mem_available_bytes);
    char *text = json == NULL ? NULL : json_text(json);
    json_decref(json);
    return text;
}

/* A required number; -2 stands for "absent", which no field may be. */
static int take_int(const json_t *json, const char *key, int64_t min, int64_t max, int64_t *ret, struct err *err) {
    if (json_get_int(json, key, -2, min, max, ret, err) != 0)
        return -1;
    return *ret == -2 ? err_set(err, ERR_PEER, "'%s' is missing", key) : 0;
}

static int take_str(const json_t *json, const char *key, char *ret, size_t size_bytes, struct err *err) {
    const char *text;
    if (json_get_str(json, key, NULL, &text, err) != 0)
        return -1;
    if (text == NULL || text[0] == '\0')
        return err_set(err, ERR_PEER, "'%s' is missing", key);
    if (strlen(text) >= size_bytes)
        return err_set(err, ERR_PEER, "'%s' is longer than %zu bytes", key, size_bytes - 1);
    snprintf(ret, size_bytes, "%s", text);
    return 0;
}

static int take_fields(const json_t *json, struct cluster_hello *ret, struct err *err) {
    if (!json_is_object(json))
        return err_set(err, ERR_PEER, "it is not an object but %s", json_type_name(json));
    if (take_int(json, "protocol", 1, INT_MAX, &ret->protocol, err) != 0 ||
        take_str(json, "build", ret->build, sizeof ret->build, err) != 0)
        return -1;
    if (ret->protocol != CLUSTER_PROTOCOL)
        return 0;
    if (take_int(json, "slot", -1, INT_MAX, &ret->slot, err) != 0 ||
        take_str(json, "host_name", ret->host_name, sizeof ret->host_name, err) != 0 ||
        take_str(json, "address", ret->address, sizeof ret->address, err) != 0 || take_int(json, "pid", 0, INT_MAX, &ret->pid, err) != 0 ||
        take_int(json, "n_cpus", 1, 1 << 20, &ret->n_cpus, err) != 0 ||
        take_int(json, "memory_total_bytes", 0, INT64_MAX, &ret->mem_total_bytes, err) != 0 ||
        take_int(json, "memory_available_bytes", 0, INT64_MAX, &ret->mem_available_bytes, err) != 0)
        return -1;
    return 0;
}

int cluster_hello_decode(const char *text, size_t len_bytes, struct cluster_hello *ret, struct err *err) {
    struct cluster_hello hello = {0};
    json_t *json = json_parse(text, len_bytes, err);
    int result = json == NULL ? -1 : take_fields(json, &hello, err);
    json_decref(json);
    if (result == 0) {
        *ret = hello;
    } else if (err != NULL) {
        err->code = ERR_PEER; /* whoever read it: the peer is to blame, not a user */
        err_wrap(err, "HELLO");
    }
    return result;
}
