/* 3x3 convolutions of stride 1 and padding 1 by Winograd's algorithm F(2x2, 3x3), in bf16 with sums in fp32, for AVX512-BF16.
 *
 * Each 2x2 tile of the output comes from the 4x4 patch d below it and the filter g: A' [(G g G') * (B' d B)] A, with one product per
 * element of the patch, 16 in place of 36. Images are [images, height, width, channels]. A tile is computed alone, always in the same
 * order, so it depends neither on the batch nor on the number of threads. Compiled on the machine that runs it, for that machine.
 */
#ifdef __AVX512BF16__
#include "winograd.h"

enum { CHUNK = 48 }; /* tiles */

/* A convolution from `in` to `out` channels; of zero-padded borders nothing is stored. */
typedef struct {
    const bf16 *images, *filters; /* filters: what transform_filters wrote */
    bf16 *maps;
    int64_t count, height, width, in, out, following, failed; /* `following`: the first chunk that no thread has taken */
} Convolution;

/* G times a column of three: (a, (a + b + c) / 2, (a - b + c) / 2, c). */
INLINE void filtered(__m512 to[4], __m512 a, __m512 b, __m512 c) {
    __m512 half = _mm512_set1_ps(0.5f), ends = _mm512_mul_ps(half, _mm512_add_ps(a, c)), middle = _mm512_mul_ps(half, b);
    to[0] = a;
    to[1] = _mm512_add_ps(ends, middle);
    to[2] = _mm512_sub_ps(ends, middle);
    to[3] = c;
}

/* Transform filters whose element (tap, in, out) lies at tap * tap_stride + in * in_stride + out, the taps in reverse where `reversed`.
 * `to` is [16, out / BLOCK, in / 2, BLOCK, 2]: pairs of input channels lie together, as the processor multiplies them.
 */
void transform_filters(const float *filters, int64_t tap_stride, int64_t in_stride, int64_t in, int64_t out, int64_t reversed, bf16 *to) {
    for (int64_t o = 0; o < out; o += LANES)
        for (int64_t i = 0; i < in; i += 2) {
            __m512 elements[2][16];
            for (int odd = 0; odd < 2; odd++) {
                const float *from = filters + (i + odd) * in_stride + o;
                __m512 halves[4][3], column[4];
                for (int c = 0; c < 3; c++) {
                    __m512 taps[3];
                    for (int r = 0; r < 3; r++) taps[r] = _mm512_loadu_ps(from + (reversed ? 8 - 3 * r - c : 3 * r + c) * tap_stride);
                    filtered(column, taps[0], taps[1], taps[2]);
                    for (int r = 0; r < 4; r++) halves[r][c] = column[r];
                }
                for (int r = 0; r < 4; r++) filtered(elements[odd] + 4 * r, halves[r][0], halves[r][1], halves[r][2]);
            }
            for (int e = 0; e < 16; e++) {
                bf16 *at = to + (((e * out + o) / BLOCK * (in / 2) + i / 2) * BLOCK + o % BLOCK) * 2;
                _mm512_storeu_si512(at, paired(elements[0][e], elements[1][e]));
            }
        }
}

/* B' d B of `count` tiles from `first` on: patches [16, count, in]. */
static void transform_patches(const Convolution *job, int64_t first, int64_t count, const bf16 *zeros, bf16 *patches) {
    int64_t in = job->in, height = job->height, width = job->width, element = count * in;
    for (int64_t t = 0; t < count; t++) {
        Place at = place(first + t, job->height, job->width);
        const bf16 *from[4][4];
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++) {
                int64_t y = at.top + r - 1, x = at.left + c - 1;
                int inside = y >= 0 && y < height && x >= 0 && x < width;
                from[r][c] = inside ? job->images + ((at.image * height + y) * width + x) * in : zeros;
            }
        for (int64_t i = 0; i < in; i += LANES) {
            __m512 d[4][4];
            for (int c = 0; c < 4; c++) {
                __m512 p = widened(from[0][c] + i), q = widened(from[1][c] + i), r = widened(from[2][c] + i), s = widened(from[3][c] + i);
                d[0][c] = _mm512_sub_ps(p, r);
                d[1][c] = _mm512_add_ps(q, r);
                d[2][c] = _mm512_sub_ps(r, q);
                d[3][c] = _mm512_sub_ps(q, s);
            }
            for (int r = 0; r < 4; r++) {
                bf16 *to = patches + 4 * r * element + t * in + i;
                store(to, _mm512_sub_ps(d[r][0], d[r][2]));
                store(to + element, _mm512_add_ps(d[r][1], d[r][2]));
                store(to + 2 * element, _mm512_sub_ps(d[r][2], d[r][1]));
                store(to + 3 * element, _mm512_sub_ps(d[r][1], d[r][3]));
            }
        }
    }
}

/* Multiply `rows` patches by a block of filters, for one of the 16 elements: sums [rows, out], of which BLOCK columns are written. */
INLINE void multiply(const int rows, const bf16 *patches, int64_t in, const bf16 *filters, float *sums, int64_t out) {
    __m512 total[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++) total[r][c] = _mm512_setzero_ps();
    for (int64_t i = 0; i < in; i += 2, filters += 2 * BLOCK) {
        __m512bh columns[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) columns[c] = (__m512bh)_mm512_loadu_si512(filters + 2 * LANES * c);
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, patches + r * in + i, sizeof pair);
            for (int c = 0; c < COLUMNS; c++) total[r][c] = _mm512_dpbf16_ps(total[r][c], (__m512bh)_mm512_set1_epi32(pair), columns[c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++) _mm512_storeu_ps(sums + r * out + LANES * c, total[r][c]);
}

/* A' m A of the sums [16, count, out]: the outputs of `count` tiles from `first` on, less what leaves the map. */
static void write_tiles(const Convolution *job, int64_t first, int64_t count, const float *sums) {
    int64_t out = job->out, height = job->height, width = job->width, element = count * out;
    for (int64_t t = 0; t < count; t++) {
        Place at = place(first + t, job->height, job->width);
        bf16 *corner = job->maps + ((at.image * height + at.top) * width + at.left) * out;
        int below = at.top + 1 < height, right = at.left + 1 < width;
        for (int64_t o = 0; o < out; o += LANES) {
            __m512 m[2][4];
            for (int c = 0; c < 4; c++) {
                const float *from = sums + c * element + t * out + o;
                __m512 p = _mm512_loadu_ps(from), q = _mm512_loadu_ps(from + 4 * element);
                __m512 r = _mm512_loadu_ps(from + 8 * element), s = _mm512_loadu_ps(from + 12 * element);
                m[0][c] = _mm512_add_ps(_mm512_add_ps(p, q), r);
                m[1][c] = _mm512_sub_ps(_mm512_sub_ps(q, r), s);
            }
            for (int r = 0; r <= below; r++) {
                bf16 *to = corner + r * width * out + o;
                store(to, _mm512_add_ps(_mm512_add_ps(m[r][0], m[r][1]), m[r][2]));
                if (right) store(to + out, _mm512_sub_ps(_mm512_sub_ps(m[r][1], m[r][2]), m[r][3]));
            }
        }
    }
}

/* Compute chunks of tiles until there are none, in as many threads as call it; `failed` where memory is short. */
void convolve(Convolution *job) {
    int64_t in = job->in, out = job->out, tiles = tiles_of(job->count, job->height, job->width);
    bf16 *patches = aligned_alloc(64, 16 * CHUNK * (size_t)in * sizeof(bf16)), *zeros = calloc((size_t)in, sizeof(bf16));
    float *sums = aligned_alloc(64, 16 * CHUNK * (size_t)out * sizeof(float));
    int able = patches && zeros && sums;
    if (!able) __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    for (int64_t first; able && (first = CHUNK * __atomic_fetch_add(&job->following, 1, __ATOMIC_RELAXED)) < tiles;) {
        int64_t count = tiles - first < CHUNK ? tiles - first : CHUNK;
        transform_patches(job, first, count, zeros, patches);
        for (int64_t e = 0; e < 16; e++)
            for (int64_t o = 0; o < out; o += BLOCK) {
                const bf16 *filters = job->filters + (e * out + o) * in, *rows = patches + e * count * in;
                float *to = sums + e * count * out + o;
                int64_t t = 0;
                for (; t + ROWS <= count; t += ROWS) multiply(ROWS, rows + t * in, in, filters, to + t * out, out);
                for (; t < count; t++) multiply(1, rows + t * in, in, filters, to + t * out, out);
            }
        write_tiles(job, first, count, sums);
    }
    free(patches);
    free(zeros);
    free(sums);
}
#endif
