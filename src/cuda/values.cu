// Kernels on feature maps in NHWC order: [pixel, channel], the channels of a pixel side by side. Values are f32 or bf16
// and computed with in f32. Sums are taken in an order that depends on nothing but sizes, so that the same input gives
// the same bits.
//
// KERNEL(name, parameters, call) defines a kernel that is launched by that name. A compiler for CUDA sees this file with
// those beside it behind it; the tests' emulator defines KERNEL and the words of CUDA itself and compiles the same text as
// C++.

#ifndef KERNEL
#define KERNEL(name, parameters, call) \
    extern "C" __global__ void name parameters { call; }
__device__ inline float inverse_root(float x) { return rsqrtf(x); }
__device__ inline float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
__device__ inline unsigned float_to_bits(float x) { return __float_as_uint(x); }
__device__ inline float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline unsigned short float_to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#if __CUDA_ARCH__ >= 800
#define FLOAT_TO_BF16
__device__ inline unsigned short float_to_bf16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif
#endif

#ifndef FLOAT_TO_BF16
// To the nearest, of two to the even one; adding could turn what is not a number into one.
__device__ inline unsigned short float_to_bf16(float x) {
    unsigned bits = float_to_bits(x);
    bits = x != x ? 0x7fffffffu : bits + 0x7fffu + (bits >> 16 & 1u);
    return (unsigned short)(bits >> 16);
}
#endif

typedef unsigned long long Offset;

// Threads of every block that sums or maps feature maps.
#define THREADS 256

// The upper 16 bits of a float.
struct Bf16 {
    unsigned short bits;
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Bf16 x) { return bits_to_float((unsigned)x.bits << 16); }

__device__ inline void set(float *out, float x) { *out = x; }
__device__ inline void set(Bf16 *out, float x) { out->bits = float_to_bf16(x); }

// N values side by side, which a thread reads and writes at once.
template <class T, int N> struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

template <class T, int N> __device__ inline Vector<T, N> fetch(const T *from) {
    return *reinterpret_cast<const Vector<T, N> *>(from);
}

template <class T, int N> __device__ inline void to_floats(const Vector<T, N> &vector, float (&values)[N]) {
#pragma unroll
    for (int n = 0; n < N; n++) values[n] = to_float(vector.at[n]);
}

template <class T, int N> __device__ inline void load(const T *from, float (&values)[N]) {
    to_floats(fetch<T, N>(from), values);
}

template <class T, int N> __device__ inline void store(T *to, const float (&values)[N]) {
    Vector<T, N> vector;
#pragma unroll
    for (int n = 0; n < N; n++) set(&vector.at[n], values[n]);
    *reinterpret_cast<Vector<T, N> *>(to) = vector;
}
