/* Matrix products with float, bfloat16 and float16 weights; norms, activation. All inputs and
   outputs are float, row-major; sums are float. Two forms of the product:

   dot     for few rows: streams the weights once, each output a dot product along K;
   packed  for many rows: packs blocks of weights and multiplies tile by tile.

   Which one is used is the caller's choice and must depend on the kind of row only: within a
   form, a row's result is the same whatever the number of rows. */

#include "lanes.h"

#define ROWS 32 /* weight rows that a thread takes at a time */

/* `m` rows of x times `n` rows of w; two running sums for each pair, whatever m and n are. */
INLINE void dot_tile(const int type, const int m, const int n, float *out, size_t N,
                     const float *x, const void *w, size_t K, int add) {
    vf even[m * n], odd[m * n];
    for (int i = 0; i < m * n; i++) even[i] = odd[i] = splat(0);
    for (size_t k = 0; k + 2 * LANES <= K; k += 2 * LANES)
        for (int j = 0; j < n; j++) {
            vf w0 = load_as(type, w, j * K + k), w1 = load_as(type, w, j * K + k + LANES);
            for (int i = 0; i < m; i++) {
                vf x0 = load_f32(x, i * K + k), x1 = load_f32(x, i * K + k + LANES);
                even[i * n + j] = mul_add(x0, w0, even[i * n + j]);
                odd[i * n + j] = mul_add(x1, w1, odd[i * n + j]);
            }
        }
    if (K % (2 * LANES))
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++)
                even[i * n + j] =
                    mul_add(load_f32(x, i * K + K - LANES),
                            load_as(type, w, j * K + K - LANES), even[i * n + j]);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float sum = sum_lanes(even[i * n + j] + odd[i * n + j]);
            out[i * N + j] = add ? out[i * N + j] + sum : sum;
        }
}

INLINE size_t width(int type) { return type == F32 ? 4 : 2; }

INLINE void dot_rows(const int type, float *out, const float *x, const char *w, size_t M,
                     size_t N, size_t K, size_t begin, size_t end, int add) {
    const size_t row = K * width(type);
    size_t m = 0;
    for (; m + 4 <= M; m += 4)
        for (size_t n = begin; n < end; n++)
            dot_tile(type, 4, 1, out + m * N + n, N, x + m * K, w + n * row, K, add);
    for (; m + 2 <= M; m += 2)
        for (size_t n = begin; n < end; n++)
            dot_tile(type, 2, 1, out + m * N + n, N, x + m * K, w + n * row, K, add);
    if (m < M) {
        size_t n = begin;
        for (; n + 4 <= end; n += 4)
            dot_tile(type, 1, 4, out + m * N + n, N, x + m * K, w + n * row, K, add);
        for (; n < end; n++)
            dot_tile(type, 1, 1, out + m * N + n, N, x + m * K, w + n * row, K, add);
    }
}

void lh_dot(float *out, const float *x, const void *w, int type, size_t M, size_t N, size_t K,
            int add, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t begin = 0; begin < N; begin += ROWS) {
        size_t end = begin + ROWS < N ? begin + ROWS : N;
        if (type == F32) dot_rows(F32, out, x, w, M, N, K, begin, end, add);
        else if (type == BF16) dot_rows(BF16, out, x, w, M, N, K, begin, end, add);
        else dot_rows(F16, out, x, w, M, N, K, begin, end, add);
    }
}

#define MR 6           /* rows of x in a tile */
#define NR (2 * LANES) /* rows of w in a tile */
#define NB (4 * NR)    /* rows of w that are packed together */
#define KC 512         /* columns that are packed together */

/* c[mr][NR] += a[mr][kc] b[kc][NR]; mr is a constant wherever this is inlined. */
INLINE void tile(const int mr, float *c, size_t ldc, const float *a, size_t lda, const float *b,
                 size_t kc, int keep) {
    vf sum[MR][2];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < 2; j++)
            sum[i][j] = keep ? load_f32(c, i * ldc + j * LANES) : splat(0);
    for (size_t k = 0; k < kc; k++) {
        vf b0 = load_f32(b, k * NR), b1 = load_f32(b, k * NR + LANES);
        for (int i = 0; i < mr; i++) {
            vf v = splat(a[i * lda + k]);
            sum[i][0] = mul_add(v, b0, sum[i][0]);
            sum[i][1] = mul_add(v, b1, sum[i][1]);
        }
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < 2; j++) store(c + i * ldc + j * LANES, sum[i][j]);
}

static void tile_any(int mr, float *c, size_t ldc, const float *a, size_t lda, const float *b,
                     size_t kc, int keep) {
    switch (mr) {
    case 6: tile(6, c, ldc, a, lda, b, kc, keep); break;
    case 5: tile(5, c, ldc, a, lda, b, kc, keep); break;
    case 4: tile(4, c, ldc, a, lda, b, kc, keep); break;
    case 3: tile(3, c, ldc, a, lda, b, kc, keep); break;
    case 2: tile(2, c, ldc, a, lda, b, kc, keep); break;
    default: tile(1, c, ldc, a, lda, b, kc, keep);
    }
}

#if defined(__AVX2__) && defined(__F16C__)
INLINE __m256i load8(const int type, const char *w, size_t i) { /* as floats */
    if (type == F32) return _mm256_loadu_si256((const __m256i *)(w + i * 4));
    const __m128i half = _mm_loadu_si128((const __m128i *)(w + i * 2));
    if (type == F16) return (__m256i)_mm256_cvtph_ps(half);
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
}

/* All NR rows, 8 by 8. */
INLINE void pack_whole(const int type, float *b, const char *w, size_t K, size_t kc) {
    for (size_t j = 0; j < NR; j += 8)
        for (size_t k = 0; k < kc; k += 8) {
            __m256i v[8];
            for (size_t r = 0; r < 8; r++) v[r] = load8(type, w, (j + r) * K + k);
            transpose8(b + k * NR + j, NR * 4, v);
        }
}
#define PACK_WHOLE 1
#else
#define PACK_WHOLE 0
INLINE void pack_whole(const int type, float *b, const char *w, size_t K, size_t kc) {}
#endif

/* b[k][j] = w[j][k] for the rows that exist, 0 beyond them. */
INLINE void pack(const int type, float *b, const char *w, size_t rows, size_t K, size_t kc) {
    if (PACK_WHOLE && rows == NR) {
        pack_whole(type, b, w, K, kc);
        return;
    }
    if (rows < NR) memset(b, 0, kc * NR * sizeof(float));
    for (size_t j = 0; j < rows; j++)
        for (size_t k = 0; k < kc; k += LANES) {
            vf v = load_as(type, w, j * K + k);
            for (int l = 0; l < LANES; l++) b[(k + l) * NR + j] = v[l];
        }
}

/* The block [M, rows] of out that belongs to `rows` ≤ NB rows of w. */
INLINE void block(const int type, float *out, const float *x, const char *w, size_t M, size_t N,
                  size_t K, size_t rows, int add, float *packed, float *edge) {
    for (size_t k = 0; k < K; k += KC) {
        size_t kc = K - k < KC ? K - k : KC;
        for (size_t j = 0; j < rows; j += NR)
            pack(type, packed + j * KC, w + (j * K + k) * width(type),
                 rows - j < NR ? rows - j : NR, K, kc);
        for (size_t m = 0; m < M; m += MR) {
            int mr = M - m < MR ? (int)(M - m) : MR;
            for (size_t j = 0; j < rows; j += NR) {
                size_t nr = rows - j < NR ? rows - j : NR;
                float *c = out + m * N + j;
                if (nr == NR) {
                    tile_any(mr, c, N, x + m * K + k, K, packed + j * KC, kc, add || k);
                    continue;
                }
                for (int i = 0; i < mr; i++) memcpy(edge + i * NR, c + i * N, nr * 4);
                tile_any(mr, edge, NR, x + m * K + k, K, packed + j * KC, kc, add || k);
                for (int i = 0; i < mr; i++) memcpy(c + i * N, edge + i * NR, nr * 4);
            }
        }
    }
}

static __thread void *packed_buffer;
static __thread size_t packed_size;

void lh_packed(float *out, const float *x, const void *w, int type, size_t M, size_t N, size_t K,
               int add, int threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t n = 0; n < N; n += NB) {
        float *packed = scratch(&packed_buffer, &packed_size, (NB * KC + MR * NR) * 4);
        float *edge = packed + NB * KC;
        size_t rows = N - n < NB ? N - n : NB;
        const char *at = (const char *)w + n * K * width(type);
        memset(edge, 0, MR * NR * 4);
        if (type == F32) block(F32, out + n, x, at, M, N, K, rows, add, packed, edge);
        else if (type == BF16) block(BF16, out + n, x, at, M, N, K, rows, add, packed, edge);
        else block(F16, out + n, x, at, M, N, K, rows, add, packed, edge);
    }
}

/* RMSNorm: out = x / sqrt(mean(x²) + eps) · w */
void lh_norm(float *out, const float *x, const float *w, size_t M, size_t K, float eps,
             int threads) {
#pragma omp parallel for num_threads(threads) if (M > 8)
    for (size_t m = 0; m < M; m++) {
        vf squares = splat(0);
        for (size_t k = 0; k < K; k += LANES) {
            vf v = load_f32(x, m * K + k);
            squares = mul_add(v, v, squares);
        }
        vf scale = splat(1.0f / sqrtf(sum_lanes(squares) / (float)K + eps));
        for (size_t k = 0; k < K; k += LANES)
            store(out + m * K + k, load_f32(x, m * K + k) * scale * load_f32(w, k));
    }
}

/* out[M][F] = silu(gate) · up, where x[M] holds F gates and then F ups */
void lh_swiglu(float *out, const float *x, size_t M, size_t F, int threads) {
#pragma omp parallel for num_threads(threads)
    for (size_t m = 0; m < M; m++) {
        const float *gate = x + 2 * m * F, *up = gate + F;
        for (size_t f = 0; f < F; f += LANES) {
            vf g = load_f32(gate, f);
            store(out + m * F + f, g / (1.0f + exp_lanes(-g)) * load_f32(up, f));
        }
    }
}
