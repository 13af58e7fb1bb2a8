/* Gradients of the filters of winograd.c's convolutions, by the same algorithm: 16 products per tile in place of 36. */
#ifdef __AVX512BF16__
#include "winograd.h"

/* The gradient of the filters of a convolution from `in` to `out` channels: G' [(A y A') * (B' d B)] G, summed over tiles, with y the
 * gradient of a tile. Each of `groups` parts of the tiles has `sums` of its own [groups, 4, 4, out, in], which begin as zeros.
 */
typedef struct {
    const bf16 *images, *gradients;
    float *sums, *filters; /* filters: [3, 3, out, in] */
    int64_t count, height, width, in, out, groups, columns, following, failed; /* `columns`: input channels of one task */
} FilterGradient;

enum { TILES = 192 }; /* of a chunk; even */

/* One row of B', as a + sign * b of two rows of the patch; and one row of A. */
static const struct {
    int64_t a, b;
    float sign, upper, lower;
} ELEMENT_ROWS[4] = {{0, 2, -1.0f, 1.0f, 0.0f}, {1, 2, 1.0f, 1.0f, 1.0f}, {2, 1, -1.0f, 1.0f, -1.0f}, {1, 3, -1.0f, 0.0f, -1.0f}};

/* A pixel of a map [count, height, width, channels], or zeros beyond it and for tiles that are not there. */
INLINE const bf16 *pixel(const bf16 *map, int64_t height, int64_t width, int64_t channels, Place at, const bf16 *zeros) {
    int inside = at.image >= 0 && at.top >= 0 && at.top < height && at.left >= 0 && at.left < width;
    return inside ? map + ((at.image * height + at.top) * width + at.left) * channels : zeros;
}

/* Row `row` of the elements of the tiles from `first` to `last`, two tiles side by side: of the images, from channel `column` on, patches
 * [4, columns / BLOCK, pairs, BLOCK, 2]; of the gradients slopes [4, out / LANES, pairs, LANES, 2].
 */
static void transform_pairs(
    const FilterGradient *job, int64_t row, int64_t first, int64_t last, int64_t column, const bf16 *zeros, bf16 *patches, bf16 *slopes
) {
    int64_t in = job->columns, out = job->out, height = job->height, width = job->width, pairs = (last - first + 1) / 2;
    int64_t above = ELEMENT_ROWS[row].a - 1, below = ELEMENT_ROWS[row].b - 1;
    __m512 sign = _mm512_set1_ps(ELEMENT_ROWS[row].sign), upper = _mm512_set1_ps(ELEMENT_ROWS[row].upper);
    __m512 lower = _mm512_set1_ps(ELEMENT_ROWS[row].lower);
    for (int64_t p = 0; p < pairs; p++) {
        const bf16 *a[2][4], *b[2][4], *y[2][2][2];
        for (int64_t t = 0; t < 2; t++) {
            int64_t tile = first + 2 * p + t;
            Place at = tile < last ? place(tile, height, width) : (Place){-1, 0, 0};
            for (int64_t c = 0; c < 4; c++) {
                Place upper = {at.image, at.top + above, at.left + c - 1}, lower = {at.image, at.top + below, at.left + c - 1};
                Place output = {at.image, at.top + c / 2, at.left + c % 2};
                a[t][c] = pixel(job->images, height, width, job->in, upper, zeros) + column;
                b[t][c] = pixel(job->images, height, width, job->in, lower, zeros) + column;
                y[t][c / 2][c % 2] = pixel(job->gradients, height, width, out, output, zeros);
            }
        }
        for (int64_t i = 0; i < in; i += LANES) {
            __m512 e[2][4];
            for (int t = 0; t < 2; t++) {
                __m512 d[4];
                for (int c = 0; c < 4; c++) d[c] = _mm512_fmadd_ps(sign, widened(b[t][c] + i), widened(a[t][c] + i));
                e[t][0] = _mm512_sub_ps(d[0], d[2]);
                e[t][1] = _mm512_add_ps(d[1], d[2]);
                e[t][2] = _mm512_sub_ps(d[2], d[1]);
                e[t][3] = _mm512_sub_ps(d[1], d[3]);
            }
            for (int c = 0; c < 4; c++) {
                bf16 *to = patches + (((c * in + i) / BLOCK * pairs + p) * BLOCK + i % BLOCK) * 2;
                _mm512_storeu_si512(to, paired(e[0][c], e[1][c]));
            }
        }
        for (int64_t o = 0; o < out; o += LANES) {
            __m512 e[2][4];
            for (int t = 0; t < 2; t++) {
                __m512 z[2];
                for (int c = 0; c < 2; c++)
                    z[c] = _mm512_fmadd_ps(lower, widened(y[t][1][c] + o), _mm512_mul_ps(upper, widened(y[t][0][c] + o)));
                e[t][0] = z[0];
                e[t][1] = _mm512_add_ps(z[0], z[1]);
                e[t][2] = _mm512_sub_ps(z[0], z[1]);
                e[t][3] = _mm512_sub_ps(_mm512_setzero_ps(), z[1]);
            }
            for (int c = 0; c < 4; c++) {
                bf16 *to = slopes + ((c * out + o) / LANES * pairs + p) * LANES * 2;
                _mm512_storeu_si512(to, paired(e[0][c], e[1][c]));
            }
        }
    }
}

/* Add the products of all pairs of tiles to `rows` output channels and a block of input channels of sums [out, in]. */
INLINE void accumulate(const int rows, const bf16 *slopes, const bf16 *patches, int64_t pairs, float *sums, int64_t in) {
    __m512 total[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++) total[r][c] = _mm512_loadu_ps(sums + r * in + LANES * c);
    for (int64_t p = 0; p < pairs; p++, slopes += 2 * LANES, patches += 2 * BLOCK) {
        __m512bh block[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) block[c] = (__m512bh)_mm512_loadu_si512(patches + 2 * LANES * c);
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, slopes + 2 * r, sizeof pair);
            for (int c = 0; c < COLUMNS; c++) total[r][c] = _mm512_dpbf16_ps(total[r][c], (__m512bh)_mm512_set1_epi32(pair), block[c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++) _mm512_storeu_ps(sums + r * in + LANES * c, total[r][c]);
}

/* Sum tasks, each a row of elements of a group of tiles for some input channels, until there are none, in as many threads as call it. */
void sum_products(FilterGradient *job) {
    int64_t in = job->in, out = job->out, columns = job->columns, parts = in / columns;
    int64_t tiles = tiles_of(job->count, job->height, job->width);
    bf16 *patches = aligned_alloc(64, 4 * TILES * (size_t)columns * sizeof(bf16)), *zeros = calloc((size_t)(in + out), sizeof(bf16));
    bf16 *slopes = aligned_alloc(64, 4 * TILES * (size_t)out * sizeof(bf16));
    int able = patches && zeros && slopes;
    if (!able) __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    for (int64_t task; able && (task = __atomic_fetch_add(&job->following, 1, __ATOMIC_RELAXED)) < 4 * parts * job->groups;) {
        int64_t row = task % 4, column = task / 4 % parts * columns, group = task / 4 / parts, end = tiles * (group + 1) / job->groups;
        for (int64_t first = tiles * group / job->groups; first < end; first += TILES) {
            int64_t last = first + TILES < end ? first + TILES : end, pairs = (last - first + 1) / 2;
            transform_pairs(job, row, first, last, column, zeros, patches, slopes);
            for (int64_t c = 0; c < 4; c++)
                for (int64_t i = 0; i < columns; i += BLOCK) {
                    const bf16 *block = patches + (c * columns + i) * pairs * 2;
                    for (int64_t o = 0; o < out; o += LANES) {
                        const bf16 *left = slopes + (c * out + o) * pairs * 2;
                        float *to = job->sums + (((group * 4 + row) * 4 + c) * out + o) * in + column + i;
                        accumulate(6, left, block, pairs, to, in);
                        accumulate(6, left + 12, block, pairs, to + 6 * in, in);
                        accumulate(4, left + 24, block, pairs, to + 12 * in, in);
                    }
                }
        }
    }
    free(patches);
    free(zeros);
    free(slopes);
}

/* G' S G of the sums S of all groups. */
void transform_sums(FilterGradient *job) {
    int64_t size = job->out * job->in;
    for (int64_t at; (at = BLOCK * __atomic_fetch_add(&job->following, 1, __ATOMIC_RELAXED)) < size;)
        for (int64_t lane = at; lane < at + BLOCK; lane += LANES) {
            __m512 half = _mm512_set1_ps(0.5f), rows[3][4];
            for (int c = 0; c < 4; c++) {
                __m512 s[4];
                for (int r = 0; r < 4; r++) {
                    s[r] = _mm512_setzero_ps();
                    for (int64_t g = 0; g < job->groups; g++) {
                        const float *from = job->sums + (g * 16 + 4 * r + c) * size + lane;
                        s[r] = _mm512_add_ps(s[r], _mm512_loadu_ps(from));
                    }
                }
                __m512 even = _mm512_mul_ps(half, _mm512_add_ps(s[1], s[2]));
                rows[0][c] = _mm512_add_ps(s[0], even);
                rows[1][c] = _mm512_mul_ps(half, _mm512_sub_ps(s[1], s[2]));
                rows[2][c] = _mm512_add_ps(even, s[3]);
            }
            for (int r = 0; r < 3; r++) {
                __m512 even = _mm512_mul_ps(half, _mm512_add_ps(rows[r][1], rows[r][2]));
                float *to = job->filters + 3 * r * size + lane;
                _mm512_storeu_ps(to, _mm512_add_ps(rows[r][0], even));
                _mm512_storeu_ps(to + size, _mm512_mul_ps(half, _mm512_sub_ps(rows[r][1], rows[r][2])));
                _mm512_storeu_ps(to + 2 * size, _mm512_add_ps(even, rows[r][3]));
            }
        }
}
#endif
