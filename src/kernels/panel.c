/* Reads a group of a packed panel back into small integers and scales, in plain C. Pure functions, any thread. */
#include "kernels/panel.h"

#include <string.h>

#include "base/half.h"
#include "kernels/blocks.h"

enum { ROWS = KERNELS_PANEL_ROWS };

static float half_at(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return half_f16_to_f32(half);
}

static void scales_read(enum dtype dtype, const uint8_t *panel, int g, struct panel_group *group)
{
    memset(group->minimum, 0, sizeof group->minimum);
    int j = g % PANEL_SUPER_GROUPS;
    const uint8_t *head = panel + panel_head_at(dtype, g);
    for (int r = 0; r < ROWS; r++) {
        switch (dtype) {
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
            group->scale[0][r] = half_at(head + 2 * r) * (float)head[64 + 16 * j + r];
            group->minimum[r] = half_at(head + 32 + 2 * r) * (float)head[192 + 16 * j + r];
            break;
        case DTYPE_Q6_K: /* the only format whose half groups differ */
            group->scale[0][r] = half_at(head + 2 * r) * (float)(int8_t)head[64 + 16 * (2 * j) + r];
            group->scale[1][r] = half_at(head + 2 * r) * (float)(int8_t)head[64 + 16 * (2 * j + 1) + r];
            continue;
        default:
            group->scale[0][r] = half_at(head + 2 * r);
            if (dtype == DTYPE_Q4_1)
                group->minimum[r] = -half_at(head + 32 + 2 * r);
        }
        group->scale[1][r] = group->scale[0][r];
    }
}

/* The last two quads are spread over the upper bits of the others. */
static int q6_read(const uint8_t *weights, int quad, int at)
{
    if (quad < 6)
        return weights[quad * 64 + at] & 63;
    const uint8_t *three = weights + (quad - 6) * 3 * 64 + at;
    return three[0] >> 6 | three[64] >> 6 << 2 | three[128] >> 6 << 4;
}

void panel_group_read(enum dtype dtype, const uint8_t *panel, int g, struct panel_group *ret_group)
{
    scales_read(dtype, panel, g, ret_group);
    const uint8_t *weights = panel + panel_weights_at(dtype, g), *upper = weights + PANEL_NIBBLES;
    int offset = blocks_offset(dtype);
    for (int i = 0; i < KERNELS_GROUP; i++) {
        int quad = i / 4;
        for (int r = 0; r < ROWS; r++) {
            int at = r * 4 + i % 4;
            if (dtype == DTYPE_Q8_0) {
                ret_group->q[i][r] = (int8_t)weights[quad * 64 + at];
                continue;
            }
            int q = dtype == DTYPE_Q6_K ? q6_read(weights, quad, at) : weights[quad % 4 * 64 + at] >> quad / 4 * 4 & 15;
            if (dtype == DTYPE_Q5_K)
                q |= (upper[at] >> quad & 1) << 4;
            ret_group->q[i][r] = (int8_t)(q - offset);
        }
    }
}
