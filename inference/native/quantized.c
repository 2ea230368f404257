/* Matrix products with int8 and int4 weights and inputs rounded to int8 by groups.

   A weight is (u - zero) · scale with an unsigned byte u: zero 8 for int4, 128 for int8 (stored
   signed). Inputs: x = q · s with |q| ≤ 127, one s for each `group` columns. Products of a group
   are exact integers; groups are added in float, in order.

   int4: w[N][K/2], byte i holds column 2i in its low and column 2i + 1 in its high half. Taking
   the halves of 32 bytes apart gives 64 columns as 32 even ones and then 32 odd ones, so q has
   that order too (`pairs` of lh_quantize); where a group is 32 columns, 16 and 16. int8: w[N][K].
   scales[N][K/wgroup] are float in both; wgroup is a multiple of group. */

#include "lanes.h"

#define ROWS 32
#define AT_ONCE 4 /* rows of x that share a pass over w, at most; a constant keeps sums in registers */
#define PAIRED(group) ((group) % 64 == 0 ? 64 : 32) /* columns whose halves are taken apart at once */
typedef int32_t v8i __attribute__((vector_size(32)));
typedef int16_t v16s __attribute__((vector_size(32)));
typedef float v8f __attribute__((vector_size(32)));
typedef float v8f_any __attribute__((vector_size(32), aligned(4), may_alias));

typedef struct {
    const int8_t *q;    /* [M][K] */
    const float *scale; /* [M][K/group] */
    const float *sum;   /* [M][K/group]: scale · Σ q, for the weights' zero */
} Input;

void lh_quantize(int8_t *q, float *scale, float *sum, const float *x, size_t M, size_t K,
                 size_t group, int pairs, int threads) {
    const size_t groups = K / group, span = PAIRED(group);
#pragma omp parallel for num_threads(threads) if (M > 4)
    for (size_t m = 0; m < M; m++)
        for (size_t g = 0; g < groups; g++) {
            const float *from = x + m * K + g * group;
            float top = 0;
            for (size_t k = 0; k < group; k++) top = fmaxf(top, fabsf(from[k]));
            float s = top / 127.0f, inverse = top > 0 ? 127.0f / top : 0;
            int total = 0;
            for (size_t k = 0; k < group; k++) {
                int value = (int)lrintf(from[k] * inverse);
                size_t at = pairs ? k / span * span + k % span / 2 + k % 2 * (span / 2) : k;
                q[m * K + g * group + at] = (int8_t)value;
                total += value;
            }
            scale[m * groups + g] = s;
            sum[m * groups + g] = s * (float)total;
        }
}

#if defined(__AVX2__) && defined(__FMA__)
#define WIDE 1
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define VNNI 1
INLINE __m256i dot_u8(__m256i sum, __m256i u, __m256i s) { return _mm256_dpbusd_epi32(sum, u, s); }
#elif defined(__AVXVNNI__)
#define VNNI 1
INLINE __m256i dot_u8(__m256i sum, __m256i u, __m256i s) {
    return _mm256_dpbusd_avx_epi32(sum, u, s);
}
#else
#define VNNI 0
/* Pairs must fit 16 bits: u ≤ 15, or u = |w| ≤ 127 with the sign moved to s. */
INLINE __m256i dot_u8(__m256i sum, __m256i u, __m256i s) {
    __m256i pairs = _mm256_maddubs_epi16(u, s);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

INLINE __m256i load32(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

INLINE __m256i low(__m256i both) { return _mm256_and_si256(both, _mm256_set1_epi8(15)); }

INLINE __m256i high(__m256i both) { return low(_mm256_srli_epi16(both, 4)); }

INLINE __m256i nibbles(const uint8_t *w) { /* 32 columns of one row */
    __m128i both = _mm_loadu_si128((const __m128i *)w);
    return low(_mm256_set_m128i(_mm_srli_epi16(both, 4), both));
}

INLINE __m256i dot_s8(__m256i sum, __m256i w, __m256i s) {
    return dot_u8(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(s, w));
}

INLINE v8f to_float(__m256i v) { return __builtin_convertvector((v8i)v, v8f); }

/* Columns k to k + span of one weight row in q's order, ready for `dot32`; span is 32 or 64. */
INLINE void weights(const int bits, __m256i *to, const uint8_t *w, size_t k, size_t span) {
    if (bits == 8)
        for (size_t i = 0; i < span / 32; i++) to[i] = load32(w + k + i * 32);
    else if (span == 32) to[0] = nibbles(w + k / 2);
    else {
        __m256i both = load32(w + k / 2);
        to[0] = low(both), to[1] = high(both);
    }
}

INLINE __m256i dot32(const int bits, __m256i sum, __m256i w, __m256i s) {
    return bits == 4 ? dot_u8(sum, w, s) : dot_s8(sum, w, s);
}

/* 64 columns at once; two int4 products of 2 · 15 · 127 fit 16 bits together. */
INLINE __m256i dot64(const int bits, __m256i sum, const __m256i *w, const int8_t *x) {
    if (bits == 4 && !VNNI) {
        __m256i pairs = _mm256_maddubs_epi16(w[0], load32(x));
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[1], load32(x + 32)));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return dot32(bits, dot32(bits, sum, w[0], load32(x)), w[1], load32(x + 32));
}

/* The integer products of a group with `m` rows of x, spread over lanes. */
INLINE void dot_group(const int bits, const int m, v8i *part, const uint8_t *w, const int8_t *x,
                      size_t K, size_t k, size_t group) {
    for (int i = 0; i < m; i++) part[i] = (v8i){0};
    if (group % 64) {
        __m256i u;
        for (size_t at = k; at < k + group; at += 32) {
            weights(bits, &u, w, at, 32);
            for (int i = 0; i < m; i++)
                part[i] = (v8i)dot32(bits, (__m256i)part[i], u, load32(x + i * K + at));
        }
    } else {
        __m256i u[2];
        for (size_t at = k; at < k + group; at += 64) {
            weights(bits, u, w, at, 64);
            for (int i = 0; i < m; i++)
                part[i] = (v8i)dot64(bits, (__m256i)part[i], u, x + i * K + at);
        }
    }
}
#else /* any other machine: the same sums, left to the compiler */
INLINE void dot_group(const int bits, const int m, v8i *part, const uint8_t *w, const int8_t *x,
                      size_t K, size_t k, size_t group) {
    const size_t span = PAIRED(group), half = span / 2;
    int8_t wide[group];
    for (size_t i = 0; i < group; i++) {
        size_t at = k + i, byte = at / span * half + at % half;
        wide[i] = bits == 8 ? (int8_t)w[at] : (w[byte] >> (at % span < half ? 0 : 4)) & 15;
    }
    for (int i = 0; i < m; i++) {
        int32_t sum = 0;
        for (size_t at = 0; at < group; at++) sum += wide[at] * x[i * K + k + at];
        part[i] = (v8i){sum};
    }
}
#endif

INLINE float total(v8f v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

INLINE v8f add_scaled(v8f sum, v8i part, float scale) {
    v8f values = __builtin_convertvector(part, v8f);
#ifdef WIDE
    return (v8f)_mm256_fmadd_ps((__m256)values, _mm256_set1_ps(scale), (__m256)sum);
#else
    return sum + values * scale;
#endif
}

INLINE v8f first(const float *p, size_t count) { /* as many as there are, then zeros */
    float some[8] = {0};
    if (count >= 8) return *(const v8f_any *)p;
    memcpy(some, p, count * 4);
    return *(const v8f_any *)some;
}

/* The weights' scales of up to 8 groups from group `g` on. */
INLINE v8f scales_of(const float *scales, size_t g, size_t count, size_t ratio) {
    float some[8] = {0};
    if (ratio == 1) return first(scales + g, count);
    if (ratio == 2 && count == 8) { /* g is a multiple of 8 */
        const float *p = scales + g / 2;
        return (v8f){p[0], p[0], p[1], p[1], p[2], p[2], p[3], p[3]};
    }
    for (size_t i = 0, at = g / ratio, in = g % ratio; i < count; i++) {
        some[i] = scales[at];
        if (++in == ratio) in = 0, at++;
    }
    return *(const v8f_any *)some;
}

/* `m` rows of x times one row of w. Scales are multiplied for 8 groups together, and odd and even
   groups have sums of their own: either would otherwise wait for the one before. */
INLINE void dot_row(const int bits, const int m, float *out, size_t N, Input x, const uint8_t *w,
                    const float *scales, size_t K, size_t group, size_t wgroup, int add) {
    const size_t groups = K / group, ratio = wgroup / group;
    v8f sum[AT_ONCE][2], zero[AT_ONCE];
    for (int i = 0; i < m; i++) sum[i][0] = sum[i][1] = zero[i] = (v8f){0};
    for (size_t g = 0; g < groups; g += 8) {
        const size_t count = groups - g < 8 ? groups - g : 8;
        const v8f ws = scales_of(scales, g, count, ratio);
        float both[AT_ONCE][8];
        for (int i = 0; i < m; i++) {
            *(v8f_any *)both[i] = ws * first(x.scale + i * groups + g, count);
            if (bits == 4) zero[i] += ws * first(x.sum + i * groups + g, count);
        }
        for (size_t j = 0; j < count; j++) {
            v8i part[AT_ONCE];
            dot_group(bits, m, part, w, x.q, K, (g + j) * group, group);
            for (int i = 0; i < m; i++)
                sum[i][j & 1] = add_scaled(sum[i][j & 1], part[i], both[i][j]);
        }
    }
    for (int i = 0; i < m; i++) {
        float value = total(sum[i][0] + sum[i][1]) - 8 * total(zero[i]);
        out[i * N] = add ? out[i * N] + value : value;
    }
}

INLINE void dot_rows(const int bits, float *out, Input x, const uint8_t *w, const float *scales,
                     size_t M, size_t N, size_t K, size_t group, size_t wgroup, size_t begin,
                     size_t end, int add) {
    const size_t groups = K / group, row = bits == 4 ? K / 2 : K;
    for (size_t m = 0; m < M;) {
        Input at = {x.q + m * K, x.scale + m * groups, x.sum + m * groups};
        const size_t step = M - m >= 4 ? 4 : M - m >= 2 ? 2 : 1;
        for (size_t n = begin; n < end; n++) {
            float *to = out + m * N + n;
            const uint8_t *from = w + n * row;
            const float *scale = scales + n * (K / wgroup);
            if (step == 4) dot_row(bits, 4, to, N, at, from, scale, K, group, wgroup, add);
            else if (step == 2) dot_row(bits, 2, to, N, at, from, scale, K, group, wgroup, add);
            else dot_row(bits, 1, to, N, at, from, scale, K, group, wgroup, add);
        }
        m += step;
    }
}

void lh_dot_quantized(float *out, const int8_t *q, const float *xscale, const float *xsum,
                      const uint8_t *w, const float *scales, int bits, size_t M, size_t N,
                      size_t K, size_t group, size_t wgroup, int add, int threads) {
    const Input x = {q, xscale, xsum};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t begin = 0; begin < N; begin += ROWS) {
        size_t end = begin + ROWS < N ? begin + ROWS : N;
#define WITH(bits, group) dot_rows(bits, out, x, w, scales, M, N, K, group, wgroup, begin, end, add)
        if (bits == 4 && group == 64) WITH(4, 64);
        else if (bits == 4) WITH(4, group);
        else if (group == 64) WITH(8, 64);
        else WITH(8, group);
#undef WITH
    }
}

/* Unrolled further, the compiler keeps products waiting in memory instead of sums in registers. */
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define UNROLL(count) PRAGMA(unroll count)
#else
#define UNROLL(count) PRAGMA(GCC unroll count)
#endif

#ifdef WIDE
#define MR 4    /* rows of x in a tile */
#define NR 16   /* rows of w in a tile: two vectors of 8 rows, 4 columns of each */
#define NB 64   /* rows of w that are packed together */
#define KC 1024 /* columns that are packed together */

/* b[k/4][16 rows][4 columns] as bytes, s[g][16 rows]; rows beyond the last are zero. */
INLINE void pack(const int bits, uint8_t *b, float *s, const uint8_t *w, const float *scales,
                 size_t rows, size_t row, size_t K, size_t k0, size_t kc, size_t group,
                 size_t wgroup) {
    const size_t span = PAIRED(group);
    if (rows < NR) {
        memset(b, 0, kc * NR);
        memset(s, 0, kc / group * NR * 4);
    }
    for (size_t j = 0; rows == NR && j < NR; j += 8) /* 8 rows at once, turned over in registers */
        for (size_t k = 0; k < kc; k += span) {
            __m256i wide[8][2], half[8];
            for (int r = 0; r < 8; r++) weights(bits, wide[r], w + (j + r) * row, k0 + k, span);
            for (size_t i = 0; i < span / 32; i++) {
                for (int r = 0; r < 8; r++) half[r] = wide[r][i];
                transpose8(b + ((k / 4 + i * 8) * NR + j) * 4, NR * 4, half);
            }
        }
    for (size_t j = 0; j < rows; j++) {
        for (size_t k = 0; rows < NR && k < kc; k += span) {
            __m256i wide[2];
            weights(bits, wide, w + j * row, k0 + k, span);
            const uint8_t *four = (const uint8_t *)wide;
            for (size_t i = 0; i < span / 4; i++)
                memcpy(b + ((k / 4 + i) * NR + j) * 4, four + i * 4, 4);
        }
        for (size_t g = 0; g < kc / group; g++) s[g * NR + j] = scales[j * (K / wgroup) + (k0 + g * group) / wgroup];
    }
}

INLINE __m256i four_of(const int8_t *x) { /* the same 4 columns for all 8 rows of w */
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* 32 columns of mr rows of x times 16 rows of w, added to part[mr][2]. */
INLINE void tile32(const int bits, const int mr, __m256i part[MR][2], const int8_t *x, size_t K,
                   const uint8_t *b) {
    if (bits == 4 && !VNNI) { /* 8 sums of two products ≤ 15 · 127 fit 16 bits */
        __m256i pairs[MR][2];
        for (int i = 0; i < mr; i++) pairs[i][0] = pairs[i][1] = _mm256_setzero_si256();
        UNROLL(2)
        for (int k = 0; k < 8; k++) {
            __m256i w0 = load32(b + k * NR * 4), w1 = load32(b + k * NR * 4 + 32);
            for (int i = 0; i < mr; i++) {
                __m256i s = four_of(x + i * K + k * 4);
                pairs[i][0] = _mm256_add_epi16(pairs[i][0], _mm256_maddubs_epi16(w0, s));
                pairs[i][1] = _mm256_add_epi16(pairs[i][1], _mm256_maddubs_epi16(w1, s));
            }
        }
        const __m256i one = _mm256_set1_epi16(1);
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < 2; j++)
                part[i][j] = _mm256_add_epi32(part[i][j], _mm256_madd_epi16(pairs[i][j], one));
        return;
    }
    UNROLL(2)
    for (int k = 0; k < 8; k++) {
        __m256i w0 = load32(b + k * NR * 4), w1 = load32(b + k * NR * 4 + 32);
        for (int i = 0; i < mr; i++) {
            __m256i s = four_of(x + i * K + k * 4);
            part[i][0] = dot32(bits, part[i][0], w0, s);
            part[i][1] = dot32(bits, part[i][1], w1, s);
        }
    }
}

/* c[mr][16] += x · w over kc columns. */
INLINE void tile(const int bits, const int mr, float *c, size_t ldc, Input x, size_t K,
                 size_t groups, const uint8_t *b, const float *s, size_t kc, size_t group) {
    v8f sum[MR][2];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < 2; j++) sum[i][j] = *(const v8f_any *)(c + i * ldc + j * 8);
    for (size_t g = 0; g < kc / group; g++) {
        __m256i part[MR][2];
        for (int i = 0; i < mr; i++) part[i][0] = part[i][1] = _mm256_setzero_si256();
        for (size_t k = g * group; k < (g + 1) * group; k += 32)
            tile32(bits, mr, part, x.q + k, K, b + k * NR);
        for (int j = 0; j < 2; j++) {
            v8f scale = *(const v8f_any *)(s + g * NR + j * 8);
            for (int i = 0; i < mr; i++) {
                v8f value = to_float(part[i][j]) * x.scale[i * groups + g];
                if (bits == 4) value -= 8 * x.sum[i * groups + g];
                sum[i][j] = (v8f)_mm256_fmadd_ps((__m256)value, (__m256)scale, (__m256)sum[i][j]);
            }
        }
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < 2; j++) *(v8f_any *)(c + i * ldc + j * 8) = sum[i][j];
}

static __thread void *packed_buffer;
static __thread size_t packed_size;

INLINE void block(const int bits, float *out, Input x, const uint8_t *w, const float *scales,
                  size_t M, size_t N, size_t K, size_t group, size_t wgroup, size_t rows) {
    const size_t groups = K / group, row = bits == 4 ? K / 2 : K;
    uint8_t *b = scratch(&packed_buffer, &packed_size, NB * KC + NB * (KC / 32) * 4);
    float *s = (float *)(b + NB * KC), edge[MR * NR] = {0};
    for (size_t k = 0; k < K; k += KC) {
        const size_t kc = K - k < KC ? K - k : KC;
        for (size_t j = 0; j < rows; j += NR)
            pack(bits, b + j * KC, s + j * (KC / 32), w + j * row, scales + j * (K / wgroup),
                 rows - j < NR ? rows - j : NR, row, K, k, kc, group, wgroup);
        for (size_t j = 0; j < rows; j += NR) { /* a panel stays in the first-level cache */
            const size_t nr = rows - j < NR ? rows - j : NR;
            const uint8_t *bj = b + j * KC;
            const float *sj = s + j * (KC / 32);
            for (size_t m = 0; m < M;) {
                const int mr = M - m >= MR ? MR : 1;
                const size_t g = m * groups + k / group;
                const Input at = {x.q + m * K + k, x.scale + g, x.sum + g};
                float *c = nr == NR ? out + m * N + j : edge;
                const size_t ldc = nr == NR ? N : NR;
                for (int i = 0; nr < NR && i < mr; i++)
                    memcpy(edge + i * NR, out + (m + i) * N + j, nr * 4);
                if (mr == MR) tile(bits, MR, c, ldc, at, K, groups, bj, sj, kc, group);
                else tile(bits, 1, c, ldc, at, K, groups, bj, sj, kc, group);
                for (int i = 0; nr < NR && i < mr; i++)
                    memcpy(out + (m + i) * N + j, edge + i * NR, nr * 4);
                m += mr;
            }
        }
    }
}

void lh_packed_quantized(float *out, const int8_t *q, const float *xscale, const float *xsum,
                         const uint8_t *w, const float *scales, int bits, size_t M, size_t N,
                         size_t K, size_t group, size_t wgroup, int add, int threads) {
    const Input x = {q, xscale, xsum};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t n = 0; n < N; n += NB) {
        const size_t rows = N - n < NB ? N - n : NB;
        const uint8_t *at = w + n * (bits == 4 ? K / 2 : K);
        if (!add)
            for (size_t m = 0; m < M; m++) memset(out + m * N + n, 0, rows * 4);
        const float *s = scales + n * (K / wgroup);
#define WITH(bits, group) block(bits, out + n, x, at, s, M, N, K, group, wgroup, rows)
        if (bits == 4 && group == 64) WITH(4, 64);
        else if (bits == 4) WITH(4, group);
        else if (group == 64) WITH(8, 64);
        else WITH(8, group);
#undef WITH
    }
}
#else
void lh_packed_quantized(float *out, const int8_t *q, const float *xscale, const float *xsum,
                         const uint8_t *w, const float *scales, int bits, size_t M, size_t N,
                         size_t K, size_t group, size_t wgroup, int add, int threads) {
    lh_dot_quantized(out, q, xscale, xsum, w, scales, bits, M, N, K, group, wgroup, add, threads);
}
#endif
