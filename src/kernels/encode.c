/*
 * Rows of floats to file formats. Q8_0 and Q4_0 as GGML's plain quantisers make them; Q4_1 searches for the scale and the
 * minimum with the least squared error. Any thread; knows nothing of packing.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/vector.h"

enum { GROUP = 32 };

static void half_put(float value, uint8_t *to)
{
    uint16_t half = half_f32_to_f16(value);
    memcpy(to, &half, sizeof half);
}

static float magnitude_max(const float x[GROUP])
{
    float max = 0;
    for (int i = 0; i < GROUP; i++)
        max = fmaxf(max, fabsf(x[i]));
    return max;
}

/* Q8_0: the greatest magnitude becomes ±127. */
static void q8_0_from_f32(const float x[GROUP], uint8_t *block)
{
    float scale = magnitude_max(x) / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0;
    half_put(scale, block);
    for (int i = 0; i < GROUP; i++)
        block[2 + i] = (uint8_t)(int8_t)fminf(127.0f, fmaxf(-127.0f, roundf(x[i] * inverse)));
}

/* F8_E4M3: the greatest magnitude becomes ±448. */
static void f8_from_f32(const float x[GROUP], uint8_t *block)
{
    float scale = magnitude_max(x) / 448.0f, inverse = scale > 1e-30f ? 1.0f / scale : 0;
    memcpy(block, &scale, sizeof scale);
    for (int i = 0; i < GROUP; i++)
        block[4 + i] = half_f32_to_f8(x[i] * inverse);
}

static void nibbles_write(const uint8_t q[GROUP], uint8_t *qs)
{
    for (int i = 0; i < GROUP / 2; i++)
        qs[i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

/* Q4_0: the value of greatest magnitude, with its sign, becomes −8; what would be +8 is cut to +7. */
static void q4_0_from_f32(const float x[GROUP], uint8_t *block)
{
    float extreme = 0;
    for (int i = 0; i < GROUP; i++)
        if (fabsf(x[i]) > fabsf(extreme))
            extreme = x[i];
    float scale = extreme / -8.0f, inverse = scale != 0 ? 1.0f / scale : 0;
    half_put(scale, block);
    uint8_t q[GROUP];
    for (int i = 0; i < GROUP; i++)
        q[i] = (uint8_t)fminf(15.0f, fmaxf(0.0f, floorf(x[i] * inverse + 8.5f)));
    nibbles_write(q, block + 2);
}

/* Weights scale · q + minimum, q from 0 to 15. */
struct line {
    float scale, minimum;
};

enum { LANES = 8 }; /* sums of their own, so that the compiler may use vectors */

static int q4_of(float x, struct line line, float inverse)
{
    float q = (x - line.minimum) * inverse + 0.5f;
    q = q > 0 ? q : 0;
    return (int)(q < 15.5f ? q : 15.5f);
}

static float lanes_sum(const float lanes[LANES])
{
    return (lanes[0] + lanes[4]) + (lanes[1] + lanes[5]) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/* Rounds x to the line's points, then finds the line that goes best through the points that were chosen. */
static struct line q4_refit(const float x[GROUP], struct line line, float sum_x)
{
    float inverse = 1 / line.scale, sums_q[LANES] = {0}, sums_qq[LANES] = {0}, sums_qx[LANES] = {0};
    for (int i = 0; i < GROUP; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float q = (float)q4_of(x[i + j], line, inverse);
            sums_q[j] += q;
            sums_qq[j] += q * q;
            sums_qx[j] += q * x[i + j];
        }
    }
    float sum_q = lanes_sum(sums_q), spread = (float)GROUP * lanes_sum(sums_qq) - sum_q * sum_q;
    if (spread == 0)
        return line;
    float scale = ((float)GROUP * lanes_sum(sums_qx) - sum_q * sum_x) / spread;
    return (struct line){scale, (sum_x - scale * sum_q) / (float)GROUP};
}

static float q4_error(const float x[GROUP], struct line line)
{
    float inverse = 1 / line.scale, sums[LANES] = {0};
    for (int i = 0; i < GROUP; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            float off = line.scale * (float)q4_of(x[i + j], line, inverse) + line.minimum - x[i + j];
            sums[j] += off * off;
        }
    }
    return lanes_sum(sums);
}

static struct line as_stored(struct line line)
{
    return (struct line){half_f16_to_f32(half_f32_to_f16(line.scale)), half_f16_to_f32(half_f32_to_f16(line.minimum))};
}

/*
 * Q4_1: lines from a bit wider than the values' range to narrower ones, which cut the outermost values for the sake of the
 * rest; each is refitted twice. What counts is the error with scale and minimum as they are stored.
 */
static void q4_1_from_f32(const float x[GROUP], uint8_t *block)
{
    static const float steps[] = {14.6f, 15.8f, 17.2f};
    float low = x[0], high = x[0], sum_x = 0, best_error = INFINITY;
    for (int i = 0; i < GROUP; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
        sum_x += x[i];
    }
    struct line best = {0, (low + high) / 2}; /* all that is left of values too near each other for a scale in F16 */
    if (!isfinite(sum_x)) /* the damage should show in every output instead of hiding in wrong numbers */
        best.scale = NAN;
    for (size_t s = 0; s < sizeof steps / sizeof steps[0] && high > low && isfinite(sum_x); s++) {
        struct line line = {(high - low) / steps[s], (low + high) / 2 - (high - low) / steps[s] * 7.5f};
        line = as_stored(q4_refit(x, q4_refit(x, line, sum_x), sum_x));
        float error = line.scale > 0 ? q4_error(x, line) : INFINITY;
        if (error < best_error) {
            best_error = error;
            best = line;
        }
    }
    uint8_t q[GROUP] = {0};
    for (int i = 0; i < GROUP && best.scale > 0; i++)
        q[i] = (uint8_t)q4_of(x[i], best, 1 / best.scale);
    half_put(best.scale, block);
    half_put(best.minimum, block + 2);
    nibbles_write(q, block + 4);
}

void kernels_row_from_f32(enum dtype dtype, const float *src, int n, void *out)
{
    static void (*const encoders[DTYPE_COUNT])(const float x[GROUP], uint8_t *block) = {
        [DTYPE_F8_E4M3] = f8_from_f32, [DTYPE_Q8_0] = q8_0_from_f32, [DTYPE_Q4_0] = q4_0_from_f32, [DTYPE_Q4_1] = q4_1_from_f32};
    uint8_t *bytes = out;
    if (dtype == DTYPE_F32) {
        memmove(out, src, (size_t)n * sizeof *src);
    } else if (dtype == DTYPE_F16 || dtype == DTYPE_BF16) {
        for (int i = 0; i < n; i++) {
            uint16_t half = dtype == DTYPE_F16 ? half_f32_to_f16(src[i]) : half_f32_to_bf16(src[i]);
            memcpy(bytes + 2 * (size_t)i, &half, sizeof half);
        }
    } else {
        assert(encoders[dtype] != NULL);
        for (int g = 0; g < n / GROUP; g++)
            encoders[dtype](src + GROUP * g, bytes + (size_t)g * (size_t)dtype_block_bytes(dtype));
    }
}
