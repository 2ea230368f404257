/* ggml's block quantisers; see ggml_quants.py for what a block is.
 *
 * Written so that a compiler turns the loops over a block's 32 weights into vector instructions
 * without being allowed to reorder float arithmetic: comparisons are made on integers that order
 * as the floats do.
 */

#include "ggml_blocks.h"

#define BLOCK 32

/* Signed integers that order as the floats do, -0 below +0; the same function leads back. */
static inline int32_t ordered(uint32_t bits)
{
    int32_t word = (int32_t)bits;
    return word ^ (int32_t)((uint32_t)(word >> 31) >> 1);
}

static inline void extremes(const float *weights, float *least, float *most)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int i = 0; i < BLOCK; i++) {
        int32_t key = ordered(as_bits(weights[i]));
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *least = as_float((uint32_t)ordered((uint32_t)low));
    *most = as_float((uint32_t)ordered((uint32_t)high));
}

/* 1 / scale, and 0 where that is no number. */
static inline float inverse_of(float scale)
{
    float inverse = 1.0f / scale;
    return (as_bits(inverse) & ~SIGN) == 0x7F800000u ? 0.0f : inverse;
}

/* The weight of largest magnitude, the first of them if there are several. */
static inline float extreme_of(const float *weights)
{
    float least, most;
    extremes(weights, &least, &most);
    if (most != -least) { /* which of them is random: no branch that is guessed wrong half the time */
        uint32_t upper = -(uint32_t)(most > -least);
        return as_float((as_bits(most) & upper) | (as_bits(least) & ~upper));
    }
    for (int i = 0; i < BLOCK; i++)
        if (weights[i] == most || weights[i] == least)
            return weights[i];
    return most;
}

/* 16 bytes of nibbles and, of 5-bit numbers, 4 bytes of high bits before them. */
static inline void pack(const uint8_t *chosen, uint8_t *out, int levels)
{
    if (levels > 16) {
        for (int i = 0; i < BLOCK; i += 8) {
            uint64_t bytes;
            memcpy(&bytes, chosen + i, 8);
            /* The product brings the lowest bits of the eight bytes together in its highest byte. */
            *out++ = (uint8_t)((bytes >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56);
        }
    }
    for (int i = 0; i < BLOCK / 2; i++)
        out[i] = (uint8_t)((chosen[i] & 15) | chosen[i + BLOCK / 2] << 4);
}

static inline void choose(const float *weights, float base, float inverse, float shift, int levels,
                          uint8_t *out)
{
    uint8_t chosen[BLOCK];
    float limit = (float)levels - 0.5f;
    for (int i = 0; i < BLOCK; i++) {
        float value = (weights[i] - base) * inverse + shift;
        chosen[i] = (uint8_t)(int32_t)(value < limit ? value : limit);
    }
    pack(chosen, out, levels);
}

#define INLINE static inline __attribute__((always_inline)) void

INLINE symmetric(const void *from, size_t blocks, enum input input, uint8_t *out, int levels)
{
    float weights[BLOCK], half = (float)(levels / 2);
    size_t width = levels > 16 ? 22 : 18;
    for (size_t block = 0; block < blocks; block++, out += width) {
        load(weights, from, block * BLOCK, BLOCK, input);
        float scale = extreme_of(weights) / -half;
        choose(weights, 0.0f, inverse_of(scale), half + 0.5f, levels, put_half(scale, out));
    }
}

INLINE affine(const void *from, size_t blocks, enum input input, uint8_t *out, float *least,
              int levels)
{
    float weights[BLOCK], most;
    size_t width = levels > 16 ? 24 : 20;
    for (size_t block = 0; block < blocks; block++, out += width) {
        load(weights, from, block * BLOCK, BLOCK, input);
        extremes(weights, &least[block], &most);
        float scale = (most - least[block]) / (float)(levels - 1);
        uint8_t *numbers = put_half(least[block], put_half(scale, out));
        choose(weights, least[block], inverse_of(scale), 0.5f, levels, numbers);
    }
}

INLINE eight_bits(const void *from, size_t blocks, enum input input, uint8_t *out)
{
    float weights[BLOCK];
    for (size_t block = 0; block < blocks; block++, out += 34) {
        load(weights, from, block * BLOCK, BLOCK, input);
        uint32_t largest = 0;
        for (int i = 0; i < BLOCK; i++) {
            uint32_t magnitude = as_bits(weights[i]) & ~SIGN;
            largest = magnitude > largest ? magnitude : largest;
        }
        float scale = as_float(largest) / 127.0f, inverse = inverse_of(scale);
        uint8_t *numbers = put_half(scale, out);
        for (int i = 0; i < BLOCK; i++) {
            float value = weights[i] * inverse;
            /* Halves away from zero: the float before 0.5, so that 0.49999997 stays 0. */
            value += as_float((as_bits(value) & SIGN) | 0x3EFFFFFFu);
            numbers[i] = (uint8_t)(int8_t)(int32_t)value;
        }
    }
}

/* Quantises blocks of 32 weights at `from` (input: 0 float32, 1 bfloat16) into the blocks at `out`.
 * `least` [blocks]: the minima, of the kinds that have them. */
#define QUANTISER(name, method, ...)                                                               \
    void name(const void *from, size_t blocks, int input, uint8_t *out, float *least)              \
    {                                                                                              \
        (void)least;                                                                               \
        if (input == BFLOAT16)                                                                     \
            method(from, blocks, BFLOAT16, out __VA_OPT__(, ) __VA_ARGS__);                        \
        else                                                                                       \
            method(from, blocks, FLOAT32, out __VA_OPT__(, ) __VA_ARGS__);                         \
    }

QUANTISER(lh_q8_0, eight_bits)
QUANTISER(lh_q4_0, symmetric, 16)
QUANTISER(lh_q5_0, symmetric, 32)
QUANTISER(lh_q4_1, affine, least, 16)
QUANTISER(lh_q5_1, affine, least, 32)
