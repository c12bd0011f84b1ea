/* The model as this node finds it; see checks.h. Downloads nothing: the agent runs with HF_HUB_OFFLINE. */
#include <limits.h>
#include <stdio.h>
#include <sys/vfs.h>

#include "base/progress.h"
#include "verify/checks.h"
#include "weights/hub.h"
#include "weights/store.h"

/* Names of file systems that several nodes can share; NULL for others. */
static const char *shared_name(long type) {
    static const struct {
        long type;
        const char *name;
    } known[] = {{0x6969, "NFS"},        {0x0bd00bd3, "Lustre"}, {0x19830326, "BeeGFS"}, {0x47504653, "GPFS"},
                 {0x00c36400, "CephFS"}, {0xff534d42, "SMB"},    {0x65735546, "FUSE"},   {0x01021997, "9p"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].type == type)
            return known[i].name;
    return NULL;
}

void check_model(const char *model, const char *revision, const char *download_dir, struct verify_findings *findings, json_t *facts) {
    char path[PATH_MAX], fingerprint[17], size[16];
    struct weights_store *store = NULL;
    struct err err;
    struct statfs fs;
    if (weights_hub_resolve(model, revision[0] ? revision : NULL, download_dir[0] ? download_dir : NULL, path, &err) != 0 ||
        weights_store_open(path, &store, &err) != 0 || weights_store_fingerprint(store, fingerprint, &err) != 0) {
        verify_findings_add(findings, 0, VERIFY_FAIL, "model", "Copy the model to the same place on every node, or mount the shared cache",
                            "%s", err.msg);
        weights_store_close(store);
        return;
    }
    const char *shared = statfs(path, &fs) == 0 ? shared_name((long)fs.f_type) : NULL;
    progress_bytes_text(weights_store_bytes(store), size);
    json_object_set_new(facts, "fingerprint", json_string(fingerprint));
    json_object_set_new(facts, "model_bytes", json_integer((json_int_t)weights_store_bytes(store)));
    verify_findings_add(findings, 0, VERIFY_OK, "model", NULL, "%s, %s of weights%s%s, fingerprint %s", path, size,
                        shared != NULL ? ", on " : "", shared != NULL ? shared : "", fingerprint);
    weights_store_close(store);
}
