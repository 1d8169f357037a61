// libcublas: matrix products, column by column.

#include "gpu.hpp"
#include <atomic>
#include <cstring>

using namespace gpu;

namespace {

enum { SUCCESS = 0, NOT_STARTED = 1, INVALID = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68 };

struct Handle {
    void *stream = nullptr;
    std::atomic<int> users{0};
};

struct Use {
    Handle &handle;
    explicit Use(Handle &handle) : handle(handle) {
        if (handle.users++ > 0) fault("two threads use a handle of cuBLAS at once");
    }
    ~Use() { handle.users--; }
};

float value(const char *from, int type, size_t at) {
    if (type == R_32F) return ((const float *)from)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

void set(char *to, int type, size_t at, float x) {
    if (type == R_32F) {
        ((float *)to)[at] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = x != x ? 0x7fff0000u : bits + 0x7fffu + (bits >> 16 & 1u);
    ((uint16_t *)to)[at] = (uint16_t)(bits >> 16);
}

} // namespace

API int cublasCreate_v2(void **handle) {
    if (called("cublasCreate_v2")) return NOT_STARTED;
    *handle = new Handle;
    return SUCCESS;
}

API int cublasDestroy_v2(void *handle) {
    delete (Handle *)handle;
    return called("cublasDestroy_v2") ? NOT_STARTED : SUCCESS;
}

API int cublasSetStream_v2(void *handle, void *stream) {
    ((Handle *)handle)->stream = stream;
    return called("cublasSetStream_v2") ? NOT_STARTED : SUCCESS;
}

API int cublasDgemmStridedBatched(...) { return NOT_SUPPORTED; }

API int cublasGemmStridedBatchedEx(void *given, int of_a, int of_b, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda,
                                   long long a_stride, const void *b, int b_type, int ldb, long long b_stride, const void *beta, void *c,
                                   int c_type, int ldc, long long c_stride, int batch, int compute, int) {
    if (called("cublasGemmStridedBatchedEx")) return EXECUTION_FAILED;
    Handle &handle = *(Handle *)given;
    Use use(handle);
    if (!handle.stream) fault("cuBLAS was given no stream");
    if (m <= 0 || n <= 0 || k <= 0 || batch <= 0) return INVALID;
    if (lda < (of_a ? k : m) || ldb < (of_b ? n : k) || ldc < m) return INVALID;
    if (a_type != b_type || a_type != c_type || (a_type != R_32F && a_type != R_16BF)) return NOT_SUPPORTED;
    // Nothing may be rounded to fewer bits first.
    if (compute != COMPUTE_32F) fault("a matrix product is not computed in f32");
    float scale = *(const float *)alpha, kept = *(const float *)beta;
    size_t size = a_type == R_32F ? 4 : 2;
    auto bytes = [&](int ld, int rows, int columns, long long stride) {
        return size * ((size_t)(columns - 1) * ld + rows + (size_t)(batch - 1) * stride);
    };
    uint64_t at_a = (uint64_t)a, at_b = (uint64_t)b, at_c = (uint64_t)c;
    std::vector<Touched> touched = {{at_a, bytes(lda, of_a ? k : m, of_a ? m : k, a_stride), false},
                                    {at_b, bytes(ldb, of_b ? n : k, of_b ? k : n, b_stride), false},
                                    {at_c, bytes(ldc, m, n, c_stride), true}};
    auto run = [=] {
        for (int one = 0; one < batch; one++) {
            const char *x = here<char>(at_a) + size * one * a_stride, *y = here<char>(at_b) + size * one * b_stride;
            char *z = here<char>(at_c) + size * one * c_stride;
            // Columns of the first, side by side.
            std::vector<float> columns((size_t)m * k), sums(m);
            for (int at = 0; at < k; at++)
                for (int row = 0; row < m; row++)
                    columns[(size_t)at * m + row] = value(x, a_type, of_a ? (size_t)row * lda + at : (size_t)at * lda + row);
            for (int column = 0; column < n; column++) {
                sums.assign(m, 0.f);
                for (int at = 0; at < k; at++) {
                    float factor = value(y, a_type, of_b ? (size_t)at * ldb + column : (size_t)column * ldb + at);
                    for (int row = 0; row < m; row++) sums[row] += columns[(size_t)at * m + row] * factor;
                }
                for (int row = 0; row < m; row++) {
                    size_t place = (size_t)column * ldc + row;
                    set(z, a_type, place, scale * sums[row] + (kept != 0 ? kept * value(z, a_type, place) : 0.f));
                }
            }
        }
    };
    count("matrix products");
    return submit((Stream *)handle.stream, {"a matrix product", touched, run}) ? EXECUTION_FAILED : SUCCESS;
}
