// Kernels on feature maps in NHWC order: [pixel, channel] with the channels of a pixel side by side. Values are f32 or
// bf16 and computed with in f32. Sums are taken in an order that depends on nothing but the sizes, so that the same
// input gives the same bits.
//
// KERNEL(name, parameters, call) defines a kernel that can be launched by that name. A compiler for CUDA sees nothing
// but this file; the tests' emulator defines KERNEL and the words of CUDA itself and compiles the same file as C++.

#ifndef KERNEL
#define KERNEL(name, parameters, call) \
    extern "C" __global__ void name parameters { call; }
#endif

// The upper 16 bits of a float.
struct Bf16 {
    unsigned short bits;
};

__device__ inline float value(float x) { return x; }
__device__ inline float value(Bf16 x) { return bits_to_float((unsigned)x.bits << 16); }
