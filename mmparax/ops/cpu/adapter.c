/* The three operations of AdaRoute's adapter on a CPU, with their gradients.

   Compiled for one type of number, REAL (float or double), at its first use; the prototypes come from signatures.py. Arrays
   are contiguous, tokens (B, H*W, C); `scratch` has `room` numbers for each of `threads`, or of the tasks if these are fewer.
   A task is one image and LANES channels: its maps are copied into scratch memory with a border of zeros, where channels
   lie side by side and every step finds them in the cache. What goes across channels is a pass over tokens before or
   after, on sums that each task writes for itself, so results do not depend on the number of threads. */
#include "maps.h"

/* ---- tokens: sums over channels ---- */

static REAL row_sum(const REAL *row, int channels) {
    lanes total = all(0);
    for (int c = 0; c < channels; c += LANES) total = add(total, fetch(row + c, smaller(channels - c, LANES)));
    return sum(total);
}
static REAL row_dot(const REAL *a, const REAL *b, int channels) {
    lanes total = all(0);
    for (int c = 0; c < channels; c += LANES) {
        int count = smaller(channels - c, LANES);
        total = fma_(fetch(a + c, count), fetch(b + c, count), total);
    }
    return sum(total);
}
static REAL row_spread(const REAL *row, REAL mean, int channels) { /* sum of squared distances from the mean */
    REAL rest = 0;
    int c = 0;
    lanes squares = all(0);
    for (; c + LANES <= channels; c += LANES) {
        lanes d = add(fetch(row + c, LANES), all(-mean));
        squares = fma_(d, d, squares);
    }
    for (; c < channels; c++) rest += (row[c] - mean) * (row[c] - mean);
    return rest + sum(squares);
}

/* Mean and 1 / std of each token. */
void token_statistics(const REAL *x, REAL *mean, REAL *rstd, integer tokens, int channels, double eps, int threads) {
    PARALLEL_TOKENS(tokens)
    for (integer n = 0; n < tokens; n++) {
        const REAL *row = x + n * channels;
        mean[n] = row_sum(row, channels) / channels;
        rstd[n] = 1 / sqrt(row_spread(row, mean[n], channels) / channels + eps);
    }
}

/* Numbers of scratch memory that a thread needs: for strips, and for whole maps with kernels up to `size`. */
integer strip_room(int height, int width, int maps) { return maps * map_size(make_strip(height, width, maps)); }
integer whole_room(int height, int width, int maps, int size) {
    return maps * map_size(make_geometry(height, width, size / 2)) + 2 * size * size * LANES;
}

/* Every operation is a loop over tasks: image b, channels from `first`, `count` of them, N tokens an image. */
#define SHAPE int batch, int height, int width, int channels, REAL *scratch, integer room, int threads
#define MAPS(g, count) make_maps(g, count, scratch, room)
#define TASK(blocks) \
    int b = task / (blocks), block = task % (blocks), first = block * LANES, count = lanes_of(channels, block); \
    integer N = (integer)height * width, tokens = (integer)b * N, start = tokens * channels + first; \
    (void)start; (void)tokens

/* The channels of one task of a strip and the rows beside it, `plus` added; zeros beyond the image. */
static void load_strip(const REAL *tokens, integer stride, int count, lanes plus, int top, int height, geometry g, REAL *map) {
    EACH_STRIP_ROW(g)
        if (top + y < 0 || top + y >= height) clear_row(g, map, y);
        else for (int i = 0; i < g.width; i++)
            put(at(map, g, y, i), add(fetch(tokens + ((integer)(top + y) * g.width + i) * stride, count), plus));
}
/* Of scale * (a map + its convolution). */
static void load_scaled_taps(const REAL *kernels, lanes scale, int count, REAL *taps) {
    load_taps(kernels, count, 3, taps);
    put(taps + CENTRE * LANES, add(get(taps + CENTRE * LANES), all(1)));
    for (int i = 0; i < 9; i++) put(taps + i * LANES, times(get(taps + i * LANES), scale));
}

/* ---- u = x + norm(x); out = u + conv(u); mean of out ---- */

static void load_normed(const REAL *x, const REAL *mean, const REAL *rstd, integer stride, int count, lanes weight, lanes bias,
                        int top, int height, geometry g, REAL *map) {
    EACH_STRIP_ROW(g)
        if (top + y < 0 || top + y >= height) clear_row(g, map, y);
        else for (int i = 0; i < g.width; i++) {
            integer n = (integer)(top + y) * g.width + i;
            lanes value = fetch(x + n * stride, count);
            put(at(map, g, y, i), add(value, fma_(times(add(value, all(-mean[n])), all(rstd[n])), weight, bias)));
        }
}

void norm_conv_forward(const REAL *x, const REAL *mean, const REAL *rstd, const REAL *norm_weight, const REAL *norm_bias,
                       const REAL *kernels, const REAL *bias, REAL *out, REAL *out_mean,
                       SHAPE) {
    int blocks = blocks_of(channels);
    geometry whole = make_strip(height, width, 2);
    PARALLEL_TASKS(batch * blocks)
    for (int task = 0; task < batch * blocks; task++) {
        TASK(blocks);
        REAL *u = MAPS(whole, 2), *convolved = u + map_size(whole), ALIGNED taps[9 * LANES];
        load_scaled_taps(kernels + first * 9, all(1), count, taps);
        lanes shift = fetch(bias + first, count), total = all(0);
        EACH_STRIP(whole, g) {
            load_normed(x + start, mean + tokens, rstd + tokens, channels, count, fetch(norm_weight + first, count),
                        fetch(norm_bias + first, count), top, height, g, u);
            conv(u, taps, convolved, g, 3);
            for (int y = 0; y < g.height; y++) {
                lanes of_row = all(0);
                for (int i = 0; i < width; i++) {
                    lanes value = add(get(at(convolved, g, y, i)), shift);
                    of_row = add(of_row, value);
                    store(out + start + ((integer)(top + y) * width + i) * channels, value, count);
                }
                total = add(total, of_row);
            }
        }
        store(out_mean + (integer)b * channels + first, times(total, all((REAL)1 / N)), count);
    }
}

/* Gradients from those of out and of its mean; of x, and for each image of the kernels, their bias, and the norm's affine map.
   `sums`: memory for (2, batch, blocks, N). */
void norm_conv_backward(const REAL *grad, const REAL *grad_mean, const REAL *x, const REAL *mean, const REAL *rstd,
                        const REAL *norm_weight, const REAL *norm_bias, const REAL *kernels,
                        REAL *dx, REAL *dkernels, REAL *dbias, REAL *dnorm_weight, REAL *dnorm_bias, REAL *sums,
                        SHAPE) {
    int blocks = blocks_of(channels);
    geometry whole = make_strip(height, width, 3);
    integer half = (integer)batch * blocks * height * width;
    PARALLEL_TASKS(batch * blocks)
    for (int task = 0; task < batch * blocks; task++) {
        TASK(blocks);
        REAL *u = MAPS(whole, 3), *of_out = u + map_size(whole), *du = of_out + map_size(whole);
        REAL ALIGNED taps[9 * LANES], ALIGNED turned[9 * LANES];
        lanes weight = fetch(norm_weight + first, count);
        load_scaled_taps(kernels + first * 9, all(1), count, taps);
        turn_taps(taps, 3, turned);
        clear_taps(3, taps);
        lanes each = times(fetch(grad_mean + (integer)b * channels + first, count), all((REAL)1 / N));
        lanes of_bias = all(0), of_weight = all(0), of_shift = all(0);
        REAL *plain = sums + (integer)task * N, *along = plain + half;
        EACH_STRIP(whole, g) {
            load_normed(x + start, mean + tokens, rstd + tokens, channels, count, weight, fetch(norm_bias + first, count), top,
                        height, g, u);
            load_strip(grad + start, channels, count, each, top, height, g, of_out);
            conv(of_out, turned, du, g, 3);
            taps_gradient(u, of_out, taps, g, 3);
            for (int y = 0; y < g.height; y++) {
                lanes row_weight = all(0), row_shift = all(0), row_bias = all(0);
                for (int i = 0; i < width; i++) {
                    integer n = (integer)(top + y) * width + i;
                    lanes value = get(at(du, g, y, i));
                    lanes unit = times(add(fetch(x + start + n * channels, count), all(-mean[tokens + n])),
                                       all(rstd[tokens + n]));
                    lanes scaled = times(value, weight);
                    row_bias = add(row_bias, get(at(of_out, g, y, i)));
                    row_weight = fma_(value, unit, row_weight);
                    row_shift = add(row_shift, value);
                    plain[n] = sum(scaled);
                    along[n] = sum(times(scaled, unit));
                    store(dx + start + n * channels, value, count);
                }
                of_bias = add(of_bias, row_bias);
                of_weight = add(of_weight, row_weight);
                of_shift = add(of_shift, row_shift);
            }
        }
        integer place = (integer)b * channels + first;
        store_taps(taps, count, 3, dkernels + place * 9);
        store(dbias + place, of_bias, count);
        store(dnorm_weight + place, of_weight, count);
        store(dnorm_bias + place, of_shift, count);
    }
    PARALLEL_TOKENS((integer)batch * height * width)
    for (integer n = 0; n < (integer)batch * height * width; n++) {
        integer N = (integer)height * width, b = n / N;
        REAL plain = 0, along = 0;
        for (int block = 0; block < blocks; block++) {
            plain += sums[(b * blocks + block) * N + n % N];
            along += sums[half + (b * blocks + block) * N + n % N];
        }
        REAL *row = dx + n * channels;
        const REAL *from = x + n * channels;
        plain /= channels;
        along /= channels;
        for (int c = 0; c < channels; c++)
            row[c] += rstd[n] * (row[c] * norm_weight[c] - plain - (from[c] - mean[n]) * rstd[n] * along);
    }
}

/* ---- out = scale * (y + conv(y)) + bias + shortcut_scale * shortcut ---- */

void out_conv_forward(const REAL *input, const REAL *kernels, const REAL *scale, const REAL *bias, const REAL *shortcut,
                      const REAL *shortcut_scale, REAL *out, SHAPE) {
    int blocks = blocks_of(channels);
    geometry whole = make_strip(height, width, 2);
    PARALLEL_TASKS(batch * blocks)
    for (int task = 0; task < batch * blocks; task++) {
        TASK(blocks);
        REAL *map = MAPS(whole, 2), *convolved = map + map_size(whole), ALIGNED taps[9 * LANES];
        load_scaled_taps(kernels + first * 9, fetch(scale + first, count), count, taps);
        lanes shift = fetch(bias + first, count), factor = shortcut_scale ? fetch(shortcut_scale + first, count) : all(1);
        EACH_STRIP(whole, g) {
            load_strip(input + start, channels, count, all(0), top, height, g, map);
            conv(map, taps, convolved, g, 3);
            EACH_POSITION(g) {
                integer place = start + ((integer)(top + y) * width + x) * channels;
                lanes value = add(get(at(convolved, g, y, x)), shift);
                store(out + place, fma_(fetch(shortcut + place, count), factor, value), count);
            }
        }
    }
}

/* Gradients of y, the shortcut, and for each image of the scaled kernels, the bias and the shortcut's scale. */
void out_conv_backward(const REAL *grad, const REAL *input, const REAL *kernels, const REAL *scale, const REAL *shortcut,
                       const REAL *shortcut_scale, REAL *dinput, REAL *dshortcut, REAL *dtaps, REAL *dbias,
                       REAL *dshortcut_scale, SHAPE) {
    int blocks = blocks_of(channels);
    geometry whole = make_strip(height, width, 3);
    PARALLEL_TASKS(batch * blocks)
    for (int task = 0; task < batch * blocks; task++) {
        TASK(blocks);
        REAL *map = MAPS(whole, 3), *of_out = map + map_size(whole), *result = of_out + map_size(whole);
        REAL ALIGNED taps[9 * LANES], ALIGNED turned[9 * LANES];
        load_scaled_taps(kernels + first * 9, fetch(scale + first, count), count, taps);
        turn_taps(taps, 3, turned);
        clear_taps(3, taps);
        lanes factor = shortcut_scale ? fetch(shortcut_scale + first, count) : all(1), of_bias = all(0), of_factor = all(0);
        EACH_STRIP(whole, g) {
            load_strip(input + start, channels, count, all(0), top, height, g, map);
            load_strip(grad + start, channels, count, all(0), top, height, g, of_out);
            conv(of_out, turned, result, g, 3);
            taps_gradient(map, of_out, taps, g, 3);
            for (int y = 0; y < g.height; y++) {
                lanes row_bias = all(0), row_factor = all(0);
                for (int i = 0; i < width; i++) {
                    integer place = start + ((integer)(top + y) * width + i) * channels;
                    lanes value = get(at(of_out, g, y, i));
                    row_bias = add(row_bias, value);
                    row_factor = fma_(value, fetch(shortcut + place, count), row_factor);
                    store(dshortcut + place, times(value, factor), count);
                    store(dinput + place, get(at(result, g, y, i)), count);
                }
                of_bias = add(of_bias, row_bias);
                of_factor = add(of_factor, row_factor);
            }
        }
        integer place = (integer)b * channels + first;
        store_taps(taps, count, 3, dtaps + place * 9);
        store(dbias + place, of_bias, count);
        store(dshortcut_scale + place, of_factor, count);
    }
}

/* ---- out = z + the weighted sum of convolutions, one after the other ---- */

/* What convolution i reads: of_z * z + of_last * (the output before it). */
typedef struct { REAL of_z, of_last; } mix;

static void load_source(const REAL *z, const REAL *last, mix m, geometry g, REAL *source) {
    EACH_POSITION(g) {
        lanes value = m.of_z ? times(all(m.of_z), get(at((REAL *)z, g, y, x))) : all(0);
        if (m.of_last) value = fma_(all(m.of_last), get(at((REAL *)last, g, y, x)), value);
        put(at(source, g, y, x), value);
    }
}
static int largest(const int *sizes, int count) {
    int size = 1;
    for (int i = 0; i < count; i++) size = sizes[i] > size ? sizes[i] : size;
    return size;
}

/* `kernels`, `outs`: an array for each convolution, (B, C, k*k) and (B, N, C). `mixes`: two numbers for each.
   `score_weight` (count, C) and `score_bias`, or NULL for the mean. Gives `alpha` (B, count, N); `scores`: memory for
   (B, blocks, count, N). */
void mixing_forward(const REAL *z, const REAL *const *kernels, const int *sizes, int convs, const double *mixes,
                    const REAL *score_weight, const REAL *score_bias, REAL *const *outs, REAL *alpha, REAL *scores,
                    REAL *mixed, SHAPE) {
    int blocks = blocks_of(channels), size = largest(sizes, convs);
    geometry g = make_geometry(height, width, size / 2);
    PARALLEL_TASKS(batch * blocks)
    for (int task = 0; task < batch * blocks; task++) {
        TASK(blocks);
        REAL *maps = MAPS(g, 4), *source = maps + map_size(g), *out = source + map_size(g), *total = out + map_size(g);
        REAL *taps = total + map_size(g);
        load(z + start, channels, count, g, maps);
        for (int i = 0; i < convs; i++) {
            mix m = {mixes[2 * i], mixes[2 * i + 1]};
            load_source(maps, out, m, g, source);
            load_taps(kernels[i] + ((integer)b * channels + first) * sizes[i] * sizes[i], count, sizes[i], taps);
            conv(source, taps, out, g, sizes[i]);
            EACH_POSITION(g) {
                lanes value = get(at(out, g, y, x));
                store(outs[i] + start + ((integer)y * width + x) * channels, value, count);
                put(at(total, g, y, x), i ? add(get(at(total, g, y, x)), value) : value);
            }
        }
        for (int i = 0; i < convs && score_weight; i++) {
            lanes weight = fetch(score_weight + (integer)i * channels + first, count);
            REAL *score = scores + ((integer)task * convs + i) * N;
            EACH_POSITION(g) score[(integer)y * width + x] = sum(times(weight, get(at(total, g, y, x))));
        }
        if (!score_weight)
            EACH_POSITION(g) {
                lanes value = fma_(get(at(total, g, y, x)), all((REAL)1 / convs), get(at(maps, g, y, x)));
                store(mixed + start + ((integer)y * width + x) * channels, value, count);
            }
    }
    if (!score_weight) return;
    PARALLEL_TOKENS((integer)batch * height * width)
    for (integer n = 0; n < (integer)batch * height * width; n++) {
        integer N = (integer)height * width, b = n / N;
        REAL weights[MAX_KERNELS], most = -INFINITY, total = 0;
        for (int i = 0; i < convs; i++) {
            weights[i] = score_bias[i];
            for (int block = 0; block < blocks; block++) weights[i] += scores[((b * blocks + block) * convs + i) * N + n % N];
            if (!(weights[i] <= most)) most = weights[i];
        }
        for (int i = 0; i < convs; i++) total += weights[i] = exp(weights[i] - most);
        for (int i = 0; i < convs; i++) alpha[(b * convs + i) * N + n % N] = weights[i] /= total;
        memcpy(mixed + n * channels, z + n * channels, channels * sizeof(REAL));
        for (int i = 0; i < convs; i++)
            for (int c = 0; c < channels; c++) mixed[n * channels + c] += weights[i] * outs[i][n * channels + c];
    }
}

/* Gradients of z, for each image of the kernels, and for each task of the mixes (tasks, convs, 2) and the scores' weight
   (B, count, C); `dscores` (B, count, N) is given too, for the scores' bias. */
void mixing_backward(const REAL *grad, const REAL *z, const REAL *const *kernels, const int *sizes, int convs,
                     const double *mixes, const REAL *score_weight, const REAL *const *outs, const REAL *alpha,
                     REAL *dz, REAL *const *dkernels, REAL *dmixes, REAL *dscore_weight, REAL *dscores,
                     SHAPE) {
    int blocks = blocks_of(channels), size = largest(sizes, convs);
    geometry g = make_geometry(height, width, size / 2);
    if (score_weight) {
        PARALLEL_TOKENS((integer)batch * height * width)
        for (integer n = 0; n < (integer)batch * height * width; n++) {
            integer N = (integer)height * width, b = n / N;
            REAL of_alpha[MAX_KERNELS], mean = 0;
            for (int i = 0; i < convs; i++) {
                of_alpha[i] = row_dot(grad + n * channels, outs[i] + n * channels, channels);
                mean += of_alpha[i] * alpha[(b * convs + i) * N + n % N];
            }
            for (int i = 0; i < convs; i++)
                dscores[(b * convs + i) * N + n % N] = alpha[(b * convs + i) * N + n % N] * (of_alpha[i] - mean);
        }
    }
    PARALLEL_TASKS(batch * blocks)
    for (int task = 0; task < batch * blocks; task++) {
        TASK(blocks);
        REAL *maps = MAPS(g, 4 + 2 * convs), *source = maps + map_size(g), *result = source + map_size(g);
        REAL *of_z = result + map_size(g), *out = of_z + map_size(g), *of_out = out + convs * map_size(g);
        REAL *taps = of_out + convs * map_size(g), *turned = taps + size * size * LANES;
        const REAL *weights = alpha ? alpha + (integer)b * convs * N : NULL, *of_scores = dscores + (integer)b * convs * N;
        load(z + start, channels, count, g, maps);
        load(grad + start, channels, count, g, of_z);
        for (int i = 0; i < convs && outs; i++) load(outs[i] + start, channels, count, g, out + i * map_size(g));
        lanes of_weight[MAX_KERNELS];
        for (int i = 0; i < convs; i++) of_weight[i] = all(0);
        EACH_POSITION(g) {
            integer n = (integer)y * width + x;
            lanes value = get(at(of_z, g, y, x)), through = all(0), total = all(0);
            if (score_weight) {
                for (int i = 0; i < convs; i++) total = add(total, get(at(out + i * map_size(g), g, y, x)));
                for (int i = 0; i < convs; i++) {
                    lanes score = all(of_scores[i * N + n]);
                    through = fma_(score, fetch(score_weight + (integer)i * channels + first, count), through);
                    of_weight[i] = fma_(score, total, of_weight[i]);
                }
            }
            for (int i = 0; i < convs; i++) {
                lanes factor = all(score_weight ? weights[i * N + n] : (REAL)1 / convs);
                put(at(of_out + i * map_size(g), g, y, x), fma_(value, factor, through));
            }
        }
        for (int i = convs - 1; i >= 0; i--) {
            mix m = {mixes[2 * i], mixes[2 * i + 1]};
            REAL *last = i ? out + (i - 1) * map_size(g) : maps, *of_last = i ? of_out + (i - 1) * map_size(g) : of_z;
            integer place = ((integer)b * channels + first) * sizes[i] * sizes[i];
            load_source(maps, last, m, g, source);
            load_taps(kernels[i] + place, count, sizes[i], taps);
            turn_taps(taps, sizes[i], turned);
            conv(of_out + i * map_size(g), turned, result, g, sizes[i]);
            clear_taps(sizes[i], taps);
            taps_gradient(source, of_out + i * map_size(g), taps, g, sizes[i]);
            store_taps(taps, count, sizes[i], dkernels[i] + place);
            lanes along_z = all(0), along_last = all(0);
            EACH_POSITION(g) {
                lanes value = get(at(result, g, y, x));
                along_z = fma_(value, get(at(maps, g, y, x)), along_z);
                along_last = fma_(value, get(at(last, g, y, x)), along_last);
                if (m.of_z) put(at(of_z, g, y, x), fma_(value, all(m.of_z), get(at(of_z, g, y, x))));
                if (m.of_last) put(at(of_last, g, y, x), fma_(value, all(m.of_last), get(at(of_last, g, y, x))));
            }
            dmixes[((integer)task * convs + i) * 2] = sum(along_z);
            dmixes[((integer)task * convs + i) * 2 + 1] = sum(along_last);
        }
        for (int i = 0; i < convs && score_weight; i++)
            store(dscore_weight + ((integer)b * convs + i) * channels + first, of_weight[i], count);
        EACH_POSITION(g) store(dz + start + ((integer)y * width + x) * channels, get(at(of_z, g, y, x)), count);
    }
}
