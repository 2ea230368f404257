/* What ggml's block formats share: floats as bits, float16, weights of a block as float32. */

#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SIGN 0x80000000u

enum input { FLOAT32, BFLOAT16 };

static inline float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* The nearest float16, ties to even. */
static inline uint16_t half_of(float value)
{
    uint32_t bits = as_bits(value), sign = bits >> 16 & 0x8000, half;
    bits &= ~SIGN;
    if (bits > 0x7F800000u)
        half = 0x7E00; /* NaN */
    else if (bits >= 0x477FF000u)
        half = 0x7C00; /* from 65520 on: infinite */
    else if (bits < 0x38800000u)
        half = as_bits(as_float(bits) + 0.5f) - as_bits(0.5f); /* subnormal: units of 2^-24 */
    else
        half = (bits - 0x38000000u + 0xFFF + (bits >> 13 & 1)) >> 13;
    return (uint16_t)(half | sign);
}

static inline float float_of(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7FFF;
    if (rest >= 0x7C00)
        return as_float(sign | 0x7F800000u | (rest & 0x3FF) << 13);
    if (rest < 0x400)
        return as_float(sign | as_bits((float)rest * 0x1p-24f)); /* subnormal */
    return as_float(sign | ((rest << 13) + 0x38000000u));
}

/* float16, little-endian, at `out`; returns what follows it. */
static inline uint8_t *put_half(float value, uint8_t *out)
{
    uint16_t half = half_of(value);
    *out++ = (uint8_t)half;
    *out++ = (uint8_t)(half >> 8);
    return out;
}

/* `count` weights from the weight `first` on. */
static inline void load(float *weights, const void *from, size_t first, int count,
                        enum input input)
{
    if (input == FLOAT32) {
        memcpy(weights, (const float *)from + first, (size_t)count * sizeof(float));
        return;
    }
    const uint16_t *halves = (const uint16_t *)from + first;
    for (int i = 0; i < count; i++)
        weights[i] = as_float((uint32_t)halves[i] << 16);
}
