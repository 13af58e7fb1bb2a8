/* Random views of uint8 images on a CPU: the arithmetic of bands.py, geometry.py and colour.py, view by view, each in a core's own cache.
 *
 * Planes are row-major floats in [0, 1]. Every view is computed alone, so it depends neither on the batch nor on the number of threads.
 * Compiled on the machine that runs it, for that machine; without a compiler the tensor operations of those files are used.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 8, LANES = 16, WIDE = 2 * LANES, BRIGHTNESS = 0, CONTRAST, SATURATION, HUE };
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float tile __attribute__((vector_size(4 * TILE), aligned(4)));
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t places __attribute__((vector_size(4 * TILE)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (places){__VA_ARGS__})
#endif
static const float LUMA[3] = {0.2989f, 0.587f, 0.114f};

/* What all rows share. `out` is [rows, channels, size, size], or [rows, size, size, channels] when `channels_last`. */
typedef struct {
    const uint8_t *images; /* [batch, channels, height, width] */
    int64_t batch, channels, height, width;
    int64_t rows, size, bicubic, taps;
    const int64_t *boxes, *order; /* [rows, 4] */
    const float *factors, *sigma; /* [rows, 4], [rows] */
    const uint8_t *flip, *greyscale, *blur, *solarise;
    const float *mean, *std; /* [channels] */
    void *out;
    int64_t bfloat16, channels_last, following, failed; /* `following`: the first row that no thread has taken */
} Batch;

/* Where each output of an axis reads (`count` places from `first`), and with which weights [size, reach]. */
typedef struct {
    int64_t *first, *count;
    float *weights;
    int64_t reach;
} Axis;

static inline float least(float a, float b) { return a < b ? a : b; }
static inline float most(float a, float b) { return a > b ? a : b; }
static inline float unit(float value) { return least(most(value, 0.0f), 1.0f); }

static float kernel(float distance, int64_t bicubic) {
    float d = fabsf(distance);
    if (!bicubic) return most(1.0f - d, 0.0f);
    if (d < 1.0f) return (1.5f * d - 2.5f) * d * d + 1.0f;
    return d < 2.0f ? -0.5f * (d - 2.0f) * (d - 2.0f) * (d - 1.0f) : 0.0f;
}

/* Antialiased resampling of `length` pixels to `size` outputs, reversed where `flip`, the values multiplied by `scale`. */
static void resampling(Axis *axis, int64_t length, int64_t size, int64_t bicubic, int flip, float scale) {
    float ratio = (float)length / (float)size, width = most(ratio, 1.0f), support = (bicubic ? 2.0f : 1.0f) * width;
    for (int64_t i = 0; i < size; i++) {
        float centre = ((float)(flip ? size - 1 - i : i) + 0.5f) * ratio, sum = 0.0f;
        int64_t start = (int64_t)floorf(centre - support + 0.5f), stop = (int64_t)floorf(centre + support + 0.5f);
        if (start < 0) start = 0;
        if (stop > length) stop = length;
        float *weights = axis->weights + i * axis->reach;
        for (int64_t k = start; k < stop; k++) sum += weights[k - start] = kernel(((float)k + 0.5f - centre) / width, bicubic);
        for (int64_t k = start; k < stop; k++) weights[k - start] *= scale / sum;
        for (int64_t k = stop - start; k < axis->reach; k++) weights[k] = 0.0f;
        axis->first[i] = start, axis->count[i] = stop - start;
    }
}

/* Weighted sum of rows of bytes: to[x] = sum over k of weights[k] * from[k * stride + x]; four rows in each pass over `to`. */
static void sum_rows(float *restrict to, const uint8_t *restrict from, int64_t stride, const float *weights, int64_t count, int64_t width) {
    for (int64_t k = 0; k < count; k += 4) {
        const float *part = weights + k; /* those beyond the last are zero */
        const uint8_t *row[4];
        for (int64_t i = 0; i < 4; i++) row[i] = from + (k + i < count ? k + i : 0) * stride;
        if (k == 0)
            for (int64_t x = 0; x < width; x++)
                to[x] = part[0] * (float)row[0][x] + part[1] * (float)row[1][x] + part[2] * (float)row[2][x] + part[3] * (float)row[3][x];
        else
            for (int64_t x = 0; x < width; x++)
                to[x] += part[0] * (float)row[0][x] + part[1] * (float)row[1][x] + part[2] * (float)row[2][x] + part[3] * (float)row[3][x];
    }
}

static inline void transpose(tile *v) {
    tile t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = SHUFFLE(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = SHUFFLE(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = SHUFFLE(t[i + j], t[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            v[i + 2 * j + 1] = SHUFFLE(t[i + j], t[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        tile low = v[i], high = v[i + 4];
        v[i] = SHUFFLE(low, high, 0, 1, 2, 3, 8, 9, 10, 11), v[i + 4] = SHUFFLE(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* Crop and resize one channel, TILE rows of the result at a time: their rows are summed, turned, summed along the columns, and turned back. */
static void resize(float *to, const uint8_t *from, int64_t stride, const Axis *vertical, const Axis *horizontal, int64_t width, int64_t size,
                   float *scratch) {
    int64_t line = (width + TILE - 1) / TILE * TILE;
    float *lines = scratch, *turned = scratch + TILE * line;
    for (int64_t top = 0; top < size; top += TILE) {
        int64_t count = size - top < TILE ? size - top : TILE;
        for (int64_t j = 0; j < count; j++) {
            const float *weights = vertical->weights + (top + j) * vertical->reach;
            sum_rows(lines + j * line, from + vertical->first[top + j] * stride, stride, weights, vertical->count[top + j], width);
        }
        for (int64_t x = 0; x < line; x += TILE) {
            tile block[TILE];
            for (int64_t j = 0; j < TILE; j++) block[j] = *(const tile *)(lines + j * line + x);
            transpose(block);
            memcpy(turned + x * TILE, block, sizeof(block));
        }
        for (int64_t x = 0; x < size; x += TILE) {
            tile block[TILE];
            int64_t columns = size - x < TILE ? size - x : TILE;
            for (int64_t i = 0; i < TILE; i++) {
                tile sum = {0};
                int64_t at = i < columns ? x + i : x;
                const float *weights = horizontal->weights + at * horizontal->reach, *place = turned + horizontal->first[at] * TILE;
                for (int64_t k = 0; k < horizontal->count[at]; k += 4) { /* weights beyond the last are zero */
                    const tile *at_k = (const tile *)(place + k * TILE);
                    sum += (weights[k] * at_k[0] + weights[k + 1] * at_k[1]) + (weights[k + 2] * at_k[2] + weights[k + 3] * at_k[3]);
                }
                block[i] = sum;
            }
            transpose(block);
            for (int64_t j = 0; j < count; j++) {
                float *place = to + (top + j) * size + x;
                if (columns == TILE) *(tile *)place = block[j];
                else memcpy(place, &block[j], columns * sizeof(float));
            }
        }
        for (int64_t i = top * size; i < (top + count) * size; i++) to[i] = unit(to[i]);
    }
}

static double mean_luminance(const float *view, int64_t channels, int64_t pixels) {
    double mean = 0.0;
    for (int64_t c = 0; c < channels; c++) {
        double weight = channels == 3 ? LUMA[c] : 1.0;
        for (int64_t start = 0; start < pixels; start += 1024) {
            float part = 0.0f;
            int64_t stop = start + 1024 < pixels ? start + 1024 : pixels;
            for (int64_t i = start; i < stop; i++) part += view[c * pixels + i];
            mean += weight * part;
        }
    }
    return mean / (double)pixels;
}

static void scale_from(float *view, int64_t count, float factor, float reference) {
    for (int64_t i = 0; i < count; i++) view[i] = unit(view[i] * factor + reference);
}

static void saturate(float *restrict red, float *restrict green, float *restrict blue, int64_t pixels, float factor) {
    for (int64_t i = 0; i < pixels; i++) {
        float grey = (LUMA[0] * red[i] + LUMA[1] * green[i] + LUMA[2] * blue[i]) * (1.0f - factor);
        red[i] = unit(red[i] * factor + grey);
        green[i] = unit(green[i] * factor + grey);
        blue[i] = unit(blue[i] * factor + grey);
    }
}

/* As colour.adjust_hue, which explains the formulas. */
static void turn_hue(float *restrict red, float *restrict green, float *restrict blue, int64_t pixels, float shift) {
    for (int64_t i = 0; i < pixels; i++) {
        float r = red[i], g = green[i], b = blue[i];
        float value = most(most(r, g), b), low = least(least(r, g), b), chroma = value - low;
        float hue = copysignf((g + b - r - low) / most(chroma, 1e-20f) + 1.0f, g - b) + 6.0f * shift;
        hue -= 6.0f * rintf(hue * (1.0f / 6.0f));
        red[i] = value - chroma * unit(fabsf(hue) - 1.0f);
        green[i] = value - chroma * unit(2.0f - fabsf(hue + 1.0f));
        blue[i] = value - chroma * unit(2.0f - fabsf(hue - 1.0f));
    }
}

static void jitter(float *view, int64_t channels, int64_t pixels, const float *factors, const int64_t *order) {
    for (int64_t turn = 0; turn < 4; turn++) {
        int64_t kind = order[turn];
        float factor = factors[kind];
        if (factor == (kind == HUE ? 0.0f : 1.0f)) continue;
        if (kind == BRIGHTNESS) scale_from(view, channels * pixels, factor, 0.0f);
        if (kind == CONTRAST) scale_from(view, channels * pixels, factor, (1.0f - factor) * (float)mean_luminance(view, channels, pixels));
        if (kind == SATURATION && channels == 3) saturate(view, view + pixels, view + 2 * pixels, pixels, factor);
        if (kind == HUE && channels == 3) turn_hue(view, view + pixels, view + 2 * pixels, pixels, factor);
    }
}

static int64_t mirrored(int64_t place, int64_t size) {
    return place < 0 ? -place : place < size ? place : 2 * size - 2 - place;
}

/* WIDE neighbouring sums of a symmetric kernel: at `k` places before and behind, `rows[half - k]` and `rows[half + k]` hold the operands. */
static inline void symmetric(float *to, const float *const *rows, int64_t half, const float *taps) {
    const vector *middle = (const vector *)rows[half];
    vector a = taps[0] * middle[0], b = taps[0] * middle[1];
    for (int64_t k = 1; k <= half; k++) {
        const vector *before = (const vector *)rows[half - k], *behind = (const vector *)rows[half + k];
        a += taps[k] * (before[0] + behind[0]);
        b += taps[k] * (before[1] + behind[1]);
    }
    ((vector *)to)[0] = a, ((vector *)to)[1] = b;
}

/* Blur one plane, edges reflected: along each row into `lines` [size, size + WIDE], then along the columns. `padded` holds size + 2 * half + WIDE. */
static void gaussian(float *plane, int64_t size, int64_t half, const float *taps, const float **rows, float *lines, float *padded) {
    int64_t stride = size + WIDE;
    for (int64_t y = 0; y < size; y++) {
        const float *line = plane + y * size;
        memcpy(padded + half, line, size * sizeof(float));
        for (int64_t x = 0; x < half; x++) padded[x] = line[mirrored(x - half, size)], padded[size + half + x] = line[mirrored(size + x, size)];
        for (int64_t x = 0; x < size; x += WIDE) {
            for (int64_t k = 0; k <= 2 * half; k++) rows[k] = padded + x + k;
            symmetric(lines + y * stride + x, rows, half, taps);
        }
    }
    for (int64_t y = 0; y < size; y++)
        for (int64_t x = 0; x < size; x += WIDE) {
            float block[WIDE];
            for (int64_t k = -half; k <= half; k++) rows[k + half] = lines + mirrored(y + k, size) * stride + x;
            symmetric(block, rows, half, taps);
            memcpy(plane + y * size + x, block, (size - x < WIDE ? size - x : WIDE) * sizeof(float));
        }
}

static void blur(float *view, const Batch *batch, float sigma, const float **rows, float *taps, float *lines, float *padded) {
    int64_t half = batch->taps / 2, reach = (int64_t)ceilf(6.0f * sigma);
    if (reach < half) half = reach; /* beyond six deviations a Gaussian is below 2e-8 of its height */
    float sum = 0.0f;
    for (int64_t k = 0; k <= half; k++) sum += (k ? 2.0f : 1.0f) * (taps[k] = expf(-0.5f * ((float)k / sigma) * ((float)k / sigma)));
    for (int64_t k = 0; k <= half; k++) taps[k] /= sum;
    for (int64_t c = 0; c < batch->channels; c++) gaussian(view + c * batch->size * batch->size, batch->size, half, taps, rows, lines, padded);
}

static uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

static void write(const Batch *batch, int64_t row, const float *view) {
    int64_t pixels = batch->size * batch->size, channels = batch->channels, offset = row * channels * pixels;
    for (int64_t c = 0; c < channels; c++) {
        const float *plane = view + c * pixels;
        float mean = batch->mean[c], scale = 1.0f / batch->std[c];
        int64_t start = offset + (batch->channels_last ? c : c * pixels), step = batch->channels_last ? channels : 1;
        if (batch->bfloat16) {
            uint16_t *out = (uint16_t *)batch->out + start;
            for (int64_t i = 0; i < pixels; i++) out[i * step] = to_bfloat16((plane[i] - mean) * scale);
        } else {
            float *out = (float *)batch->out + start;
            for (int64_t i = 0; i < pixels; i++) out[i * step] = (plane[i] - mean) * scale;
        }
    }
}

static void *take(char **place, int64_t count, int64_t bytes) {
    void *taken = *place;
    *place += (count * bytes + 63) / 64 * 64;
    return taken;
}

/* Compute rows until there are none, in as many threads as call it; `failed` where memory is short. */
void compute_views(Batch *batch) {
    int64_t channels = batch->channels, size = batch->size, pixels = size * size, half = batch->taps / 2, width = batch->width;
    int64_t extent = batch->height > width ? batch->height : width;
    int64_t reach = (2 * (int64_t)ceilf(2.0f * most((float)extent / (float)size, 1.0f)) + 5) / 4 * 4;
    int64_t floats = channels * pixels + 2 * size * reach + TILE * (2 * width + 3 * TILE) + size * (size + WIDE) + size + 3 * half + WIDE + 1;
    char *memory = calloc(1, 4 * floats + 8 * (4 * size + 2 * half + 1) + 16 * 64), *place = memory;
    if (!memory) __atomic_store_n(&batch->failed, 1, __ATOMIC_RELAXED);
    if (!memory) return;
    float *view = take(&place, channels * pixels, 4), *scratch = take(&place, TILE * (2 * width + 3 * TILE), 4);
    float *lines = take(&place, size * (size + WIDE), 4), *padded = take(&place, size + 2 * half + WIDE, 4), *taps = take(&place, half + 1, 4);
    const float **operands = take(&place, 2 * half + 1, 8);
    Axis axes[2];
    for (int axis = 0; axis < 2; axis++)
        axes[axis] = (Axis){take(&place, size, 8), take(&place, size, 8), take(&place, size * reach, 4), reach};
    for (int64_t row; (row = __atomic_fetch_add(&batch->following, 1, __ATOMIC_RELAXED)) < batch->rows;) {
        const int64_t *box = batch->boxes + 4 * row;
        const uint8_t *image = batch->images + row % batch->batch * channels * batch->height * width + box[0] * width + box[1];
        resampling(&axes[0], box[2], size, batch->bicubic, 0, 1.0f / 255.0f);
        resampling(&axes[1], box[3], size, batch->bicubic, batch->flip[row], 1.0f);
        for (int64_t c = 0; c < channels; c++) {
            const uint8_t *plane = image + c * batch->height * width;
            resize(view + c * pixels, plane, width, &axes[0], &axes[1], box[3], size, scratch);
        }
        jitter(view, channels, pixels, batch->factors + 4 * row, batch->order + 4 * row);
        if (batch->greyscale[row] && channels == 3) saturate(view, view + pixels, view + 2 * pixels, pixels, 0.0f);
        if (batch->blur[row]) blur(view, batch, batch->sigma[row], operands, taps, lines, padded);
        if (batch->solarise[row])
            for (int64_t i = 0; i < channels * pixels; i++) view[i] = view[i] >= 0.5f ? 1.0f - view[i] : view[i];
        write(batch, row, view);
    }
    free(memory);
}
