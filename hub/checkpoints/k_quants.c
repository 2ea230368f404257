/* ggml's K-quants; see k_quants.py for what a super-block is.
 *
 * The search for a group's scale adds floats in the order of its weights, which no compiler may
 * change. So LANES groups are searched side by side, one in each lane of a vector: lane g of x[i] is
 * weight i of group g, and every lane sums in the right order.
 */

#include <math.h>

#include "ggml_blocks.h"

#define SUPER 256 /* weights of a super-block */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4 /* vectors wider than the machine's are taken apart badly by compilers */
#endif
#define GROUPS (LANES < 8 ? 8 : LANES) /* of 32 weights that are worked on together */

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE floats splat(float value) { return value - (floats){0}; }

INLINE floats choose(ints mask, floats yes, floats no)
{
    return (floats)((mask & (ints)yes) | (~mask & (ints)no));
}

INLINE floats magnitude(floats value) { return (floats)((ints)value & (int32_t)~SIGN); }

/* To the nearest whole number, ties to even, for what is within 2^22; as bits beyond. */
INLINE ints nearest(floats value)
{
    return ((ints)(value + 12582912.0f) & 0x007FFFFF) - 0x00400000;
}

INLINE int nearest_of(float value)
{
    return (int)(as_bits(value + 12582912.0f) & 0x007FFFFF) - 0x00400000;
}

INLINE floats clamped(ints value, int low, int high)
{
    ints below = value < low, above = value > high;
    value = (below & low) | (~below & value);
    value = (above & high) | (~above & value);
    return __builtin_convertvector(value, floats);
}

INLINE int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
}

/* What searches found, by group: weight = scale * number - offset or scale * number; the numbers
 * that were chosen are those nearest to (weight - base) * inverse. */
struct found {
    float scale[16], offset[16], inverse[16], base[16];
    int32_t zero[16]; /* all numbers are 0 */
};

INLINE void put(float *out, floats value) { memcpy(out, &value, sizeof value); }

/* Scale and offset with the least weighted square error, of `count` weights and numbers 0 … top:
 * for each of `steps` + 1 inverses the best scale and offset for the numbers that it gives. */
INLINE void search_affine(const floats *x, const floats *weight, int count, int top, float start,
                          int steps, struct found *found, int at)
{
    floats zero = {0}, least = x[0], most = x[0], sum_w = weight[0], sum_x = weight[0] * x[0];
    for (int i = 1; i < count; i++) {
        least = choose(x[i] < least, x[i], least);
        most = choose(x[i] > most, x[i], most);
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    least = choose(least > 0.0f, zero, least);
    ints flat = most == least;
    floats inverse = splat((float)top) / (most - least), scale = splat(1.0f) / inverse, best = zero;
    floats chosen = inverse, base = least;
    for (int i = 0; i < count; i++) {
        floats number = clamped(nearest(inverse * (x[i] - least)), 0, top);
        floats difference = scale * number + least - x[i];
        best += weight[i] * (difference * difference);
    }
    for (int step = 0; step <= steps; step++) {
        inverse = splat(start + 0.1f * (float)step + (float)top) / (most - least);
        floats number[32], sum_l = zero, sum_l2 = zero, sum_xl = zero;
        for (int i = 0; i < count; i++) {
            floats l = number[i] = clamped(nearest(inverse * (x[i] - least)), 0, top);
            floats weighted = weight[i] * l;
            sum_l += weighted;
            sum_l2 += weighted * l;
            sum_xl += weighted * x[i];
        }
        floats determinant = sum_w * sum_l2 - sum_l * sum_l;
        floats slope = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        floats intercept = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        ints positive = intercept > 0.0f;
        slope = choose(positive, sum_xl / sum_l2, slope);
        intercept = choose(positive, zero, intercept);
        floats error = zero;
        for (int i = 0; i < count; i++) {
            floats difference = slope * number[i] + intercept - x[i];
            error += weight[i] * (difference * difference);
        }
        ints better = (error < best) & (determinant > 0.0f) & ~flat;
        chosen = choose(better, inverse, chosen);
        base = choose(better, least, base);
        best = choose(better, error, best);
        scale = choose(better, slope, scale);
        least = choose(better, intercept, least);
    }
    put(found->scale + at, choose(flat, zero, scale));
    put(found->offset + at, -least);
    put(found->inverse + at, chosen);
    put(found->base + at, base);
    memcpy(found->zero + at, &flat, sizeof flat);
}

/* Scale with the least square error weighted by the square, numbers -half … half - 1. */
INLINE void search_symmetric(const floats *x, int count, int half, struct found *found, int at)
{
    floats zero = {0}, largest = zero, extreme = zero, cube[16], square[16];
    for (int i = 0; i < count; i++) {
        floats size = magnitude(x[i]);
        ints larger = size > largest;
        largest = choose(larger, size, largest);
        extreme = choose(larger, x[i], extreme);
        square[i] = x[i] * x[i];
        cube[i] = square[i] * x[i];
    }
    ints nothing = largest < 1e-15f;
    floats scale = zero, best = zero, chosen = zero;
    for (int step = -10; step <= 9; step++) { /* -10: the plain scale, first; 0 is the same */
        if (step == 0)
            continue;
        float reach = step == -10 ? (float)half : (float)half + 0.1f * (float)step;
        floats inverse = splat(-reach) / extreme, sum_lx = zero, sum_l2 = zero;
        for (int i = 0; i < count; i++) {
            floats number = clamped(nearest(inverse * x[i]), -half, half - 1);
            sum_lx += cube[i] * number;
            sum_l2 += square[i] * number * number;
        }
        if (step == -10) {
            scale = choose(sum_l2 != 0.0f, sum_lx / sum_l2, zero);
            best = scale * sum_lx;
            chosen = inverse;
            continue;
        }
        ints better = (sum_l2 > 0.0f) & (sum_lx * sum_lx > best * sum_l2);
        chosen = choose(better, inverse, chosen);
        scale = choose(better, sum_lx / sum_l2, scale);
        best = choose(better, scale * sum_lx, best);
    }
    put(found->scale + at, choose(nothing, zero, scale));
    put(found->inverse + at, chosen);
    memcpy(found->zero + at, &nothing, sizeof nothing);
}

/* Weights [LANES][count] to vectors, weight i of every group in x[i]. */
INLINE void transpose(const float *weights, int count, floats *x)
{
    for (int i = 0; i < count; i++)
        for (int lane = 0; lane < LANES; lane++)
            x[i][lane] = weights[lane * count + i];
}

/* The six bits of scale and of minimum of each of 8 groups in 12 bytes. */
INLINE void pack_sixes(const uint8_t *scale, const uint8_t *minimum, uint8_t *out)
{
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
        out[j + 4] = (uint8_t)(minimum[j] | minimum[j + 4] >> 4 << 6);
        out[j + 8] = (uint8_t)((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
    }
}

INLINE uint8_t at_most_63(float value)
{
    uint8_t byte = (uint8_t)nearest_of(value);
    return byte < 63 ? byte : 63;
}

/* The numbers of one super-block of 8 groups, from lane `lane` on, and its head of 16 bytes. */
INLINE void finish_affine(const float *weights, const struct found *found, int lane, int top,
                          uint8_t *numbers, uint8_t *head)
{
    float max_scale = 0, max_offset = 0;
    for (int j = 0; j < 8; j++) {
        max_scale = found->scale[lane + j] > max_scale ? found->scale[lane + j] : max_scale;
        max_offset = found->offset[lane + j] > max_offset ? found->offset[lane + j] : max_offset;
    }
    float scale_inverse = max_scale > 0 ? 63.0f / max_scale : 0.0f;
    float offset_inverse = max_offset > 0 ? 63.0f / max_offset : 0.0f;
    uint8_t scales[8], minima[8];
    for (int j = 0; j < 8; j++) {
        scales[j] = at_most_63(scale_inverse * found->scale[lane + j]);
        minima[j] = at_most_63(offset_inverse * found->offset[lane + j]);
    }
    pack_sixes(scales, minima, put_half(max_offset / 63.0f, put_half(max_scale / 63.0f, head)));
    float scale = float_of(half_of(max_scale / 63.0f));
    float offset = float_of(half_of(max_offset / 63.0f));
    for (int j = 0; j < 8; j++) {
        const float *x = weights + 32 * j;
        uint8_t *out = numbers + 32 * j;
        float d = scale * (float)scales[j], m = offset * (float)minima[j];
        if (d != 0) {
            for (int i = 0; i < 32; i++)
                out[i] = (uint8_t)clamp(nearest_of((x[i] + m) / d), 0, top);
        } else {
            float inverse = found->inverse[lane + j], base = found->base[lane + j];
            for (int i = 0; i < 32; i++)
                out[i] = found->zero[lane + j]
                             ? 0
                             : (uint8_t)clamp(nearest_of(inverse * (x[i] - base)), 0, top);
        }
    }
}

INLINE void pack_q4(const uint8_t *numbers, uint8_t *out)
{
    for (int part = 0; part < 4; part++)
        for (int i = 0; i < 32; i++)
            out[32 * part + i] =
                (uint8_t)(numbers[64 * part + i] | numbers[64 * part + 32 + i] << 4);
}

INLINE void pack_q5(const uint8_t *numbers, uint8_t *out)
{
    uint8_t low[SUPER];
    for (int i = 0; i < 32; i++) {
        uint8_t high = 0;
        for (int group = 0; group < 8; group++)
            high |= (uint8_t)(numbers[32 * group + i] >> 4 << group);
        out[i] = high;
    }
    for (int i = 0; i < SUPER; i++)
        low[i] = numbers[i] & 15;
    pack_q4(low, out + 32);
}

/* Scale and offset of LANES groups of 32; those found are put from the group `at` on. */
INLINE void search_groups(const float *weights, int top, float start, int steps,
                          struct found *found, int at)
{
    floats x[32], weight[32], squares = {0}, mean = {0};
    transpose(weights + 32 * at, 32, x);
    for (int i = 0; i < 32; i++)
        squares += x[i] * x[i];
    for (int lane = 0; lane < LANES; lane++)
        mean[lane] = sqrtf(squares[lane] / 32.0f);
    for (int i = 0; i < 32; i++)
        weight[i] = mean + magnitude(x[i]);
    search_affine(x, weight, 32, top, start, steps, found, at);
}

/* Super-blocks of 8 groups of 32; the last may have zeros beside it. */
INLINE void affine_blocks(const void *from, size_t blocks, enum input input, uint8_t *out, int top,
                          float start, int steps)
{
    size_t width = top > 15 ? 176 : 144, at_once = GROUPS / 8;
    for (size_t block = 0; block < blocks; block += at_once) {
        float weights[GROUPS * 32] = {0};
        size_t count = blocks - block < at_once ? blocks - block : at_once;
        load(weights, from, block * SUPER, (int)count * SUPER, input);
        struct found found;
        for (int at = 0; at < GROUPS; at += LANES)
            search_groups(weights, top, start, steps, &found, at);
        for (size_t which = 0; which < count; which++, out += width) {
            uint8_t numbers[SUPER];
            finish_affine(weights + SUPER * which, &found, 8 * (int)which, top, numbers, out);
            (top > 15 ? pack_q5 : pack_q4)(numbers, out + 16);
        }
    }
}

INLINE void pack_q6(const uint8_t *numbers, uint8_t *out)
{
    for (int half = 0; half < 2; half++) {
        const uint8_t *from = numbers + 128 * half;
        uint8_t *low = out + 64 * half, *high = out + 128 + 32 * half;
        for (int i = 0; i < 64; i++)
            low[i] = (uint8_t)((from[i] & 15) | (from[i + 64] & 15) << 4);
        for (int i = 0; i < 32; i++)
            high[i] = (uint8_t)(from[i] >> 4 | from[i + 32] >> 4 << 2 | from[i + 64] >> 4 << 4 |
                                from[i + 96] >> 4 << 6);
    }
}

/* One super-block of 16 groups of 16: 128 bytes of low bits, 64 of high bits, 16 scales, d. */
INLINE void finish_q6(const float *weights, const struct found *found, uint8_t *out)
{
    float largest = 0, extreme = 0;
    for (int j = 0; j < 16; j++) {
        float size = fabsf(found->scale[j]);
        if (size > largest) {
            largest = size;
            extreme = found->scale[j];
        }
    }
    if (largest < 1e-15f) {
        memset(out, 0, 210);
        return;
    }
    float inverse = -128.0f / extreme, scale = float_of(half_of(1.0f / inverse));
    uint8_t numbers[SUPER];
    for (int j = 0; j < 16; j++) {
        int whole = nearest_of(inverse * found->scale[j]);
        int8_t six = (int8_t)(whole < 127 ? whole : 127);
        out[192 + j] = (uint8_t)six;
        float d = scale * (float)six, kept = found->inverse[j];
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            int number = nearest_of(d != 0 ? weights[i] / d : kept * weights[i]);
            numbers[i] = d == 0 && found->zero[j] ? 0 : (uint8_t)(clamp(number, -32, 31) + 32);
        }
    }
    pack_q6(numbers, out);
    put_half(1.0f / inverse, out + 208);
}

INLINE void q6_blocks(const void *from, size_t blocks, enum input input, uint8_t *out)
{
    for (size_t block = 0; block < blocks; block++, out += 210) {
        float weights[SUPER];
        load(weights, from, block * SUPER, SUPER, input);
        struct found found;
        for (int at = 0; at < 16; at += LANES) {
            floats x[16];
            transpose(weights + 16 * at, 16, x);
            search_symmetric(x, 16, 32, &found, at);
        }
        finish_q6(weights, &found, out);
    }
}

/* Quantises super-blocks of 256 weights at `from` (input: 0 float32, 1 bfloat16) into `out`. */
#define QUANTISER(name, method, ...)                                                               \
    void name(const void *from, size_t blocks, int input, uint8_t *out, float *least)              \
    {                                                                                              \
        (void)least;                                                                               \
        if (input == BFLOAT16)                                                                     \
            method(from, blocks, BFLOAT16, out __VA_OPT__(, ) __VA_ARGS__);                        \
        else                                                                                       \
            method(from, blocks, FLOAT32, out __VA_OPT__(, ) __VA_ARGS__);                         \
    }

QUANTISER(lh_q4_k, affine_blocks, 15, -1.0f, 20)
QUANTISER(lh_q5_k, affine_blocks, 31, -0.5f, 15)
QUANTISER(lh_q6_k, q6_blocks)
