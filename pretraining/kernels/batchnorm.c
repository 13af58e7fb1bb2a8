/* Batch normalisation of a training step with what follows it, an addition and a ReLU, in bf16 with sums in fp32, for AVX512-BF16.
 *
 * Maps are [rows, channels], a row per pixel. Rows are cut into chunks that stay in a core's cache; a chunk's sums are its own, always
 * added in the same order, so that nothing depends on the number of threads. Compiled on the machine that runs it, for that machine.
 */
#ifdef __AVX512BF16__
#include "vectors.h"

enum { ROWS = 4 }; /* that are summed at once, so that sums are read and written less often */

/* `added` and `of_added` may be null: then nothing is added. `alive`: a bit for each output, whether the ReLU let it pass. */
typedef struct {
    const bf16 *inputs, *added, *gradients;
    bf16 *outputs, *of_inputs, *of_added;
    __mmask16 *alive;
    const float *scale, *shift, *mean, *slope, *offset;
    float *sums, *products; /* [chunks, channels] */
    int64_t rows, channels, chunks, following, failed; /* `following`: the first chunk that no thread has taken */
} Normalisation;

INLINE int next(Normalisation *job, int64_t *first, int64_t *last, int64_t *chunk) {
    *chunk = __atomic_fetch_add(&job->following, 1, __ATOMIC_RELAXED);
    *first = job->rows * *chunk / job->chunks, *last = job->rows * (*chunk + 1) / job->chunks;
    return *chunk < job->chunks;
}

/* Call `kernel` for ROWS rows of a chunk at once, and for those that are left over. */
#define BY_ROWS(kernel)                                                                          \
    do {                                                                                         \
        int64_t r = first;                                                                       \
        for (; r + ROWS <= last; r += ROWS) kernel(job, chunk, r, ROWS);                         \
        for (; r < last; r++) kernel(job, chunk, r, 1);                                          \
    } while (0)

INLINE void add_to(float *sum, __m512 value) { _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), value)); }

INLINE void clear(float *sums, int64_t count) {
    for (int64_t c = 0; c < count; c++) sums[c] = 0.0f;
}

INLINE void add_values(const Normalisation *job, int64_t chunk, int64_t r, int rows) {
    float *sums = job->sums + chunk * job->channels;
    for (int64_t c = 0; c < job->channels; c += LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (int n = 0; n < rows; n++) sum = _mm512_add_ps(sum, widened(job->inputs + (r + n) * job->channels + c));
        add_to(sums + c, sum);
    }
}

INLINE void add_spread(const Normalisation *job, int64_t chunk, int64_t r, int rows) {
    const float *means = job->sums + chunk * job->channels;
    float *products = job->products + chunk * job->channels;
    for (int64_t c = 0; c < job->channels; c += LANES) {
        __m512 mean = _mm512_loadu_ps(means + c), sum = _mm512_setzero_ps();
        for (int n = 0; n < rows; n++) {
            __m512 apart = _mm512_sub_ps(widened(job->inputs + (r + n) * job->channels + c), mean);
            sum = _mm512_fmadd_ps(apart, apart, sum);
        }
        add_to(products + c, sum);
    }
}

/* The mean of each chunk's values as its sum, and the sum of their squared distances from it. */
void measure(Normalisation *job) {
    int64_t first, last, chunk, channels = job->channels;
    while (next(job, &first, &last, &chunk)) {
        float *sums = job->sums + chunk * channels;
        clear(sums, channels), clear(job->products + chunk * channels, channels);
        BY_ROWS(add_values);
        for (int64_t c = 0; c < channels; c++) sums[c] /= (float)(last - first);
        BY_ROWS(add_spread);
    }
}

/* max(inputs * scale + shift + added, 0). */
void normalise(Normalisation *job) {
    int64_t first, last, chunk, channels = job->channels;
    while (next(job, &first, &last, &chunk))
        for (int64_t r = first; r < last; r++)
            for (int64_t c = 0; c < channels; c += LANES) {
                int64_t at = r * channels + c;
                __m512 value = _mm512_fmadd_ps(widened(job->inputs + at), _mm512_loadu_ps(job->scale + c), _mm512_loadu_ps(job->shift + c));
                if (job->added) value = _mm512_add_ps(value, widened(job->added + at));
                job->alive[at / LANES] = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NLE_UQ); /* NaN passes, too */
                store(job->outputs + at, _mm512_max_ps(_mm512_setzero_ps(), value));
            }
}

/* The gradient behind the ReLU. */
INLINE __m512 passed(const Normalisation *job, int64_t at) {
    return _mm512_maskz_mov_ps(job->alive[at / LANES], widened(job->gradients + at));
}

INLINE void add_gradients(const Normalisation *job, int64_t chunk, int64_t r, int rows) {
    float *sums = job->sums + chunk * job->channels, *products = job->products + chunk * job->channels;
    for (int64_t c = 0; c < job->channels; c += LANES) {
        __m512 sum = _mm512_setzero_ps(), product = _mm512_setzero_ps(), mean = _mm512_loadu_ps(job->mean + c);
        for (int n = 0; n < rows; n++) {
            int64_t at = (r + n) * job->channels + c;
            __m512 gradient = passed(job, at);
            sum = _mm512_add_ps(sum, gradient);
            product = _mm512_fmadd_ps(gradient, _mm512_sub_ps(widened(job->inputs + at), mean), product);
        }
        add_to(sums + c, sum), add_to(products + c, product);
    }
}

/* Sums of each chunk's gradients, and of their products with the inputs' distances from the mean. */
void sum_gradients(Normalisation *job) {
    int64_t first, last, chunk, channels = job->channels;
    while (next(job, &first, &last, &chunk)) {
        clear(job->sums + chunk * channels, channels), clear(job->products + chunk * channels, channels);
        BY_ROWS(add_gradients);
    }
}

/* gradient * scale + input * slope + offset. */
void propagate(Normalisation *job) {
    int64_t first, last, chunk, channels = job->channels;
    while (next(job, &first, &last, &chunk))
        for (int64_t r = first; r < last; r++)
            for (int64_t c = 0; c < channels; c += LANES) {
                int64_t at = r * channels + c;
                __m512 input = widened(job->inputs + at), gradient = passed(job, at);
                __m512 rest = _mm512_fmadd_ps(input, _mm512_loadu_ps(job->slope + c), _mm512_loadu_ps(job->offset + c));
                if (job->of_added) store(job->of_added + at, gradient);
                store(job->of_inputs + at, _mm512_fmadd_ps(gradient, _mm512_loadu_ps(job->scale + c), rest));
            }
}
#endif
