/* Groups of channels, maps of them in scratch memory, and the depthwise convolution of a map. */
#include <math.h>
#include <string.h>
/* A loop over tasks, or over tokens, by `threads` threads, but not by more than there are turns. */
#ifdef _OPENMP
#include <omp.h>
#define PRAGMA(text) _Pragma(#text)
#define PARALLEL_TASKS(turns) PRAGMA(omp parallel for schedule(dynamic) num_threads(cap(threads, turns)))
#define PARALLEL_TOKENS(turns) PRAGMA(omp parallel for num_threads(cap(threads, turns)))
#else
#define omp_get_thread_num() 0
#define PARALLEL_TASKS(turns) (void)threads;
#define PARALLEL_TOKENS(turns) (void)threads;
#endif

#ifndef REAL
#define REAL float
#endif
#define LANES ((int)(64 / sizeof(REAL)))
#define HALF (LANES / 2)
#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#define MAX_KERNELS 16

typedef REAL vec __attribute__((vector_size(32), aligned(32)));
typedef REAL loose __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
typedef struct { vec lo, hi; } lanes;
typedef long long integer;

/* A map in scratch memory: rows of `line` positions of LANES numbers; `pad` positions of border on each side. */
typedef struct { int height, width, pad, line; } geometry;

INLINE lanes get(const REAL *at) { lanes l = {*(const vec *)at, *(const vec *)(at + HALF)}; return l; }
INLINE void put(REAL *at, lanes l) { *(vec *)at = l.lo; *(vec *)(at + HALF) = l.hi; }
INLINE lanes all(REAL value) { lanes l; l.lo = (vec){} + value; l.hi = l.lo; return l; }
INLINE lanes add(lanes a, lanes b) { lanes l = {a.lo + b.lo, a.hi + b.hi}; return l; }
INLINE lanes times(lanes a, lanes b) { lanes l = {a.lo * b.lo, a.hi * b.hi}; return l; }
INLINE lanes fma_(lanes a, lanes b, lanes c) { lanes l = {a.lo * b.lo + c.lo, a.hi * b.hi + c.hi}; return l; }
INLINE REAL sum(lanes l) {
    vec both = l.lo + l.hi;
    REAL total = 0;
    for (int i = 0; i < HALF; i++) total += both[i];
    return total;
}

/* `count` numbers of memory outside, which need not be aligned; lanes beyond are 0, or stay. */
INLINE lanes fetch(const REAL *from, int count) {
    if (count == LANES) { lanes l = {*(const loose *)from, *(const loose *)(from + HALF)}; return l; }
    REAL ALIGNED part[LANES] = {0};
    memcpy(part, from, count * sizeof(REAL));
    return get(part);
}
INLINE void store(REAL *to, lanes l, int count) {
    if (count == LANES) { *(loose *)to = l.lo; *(loose *)(to + HALF) = l.hi; return; }
    REAL ALIGNED part[LANES];
    put(part, l);
    memcpy(to, part, count * sizeof(REAL));
}

INLINE int smaller(int a, int b) { return a < b ? a : b; }
INLINE int cap(int threads, integer turns) { return turns < threads ? (int)turns : threads; }
INLINE int blocks_of(int channels) { return (channels + LANES - 1) / LANES; }
INLINE int lanes_of(int channels, int block) {
    return smaller(channels - block * LANES, LANES);
}
INLINE geometry make_geometry(int height, int width, int pad) {
    geometry g = {height, width, pad, width + 2 * pad};
    return g;
}
INLINE integer map_size(geometry g) { return (integer)(g.height + 2 * g.pad) * g.line * LANES; }
INLINE REAL *at(REAL *map, geometry g, int y, int x) {
    return map + ((integer)(y + g.pad) * g.line + x + g.pad) * LANES;
}
/* `count` maps in the thread's part of the scratch memory, with borders of zeros. */
static REAL *make_maps(geometry g, int count, REAL *scratch, integer room) {
    REAL *maps = scratch + omp_get_thread_num() * room;
    for (integer row = 0; row < (integer)count * (g.height + 2 * g.pad); row++) {
        REAL *line = maps + row * g.line * LANES;
        int y = row % (g.height + 2 * g.pad) - g.pad;
        if (y < 0 || y >= g.height) memset(line, 0, g.line * LANES * sizeof(REAL));
        else {
            memset(line, 0, g.pad * LANES * sizeof(REAL));
            memset(line + (g.pad + g.width) * LANES, 0, g.pad * LANES * sizeof(REAL));
        }
    }
    return maps;
}
/* The 3x3 convolutions go through the image in strips of rows, `maps` of which fit into the cache together. */
#define CACHE (192 * 1024)
static geometry make_strip(int height, int width, int maps) {
    int rows = CACHE / (maps * LANES * (int)sizeof(REAL) * (width + 2)) - 2;
    return make_geometry(rows < 4 ? smaller(height, 4) : rows < height ? rows : height, width, 1);
}
#define EACH_STRIP(whole, g) \
    geometry g = whole; \
    for (int top = 0; top < height && (g.height = smaller(height - top, whole.height)); top += whole.height)
/* The rows of a strip and those beside it, or zeros beyond the image. */
#define EACH_STRIP_ROW(g) for (int y = -1; y <= (g).height; y++)
static void clear_row(geometry g, REAL *map, int y) { memset(at(map, g, y, 0), 0, g.width * LANES * sizeof(REAL)); }
#define EACH_POSITION(g) for (int y = 0; y < (g).height; y++) for (int x = 0; x < (g).width; x++)

/* The channels of one task of tokens -> a map. */
static void load(const REAL *tokens, integer stride, int count, geometry g, REAL *map) {
    EACH_POSITION(g) put(at(map, g, y, x), fetch(tokens + ((integer)y * g.width + x) * stride, count));
}

/* ---- depthwise convolution of a map: taps are k*k times LANES numbers ---- */

#define TILE 4 /* outputs, and sums below, that stay in registers */
#define SUMS 7
INLINE void conv_of(const REAL *map, const REAL *taps, REAL *out, geometry g, int k) {
    int before = k / 2;
    for (int y = 0; y < g.height; y++) {
        const REAL *corner = map + ((integer)(y + g.pad - before) * g.line + g.pad - before) * LANES;
        int x = 0;
        for (; x + TILE <= g.width; x += TILE) {
            lanes total[TILE];
            for (int j = 0; j < TILE; j++) total[j] = all(0);
            for (int dy = 0; dy < k; dy++) {
                const REAL *from = corner + ((integer)dy * g.line + x) * LANES;
                for (int dx = 0; dx < k; dx++) {
                    lanes tap = get(taps + (dy * k + dx) * LANES);
#pragma GCC unroll 4
                    for (int j = 0; j < TILE; j++) total[j] = fma_(tap, get(from + (dx + j) * LANES), total[j]);
                }
            }
            for (int j = 0; j < TILE; j++) put(out + ((integer)(y + g.pad) * g.line + x + j + g.pad) * LANES, total[j]);
        }
        for (; x < g.width; x++) {
            lanes total = all(0);
            for (int dy = 0; dy < k; dy++)
                for (int dx = 0; dx < k; dx++)
                    total = fma_(get(taps + (dy * k + dx) * LANES), get(corner + ((integer)dy * g.line + x + dx) * LANES),
                                 total);
            put(out + ((integer)(y + g.pad) * g.line + x + g.pad) * LANES, total);
        }
    }
}
/* Added to `taps`: their gradient, from the map that was convolved and the gradient of the output. */
INLINE void taps_of(const REAL *map, const REAL *grad, REAL *taps, geometry g, int k) {
    int before = k / 2;
    for (int y = 0; y < g.height; y++) {
        const REAL *of_out = grad + ((integer)(y + g.pad) * g.line + g.pad) * LANES;
        for (int dy = 0; dy < k; dy++) {
            const REAL *from = map + ((integer)(y + dy + g.pad - before) * g.line + g.pad - before) * LANES;
            for (int first = 0; first < k; first += SUMS) {
                int some = smaller(k - first, SUMS);
                lanes total[SUMS];
#pragma GCC unroll 7
                for (int i = 0; i < SUMS; i++) total[i] = i < some ? get(taps + (dy * k + first + i) * LANES) : all(0);
                for (int x = 0; x < g.width; x++) {
                    lanes here = get(of_out + x * LANES);
#pragma GCC unroll 7
                    for (int i = 0; i < SUMS; i++)
                        if (i < some) total[i] = fma_(here, get(from + (x + first + i) * LANES), total[i]);
                }
#pragma GCC unroll 7
                for (int i = 0; i < SUMS; i++) if (i < some) put(taps + (dy * k + first + i) * LANES, total[i]);
            }
        }
    }
}
/* The sizes of the paper with their loops unrolled, any other as it comes. */
#define OF_SIZE(function, first, second, third, g, k) \
    switch (k) { \
    case 3: function(first, second, third, g, 3); break; \
    case 5: function(first, second, third, g, 5); break; \
    case 7: function(first, second, third, g, 7); break; \
    default: function(first, second, third, g, k); \
    }
static void conv(const REAL *map, const REAL *taps, REAL *out, geometry g, int k) { OF_SIZE(conv_of, map, taps, out, g, k) }
static void taps_gradient(const REAL *map, const REAL *grad, REAL *taps, geometry g, int k) {
    OF_SIZE(taps_of, map, grad, taps, g, k)
}
/* Kernels (C, k*k) of the task's channels -> taps. The gradient of a map is a convolution with the taps turned around. */
static void load_taps(const REAL *kernels, int count, int k, REAL *taps) {
    for (int i = 0; i < k * k; i++) put(taps + i * LANES, all(0));
    for (int c = 0; c < count; c++)
        for (int i = 0; i < k * k; i++) taps[i * LANES + c] = kernels[c * k * k + i];
}
static void turn_taps(const REAL *taps, int k, REAL *turned) {
    for (int i = 0; i < k * k; i++) put(turned + (k * k - 1 - i) * LANES, get(taps + i * LANES));
}
static void clear_taps(int k, REAL *taps) { memset(taps, 0, k * k * LANES * sizeof(REAL)); }
static void store_taps(const REAL *taps, int count, int k, REAL *kernels) {
    for (int c = 0; c < count; c++)
        for (int i = 0; i < k * k; i++) kernels[c * k * k + i] = taps[i * LANES + c];
}
#define CENTRE 4 /* of nine taps */
