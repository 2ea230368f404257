/* Scales and numbers of weights that are quantised by groups: the search of conversion.quantize,
   which says what is searched for and does the same in numpy, sum by sum. */

#include <math.h>
#include <stdlib.h>

#include "ggml_blocks.h"

#define WIDE 16      /* running sums; they are put together in halves */
#define WHOLE 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, ties to even */
#define SMALLEST 1.17549435e-38f /* whose inverse is finite */

enum { AS_BFLOAT16, AS_FLOAT16, AS_FLOAT32 }; /* numeric.DTYPES */

typedef float vf __attribute__((vector_size(4 * WIDE)));
typedef float vf_any __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(8 * WIDE)));
typedef int32_t vi __attribute__((vector_size(4 * WIDE)));
#define INLINE static inline __attribute__((always_inline))

static float rounded(float value, int type)
{
    if (type == AS_FLOAT32)
        return value;
    if (type == AS_FLOAT16)
        return float_of(half_of(value));
    uint32_t bits = as_bits(value);
    return as_float((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u);
}

static float inverse_of(float scale)
{
    return fabsf(scale) >= SMALLEST ? 1.0f / scale : 0.0f;
}

INLINE vf splat(float value) { return value - (vf){0}; }

INLINE vf chosen_of(vi which, vf yes, vf no) { return (vf)(((vi)yes & which) | ((vi)no & ~which)); }

INLINE vf weights_at(const float *w) { return *(const vf_any *)w; }

/* The whole numbers from -half to half - 1 that are nearest to w · inverse. */
INLINE vf numbers(vf w, float inverse, float half)
{
    const vf low = splat(-half), high = splat(half - 1);
    vf v = w * splat(inverse);
    v = chosen_of(v < low, low, v);
    v = chosen_of(v > high, high, v);
    return (v + splat(WHOLE)) - splat(WHOLE);
}

/* The sum of all lanes: halves are added until one is left. */
INLINE float halved(vf given)
{
    typedef float v8 __attribute__((vector_size(32)));
    typedef float v4 __attribute__((vector_size(16)));
    v8 eight[2];
    v4 four[2];
    memcpy(eight, &given, sizeof eight);
    eight[0] += eight[1];
    memcpy(four, eight, sizeof four);
    four[0] += four[1];
    return (four[0][0] + four[0][2]) + (four[0][1] + four[0][3]);
}

/* <w,q> and <q,q> for the numbers q nearest to w / scale. */
static void products(const float *w, size_t group, float scale, float half, float *along,
                     float *square)
{
    vf a = {0}, s = {0};
    const float inverse = inverse_of(scale);
    for (size_t k = 0; k < group; k += WIDE) {
        const vf q = numbers(weights_at(w + k), inverse, half);
        a += weights_at(w + k) * q;
        s += q * q;
    }
    *along = halved(a);
    *square = halved(s);
}

static float gain_of(const float *w, size_t group, float scale, float half)
{
    float along, square;
    products(w, group, scale, half, &along, &square);
    return scale * (2 * along - scale * square);
}

static float best_of(const float *w, size_t group, float half, int type, const float *widths,
                     int count)
{
    vf top = {0};
    for (size_t k = 0; k < group; k += WIDE) {
        const vf v = weights_at(w + k), size = (vf)((vi)v & 0x7FFFFFFF);
        top = chosen_of(size > top, size, top);
    }
    float largest = 0, extreme = w[0];
    for (int l = 0; l < WIDE; l++)
        largest = top[l] > largest ? top[l] : largest;
    for (size_t k = 0; k < group; k++)
        if (fabsf(w[k]) == largest) { /* the first of them */
            extreme = w[k];
            break;
        }
    const float widest = extreme * (-1.0f / half);
    float best = rounded(widest, type), gain = gain_of(w, group, best, half);
    for (int i = 0; i < count; i++) {
        float along, square;
        products(w, group, widest * widths[i], half, &along, &square);
        float candidate = rounded(square != 0 ? along / square : 0, type);
        float found = gain_of(w, group, candidate, half);
        if (found > gain)
            best = candidate, gain = found;
    }
    return best;
}

/* `count` groups of `group` weights (a multiple of 16), float32 or bfloat16: a scale of type
   `type` for each, the numbers, and in sums[2] the squared error and the squared weights. */
void lh_groups(const void *from, size_t count, size_t group, int input, int bits, int type,
               const float *widths, int n_widths, float *scales, int8_t *out, double *sums)
{
    const float half = (float)(1 << (bits - 1));
    float *w = malloc(group * sizeof *w);
    if (!w)
        abort();
    vd error = {0}, norm = {0};
    for (size_t n = 0; n < count; n++) {
        load(w, from, n * group, (int)group, (enum input)input);
        const float scale = best_of(w, group, half, type, widths, n_widths);
        const float inverse = inverse_of(scale);
        for (size_t k = 0; k < group; k += WIDE) {
            const vf v = weights_at(w + k), q = numbers(v, inverse, half);
            const vd wide = __builtin_convertvector(v, vd);
            const vd miss = __builtin_convertvector(v - q * splat(scale), vd);
            error += miss * miss;
            norm += wide * wide;
            for (int l = 0; l < WIDE; l++)
                out[n * group + k + (size_t)l] = (int8_t)q[l];
        }
        scales[n] = scale;
    }
    free(w);
    sums[0] = sums[1] = 0;
    for (int l = 0; l < WIDE; l++)
        sums[0] += error[l], sums[1] += norm[l];
}
