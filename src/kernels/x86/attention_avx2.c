/*
 * Attention over one KV head for AVX2 and FMA.
 *
 * The context is walked in tiles of TOKENS tokens. A tile's keys are converted to floats once (scratch, L1) and serve all
 * rows; then its values in the same place. Two rows at a time meet four keys, or four vectors of the values: 8
 * accumulators for 6 loads. While one tile is converted, the next to come is prefetched: blocks of the cache lie anywhere,
 * so the hardware does not see what follows.
 *
 * A row's result depends only on token_begin and its own limit: tiles begin at the same tokens for every row, sums run
 * over tokens in order, and a masked token adds zero.
 */
#include <math.h>

#include "kernels/ops.h"
#include "kernels/x86/exp_avx2.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { LANES = 8, TOKENS = 32, MAX_DIM = 256, MAX_ROWS = KERNELS_ATTN_MAX_ROWS };

struct scratch_attn {
    float rows[TOKENS * MAX_DIM]; /* [TOKENS][head_dim]: keys, then values, of a tile */
    float weights[MAX_ROWS][TOKENS];  /* scores, then their exponentials */
    float rescale[MAX_ROWS];      /* of the sums so far, after this tile's maximum */
};

_Static_assert(sizeof(struct scratch_attn) <= KERNELS_SCRATCH_BYTES, "scratch");

KERNELS_INLINE const uint8_t *row_at(const struct kernels_attn *attn, const void *const *blocks, int token, size_t row_bytes)
{
    return (const uint8_t *)blocks[token / attn->block_size] + (size_t)(token % attn->block_size) * row_bytes;
}

/* Tokens [begin, begin + n) to floats, prefetching n_next tokens from next_begin on in next_blocks. */
KERNELS_INLINE void tile_convert(const struct kernels_attn *attn, const void *const *blocks, int begin, int n,
                                 const void *const *next_blocks, int next_begin, int n_next, float *out)
{
    int head_dim = attn->head_dim;
    size_t row_bytes = (size_t)head_dim * (attn->kv_dtype == DTYPE_F32 ? 4 : 2);
    for (int i = 0; i < n; i++, out += head_dim) {
        if (i < n_next) {
            const uint8_t *next = row_at(attn, next_blocks, next_begin + i, row_bytes);
            for (size_t line = 0; line < row_bytes; line += 64)
                _mm_prefetch((const char *)next + line, _MM_HINT_T0);
        }
        const uint8_t *row = row_at(attn, blocks, begin + i, row_bytes);
        for (int d = 0; d < head_dim; d += LANES) {
            __m256 value;
            if (attn->kv_dtype == DTYPE_F32)
                value = _mm256_loadu_ps((const float *)row + d);
            else
                value = _mm256_castsi256_ps(
                    _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)((const uint16_t *)row + d))), 16));
            _mm256_store_ps(out + d, value);
        }
    }
}

/* The sums of four vectors as one vector of four. */
KERNELS_INLINE __m128 sums4(const __m256 x[4])
{
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* weights[row][0 … n) = scale · q · key for n_rows (1 or 2) rows. */
KERNELS_INLINE void scores(const struct kernels_attn *attn, int first_row, int n_rows, int n, struct scratch_attn *scratch)
{
    int head_dim = attn->head_dim;
    for (int token = 0; token < n; token += 4) {
        const float *keys = scratch->rows + (size_t)token * (size_t)head_dim;
        __m256 acc[2][4];
        for (int i = 0; i < n_rows * 4; i++)
            acc[i / 4][i % 4] = _mm256_setzero_ps();
        for (int d = 0; d < head_dim; d += LANES) {
            __m256 key[4];
            for (int i = 0; i < 4; i++)
                key[i] = _mm256_load_ps(keys + (size_t)i * (size_t)head_dim + d);
            for (int r = 0; r < n_rows; r++) {
                __m256 q = _mm256_loadu_ps(attn->q[first_row + r] + d);
                for (int i = 0; i < 4; i++)
                    acc[r][i] = _mm256_fmadd_ps(q, key[i], acc[r][i]);
            }
        }
        for (int r = 0; r < n_rows; r++)
            _mm_storeu_ps(&scratch->weights[first_row + r][token], _mm_mul_ps(sums4(acc[r]), _mm_set1_ps(attn->scale)));
    }
}

/* Masks the tokens from `visible` on, updates maximum and sum, and turns scores into exponentials. */
KERNELS_INLINE void row_weigh(float weights[TOKENS], int visible, float *max, float *sum, float *rescale)
{
    for (int i = visible > 0 ? visible : 0; i < TOKENS; i++)
        weights[i] = -INFINITY;
    __m256 greatest = _mm256_set1_ps(*max);
    for (int i = 0; i < TOKENS; i += LANES)
        greatest = _mm256_max_ps(greatest, _mm256_loadu_ps(weights + i));
    float now = max_avx2(greatest);
    if (visible <= 0 || now == -INFINITY) { /* nothing to see: no weight, and no difference of infinities */
        memset(weights, 0, TOKENS * sizeof *weights);
        *rescale = 1;
        return;
    }
    __m256 total = _mm256_setzero_ps();
    for (int i = 0; i < TOKENS; i += LANES) {
        __m256 weight = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(weights + i), _mm256_set1_ps(now)));
        _mm256_storeu_ps(weights + i, weight);
        total = _mm256_add_ps(total, weight);
    }
    *rescale = *max == -INFINITY ? 0 : expf(*max - now);
    *sum = *sum * *rescale + sum_avx2(total);
    *max = now;
}

/* out = out · rescale + Σ weight · value over n tokens, for n_rows rows and n_vectors vectors from column d on. */
KERNELS_INLINE void values_add(int n_rows, int n_vectors, const struct scratch_attn *scratch, int head_dim, int d, int first_row, int n,
                               float *const *out)
{
    __m256 acc[2][4];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            acc[r][v] = _mm256_mul_ps(_mm256_loadu_ps(out[first_row + r] + d + v * LANES), _mm256_set1_ps(scratch->rescale[first_row + r]));
    for (int token = 0; token < n; token++) {
        const float *value = scratch->rows + (size_t)token * (size_t)head_dim + d;
        __m256 weight[2];
        for (int r = 0; r < n_rows; r++)
            weight[r] = _mm256_broadcast_ss(&scratch->weights[first_row + r][token]);
        for (int v = 0; v < n_vectors; v++) {
            __m256 vector = _mm256_load_ps(value + v * LANES);
            for (int r = 0; r < n_rows; r++)
                acc[r][v] = _mm256_fmadd_ps(weight[r], vector, acc[r][v]);
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            _mm256_storeu_ps(out[first_row + r] + d + v * LANES, acc[r][v]);
}

KERNELS_INLINE void values(int n_rows, const struct scratch_attn *scratch, int head_dim, int first_row, int n, float *const *out)
{
    int d = 0;
    for (; d + 4 * LANES <= head_dim; d += 4 * LANES)
        values_add(n_rows, 4, scratch, head_dim, d, first_row, n, out);
    for (; d < head_dim; d += LANES)
        values_add(n_rows, 1, scratch, head_dim, d, first_row, n, out);
}

static void attn_partial_avx2(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *memory)
{
    struct scratch_attn *scratch = memory;
    int head_dim = attn->head_dim, end = attn->token_begin;
    for (int i = 0; i < attn->n_rows; i++) {
        row_max[i] = -INFINITY;
        row_sum[i] = 0;
        memset(out[i], 0, (size_t)head_dim * sizeof(float));
        int limit = attn->row_limit[i] < attn->token_end ? attn->row_limit[i] : attn->token_end;
        end = limit > end ? limit : end; /* what no row sees is not read */
    }
    for (int begin = attn->token_begin; begin < end; begin += TOKENS) {
        int n = end - begin < TOKENS ? end - begin : TOKENS, next = begin + TOKENS, i;
        int n_next = end - next < TOKENS ? end - next : TOKENS, n_whole = (n + 3) / 4 * 4;
        tile_convert(attn, attn->k_blocks, begin, n, attn->v_blocks, begin, n, scratch->rows);
        memset(scratch->rows + (size_t)n * (size_t)head_dim, 0, (size_t)(n_whole - n) * (size_t)head_dim * sizeof(float));
        for (i = 0; i + 2 <= attn->n_rows; i += 2)
            scores(attn, i, 2, n, scratch);
        if (i < attn->n_rows)
            scores(attn, i, 1, n, scratch);
        for (i = 0; i < attn->n_rows; i++) {
            int visible = attn->row_limit[i] - begin < n ? attn->row_limit[i] - begin : n;
            row_weigh(scratch->weights[i], visible, &row_max[i], &row_sum[i], &scratch->rescale[i]);
        }
        tile_convert(attn, attn->v_blocks, begin, n, attn->k_blocks, next, n_next, scratch->rows);
        for (i = 0; i + 2 <= attn->n_rows; i += 2)
            values(2, scratch, head_dim, i, n, out);
        if (i < attn->n_rows)
            values(1, scratch, head_dim, i, n, out);
    }
}

void kernels_x86_fill_attention_avx2(struct kernels_ops *ops)
{
    ops->attn_partial = attn_partial_avx2;
}
