/* The reference runtime's kernels as a Python extension on the buffer protocol.

   Callers (kernels.py) pass C-contiguous buffers, sizes as one buffer of int64, and which part of the work to do; here
   every size is checked against the buffers before anything is read, and the GIL is released while computing. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_common.h"

enum { VERSION = 2 }; /* of the functions' arguments: backend.py refuses a build of another version */

/* ---- one copy of the kernels per instruction set ---- */

#define ISA portable
#define ISA_NAME "portable"
#define VECTOR_BYTES 16
#define MR 4
#define NV 2
#include "_isa.h"

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9))
#define HAVE_X86 1
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx,avx2,fma,bmi,bmi2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx,avx2,fma,bmi,bmi2,f16c")
#endif
#define ISA avx2
#define ISA_NAME "avx2"
#define VECTOR_BYTES 32
#define MR 4
#define NV 3
#include "_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx,avx2,fma,bmi,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512cd"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx,avx2,fma,bmi,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512cd")
#endif
#define ISA avx512
#define ISA_NAME "avx512"
#define VECTOR_BYTES 64
#define MR 8
#define NV 3
#include "_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx,avx2,fma,bmi,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vnni"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx,avx2,fma,bmi,bmi2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vnni")
#endif
#define ISA vnni
#define ISA_NAME "vnni"
#define VECTOR_BYTES 64
#define MR 8
#define NV 3
#define BYTE_DOT(sum, u, s) (FOR_ISA(Ints))_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(u), (__m512i)(s))
#include "_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

static const Kernels *const ALL[] = {
    &kernels_portable,
#ifdef HAVE_X86
    &kernels_avx2,
    &kernels_avx512,
    &kernels_vnni,
#endif
};
static int usable = 1;         /* how many of ALL this processor runs */
static const Kernels *active = &kernels_portable;

static void find_usable(void)
{
#ifdef HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
        usable = 2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512cd")) {
            usable = 3;
            if (__builtin_cpu_supports("avx512vnni"))
                usable = 4;
        }
    }
#endif
    active = ALL[usable - 1];
}

/* ---- checking ---- */

enum { LIMIT = 1 << 30 }; /* of every size, so that no product of two overflows */

static int invalid(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return 0;
}

/* Multiplies into *total; 0 when the result would pass 2^60. */
static int times(int64_t *total, int64_t by)
{
    const int64_t most = (int64_t)1 << 60;
    if (by < 0 || (by && *total > most / by))
        return 0;
    *total *= by;
    return 1;
}

static int product_of(const int64_t *sizes, int count, int64_t *total)
{
    *total = 1;
    int zero = 0;
    for (int i = 0; i < count; i++) {
        if (sizes[i] == 0)
            zero = 1;
        else if (!times(total, sizes[i]))
            return invalid("sizes are too large");
    }
    if (zero)
        *total = 0;
    return 1;
}

/* A buffer must hold exactly count elements. */
static int holds(const Py_buffer *b, int64_t count, int64_t size, const char *what)
{
    if (b->len % size || b->len / size != count) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes, not %lld elements of %lld bytes", what, b->len,
                     (long long)count, (long long)size);
        return 0;
    }
    return 1;
}

static int sizes(const Py_buffer *b, int count, const int64_t **out)
{
    if (b->len != (Py_ssize_t)(count * (int)sizeof(int64_t)))
        return invalid("wrong number of sizes");
    const int64_t *v = b->buf;
    for (int i = 0; i < count; i++)
        if (v[i] > LIMIT || v[i] < -LIMIT)
            return invalid("a size, stride, dilation or pad is above 2^30");
    *out = v;
    return 1;
}

static int read_window(const int64_t *v, Window *w)
{
    memcpy(w, v, sizeof(Window));
    for (int i = 0; i < 3; i++) {
        if (w->in[i] < 0 || w->out[i] < 0)
            return invalid("an image size is negative");
        if (w->kernel[i] < 1 || w->stride[i] < 1 || w->dilation[i] < 1)
            return invalid("kernel sizes, strides and dilations must be at least 1");
    }
    return 1;
}

static int read_part(int part, int parts)
{
    return parts >= 1 && part >= 0 && part < parts ? 1 : invalid("part is not in [0, parts)");
}

static PyObject *finish(int status)
{
    if (status == NO_MEMORY)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static int64_t begin_of(int64_t total, int part, int parts)
{
    return total / parts * part + MIN(total % parts, part);
}

enum { WINDOW = 18 }; /* int64 fields of a Window */
_Static_assert(sizeof(Window) == WINDOW * sizeof(int64_t), "a Window is read from a buffer of int64");

/* ---- convolution ---- */

typedef struct {
    int64_t batch, groups, channels, outputs; /* channels and outputs of one group */
    Window w;
    int64_t image, positions, taps;           /* elements of one input and one output channel, and of one kernel */
} Convolution;

static int read_convolution(const Py_buffer *sizes_buffer, Convolution *c, const Py_buffer *x, int64_t x_size,
                            const Py_buffer *k, int64_t k_size, const Py_buffer *y, int64_t y_size)
{
    const int64_t *v;
    if (!sizes(sizes_buffer, 4 + WINDOW, &v))
        return 0;
    c->batch = v[0], c->groups = v[1], c->channels = v[2], c->outputs = v[3];
    if (c->batch < 0 || c->groups < 1 || c->channels < 0 || c->outputs < 0)
        return invalid("batch, groups or channels are negative");
    int64_t total;
    if (!read_window(v + 4, &c->w) || !product_of(c->w.in, 3, &c->image) || !product_of(c->w.out, 3, &c->positions) ||
        !product_of(c->w.kernel, 3, &c->taps))
        return 0;
    const int64_t xs[] = {c->batch, c->groups, c->channels, c->image};
    const int64_t ks[] = {c->groups, c->outputs, c->channels, c->taps};
    const int64_t ys[] = {c->batch, c->groups, c->outputs, c->positions};
    return product_of(xs, 4, &total) && holds(x, total, x_size, "x") && product_of(ks, 4, &total) &&
           holds(k, total, k_size, "w") && product_of(ys, 4, &total) && holds(y, total, y_size, "y");
}

/* The patches of the image at `data`; a 1x1 convolution's are the image itself. */
static Matrix patches(const Convolution *c, const void *data)
{
    const Window *w = &c->w;
    int plain = c->taps == 1;
    for (int i = 0; i < 3; i++)
        plain = plain && w->stride[i] == 1 && w->pad[i] == 0 && w->in[i] == w->out[i];
    return (Matrix){.window = plain ? NULL : w, .data = data, .row = c->positions, .column = 1};
}

/* How a product of `rows` x `columns`, done `times` times, is cut for `parts` threads: along columns while they are
   many, else along rows. */
typedef struct {
    int64_t units, per, m_pieces, n_pieces;
} Cut;

static Cut cut(int64_t repeats, int64_t rows, int64_t columns, int parts)
{
    Cut c = {.m_pieces = 1, .n_pieces = 1};
    const int64_t want = repeats ? (parts + repeats - 1) / repeats : 1;
    if (columns >= 96 * want)
        c.n_pieces = want;
    else
        c.m_pieces = MIN(want, MAX(rows / 8, 1));
    c.per = c.m_pieces * c.n_pieces;
    c.units = repeats * c.per;
    return c;
}

static PyObject *convolve(PyObject *self, PyObject *args)
{
    Py_buffer x, k, bias, y, size;
    int is_double, precise, part, parts, status = DONE;
    (void)self;
    if (!PyArg_ParseTuple(args, "ppy*y*z*w*y*ii", &is_double, &precise, &x, &k, &bias, &y, &size, &part, &parts))
        return NULL;
    const int64_t item = is_double ? 8 : 4;
    Convolution c;
    int ok = read_part(part, parts) && read_convolution(&size, &c, &x, item, &k, item, &y, item) &&
             (!bias.obj || holds(&bias, c.groups * c.outputs, item, "bias"));
    if (ok && c.batch && c.outputs && c.positions) {
        Py_BEGIN_ALLOW_THREADS
        const int64_t K = c.channels * c.taps, M = c.outputs;
        const char *bias_at = bias.buf;
        if (c.channels == 1 && c.groups > 1) {
            const int64_t outputs = c.groups * M, total = c.batch * outputs;
            int64_t o = begin_of(total, part, parts), end = begin_of(total, part + 1, parts);
            while (o < end && status == DONE) {
                const int64_t b = o / outputs, o0 = o % outputs, o1 = MIN(outputs, o0 + end - o);
                const char *from = (const char *)x.buf + b * c.groups * c.image * item;
                char *to = (char *)y.buf + b * outputs * c.positions * item;
                if (is_double)
                    status = active->depthwise_f64(&c.w, o0, o1, M, (const double *)from, k.buf, bias.buf, (double *)to);
                else
                    status = (precise ? active->depthwise_precise : active->depthwise_f32)(
                        &c.w, o0, o1, M, (const float *)from, k.buf, bias.buf, (float *)to);
                o += o1 - o0;
            }
        } else {
            const Cut pieces = cut(c.batch * c.groups, M, c.positions, parts);
            for (int64_t u = begin_of(pieces.units, part, parts);
                 u < begin_of(pieces.units, part + 1, parts) && status == DONE; u++) {
                const int64_t bg = u / pieces.per, g = bg % c.groups, piece = u % pieces.per;
                const int64_t mi = piece / pieces.n_pieces, ni = piece % pieces.n_pieces;
                const int64_t m0 = begin_of(M, (int)mi, (int)pieces.m_pieces), m1 = begin_of(M, (int)mi + 1, (int)pieces.m_pieces);
                const int64_t n0 = begin_of(c.positions, (int)ni, (int)pieces.n_pieces);
                const int64_t n1 = begin_of(c.positions, (int)ni + 1, (int)pieces.n_pieces);
                const Matrix b = patches(&c, (const char *)x.buf + bg * c.channels * c.image * item);
                const char *a = (const char *)k.buf + (g * M + m0) * K * item;
                const char *init = bias_at ? bias_at + (g * M + m0) * item : NULL;
                char *to = (char *)y.buf + ((bg * M + m0) * c.positions + n0) * item;
                if (is_double)
                    status = active->gemm_f64(m1 - m0, K, (const double *)a, K, &b, n0, n1, (const double *)init, 0,
                                              (double *)to, c.positions);
                else
                    status = (precise ? active->gemm_precise : active->gemm_f32)(
                        m1 - m0, K, (const float *)a, K, &b, n0, n1, (const float *)init, 0, (float *)to, c.positions);
            }
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&k);
    if (bias.obj)
        PyBuffer_Release(&bias);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    return ok ? finish(status) : NULL;
}

/* ---- matrix product ---- */

typedef struct {
    int64_t batch, M, N, K, a_row, b_row, b_column;
    const int64_t *a_at, *b_at; /* where each product's matrices begin */
} Multiplication;

static int read_multiplication(const Py_buffer *size, const Py_buffer *offsets, Multiplication *m, const Py_buffer *a,
                               const Py_buffer *b, int64_t in_size, const Py_buffer *y, int64_t y_size)
{
    const int64_t *v;
    if (!sizes(size, 7, &v))
        return 0;
    m->batch = v[0], m->M = v[1], m->N = v[2], m->K = v[3], m->a_row = v[4], m->b_row = v[5], m->b_column = v[6];
    for (int i = 0; i < 7; i++)
        if (v[i] < 0)
            return invalid("sizes and strides of a matrix must not be negative");
    if (!holds(offsets, 2 * m->batch, 8, "offsets"))
        return 0;
    m->a_at = offsets->buf;
    m->b_at = m->a_at + m->batch;
    int64_t total;
    const int64_t ys[] = {m->batch, m->M, m->N};
    if (!product_of(ys, 3, &total) || !holds(y, total, y_size, "y"))
        return 0;
    if (total == 0 || m->K == 0)
        return 1;
    const int64_t a_span = (m->M - 1) * m->a_row + m->K;
    const int64_t b_span = (m->K - 1) * m->b_row + (m->N - 1) * m->b_column + 1;
    for (int64_t i = 0; i < m->batch; i++)
        if (m->a_at[i] < 0 || m->b_at[i] < 0 || m->a_at[i] > a->len / in_size - a_span ||
            m->b_at[i] > b->len / in_size - b_span)
            return invalid("a matrix lies outside its buffer");
    return 1;
}

static PyObject *multiply(PyObject *self, PyObject *args)
{
    Py_buffer a, b, y, size, offsets;
    int is_double, precise, accumulate, part, parts, status = DONE;
    (void)self;
    if (!PyArg_ParseTuple(args, "pppy*y*w*y*y*ii", &is_double, &precise, &accumulate, &a, &b, &y, &size, &offsets, &part,
                          &parts))
        return NULL;
    const int64_t item = is_double ? 8 : 4;
    Multiplication p;
    const int ok = read_part(part, parts) && read_multiplication(&size, &offsets, &p, &a, &b, item, &y, item);
    if (ok && p.batch && p.M && p.N) {
        Py_BEGIN_ALLOW_THREADS
        const Cut pieces = cut(p.batch, p.M, p.N, parts);
        for (int64_t u = begin_of(pieces.units, part, parts);
             u < begin_of(pieces.units, part + 1, parts) && status == DONE; u++) {
            const int64_t i = u / pieces.per, piece = u % pieces.per;
            const int64_t mi = piece / pieces.n_pieces, ni = piece % pieces.n_pieces;
            const int64_t m0 = begin_of(p.M, (int)mi, (int)pieces.m_pieces), m1 = begin_of(p.M, (int)mi + 1, (int)pieces.m_pieces);
            const int64_t n0 = begin_of(p.N, (int)ni, (int)pieces.n_pieces), n1 = begin_of(p.N, (int)ni + 1, (int)pieces.n_pieces);
            const Matrix right = {.data = (const char *)b.buf + p.b_at[i] * item, .row = p.b_row, .column = p.b_column};
            const char *left = (const char *)a.buf + (p.a_at[i] + m0 * p.a_row) * item;
            char *to = (char *)y.buf + ((i * p.M + m0) * p.N + n0) * item;
            if (is_double)
                status = active->gemm_f64(m1 - m0, p.K, (const double *)left, p.a_row, &right, n0, n1, NULL, accumulate,
                                          (double *)to, p.N);
            else
                status = (precise ? active->gemm_precise : active->gemm_f32)(
                    m1 - m0, p.K, (const float *)left, p.a_row, &right, n0, n1, NULL, accumulate, (float *)to, p.N);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&a);
    PyBuffer_Release(&b);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    PyBuffer_Release(&offsets);
    return ok ? finish(status) : NULL;
}

/* ---- integers ---- */

/* Reads how sums become outputs: kind 0 int32, 1 uint8, 2 int8. */
static int read_output(int kind, int zero, Output *o)
{
    if (kind < 0 || kind > 2)
        return invalid("the output is 0 (int32), 1 (uint8) or 2 (int8)");
    if (kind && (zero < (kind == 2 ? -128 : 0) || zero > (kind == 2 ? 127 : 255)))
        return invalid("the output's zero point is outside its type");
    *o = (Output){.requantize = kind > 0, .is_signed = kind == 2, .zero = zero};
    return 1;
}

static PyObject *integer_convolve(PyObject *self, PyObject *args)
{
    Py_buffer x, k, y, size, k_zero, bias, scale;
    int x_signed, k_signed, kind, x_zero, zero, saturate, part, parts, status = DONE;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*y*y*z*z*ppiiipii", &x, &k, &y, &size, &k_zero, &bias, &scale, &x_signed,
                          &k_signed, &kind, &x_zero, &zero, &saturate, &part, &parts))
        return NULL;
    Convolution c;
    Output o;
    int ok = read_part(part, parts) && read_output(kind, zero, &o) &&
             ((x_zero >= (x_signed ? -128 : 0) && x_zero <= (x_signed ? 127 : 255)) ||
              invalid("the input's zero point is outside its type")) &&
             read_convolution(&size, &c, &x, 1, &k, 1, &y, kind ? 1 : 4) &&
             holds(&k_zero, c.groups * c.outputs, 4, "w_zero") &&
             (!bias.obj || holds(&bias, c.groups * c.outputs, 4, "bias")) &&
             (!kind || (scale.obj ? holds(&scale, c.groups * c.outputs, 4, "scale") : invalid("scale is missing")));
    if (ok && c.batch && c.outputs && c.positions) {
        Py_BEGIN_ALLOW_THREADS
        const int64_t K = c.channels * c.taps, M = c.outputs;
        const int32_t b_zero = x_zero;
        const Cut pieces = cut(c.batch * c.groups, M, c.positions, parts);
        for (int64_t u = begin_of(pieces.units, part, parts);
             u < begin_of(pieces.units, part + 1, parts) && status == DONE; u++) {
            const int64_t bg = u / pieces.per, g = bg % c.groups, piece = u % pieces.per;
            const int64_t mi = piece / pieces.n_pieces, ni = piece % pieces.n_pieces;
            const int64_t m0 = begin_of(M, (int)mi, (int)pieces.m_pieces), m1 = begin_of(M, (int)mi + 1, (int)pieces.m_pieces);
            const int64_t n0 = begin_of(c.positions, (int)ni, (int)pieces.n_pieces);
            const int64_t n1 = begin_of(c.positions, (int)ni + 1, (int)pieces.n_pieces);
            const int64_t first = g * M + m0;
            const Product p = {.M = m1 - m0, .K = K, .a = (const uint8_t *)k.buf + first * K, .a_signed = k_signed,
                               .b_signed = x_signed, .a_zero = (const int32_t *)k_zero.buf + first, .b_zero = &b_zero,
                               .b = patches(&c, (const char *)x.buf + bg * c.channels * c.image),
                               .weights_left = 1, .saturate = saturate && k_signed};
            o.bias = bias.buf ? (const int32_t *)bias.buf + first : NULL;
            o.scale = scale.buf ? (const float *)scale.buf + first : NULL;
            o.scale_row = 1;
            char *to = (char *)y.buf + ((bg * M + m0) * c.positions + n0) * (kind ? 1 : 4);
            status = active->product(&p, n0, n1, &o, to, c.positions);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&k);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    PyBuffer_Release(&k_zero);
    if (bias.obj)
        PyBuffer_Release(&bias);
    if (scale.obj)
        PyBuffer_Release(&scale);
    return ok ? finish(status) : NULL;
}

static PyObject *integer_multiply(PyObject *self, PyObject *args)
{
    Py_buffer a, b, y, size, offsets, a_zero, b_zero, scale;
    int a_signed, b_signed, kind, zero, scale_row, scale_column, saturate, part, parts, status = DONE;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*y*y*y*y*z*ppiipppii", &a, &b, &y, &size, &offsets, &a_zero, &b_zero, &scale,
                          &a_signed, &b_signed, &kind, &zero, &scale_row, &scale_column, &saturate, &part, &parts))
        return NULL;
    Multiplication m;
    Output o;
    int ok = read_part(part, parts) && read_output(kind, zero, &o) &&
             read_multiplication(&size, &offsets, &m, &a, &b, 1, &y, kind ? 1 : 4) &&
             (m.a_row == m.K || m.M <= 1 || invalid("rows of a must follow each other")) && holds(&a_zero, m.M, 4, "a_zero") &&
             (b_zero.len == 4 || holds(&b_zero, m.N, 4, "b_zero")) &&
             (!kind || (scale.obj ? holds(&scale, scale_row ? m.M : scale_column ? m.N : 1, 4, "scale")
                                  : invalid("scale is missing"))) &&
             (!(scale_row && scale_column) || invalid("scale varies over rows or over columns"));
    if (ok && m.batch && m.M && m.N) {
        Py_BEGIN_ALLOW_THREADS
        const Cut pieces = cut(m.batch, m.M, m.N, parts);
        for (int64_t u = begin_of(pieces.units, part, parts);
             u < begin_of(pieces.units, part + 1, parts) && status == DONE; u++) {
            const int64_t i = u / pieces.per, piece = u % pieces.per;
            const int64_t mi = piece / pieces.n_pieces, ni = piece % pieces.n_pieces;
            const int64_t m0 = begin_of(m.M, (int)mi, (int)pieces.m_pieces), m1 = begin_of(m.M, (int)mi + 1, (int)pieces.m_pieces);
            const int64_t n0 = begin_of(m.N, (int)ni, (int)pieces.n_pieces), n1 = begin_of(m.N, (int)ni + 1, (int)pieces.n_pieces);
            const Product p = {.M = m1 - m0, .K = m.K, .a = (const uint8_t *)a.buf + m.a_at[i] + m0 * m.K,
                               .a_signed = a_signed, .b_signed = b_signed, .a_zero = (const int32_t *)a_zero.buf + m0,
                               .b_zero = b_zero.buf, .b_zero_step = b_zero.len > 4,
                               .b = {.data = (const char *)b.buf + m.b_at[i], .row = m.b_row, .column = m.b_column},
                               .saturate = saturate && b_signed};
            o.scale = scale.buf ? (const float *)scale.buf + (scale_row ? m0 : 0) : NULL;
            o.scale_row = scale_row;
            o.scale_column = scale_column;
            char *to = (char *)y.buf + ((i * m.M + m0) * m.N + n0) * (kind ? 1 : 4);
            status = active->product(&p, n0, n1, &o, to, m.N);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&a);
    PyBuffer_Release(&b);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&a_zero);
    PyBuffer_Release(&b_zero);
    if (scale.obj)
        PyBuffer_Release(&scale);
    return ok ? finish(status) : NULL;
}

/* Products by shifts and additions alone: y (M, N) += x (M, K) times weights whose terms are +-2^s, as +-(s + 1). */
static void shift_rows(const int32_t *x, const int8_t *terms, int64_t *y, int64_t rows, const int64_t *size)
{
    const int64_t K = size[1], N = size[2], T = size[3];
    for (int64_t m = 0; m < rows; m++) {
        int64_t *to = y + m * N;
        memset(to, 0, (size_t)N * sizeof(int64_t));
        for (int64_t t = 0; t < T; t++)
            for (int64_t k = 0; k < K; k++) {
                const uint64_t value = (uint64_t)(int64_t)x[m * K + k];
                const int8_t *row = terms + (t * K + k) * N;
                for (int64_t n = 0; n < N; n++) {
                    if (row[n] > 0)
                        to[n] = (int64_t)((uint64_t)to[n] + (value << (row[n] - 1)));
                    else if (row[n] < 0)
                        to[n] = (int64_t)((uint64_t)to[n] - (value << (-row[n] - 1)));
                }
            }
    }
}

static PyObject *shift_multiply(PyObject *self, PyObject *args)
{
    Py_buffer x, terms, y, size;
    int part, parts;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*y*ii", &x, &terms, &y, &size, &part, &parts))
        return NULL;
    const int64_t *v = NULL;
    int64_t left, weights, result;
    int ok = read_part(part, parts) && sizes(&size, 4, &v) &&
             ((v[0] >= 0 && v[1] >= 0 && v[2] >= 0 && v[3] >= 0) || invalid("a size is negative")) &&
             product_of((int64_t[]){v[0], v[1]}, 2, &left) && product_of((int64_t[]){v[3], v[1], v[2]}, 3, &weights) &&
             product_of((int64_t[]){v[0], v[2]}, 2, &result) && holds(&x, left, 4, "x") &&
             holds(&terms, weights, 1, "terms") && holds(&y, result, 8, "y");
    for (int64_t i = 0; ok && i < weights; i++)
        if (((int8_t *)terms.buf)[i] > 32 || ((int8_t *)terms.buf)[i] < -32)
            ok = invalid("a shift is over 31");
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        const int64_t m0 = begin_of(v[0], part, parts), m1 = begin_of(v[0], part + 1, parts);
        shift_rows((const int32_t *)x.buf + m0 * v[1], terms.buf, (int64_t *)y.buf + m0 * v[2], m1 - m0, v);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&terms);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    return ok ? finish(DONE) : NULL;
}

/* ---- pooling and shifts of images ---- */

/* Element types: f float32, d float64, B uint8, b int8. */
static int64_t size_of(int type)
{
    return type == 'd' ? 8 : type == 'f' ? 4 : type == 'B' || type == 'b' ? 1 : 0;
}

static PyObject *pool(PyObject *self, PyObject *args)
{
    Py_buffer x, y, size;
    int kind, type, count_pad, part, parts, status = DONE;
    double p;
    (void)self;
    if (!PyArg_ParseTuple(args, "iCy*w*y*pdii", &kind, &type, &x, &y, &size, &count_pad, &p, &part, &parts))
        return NULL;
    const int64_t *v, item = size_of(type);
    int64_t image, positions, total, taps;
    Window w;
    int ok = read_part(part, parts) && sizes(&size, 1 + WINDOW + 3, &v) && read_window(v + 1, &w) &&
             (v[0] >= 0 || invalid("channels are negative")) && (item || invalid("the type is none of f, d, B, b")) &&
             (kind == 0 || item >= 4 || invalid("averages and norms are of floating-point numbers")) &&
             (kind == 0 || kind == 1 || (kind == 2 && p > 0) || invalid("the norm's p must be above 0")) &&
             product_of(w.in, 3, &image) && product_of(w.out, 3, &positions) && product_of(w.kernel, 3, &taps);
    if (ok) {
        const int64_t xs[] = {v[0], image}, ys[] = {v[0], positions};
        ok = product_of(xs, 2, &total) && holds(&x, total, item, "x") && product_of(ys, 2, &total) &&
             holds(&y, total, item, "y");
    }
    if (ok && v[0] && positions) {
        Py_BEGIN_ALLOW_THREADS
        const int64_t c0 = begin_of(v[0], part, parts), n = begin_of(v[0], part + 1, parts) - c0;
        const void *from = (const char *)x.buf + c0 * image * item;
        void *to = (char *)y.buf + c0 * positions * item;
        const int64_t *end = v + 1 + WINDOW;
        if (kind == 0)
            status = type == 'f' ? active->max_pool_f32(&w, n, from, to) : type == 'd' ? active->max_pool_f64(&w, n, from, to)
                   : type == 'B' ? active->max_pool_u8(&w, n, from, to) : active->max_pool_s8(&w, n, from, to);
        else if (type == 'd')
            status = active->mean_or_norm_f64(&w, n, from, to, count_pad, end, kind == 1 ? 0 : p);
        else
            status = active->mean_or_norm_f32(&w, n, from, to, count_pad, end, kind == 1 ? 0 : p);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    return ok ? finish(status) : NULL;
}

/* y[b][c][o] = x[b][c][o * stride + offset[c]], 0 outside: the one tap per channel of a shift. */
static PyObject *shift(PyObject *self, PyObject *args)
{
    Py_buffer x, y, size, offset;
    int item, part, parts;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*w*y*y*ii", &item, &x, &y, &size, &offset, &part, &parts))
        return NULL;
    const int64_t *v;
    int64_t image, positions, total;
    int ok = read_part(part, parts) && sizes(&size, 11, &v) && (item >= 1 || invalid("the element size is not positive"));
    for (int i = 0; ok && i < 11; i++)
        ok = v[i] >= (i >= 8) || invalid("sizes must not be negative, strides at least 1");
    if (ok) {
        const int64_t offsets[] = {v[1], 3};
        ok = product_of(v + 2, 3, &image) && product_of(v + 5, 3, &positions) && product_of(offsets, 2, &total) &&
             holds(&offset, total, 8, "offset");
        const int64_t xs[] = {v[0], v[1], image}, ys[] = {v[0], v[1], positions};
        ok = ok && product_of(xs, 3, &total) && holds(&x, total, item, "x") && product_of(ys, 3, &total) &&
             holds(&y, total, item, "y");
        const int64_t *o = offset.buf;
        for (int64_t i = 0; ok && i < 3 * v[1]; i++)
            ok = (o[i] >= -LIMIT && o[i] <= LIMIT) || invalid("an offset is above 2^30");
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        const int64_t *in = v + 2, *out = v + 5, *stride = v + 8, channels = v[0] * v[1];
        for (int64_t c = begin_of(channels, part, parts); c < begin_of(channels, part + 1, parts); c++) {
            const int64_t *o = (const int64_t *)offset.buf + c % v[1] * 3;
            const char *from = (const char *)x.buf + c * image * item;
            char *to = (char *)y.buf + c * positions * item;
            memset(to, 0, (size_t)(positions * item));
            for (int64_t z = 0; z < out[0]; z++)
                for (int64_t r = 0; r < out[1]; r++, to += out[2] * item) {
                    const int64_t iz = z * stride[0] + o[0], ir = r * stride[1] + o[1];
                    if (iz < 0 || iz >= in[0] || ir < 0 || ir >= in[1])
                        continue;
                    const char *line = from + (iz * in[1] + ir) * in[2] * item;
                    for (int64_t q = 0; q < out[2]; q++) {
                        const int64_t iq = q * stride[2] + o[2];
                        if (iq >= 0 && iq < in[2])
                            memcpy(to + q * item, line + iq * item, (size_t)item);
                    }
                }
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    PyBuffer_Release(&size);
    PyBuffer_Release(&offset);
    return ok ? finish(DONE) : NULL;
}

/* ---- quantize and dequantize ---- */

/* Element (o, a, i) of (outer, axis, inner) uses scale and zero point number o * per_outer + a / block * per_block + i *
   per_inner: all 0 for one scale, per_block 1 for an axis, all three for blocks. */
static PyObject *affine(PyObject *args, int quantizing)
{
    static const int64_t SIZES[] = {1, 1, 2, 2, 4};
    Py_buffer x, y, scale, zero, size;
    int type, part, parts;
    if (!PyArg_ParseTuple(args, "iy*w*y*y*y*ii", &type, &x, &y, &scale, &zero, &size, &part, &parts))
        return NULL;
    const int64_t *v;
    int64_t total = 0, count = 0;
    int ok = read_part(part, parts) && sizes(&size, 7, &v) &&
             ((type >= U8 && type <= (quantizing ? S16 : S32)) || invalid("the integer type is unknown"));
    for (int i = 0; ok && i < 7; i++)
        ok = v[i] >= (i == 3) || invalid("sizes must not be negative, blocks at least 1");
    ok = ok && (v[6] <= 1 || invalid("scales of neighbours must be neighbours")) && product_of(v, 3, &total) &&
         holds(&x, total, quantizing ? 4 : SIZES[type], "x") && holds(&y, total, quantizing ? SIZES[type] : 4, "y") &&
         (scale.len % 4 == 0 || invalid("scale is not float32")) && holds(&zero, scale.len / 4, 4, "zero point");
    for (int64_t i = 0; ok && quantizing && i < scale.len / 4; i++)
        ok = (((const int32_t *)zero.buf)[i] <= 65535 && ((const int32_t *)zero.buf)[i] >= -65535) ||
             invalid("a zero point is outside its type");
    if (ok && total) {
        const double last = (double)(v[0] - 1) * (double)v[4] + (double)((v[1] - 1) / v[3]) * (double)v[5] +
                            (double)(v[2] - 1) * (double)v[6];
        count = scale.len / 4;
        ok = last < (double)count || invalid("scale has too few elements");
    }
    if (ok && total) {
        Py_BEGIN_ALLOW_THREADS
        const int64_t axis = v[1], inner = v[2], block = v[3];
        const int64_t in_size = quantizing ? 4 : SIZES[type], out_size = quantizing ? SIZES[type] : 4;
        /* One row: neighbours that share a scale or have neighbouring scales. */
        const int whole = v[4] == 0 && v[5] == 0 && v[6] == 0, along = !whole && inner == 1 && block == 1 && v[5] == 1;
        const int64_t length = whole ? total : along ? axis : inner, rows = total / length;
        for (int64_t r = begin_of(rows, part, parts); r < begin_of(rows, part + 1, parts); r++) {
            const int64_t o = along || whole ? r : r / axis, a = along || whole ? 0 : r % axis;
            const int64_t at = whole ? 0 : o * v[4] + a / block * v[5];
            const Affine map = {.scale = (const float *)scale.buf + at, .zero = (const int32_t *)zero.buf + at,
                                .step = along ? 1 : whole ? 0 : v[6]};
            const char *from = (const char *)x.buf + r * length * in_size;
            char *to = (char *)y.buf + r * length * out_size;
            if (quantizing)
                active->quantize((const float *)from, to, (Stored)type, length, map);
            else
                active->dequantize(from, (Stored)type, (float *)to, length, map);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    PyBuffer_Release(&scale);
    PyBuffer_Release(&zero);
    PyBuffer_Release(&size);
    return ok ? finish(DONE) : NULL;
}

static PyObject *quantize(PyObject *self, PyObject *args)
{
    (void)self;
    return affine(args, 1);
}

static PyObject *dequantize(PyObject *self, PyObject *args)
{
    (void)self;
    return affine(args, 0);
}

/* ---- the module ---- */

static PyObject *level(PyObject *self, PyObject *args)
{
    const char *name = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "|s", &name))
        return NULL;
    if (name) {
        int i = 0;
        while (i < usable && strcmp(ALL[i]->name, name))
            i++;
        if (i == usable)
            return PyErr_Format(PyExc_ValueError, "this processor has no instruction set '%s'", name);
        active = ALL[i];
    }
    return PyUnicode_FromString(active->name);
}

static PyObject *levels(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    PyObject *names = PyTuple_New(usable);
    for (int i = 0; names && i < usable; i++) {
        PyObject *name = PyUnicode_FromString(ALL[i]->name);
        if (!name || PyTuple_SetItem(names, i, name)) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

static PyMethodDef METHODS[] = {
    {"convolve", convolve, METH_VARARGS, NULL},
    {"multiply", multiply, METH_VARARGS, NULL},
    {"integer_convolve", integer_convolve, METH_VARARGS, NULL},
    {"integer_multiply", integer_multiply, METH_VARARGS, NULL},
    {"shift_multiply", shift_multiply, METH_VARARGS, NULL},
    {"pool", pool, METH_VARARGS, NULL},
    {"shift", shift, METH_VARARGS, NULL},
    {"quantize", quantize, METH_VARARGS, NULL},
    {"dequantize", dequantize, METH_VARARGS, NULL},
    {"level", level, METH_VARARGS, "The instruction set in use, after switching to the one named, if any."},
    {"levels", levels, METH_NOARGS, "The instruction sets this processor can use, slowest first."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    find_usable();
    PyObject *module = PyModule_Create(&MODULE);
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION)) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
