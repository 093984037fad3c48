/* Packing: gathers a block of the right-hand matrix into panels of `width` columns, each stored row after row, so that
   the tile reads memory in order. Included once per (stored type S, packed type T, conversion LOAD).
   Columns beyond n1 become 0; positions outside the image become PAD (an expression in `pad`). */

typedef struct {
    int64_t at, length; /* columns [at, at + length) of the panel are neighbours in one output row */
    int64_t from[3];    /* image coordinates of kernel position 0 for the first of them */
} ID(Run);

/* Cuts the columns [n, n + columns) into runs; returns how many. */
static int ID(runs)(const Window *w, int64_t n, int64_t columns, ID(Run) *runs)
{
    int count = 0;
    for (int64_t at = 0; at < columns;) {
        int64_t x = (n + at) % w->out[2], rest = (n + at) / w->out[2];
        int64_t y = rest % w->out[1], z = rest / w->out[1];
        ID(Run) *run = &runs[count++];
        run->at = at;
        run->length = MIN(columns - at, w->out[2] - x);
        run->from[0] = z * w->stride[0] - w->pad[0];
        run->from[1] = y * w->stride[1] - w->pad[1];
        run->from[2] = x * w->stride[2] - w->pad[2];
        at += run->length;
    }
    return count;
}

INLINE void ID(fill)(T *out, int64_t count, T value)
{
    for (int64_t j = 0; j < count; j++)
        out[j] = value;
}

/* One run of one row of the patch matrix. `line`: the image row; `x`: where the first column reads in it. */
INLINE void ID(gather)(const S *line, int64_t size, int64_t x, int64_t step, int64_t length, int32_t pad, T *RESTRICT out)
{
    int64_t low = x >= 0 ? 0 : (step - 1 - x) / step;
    int64_t high = x >= size ? 0 : (size - x + step - 1) / step;
    low = MIN(low, length);
    high = MAX(MIN(high, length), low);
    ID(fill)(out, low, PAD);
    const S *from = line + x;
    if (step == 1)
        for (int64_t j = low; j < high; j++)
            out[j] = LOAD(from[j]);
    else
        for (int64_t j = low; j < high; j++)
            out[j] = LOAD(from[j * step]);
    ID(fill)(out + high, length - high, PAD);
    (void)pad;
}

static void ID(pack_patches)(const Matrix *b, int64_t k0, int64_t k1, int64_t n, int64_t columns, int64_t width,
                             int32_t pad, T *RESTRICT out)
{
    const Window *w = b->window;
    const int64_t plane = w->in[1] * w->in[2], image = w->in[0] * plane;
    const int64_t taps = w->kernel[0] * w->kernel[1] * w->kernel[2];
    ID(Run) runs[MAX_PANEL];
    const int count = ID(runs)(w, n, columns, runs);
    int64_t channel = k0 / taps, tap = k0 % taps;
    int64_t kx = tap % w->kernel[2], ky = tap / w->kernel[2] % w->kernel[1], kz = tap / w->kernel[2] / w->kernel[1];
    for (int64_t k = k0; k < k1; k++, out += width) {
        const S *x = (const S *)b->data + channel * image;
        for (int r = 0; r < count; r++) {
            const ID(Run) *run = &runs[r];
            const int64_t iz = run->from[0] + kz * w->dilation[0], iy = run->from[1] + ky * w->dilation[1];
            if (iz < 0 || iz >= w->in[0] || iy < 0 || iy >= w->in[1])
                ID(fill)(out + run->at, run->length, PAD);
            else
                ID(gather)(x + iz * plane + iy * w->in[2], w->in[2], run->from[2] + kx * w->dilation[2], w->stride[2],
                           run->length, pad, out + run->at);
        }
        ID(fill)(out + columns, width - columns, 0);
        if (++kx == w->kernel[2]) {
            kx = 0;
            if (++ky == w->kernel[1]) {
                ky = 0;
                if (++kz == w->kernel[0]) {
                    kz = 0;
                    channel++;
                }
            }
        }
    }
}

static void ID(pack_stored)(const Matrix *b, int64_t k0, int64_t k1, int64_t n, int64_t columns, int64_t width, int32_t pad,
                            T *RESTRICT out)
{
    const S *from = (const S *)b->data + k0 * b->row + n * b->column;
    if (b->row != 1) {
        for (int64_t k = k0; k < k1; k++, out += width, from += b->row) {
            for (int64_t j = 0; j < columns; j++)
                out[j] = LOAD(from[j * b->column]);
            ID(fill)(out + columns, width - columns, 0);
        }
        return;
    }
    const int64_t rows = k1 - k0; /* stored transposed: read along k */
    for (int64_t j = 0; j < width; j++, from += b->column)
        for (int64_t k = 0; k < rows; k++)
            out[k * width + j] = j < columns ? LOAD(from[k]) : 0;
    (void)pad;
}

/* Packs rows [k0, k1) of columns [n0, n1) into consecutive panels. */
static void ID(pack)(const Matrix *b, int64_t k0, int64_t k1, int64_t n0, int64_t n1, int64_t width, int32_t pad, T *RESTRICT out)
{
    if (!b->window && b->column == 1) { /* row after row over all panels: memory is read in order */
        for (int64_t k = k0; k < k1; k++)
            for (int64_t n = n0; n < n1; n += width) {
                const S *from = (const S *)b->data + k * b->row + n;
                T *to = out + (n - n0) / width * (k1 - k0) * width + (k - k0) * width;
                const int64_t columns = MIN(width, n1 - n);
                for (int64_t j = 0; j < columns; j++)
                    to[j] = LOAD(from[j]);
                ID(fill)(to + columns, width - columns, 0);
            }
        return;
    }
    for (int64_t n = n0; n < n1; n += width, out += (k1 - k0) * width) {
        const int64_t columns = MIN(width, n1 - n);
        if (b->window)
            ID(pack_patches)(b, k0, k1, n, columns, width, pad, out);
        else
            ID(pack_stored)(b, k0, k1, n, columns, width, pad, out);
    }
}

#undef S
#undef T
#undef ID
#undef LOAD
#undef PAD
