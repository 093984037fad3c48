/* Sliding windows over one channel at a time (depthwise convolution, pooling) for stored type X_T and sums in S_T.

   The channel is copied into lines that are padded and split by column phase: column c of the padded image goes to
   phase c % stride, place c / stride. Every kernel position then reads consecutive elements for consecutive outputs,
   whatever the stride and the dilation. Rows outside the image are one shared line of padding. */

typedef struct {
    X_T *lines;             /* rows of the image, then one line of padding */
    const X_T **taps;       /* where each kernel position reads, for the current output row */
    int64_t *offset;        /* where each kernel column reads in its line */
    int64_t line, phase;    /* sizes of a line and of one of its phases, in elements */
    int64_t count;          /* kernel positions */
} ID(Lines);

enum { ID(CHUNK) = 64 }; /* at most so many outputs are computed together; phases have as much room to spare */

static void ID(close_lines)(ID(Lines) *l)
{
    free(l->lines);
    free(l->taps);
    free(l->offset);
}

static int ID(open_lines)(const Window *w, ID(Lines) *l, X_T padding)
{
    const int64_t columns = MAX(w->out[2] - 1, 0) * w->stride[2] + (w->kernel[2] - 1) * w->dilation[2] + 1;
    const int64_t rows = w->in[0] * w->in[1] + 1;
    l->phase = (columns + w->stride[2] - 1) / w->stride[2] + ID(CHUNK);
    l->line = l->phase * w->stride[2];
    l->count = w->kernel[0] * w->kernel[1] * w->kernel[2];
    l->lines = l->line < INT64_MAX / 64 / rows ? malloc((size_t)(rows * l->line) * sizeof(X_T)) : NULL;
    l->taps = malloc((size_t)l->count * sizeof(X_T *));
    l->offset = malloc((size_t)w->kernel[2] * sizeof(int64_t));
    if (!l->lines || !l->taps || !l->offset) {
        ID(close_lines)(l);
        return NO_MEMORY;
    }
    for (int64_t k = 0; k < w->kernel[2]; k++)
        l->offset[k] = k * w->dilation[2] % w->stride[2] * l->phase + k * w->dilation[2] / w->stride[2];
    for (int64_t i = 0; i < rows * l->line; i++)
        l->lines[i] = padding;
    return DONE;
}

/* Copies one channel in; the padding around it stays. */
static void ID(fill_lines)(const Window *w, const ID(Lines) *l, const X_T *RESTRICT x)
{
    const int64_t rows = w->in[0] * w->in[1], size = w->in[2], step = w->stride[2];
    for (int64_t r = 0; r < rows; r++, x += size)
        for (int64_t phase = 0; phase < step; phase++) {
            X_T *RESTRICT to = l->lines + r * l->line + phase * l->phase;
            const int64_t shift = phase - w->pad[2]; /* place i holds image column i * step + shift */
            const int64_t first = shift >= 0 ? 0 : (-shift + step - 1) / step;
            const int64_t last = size <= shift ? 0 : MIN((size - shift + step - 1) / step, l->phase);
            if (step == 1)
                for (int64_t i = first; i < last; i++)
                    to[i] = x[i + shift];
            else
                for (int64_t i = first; i < last; i++)
                    to[i] = x[i * step + shift];
        }
}

/* Points the taps at the rows that output row (z, y) reads. */
static void ID(aim)(const Window *w, const ID(Lines) *l, int64_t z, int64_t y)
{
    const X_T **tap = l->taps;
    for (int64_t kz = 0; kz < w->kernel[0]; kz++)
        for (int64_t ky = 0; ky < w->kernel[1]; ky++) {
            const int64_t iz = z * w->stride[0] - w->pad[0] + kz * w->dilation[0];
            const int64_t iy = y * w->stride[1] - w->pad[1] + ky * w->dilation[1];
            const int inside = iz >= 0 && iz < w->in[0] && iy >= 0 && iy < w->in[1];
            const X_T *line = l->lines + (inside ? iz * w->in[1] + iy : w->in[0] * w->in[1]) * l->line;
            for (int64_t kx = 0; kx < w->kernel[2]; kx++)
                *tap++ = line + l->offset[kx];
        }
}

/* Combining the taps for `n` outputs from `at` on; n is a constant where these are inlined. */
#ifdef S_T
#if HAVE_VECTORS
enum { ID(SUM_LANES) = VECTOR_BYTES / sizeof(S_T), ID(SOME) = 4 * ID(SUM_LANES) };
typedef S_T ID(SumVector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(S_T)), may_alias));
typedef X_T ID(TapVector) __attribute__((vector_size(VECTOR_BYTES / sizeof(S_T) * sizeof(X_T)), aligned(sizeof(X_T)), may_alias));
#define WIDEN(v) __builtin_convertvector(v, ID(SumVector))
#define NARROWED(v) __builtin_convertvector(v, ID(TapVector))
#else
enum { ID(SUM_LANES) = 1, ID(SOME) = 4 };
typedef S_T ID(SumVector);
typedef X_T ID(TapVector);
#define WIDEN(v) ((S_T)(v))
#define NARROWED(v) ((X_T)(v))
#endif

INLINE void ID(weighted)(const int vectors, const ID(Lines) *l, int64_t at, const X_T *k, S_T start, X_T *RESTRICT out)
{
    ID(SumVector) sum[4];
    for (int j = 0; j < vectors; j++)
        sum[j] = start - (ID(SumVector)){0};
    for (int64_t t = 0; t < l->count; t++) {
        const X_T *x = l->taps[t] + at;
        for (int j = 0; j < vectors; j++)
            sum[j] += WIDEN(*(const ID(TapVector) *)(x + j * ID(SUM_LANES))) * (S_T)k[t];
    }
    for (int j = 0; j < vectors; j++)
        *(ID(TapVector) *)(out + j * ID(SUM_LANES)) = NARROWED(sum[j]);
}
#undef WIDEN
#undef NARROWED

/* One output row of n elements. */
static void ID(weighted_row)(const ID(Lines) *l, int64_t n, const X_T *k, S_T start, X_T *RESTRICT out)
{
    X_T spare[ID(SOME)];
    int64_t at = 0;
    for (; at + ID(SOME) <= n; at += ID(SOME))
        ID(weighted)(4, l, at, k, start, out + at);
    const int64_t rest = n - at;
    if (rest == 0)
        return;
    if (rest > 2 * ID(SUM_LANES))
        ID(weighted)(4, l, at, k, start, spare);
    else if (rest > ID(SUM_LANES))
        ID(weighted)(2, l, at, k, start, spare);
    else
        ID(weighted)(1, l, at, k, start, spare);
    memcpy(out + at, spare, (size_t)rest * sizeof(X_T));
}

/* Depthwise convolution of output channels [o0, o1); channel o reads input channel o / multiplier. */
static int ID(depthwise)(const Window *w, int64_t o0, int64_t o1, int64_t multiplier, const X_T *x, const X_T *k,
                         const X_T *bias, X_T *y)
{
    const int64_t image = w->in[0] * w->in[1] * w->in[2];
    int64_t loaded = -1;
    ID(Lines) l;
    if (ID(open_lines)(w, &l, 0))
        return NO_MEMORY;
    for (int64_t o = o0; o < o1; o++) {
        if (o / multiplier != loaded) {
            loaded = o / multiplier;
            ID(fill_lines)(w, &l, x + loaded * image);
        }
        const X_T *weights = k + o * l.count, start = bias ? bias[o] : 0;
        X_T *to = y + o * w->out[0] * w->out[1] * w->out[2];
        for (int64_t z = 0; z < w->out[0]; z++)
            for (int64_t v = 0; v < w->out[1]; v++, to += w->out[2]) {
                ID(aim)(w, &l, z, v);
                ID(weighted_row)(&l, w->out[2], weights, start, to);
            }
    }
    ID(close_lines)(&l);
    return DONE;
}

#ifdef MEANS
/* How many kernel positions of one axis fall in [low, high). */
static int64_t ID(inside)(const Window *w, int axis, int64_t o, int64_t low, int64_t high)
{
    int64_t count = 0, at = o * w->stride[axis] - w->pad[axis];
    for (int64_t k = 0; k < w->kernel[axis]; k++, at += w->dilation[axis])
        count += at >= low && at < high;
    return count;
}

INLINE void ID(powers)(const int n, const ID(Lines) *l, int64_t at, double p, double *RESTRICT out)
{
    for (int j = 0; j < n; j++)
        out[j] = 0;
    for (int64_t t = 0; t < l->count; t++) {
        const X_T *x = l->taps[t] + at;
        if (p == 0)
            for (int j = 0; j < n; j++)
                out[j] += x[j];
        else if (p == 1)
            for (int j = 0; j < n; j++)
                out[j] += fabs((double)x[j]);
        else if (p == 2)
            for (int j = 0; j < n; j++)
                out[j] += (double)x[j] * x[j];
        else
            for (int j = 0; j < n; j++)
                out[j] += pow(fabs((double)x[j]), p);
    }
}

/* p 0: average; else the p-norm. end: padding after the image, counted in averages if count_pad. */
static int ID(mean_or_norm)(const Window *w, int64_t channels, const X_T *x, X_T *y, int count_pad, const int64_t *end,
                            double p)
{
    const int64_t image = w->in[0] * w->in[1] * w->in[2];
    double sum[ID(CHUNK)];
    ID(Lines) l;
    if (ID(open_lines)(w, &l, 0))
        return NO_MEMORY;
    for (int64_t c = 0; c < channels; c++) {
        ID(fill_lines)(w, &l, x + c * image);
        for (int64_t z = 0; z < w->out[0]; z++)
            for (int64_t v = 0; v < w->out[1]; v++, y += w->out[2]) {
                const int64_t rows = ID(inside)(w, 0, z, count_pad ? -w->pad[0] : 0, w->in[0] + (count_pad ? end[0] : 0)) *
                                     ID(inside)(w, 1, v, count_pad ? -w->pad[1] : 0, w->in[1] + (count_pad ? end[1] : 0));
                ID(aim)(w, &l, z, v);
                for (int64_t at = 0; at < w->out[2]; at += 16) {
                    ID(powers)(16, &l, at, p, sum);
                    for (int64_t j = 0; j < MIN(w->out[2] - at, 16); j++) {
                        if (p == 0)
                            y[at + j] = (X_T)(sum[j] / (double)(rows * ID(inside)(w, 2, at + j, count_pad ? -w->pad[2] : 0,
                                                                w->in[2] + (count_pad ? end[2] : 0))));
                        else
                            y[at + j] = (X_T)(p == 1 ? sum[j] : p == 2 ? sqrt(sum[j]) : pow(sum[j], 1 / p));
                    }
                }
            }
    }
    ID(close_lines)(&l);
    return DONE;
}
#endif
#endif

#ifdef LOWEST
INLINE void ID(maximum)(const int n, const ID(Lines) *l, int64_t at, X_T *RESTRICT out)
{
    X_T best[ID(CHUNK)];
    for (int j = 0; j < n; j++)
        best[j] = l->taps[0][at + j];
    for (int64_t t = 1; t < l->count; t++) {
        const X_T *x = l->taps[t] + at;
        for (int j = 0; j < n; j++)
            best[j] = best[j] >= x[j] || IS_NAN(best[j]) ? best[j] : x[j]; /* NaN wins */
    }
    memcpy(out, best, (size_t)n * sizeof(X_T));
}

static int ID(max_pool)(const Window *w, int64_t channels, const X_T *x, X_T *y)
{
    const int64_t image = w->in[0] * w->in[1] * w->in[2];
    X_T out[ID(CHUNK)];
    ID(Lines) l;
    if (ID(open_lines)(w, &l, LOWEST))
        return NO_MEMORY;
    for (int64_t c = 0; c < channels; c++) {
        ID(fill_lines)(w, &l, x + c * image);
        for (int64_t z = 0; z < w->out[0]; z++)
            for (int64_t v = 0; v < w->out[1]; v++, y += w->out[2]) {
                ID(aim)(w, &l, z, v);
                for (int64_t at = 0; at < w->out[2]; at += 16) {
                    ID(maximum)(16, &l, at, out);
                    memcpy(y + at, out, (size_t)MIN(w->out[2] - at, 16) * sizeof(X_T));
                }
            }
    }
    ID(close_lines)(&l);
    return DONE;
}
#endif

#undef X_T
#undef S_T
#undef LOWEST
#undef MEANS
#undef IS_NAN
#undef ID
