/* Integer products, bit for bit as 32-bit arithmetic has them. Raw bytes are multiplied; the zero points come in
   afterwards: sum (a - p)(b - q) = sum ab - p sum b - q sum a + K p q, all modulo 2^32.

   Without a byte dot product the float32 tile is used: products of bytes are at most 255 * 255, and a sum of 256 of
   them is below 2^24, so float32 holds it exactly. */

typedef struct {
    int32_t *sums;      /* M rows of `block` columns */
    int32_t *row_sum;   /* sum over k of a, per row */
    int32_t *column_sum;
    int64_t block;
} ID(Sums);

static int32_t ID(sum_bytes)(const uint8_t *a, int64_t n, int is_signed)
{
    uint32_t sum = 0;
    if (is_signed)
        for (int64_t k = 0; k < n; k++)
            sum += (uint32_t)(int8_t)a[k];
    else
        for (int64_t k = 0; k < n; k++)
            sum += a[k];
    return (int32_t)sum;
}

static int ID(any_nonzero)(const int32_t *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (v[i])
            return 1;
    return 0;
}

/* Turns the raw sums of columns [n, n + columns) into outputs. Unsigned arithmetic wraps without being undefined. */
static void ID(emit)(const Product *p, const ID(Sums) *s, int64_t n, int64_t columns, const Output *o, void *out,
                     int64_t at, int64_t ldc)
{
    const int32_t low = (o->is_signed ? -128 : 0) - o->zero, high = (o->is_signed ? 127 : 255) - o->zero;
    for (int64_t m = 0; m < p->M; m++) {
        int32_t *RESTRICT sums = s->sums + m * s->block;
        const uint32_t pm = (uint32_t)p->a_zero[m], rows = (uint32_t)s->row_sum[m];
        const uint32_t bias = o->bias ? (uint32_t)o->bias[m] : 0;
        const int32_t *q = p->b_zero + n * p->b_zero_step;
        if (p->b_zero_step)
            for (int64_t j = 0; j < columns; j++)
                sums[j] = (int32_t)((uint32_t)sums[j] + bias + (uint32_t)q[j] * ((uint32_t)p->K * pm - rows));
        else
            for (int64_t j = 0; j < columns; j++)
                sums[j] = (int32_t)((uint32_t)sums[j] + bias + (uint32_t)q[0] * ((uint32_t)p->K * pm - rows));
        if (pm)
            for (int64_t j = 0; j < columns; j++)
                sums[j] = (int32_t)((uint32_t)sums[j] - pm * (uint32_t)s->column_sum[j]);
        if (!o->requantize) {
            memcpy((int32_t *)out + m * ldc + at, sums, (size_t)columns * sizeof(int32_t));
            continue;
        }
        uint8_t *RESTRICT to = (uint8_t *)out + m * ldc + at;
        const float *scale = o->scale + m * o->scale_row + n * o->scale_column;
        if (o->scale_column)
            for (int64_t j = 0; j < columns; j++)
                to[j] = (uint8_t)(ID(round_clamped)((float)sums[j] * scale[j], (float)low, (float)high) + o->zero);
        else
            for (int64_t j = 0; j < columns; j++)
                to[j] = (uint8_t)(ID(round_clamped)((float)sums[j] * scale[0], (float)low, (float)high) + o->zero);
    }
}

/* Entry (k, n) of the right-hand matrix; 0 when it lies outside the image. */
static int ID(entry)(const Matrix *b, int64_t k, int64_t n, uint8_t *value)
{
    const Window *w = b->window;
    int64_t at[3];
    if (!w) {
        *value = ((const uint8_t *)b->data)[k * b->row + n * b->column];
        return 1;
    }
    for (int axis = 2; axis >= 0; axis--) {
        at[axis] = n % w->out[axis] * w->stride[axis] - w->pad[axis] + k % w->kernel[axis] * w->dilation[axis];
        if (at[axis] < 0 || at[axis] >= w->in[axis])
            return 0;
        k /= w->kernel[axis];
        n /= w->out[axis];
    }
    *value = ((const uint8_t *)b->data)[((k * w->in[0] + at[0]) * w->in[1] + at[1]) * w->in[2] + at[2]];
    return 1;
}

/* What vpmaddubsw computes on processors without a byte dot product: each pair of neighbouring products of an unsigned
   activation and a signed weight is clamped to 16 bits before it is summed. Neighbours are as ONNX Runtime lays them
   out: channels of one kernel position for a convolution. For diagnosis, not for speed. */
static int ID(saturating)(const Product *given, int64_t n0, int64_t n1, const Output *o, void *out, int64_t ldc)
{
    const Window *w = given->b.window;
    const int64_t M = given->M, K = given->K, taps = w ? w->kernel[0] * w->kernel[1] * w->kernel[2] : 1;
    const int64_t channels = K / taps, zeros = given->b_zero_step ? n1 : 1;
    /* The side that does not hold the weights holds the activations, as unsigned bytes. */
    const int flip_a = !given->weights_left && given->a_signed, flip_b = given->weights_left && given->b_signed;
    int32_t *ints = malloc((size_t)(M * K + K + 1 + 3 * M + zeros + 1) * sizeof(int32_t));
    if (!ints)
        return NO_MEMORY;
    int32_t *left = ints, *right = left + M * K; /* values in pair order */
    ID(Sums) s = {.sums = right + K + 1, .row_sum = right + K + 1 + M, .block = 1};
    int32_t *p_zero = s.row_sum + M, *q_zero = p_zero + M;
    s.column_sum = q_zero + zeros;
    Product p = *given;
    for (int64_t m = 0; m < M; m++) {
        s.row_sum[m] = 0;
        for (int64_t k = 0; k < K; k++) {
            const uint8_t byte = given->a[m * K + k];
            const int32_t value = (given->a_signed ? (int8_t)byte : byte) + (flip_a ? 128 : 0);
            left[m * K + k % taps * channels + k / taps] = value;
            s.row_sum[m] = (int32_t)((uint32_t)s.row_sum[m] + (uint32_t)value);
        }
        p_zero[m] = given->a_zero[m] + (flip_a ? 128 : 0);
    }
    for (int64_t n = 0; n < zeros; n++)
        q_zero[n] = given->b_zero[n] + (flip_b ? 128 : 0);
    p.a_zero = p_zero;
    p.b_zero = q_zero;
    right[K] = 0;
    for (int64_t n = n0; n < n1; n++) {
        s.column_sum[0] = 0;
        for (int64_t k = 0; k < K; k++) {
            uint8_t byte = 0;
            const int inside = ID(entry)(&given->b, k, n, &byte);
            const int32_t value = inside ? (given->b_signed ? (int8_t)byte : byte) + (flip_b ? 128 : 0) : q_zero[0];
            right[k % taps * channels + k / taps] = value;
            s.column_sum[0] = (int32_t)((uint32_t)s.column_sum[0] + (uint32_t)value);
        }
        for (int64_t m = 0; m < M; m++) {
            uint32_t sum = 0;
            for (int64_t k = 0; k < K; k += 2) {
                const int32_t pair = left[m * K + k] * right[k] + (k + 1 < K ? left[m * K + k + 1] * right[k + 1] : 0);
                sum += (uint32_t)MIN(MAX(pair, -32768), 32767);
            }
            s.sums[m] = (int32_t)sum;
        }
        ID(emit)(&p, &s, n, 1, o, out, n - n0, ldc);
    }
    free(ints);
    return DONE;
}

#ifdef BYTE_DOT

/* Tiles over groups of four k: `a` bytes are signed, the packed right side unsigned. */
typedef int32_t ID(Ints) __attribute__((vector_size(64), aligned(4), may_alias));

INLINE void ID(byte_tile)(const int mr, const int nv, int64_t groups, const uint8_t *RESTRICT a, int64_t lda,
                          const uint8_t *RESTRICT b, int32_t *RESTRICT c, int64_t ldc)
{
    ID(Ints) sum[8][3];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++)
            sum[i][j] = *(const ID(Ints) *)(c + i * ldc + j * 16);
    for (int64_t g = 0; g < groups; g++, b += 4 * 48) {
        ID(Ints) row[3];
        for (int j = 0; j < nv; j++)
            row[j] = *(const ID(Ints) *)(b + j * 64);
        for (int i = 0; i < mr; i++) {
            int32_t four;
            memcpy(&four, a + i * lda + 4 * g, 4);
            const ID(Ints) left = four - (ID(Ints)){0};
            for (int j = 0; j < nv; j++)
                sum[i][j] = BYTE_DOT(sum[i][j], row[j], left);
        }
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++)
            *(ID(Ints) *)(c + i * ldc + j * 16) = sum[i][j];
}

#define BYTE_ROW(mr)                                                                                                 \
    if (rows >= mr) {                                                                                                \
        if (nv == 1)                                                                                                 \
            ID(byte_tile)(mr, 1, groups, a, lda, b, c, ldc);                                                         \
        else if (nv == 2)                                                                                            \
            ID(byte_tile)(mr, 2, groups, a, lda, b, c, ldc);                                                         \
        else                                                                                                         \
            ID(byte_tile)(mr, 3, groups, a, lda, b, c, ldc);                                                         \
        return mr;                                                                                                   \
    }

/* The tallest tile of at most `rows` rows; returns its height. */
static int ID(byte_rows)(int64_t rows, int nv, int64_t groups, const uint8_t *a, int64_t lda, const uint8_t *b,
                         int32_t *c, int64_t ldc)
{
    BYTE_ROW(8)
    BYTE_ROW(4)
    BYTE_ROW(2)
    BYTE_ROW(1)
    return 0;
}

/* Interleaves panels of byte rows into groups of four k per column; rows beyond K count as 0. */
static void ID(interleave)(const uint8_t *RESTRICT rows, int64_t K, uint8_t *RESTRICT out)
{
    static const uint8_t none[48];
    for (int64_t k = 0; k < K; k += 4, out += 4 * 48) {
        const uint8_t *r0 = rows + k * 48, *r1 = k + 1 < K ? r0 + 48 : none, *r2 = k + 2 < K ? r0 + 96 : none,
                      *r3 = k + 3 < K ? r0 + 144 : none;
        for (int j = 0; j < 48; j++) {
            out[4 * j] = r0[j];
            out[4 * j + 1] = r1[j];
            out[4 * j + 2] = r2[j];
            out[4 * j + 3] = r3[j];
        }
    }
}

static int ID(product)(const Product *given, int64_t n0, int64_t n1, const Output *o, void *out, int64_t ldc)
{
    if (given->saturate)
        return ID(saturating)(given, n0, n1, o, out, ldc);
    enum { WIDTH = 48, DEPTH = 1024 };
    const int64_t M = given->M, K = given->K, padded = (K + 3) / 4 * 4;
    /* Signed left, unsigned right: flipping the top bit moves a byte and its zero point by 128. */
    const int flip_a = !given->a_signed, flip_b = given->b_signed;
    const int64_t zeros = given->b_zero_step ? n1 : 1, depth = MIN(padded, DEPTH);
    uint8_t *bytes = malloc((size_t)(M * padded + 2 * (depth + 4) * WIDTH + 64));
    int32_t *ints = malloc((size_t)(M * WIDTH + 2 * M + WIDTH + zeros) * sizeof(int32_t));
    if (!bytes || !ints) {
        free(bytes);
        free(ints);
        return NO_MEMORY;
    }
    uint8_t *left = bytes, *rows = left + M * padded, *packed = rows + (depth + 4) * WIDTH;
    ID(Sums) s = {.sums = ints, .row_sum = ints + M * WIDTH, .column_sum = ints + M * WIDTH + 2 * M, .block = WIDTH};
    int32_t *p_zero = s.row_sum + M, *q_zero = s.column_sum + WIDTH;
    Product p = *given;
    for (int64_t m = 0; m < M; m++) {
        uint8_t *to = left + m * padded;
        for (int64_t k = 0; k < K; k++)
            to[k] = (uint8_t)(given->a[m * K + k] ^ (flip_a ? 0x80 : 0));
        memset(to + K, 0, (size_t)(padded - K));
        s.row_sum[m] = ID(sum_bytes)(to, K, 1);
        p_zero[m] = given->a_zero[m] - (flip_a ? 128 : 0);
    }
    for (int64_t n = 0; n < zeros; n++)
        q_zero[n] = given->b_zero[n] + (flip_b ? 128 : 0);
    p.a_zero = p_zero;
    p.b_zero = q_zero;
    const int need_columns = ID(any_nonzero)(p_zero, M);
    for (int64_t n = n0; n < n1; n += WIDTH) {
        const int64_t columns = MIN(WIDTH, n1 - n);
        const int nv = (int)((columns + 15) / 16);
        memset(s.sums, 0, (size_t)(M * WIDTH) * sizeof(int32_t));
        memset(s.column_sum, 0, WIDTH * sizeof(int32_t));
        for (int64_t k = 0; k < K; k += depth) {
            const int64_t stop = MIN(k + depth, K), count = stop - k;
            if (flip_b)
                PASTE(pack, PASTE(flipped, ISA))(&given->b, k, stop, n, n + columns, WIDTH, q_zero[0], rows);
            else
                PASTE(pack, PASTE(u8, ISA))(&given->b, k, stop, n, n + columns, WIDTH, q_zero[0], rows);
            if (need_columns)
                for (int64_t i = 0; i < count; i++)
                    for (int j = 0; j < WIDTH; j++)
                        s.column_sum[j] = (int32_t)((uint32_t)s.column_sum[j] + rows[i * WIDTH + j]);
            ID(interleave)(rows, count, packed);
            for (int64_t m = 0; m < M;)
                m += ID(byte_rows)(M - m, nv, (count + 3) / 4, left + m * padded + k, padded, packed,
                                   s.sums + m * WIDTH, WIDTH);
        }
        ID(emit)(&p, &s, n, columns, o, out, n - n0, ldc);
    }
    free(bytes);
    free(ints);
    return DONE;
}

#undef BYTE_ROW

#else

static int ID(product)(const Product *p, int64_t n0, int64_t n1, const Output *o, void *out, int64_t ldc)
{
    if (p->saturate)
        return ID(saturating)(p, n0, n1, o, out, ldc);
    const int64_t M = p->M, K = p->K, depth = MIN(MAX(K, 1), FLOAT(DEPTH)), width = FLOAT(WIDTH);
    float *floats = malloc((size_t)(M * K + depth * width + MR * width) * sizeof(float));
    int32_t *ints = malloc((size_t)(M * width + M + width) * sizeof(int32_t));
    if (!floats || !ints) {
        free(floats);
        free(ints);
        return NO_MEMORY;
    }
    float *left = floats, *packed = left + M * K, *spare = packed + depth * width;
    ID(Sums) s = {.sums = ints, .row_sum = ints + M * width, .column_sum = ints + M * width + M, .block = width};
    for (int64_t i = 0; i < M * K; i++)
        left[i] = p->a_signed ? (float)(int8_t)p->a[i] : (float)p->a[i];
    for (int64_t m = 0; m < M; m++)
        s.row_sum[m] = ID(sum_bytes)(p->a + m * K, K, p->a_signed);
    const int need_columns = ID(any_nonzero)(p->a_zero, M);
    for (int64_t n = n0; n < n1; n += width) {
        const int64_t columns = MIN(width, n1 - n);
        const int nv = (int)((columns + FLOAT(LANES) - 1) / FLOAT(LANES));
        memset(s.sums, 0, (size_t)(M * width) * sizeof(int32_t));
        memset(s.column_sum, 0, (size_t)width * sizeof(int32_t));
        for (int64_t k = 0; k < K; k += depth) {
            const int64_t stop = MIN(k + depth, K);
            if (p->b_signed)
                PASTE(pack, PASTE(s8, ISA))(&p->b, k, stop, n, n + columns, width, p->b_zero[0], packed);
            else
                PASTE(pack, PASTE(u8, ISA))(&p->b, k, stop, n, n + columns, width, p->b_zero[0], packed);
            if (need_columns)
                for (int64_t i = 0; i < stop - k; i++)
                    for (int64_t j = 0; j < width; j++)
                        s.column_sum[j] = (int32_t)((uint32_t)s.column_sum[j] + (uint32_t)(int32_t)packed[i * width + j]);
            for (int64_t m = 0; m < M;) {
                const int done = FLOAT(some_tile)(M - m, nv, stop - k, left + m * K + k, K, packed, NULL, 0, spare, width);
                for (int i = 0; i < done; i++)
                    for (int64_t j = 0; j < columns; j++)
                        s.sums[(m + i) * width + j] =
                            (int32_t)((uint32_t)s.sums[(m + i) * width + j] + (uint32_t)(int32_t)spare[i * width + j]);
                m += done;
            }
        }
        ID(emit)(p, &s, n, columns, o, out, n - n0, ldc);
    }
    free(floats);
    free(ints);
    return DONE;
}

#endif
