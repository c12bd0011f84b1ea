/*
 * Products with block weights for 512-bit vectors, where a panel's 16 rows are one vector: the body that the files for
 * AVX-512 (maddubs) and AVX-512 VNNI (dpbusd) share. They define MATMUL_VNNI (0 or 1), MATMUL_FILL (the name of the
 * function that fills the table) and include this once.
 *
 * The order of the sums is that of matmul_block_avx2.c: groups in order, each exact in integers, then
 * acc = fma(float(dot) · weight scale, activation scale, acc) and acc = fnma(scaled sum of activations, minimum, acc).
 * Weights are unpacked in registers for up to eight tokens; one to four tokens take four panels at a time, for the sake of
 * memory. dpbusd adds unsigned times signed products in 32 bits, so Q8_0 is read as w + 128 and 128 · sum is subtracted;
 * with maddubs the limits of 16 bits hold, and Q8_0 is |w| · (q with the sign of w).
 */
#include "kernels/blocks.h"
#include "kernels/ops.h"
#include "kernels/panel.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/x86.h"

enum { ROWS = KERNELS_PANEL_ROWS, GROUP = KERNELS_GROUP, TILE = 8 };

/* Scales of one group for 16 rows; [1] is that of columns 16 to 31 in Q6_K. */
struct group_scales {
    __m512 scale[2];
    __m512 minimum; /* subtracted */
};

KERNELS_INLINE __m512 halves_load(const uint8_t *halves)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)halves));
}

KERNELS_INLINE __m512 u8_scales_load(const uint8_t *bytes, __m512 unit)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)bytes))), unit);
}

KERNELS_INLINE __m512 i8_scales_load(const uint8_t *bytes, __m512 unit)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)bytes))), unit);
}

/* head: panel_head_at of group g. */
KERNELS_INLINE void scales_load(enum dtype dtype, const uint8_t *head, int g, struct group_scales *ret)
{
    __m512 d = halves_load(head);
    const uint8_t *scales = head + 64;
    int j = g % PANEL_SUPER_GROUPS;
    ret->minimum = _mm512_setzero_ps();
    if (dtype == DTYPE_Q6_K) {
        ret->scale[0] = i8_scales_load(scales + 16 * (2 * j), d);
        ret->scale[1] = i8_scales_load(scales + 16 * (2 * j + 1), d);
    } else if (panel_is_super(dtype)) {
        ret->scale[0] = u8_scales_load(scales + 16 * j, d);
        ret->minimum = u8_scales_load(scales + 128 + 16 * j, halves_load(head + 32));
    } else {
        ret->scale[0] = d;
        if (dtype == DTYPE_Q4_1)
            ret->minimum = _mm512_xor_ps(halves_load(head + 32), _mm512_set1_ps(-0.0f));
    }
}

/* Q6_K: the quad whose bits are the upper two of three vectors. */
KERNELS_INLINE __m512i upper_bits_join(const uint8_t *three)
{
    const __m512i upper = _mm512_set1_epi32((int)0xc0c0c0c0u);
    __m512i bits = _mm512_setzero_si512();
    for (int v = 0; v < 3; v++)
        bits = _mm512_or_si512(_mm512_srli_epi16(bits, 2), _mm512_and_si512(_mm512_load_si512((const __m512i *)(three + v * 64)), upper));
    return _mm512_srli_epi16(bits, 2);
}

/* Quads j and j + 4 (0 ≤ j < 4) of 16 rows, unpacked to bytes; Q8_0 as it is, or plus 128 for dpbusd. */
KERNELS_INLINE void quads_load(enum dtype dtype, const uint8_t *weights, int j, __m512i *ret_low, __m512i *ret_high)
{
    if (dtype == DTYPE_Q8_0) {
        __m512i flip = _mm512_set1_epi32(MATMUL_VNNI ? (int)0x80808080u : 0);
        *ret_low = _mm512_xor_si512(_mm512_load_si512((const __m512i *)(weights + j * 64)), flip);
        *ret_high = _mm512_xor_si512(_mm512_load_si512((const __m512i *)(weights + (j + 4) * 64)), flip);
        return;
    }
    if (dtype == DTYPE_Q6_K) {
        const __m512i six = _mm512_set1_epi32(0x3f3f3f3f);
        *ret_low = _mm512_and_si512(_mm512_load_si512((const __m512i *)(weights + j * 64)), six);
        *ret_high = j < 2 ? _mm512_and_si512(_mm512_load_si512((const __m512i *)(weights + (j + 4) * 64)), six)
                          : upper_bits_join(weights + (j - 2) * 3 * 64);
        return;
    }
    const __m512i mask = _mm512_set1_epi32(0x0f0f0f0f);
    __m512i both = _mm512_load_si512((const __m512i *)(weights + j * 64));
    __m512i low = _mm512_and_si512(both, mask), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    if (dtype == DTYPE_Q5_K) {
        __m512i bits = _mm512_load_si512((const __m512i *)(weights + PANEL_NIBBLES)), bit = _mm512_set1_epi32(0x10101010);
        low = _mm512_or_si512(low, _mm512_and_si512(_mm512_slli_epi16(bits, (unsigned)(4 - j)), bit));
        high = _mm512_or_si512(high, _mm512_and_si512(_mm512_srli_epi16(bits, (unsigned)j), bit));
    }
    *ret_low = low;
    *ret_high = high;
}

/*
 * Partial dot products of a group for one token: with dpbusd, and for Q8_0, in 32 bits in [side][0], else in 16 bits in
 * [side][pair of quads]. Side 1 is columns 16 to 31 where they are kept apart.
 */
struct dots {
    __m512i sum[2][2];
};

KERNELS_INLINE int is_wide(enum dtype dtype)
{
    return MATMUL_VNNI || dtype == DTYPE_Q8_0;
}

KERNELS_INLINE void dots_add(enum dtype dtype, struct dots *dots, int quad, __m512i w, __m512i q)
{
    int is_apart = dtype == DTYPE_Q6_K || (dtype == DTYPE_Q5_K && !is_wide(dtype));
    __m512i *sum = &dots->sum[is_apart ? quad / 4 : 0][dtype == DTYPE_Q6_K && !is_wide(dtype) ? quad % 4 / 2 : 0];
#if MATMUL_VNNI
    *sum = _mm512_dpbusd_epi32(*sum, w, q);
#else
    if (dtype == DTYPE_Q8_0) {
        __m512i turned = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(w), _mm512_setzero_si512(), q);
        *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(w), turned), _mm512_set1_epi16(1)));
    } else {
        *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(w, q));
    }
#endif
}

/* To 32 bits: one sum for the group, or one a side in Q6_K. */
KERNELS_INLINE void dots_widen(enum dtype dtype, const struct dots *dots, __m512i ret[2])
{
    const __m512i ones = _mm512_set1_epi16(1);
    for (int side = 0; side < 2; side++)
        ret[side] = is_wide(dtype) ? dots->sum[side][0] : _mm512_madd_epi16(dots->sum[side][0], ones);
    if (is_wide(dtype))
        return;
    if (dtype == DTYPE_Q5_K)
        ret[0] = _mm512_add_epi32(ret[0], ret[1]);
    for (int side = 0; dtype == DTYPE_Q6_K && side < 2; side++)
        ret[side] = _mm512_add_epi32(ret[side], _mm512_madd_epi16(dots->sum[side][1], ones));
}

/* acc + the group's dot products with all scales, offsets and minima. sums: of the activations, per half group. */
KERNELS_INLINE __m512 dots_finish(enum dtype dtype, const struct dots *dots, const struct group_scales *scales, float q_scale,
                                  const int32_t *sums, __m512 acc)
{
    int n_sides = dtype == DTYPE_Q6_K ? 2 : 1, offset = MATMUL_VNNI && dtype == DTYPE_Q8_0 ? 128 : blocks_offset(dtype);
    __m512i wide[2];
    dots_widen(dtype, dots, wide);
    for (int side = 0; side < n_sides; side++) {
        int32_t sum = n_sides == 2 ? sums[side] : sums[0] + sums[1];
        __m512i dot = offset ? _mm512_sub_epi32(wide[side], _mm512_set1_epi32(offset * sum)) : wide[side];
        acc = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot), scales->scale[side]), _mm512_set1_ps(q_scale), acc);
        if (panel_has_minima(dtype))
            acc = _mm512_fnmadd_ps(_mm512_set1_ps(q_scale * (float)sum), scales->minimum, acc);
    }
    return acc;
}

/* n_panels neighbouring panels for n tokens (constants where this is inlined) from `token` on. */
KERNELS_INLINE void tile(enum dtype dtype, int n_panels, int n, const struct kernels_matrix *matrix, int first_panel,
                         const struct kernels_acts *acts, size_t token, float *out, size_t out_stride)
{
    size_t n_cols = (size_t)matrix->n_cols, n_groups = n_cols / GROUP;
    __m512 acc[TILE][4];
    for (int t = 0; t < n; t++)
        for (int p = 0; p < n_panels; p++)
            acc[t][p] = _mm512_setzero_ps();
    for (size_t g = 0; g < n_groups; g++) {
        const int8_t *q = acts->q + token * n_cols + g * GROUP;
        KERNELS_UNROLL
        for (int p = 0; p < n_panels; p++) {
            const uint8_t *panel = matrix->data + (size_t)(first_panel + p) * matrix->panel_bytes;
            struct dots dots[TILE];
            for (int t = 0; t < n; t++)
                for (int i = 0; i < 4; i++)
                    dots[t].sum[i / 2][i % 2] = _mm512_setzero_si512();
            KERNELS_UNROLL
            for (int j = 0; j < 4; j++) {
                __m512i low, high;
                quads_load(dtype, panel + panel_weights_at(dtype, (int)g), j, &low, &high);
                for (int t = 0; t < n; t++) {
                    const int8_t *at = q + (size_t)t * n_cols + j * 4;
                    dots_add(dtype, &dots[t], j, low, _mm512_set1_epi32(word_load(at)));
                    dots_add(dtype, &dots[t], j + 4, high, _mm512_set1_epi32(word_load(at + 16)));
                }
            }
            struct group_scales scales;
            scales_load(dtype, panel + panel_head_at(dtype, (int)g), (int)g, &scales);
            for (int t = 0; t < n; t++) {
                size_t at = (token + (size_t)t) * n_groups + g;
                acc[t][p] = dots_finish(dtype, &dots[t], &scales, acts->scales[at], acts->sums + 2 * at, acc[t][p]);
            }
        }
    }
    KERNELS_UNROLL
    for (int t = 0; t < n; t++) {
        KERNELS_UNROLL
        for (int p = 0; p < n_panels; p++) {
            float sums[ROWS];
            _mm512_storeu_ps(sums, acc[t][p]);
            panel_out_write(matrix, first_panel + p, sums, out + (token + (size_t)t) * out_stride);
        }
    }
}

/* n_panels panels for all tokens. */
KERNELS_INLINE void tokens_walk(enum dtype dtype, int n_panels, const struct kernels_matrix *matrix, int p,
                                const struct kernels_acts *acts, size_t n_tokens, float *out, size_t out_stride)
{
    size_t t = 0;
    if (n_panels == 1)
        for (; t + 8 <= n_tokens; t += 8)
            tile(dtype, n_panels, 8, matrix, p, acts, t, out, out_stride);
    for (; t + 4 <= n_tokens; t += 4)
        tile(dtype, n_panels, 4, matrix, p, acts, t, out, out_stride);
    for (; t + 2 <= n_tokens; t += 2)
        tile(dtype, n_panels, 2, matrix, p, acts, t, out, out_stride);
    if (t < n_tokens)
        tile(dtype, n_panels, 1, matrix, p, acts, t, out, out_stride);
}

KERNELS_INLINE void matmul(enum dtype dtype, const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out,
                           int out_stride, int panel_begin, int panel_end)
{
    int p = panel_begin;
    for (; n_tokens <= 7 && p + 4 <= panel_end; p += 4)
        tokens_walk(dtype, 4, matrix, p, acts, (size_t)n_tokens, out, (size_t)out_stride);
    for (; p < panel_end; p++)
        tokens_walk(dtype, 1, matrix, p, acts, (size_t)n_tokens, out, (size_t)out_stride);
}

#define MATMUL_DEFINE(name, dtype)                                                                                                     \
    static void name(const struct kernels_matrix *matrix, const struct kernels_acts *acts, int n_tokens, float *out, int out_stride,  \
                     int panel_begin, int panel_end, void *scratch)                                                                   \
    {                                                                                                                                  \
        (void)scratch;                                                                                                                 \
        matmul(dtype, matrix, acts, n_tokens, out, out_stride, panel_begin, panel_end);                                                \
    }

MATMUL_DEFINE(matmul_q8_0, DTYPE_Q8_0)
MATMUL_DEFINE(matmul_q4_0, DTYPE_Q4_0)
MATMUL_DEFINE(matmul_q4_1, DTYPE_Q4_1)
MATMUL_DEFINE(matmul_q4_k, DTYPE_Q4_K)
MATMUL_DEFINE(matmul_q5_k, DTYPE_Q5_K)
MATMUL_DEFINE(matmul_q6_k, DTYPE_Q6_K)

void MATMUL_FILL(struct kernels_ops *ops)
{
    ops->matmul[DTYPE_Q8_0] = matmul_q8_0;
    ops->matmul[DTYPE_Q4_0] = matmul_q4_0;
    ops->matmul[DTYPE_Q4_1] = matmul_q4_1;
    ops->matmul[DTYPE_Q4_K] = matmul_q4_k;
    ops->matmul[DTYPE_Q5_K] = matmul_q5_k;
    ops->matmul[DTYPE_Q6_K] = matmul_q6_k;
}
