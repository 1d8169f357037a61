// What is done value by value. A thread has one.

// The same values in another type.
template <class T, class To> __device__ inline void cast(const T *x, To *y, unsigned count) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) set(&y[at], to_float(x[at]));
}

KERNEL(cast_f32_bf16, (const float *x, Bf16 *y, unsigned count), (cast(x, y, count)))
KERNEL(cast_bf16_f32, (const Bf16 *x, float *y, unsigned count), (cast(x, y, count)))
