/*
 * Speed of the kernels alone, on the matrices of a Qwen3-0.6B layer: bytes of weights per second for one token, beside
 * the read bandwidth of this machine in the same run, operations per second for many tokens, and attention over a long
 * context. Each figure is the best of several rounds, taken in turn with the bandwidth, since machines are noisy.
 *
 *   kernels_bench [--cpu-max ISA] [--threads N] [--tokens N] [--dtype NAME] [--rounds N]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/rand.h"
#include "base/team.h"
#include "kernels/attention.h"
#include "kernels/dispatch.h"
#include "kernels/matrix.h"
#include "kernels/vector.h"

enum { MAX_COLS = 3072, MAX_MATRICES = 512, PANELS_AT_ONCE = 4, PART_TOKENS = 512 /* as the model's */, SHORT_CONTEXT = 8192 };
enum { MOST_STREAMED = 64 /* tokens for which weights come from memory, as in a step; for more one layer will do */ };

static const int shapes[][2] = {{2048, 1024}, {1024, 1024}, {1024, 1024}, {1024, 2048}, {3072, 1024}, {3072, 1024}, {1024, 3072}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

struct work {
    struct team *team;
    struct kernels_matrix matrices[MAX_MATRICES];
    int n_matrices;
    int n_tokens;
    struct kernels_acts acts[MAX_COLS / 1024 + 1]; /* by n_cols / 1024 */
    int n_acts_tokens;
    float *out;
    uint8_t *scratch;          /* [threads][KERNELS_SCRATCH_BYTES] */
    const uint64_t *stream;    /* read for the bandwidth */
    size_t n_stream;
    volatile uint64_t sink;
    struct kernels_attn attn;
    int n_heads;
    float *attn_out; /* [threads][KERNELS_ATTN_MAX_ROWS][head_dim] */
};

static void *aligned_new(size_t bytes)
{
    const size_t huge = (size_t)2 << 20, align = bytes >= huge ? huge : 64;
    void *memory = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (!memory) {
        fprintf(stderr, "kernels_bench: %zu bytes of memory could not be had\n", bytes);
        exit(1);
    }
    if (align == huge) /* fewer pages to look up while streaming, as the program does for its weights */
        madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

/* Four streams at a time: one alone stays below what a core can read. */
static void stream_read(void *arg, int thread)
{
    struct work *work = arg;
    enum { STREAMS = 4, RUN = 8192 /* words */ };
    int begin, end;
    team_share(work->team, thread, (int)(work->n_stream / (STREAMS * RUN)), &begin, &end);
    uint64_t sums[STREAMS * 2] = {0};
    for (int part = begin; part < end; part++) {
        const uint64_t *at = work->stream + (size_t)part * STREAMS * RUN;
        for (size_t i = 0; i < RUN; i += 2)
            for (int j = 0; j < STREAMS * 2; j++)
                sums[j] ^= at[(size_t)(j / 2) * RUN + i + (size_t)j % 2];
    }
    for (int j = 0; j < STREAMS * 2; j++)
        work->sink += sums[j];
}

static void matrices_multiply(void *arg, int thread)
{
    struct work *work = arg;
    for (int i = 0; i < work->n_matrices; i++) {
        const struct kernels_matrix *matrix = &work->matrices[i];
        for (;;) {
            int begin = team_take(work->team) * PANELS_AT_ONCE;
            if (begin >= matrix->n_panels)
                break;
            int end = begin + PANELS_AT_ONCE < matrix->n_panels ? begin + PANELS_AT_ONCE : matrix->n_panels;
            kernels_matmul(matrix, &work->acts[matrix->n_cols / 1024], work->n_tokens, work->out, MAX_COLS, begin, end,
                           work->scratch + (size_t)thread * KERNELS_SCRATCH_BYTES);
        }
        team_barrier(work->team);
    }
}

/* Heads and parts of the context, as a decoding step shares them out. */
static void heads_attend(void *arg, int thread)
{
    struct work *work = arg;
    int n_parts = (work->attn.token_end + PART_TOKENS - 1) / PART_TOKENS;
    for (int i; (i = team_take(work->team)) < work->n_heads * n_parts;) {
        struct kernels_attn attn = work->attn;
        size_t first_block = (size_t)(i / n_parts) * (size_t)(attn.token_end / attn.block_size);
        attn.k_blocks += first_block;
        attn.v_blocks += first_block;
        attn.token_begin = i % n_parts * PART_TOKENS;
        if (attn.token_end > attn.token_begin + PART_TOKENS)
            attn.token_end = attn.token_begin + PART_TOKENS;
        float *out[KERNELS_ATTN_MAX_ROWS], max[KERNELS_ATTN_MAX_ROWS], sum[KERNELS_ATTN_MAX_ROWS];
        for (int row = 0; row < attn.n_rows; row++)
            out[row] = work->attn_out + ((size_t)thread * KERNELS_ATTN_MAX_ROWS + (size_t)row) * (size_t)attn.head_dim;
        kernels_attn_partial(&attn, out, max, sum, work->scratch + (size_t)thread * KERNELS_SCRATCH_BYTES);
    }
}

static double seconds(struct work *work, team_fn fn)
{
    int64_t begin = clock_mono_ns();
    team_run(work->team, fn, work);
    return (double)(clock_mono_ns() - begin) * 1e-9;
}

/* Layers of matrices until there are min_bytes, all packed from the same random rows, and the activations in the form that they read. */
static size_t matrices_make(struct work *work, enum dtype dtype, size_t min_bytes)
{
    size_t row_bytes = dtype_row_bytes(dtype, MAX_COLS), total = 0;
    uint8_t *rows = aligned_new(KERNELS_PANEL_ROWS * row_bytes);
    float *floats = aligned_new(MAX_COLS * sizeof(float));
    for (int r = 0; r < KERNELS_PANEL_ROWS; r++) {
        for (int i = 0; i < MAX_COLS; i++)
            floats[i] = (float)rand_ctr_unit(7, (uint64_t)(r * MAX_COLS + i)) - 0.5f;
        if (dtype <= DTYPE_Q4_0)
            kernels_row_from_f32(dtype, floats, MAX_COLS, rows + (size_t)r * row_bytes);
        else
            memset(rows + (size_t)r * row_bytes, 0x25 + r, row_bytes); /* sane as F16 too */
    }
    work->n_matrices = 0;
    do {
        for (int s = 0; s < N_SHAPES; s++) {
            struct kernels_matrix *matrix = &work->matrices[work->n_matrices++];
            size_t bytes = kernels_matrix_init(matrix, dtype, shapes[s][0], shapes[s][1]);
            matrix->data = aligned_new(bytes);
            total += bytes;
            for (int p = 0; p < matrix->n_panels; p++)
                kernels_matrix_pack_panel(matrix, p, rows, row_bytes, KERNELS_PANEL_ROWS);
        }
    } while (total < min_bytes && work->n_matrices + N_SHAPES <= MAX_MATRICES);
    for (int i = 1; i <= MAX_COLS / 1024; i++)
        kernels_acts_quantize(&work->acts[i], kernels_matrix_acts(&work->matrices[0]), 0, work->n_acts_tokens);
    free(rows);
    free(floats);
    return total;
}

static void matrices_free(struct work *work)
{
    for (int i = 0; i < work->n_matrices; i++)
        free(work->matrices[i].data);
}

static double matrices_ops(const struct work *work)
{
    double ops = 0;
    for (int i = 0; i < work->n_matrices; i++)
        ops += 2.0 * work->matrices[i].n_rows * work->matrices[i].n_cols * work->n_tokens;
    return ops;
}

static void acts_make(struct work *work, int n_tokens)
{
    work->n_acts_tokens = n_tokens;
    for (int i = 1; i <= MAX_COLS / 1024; i++) {
        int n_cols = i * 1024;
        float *x = aligned_new((size_t)n_tokens * (size_t)n_cols * sizeof(float));
        for (size_t j = 0; j < (size_t)n_tokens * (size_t)n_cols; j++)
            x[j] = (float)rand_ctr_unit(8, j) - 0.5f;
        work->acts[i] = (struct kernels_acts){.n_cols = n_cols, .stride_cols = n_cols, .f32 = x};
        kernels_acts_place(&work->acts[i], n_tokens, aligned_new(kernels_acts_bytes(n_tokens, n_cols)));
    }
    work->out = aligned_new((size_t)n_tokens * MAX_COLS * sizeof(float));
}

/* GB/s of weights for a few tokens and the share of the read bandwidth of the same rounds. */
static void decode_measure(struct work *work, size_t bytes, int n_tokens, int n_rounds)
{
    double best = 1e9, best_stream = 1e9;
    work->n_tokens = n_tokens;
    for (int i = 0; i < n_rounds; i++) {
        double stream = seconds(work, stream_read), time = seconds(work, matrices_multiply);
        best_stream = stream < best_stream ? stream : best_stream;
        best = time < best ? time : best;
    }
    double rate = (double)bytes / best * 1e-9, limit = (double)work->n_stream * 8 / best_stream * 1e-9;
    printf("  %2d token%s %6.2f GB/s of %6.2f (%3.0f %%)", n_tokens, n_tokens > 1 ? "s" : " ", rate, limit, 100 * rate / limit);
}

static void prefill_measure(struct work *work, int n_tokens, int n_rounds)
{
    double best = 1e9;
    work->n_tokens = n_tokens;
    for (int i = 0; i < n_rounds; i++) {
        double time = seconds(work, matrices_multiply);
        best = time < best ? time : best;
    }
    printf("  %d tokens %7.1f GOP/s", n_tokens, matrices_ops(work) / best * 1e-9);
}

static double attend_best(struct work *work, int n_rounds, double *ret_stream)
{
    double best = 1e9;
    *ret_stream = 1e9;
    for (int i = 0; i < n_rounds; i++) {
        double stream = seconds(work, stream_read), time = seconds(work, heads_attend);
        *ret_stream = stream < *ret_stream ? stream : *ret_stream;
        best = time < best ? time : best;
    }
    return best;
}

/* One layer's attention for one new token, n_rows query heads on each of n_heads KV heads, beside the bytes of KV cache that it reads. */
static void decode_attend_measure(struct work *work, const char *who, enum dtype kv_dtype, int n_heads, int n_rows, int context, int n_rounds)
{
    enum { BLOCK = 16, HEAD_DIM = 128 };
    size_t block_bytes = BLOCK * dtype_row_bytes(kv_dtype, HEAD_DIM), n_blocks = (size_t)n_heads * (size_t)(context / BLOCK);
    uint8_t *memory = aligned_new(2 * n_blocks * block_bytes);
    memset(memory, 0x3c, 2 * n_blocks * block_bytes); /* sane as BF16, as 8 bits and as a scale */
    const void **blocks = aligned_new(2 * n_blocks * sizeof *blocks);
    int limits[KERNELS_ATTN_MAX_ROWS];
    const float *q[KERNELS_ATTN_MAX_ROWS];
    for (size_t i = 0; i < 2 * n_blocks; i++)
        blocks[i] = memory + i * block_bytes;
    for (int i = 0; i < n_rows; i++) {
        limits[i] = context;
        q[i] = work->acts[1].f32 + (size_t)i * HEAD_DIM;
    }
    work->n_heads = n_heads;
    work->attn = (struct kernels_attn){kv_dtype, HEAD_DIM, BLOCK, 0.088f, blocks, blocks + n_blocks, 0, context, n_rows, q, limits};
    double stream, best = attend_best(work, n_rounds, &stream);
    double rate = (double)(2 * n_blocks * block_bytes) / best * 1e-9, limit = (double)work->n_stream * 8 / stream * 1e-9;
    printf("  %s, KV %s, context %5d: %7.3f ms a layer, %6.1f MB of KV cache read, %6.2f GB/s of %6.2f (%3.0f %%)\n", who, dtype_name(kv_dtype),
           context, best * 1e3, (double)(2 * n_blocks * block_bytes) * 1e-6, rate, limit, 100 * rate / limit);
    fflush(stdout);

    if (context == SHORT_CONTEXT) { /* prefill: 64 rows at the end of a context of 512 */
        for (int i = 0; i < KERNELS_ATTN_MAX_ROWS; i++) {
            limits[i] = PART_TOKENS - (KERNELS_ATTN_MAX_ROWS - 1 - i) / n_rows;
            q[i] = work->acts[1].f32 + (size_t)i * HEAD_DIM;
        }
        work->attn.n_rows = KERNELS_ATTN_MAX_ROWS;
        work->attn.token_end = PART_TOKENS;
        best = attend_best(work, n_rounds, &stream);
        printf("  %s, KV %s, prefill of 512: %.1f GOP/s\n", who, dtype_name(kv_dtype),
               4.0 * n_heads * KERNELS_ATTN_MAX_ROWS * PART_TOKENS * HEAD_DIM / best * 1e-9);
    }
    free(memory);
    free(blocks);
}

static void attention_measure(struct work *work, int n_rounds)
{
    static const enum dtype formats[] = {DTYPE_BF16, DTYPE_I8};
    for (int f = 0; f < 2; f++)
        for (int context = SHORT_CONTEXT; context <= 4 * SHORT_CONTEXT; context *= 4) {
            decode_attend_measure(work, "16 heads on 8", formats[f], 8, 2, context, n_rounds);
            decode_attend_measure(work, "64 heads on 4", formats[f], 4, 16, context, n_rounds);
        }
}

int main(int argc, char **argv)
{
    enum kernels_isa isa = KERNELS_ISA_COUNT - 1;
    int max_threads = 2, n_tokens = 512, n_rounds = 15;
    const char *only = NULL;
    int cpus[TEAM_MAX_THREADS];
    for (int i = 0; i < TEAM_MAX_THREADS; i++)
        cpus[i] = i;
    struct err err;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--cpu-max") == 0 && kernels_isa_parse(argv[i + 1], &isa, &err) != 0) {
            fprintf(stderr, "kernels_bench: %s\n", err.msg);
            return 1;
        }
        if (strcmp(argv[i], "--threads") == 0)
            max_threads = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--tokens") == 0)
            n_tokens = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--rounds") == 0)
            n_rounds = atoi(argv[i + 1]);
        if (strcmp(argv[i], "--dtype") == 0)
            only = argv[i + 1];
    }
    isa = kernels_setup(isa);
    struct work *work = aligned_new(sizeof *work);
    memset(work, 0, sizeof *work);
    work->n_stream = (size_t)256 << 17; /* 256 MiB */
    uint64_t *stream = aligned_new(work->n_stream * 8);
    memset(stream, 1, work->n_stream * 8);
    work->stream = stream;
    work->scratch = aligned_new((size_t)max_threads * KERNELS_SCRATCH_BYTES);
    work->attn_out = aligned_new((size_t)max_threads * KERNELS_ATTN_MAX_ROWS * 128 * sizeof(float));
    acts_make(work, n_tokens < 16 ? 16 : n_tokens);
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        if (only && strcmp(only, dtype_name((enum dtype)dtype)) != 0)
            continue;
        size_t bytes = matrices_make(work, (enum dtype)dtype, (size_t)256 << 20);
        for (int n = 1; n <= max_threads; n++) {
            if (team_create(n, cpus, &work->team, &err) != 0) {
                fprintf(stderr, "kernels_bench: %s\n", err.msg);
                return 1;
            }
            printf("%s %-5s %d thread%s", kernels_isa_name(isa), dtype_name((enum dtype)dtype), n, n > 1 ? "s" : " ");
            decode_measure(work, bytes, 1, n_rounds);
            decode_measure(work, bytes, 4, n_rounds);
            int n_all = work->n_matrices;
            prefill_measure(work, 16, n_rounds / 3 + 1);
            if (n_tokens > MOST_STREAMED)
                work->n_matrices = N_SHAPES;
            prefill_measure(work, n_tokens, n_rounds / 3 + 1);
            work->n_matrices = n_all;
            printf("\n");
            fflush(stdout);
            team_destroy(work->team);
        }
        matrices_free(work);
    }
    for (int n = 1; n <= max_threads; n++) {
        if (team_create(n, cpus, &work->team, &err) != 0) {
            fprintf(stderr, "kernels_bench: %s\n", err.msg);
            return 1;
        }
        printf("%s %d thread%s: attention\n", kernels_isa_name(isa), n, n > 1 ? "s" : "");
        attention_measure(work, n_rounds);
        team_destroy(work->team);
    }
    return 0;
}
