/* Rotary embedding, the paged cache, and causal attention over it.

   Cache of one layer, keys and values alike: [pages][kv_heads][PAGE][D] in `type`. Keys are
   visited page by page from position 0 with a running maximum (online softmax), so that a
   query's result is the same in a prompt's chunk of any size and in a decode step. */

#include "lanes.h"

#define TILE 8 /* queries that share each read of the keys */

typedef struct {
    int64_t row, count, start;  /* first row of the batch, rows, position of the first */
    int64_t pages;              /* index of its first page number in the page table */
} Span;

/* Rotate the queries in place; rotate and store keys, store values.
   qkv[T][(heads + 2 kv_heads) · D]; cosine and sine [context][D/2]. */
void lh_rope_store(float *qkv, void *keys, void *values, int type, const int64_t *positions,
                   const int64_t *slots, const float *cosine, const float *sine, size_t T,
                   size_t heads, size_t kv_heads, size_t D, int threads) {
    const size_t half = D / 2, row = (heads + 2 * kv_heads) * D;
#pragma omp parallel for num_threads(threads) if (T > 4)
    for (size_t t = 0; t < T; t++) {
        const float *c = cosine + positions[t] * half, *s = sine + positions[t] * half;
        for (size_t h = 0; h < heads + kv_heads; h++) {
            float *v = qkv + t * row + h * D;
            for (size_t i = 0; i < half; i++) {
                float a = v[i], b = v[i + half];
                v[i] = a * c[i] - b * s[i];
                v[i + half] = b * c[i] + a * s[i];
            }
        }
        size_t page = slots[t] / PAGE, offset = slots[t] % PAGE;
        for (size_t h = 0; h < kv_heads; h++) {
            size_t at = ((page * kv_heads + h) * PAGE + offset) * D;
            const float *k = qkv + t * row + (heads + h) * D, *v = k + kv_heads * D;
            for (size_t i = 0; i < D; i++) {
                store_as(type, keys, at + i, k[i]);
                store_as(type, values, at + i, v[i]);
            }
        }
    }
}

/* n queries q[n][D] (scaled already) against one page; those beyond limit[i] keys are masked. */
INLINE void page_step(const int type, const int n, const float *q, size_t D, const void *keys,
                      const void *values, const int64_t *limit, float *best, float *mass,
                      float *out) {
    float score[n][PAGE] __attribute__((aligned(64)));
    for (int t = 0; t < PAGE; t++) {
        vf sum[n];
        for (int i = 0; i < n; i++) sum[i] = splat(0);
        for (size_t d = 0; d < D; d += LANES) {
            vf k = load_as(type, keys, t * D + d);
            for (int i = 0; i < n; i++) sum[i] = mul_add(load_f32(q, i * D + d), k, sum[i]);
        }
        for (int i = 0; i < n; i++) score[i][t] = t < limit[i] ? sum_lanes(sum[i]) : -INFINITY;
    }
    float shrink[n];
    for (int i = 0; i < n; i++) {
        float top = best[i];
        for (int t = 0; t < PAGE; t++) top = score[i][t] > top ? score[i][t] : top;
        shrink[i] = limit[i] > 0 ? expf(best[i] - top) : 1;
        float total = 0;
        for (int t = 0; t < PAGE; t += LANES) {
            vf p = exp_lanes(load_f32(score[i], t) - splat(top));
            store(score[i] + t, p);
            total += sum_lanes(p);
        }
        if (limit[i] > 0) {
            best[i] = top;
            mass[i] = mass[i] * shrink[i] + total;
        } else memset(score[i], 0, sizeof score[i]);
    }
    for (size_t d = 0; d < D; d += LANES) {
        vf mixed[n];
        for (int i = 0; i < n; i++) mixed[i] = load_f32(out, i * D + d) * splat(shrink[i]);
        for (int t = 0; t < PAGE; t++) {
            vf v = load_as(type, values, t * D + d);
            for (int i = 0; i < n; i++) mixed[i] = mul_add(splat(score[i][t]), v, mixed[i]);
        }
        for (int i = 0; i < n; i++) store(out + i * D + d, mixed[i]);
    }
}

#define STEP(n)                                                                                  \
    case n:                                                                                      \
        if (type == F32) page_step(F32, n, q, D, k, v, limit, best, mass, out);                  \
        else if (type == BF16) page_step(BF16, n, q, D, k, v, limit, best, mass, out);           \
        else page_step(F16, n, q, D, k, v, limit, best, mass, out);                              \
        break;

static void any_step(int type, int n, const float *q, size_t D, const void *k, const void *v,
                     const int64_t *limit, float *best, float *mass, float *out) {
    switch (n) { STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) }
}

typedef struct {
    const Span *span;
    size_t head;  /* key/value head */
    size_t first; /* of the span's count · group queries of that head */
} Task;

typedef struct {
    float *out;
    const float *qkv;
    const char *keys, *values;
    const int32_t *table;
    size_t heads, kv_heads, D;
    int type;
} Attention;

static void run_task(const Attention *a, Task task, float *work) {
    const size_t D = a->D, group = a->heads / a->kv_heads;
    const size_t row = (a->heads + 2 * a->kv_heads) * D;
    const size_t total = task.span->count * group;
    const int n = total - task.first < TILE ? (int)(total - task.first) : TILE;
    const float scale = 1.0f / sqrtf((float)D);
    float *q = work, *out = work + TILE * D;
    float best[TILE], mass[TILE];
    int64_t seen[TILE], longest = 0; /* keys that each query sees */
    for (int i = 0; i < n; i++) {
        size_t token = (task.first + i) / group, head = task.head * group + (task.first + i) % group;
        const float *from = a->qkv + (task.span->row + token) * row + head * D;
        for (size_t d = 0; d < D; d++) q[i * D + d] = from[d] * scale, out[i * D + d] = 0;
        seen[i] = task.span->start + (int64_t)token + 1;
        longest = seen[i] > longest ? seen[i] : longest;
        best[i] = -INFINITY, mass[i] = 0;
    }
    const size_t element = a->type == F32 ? 4 : 2;
    for (int64_t p = 0; p * PAGE < longest; p++) {
        size_t page = a->table[task.span->pages + p];
        size_t at = (page * a->kv_heads + task.head) * PAGE * D * element;
        int64_t limit[TILE];
        for (int i = 0; i < n; i++) limit[i] = seen[i] - p * PAGE;
        any_step(a->type, n, q, D, a->keys + at, a->values + at, limit, best, mass, out);
    }
    for (int i = 0; i < n; i++) {
        size_t token = (task.first + i) / group, head = task.head * group + (task.first + i) % group;
        float *to = a->out + (task.span->row + token) * a->heads * D + head * D;
        for (size_t d = 0; d < D; d++) to[d] = out[i * D + d] / mass[i];
    }
}

static __thread void *work_buffer;
static __thread size_t work_size;

/* out[T][heads · D] for queries at the start of each row of qkv. */
void lh_attend(float *out, const float *qkv, const void *keys, const void *values, int type,
               const Span *spans, size_t n_spans, const int32_t *table, size_t heads,
               size_t kv_heads, size_t D, int threads) {
    const Attention a = {out, qkv, keys, values, table, heads, kv_heads, D, type};
    const size_t group = heads / kv_heads;
    size_t count = 0;
    for (size_t s = 0; s < n_spans; s++)
        count += (spans[s].count * group + TILE - 1) / TILE * kv_heads;
    Task *tasks = malloc(count * sizeof(Task));
    if (!tasks) abort();
    count = 0;
    for (size_t s = 0; s < n_spans; s++)
        for (size_t h = 0; h < kv_heads; h++)
            for (size_t first = 0; first < spans[s].count * group; first += TILE)
                tasks[count++] = (Task){spans + s, h, first};
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < count; i++)
        run_task(&a, tasks[i], scratch(&work_buffer, &work_size, 2 * TILE * D * sizeof(float)));
    free(tasks);
}
