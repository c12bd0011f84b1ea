/* Small floats (16 bits, and 8 as E4M3) to and from float, in plain C: exact one way, round to nearest even the other. Pure functions. */
#ifndef BASE_HALF_H
#define BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float half_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t half_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float half_bf16_to_f32(uint16_t half)
{
    return half_bits_to_f32((uint32_t)half << 16);
}

static inline uint16_t half_f32_to_bf16(float value)
{
    uint32_t bits = half_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u); /* a NaN stays one: rounding could carry it into infinity */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float half_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) /* infinity or NaN */
        return half_bits_to_f32(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) /* normal: move the exponent's bias from 15 to 127 */
        return half_bits_to_f32(sign | ((magnitude << 13) + (112u << 23)));
    float value = (float)magnitude * 0x1p-24f;
    return sign ? -value : value;
}

static inline uint16_t half_f32_to_f16(float value)
{
    uint32_t bits = half_f32_to_bits(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) { /* normal in F16 */
        uint32_t shifted = magnitude - (112u << 23);
        return (uint16_t)(sign | (shifted + 0xfffu + (shifted >> 13 & 1u)) >> 13);
    }
    /* Subnormal: adding 0.5 leaves the value in the low bits in units of 2^-24, rounded by the addition itself. */
    float sum = half_bits_to_f32(magnitude) + 0.5f;
    return (uint16_t)(sign | (half_f32_to_bits(sum) - half_f32_to_bits(0.5f)));
}

/* E4M3 without infinities: both patterns of seven ones are NaN. Its bits are those of an F16 with another exponent bias. */
static inline float half_f8_to_f32(uint8_t byte)
{
    if ((byte & 0x7fu) == 0x7fu)
        return half_bits_to_f32((uint32_t)(byte & 0x80u) << 24 | 0x7fc00000u);
    return half_f16_to_f32((uint16_t)((byte & 0x80u) << 8 | (byte & 0x7fu) << 7)) * 256.0f;
}

/* What is too large becomes the largest, ±448. */
static inline uint8_t half_f32_to_f8(float value)
{
    uint32_t bits = half_f32_to_bits(value);
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7fu;
    if (magnitude >= 0x43e00000u) /* 448 */
        return sign | 0x7eu;
    if (magnitude >= 0x3c800000u) { /* normal in E4M3: at least 2^-6 */
        uint32_t shifted = magnitude - (120u << 23);
        return (uint8_t)(sign | (shifted + 0x7ffffu + (shifted >> 20 & 1u)) >> 20);
    }
    /* Subnormal: adding 2^14 leaves the value in the low bits in units of 2^-9, rounded by the addition itself. */
    float sum = half_bits_to_f32(magnitude) + 0x1p14f;
    return (uint8_t)(sign | (half_f32_to_bits(sum) - half_f32_to_bits(0x1p14f)));
}

#endif
