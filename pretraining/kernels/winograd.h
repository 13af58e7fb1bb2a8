/* What both directions of winograd.c and winograd_gradient.c share; everything is for AVX512-BF16. */
#include <stdlib.h>
#include <string.h>
#include "vectors.h"

enum { BLOCK = 64, COLUMNS = BLOCK / LANES, ROWS = 6 };

/* Two rows of channels, element by element side by side, as the processor multiplies them. */
INLINE __m512i paired(__m512 even, __m512 odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(narrowed(even)), _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrowed(odd)), 16));
}

INLINE int64_t tiles_of(int64_t count, int64_t height, int64_t width) { return count * ((height + 1) / 2) * ((width + 1) / 2); }

typedef struct {
    int64_t image, top, left;
} Place;

/* Where the outputs of a tile begin. */
INLINE Place place(int64_t tile, int64_t height, int64_t width) {
    int64_t down = (height + 1) / 2, across = (width + 1) / 2;
    return (Place){tile / (down * across), 2 * (tile / across % down), 2 * (tile % across)};
}
