// What is done value by value. A thread has one.

// The same values in another type.
template <class T, class To> __device__ inline void cast(const T *x, To *y, unsigned count) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) set(&y[at], to_float(x[at]));
}

template <class T> __device__ inline void relu_of(const T *x, T *y, unsigned count) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) set(&y[at], relu(to_float(x[at])));
}

// Sets values to zero whose random bits, of which the seed of their sample (lower and upper half) and their index in it are
// drawn, are below a threshold, and scales the others: SplitMix64 (Steele, Lea & Flood 2014).
template <class T>
__device__ inline void dropout(const T *x, const unsigned *seeds, T *y, unsigned count, unsigned values, unsigned threshold, float scale) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned sample = at / values;
    unsigned long long state = (unsigned long long)seeds[2 * sample + 1] << 32 | seeds[2 * sample];
    state += (at % values + 1ull) * 0x9e3779b97f4a7c15ull;
    state = (state ^ state >> 30) * 0xbf58476d1ce4e5b9ull;
    state = (state ^ state >> 27) * 0x94d049bb133111ebull;
    unsigned bits = (unsigned)((state ^ state >> 31) >> 32);
    set(&y[at], bits >= threshold ? to_float(x[at]) * scale : 0.f);
}

#define ELEMENTWISE(T, type) \
    KERNEL(relu_##type, (const T *x, T *y, unsigned count), (relu_of<T>(x, y, count))) \
    KERNEL(dropout_##type, \
           (const T *x, const unsigned *seeds, T *y, unsigned count, unsigned values, unsigned threshold, float scale), \
           (dropout<T>(x, seeds, y, count, values, threshold, scale)))

ELEMENTWISE(float, f32)
ELEMENTWISE(Bf16, bf16)

KERNEL(cast_f32_bf16, (const float *x, Bf16 *y, unsigned count), (cast(x, y, count)))
KERNEL(cast_bf16_f32, (const Bf16 *x, float *y, unsigned count), (cast(x, y, count)))
