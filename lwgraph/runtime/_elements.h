/* Element by element: quantize and dequantize. */

#define QUANTIZE(Y, low, high)                                                                                       \
    do {                                                                                                             \
        Y *RESTRICT out = y;                                                                                         \
        if (to.step)                                                                                                 \
            for (int64_t i = 0; i < n; i++)                                                                          \
                out[i] = (Y)(FOR_ISA(round_clamped)(x[i] / to.scale[i], (float)((low) - to.zero[i]),                 \
                                                    (float)((high) - to.zero[i])) + to.zero[i]);                     \
        else                                                                                                         \
            for (int64_t i = 0; i < n; i++)                                                                          \
                out[i] = (Y)(FOR_ISA(round_clamped)(x[i] / scale, (float)((low) - zero), (float)((high) - zero)) + zero); \
    } while (0)

/* y = saturate(round(x / scale) + zero): round half to even; NaN becomes the lowest value. */
static void FOR_ISA(quantize)(const float *RESTRICT x, void *RESTRICT y, Stored type, int64_t n, Affine to)
{
    const float scale = to.scale[0];
    const int32_t zero = to.zero[0];
    switch (type) {
    case U8: QUANTIZE(uint8_t, 0, 255); break;
    case S8: QUANTIZE(int8_t, -128, 127); break;
    case U16: QUANTIZE(uint16_t, 0, 65535); break;
    case S16: QUANTIZE(int16_t, -32768, 32767); break;
    case S32: break;
    }
}

#define DEQUANTIZE(X)                                                                                                \
    do {                                                                                                             \
        const X *RESTRICT in = x;                                                                                    \
        if (from.step)                                                                                               \
            for (int64_t i = 0; i < n; i++)                                                                          \
                y[i] = (float)(int32_t)((uint32_t)in[i] - (uint32_t)from.zero[i]) * from.scale[i];                                       \
        else                                                                                                         \
            for (int64_t i = 0; i < n; i++)                                                                          \
                y[i] = (float)(int32_t)((uint32_t)in[i] - (uint32_t)zero) * scale;                                                       \
    } while (0)

/* y = (x - zero) * scale. */
static void FOR_ISA(dequantize)(const void *RESTRICT x, Stored type, float *RESTRICT y, int64_t n, Affine from)
{
    const float scale = from.scale[0];
    const int32_t zero = from.zero[0];
    switch (type) {
    case U8: DEQUANTIZE(uint8_t); break;
    case S8: DEQUANTIZE(int8_t); break;
    case U16: DEQUANTIZE(uint16_t); break;
    case S16: DEQUANTIZE(int16_t); break;
    case S32: DEQUANTIZE(int32_t); break;
    }
}

#undef QUANTIZE
#undef DEQUANTIZE
