/* All kernels, compiled for one instruction set. The includer defines ISA (a suffix), ISA_NAME, VECTOR_BYTES and the
   tile size MR x NV, and BYTE_DOT where the processor multiplies and adds groups of four bytes. */

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define FOR_ISA(name) PASTE(name, ISA)

INLINE int32_t FOR_ISA(round_clamped)(float v, float low, float high)
{
    v = v > low ? v : low; /* NaN becomes the lowest value */
    v = v < high ? v : high;
    return (int32_t)((v + 12582912.0f) - 12582912.0f); /* |v| < 2^22: the sum has no room for fractions; half to even */
}

/* ---- float32 ---- */
#define S float
#define T float
#define LOAD(v) (v)
#define PAD 0
#define ID(name) PASTE(name, PASTE(f32, ISA))
#include "_pack.h"
#define T float
#define A_T float
#define C_T float
#define NARROW 0
#define ID(name) PASTE(name, PASTE(f32, ISA))
#include "_gemm.h"
#undef T
#undef A_T
#undef C_T
#undef NARROW
#undef ID

/* ---- float64 ---- */
#define S double
#define T double
#define LOAD(v) (v)
#define PAD 0
#define ID(name) PASTE(name, PASTE(f64, ISA))
#include "_pack.h"
#define T double
#define A_T double
#define C_T double
#define NARROW 0
#define ID(name) PASTE(name, PASTE(f64, ISA))
#include "_gemm.h"
#undef T
#undef A_T
#undef C_T
#undef NARROW
#undef ID

/* ---- float32 with float64 sums ---- */
#define S float
#define T double
#define LOAD(v) (v)
#define PAD 0
#define ID(name) PASTE(name, PASTE(precise, ISA))
#include "_pack.h"
#define T double
#define A_T float
#define C_T float
#define NARROW 1
#define ID(name) PASTE(name, PASTE(precise, ISA))
#include "_gemm.h"
#undef T
#undef A_T
#undef C_T
#undef NARROW
#undef ID

/* ---- integers ---- */
#ifdef BYTE_DOT
#define S uint8_t
#define T uint8_t
#define LOAD(v) (v)
#define PAD ((uint8_t)pad)
#define ID(name) PASTE(name, PASTE(u8, ISA))
#include "_pack.h"
#define S uint8_t
#define T uint8_t
#define LOAD(v) ((uint8_t)((v) ^ 0x80))
#define PAD ((uint8_t)pad)
#define ID(name) PASTE(name, PASTE(flipped, ISA))
#include "_pack.h"
#else
#define S uint8_t
#define T float
#define LOAD(v) ((float)(v))
#define PAD ((float)pad)
#define ID(name) PASTE(name, PASTE(u8, ISA))
#include "_pack.h"
#define S int8_t
#define T float
#define LOAD(v) ((float)(v))
#define PAD ((float)pad)
#define ID(name) PASTE(name, PASTE(s8, ISA))
#include "_pack.h"
#endif
#define ID FOR_ISA
#define FLOAT(name) PASTE(name, PASTE(f32, ISA))
#include "_integer.h"
#undef ID
#undef FLOAT

/* ---- windows over one channel ---- */
#define X_T float
#define S_T float
#define LOWEST (-INFINITY)
#define IS_NAN(v) ((v) != (v))
#define ID(name) PASTE(name, PASTE(f32, ISA))
#include "_lines.h"
#define X_T float
#define S_T double
#define MEANS
#define IS_NAN(v) ((v) != (v))
#define ID(name) PASTE(name, PASTE(precise, ISA))
#include "_lines.h"
#define X_T double
#define S_T double
#define MEANS
#define LOWEST (-INFINITY)
#define IS_NAN(v) ((v) != (v))
#define ID(name) PASTE(name, PASTE(f64, ISA))
#include "_lines.h"
#define X_T uint8_t
#define LOWEST 0
#define IS_NAN(v) 0
#define ID(name) PASTE(name, PASTE(u8, ISA))
#include "_lines.h"
#define X_T int8_t
#define LOWEST (-128)
#define IS_NAN(v) 0
#define ID(name) PASTE(name, PASTE(s8, ISA))
#include "_lines.h"

#include "_elements.h"

static const Kernels FOR_ISA(kernels) = {
    .name = ISA_NAME,
    .gemm_f32 = PASTE(gemm, PASTE(f32, ISA)),
    .gemm_f64 = PASTE(gemm, PASTE(f64, ISA)),
    .gemm_precise = PASTE(gemm, PASTE(precise, ISA)),
    .product = FOR_ISA(product),
    .depthwise_f32 = PASTE(depthwise, PASTE(f32, ISA)),
    .depthwise_f64 = PASTE(depthwise, PASTE(f64, ISA)),
    .depthwise_precise = PASTE(depthwise, PASTE(precise, ISA)),
    .mean_or_norm_f32 = PASTE(mean_or_norm, PASTE(precise, ISA)),
    .mean_or_norm_f64 = PASTE(mean_or_norm, PASTE(f64, ISA)),
    .max_pool_f32 = PASTE(max_pool, PASTE(f32, ISA)),
    .max_pool_f64 = PASTE(max_pool, PASTE(f64, ISA)),
    .max_pool_u8 = PASTE(max_pool, PASTE(u8, ISA)),
    .max_pool_s8 = PASTE(max_pool, PASTE(s8, ISA)),
    .quantize = FOR_ISA(quantize),
    .dequantize = FOR_ISA(dequantize),
};

#undef FOR_ISA
#undef PASTE
#undef PASTE2
#undef ISA
#undef ISA_NAME
#undef VECTOR_BYTES
#undef MR
#undef NV
#undef BYTE_DOT
