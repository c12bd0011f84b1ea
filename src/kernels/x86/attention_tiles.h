/*
 * Attention over one KV head, written once for all vector lengths. The file of an instruction set defines what is below,
 * includes this, and puts attn_partial_tiles into the table:
 *
 *   vec, LANES                   a vector of LANES floats
 *   vec_zero, vec_load, vec_store, vec_set, vec_add, vec_mul, vec_fma (a · b + c), vec_max, vec_exp, vec_sum, vec_most
 *   vec_sums4                    the sums of four vectors as one vector of four
 *   pair_load                    2 · LANES columns of a row in the cache as two vectors, in the order below
 *   ROWS                         query rows that meet the same keys at once: 2 or 4
 *
 * The context is walked in tiles of TOKENS tokens. ROWS rows at a time meet four keys, or four vectors of the values. BF16 is
 * read as pairs in 32-bit lanes, the even columns by a shift and the odd ones by a mask, so columns are kept in that order
 * (2 · LANES columns: the even ones, the odd ones) in queries and sums too and put right at the end. I8 is read as whole numbers:
 * a key's scale goes into its score, a value's into its weight. Up to ROWS rows read the cache directly; more rows share
 * a tile that is converted once into scratch (L1). While one tile is in work, the next is prefetched: blocks of the cache
 * lie anywhere, so the hardware does not see what follows. A line at a time, between products: many at once would
 * stall them; and into L2 (ahead.h).
 *
 * A row's result depends only on token_begin and its own limit: tiles begin at the same tokens for every row, sums run
 * over tokens in order, a masked token adds zero, and a converted tile holds the same numbers as the cache.
 */
#ifndef KERNELS_X86_ATTENTION_TILES_H
#define KERNELS_X86_ATTENTION_TILES_H

#include <math.h>

#include "kernels/ops.h"
#include "kernels/x86/intrin.h"

enum { TOKENS = 32, MAX_DIM = 256, MAX_ROWS = KERNELS_ATTN_MAX_ROWS, PAIR = 2 * LANES };

struct scratch_attn {
    float rows[TOKENS * MAX_DIM];    /* [TOKENS][padded]: a tile's keys, then its values, converted */
    float q[MAX_ROWS * MAX_DIM];     /* [n_rows][padded]: queries in the order of the columns, zeros up to whole pairs of vectors */
    float sums[MAX_ROWS * MAX_DIM];  /* [n_rows][padded]: weighted sums of values, likewise */
    float weights[MAX_ROWS][TOKENS]; /* scores, then their exponentials */
    float rescale[MAX_ROWS];         /* of the sums so far, after this tile's maximum */
    float key_scale[TOKENS], value_scale[TOKENS];
    size_t padded; /* head_dim up to whole pairs of vectors; rows that close together fall into different sets of the caches */
};

_Static_assert(sizeof(struct scratch_attn) <= KERNELS_SCRATCH_BYTES, "scratch");

struct tile {
    const void *rows[TOKENS];
    const float *scales[TOKENS]; /* ROWS_I8 */
    int n;
};

/* A key that stands in for tokens past the end, so that keys always come in fours. */
static const float zero_row[MAX_DIM] __attribute__((aligned(64)));

static size_t form_bytes(enum rows_form form)
{
    return form == ROWS_F32 ? 4 : form == ROWS_BF16 ? 2 : 1;
}

/* Where the rows of the tile that begins at a token lie, none past the end. One division for all: a division takes as long as a row. */
KERNELS_INLINE void tile_find(enum rows_form form, const struct kernels_attn *attn, const void *const *blocks, int begin, int end, struct tile *tile)
{
    size_t row_bytes = (size_t)attn->head_dim * form_bytes(form);
    int block = begin / attn->block_size, slot = begin % attn->block_size;
    tile->n = end - begin < 0 ? 0 : end - begin < TOKENS ? end - begin : TOKENS;
    for (int i = 0; i < tile->n; i++) {
        const uint8_t *rows = blocks[block];
        tile->rows[i] = rows + (size_t)slot * row_bytes;
        if (form == ROWS_I8)
            tile->scales[i] = (const float *)(rows + (size_t)attn->block_size * row_bytes) + slot;
        if (++slot == attn->block_size) {
            slot = 0;
            block++;
        }
    }
}

/* Calls for bytes [begin, end) of rows [first, first + n) of a tile, as far as it has them. */
KERNELS_INLINE void tile_prefetch(const struct tile *tile, int first, int n, size_t begin, size_t end)
{
    for (int i = first; i < first + n && i < tile->n; i++)
        for (size_t at = begin; at < end; at += 64)
            _mm_prefetch((const char *)tile->rows[i] + at, _MM_HINT_T1);
}

/* What scores, or weights, of the tile's tokens are multiplied by; 0 past the end. */
KERNELS_INLINE void scales_gather(enum rows_form form, const struct tile *tile, float factor, float ret_scales[TOKENS])
{
    for (int i = 0; i < TOKENS; i++)
        ret_scales[i] = i >= tile->n ? 0 : form == ROWS_I8 ? factor * *tile->scales[i] : factor;
}

/* The last columns of a head_dim that is no multiple of PAIR, zeros behind them. */
KERNELS_INLINE void tail_load(enum rows_form form, const void *row, int d, int head_dim, vec ret[2])
{
    float room[PAIR] = {0};
    memcpy(room, (const uint8_t *)row + (size_t)d * form_bytes(form), (size_t)(head_dim - d) * form_bytes(form));
    pair_load(form, room, 0, ret);
}

/* A tile's rows to floats in scratch, `padded` apart; the tile then points there. */
KERNELS_INLINE void tile_convert(enum rows_form form, int head_dim, int padded, struct tile *tile, const struct tile *ahead, float *out)
{
    for (int i = 0; i < tile->n; i++, out += padded) {
        tile_prefetch(ahead, i, 1, 0, (size_t)head_dim * form_bytes(form));
        vec pair[2];
        int d = 0;
        for (; d + PAIR <= head_dim; d += PAIR) {
            pair_load(form, tile->rows[i], d, pair);
            vec_store(out + d, pair[0]);
            vec_store(out + d + LANES, pair[1]);
        }
        if (d < head_dim) {
            tail_load(form, tile->rows[i], d, head_dim, pair);
            vec_store(out + d, pair[0]);
            vec_store(out + d + LANES, pair[1]);
        }
        tile->rows[i] = out;
    }
}

/* A query to the order of its form's columns, with zeros up to whole pairs of vectors. */
static void query_order(enum rows_form form, const float *in, int head_dim, int padded, float *out)
{
    if (form != ROWS_BF16) {
        memcpy(out, in, (size_t)head_dim * sizeof *out);
        memset(out + head_dim, 0, (size_t)(padded - head_dim) * sizeof *out);
        return;
    }
    float last[PAIR] = {0};
    memcpy(last, in + head_dim / PAIR * PAIR, (size_t)(head_dim % PAIR) * sizeof *last);
    for (int d = 0; d < padded; d += PAIR) {
        const float *from = d + PAIR <= head_dim ? in + d : last;
        for (int i = 0; i < LANES; i++) {
            out[d + i] = from[2 * i];
            out[d + LANES + i] = from[2 * i + 1];
        }
    }
}

/* And a sum back from it. */
static void sum_order(enum rows_form form, const float *in, int head_dim, float *out)
{
    if (form != ROWS_BF16) {
        memcpy(out, in, (size_t)head_dim * sizeof *out);
        return;
    }
    for (int d = 0; d < head_dim; d += PAIR) {
        int n = head_dim - d < PAIR ? (head_dim - d) / 2 : LANES;
        for (int i = 0; i < n; i++) {
            out[d + 2 * i] = in[d + i];
            out[d + 2 * i + 1] = in[d + LANES + i];
        }
    }
}

/* weights[row] = key_scale · q · key for n_rows rows; keys come in fours. */
KERNELS_INLINE void scores(enum rows_form form, const struct tile *tile, const struct tile *ahead, int head_dim, int first_row, int n_rows,
                           struct scratch_attn *scratch)
{
    for (int token = 0; token < tile->n; token += 4) {
        if (ahead != NULL && first_row == 0)
            tile_prefetch(ahead, token, 4, 0, (size_t)head_dim * form_bytes(form));
        vec acc[ROWS][4], q[ROWS][2], key[2];
        KERNELS_UNROLL
        for (int r = 0; r < n_rows; r++) {
            KERNELS_UNROLL
            for (int i = 0; i < 4; i++)
                acc[r][i] = vec_zero();
        }
        int d = 0;
        for (; d + PAIR <= head_dim; d += PAIR) {
            KERNELS_UNROLL
            for (int r = 0; r < n_rows; r++)
                pair_load(ROWS_F32, scratch->q + (size_t)(first_row + r) * scratch->padded, d, q[r]);
            KERNELS_UNROLL
            for (int i = 0; i < 4; i++) {
                pair_load(form, tile->rows[token + i], d, key);
                KERNELS_UNROLL
                for (int r = 0; r < n_rows; r++)
                    acc[r][i] = vec_fma(q[r][1], key[1], vec_fma(q[r][0], key[0], acc[r][i]));
            }
        }
        for (int i = 0; d < head_dim && i < 4; i++) {
            tail_load(form, tile->rows[token + i], d, head_dim, key);
            for (int r = 0; r < n_rows; r++) {
                pair_load(ROWS_F32, scratch->q + (size_t)(first_row + r) * scratch->padded, d, q[r]);
                acc[r][i] = vec_fma(q[r][1], key[1], vec_fma(q[r][0], key[0], acc[r][i]));
            }
        }
        KERNELS_UNROLL
        for (int r = 0; r < n_rows; r++)
            _mm_storeu_ps(&scratch->weights[first_row + r][token], _mm_mul_ps(vec_sums4(acc[r]), _mm_loadu_ps(&scratch->key_scale[token])));
    }
}

/* Masks the tokens from `visible` on, updates maximum and sum, and turns scores into exponentials. */
KERNELS_INLINE void row_weigh(float weights[TOKENS], int visible, float *max, float *sum, float *rescale)
{
    for (int i = visible > 0 ? visible : 0; i < TOKENS; i++)
        weights[i] = -INFINITY;
    vec greatest = vec_set(*max);
    for (int i = 0; i < TOKENS; i += LANES)
        greatest = vec_max(greatest, vec_load(weights + i));
    float now = vec_most(greatest);
    if (visible <= 0 || now == -INFINITY) { /* nothing to see: no weight, and no difference of infinities */
        memset(weights, 0, TOKENS * sizeof *weights);
        *rescale = 1;
        return;
    }
    vec total = vec_zero();
    for (int i = 0; i < TOKENS; i += LANES) {
        vec weight = vec_exp(vec_add(vec_load(weights + i), vec_set(-now)));
        vec_store(weights + i, weight);
        total = vec_add(total, weight);
    }
    *rescale = *max == now ? 1 : *max == -INFINITY ? 0 : expf(*max - now);
    *sum = *sum * *rescale + vec_sum(total);
    *max = now;
}

/* sums = sums · rescale + Σ weight · value over a tile: n_rows rows, n_pairs pairs of vectors from column d on (0: the tail). */
KERNELS_INLINE void values_add(enum rows_form form, const struct tile *tile, const struct tile *ahead, int head_dim, int n_rows, int n_pairs, int d,
                               int first_row, struct scratch_attn *scratch)
{
    size_t begin = (size_t)d * form_bytes(form), end = begin + (size_t)(n_pairs * PAIR) * form_bytes(form);
    int n_vectors = n_pairs > 0 ? 2 * n_pairs : 2;
    vec acc[ROWS][4];
    KERNELS_UNROLL
    for (int r = 0; r < n_rows; r++) {
        KERNELS_UNROLL
        for (int v = 0; v < n_vectors; v++)
            acc[r][v] = vec_mul(vec_load(scratch->sums + (size_t)(first_row + r) * scratch->padded + d + v * LANES), vec_set(scratch->rescale[first_row + r]));
    }
    for (int token = 0; token < tile->n; token++) {
        if (ahead != NULL && first_row == 0)
            tile_prefetch(ahead, token, 1, begin, end);
        vec weight[ROWS], value[4];
        KERNELS_UNROLL
        for (int r = 0; r < n_rows; r++)
            weight[r] = vec_set(scratch->weights[first_row + r][token]);
        KERNELS_UNROLL
        for (int p = 0; p < n_pairs; p++)
            pair_load(form, tile->rows[token], d + p * PAIR, &value[2 * p]);
        if (n_pairs == 0)
            tail_load(form, tile->rows[token], d, head_dim, value);
        KERNELS_UNROLL
        for (int v = 0; v < n_vectors; v++) {
            KERNELS_UNROLL
            for (int r = 0; r < n_rows; r++)
                acc[r][v] = vec_fma(weight[r], value[v], acc[r][v]);
        }
    }
    KERNELS_UNROLL
    for (int r = 0; r < n_rows; r++) {
        KERNELS_UNROLL
        for (int v = 0; v < n_vectors; v++)
            vec_store(scratch->sums + (size_t)(first_row + r) * scratch->padded + d + v * LANES, acc[r][v]);
    }
}

KERNELS_INLINE void values(enum rows_form form, const struct tile *tile, const struct tile *ahead, int head_dim, int first_row, int n_rows,
                           struct scratch_attn *scratch)
{
    int d = 0;
    for (; d + 2 * PAIR <= head_dim; d += 2 * PAIR)
        values_add(form, tile, ahead, head_dim, n_rows, 2, d, first_row, scratch);
    if (d + PAIR <= head_dim) {
        values_add(form, tile, ahead, head_dim, n_rows, 1, d, first_row, scratch);
        d += PAIR;
    }
    if (d < head_dim)
        values_add(form, tile, ahead, head_dim, n_rows, 0, d, first_row, scratch);
}

/* WORK(first_row, n_rows) for all rows, n_rows being a constant in each. */
#define ROWS_WALK(n_all, WORK)                                                                                                         \
    do {                                                                                                                               \
        int first = 0;                                                                                                                 \
        for (; first + ROWS <= (n_all); first += ROWS)                                                                                 \
            WORK(first, ROWS);                                                                                                         \
        if (ROWS > 2 && (n_all) - first == 3)                                                                                          \
            WORK(first, ROWS > 2 ? 3 : 1);                                                                                             \
        if (ROWS > 2 && (n_all) - first == 2)                                                                                          \
            WORK(first, 2);                                                                                                            \
        if ((n_all) - first == 1)                                                                                                      \
            WORK(first, 1);                                                                                                            \
    } while (0)

/* One tile for all rows; form says what the rows point to. */
KERNELS_INLINE void tile_score(enum rows_form form, const struct kernels_attn *attn, const struct tile *tile, const struct tile *ahead, int head_dim,
                               struct scratch_attn *scratch)
{
#define SCORES(first_row, n_rows) scores(form, tile, ahead, head_dim, first_row, n_rows, scratch)
    ROWS_WALK(attn->n_rows, SCORES);
#undef SCORES
}

KERNELS_INLINE void tile_sum(enum rows_form form, const struct kernels_attn *attn, const struct tile *tile, const struct tile *ahead, int head_dim,
                             struct scratch_attn *scratch)
{
#define VALUES(first_row, n_rows) values(form, tile, ahead, head_dim, first_row, n_rows, scratch)
    ROWS_WALK(attn->n_rows, VALUES);
#undef VALUES
}

static void weights_scale(float weights[TOKENS], const float scales[TOKENS])
{
    for (int i = 0; i < TOKENS; i += LANES)
        vec_store(weights + i, vec_mul(vec_load(weights + i), vec_load(scales + i)));
}

/* kv_form: of the cache; form: of what the kernels read, F32 when tiles are converted (which then calls for the next tile). */
KERNELS_INLINE void tiles_walk(enum rows_form kv_form, enum rows_form form, const struct kernels_attn *attn, int end, float *row_max,
                               float *row_sum, struct scratch_attn *scratch)
{
    bool converts = form != kv_form;
    int padded = (int)scratch->padded, head_dim = converts ? padded : attn->head_dim;
    size_t row_bytes = (size_t)attn->head_dim * form_bytes(kv_form);
    struct tile keys[2], vals[2]; /* this tile's and the next one's */
    tile_find(kv_form, attn, attn->k_blocks, attn->token_begin, end, &keys[0]);
    tile_find(kv_form, attn, attn->v_blocks, attn->token_begin, end, &vals[0]);
    tile_prefetch(&keys[0], 0, TOKENS, 0, row_bytes);
    tile_prefetch(&vals[0], 0, TOKENS, 0, row_bytes);
    for (int begin = attn->token_begin, at = 0; begin < end; begin += TOKENS, at ^= 1) {
        struct tile *k = &keys[at], *v = &vals[at], *k_ahead = &keys[at ^ 1], *v_ahead = &vals[at ^ 1];
        tile_find(kv_form, attn, attn->k_blocks, begin + TOKENS, end, k_ahead);
        tile_find(kv_form, attn, attn->v_blocks, begin + TOKENS, end, v_ahead);
        scales_gather(kv_form, k, attn->scale, scratch->key_scale);
        if (converts)
            tile_convert(kv_form, attn->head_dim, padded, k, k_ahead, scratch->rows);
        for (int i = k->n; i % 4; i++)
            k->rows[i] = zero_row;
        tile_score(form, attn, k, converts ? NULL : k_ahead, head_dim, scratch);
        if (kv_form == ROWS_I8)
            scales_gather(kv_form, v, 1, scratch->value_scale);
        for (int i = 0; i < attn->n_rows; i++) {
            int visible = attn->row_limit[i] - begin < k->n ? attn->row_limit[i] - begin : k->n;
            row_weigh(scratch->weights[i], visible, &row_max[i], &row_sum[i], &scratch->rescale[i]);
            if (kv_form == ROWS_I8)
                weights_scale(scratch->weights[i], scratch->value_scale);
        }
        if (converts)
            tile_convert(kv_form, attn->head_dim, padded, v, v_ahead, scratch->rows);
        tile_sum(form, attn, v, converts ? NULL : v_ahead, head_dim, scratch);
    }
}

static void attn_partial_tiles(const struct kernels_attn *attn, float *const *out, float *row_max, float *row_sum, void *memory)
{
    struct scratch_attn *scratch = memory;
    enum rows_form form = attn->kv_dtype == DTYPE_F32 ? ROWS_F32 : attn->kv_dtype == DTYPE_BF16 ? ROWS_BF16 : ROWS_I8;
    int head_dim = attn->head_dim, end = attn->token_begin;
    size_t padded = scratch->padded = (size_t)(head_dim + PAIR - 1) / PAIR * PAIR;
    bool is_direct = attn->n_rows <= ROWS;
    for (int i = 0; i < attn->n_rows; i++) {
        row_max[i] = -INFINITY;
        row_sum[i] = 0;
        int limit = attn->row_limit[i] < attn->token_end ? attn->row_limit[i] : attn->token_end;
        end = limit > end ? limit : end; /* what no row sees is not read */
        memset(scratch->sums + (size_t)i * padded, 0, padded * sizeof(float));
        query_order(form, attn->q[i], head_dim, (int)padded, scratch->q + (size_t)i * padded);
    }
    if (form == ROWS_F32)
        tiles_walk(ROWS_F32, ROWS_F32, attn, end, row_max, row_sum, scratch);
    else if (form == ROWS_BF16 && is_direct)
        tiles_walk(ROWS_BF16, ROWS_BF16, attn, end, row_max, row_sum, scratch);
    else if (form == ROWS_BF16)
        tiles_walk(ROWS_BF16, ROWS_F32, attn, end, row_max, row_sum, scratch);
    else if (is_direct)
        tiles_walk(ROWS_I8, ROWS_I8, attn, end, row_max, row_sum, scratch);
    else
        tiles_walk(ROWS_I8, ROWS_F32, attn, end, row_max, row_sum, scratch);
    for (int i = 0; i < attn->n_rows; i++)
        sum_order(form, scratch->sums + (size_t)i * padded, head_dim, out[i]);
}

#endif
