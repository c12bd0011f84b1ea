/*
 * Packed shards on disk: the second load of a shard reads nothing of the model's tensors and has the same bits; a file that is
 * damaged, cut short, of another layout, of another shard or of another model is not believed and written anew; a folder that
 * cannot be written, a full disk and another writer hold nobody up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "kernels/dispatch.h"
#include "model/decoder.h"

enum { MAX_RANKS = 8, MAX_BYTES = 16 << 20, DATA_BEGIN = 4096, LAYOUT_AT = 8, HEAD_BYTES = 72 };

static const char MODEL[] = TEST_DATA_DIR "/models/tiny-qwen3";
static char folder[] = "/tmp/shoal-test-cache.XXXXXX";
static struct team *team;
static struct weights_store *store;
static char fingerprint[17];

static int setup(void **state) {
    (void)state;
    struct err err;
    log_setup(LOG_ERROR, "test"); /* warnings are what most of these loads give */
    kernels_setup(kernels_isa_detect());
    return mkdtemp(folder) == NULL || team_create(3, NULL, &team, &err) != 0 || weights_store_open(MODEL, &store, &err) != 0 ||
                   weights_store_fingerprint(store, fingerprint, &err) != 0
               ? -1
               : 0;
}

static int teardown(void **state) {
    (void)state;
    weights_store_close(store);
    team_destroy(team);
    return rmdir(folder);
}

/* Files of the folder; the name of the last one in `name` unless NULL. */
static int count_files(char name[512]) {
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        n++;
        if (name != NULL)
            snprintf(name, 512, "%s/%s", folder, entry->d_name);
    }
    closedir(dir);
    return n;
}

static int empty_folder(void **state) {
    (void)state;
    for (char path[512]; count_files(path) > 0;)
        if (unlink(path) != 0 && rmdir(path) != 0)
            return -1;
    return 0;
}

/* One load of one rank. */
struct load {
    const char *folder, *fingerprint; /* NULL: the usual */
    int tp, pp, rank;
    bool keeps_f32;
    const atomic_int *cancel;
    /* What came of it. */
    int rc;
    struct err err;
    uint64_t read_bytes, saved_bytes, hash, weights_bytes;
};

static void run(struct load *load) {
    struct err err;
    struct model_config config;
    struct model_split split;
    struct model *model;
    model_progress progress = 0, saved = 0;
    struct model_cache cache = {.folder = load->folder != NULL ? load->folder : folder,
                                .fingerprint = load->fingerprint != NULL ? load->fingerprint : fingerprint};
    struct model_opts opts = {
        .team = team, .kv_dtype = DTYPE_BF16, .keeps_f32 = load->keeps_f32, .block_size = 16, .max_step_tokens = 8, .max_step_seqs = 2, .max_context = 64};
    int tp = load->tp > 0 ? load->tp : 1, pp = load->pp > 0 ? load->pp : 1;
    assert_int_equal(model_config_load(MODEL, store, NULL, &config, &err), 0);
    assert_int_equal(model_split_compute(&config, tp, pp, false, NULL, load->rank, &split, &err), 0);
    assert_int_equal(model_create(&config, &split, &opts, &model, &err), 0);
    load->rc = model_load_cached(model, store, &cache, &progress, &saved, load->cancel, &load->err);
    load->read_bytes = model_bytes_read(model);
    load->saved_bytes = saved;
    load->weights_bytes = model->weights_bytes;
    if (load->rc == 0) {
        assert_int_equal(progress, model->weights_bytes);
        load->hash = hash_xxh64(model->weights, model->weights_bytes, 0);
    }
    model_destroy(model);
}

static struct load load_rank(int tp, int pp, int rank) {
    struct load load = {.tp = tp, .pp = pp, .rank = rank};
    run(&load);
    if (load.rc != 0)
        fail_msg("%s", load.err.msg);
    return load;
}

/* A load that must go to the model and write the cache, and one after it that must not. */
static void assert_loads_and_writes(const struct load *first) {
    struct load again = load_rank(first->tp, first->pp, first->rank);
    assert_true(again.read_bytes > 0);
    assert_int_equal(again.read_bytes, first->read_bytes);
    assert_int_equal(again.saved_bytes, again.weights_bytes);
    assert_true(again.hash == first->hash);
    again = load_rank(first->tp, first->pp, first->rank);
    assert_int_equal(again.read_bytes, 0);
    assert_int_equal(again.saved_bytes, 0);
    assert_true(again.hash == first->hash);
}

static void test_second_start_reads_nothing(void **state) {
    (void)state;
    static const int splits[][2] = {{1, 1}, {2, 1}, {4, 1}, {2, 2}, {1, 3}};
    int n_files = 0;
    for (size_t s = 0; s < sizeof splits / sizeof splits[0]; s++) {
        struct load first[MAX_RANKS];
        int tp = splits[s][0], pp = splits[s][1];
        for (int rank = 0; rank < tp * pp; rank++) {
            first[rank] = load_rank(tp, pp, rank);
            assert_true(first[rank].read_bytes > 0); /* no shard of another split is taken for this one */
            assert_int_equal(first[rank].saved_bytes, first[rank].weights_bytes);
        }
        n_files += tp * pp;
        assert_int_equal(count_files(NULL), n_files);
        uint64_t before = weights_store_bytes_read(store);
        for (int rank = 0; rank < tp * pp; rank++) {
            struct load second = load_rank(tp, pp, rank);
            assert_int_equal(second.read_bytes, 0);
            assert_int_equal(second.saved_bytes, 0);
            assert_true(second.hash == first[rank].hash);
        }
        assert_int_equal(weights_store_bytes_read(store), before);
    }
}

/* BF16 weights as they are are not taken for integers, nor the other way. */
static void test_other_packing(void **state) {
    (void)state;
    struct kernels_matrix matrix;
    kernels_matrix_init(&matrix, DTYPE_BF16, 1, KERNELS_GROUP);
    struct load first[2];
    for (int i = 0; i < 4; i++) {
        struct load load = {.keeps_f32 = i % 2 == 1};
        run(&load);
        assert_int_equal(load.rc, 0);
        assert_int_equal(load.read_bytes > 0, i == 0 || (i == 1 && matrix.is_i16));
        if (i < 2)
            first[i] = load;
        assert_true(load.hash == first[i % 2].hash);
    }
    assert_int_equal(first[0].hash != first[1].hash, matrix.is_i16);
}

/* A file's bytes in memory, to be changed and put back. */
static uint8_t bytes[MAX_BYTES];

static size_t read_bytes(const char *path) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_in_range(n, DATA_BEGIN + 1, sizeof bytes - 1);
    return n;
}

static void write_bytes(const char *path, size_t n) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
}

static void test_damage(void **state) {
    (void)state;
    char path[512];
    struct load first = load_rank(2, 1, 1);
    assert_int_equal(count_files(path), 1);
    size_t n = read_bytes(path);
    assert_int_equal(n, DATA_BEGIN + first.weights_bytes);
    /* One bit of the data: the first, the last, one inside. */
    size_t places[] = {DATA_BEGIN, n - 1, DATA_BEGIN + (n - DATA_BEGIN) / 2, DATA_BEGIN + (4 << 20)};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (places[i] >= n)
            continue;
        read_bytes(path);
        bytes[places[i]] ^= 16;
        write_bytes(path, n);
        assert_loads_and_writes(&first);
    }
    /* Every byte of the header. */
    for (size_t at = 0; at < HEAD_BYTES; at++) {
        read_bytes(path);
        bytes[at] ^= 1;
        write_bytes(path, n);
        struct load again = load_rank(2, 1, 1);
        assert_true(again.read_bytes > 0 && again.hash == first.hash);
    }
    /* Cut short, empty, too long; a folder in its place is no cache and cannot be replaced. */
    size_t lengths[] = {0, 1, HEAD_BYTES - 1, HEAD_BYTES, DATA_BEGIN, n - 1, n + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        read_bytes(path);
        write_bytes(path, lengths[i]);
        assert_loads_and_writes(&first);
    }
    unlink(path);
    assert_int_equal(mkdir(path, 0755), 0);
    struct load again = load_rank(2, 1, 1);
    assert_true(again.read_bytes > 0 && again.hash == first.hash);
    assert_int_equal(count_files(NULL), 1); /* nothing temporary is left */
}

static void test_another_layout(void **state) {
    (void)state;
    char path[512];
    struct load first = load_rank(1, 1, 0);
    count_files(path);
    size_t n = read_bytes(path);
    uint32_t layout = KERNELS_LAYOUT_VERSION + 1;
    assert_memory_equal(bytes + LAYOUT_AT, &(uint32_t){KERNELS_LAYOUT_VERSION}, sizeof layout);
    memcpy(bytes + LAYOUT_AT, &layout, sizeof layout);
    uint64_t hash = hash_xxh64(bytes, HEAD_BYTES - sizeof hash, 0); /* all is right but the version */
    memcpy(bytes + HEAD_BYTES - sizeof hash, &hash, sizeof hash);
    write_bytes(path, n);
    assert_loads_and_writes(&first);
    assert_int_equal(count_files(NULL), 1);
}

static void test_a_foreign_file(void **state) {
    (void)state;
    char one[512], other[512];
    struct load first = load_rank(4, 1, 1), second;
    count_files(one);
    size_t n = read_bytes(one);
    empty_folder(NULL);
    second = load_rank(4, 1, 2); /* of the same size */
    count_files(other);
    assert_int_equal(second.weights_bytes, first.weights_bytes);
    assert_string_not_equal(one, other);
    write_bytes(other, n);
    assert_loads_and_writes(&second);
    /* The same shard of another model. */
    empty_folder(NULL);
    first = load_rank(1, 1, 0);
    count_files(one);
    n = read_bytes(one);
    struct load foreign = {.fingerprint = "0123456789abcdef"};
    run(&foreign);
    assert_int_equal(foreign.rc, 0);
    assert_int_equal(foreign.read_bytes, first.read_bytes);
    assert_int_equal(count_files(NULL), 2);
    unlink(one);
    count_files(other);
    assert_int_equal(rename(other, one), 0);
    assert_loads_and_writes(&first);
}

static void test_folders_that_do_not_serve(void **state) {
    (void)state;
    char inside[512], deep[600];
    struct load first = load_rank(1, 1, 0);
    count_files(inside);
    snprintf(deep, sizeof deep, "%s/folder", inside); /* below a plain file */
    struct load load = {.folder = deep};
    run(&load);
    assert_int_equal(load.rc, 0);
    assert_true(load.read_bytes == first.read_bytes && load.hash == first.hash && load.saved_bytes == 0);
    char too_long[5000];
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[0] = '/';
    too_long[sizeof too_long - 1] = '\0';
    load = (struct load){.folder = too_long};
    run(&load);
    assert_int_equal(load.rc, -1);
    assert_int_equal(load.err.code, ERR_INVALID);
    /* A folder that is not there is made. */
    empty_folder(NULL);
    snprintf(deep, sizeof deep, "%s/a/b", folder);
    load = (struct load){.folder = deep};
    run(&load);
    assert_int_equal(load.saved_bytes, load.weights_bytes);
    run(&load);
    assert_int_equal(load.read_bytes, 0);
    char command[600];
    snprintf(command, sizeof command, "rm -r %s/a", folder);
    assert_int_equal(system(command), 0);
}

/* What a full disk looks like: no room for a file of this size. */
static void test_no_room(void **state) {
    (void)state;
    struct rlimit before, tight = {.rlim_cur = 1 << 20};
    struct load first = load_rank(1, 1, 0);
    empty_folder(NULL);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    tight.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    struct load load = load_rank(1, 1, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(load.read_bytes == first.read_bytes && load.hash == first.hash);
    assert_int_equal(count_files(NULL), 0);
    assert_loads_and_writes(&first);
}

static void test_writers_that_meet(void **state) {
    (void)state;
    char path[512], temp[520];
    struct load first = load_rank(1, 1, 0);
    count_files(path);
    unlink(path);
    snprintf(temp, sizeof temp, "%s.tmp", path);
    int fd = open(temp, O_RDWR | O_CREAT, 0644);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    struct load load = load_rank(1, 1, 0);
    assert_true(load.hash == first.hash && load.saved_bytes == 0);
    assert_int_equal(count_files(NULL), 1);
    /* Killed while it was writing: the lock is gone, half a file is left. */
    assert_int_equal(write(fd, "half", 4), 4);
    close(fd);
    assert_loads_and_writes(&first);
    assert_int_equal(count_files(path), 1);
    /* The temporary name leads elsewhere. */
    unlink(path);
    assert_int_equal(symlink("/nowhere/at/all", temp), 0);
    load = load_rank(1, 1, 0);
    assert_true(load.hash == first.hash && load.saved_bytes == 0);
}

static void test_cancelled(void **state) {
    (void)state;
    atomic_int cancel = 1;
    struct load load = {.cancel = &cancel};
    run(&load);
    assert_int_equal(load.rc, -1);
    assert_int_equal(load.err.code, ERR_CANCELLED);
    assert_int_equal(count_files(NULL), 0);
    load_rank(1, 1, 0);
    run(&load); /* now while reading the cache */
    assert_int_equal(load.rc, -1);
    assert_int_equal(load.err.code, ERR_CANCELLED);
    assert_int_equal(load.read_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_second_start_reads_nothing, empty_folder),
        cmocka_unit_test_teardown(test_other_packing, empty_folder),
        cmocka_unit_test_teardown(test_damage, empty_folder),
        cmocka_unit_test_teardown(test_another_layout, empty_folder),
        cmocka_unit_test_teardown(test_a_foreign_file, empty_folder),
        cmocka_unit_test_teardown(test_folders_that_do_not_serve, empty_folder),
        cmocka_unit_test_teardown(test_no_room, empty_folder),
        cmocka_unit_test_teardown(test_writers_that_meet, empty_folder),
        cmocka_unit_test_teardown(test_cancelled, empty_folder),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
