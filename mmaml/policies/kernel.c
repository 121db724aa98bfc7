/* Layers and GRUs of a batch of tasks in float32: products with what follows each, in one pass over memory.
 *
 * kernel.py loads this file as a library and says what its functions compute. An element is computed by the same
 * instructions in the same order wherever it lies: rows and columns beyond the last are computed too, and not stored.
 * So its bits depend on neither the number of rows nor that of tasks, and they are the same with vectors of 8 numbers
 * (AVX2) as with 16 (AVX-512): no sum is split by the width of a vector, and which products are fused with a sum is
 * said (`fused`), not left to the compiler (-ffp-contract=off).
 *
 * The second part of the file is compiled for either, by including itself.
 */
#ifndef LANES

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) || defined(__clang__) || !defined(__x86_64__)
#error "written for GCC on x86-64; the package does without it"
#endif

/* The text of this file, last of what is loaded: kernel.py loads only a library that has the text it knows, whole. */
__asm__(".pushsection .data\n.incbin \"" __FILE__ "\"\n.popsection");

#define INLINE static inline __attribute__((always_inline))
#define MAX_ROWS 6     /* of a tile: what is summed at a time, in registers */
#define BLOCK_ROWS 120 /* whose inputs stay in the cache while they meet all columns; a multiple of 4, 5 and 6 */
#define OUTER_ROWS 192 /* likewise, of a sum over rows */

/* What becomes of a sum of products u, beside `y` and the like at the same element: `finish`. */
enum { LINEAR, TANH, RELU, SIGMOID, TANH_RATE, RELU_RATE, TANH_BACK, RELU_BACK, TANH_BENT };

/* A product x w: x [rows, k], rows xr apart, and w [k, cols], strides wr and wc; of the next task xt and wt further. */
typedef struct {
    const float *x, *w;
    long xt, xr, wt, wr, wc, k;
} Term;

/* Where sums go, and what is read on the way: arrays [rows, ·] of one stride. */
typedef struct {
    int op;
    long stride;
    float *out, *moved;
    const float *y, *rate, *delta;
} Last;

/* The shape of a GRU's arrays, [tasks, length, lanes, cell or 2 cell], of which `steps` are computed. x, continues: of
 * [length, tasks, lanes, ·]. */
typedef struct {
    long tasks, steps, length, lanes, inputs, cell;
    const float *x, *continues;
} Gru;

#define LANES 16
#define VECTORS 4 /* of columns in a tile */
#define NAME(name) name##_avx512
#define fused _mm512_fmadd_ps /* x y + z, rounded once */
#define LOAD_SOME(from, left) _mm512_maskz_loadu_ps((1 << (left)) - 1, from)
#define STORE_SOME(to, x, left) _mm512_mask_storeu_ps(to, (1 << (left)) - 1, x)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#include "kernel.c"
#pragma GCC pop_options
#undef LANES
#undef VECTORS
#undef NAME
#undef fused
#undef LOAD_SOME
#undef STORE_SOME

#define LANES 8
#define VECTORS 2
#define NAME(name) name##_avx2
#define fused _mm256_fmadd_ps
#define FIRST(left) (__m256i)((__v8si){0, 1, 2, 3, 4, 5, 6, 7} < (int)(left))
#define LOAD_SOME(from, left) _mm256_maskload_ps(from, FIRST(left))
#define STORE_SOME(to, x, left) _mm256_maskstore_ps(to, FIRST(left), x)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "kernel.c"
#pragma GCC pop_options

static int use_avx512 = 1;

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

/* 512 or 256: the bits of the vectors that are used, at most `limit`; 0: this processor has neither. */
int vector_bits(int limit)
{
    use_avx512 = limit >= 512 && has_avx512();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 0;
    return use_avx512 ? 512 : 256;
}

#define CHOSEN(name, ...) \
    if (use_avx512) \
        name##_avx512(__VA_ARGS__); \
    else \
        name##_avx2(__VA_ARGS__)

void layer(long tasks, long rows, long cols, int op, float *room, const float *bias, long bias_task, float *out,
           float *moved, const float *y, const float *rate, const float *delta, const float *x1, long xt1, long xr1,
           const float *w1, long wt1, long wr1, long wc1, long k1, const float *x2, long xt2, long xr2, const float *w2,
           long wt2, long wr2, long wc2, long k2)
{
    Term terms[] = {{x1, w1, xt1, xr1, wt1, wr1, wc1, k1}, {x2, w2, xt2, xr2, wt2, wr2, wc2, k2}};
    Last last = {op, cols, out, moved, y, rate, delta};
    CHOSEN(layer, tasks, rows, cols, room, bias, bias_task, last, terms);
}

void outer(long tasks, long rows, long inputs, long cols, float *room, float *out, float *sums, const float *x, long xt,
           long xr, const float *d, long dt, long dr)
{
    CHOSEN(outer, tasks, rows, inputs, cols, room, out, sums, x, xt, xr, d, dt, dr);
}

void gru_forward(long tasks, long steps, long length, long lanes, long inputs, long cell, const float *x,
                 const float *continues, float *room, const float *start, const float *const *weights,
                 const long *apart, float *gates, float *q, float *n, float *before, float *after)
{
    Gru gru = {tasks, steps, length, lanes, inputs, cell, x, continues};
    CHOSEN(gru_forward, gru, room, start, weights, apart, gates, q, n, before, after);
}

void gru_backward(long tasks, long steps, long length, long lanes, long cell, const float *continues, float *room,
                  const float *ug, long ug_apart, const float *uc, long uc_apart, const float *gates, const float *q,
                  const float *n, const float *before, const float *after, float *d_after, float *d_gates, float *d_q,
                  float *d_n)
{
    Gru gru = {tasks, steps, length, lanes, 0, cell, 0, continues};
    CHOSEN(gru_backward, gru, room, ug, ug_apart, uc, uc_apart, gates, q, n, before, after, d_after, d_gates, d_q, d_n);
}

#else /* for one width of vectors */

#define vec NAME(vec)
#define ints NAME(ints)
#define load NAME(load)
#define store NAME(store)
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* A vector of the next numbers, of which `left` are there; zeros beyond. */
INLINE vec load(const float *from, long left)
{
    if (left >= LANES)
        return *(const vec *)from;
    return LOAD_SOME(from, left);
}

INLINE void store(float *to, vec x, long left)
{
    if (left >= LANES)
        *(vec *)to = x;
    else
        STORE_SOME(to, x, left);
}

INLINE vec NAME(all)(float x) { return x - (vec){0}; }

INLINE long NAME(padded)(long cols) { return (cols + LANES - 1) / LANES * LANES; }

/* The lesser; NaN stays. */
INLINE vec NAME(at_most)(vec x, float limit)
{
    ints above = x > limit;
    return (vec)(((ints)NAME(all)(limit) & above) | ((ints)x & ~above));
}

/* exp(x) = 2^n exp(r), |r| ≤ log(2) / 2, with a polynomial of Moshier's Cephes; x is kept within float32's range. */
INLINE vec NAME(exponential)(vec x)
{
    x = -NAME(at_most)(-NAME(at_most)(x, 88.0f), 87.3f);
    vec shifted = fused(x, NAME(all)(1.44269504088896341f), NAME(all)(12582912.0f)); /* + 1.5 · 2^23: n in the last bits */
    vec n = shifted - 12582912.0f;
    vec r = fused(n, NAME(all)(2.12194440e-4f), fused(n, NAME(all)(-0.693359375f), x));
    vec p = fused(r, NAME(all)(1.9875691500e-4f), NAME(all)(1.3981999507e-3f));
    p = fused(p, r, NAME(all)(8.3334519073e-3f));
    p = fused(p, r, NAME(all)(4.1665795894e-2f));
    p = fused(p, r, NAME(all)(1.6666665459e-1f));
    p = fused(p, r, NAME(all)(5.0000001201e-1f));
    p = fused(p, r * r, r) + 1.0f;
    return p * (vec)(((ints)shifted + 127) << 23);
}

INLINE vec NAME(hyperbolic)(vec x) { return 1.0f - 2.0f / (NAME(exponential)(x * 2.0f) + 1.0f); }

INLINE vec NAME(logistic)(vec x) { return 1.0f / (NAME(exponential)(-x) + 1.0f); }

INLINE vec NAME(where_positive)(vec y, vec x) { return (vec)((ints)x & (y > 0)); }

INLINE void NAME(finish)(const Last *last, vec u, long at, long left)
{
    vec y = {0};
    if (last->op >= TANH_RATE)
        y = load(last->y + at, left);
    switch (last->op) {
    case TANH:
        u = NAME(hyperbolic)(u);
        break;
    case RELU:
        u = (vec)((ints)u & ~(u < 0)); /* NaN stays */
        break;
    case SIGMOID:
        u = NAME(logistic)(u);
        break;
    case TANH_RATE:
        store(last->moved + at, u * (1.0f - y * y), left);
        break;
    case RELU_RATE:
        store(last->moved + at, NAME(where_positive)(y, u), left);
        break;
    case TANH_BACK:
        u = u * (1.0f - y * y);
        break;
    case RELU_BACK:
        u = NAME(where_positive)(y, u);
        break;
    case TANH_BENT:
        u = u * (1.0f - y * y) - 2.0f * (load(last->rate + at, left) * y * load(last->delta + at, left));
    }
    store(last->out + at, u, left);
}

/* Weights [k, cols] as panels, one after the other, of the columns of a tile, padded with zeros. */
static void NAME(pack)(float *to, const float *w, long wr, long wc, long k, long cols)
{
    for (long first = 0; first < cols; first += LANES * VECTORS) {
        long count = cols - first < LANES * VECTORS ? cols - first : LANES * VECTORS, wide = NAME(padded)(count);
        for (long i = 0; i < k; i++, to += wide) {
            const float *row = w + i * wr + first * wc;
            if (wc == 1)
                memcpy(to, row, count * sizeof(float));
            else
                for (long j = 0; j < count; j++)
                    to[j] = row[j * wc];
            memset(to + count, 0, (wide - count) * sizeof(float));
        }
    }
}

/* R rows, of which `valid` are there, of one panel of V vectors of columns, of which `left` are there. init: what a sum
 * begins with, `apart` from row to row; 0: it is one padded row. */
INLINE void NAME(tile)(int R, int V, long valid, long left, const float *init, long apart, const Term *terms, int count,
                       float *const *panels, const Last *last, long at)
{
    vec sum[MAX_ROWS][VECTORS];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < V; j++)
            sum[r][j] = load(init + (r < valid ? r : 0) * apart + j * LANES, apart ? left - j * LANES : LANES);
    const float *beside[] = {last->y, last->rate, last->delta};
    for (int i = 0; i < 3 && beside[i]; i++) /* arrives while the products are computed */
        for (int r = 0; r < R; r++)
            for (int j = 0; j < V; j++)
                __builtin_prefetch(beside[i] + at + (r < valid ? r : 0) * last->stride + j * LANES);
    for (int term = 0; term < count; term++) {
        const float *rows[MAX_ROWS], *w = panels[term];
        for (int r = 0; r < R; r++)
            rows[r] = terms[term].x + (r < valid ? r : 0) * terms[term].xr;
        for (long k = 0; k < terms[term].k; k++, w += V * LANES) {
            vec column[VECTORS];
            for (int j = 0; j < V; j++)
                column[j] = *(const vec *)(w + j * LANES);
            for (int r = 0; r < R; r++)
                for (int j = 0; j < V; j++)
                    sum[r][j] = fused(NAME(all)(rows[r][k]), column[j], sum[r][j]);
        }
    }
    vec found[MAX_ROWS][VECTORS]; /* which may be in memory, as the sums may not */
    for (int r = 0; r < R; r++)
        for (int j = 0; j < V; j++)
            found[r][j] = sum[r][j];
    for (int r = 0; r < valid; r++)
        for (int j = 0; j < V; j++)
            NAME(finish)(last, found[r][j], at + r * last->stride + j * LANES, left - j * LANES);
}

#define CASE(R, V) \
    case V: \
        NAME(tile)(R, V, valid, left, init, apart, terms, count, panels, last, at); \
        break;
#if VECTORS == 4
#define CASES(R) CASE(R, 1) CASE(R, 2) CASE(R, 3) CASE(R, 4)
#else
#define CASES(R) CASE(R, 1) CASE(R, 2)
#endif
#define TILES(R) \
    static void NAME(tile##R)(long valid, long left, const float *init, long apart, const Term *terms, int count, \
                              float *const *panels, const Last *last, long at) \
    { \
        switch ((left + LANES - 1) / LANES) { \
            CASES(R) \
        } \
    }
TILES(4)
TILES(5)
TILES(6)
#undef CASE
#undef TILES

/* Sums of products of one task, with packed weights, and what becomes of them. init, apart: as of `tile`. */
static void NAME(products)(long rows, long cols, const float *init, long apart, const Term *terms, int count,
                           float *const *packed, Last last)
{
    long size = 6;
    for (long fewer = 5; fewer >= 4; fewer--) /* the most at a time of those that waste the fewest */
        if ((rows + fewer - 1) / fewer * fewer < (rows + size - 1) / size * size)
            size = fewer;
    for (long block = 0; block < rows; block += BLOCK_ROWS) {
        long end = block + BLOCK_ROWS < rows ? block + BLOCK_ROWS : rows;
        for (long first = 0; first < cols; first += LANES * VECTORS) {
            long left = cols - first < LANES * VECTORS ? cols - first : LANES * VECTORS;
            float *panels[2] = {packed[0] + first * terms[0].k, count == 2 ? packed[1] + first * terms[1].k : 0};
            for (long row = block; row < end; row += size) {
                Term from[] = {terms[0], terms[count - 1]};
                for (int term = 0; term < count; term++)
                    from[term].x += row * from[term].xr;
                long valid = end - row < size ? end - row : size, at = row * last.stride + first;
                (size == 6   ? NAME(tile6)
                 : size == 5 ? NAME(tile5)
                             : NAME(tile4))(valid, left, init + row * apart + first, apart, from, count, panels, &last, at);
            }
        }
    }
}

/* room: (1 + all k) × cols, padded to 16. */
static void NAME(layer)(long tasks, long rows, long cols, float *room, const float *bias, long bias_task, Last last,
                        Term *terms)
{
    int count = terms[1].w ? 2 : 1;
    long wide = NAME(padded)(cols), size = rows * cols;
    float *packed[] = {room + wide, room + wide * (1 + terms[0].k)};
    memset(room, 0, wide * sizeof(float));
    for (long task = 0; task < tasks; task++) {
        for (int term = 0; term < count; term++) {
            Term *of = terms + term;
            if (!task || of->wt)
                NAME(pack)(packed[term], of->w + task * of->wt, of->wr, of->wc, of->k, cols);
        }
        if (bias)
            memcpy(room, bias + task * bias_task, cols * sizeof(float));
        NAME(products)(rows, cols, room, 0, terms, count, packed, last);
        for (int term = 0; term < count; term++)
            terms[term].x += terms[term].xt;
        last.out += size;
        last.moved += last.moved ? size : 0;
        last.y += last.y ? size : 0;
        last.rate += last.rate ? size : 0;
        last.delta += last.delta ? size : 0;
    }
}

/* Σ x[row, i] d[row, :] over a block of rows, added to out[i, :] for R inputs and V vectors of columns. */
INLINE void NAME(outer_tile)(int R, int V, long rows, const float *x, long xr, const float *d, long dr, float *out,
                             long cols, long left)
{
    vec sum[MAX_ROWS][VECTORS] = {0};
    for (long row = 0; row < rows; row++, x += xr, d += dr) {
        vec column[VECTORS];
        for (int j = 0; j < V; j++)
            column[j] = *(const vec *)(d + j * LANES);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < V; j++)
                sum[r][j] = fused(NAME(all)(x[r]), column[j], sum[r][j]);
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < V; j++) {
            float *at = out + r * cols + j * LANES;
            store(at, load(at, left - j * LANES) + sum[r][j], left - j * LANES);
        }
}

#define CASE(R, V) \
    case 10 * R + V: \
        NAME(outer_tile)(R, V, rows, x, xr, d, dr, out, cols, left); \
        break;
static void NAME(outer_tiles)(long rows, long inputs, const float *x, long xr, const float *d, long dr, float *out,
                              long cols, long left)
{
    switch (10 * inputs + (left + LANES - 1) / LANES) {
        CASES(1)
        CASES(2)
        CASES(3)
        CASES(4)
        CASES(5)
        CASES(6)
    }
}
#undef CASE
#undef CASES

/* Added to out and to sums, where they are not NULL. room: OUTER_ROWS × 64. */
static void NAME(outer)(long tasks, long rows, long inputs, long cols, float *room, float *out, float *sums,
                        const float *x, long xt, long xr, const float *d, long dt, long dr)
{
    for (long task = 0; task < tasks; task++, x += xt, d += dt, out += inputs * cols, sums += sums ? cols : 0)
        for (long block = 0; block < rows; block += OUTER_ROWS) {
            long count = rows - block < OUTER_ROWS ? rows - block : OUTER_ROWS;
            for (long first = 0; first < cols; first += LANES * VECTORS) {
                long left = cols - first < LANES * VECTORS ? cols - first : LANES * VECTORS;
                const float *from = d + block * dr + first;
                long apart = dr;
                if (left % LANES) {
                    apart = NAME(padded)(left);
                    for (long row = 0; row < count; row++)
                        for (long j = 0; j < left; j += LANES)
                            store(room + row * apart + j, load(from + row * dr + j, left - j), LANES);
                    from = room;
                }
                for (long input = 0; input < inputs; input += MAX_ROWS)
                    NAME(outer_tiles)(count, inputs - input < MAX_ROWS ? inputs - input : MAX_ROWS,
                                      x + block * xr + input, xr, from, apart, out + input * cols + first, cols, left);
                for (long j = 0; sums && j < left; j += LANES) {
                    vec sum = load(sums + first + j, left - j);
                    for (long row = 0; row < count; row++)
                        sum += *(const vec *)(from + row * apart + j);
                    store(sums + first + j, sum, left - j);
                }
            }
        }
}

/* to = from × continues, row by row; NULL: all continue. */
INLINE void NAME(restart)(float *to, const float *from, const float *continues, long lanes, long cell)
{
    for (long lane = 0; lane < lanes; lane++)
        for (long j = 0; j < cell; j += LANES)
            store(to + lane * cell + j, load(from + lane * cell + j, cell - j) * continues[lane], cell - j);
}

/* weights: in the order of `gru_shapes`, those of the next task `apart`. before: NULL where no episode starts within.
 * room: (1 + inputs + cell) × 2 cell + (2 + inputs + cell) × cell, each factor of columns padded to 16. */
static void NAME(gru_forward)(Gru gru, float *room, const float *start, const float *const *weights, const long *apart,
                              float *gates, float *q, float *n, float *before, float *after)
{
    long cell = gru.cell, inputs = gru.inputs, size = gru.lanes * cell;
    long wide = NAME(padded)(cell), wide2 = NAME(padded)(2 * cell);
    float *bg = room, *bc = bg + wide2, *nothing = bc + wide, *wg = nothing + wide, *ug = wg + inputs * wide2;
    float *wc = ug + cell * wide2, *uc = wc + inputs * wide, *of_gates[] = {wg, ug};
    memset(room, 0, (wide2 + 2 * wide) * sizeof(float));
    for (long task = 0; task < gru.tasks; task++) {
        NAME(pack)(wg, weights[0] + task * apart[0], 2 * cell, 1, inputs, 2 * cell);
        NAME(pack)(ug, weights[1] + task * apart[1], 2 * cell, 1, cell, 2 * cell);
        memcpy(bg, weights[2] + task * apart[2], 2 * cell * sizeof(float));
        NAME(pack)(wc, weights[3] + task * apart[3], cell, 1, inputs, cell);
        NAME(pack)(uc, weights[4] + task * apart[4], cell, 1, cell, cell);
        memcpy(bc, weights[5] + task * apart[5], cell * sizeof(float));
        const float *h = start + task * size;
        for (long t = 0; t < gru.steps; t++) {
            long step = (task * gru.length + t) * size, row = (t * gru.tasks + task) * gru.lanes;
            if (before) {
                NAME(restart)(before + step, h, gru.continues + row, gru.lanes, cell);
                h = before + step;
            }
            Term terms[] = {{gru.x + row * inputs, 0, 0, inputs, 0, 0, 0, inputs}, {h, 0, 0, cell, 0, 0, 0, cell}};
            NAME(products)(gru.lanes, 2 * cell, bg, 0, terms, 2, of_gates, (Last){SIGMOID, 2 * cell, gates + 2 * step});
            NAME(products)(gru.lanes, cell, nothing, 0, terms + 1, 1, &uc, (Last){LINEAR, cell, q + step});
            NAME(products)(gru.lanes, cell, bc, 0, terms, 1, &wc, (Last){LINEAR, cell, n + step});
            for (long lane = 0; lane < gru.lanes; lane++)
                for (long j = 0; j < cell; j += LANES) {
                    long in = lane * cell + j, at = step + in, left = cell - j;
                    const float *gate = gates + 2 * step + 2 * lane * cell + j;
                    vec r = load(gate, left), z = load(gate + cell, left);
                    vec c = NAME(hyperbolic)(load(n + at, left) + r * load(q + at, left));
                    store(n + at, c, left);
                    store(after + at, fused(z, load(h + in, left) - c, c), left);
                }
            h = after + step;
        }
    }
}

/* d_after: what arrives at each state from outside; becomes all that arrives. before: NULL where it is `after` of the
 * step before. room: 3 cell × cell padded to 16, + 2 lanes × cell. */
static void NAME(gru_backward)(Gru gru, float *room, const float *ug, long ug_apart, const float *uc, long uc_apart,
                               const float *gates, const float *q, const float *n, const float *before,
                               const float *after, float *d_after, float *d_gates, float *d_q, float *d_n)
{
    long cell = gru.cell, size = gru.lanes * cell, wide = NAME(padded)(cell);
    float *ug_t = room, *uc_t = ug_t + 2 * cell * wide, *carried = uc_t + cell * wide, *nothing = carried + size;
    float *both[] = {ug_t, uc_t};
    memset(nothing, 0, size * sizeof(float));
    for (long task = 0; task < gru.tasks; task++) {
        NAME(pack)(ug_t, ug + task * ug_apart, 1, 2 * cell, 2 * cell, cell);
        NAME(pack)(uc_t, uc + task * uc_apart, 1, cell, cell, cell);
        memset(carried, 0, size * sizeof(float));
        for (long t = gru.steps - 1; t >= 0; t--) {
            long step = (task * gru.length + t) * size;
            const float *h = before ? before + step : t ? after + step - size : nothing;
            for (long lane = 0; lane < gru.lanes; lane++)
                for (long j = 0; j < cell; j += LANES) {
                    long in = lane * cell + j, at = step + in, left = cell - j, gate = 2 * step + 2 * lane * cell + j;
                    vec r = load(gates + gate, left), z = load(gates + gate + cell, left), c = load(n + at, left);
                    vec dh = load(d_after + at, left) + load(carried + in, left), passed = dh * z;
                    vec dc = (dh - passed) * (1.0f - c * c);
                    store(d_after + at, dh, left);
                    store(carried + in, passed, left);
                    store(d_n + at, dc, left);
                    store(d_q + at, dc * r, left);
                    store(d_gates + gate, dc * load(q + at, left) * r * (1.0f - r), left);
                    store(d_gates + gate + cell, (load(h + in, left) - c) * dh * z * (1.0f - z), left);
                }
            Term terms[] = {{d_gates + 2 * step, 0, 0, 2 * cell, 0, 0, 0, 2 * cell}, {d_q + step, 0, 0, cell, 0, 0, 0, cell}};
            NAME(products)(gru.lanes, cell, carried, cell, terms, 2, both, (Last){LINEAR, cell, carried});
            if (gru.continues)
                NAME(restart)(carried, carried, gru.continues + (t * gru.tasks + task) * gru.lanes, gru.lanes, cell);
        }
    }
}

#undef vec
#undef ints
#undef load
#undef store
#endif
