/*
 * Attention over one KV head for AVX2 and FMA.
 *
 * The context is walked in tiles of TOKENS tokens. Two rows at a time meet four keys, or four vectors of the values: 8
 * accumulators. BF16 is read as pairs in 32-bit lanes, the even columns by a shift and the odd ones by a mask, so columns
 * are kept in that order (16 columns: 8 even, 8 odd) in queries and sums too and put right at the end. One or two rows
 * read the cache directly; more rows share a tile that is converted once into scratch (L1). While one tile is in work, the
 * next is prefetched: blocks of the cache lie anywhere, so the hardware does not see what follows.
 *
 * A row's result depends only on token_begin and its own limit: tiles begin at the same tokens for every row, sums run
 * over tokens in order, and a masked token adds zero.
 */
#include <math.h>

#include "kernels/ops.h"
#include "kernels/x86/exp_avx2.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { LANES = 8, TOKENS = 32, MAX_DIM = 256, MAX_ROWS = KERNELS_ATTN_MAX_ROWS, DIRECT_ROWS = 2 };

/* What the columns [0, 2 · LANES · (head_dim / 16)) of a row look like; the last 8 of an odd head_dim / 8 stand plainly. */
enum rows_form { ROWS_F32, ROWS_BF16 };

struct scratch_attn {
    float rows[TOKENS * MAX_DIM];    /* [TOKENS][head_dim]: a tile's keys, then its values, converted */
    float q[MAX_ROWS][MAX_DIM];      /* queries in the order of the columns */
    float weights[MAX_ROWS][TOKENS]; /* scores, then their exponentials */
    float rescale[MAX_ROWS];         /* of the sums so far, after this tile's maximum */
};

_Static_assert(sizeof(struct scratch_attn) <= KERNELS_SCRATCH_BYTES, "scratch");

/* A key that stands in for tokens past the end, so that keys always come in fours. */
static const float zero_row[MAX_DIM] __attribute__((aligned(64)));

/* Where the rows of tokens [begin, begin + n) lie. One division for all: a division takes as long as a row. */
KERNELS_INLINE void rows_find(const struct kernels_attn *attn, const void *const *blocks, int begin, int n, const void *rows[TOKENS])
{
    size_t row_bytes = (size_t)attn->head_dim * (attn->kv_dtype == DTYPE_F32 ? 4 : 2);
    int block = begin / attn->block_size, slot = begin % attn->block_size;
    for (int i = 0; i < n; i++) {
        rows[i] = (const uint8_t *)blocks[block] + (size_t)slot * row_bytes;
        if (++slot == attn->block_size) {
            slot = 0;
            block++;
        }
    }
}

KERNELS_INLINE void rows_prefetch(const void *const rows[TOKENS], int n, size_t row_bytes)
{
    for (int i = 0; i < n; i++)
        for (size_t line = 0; line < row_bytes; line += 64)
            _mm_prefetch((const char *)rows[i] + line, _MM_HINT_T0);
}

/* Columns d to d + 15 of a row as two vectors. */
KERNELS_INLINE void pair_load(enum rows_form form, const void *row, int d, __m256 ret[2])
{
    if (form == ROWS_F32) {
        ret[0] = _mm256_loadu_ps((const float *)row + d);
        ret[1] = _mm256_loadu_ps((const float *)row + d + LANES);
    } else {
        __m256i pairs = _mm256_loadu_si256((const __m256i *)((const uint16_t *)row + d));
        ret[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        ret[1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)));
    }
}

/* Columns d to d + 7, the last of a head_dim that is no multiple of 16. */
KERNELS_INLINE __m256 last_load(enum rows_form form, const void *row, int d)
{
    if (form == ROWS_F32)
        return _mm256_loadu_ps((const float *)row + d);
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)((const uint16_t *)row + d)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

/* n rows to floats in scratch; rows then points there. */
KERNELS_INLINE void tile_convert(int head_dim, const void *rows[TOKENS], int n, float *out)
{
    for (int i = 0; i < n; i++, out += head_dim) {
        int d = 0;
        for (; d + 2 * LANES <= head_dim; d += 2 * LANES) {
            __m256 pair[2];
            pair_load(ROWS_BF16, rows[i], d, pair);
            _mm256_store_ps(out + d, pair[0]);
            _mm256_store_ps(out + d + LANES, pair[1]);
        }
        if (d < head_dim)
            _mm256_store_ps(out + d, last_load(ROWS_BF16, rows[i], d));
        rows[i] = out;
    }
}

/* Moves a query to the order of the columns, or a sum back from it (to_pairs = 0). in is not out. */
static void columns_order(int to_pairs, const float *in, int head_dim, float *out)
{
    int d = 0;
    for (; d + 2 * LANES <= head_dim; d += 2 * LANES) {
        for (int i = 0; i < LANES; i++) {
            int even = to_pairs ? d + i : d + 2 * i, odd = to_pairs ? d + LANES + i : d + 2 * i + 1;
            out[even] = in[to_pairs ? d + 2 * i : d + i];
            out[odd] = in[to_pairs ? d + 2 * i + 1 : d + LANES + i];
        }
    }
    memcpy(out + d, in + d, (size_t)(head_dim - d) * sizeof *out);
}

/* The sums of four vectors as one vector of four. */
KERNELS_INLINE __m128 sums4(const __m256 x[4])
{
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* weights[row][0 … n) = scale · q · key for n_rows (1 or 2) rows; keys come in fours. */
KERNELS_INLINE void scores(enum rows_form form, const void *const rows[TOKENS], int head_dim, float scale, int first_row, int n_rows, int n,
                           struct scratch_attn *scratch)
{
    for (int token = 0; token < n; token += 4) {
        __m256 acc[2][4];
        for (int i = 0; i < n_rows * 4; i++)
            acc[i / 4][i % 4] = _mm256_setzero_ps();
        int d = 0;
        for (; d + 2 * LANES <= head_dim; d += 2 * LANES) {
            __m256 q[2][2];
            for (int r = 0; r < n_rows; r++)
                pair_load(ROWS_F32, scratch->q[first_row + r], d, q[r]);
            for (int i = 0; i < 4; i++) {
                __m256 key[2];
                pair_load(form, rows[token + i], d, key);
                for (int r = 0; r < n_rows; r++)
                    for (int half = 0; half < 2; half++)
                        acc[r][i] = _mm256_fmadd_ps(q[r][half], key[half], acc[r][i]);
            }
        }
        for (int i = 0; d < head_dim && i < 4; i++)
            for (int r = 0; r < n_rows; r++)
                acc[r][i] = _mm256_fmadd_ps(_mm256_loadu_ps(scratch->q[first_row + r] + d), last_load(form, rows[token + i], d), acc[r][i]);
        for (int r = 0; r < n_rows; r++)
            _mm_storeu_ps(&scratch->weights[first_row + r][token], _mm_mul_ps(sums4(acc[r]), _mm_set1_ps(scale)));
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
    *rescale = *max == now ? 1 : *max == -INFINITY ? 0 : expf(*max - now);
    *sum = *sum * *rescale + sum_avx2(total);
    *max = now;
}

/* out = out · rescale + Σ weight · value over n tokens: n_rows rows, n_pairs pairs of vectors from column d on (0: the last 8). */
KERNELS_INLINE void values_add(enum rows_form form, const void *const rows[TOKENS], int n_rows, int n_pairs, int d, int first_row, int n,
                               const struct scratch_attn *scratch, float *const *out)
{
    int n_vectors = n_pairs > 0 ? 2 * n_pairs : 1;
    __m256 acc[2][4];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            acc[r][v] = _mm256_mul_ps(_mm256_loadu_ps(out[first_row + r] + d + v * LANES), _mm256_set1_ps(scratch->rescale[first_row + r]));
    for (int token = 0; token < n; token++) {
        __m256 weight[2], value[4];
        for (int r = 0; r < n_rows; r++)
            weight[r] = _mm256_broadcast_ss(&scratch->weights[first_row + r][token]);
        for (int p = 0; p < n_pairs; p++)
            pair_load(form, rows[token], d + 2 * p * LANES, &value[2 * p]);
        if (n_pairs == 0)
            value[0] = last_load(form, rows[token], d);
        for (int v = 0; v < n_vectors; v++)
            for (int r = 0; r < n_rows; r++)
                acc[r][v] = _mm256_fmadd_ps(weight[r], value[v], acc[r][v]);
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            _mm256_storeu_ps(out[first_row + r] + d + v * LANES, acc[r][v]);
}

KERNELS_INLINE void values(enum rows_form form, const void *const rows[TOKENS], int head_dim, int first_row, int n_rows, int n,
                           const struct scratch_attn *scratch, float *const *out)
{
    int d = 0;
    for (; d + 4 * LANES <= head_dim; d += 4 * LANES)
        values_add(form, rows, n_rows, 2, d, first_row, n, scratch, out);
    if (d + 2 * LANES <= head_dim) {
        values_add(form, rows, n_rows, 1, d, first_row, n, scratch, out);
        d += 2 * LANES;
    }
    if (d < head_dim)
        values_add(form, rows, n_rows, 0, d, first_row, n, scratch, out);
}

/* One tile of n tokens for all rows; form says what the rows point to. */
KERNELS_INLINE void tile_score(enum rows_form form, const struct kernels_attn *attn, const void *const rows[TOKENS], int n,
                               struct scratch_attn *scratch)
{
    int i = 0;
    for (; i + 2 <= attn->n_rows; i += 2)
        scores(form, rows, attn->head_dim, attn->scale, i, 2, n, scratch);
    if (i < attn->n_rows)
        scores(form, rows, attn->head_dim, attn->scale, i, 1, n, scratch);
}

KERNELS_INLINE void tile_sum(enum rows_form form, const struct kernels_attn *attn, const void *const rows[TOKENS], int n,
                             const struct scratch_attn *scratch, float *const *out)
{
    int i = 0;
    for (; i + 2 <= attn->n_rows; i += 2)
        values(form, rows, attn->head_dim, i, 2, n, scratch, out);
    if (i < attn->n_rows)
        values(form, rows, attn->head_dim, i, 1, n, scratch, out);
}

/* kv_form: of the cache; form: of what the kernels read, F32 when tiles are converted. */
KERNELS_INLINE void tiles_walk(enum rows_form kv_form, enum rows_form form, const struct kernels_attn *attn, int end, float *const *out,
                               float *row_max, float *row_sum, struct scratch_attn *scratch)
{
    size_t row_bytes = (size_t)attn->head_dim * (kv_form == ROWS_F32 ? 4 : 2);
    const void *keys[2][TOKENS], *vals[TOKENS]; /* this tile's keys and the next one's */
    int tile = 0;
    rows_find(attn, attn->k_blocks, attn->token_begin, end - attn->token_begin < TOKENS ? end - attn->token_begin : TOKENS, keys[0]);
    for (int begin = attn->token_begin; begin < end; begin += TOKENS, tile ^= 1) {
        int n = end - begin < TOKENS ? end - begin : TOKENS, next = begin + TOKENS;
        int n_next = end - next < TOKENS ? (end > next ? end - next : 0) : TOKENS;
        rows_find(attn, attn->v_blocks, begin, n, vals);
        rows_prefetch(vals, n, row_bytes);
        if (form != kv_form)
            tile_convert(attn->head_dim, keys[tile], n, scratch->rows);
        for (int i = n; i % 4; i++)
            keys[tile][i] = zero_row;
        tile_score(form, attn, keys[tile], n, scratch);
        for (int i = 0; i < attn->n_rows; i++) {
            int visible = attn->row_limit[i] - begin < n ? attn->row_limit[i] - begin : n;
            row_weigh(scratch->weights[i], visible, &row_max[i], &row_sum[i], &scratch->rescale[i]);
        }
        if (n_next > 0) {
            rows_find(attn, attn->k_blocks, next, n_next, keys[tile ^ 1]);
            rows_prefetch(keys[tile ^ 1], n_next, row_bytes);
        }
        if (form != kv_form)
            tile_convert(attn->head_dim, vals, n, scratch->rows);
        tile_sum(form, attn, vals, n, scratch, out);
    }
}

static void attn_partial_avx2(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *memory)
{
    struct scratch_attn *scratch = memory;
    int head_dim = attn->head_dim, end = attn->token_begin, is_bf16 = attn->kv_dtype == DTYPE_BF16;
    for (int i = 0; i < attn->n_rows; i++) {
        row_max[i] = -INFINITY;
        row_sum[i] = 0;
        memset(out[i], 0, (size_t)head_dim * sizeof(float));
        int limit = attn->row_limit[i] < attn->token_end ? attn->row_limit[i] : attn->token_end;
        end = limit > end ? limit : end; /* what no row sees is not read */
        if (is_bf16)
            columns_order(1, attn->q[i], head_dim, scratch->q[i]);
        else
            memcpy(scratch->q[i], attn->q[i], (size_t)head_dim * sizeof(float));
    }
    if (end == attn->token_begin)
        return;
    if (!is_bf16)
        tiles_walk(ROWS_F32, ROWS_F32, attn, end, out, row_max, row_sum, scratch);
    else if (attn->n_rows <= DIRECT_ROWS)
        tiles_walk(ROWS_BF16, ROWS_BF16, attn, end, out, row_max, row_sum, scratch);
    else
        tiles_walk(ROWS_BF16, ROWS_F32, attn, end, out, row_max, row_sum, scratch);
    for (int i = 0; is_bf16 && i < attn->n_rows; i++) {
        columns_order(0, out[i], head_dim, scratch->q[i]);
        memcpy(out[i], scratch->q[i], (size_t)head_dim * sizeof(float));
    }
}

void kernels_x86_fill_attention_avx2(struct kernels_ops *ops)
{
    ops->attn_partial = attn_partial_avx2;
}
