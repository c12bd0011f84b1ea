/*
 * Runs a fuzz target over the files of its corpus: the build without libFuzzer. usage: fuzz_X DIR|FILE…
 * Beside each file as it is, it tries every truncation of small ones and a few hundred seeded mutations.
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/rand.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_LIMIT = 16 << 20, TRUNCATE_MOST = 512, N_MUTATIONS = 200 };

/* A copy of exactly `size` bytes, so that the address sanitizer sees a read past the end. */
static void run_copy(const char *bytes, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static int replay_file(const char *path) {
    struct err err;
    struct buf buf;
    buf_init(&buf, FILE_LIMIT);
    if (file_read(path, &buf, &err) != 0) {
        fprintf(stderr, "%s\n", err.msg);
        buf_finish(&buf);
        return -1;
    }
    run_copy(buf_str(&buf), buf.len_bytes);
    for (size_t n = 0; n < buf.len_bytes && n < TRUNCATE_MOST; n++)
        run_copy(buf_str(&buf), n);
    for (uint64_t m = 0; m < N_MUTATIONS && buf.len_bytes > 0; m++) {
        size_t at = rand_ctr_u64(m, 0) % buf.len_bytes;
        char kept = buf.data[at];
        buf.data[at] = (char)rand_ctr_u64(m, 1);
        run_copy(buf.data, buf.len_bytes);
        buf.data[at] = kept;
    }
    buf_finish(&buf);
    return 0;
}

int main(int argc, char **argv) {
    int n_files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (dir == NULL) {
            if (replay_file(argv[i]) != 0)
                return 1;
            n_files++;
            continue;
        }
        for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
            char path[PATH_MAX];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            if (replay_file(path) != 0)
                return 1;
            n_files++;
        }
        closedir(dir);
    }
    printf("%d corpus files replayed\n", n_files);
    return n_files > 0 ? 0 : 1;
}
