/* Vectors of LANES floats in GCC's and clang's portable extension, and loads that widen to them.

   Nothing here depends on an instruction set except LANES; the compiler is told -march=native.
   Sums run in a fixed order, so that a row's result never depends on the rows beside it. */

#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define PAGE 16 /* tokens; llama_hub.inference.config.PAGE */

enum { F32 = 0, BF16 = 1, F16 = 2 };

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vf splat(float value) { return value - (vf){0}; }

/* a · b + c, rounded once where the machine can; never left to the compiler, which may choose
   differently for one row and for six. */
INLINE vf mul_add(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    for (int l = 0; l < LANES; l++) c[l] = __builtin_fmaf(a[l], b[l], c[l]);
    return c;
#endif
}

INLINE vf load_f32(const void *p, size_t i) { return *(const vf_any *)((const float *)p + i); }

INLINE vf load_bf16(const void *p, size_t i) {
    vh_any half = *(const vh_any *)((const uint16_t *)p + i);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

INLINE vf load_f16(const void *p, size_t i) {
    const uint16_t *at = (const uint16_t *)p + i;
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__F16C__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
#else
    vf out;
    for (int l = 0; l < LANES; l++) {
        _Float16 h;
        memcpy(&h, at + l, 2);
        out[l] = (float)h;
    }
    return out;
#endif
}

INLINE vf load_as(int type, const void *p, size_t i) {
    return type == F32 ? load_f32(p, i) : type == BF16 ? load_bf16(p, i) : load_f16(p, i);
}

INLINE void store(float *p, vf v) { *(vf_any *)p = v; }

INLINE uint16_t to_bf16(float value) { /* to nearest, ties to even; no NaN is expected */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE uint16_t to_f16(float value) {
#ifdef __F16C__
    return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), 0), 0);
#else
    _Float16 h = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &h, 2);
    return bits;
#endif
}

INLINE void store_as(int type, void *p, size_t i, float value) {
    if (type == F32) ((float *)p)[i] = value;
    else ((uint16_t *)p)[i] = type == BF16 ? to_bf16(value) : to_f16(value);
}

INLINE float sum_lanes(vf v) { /* pairwise, in a fixed order */
    float part[LANES];
    store(part, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int l = 0; l < width; l++) part[l] += part[l + width];
    return part[0];
}

/* e^x to about 2 units in the last place: e^x = 2^n e^r with |r| <= ln(2)/2, Taylor's series. */
INLINE vf exp_lanes(vf x) {
    const float low = -87.0f, high = 88.0f;
    typedef int32_t vi __attribute__((vector_size(4 * LANES)));
    x = (vf)(((vi)x & (x > low)) | ((vi)splat(low) & ~(x > low)));
    x = (vf)(((vi)x & (x < high)) | ((vi)splat(high) & ~(x < high)));
    const vf round = splat(12582912.0f); /* adding 1.5 · 2^23 rounds to an integer */
    vf n = mul_add(x, splat(1.44269504f), round) - round;
    vf r = mul_add(n, splat(2.12194440e-4f), mul_add(n, splat(-0.693359375f), x));
    const float inverse[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    vf p = splat(1.0f / 5040);
    for (int i = 0; i < 7; i++) p = mul_add(p, r, splat(inverse[i]));
    return (vf)((vi)p + (__builtin_convertvector(n, vi) << 23));
}

#ifdef __AVX2__
/* Lane r of the 8 vectors to to[r * stride …]: an 8 by 8 block of 32-bit values, turned over. */
INLINE void transpose8(void *to, size_t stride, const __m256i *v) {
    __m256i pair[8], four[8];
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        pair[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        four[i] = _mm256_unpacklo_epi64(pair[i], pair[i + 2]);
        four[i + 1] = _mm256_unpackhi_epi64(pair[i], pair[i + 2]);
        four[i + 2] = _mm256_unpacklo_epi64(pair[i + 1], pair[i + 3]);
        four[i + 3] = _mm256_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m256i low = _mm256_permute2x128_si256(four[i], four[i + 4], 0x20);
        __m256i high = _mm256_permute2x128_si256(four[i], four[i + 4], 0x31);
        _mm256_storeu_si256((__m256i *)((char *)to + i * stride), low);
        _mm256_storeu_si256((__m256i *)((char *)to + (i + 4) * stride), high);
    }
}
#endif

/* A buffer of its own for every thread, kept between calls. */
INLINE void *scratch(void **buffer, size_t *size, size_t wanted) {
    if (*size < wanted) {
        free(*buffer);
        *buffer = aligned_alloc(64, (wanted + 63) / 64 * 64);
        if (!*buffer) abort();
        *size = wanted;
    }
    return *buffer;
}
