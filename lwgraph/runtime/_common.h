/* Types shared by all kernels, independent of the instruction set. */
#ifndef LWGRAPH_COMMON_H
#define LWGRAPH_COMMON_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__
#define HAVE_VECTORS 1
#else
#define INLINE static inline
#define RESTRICT
#define HAVE_VECTORS 0
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum { MAX_PANEL = 64 };   /* columns of the widest packed panel of any instruction set */
enum { NO_MEMORY = -1, DONE = 0 };

/* A window sliding over a three-dimensional image (images of fewer dimensions have leading ones).
   Every field is below 2^31 in magnitude, so a product of two fits in int64. */
typedef struct {
    int64_t in[3], out[3], kernel[3];       /* depth, height, width */
    int64_t stride[3], dilation[3], pad[3]; /* pad: before the first element; negative crops */
} Window;

/* The right-hand matrix of a product: stored, or the patches of an image, whose row is (channel, kernel position) and
   whose column is an output position. */
typedef struct {
    const Window *window;     /* NULL: a stored matrix */
    const void *data;
    int64_t row, column;      /* strides of a stored matrix, in elements */
} Matrix;

/* What to do with the int32 sums of an integer product. */
typedef struct {
    int requantize;                  /* 0: store int32; 1: scale, round half to even, saturate to 8 bits */
    int is_signed;                   /* of the 8 bits */
    int32_t zero;                    /* their zero point */
    const int32_t *bias;             /* per row, or NULL */
    const float *scale;              /* requantization scale; its strides are 0 where it does not vary */
    int64_t scale_row, scale_column;
} Output;

/* sum over k of (a[m][k] - a_zero[m]) * (b[k][n] - b_zero[n]) in wrapping 32-bit arithmetic. */
typedef struct {
    int64_t M, K;
    const uint8_t *a;                /* row-major bytes */
    int a_signed, b_signed;
    const int32_t *a_zero, *b_zero;
    int64_t b_zero_step;             /* 0: one zero point for all columns */
    Matrix b;
    int saturate, weights_left;      /* saturate: as a processor without a byte dot product does */
} Product;

/* Rows of elements share one scale and zero point (step 0) or have one each (step 1). */
typedef struct {
    const float *scale;
    const int32_t *zero;
    int64_t step;
} Affine;

typedef enum { U8, S8, U16, S16, S32 } Stored;

/* The kernels of one instruction set. Functions that return int give NO_MEMORY when memory runs out. */
typedef struct {
    const char *name;
    /* c[m][n - n0] = init[m] + sum over k of a[m][k] b[k][n], for n0 <= n < n1; accumulate: add to c instead. */
    int (*gemm_f32)(int64_t M, int64_t K, const float *a, int64_t lda, const Matrix *b, int64_t n0, int64_t n1,
                    const float *init, int accumulate, float *c, int64_t ldc);
    int (*gemm_f64)(int64_t M, int64_t K, const double *a, int64_t lda, const Matrix *b, int64_t n0, int64_t n1,
                    const double *init, int accumulate, double *c, int64_t ldc);
    int (*gemm_precise)(int64_t M, int64_t K, const float *a, int64_t lda, const Matrix *b, int64_t n0, int64_t n1,
                        const float *init, int accumulate, float *c, int64_t ldc); /* float64 sums */
    /* Columns [n0, n1) of an integer product go to out[m][n - n0]. */
    int (*product)(const Product *p, int64_t n0, int64_t n1, const Output *o, void *out, int64_t ldc);
    /* Output channels [o0, o1); channel o reads input channel o / multiplier. */
    int (*depthwise_f32)(const Window *w, int64_t o0, int64_t o1, int64_t multiplier, const float *x, const float *k,
                         const float *bias, float *y);
    int (*depthwise_f64)(const Window *w, int64_t o0, int64_t o1, int64_t multiplier, const double *x, const double *k,
                         const double *bias, double *y);
    int (*depthwise_precise)(const Window *w, int64_t o0, int64_t o1, int64_t multiplier, const float *x,
                             const float *k, const float *bias, float *y);
    /* p 0: average; else the p-norm. end: padding after the image, counted in averages if count_pad. */
    int (*mean_or_norm_f32)(const Window *w, int64_t channels, const float *x, float *y, int count_pad,
                            const int64_t *end, double p);
    int (*mean_or_norm_f64)(const Window *w, int64_t channels, const double *x, double *y, int count_pad,
                            const int64_t *end, double p);
    int (*max_pool_f32)(const Window *w, int64_t channels, const float *x, float *y);
    int (*max_pool_f64)(const Window *w, int64_t channels, const double *x, double *y);
    int (*max_pool_u8)(const Window *w, int64_t channels, const uint8_t *x, uint8_t *y);
    int (*max_pool_s8)(const Window *w, int64_t channels, const int8_t *x, int8_t *y);
    void (*quantize)(const float *x, void *y, Stored type, int64_t n, Affine to);
    void (*dequantize)(const void *x, Stored type, float *y, int64_t n, Affine from);
} Kernels;

#endif
