// libcudnn: descriptors, the choice of algorithms, and three convolutions, by the rules that cuDNN 9 documents.
//
// Candidates come in an inconvenient order: what cannot be used, what gives other bits at every run, what rounds more than
// was asked for, what takes too much memory, and what is refused when it is run all come before what is good.

#include "convolutions.hpp"
#include "gpu.hpp"
#include <atomic>
#include <cstring>

using namespace gpu;
using convolutions::Pass;
using convolutions::Problem;

namespace {

enum Status { SUCCESS = 0, NOT_STARTED = 1001, BAD_PARAM = 2000, MISALIGNED = 2003, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum { FLOAT = 0, BFLOAT16 = 9, NHWC = 1, CROSS_CORRELATION = 1, DEFAULT_MATH = 0, TENSOR_OP = 1, ALLOW_CONVERSION = 2, FMA = 3 };

// Anything that cuDNN hands out: what is destroyed, or something else, is not taken for it.
struct Thing {
    enum Kind { HANDLE = 0x1111, TENSOR, FILTER, CONVOLUTION, GONE } kind;
};

struct Handle : Thing {
    void *stream = nullptr;
    std::atomic<int> users{0};
};

struct Tensor : Thing {
    bool set = false, packed = false;
    int type, n, c, h, w;
};

struct Filter : Thing {
    bool set = false;
    int type, k, c, r, s;
};

struct Convolution : Thing {
    bool set = false;
    int pad_h, pad_w, stride_h, stride_w, math = DEFAULT_MATH;
};

template <class T> T &check(void *given, Thing::Kind kind) {
    if (!given || ((Thing *)given)->kind != kind) fault("cuDNN was given a descriptor or handle that is none, or was destroyed");
    return *(T *)given;
}

template <class T> int create(void **made, Thing::Kind kind) {
    T *thing = new T;
    thing->kind = kind;
    *made = thing;
    return SUCCESS;
}

int destroy(void *given, Thing::Kind kind) {
    check<Thing>(given, kind).kind = Thing::GONE;
    return SUCCESS;
}

struct Use {
    Handle &handle;
    explicit Use(void *given) : handle(check<Handle>(given, Thing::HANDLE)) {
        if (handle.users++ > 0) fault("two threads use a handle of cuDNN at once");
        if (!handle.stream) fault("cuDNN was given no stream");
    }
    ~Use() { handle.users--; }
};

// What the three descriptors and that of the convolution come to together.
struct Asked {
    Status status = SUCCESS;
    Problem problem;
    bool bf16;
    int math;

    Asked(void *maps, void *filters, void *sums, void *convolution) {
        auto &x = check<Tensor>(maps, Thing::TENSOR), &y = check<Tensor>(sums, Thing::TENSOR);
        auto &w = check<Filter>(filters, Thing::FILTER);
        auto &of = check<Convolution>(convolution, Thing::CONVOLUTION);
        status = BAD_PARAM;
        if (!x.set || !y.set || !w.set || !of.set) return;
        if (x.type != y.type || x.type != w.type || x.n != y.n || x.c != w.c || y.c != w.k) return;
        problem = {x.n, x.h, x.w, x.c, w.k, w.r, w.s, y.h, y.w, of.pad_h, of.pad_w, of.stride_h, of.stride_w};
        if (y.h != (x.h + 2 * of.pad_h - w.r) / of.stride_h + 1 || y.w != (x.w + 2 * of.pad_w - w.s) / of.stride_w + 1) return;
        bf16 = x.type == BFLOAT16;
        math = of.math;
        status = SUCCESS;
    }

    // Tensor cores read 8 values of bf16 at once.
    bool odd() const { return bf16 && (problem.c % 8 || problem.k % 8); }
};

struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

// Algorithms that are refused when they are run, in each pass.
const int REFUSED[3] = {6, 5, 5};
const int GOOD[3] = {1, 1, 1};

bool same_bits(Pass pass, int algorithm) { return pass == convolutions::FORWARD || (algorithm != 0 && !(pass == convolutions::FILTER && algorithm == 3)); }

// Whether an algorithm can do it, as far as its documentation says.
bool documented(Pass pass, int algorithm, const Asked &asked) {
    if (pass == convolutions::FORWARD) return algorithm == 0 || (algorithm == 1 && !asked.odd()) || algorithm == 6 || algorithm == 5;
    if (algorithm == 0) return true;
    if (pass == convolutions::FILTER && algorithm == 3) return true;
    if (algorithm == 5) return !asked.odd();
    return algorithm == 1 && !asked.odd();
}

size_t workspace(Pass pass, int algorithm, const Asked &asked, int math) {
    const Problem &a = asked.problem;
    if (pass == convolutions::FORWARD && algorithm == 5) return 3ull << 30;
    if (algorithm == 0) return 0;
    size_t weights = (size_t)a.k * a.r * a.s * a.c * 4;
    return (weights + 1000 * algorithm) * (math == FMA ? 1 : 2);
}

// What cuDNN would list.
int list(Pass pass, const Asked &asked, int wanted, int *returned, Performance *out) {
    if (asked.status != SUCCESS || wanted < 1) return BAD_PARAM;
    int own = asked.bf16 ? TENSOR_OP : FMA, count = 0;
    auto add = [&](int algorithm, int math, int status = SUCCESS) {
        if (count == wanted || (status == SUCCESS && !documented(pass, algorithm, asked))) return;
        Performance one{};
        one.algorithm = algorithm;
        one.status = status;
        one.time = status == SUCCESS ? 0.1f + (float)count : -1.f;
        one.memory = status == SUCCESS ? workspace(pass, algorithm, asked, math) : (size_t)-1;
        one.determinism = same_bits(pass, algorithm);
        one.math = math;
        out[count++] = one;
    };
    add(pass == convolutions::FORWARD ? 7 : 4, own, NOT_SUPPORTED);
    if (!asked.bf16) add(GOOD[pass], ALLOW_CONVERSION);
    if (pass == convolutions::FORWARD) add(5, own);
    else add(0, own);
    if (pass == convolutions::FILTER) add(3, own);
    add(REFUSED[pass], own);
    add(GOOD[pass], own);
    if (pass == convolutions::FORWARD) add(0, FMA);
    *returned = count;
    return SUCCESS;
}

int run(Pass pass, void *given, const Asked &asked, int algorithm, const float *alpha, const float *beta, const void *first, const void *second,
        void *out, void *space, size_t bytes) {
    if (called("a convolution of cuDNN")) return EXECUTION_FAILED;
    Use use(given);
    if (asked.status != SUCCESS) return asked.status;
    if (*alpha != 1.f || *beta != 0.f) fault("only alpha = 1 and beta = 0 are here");
    if (!documented(pass, algorithm, asked) || algorithm == REFUSED[pass]) {
        count("algorithms refused");
        return NOT_SUPPORTED;
    }
    size_t needed = workspace(pass, algorithm, asked, asked.math);
    if (bytes < needed) return BAD_PARAM;
    if (needed && (!space || (uint64_t)space % 16)) return MISALIGNED;
    for (const void *at : {first, second, (const void *)out})
        if ((uint64_t)at % 16) return MISALIGNED;
    const Problem &a = asked.problem;
    size_t size = asked.bf16 ? 2 : 4, maps = (size_t)a.n * a.h * a.w * a.c, filters = (size_t)a.k * a.r * a.s * a.c;
    size_t sums = (size_t)a.n * a.p * a.q * a.k;
    const size_t sizes[3][3] = {{maps, filters, sums}, {filters, sums, maps}, {maps, sums, filters}};
    const size_t of_first = sizes[pass][0], of_second = sizes[pass][1], of_out = sizes[pass][2];
    std::vector<Touched> touched = {{(uint64_t)first, of_first * size, false}, {(uint64_t)second, of_second * size, false},
                                    {(uint64_t)out, of_out * size, true}};
    if (needed) touched.push_back({(uint64_t)space, bytes, true});
    // Another batch size, another kernel, other bits; and of some algorithms at every run.
    unsigned order = (unsigned)a.n * 3 + algorithm + (same_bits(pass, algorithm) ? 0 : draw() % 1000);
    bool bf16 = asked.bf16, rounds = !bf16 && asked.math != FMA;
    Problem problem = a;
    auto work = [=] {
        if (needed) memset(here<char>((uint64_t)space), POISON, bytes);
        auto read = [=](uint64_t address, size_t count) {
            std::vector<float> all(count);
            if (!bf16) memcpy(all.data(), here<float>(address), count * 4);
            else
                for (size_t at = 0; at < count; at++) {
                    uint32_t bits = (uint32_t)here<uint16_t>(address)[at] << 16;
                    memcpy(&all[at], &bits, 4);
                }
            return all;
        };
        std::vector<float> x = read((uint64_t)first, of_first), y = read((uint64_t)second, of_second), z(of_out);
        convolutions::compute(pass, problem, x.data(), y.data(), z.data(), order, rounds);
        if (!bf16) memcpy(here<float>((uint64_t)out), z.data(), of_out * 4);
        else
            for (size_t at = 0; at < of_out; at++) {
                uint32_t bits;
                memcpy(&bits, &z[at], 4);
                bits = z[at] != z[at] ? 0x7fff0000u : bits + 0x7fffu + (bits >> 16 & 1u);
                here<uint16_t>((uint64_t)out)[at] = (uint16_t)(bits >> 16);
            }
    };
    static const char *const names[] = {"a convolution", "an input gradient", "a weight gradient"};
    count(std::string(names[pass]) + " of cuDNN");
    if (!same_bits(pass, algorithm)) count("convolutions with other bits at every run");
    return submit((Stream *)use.handle.stream, {names[pass], touched, work}) ? EXECUTION_FAILED : SUCCESS;
}

} // namespace

API int cudnnCreate(void **handle) {
    if (called("cudnnCreate")) return NOT_STARTED;
    return create<Handle>(handle, Thing::HANDLE);
}

API int cudnnDestroy(void *handle) { return destroy(handle, Thing::HANDLE); }

API int cudnnSetStream(void *handle, void *stream) {
    check<Handle>(handle, Thing::HANDLE).stream = stream;
    return called("cudnnSetStream") ? BAD_PARAM : SUCCESS;
}

API size_t cudnnGetVersion() { return 91900; }

API int cudnnCreateTensorDescriptor(void **made) { return create<Tensor>(made, Thing::TENSOR); }
API int cudnnCreateFilterDescriptor(void **made) { return create<Filter>(made, Thing::FILTER); }
API int cudnnCreateConvolutionDescriptor(void **made) { return create<Convolution>(made, Thing::CONVOLUTION); }
API int cudnnDestroyTensorDescriptor(void *given) { return destroy(given, Thing::TENSOR); }
API int cudnnDestroyFilterDescriptor(void *given) { return destroy(given, Thing::FILTER); }
API int cudnnDestroyConvolutionDescriptor(void *given) { return destroy(given, Thing::CONVOLUTION); }

// Feature maps here are NHWC, all of their values side by side.
API int cudnnSetTensor4dDescriptor(void *given, int format, int type, int n, int c, int h, int w) {
    auto &own = check<Tensor>(given, Thing::TENSOR);
    if (n <= 0 || c <= 0 || h <= 0 || w <= 0) return BAD_PARAM;
    if (format != NHWC || (type != FLOAT && type != BFLOAT16)) return NOT_SUPPORTED;
    if ((uint64_t)n * c * h * w > 0x7fffffffull) return NOT_SUPPORTED;
    own.set = true;
    own.type = type, own.n = n, own.c = c, own.h = h, own.w = w;
    return SUCCESS;
}

API int cudnnSetTensor4dDescriptorEx(void *given, int type, int n, int c, int h, int w, int n_step, int c_step, int h_step, int w_step) {
    if (c_step != 1 || w_step != c || h_step != w * c || n_step != h * w * c) return NOT_SUPPORTED;
    return cudnnSetTensor4dDescriptor(given, NHWC, type, n, c, h, w);
}

API int cudnnSetFilter4dDescriptor(void *given, int type, int format, int k, int c, int r, int s) {
    auto &own = check<Filter>(given, Thing::FILTER);
    if (k <= 0 || c <= 0 || r <= 0 || s <= 0) return BAD_PARAM;
    if (format != NHWC || (type != FLOAT && type != BFLOAT16)) return NOT_SUPPORTED;
    own.set = true;
    own.type = type, own.k = k, own.c = c, own.r = r, own.s = s;
    return SUCCESS;
}

API int cudnnSetConvolution2dDescriptor(void *given, int pad_h, int pad_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int mode,
                                        int type) {
    auto &own = check<Convolution>(given, Thing::CONVOLUTION);
    if (pad_h < 0 || pad_w < 0 || stride_h <= 0 || stride_w <= 0 || mode != CROSS_CORRELATION) return BAD_PARAM;
    if (type != FLOAT || dilation_h != 1 || dilation_w != 1) return NOT_SUPPORTED;
    own.set = true;
    own.pad_h = pad_h, own.pad_w = pad_w, own.stride_h = stride_h, own.stride_w = stride_w;
    return SUCCESS;
}

API int cudnnSetConvolutionMathType(void *given, int math) {
    if (math < 0 || math > 3) return BAD_PARAM;
    check<Convolution>(given, Thing::CONVOLUTION).math = math;
    return SUCCESS;
}

API int cudnnGetConvolutionForwardAlgorithm_v7(void *handle, void *x, void *w, void *of, void *y, int wanted, int *count, Performance *out) {
    Use use(handle);
    if (called("cudnnGetConvolutionForwardAlgorithm_v7")) return EXECUTION_FAILED;
    return list(convolutions::FORWARD, Asked(x, w, y, of), wanted, count, out);
}

API int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *handle, void *w, void *dy, void *of, void *dx, int wanted, int *count, Performance *out) {
    Use use(handle);
    if (called("cudnnGetConvolutionBackwardDataAlgorithm_v7")) return EXECUTION_FAILED;
    return list(convolutions::DATA, Asked(dx, w, dy, of), wanted, count, out);
}

API int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *handle, void *x, void *dy, void *of, void *dw, int wanted, int *count, Performance *out) {
    Use use(handle);
    if (called("cudnnGetConvolutionBackwardFilterAlgorithm_v7")) return EXECUTION_FAILED;
    return list(convolutions::FILTER, Asked(x, dw, dy, of), wanted, count, out);
}

static int workspace_of(Pass pass, void *handle, const Asked &asked, int algorithm, size_t *bytes) {
    Use use(handle);
    if (called("a workspace query of cuDNN")) return EXECUTION_FAILED;
    if (asked.status != SUCCESS) return asked.status;
    if (!documented(pass, algorithm, asked)) return NOT_SUPPORTED;
    *bytes = workspace(pass, algorithm, asked, asked.math);
    return SUCCESS;
}

API int cudnnGetConvolutionForwardWorkspaceSize(void *handle, void *x, void *w, void *of, void *y, int algorithm, size_t *bytes) {
    return workspace_of(convolutions::FORWARD, handle, Asked(x, w, y, of), algorithm, bytes);
}

API int cudnnGetConvolutionBackwardDataWorkspaceSize(void *handle, void *w, void *dy, void *of, void *dx, int algorithm, size_t *bytes) {
    return workspace_of(convolutions::DATA, handle, Asked(dx, w, dy, of), algorithm, bytes);
}

API int cudnnGetConvolutionBackwardFilterWorkspaceSize(void *handle, void *x, void *dy, void *of, void *dw, int algorithm, size_t *bytes) {
    return workspace_of(convolutions::FILTER, handle, Asked(x, dw, dy, of), algorithm, bytes);
}

API int cudnnConvolutionForward(void *handle, const void *alpha, void *of_x, const void *x, void *of_w, const void *w, void *of, int algorithm,
                                void *space, size_t bytes, const void *beta, void *of_y, void *y) {
    return run(convolutions::FORWARD, handle, Asked(of_x, of_w, of_y, of), algorithm, (const float *)alpha, (const float *)beta, x, w, y, space, bytes);
}

API int cudnnConvolutionBackwardData(void *handle, const void *alpha, void *of_w, const void *w, void *of_dy, const void *dy, void *of, int algorithm,
                                     void *space, size_t bytes, const void *beta, void *of_dx, void *dx) {
    return run(convolutions::DATA, handle, Asked(of_dx, of_w, of_dy, of), algorithm, (const float *)alpha, (const float *)beta, w, dy, dx, space, bytes);
}

API int cudnnConvolutionBackwardFilter(void *handle, const void *alpha, void *of_x, const void *x, void *of_dy, const void *dy, void *of, int algorithm,
                                       void *space, size_t bytes, const void *beta, void *of_dw, void *dw) {
    return run(convolutions::FILTER, handle, Asked(of_x, of_dw, of_dy, of), algorithm, (const float *)alpha, (const float *)beta, x, dy, dw, space, bytes);
}
