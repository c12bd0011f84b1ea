/* Collectives over all shapes of groups: every rank has the same bits, and they are the sum. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hash.h"
#include "comm/inside.h"
#include "world_kit.h"

static const int layouts[][8] = {
    {1}, {2}, {3}, {4}, {7}, {1, 1}, {1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1}, {2, 1}, {1, 2}, {3, 4}, {2, 2, 3}, {4, 3, 1, 2, 1}};
enum { N_LAYOUTS = sizeof layouts / sizeof layouts[0] };

static float value_of(int rank, size_t i, uint64_t round) { return (float)(rand_ctr_unit(round * 1000 + (uint64_t)rank, i) * 2.0 - 1.0); }

static int check(struct kit_seat *seat, int ok, const char *what, size_t n) {
    return ok ? 0 : err_set(&seat->err, ERR_INTERNAL, "rank %d: %s (n = %zu)", seat->rank, what, n);
}

/* One all-reduce of n floats over `members`; the hash of the result goes through a gather to the first member, which compares. */
static int reduce_and_compare(struct kit_seat *seat, struct comm_group *group, const int *members, int n_members, size_t n,
                              uint64_t round) {
    float *data = malloc((n + 1) * sizeof *data);
    uint64_t *hashes = malloc((size_t)n_members * sizeof *hashes);
    int rc = -1;
    for (size_t i = 0; i < n; i++)
        data[i] = value_of(seat->rank, i, round);
    data[n] = 12345.0f;
    if (comm_allreduce(group, data, n, &seat->err) != 0)
        goto done;
    for (size_t i = 0; i < n; i += n > 5000 ? 97 : 1) {
        double sum = 0, size = 0;
        for (int m = 0; m < n_members; m++) {
            sum += value_of(members[m], i, round);
            size += fabs(value_of(members[m], i, round));
        }
        if (check(seat, fabs(sum - data[i]) <= size * 1e-6, "wrong sum", n) != 0)
            goto done;
    }
    if (check(seat, data[n] == 12345.0f, "written past the end", n) != 0)
        goto done;
    uint64_t hash = hash_xxh64(data, n * sizeof *data, 0);
    int root = (int)(round % (uint64_t)n_members);
    if (comm_gather(group, root, &hash, sizeof hash, comm_group_index(group) == root ? hashes : NULL, &seat->err) != 0)
        goto done;
    for (int m = 0; m < n_members && comm_group_index(group) == root; m++)
        if (check(seat, hashes[m] == hash, "other bits on another rank", n) != 0)
            goto done;
    rc = 0;
done:
    free(data);
    free(hashes);
    return rc;
}

static int sums_rank(struct kit_seat *seat) {
    static const size_t sizes[] = {1, 2, 3, 5, 7, 64, 1000, 1023, 4096, 4097, 20000, 32768, 32769, 100003, 300001};
    int members[COMM_MAX_RANKS] = {0};
    struct comm_group *group = NULL;
    int rc = -1;
    for (int i = 0; i < seat->kit->n_ranks; i++)
        members[i] = i;
    if (comm_group_join(seat->world, seat->rank, members, seat->kit->n_ranks, 150000, &group, &seat->err) != 0)
        return -1;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int again = 0; again < (sizes[s] < 5000 ? 3 : 1); again++)
            if (reduce_and_compare(seat, group, members, seat->kit->n_ranks, sizes[s], s * 10 + (uint64_t)again) != 0)
                goto leave;
    rc = 0;
leave:
    comm_group_leave(group);
    return rc;
}

static void test_sums(void **state) {
    (void)state;
    for (int l = 0; l < N_LAYOUTS; l++) {
        for (int is_dealt = 0; is_dealt < 2; is_dealt++) {
            struct kit kit;
            kit_create(&kit, layouts[l], is_dealt, 60000);
            kit_connect(&kit);
            kit_run(&kit, sums_rank, NULL);
            kit_destroy(&kit);
        }
    }
}

static int crowd_rank(struct kit_seat *seat) {
    int members[COMM_MAX_RANKS] = {0};
    struct comm_group *group = NULL;
    int rc = -1, n = seat->kit->n_ranks;
    for (int i = 0; i < n; i++)
        members[i] = i;
    if (comm_group_join(seat->world, seat->rank, members, n, 4096, &group, &seat->err) != 0)
        return -1;
    for (uint64_t round = 0; round < 8; round++)
        if (reduce_and_compare(seat, group, members, n, 1 + 900 * round, round) != 0)
            goto leave;
    rc = 0;
leave:
    comm_group_leave(group);
    return rc;
}

/* Many more ranks than cores. */
static void test_crowd(void **state) {
    (void)state;
    static const int crowds[][8] = {{24}, {12, 12, 4}, {3, 3, 3, 3, 3, 3}};
    for (size_t i = 0; i < sizeof crowds / sizeof crowds[0]; i++) {
        struct kit kit;
        kit_create(&kit, crowds[i], 0, 60000);
        kit_connect(&kit);
        kit_run(&kit, crowd_rank, NULL);
        kit_destroy(&kit);
    }
}

/* Every algorithm between nodes, also where select.c would not take it. */
struct forced {
    comm_allreduce_fn fn;
    size_t n;
    uint64_t hashes[COMM_MAX_RANKS];
};

static int forced_rank(struct kit_seat *seat) {
    struct forced *forced = seat->arg;
    int members[COMM_MAX_RANKS] = {0}, n_ranks = seat->kit->n_ranks;
    struct comm_group *group = NULL;
    for (int i = 0; i < n_ranks; i++)
        members[i] = i;
    if (comm_group_join(seat->world, seat->rank, members, n_ranks, forced->n, &group, &seat->err) != 0)
        return -1;
    free(group->scratch);
    group->scratch = malloc((size_t)n_ranks * (forced->n + 1) * sizeof(float));
    float *vec = malloc((forced->n + 1) * sizeof *vec);
    for (size_t i = 0; i < forced->n; i++)
        vec[i] = value_of(seat->rank, i, 77);
    int rc = forced->fn(group, vec, forced->n, NET_NO_DEADLINE, &seat->err);
    for (size_t i = 0; i < forced->n && rc == 0; i++) {
        float sum = value_of(0, i, 77);
        for (int m = 1; m < n_ranks; m++)
            sum += value_of(m, i, 77);
        rc = check(seat, sum == vec[i], "not the sum in the order of parts", forced->n);
    }
    forced->hashes[seat->rank] = hash_xxh64(vec, forced->n * sizeof *vec, 0);
    free(vec);
    comm_group_leave(group);
    return rc;
}

static void test_algorithms(void **state) {
    (void)state;
    static const comm_allreduce_fn fns[] = {comm_allreduce_direct, comm_allreduce_scattered};
    static const size_t sizes[] = {1, 2, 3, 1000, 70001};
    for (int n_nodes = 2; n_nodes <= 9; n_nodes++) {
        int layout[16] = {0};
        struct kit kit;
        for (int i = 0; i < n_nodes; i++)
            layout[i] = 1;
        kit_create(&kit, layout, 0, 60000);
        kit_connect(&kit);
        for (int f = 0; f < 2; f++) {
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                struct forced forced = {.fn = fns[f], .n = sizes[s]};
                kit_run(&kit, forced_rank, &forced);
                for (int i = 1; i < n_nodes; i++)
                    assert_int_equal(forced.hashes[i], forced.hashes[0]);
            }
        }
        kit_destroy(&kit);
    }
}

/*
 * Rows that are reduced alone, in steps of a few and all together have the same bits: what a token's hidden state becomes does not depend on
 * its company. The sizes cross every limit of select.c, and the row's place in the vector changes.
 */
enum { ROW_FLOATS = 1536, MOST_ROWS = 120 };

static void fill_row(float *row, int rank, int number) {
    for (size_t i = 0; i < ROW_FLOATS; i++)
        row[i] = value_of(rank, i, 1000 + (uint64_t)number);
}

static int rows_rank(struct kit_seat *seat) {
    static const int batches[] = {1, 2, 3, 5, 16, 50, MOST_ROWS};
    int members[COMM_MAX_RANKS] = {0}, rc = -1;
    struct comm_group *group = NULL;
    float *alone = malloc(ROW_FLOATS * sizeof *alone), *rows = malloc(MOST_ROWS * ROW_FLOATS * sizeof *rows);
    for (int i = 0; i < seat->kit->n_ranks; i++)
        members[i] = i;
    if (comm_group_join(seat->world, seat->rank, members, seat->kit->n_ranks, MOST_ROWS * ROW_FLOATS, &group, &seat->err) != 0)
        goto done;
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
        int n = batches[b], first = MOST_ROWS - n;
        for (int r = 0; r < n; r++)
            fill_row(rows + r * ROW_FLOATS, seat->rank, first + r);
        if (comm_allreduce(group, rows, (size_t)n * ROW_FLOATS, &seat->err) != 0)
            goto done;
        if (b == 0)
            memcpy(alone, rows, ROW_FLOATS * sizeof *rows);
        if (check(seat, memcmp(rows + (n - 1) * ROW_FLOATS, alone, ROW_FLOATS * sizeof *rows) == 0, "a row's sum depends on its company",
                  (size_t)n) != 0)
            goto done;
    }
    rc = 0;
done:
    comm_group_leave(group);
    free(alone);
    free(rows);
    return rc;
}

static void test_rows_do_not_depend_on_company(void **state) {
    (void)state;
    for (int l = 0; l < N_LAYOUTS; l++) {
        struct kit kit;
        kit_create(&kit, layouts[l], l % 2, 60000);
        kit_connect(&kit);
        kit_run(&kit, rows_rank, NULL);
        kit_destroy(&kit);
    }
}

static int roots_rank(struct kit_seat *seat) {
    int members[COMM_MAX_RANKS] = {0}, n = seat->kit->n_ranks;
    struct comm_group *group = NULL;
    static const size_t lens[] = {0, 1, 13, 4096, 300001, 3000001};
    int rc = -1;
    for (int i = 0; i < n; i++)
        members[i] = i;
    if (comm_group_join(seat->world, seat->rank, members, n, 100, &group, &seat->err) != 0)
        return -1;
    for (int root = 0; root < n; root++) {
        for (size_t l = 0; l < sizeof lens / sizeof lens[0]; l++) {
            size_t len = lens[l];
            if (len > 1000000 && root > 1)
                continue;
            uint8_t *mine = malloc(len + 1), *all = malloc((size_t)n * len + 1);
            memset(mine, seat->rank + 1, len + 1);
            all[(size_t)n * len] = 99;
            rc = comm_gather(group, root, mine, len, root == seat->rank ? all : NULL, &seat->err);
            for (size_t i = 0; rc == 0 && root == seat->rank && i < (size_t)n * len; i++)
                rc = check(seat, all[i] == i / len + 1, "wrong byte gathered", len);
            if (rc == 0)
                rc = check(seat, all[(size_t)n * len] == 99, "written past the end", len);
            if (rc == 0)
                rc = comm_broadcast(group, root, mine, len, &seat->err);
            for (size_t i = 0; rc == 0 && i < len; i++)
                rc = check(seat, mine[i] == root + 1, "wrong byte broadcast", len);
            free(mine);
            free(all);
            if (rc != 0)
                goto leave;
        }
    }
leave:
    comm_group_leave(group);
    return rc;
}

static void test_roots(void **state) {
    (void)state;
    static const int some[] = {0, 1, 4, 6, 9, 11, 12};
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        struct kit kit;
        kit_create(&kit, layouts[some[i]], (int)i % 2, 60000);
        kit_connect(&kit);
        kit_run(&kit, roots_rank, NULL);
        kit_destroy(&kit);
    }
}

/*
 * Two pipeline stages, each a tensor-parallel group, as a model runs: activations go from a rank of stage 0 to its counterpart in stage 1
 * and a token goes back some steps later, with all-reduces of random length and number in between, and a group over all now and then.
 */
static int stages_rank(struct kit_seat *seat) {
    int n = seat->kit->n_ranks, tp = n / 2, stage = seat->rank / tp, peer = stage == 0 ? seat->rank + tp : seat->rank - tp;
    int mine[COMM_MAX_RANKS] = {0}, all[COMM_MAX_RANKS] = {0};
    struct comm_group *group = NULL, *whole = NULL;
    enum { N_STEPS = 120, LAG = 3, MOST = 700001 };
    uint8_t *bytes = malloc(MOST);
    int rc = -1;
    for (int i = 0; i < n; i++)
        all[i] = i;
    for (int i = 0; i < tp; i++)
        mine[i] = stage * tp + i;
    if (comm_group_join(seat->world, seat->rank, mine, tp, 5000, &group, &seat->err) != 0 ||
        comm_group_join(seat->world, seat->rank, all, n, 5000, &whole, &seat->err) != 0)
        goto leave;
    for (int step = 0; step < N_STEPS + LAG; step++) {
        size_t len = rand_ctr_u64(5, (uint64_t)step) % (step % 10 == 0 ? MOST : 30000);
        int token = -1;
        if (step < N_STEPS) {
            memset(bytes, step + mine[0], len);
            if (stage == 0 && comm_send(seat->world, seat->rank, peer, bytes, len, &seat->err) != 0)
                goto leave;
            memset(bytes, 0, len);
            if (stage == 1 && comm_recv(seat->world, peer, seat->rank, bytes, len, &seat->err) != 0)
                goto leave;
            for (size_t i = 0; i < len && stage == 1; i++)
                if (check(seat, bytes[i] == (uint8_t)step, "wrong activation", len) != 0)
                    goto leave;
            if (stage == 1 && comm_send(seat->world, seat->rank, peer, &step, sizeof step, &seat->err) != 0)
                goto leave;
        }
        for (uint64_t r = rand_ctr_u64(6, (uint64_t)(step * 2 + stage)) % 4; r > 0; r--)
            if (reduce_and_compare(seat, group, mine, tp, 1 + rand_ctr_u64(7, (uint64_t)step + r) % 9000, (uint64_t)step + r) != 0)
                goto leave;
        if (stage == 0 && step >= LAG &&
            (comm_recv(seat->world, peer, seat->rank, &token, sizeof token, &seat->err) != 0 ||
             check(seat, token == step - LAG, "wrong token", 0) != 0))
            goto leave;
    }
    if (reduce_and_compare(seat, whole, all, n, 2000, 3) != 0)
        goto leave;
    rc = 0;
leave:
    comm_group_leave(whole);
    comm_group_leave(group);
    free(bytes);
    return rc;
}

static void test_stages(void **state) {
    (void)state;
    static const int stage_layouts[][8] = {{2}, {4}, {6}, {1, 1}, {2, 2}, {1, 3}, {3, 3}, {1, 1, 1, 1}, {2, 3, 1}};
    for (size_t i = 0; i < sizeof stage_layouts / sizeof stage_layouts[0]; i++) {
        struct kit kit;
        kit_create(&kit, stage_layouts[i], 0, 60000);
        kit_connect(&kit);
        kit_run(&kit, stages_rank, NULL);
        kit_destroy(&kit);
    }
}

static void test_join_refuses(void **state) {
    (void)state;
    struct kit kit;
    struct err err;
    struct comm_group *group;
    kit_create(&kit, (int[]){2, 1, 0}, 0, 1000);
    assert_int_equal(comm_group_join(kit.worlds[0], 0, (int[]){1, 0}, 2, 10, &group, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    assert_int_equal(comm_group_join(kit.worlds[0], 0, (int[]){1, 2}, 2, 10, &group, &err), -1);
    assert_int_equal(comm_group_join(kit.worlds[0], 2, (int[]){1, 2}, 2, 10, &group, &err), -1);
    assert_int_equal(comm_group_join(kit.worlds[0], 0, (int[]){0, 3}, 2, 10, &group, &err), -1);
    assert_int_equal(comm_group_join(kit.worlds[0], 0, (int[]){0}, 0, 10, &group, &err), -1);
    /* A group of one does nothing, connected or not. */
    float one = 3;
    int copy = 0;
    assert_int_equal(comm_group_join(kit.worlds[0], 1, (int[]){1}, 1, 10, &group, &err), 0);
    assert_int_equal(comm_allreduce(group, &one, 1, &err), 0);
    assert_true(one == 3);
    assert_int_equal(comm_gather(group, 0, &(int){7}, sizeof(int), &copy, &err), 0);
    assert_int_equal(copy, 7);
    assert_int_equal(comm_broadcast(group, 0, &copy, sizeof copy, &err), 0);
    assert_int_equal(comm_group_size(group), 1);
    assert_int_equal(comm_group_index(group), 0);
    comm_group_leave(group);
    kit_destroy(&kit);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums),  cmocka_unit_test(test_crowd),  cmocka_unit_test(test_algorithms),
                                       cmocka_unit_test(test_rows_do_not_depend_on_company),
                                       cmocka_unit_test(test_roots), cmocka_unit_test(test_stages), cmocka_unit_test(test_join_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
