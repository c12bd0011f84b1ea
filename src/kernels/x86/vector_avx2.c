/*
 * The small operations for AVX2 and FMA. What is left after the last whole vector goes through the same vector code in a
 * small buffer, so that an element's value does not depend on where the vectors end.
 */
#include <math.h>

#include "kernels/ops.h"
#include "kernels/x86/exp_avx2.h"
#include "kernels/x86/intrin.h"
#include "kernels/x86/panel_avx2.h"
#include "kernels/x86/x86.h"

enum { LANES = 8 };

/* The n < 8 floats at x, the other lanes filled. */
KERNELS_INLINE __m256 rest_load(const float *x, int n, float fill)
{
    float lanes[LANES];
    for (int i = 0; i < LANES; i++)
        lanes[i] = i < n ? x[i] : fill;
    return _mm256_loadu_ps(lanes);
}

KERNELS_INLINE void rest_store(float *x, int n, __m256 value)
{
    float lanes[LANES];
    _mm256_storeu_ps(lanes, value);
    memcpy(x, lanes, (size_t)n * sizeof *x);
}

static void rmsnorm_avx2(const float *x, const float *weight, int n, float eps, float *out)
{
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        for (int j = 0; j < 4; j++) {
            __m256 value = _mm256_loadu_ps(x + i + j * LANES);
            sums[j] = _mm256_fmadd_ps(value, value, sums[j]);
        }
    }
    for (; i < n; i += LANES) {
        __m256 value = rest_load(x + i, n - i < LANES ? n - i : LANES, 0);
        sums[0] = _mm256_fmadd_ps(value, value, sums[0]);
    }
    float sum = sum_avx2(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    float factor = 1.0f / sqrtf(sum / (float)n + eps);
    for (i = 0; i < n; i++)
        out[i] = x[i] * factor * weight[i];
}

static void add_avx2(const float *x, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] += x[i];
}

static void add_scaled_avx2(const float *x, float scale, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = fmaf(scale, x[i], out[i]);
}

KERNELS_INLINE __m256 silu_mul(__m256 gate, __m256 up)
{
    __m256 one = _mm256_set1_ps(1.0f), negative = _mm256_xor_ps(gate, _mm256_set1_ps(-0.0f));
    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, exp_avx2(negative))), up);
}

static void silu_mul_avx2(const float *gate, const float *up, int n, float *out)
{
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(out + i, silu_mul(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < n)
        rest_store(out + i, n - i, silu_mul(rest_load(gate + i, n - i, 0), rest_load(up + i, n - i, 0)));
}

/* max(a, b) of the two operands keeps the second when one is a NaN: NaNs are passed over. */
static float max_of(const float *x, int n)
{
    __m256 max[4];
    for (int j = 0; j < 4; j++)
        max[j] = _mm256_set1_ps(-INFINITY);
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            max[j] = _mm256_max_ps(_mm256_loadu_ps(x + i + j * LANES), max[j]);
    for (; i < n; i += LANES)
        max[0] = _mm256_max_ps(rest_load(x + i, n - i < LANES ? n - i : LANES, -INFINITY), max[0]);
    return max_avx2(_mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3])));
}

static double exp_row_avx2(const float *x, float shift, int n, float *out)
{
    __m256 less = _mm256_set1_ps(shift);
    __m256d sums[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (int i = 0; i < n; i += LANES) {
        int left = n - i;
        __m256 value = exp_avx2(_mm256_sub_ps(left >= LANES ? _mm256_loadu_ps(x + i) : rest_load(x + i, left, -INFINITY), less));
        if (left >= LANES)
            _mm256_storeu_ps(out + i, value);
        else
            rest_store(out + i, left, value);
        sums[0] = _mm256_add_pd(sums[0], _mm256_cvtps_pd(_mm256_castps256_ps128(value)));
        sums[1] = _mm256_add_pd(sums[1], _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1)));
    }
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(sums[0], sums[1]));
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

static void softmax_avx2(float *x, int n)
{
    __m256 max = _mm256_set1_ps(max_of(x, n)), sum = _mm256_setzero_ps();
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m256 value = exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i), max));
        _mm256_storeu_ps(x + i, value);
        sum = _mm256_add_ps(sum, value);
    }
    if (i < n) {
        __m256 value = exp_avx2(_mm256_sub_ps(rest_load(x + i, n - i, -INFINITY), max));
        rest_store(x + i, n - i, value);
        sum = _mm256_add_ps(sum, value);
    }
    float inverse = 1.0f / sum_avx2(sum);
    for (i = 0; i < n; i++)
        x[i] *= inverse;
}

/* The maximum first, then the first place that holds it. */
static int argmax_avx2(const float *x, int n, float *ret_max)
{
    float max = max_of(x, n);
    int best = 0, i = 0;
    for (; i + LANES <= n; i += LANES) {
        int mask = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(max), _CMP_EQ_OQ));
        if (mask) {
            best = i + __builtin_ctz((unsigned)mask);
            goto found;
        }
    }
    for (; i < n; i++) {
        if (x[i] == max) {
            best = i;
            break;
        }
    }
found:
    if (ret_max)
        *ret_max = x[best];
    return best;
}

static void rope_halves_avx2(float *x, const float *cos, const float *sin, int head_dim)
{
    int half = head_dim / 2, i = 0;
    for (; i + LANES <= half; i += LANES) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
        __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + half + i, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = fmaf(a, cos[i], -(b * sin[i]));
        x[half + i] = fmaf(b, cos[i], a * sin[i]);
    }
}

static void rope_pairs_avx2(float *x, const float *cos, const float *sin, int head_dim)
{
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    int half = head_dim / 2, i = 0;
    for (; i + LANES / 2 <= half; i += LANES / 2) {
        __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cos + i)), twice);
        __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sin + i)), twice);
        __m256 pairs = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(pairs, 0xb1);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(pairs, c, _mm256_mul_ps(swapped, s)));
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = fmaf(a, cos[i], -(b * sin[i]));
        x[2 * i + 1] = fmaf(b, cos[i], a * sin[i]);
    }
}

/* The sums of signed bytes 0 to 15 and 16 to 31. */
KERNELS_INLINE void halves_sum(__m256i bytes, int32_t ret[2])
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    __m256i quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    quads = _mm256_add_epi32(quads, _mm256_shuffle_epi32(quads, 0x4e));
    quads = _mm256_add_epi32(quads, _mm256_shuffle_epi32(quads, 0xb1));
    ret[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(quads));
    ret[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(quads, 1));
}

/* One group of 32. */
KERNELS_INLINE void group_quantize(const float *x, int8_t *q, uint8_t *split, float *scale, int32_t sums[2], int32_t *start)
{
    float inverse_scale;
    if (!group_scale(x, 127, scale, &inverse_scale)) {
        memset(q, 0, KERNELS_GROUP);
        memset(split, 0, 2 * KERNELS_GROUP);
        sums[0] = sums[1] = 0;
        *start = KERNELS_ACTS_START;
        return;
    }
    __m256 inverse = _mm256_set1_ps(inverse_scale);
    __m256i words[4];
    for (int j = 0; j < 4; j++)
        words[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + j * LANES), inverse));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, bytes);
    __m256i sizes = _mm256_abs_epi8(bytes), masks = _mm256_cmpgt_epi8(_mm256_setzero_si256(), bytes);
    __m256i outer = _mm256_unpacklo_epi32(sizes, masks), inner = _mm256_unpackhi_epi32(sizes, masks); /* quads 0, 1, 4, 5 and 2, 3, 6, 7 */
    _mm256_storeu_si256((__m256i *)split, _mm256_permute2x128_si256(outer, inner, 0x20));
    _mm256_storeu_si256((__m256i *)split + 1, _mm256_permute2x128_si256(outer, inner, 0x31));
    halves_sum(bytes, sums);
    int32_t negatives[2];
    halves_sum(_mm256_and_si256(bytes, masks), negatives);
    *start = KERNELS_ACTS_START - (negatives[0] + negatives[1]);
}

static void acts_quantize_i8_avx2(struct kernels_acts *acts, int token_begin, int token_end)
{
    size_t n_groups = (size_t)acts->n_cols / KERNELS_GROUP;
    for (int t = token_begin; t < token_end; t++) {
        const float *x = acts->f32 + (size_t)t * (size_t)acts->stride_cols;
        for (size_t g = 0; g < n_groups; g++) {
            size_t at = (size_t)t * n_groups + g;
            group_quantize(x + g * KERNELS_GROUP, acts->q + at * KERNELS_GROUP, acts->split + at * KERNELS_GROUP * 2, &acts->scales[at],
                           &acts->sums[2 * at], &acts->starts[at]);
        }
    }
}

void kernels_x86_fill_vector_avx2(struct kernels_ops *ops)
{
    ops->acts_quantize_i8 = acts_quantize_i8_avx2;
    ops->rmsnorm = rmsnorm_avx2;
    ops->add = add_avx2;
    ops->add_scaled = add_scaled_avx2;
    ops->silu_mul = silu_mul_avx2;
    ops->exp = exp_row_avx2;
    ops->softmax = softmax_avx2;
    ops->argmax = argmax_avx2;
    ops->rope_halves = rope_halves_avx2;
    ops->rope_pairs = rope_pairs_avx2;
}
