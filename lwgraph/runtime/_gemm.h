/* Blocked matrix product for stored types A_T (left) and C_T (result) and sums in T, for one instruction set.
   Blocking as in BLIS (Van Zee and van de Geijn, 2015), except that the left matrix is read where it is: each of the
   MR rows of a tile is walked in order, which costs no more than packing saves. */

enum { ID(LANES) = VECTOR_BYTES / sizeof(T), ID(WIDTH) = NV * ID(LANES), ID(DEPTH) = 256, ID(PANELS) = 8 };

#if HAVE_VECTORS
typedef T ID(Vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
#define ZERO (ID(Vector)){0}
#else
typedef T ID(Vector);
#define ZERO 0
#endif

/* c = or += a b for mr rows and nv vectors of columns; mr and nv are constants where this is inlined, so that all
   sums stay in registers. */
INLINE void ID(tile)(const int mr, const int nv, int64_t K, const T *RESTRICT a, int64_t lda, const T *RESTRICT b,
                     const T *init, int accumulate, T *RESTRICT c, int64_t ldc)
{
    ID(Vector) sum[MR][NV];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++)
            sum[i][j] = ZERO;
    for (int64_t k = 0; k < K; k++, b += ID(WIDTH)) {
        ID(Vector) row[NV];
        for (int j = 0; j < nv; j++)
            row[j] = *(const ID(Vector) *)(b + j * ID(LANES));
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < nv; j++)
                sum[i][j] += a[i * lda + k] * row[j];
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++) {
            ID(Vector) *to = (ID(Vector) *)(c + i * ldc + j * ID(LANES));
            if (accumulate)
                *to += sum[i][j];
            else if (init)
                *to = sum[i][j] + init[i];
            else
                *to = sum[i][j];
        }
}

#define TILE(mr, nv) ID(tile)(mr, nv, K, a, lda, b, init, accumulate, c, ldc)
#define TILE_ROW(mr) do { if (nv == 1) TILE(mr, 1); else if (nv == 2) TILE(mr, 2); else TILE(mr, NV); } while (0)

/* The tallest tile of at most `rows` rows; returns its height. */
static int ID(some_tile)(int64_t rows, int nv, int64_t K, const T *a, int64_t lda, const T *b, const T *init,
                         int accumulate, T *c, int64_t ldc)
{
#if MR >= 8
    if (rows >= 8) {
        TILE_ROW(8);
        return 8;
    }
#endif
    if (rows >= 4) {
        TILE_ROW(4);
        return 4;
    }
    if (rows >= 2) {
        TILE_ROW(2);
        return 2;
    }
    TILE_ROW(1);
    return 1;
}

/* All rows of one panel of `columns` columns; what a tile would write beyond them goes through `spare`, as do wider
   sums on their way to a narrower result. */
static void ID(panel)(int64_t M, int64_t K, const T *a, int64_t lda, const T *b, int64_t columns, const T *init,
                      int accumulate, C_T *c, int64_t ldc, T *spare)
{
    const int nv = (int)((columns + ID(LANES) - 1) / ID(LANES));
    for (int64_t m = 0; m < M;) {
        C_T *to = c + m * ldc;
        const T *left = a + m * lda, *start = init && !accumulate ? init + m : NULL;
        int done;
#if !NARROW
        if (columns == (int64_t)nv * ID(LANES)) {
            m += ID(some_tile)(M - m, nv, K, left, lda, b, start, accumulate, to, ldc);
            continue;
        }
#endif
        done = ID(some_tile)(M - m, nv, K, left, lda, b, start, 0, spare, ID(WIDTH));
        for (int i = 0; i < done; i++)
            for (int64_t j = 0; j < columns; j++)
                to[i * ldc + j] = (C_T)(spare[i * ID(WIDTH) + j] + (accumulate ? (T)to[i * ldc + j] : 0));
        m += done;
    }
}

/* A product with one or two columns, or one or two rows, reads its large matrix once and in order: packing would cost
   more than the arithmetic. */
static T ID(dot)(const A_T *RESTRICT a, const A_T *RESTRICT b, int64_t n)
{
    enum { PARTS = 32 };
    T part[PARTS] = {0}, sum = 0;
    int64_t k = 0;
    for (; k + PARTS <= n; k += PARTS)
        for (int j = 0; j < PARTS; j++)
            part[j] += (T)a[k + j] * (T)b[k + j];
    for (; k < n; k++)
        sum += (T)a[k] * (T)b[k];
    for (int j = 0; j < PARTS; j++)
        sum += part[j];
    return sum;
}

static void ID(row_times_matrix)(int64_t K, const A_T *a, const A_T *b, int64_t row, int64_t columns, T *RESTRICT sum)
{
    int64_t k = 0;
    for (; k + 4 <= K; k += 4, b += 4 * row) {
        const T a0 = a[k], a1 = a[k + 1], a2 = a[k + 2], a3 = a[k + 3];
        for (int64_t j = 0; j < columns; j++)
            sum[j] += a0 * b[j] + a1 * b[row + j] + (a2 * b[2 * row + j] + a3 * b[3 * row + j]);
    }
    for (; k < K; k++, b += row)
        for (int64_t j = 0; j < columns; j++)
            sum[j] += (T)a[k] * b[j];
}

static int ID(thin)(int64_t M, int64_t K, const A_T *a, int64_t lda, const Matrix *b, int64_t n0, int64_t n1,
                    const A_T *init, int accumulate, C_T *c, int64_t ldc)
{
    const A_T *from = (const A_T *)b->data;
    if (b->row == 1 || K == 1) {
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = n0; n < n1; n++) {
                T start = accumulate ? (T)c[m * ldc + n - n0] : init ? (T)init[m] : 0;
                c[m * ldc + n - n0] = (C_T)(start + ID(dot)(a + m * lda, from + n * b->column, K));
            }
        return DONE;
    }
    T *sum = malloc((size_t)MAX(n1 - n0, 1) * sizeof(T));
    if (!sum)
        return NO_MEMORY;
    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < n1 - n0; n++)
            sum[n] = accumulate ? (T)c[m * ldc + n] : init ? (T)init[m] : 0;
        ID(row_times_matrix)(K, a + m * lda, from + n0, b->row, n1 - n0, sum);
        for (int64_t n = 0; n < n1 - n0; n++)
            c[m * ldc + n] = (C_T)sum[n];
    }
    free(sum);
    return DONE;
}

static int ID(gemm)(int64_t M, int64_t K, const A_T *a, int64_t lda, const Matrix *b, int64_t n0, int64_t n1,
                    const A_T *init, int accumulate, C_T *c, int64_t ldc)
{
    if (!b->window && ((b->row == 1 && (M <= 2 || n1 - n0 <= 2)) || (b->column == 1 && M <= 2)))
        return ID(thin)(M, K, a, lda, b, n0, n1, init, accumulate, c, ldc);
    /* Wider sums cannot rest in the narrower result, so they take all of K at once. */
    const int64_t depth = NARROW ? MAX(K, 1) : MIN(MAX(K, 1), ID(DEPTH));
    const int64_t panels = NARROW ? 1 : MIN(ID(PANELS), (n1 - n0 + ID(WIDTH) - 1) / ID(WIDTH));
    const int64_t block = panels * ID(WIDTH);
    T *packed = malloc((size_t)(depth * block + MR * ID(WIDTH) + (NARROW ? M * (K + 1) : 0)) * sizeof(T));
    if (!packed)
        return NO_MEMORY;
    T *spare = packed + depth * block;
#if NARROW
    T *left = spare + MR * ID(WIDTH), *start = init ? left + M * K : NULL;
    for (int64_t m = 0; m < M; m++) {
        for (int64_t k = 0; k < K; k++)
            left[m * K + k] = a[m * lda + k];
        if (init)
            start[m] = init[m];
    }
    const int64_t step = K;
#else
    const T *left = a, *start = init;
    const int64_t step = lda;
#endif
    for (int64_t n = n0; n < n1; n += block) {
        const int64_t end = MIN(n + block, n1);
        int64_t k = 0;
        do {
            const int64_t stop = MIN(k + depth, K);
            ID(pack)(b, k, stop, n, end, ID(WIDTH), 0, packed);
            for (int64_t m = 0; m < M; m += MR) /* the rows stay in the first-level cache over the panels */
                for (int64_t j = n; j < end; j += ID(WIDTH))
                    ID(panel)(MIN(MR, M - m), stop - k, left + m * step + k, step, packed + (j - n) * (stop - k),
                              MIN(ID(WIDTH), end - j), start ? start + m : NULL, accumulate || k > 0,
                              c + m * ldc + j - n0, ldc, spare);
            k = stop;
        } while (k < K);
    }
    free(packed);
    return DONE;
}

#undef TILE
#undef TILE_ROW
#undef ZERO
