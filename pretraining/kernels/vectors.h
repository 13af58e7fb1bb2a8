/* Numbers in bf16 in the processor's vectors of single precision; everything is for AVX512-BF16. */
#pragma once
#include <immintrin.h>
#include <stdint.h>

enum { LANES = 16 };
typedef uint16_t bf16;

#define INLINE static inline __attribute__((always_inline))

INLINE __m512 widened(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16));
}

INLINE __m256i narrowed(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

INLINE void store(bf16 *to, __m512 values) { _mm256_storeu_si256((void *)to, narrowed(values)); }
