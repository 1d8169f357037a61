// Dropout.

// 32 random bits: the upper half of what SplitMix64 gives at a place of its sequence.
__device__ inline unsigned random_bits(unsigned long long seed, unsigned long long at) {
    unsigned long long state = seed + (at + 1) * 0x9e3779b97f4a7c15ull;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ull;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebull;
    return (unsigned)((state ^ (state >> 31)) >> 32);
}

// Values [sample, value], of which those with bits below the threshold are dropped. A seed is its lower half and its upper.
template <class T, int N>
__device__ inline void dropout(const T *x, const unsigned *seeds, T *out, unsigned samples, unsigned values, unsigned lanes,
                               unsigned threshold, float scale) {
    Place p = place<N>(values, lanes);
    if (p.idle) return;
    for (unsigned sample = blockIdx.x * p.rows + p.row; sample < samples; sample += gridDim.x * p.rows) {
        Offset at = (Offset)sample * values + p.channel;
        unsigned long long seed = (unsigned long long)seeds[2 * sample + 1] << 32 | seeds[2 * sample];
        float own[N];
        load<T, N>(x + at, own);
#pragma unroll
        for (int n = 0; n < N; n++) own[n] = random_bits(seed, p.channel + n) < threshold ? 0.f : own[n] * scale;
        store<T, N>(out + at, own);
    }
}

#define DROPOUT(T, type, N) \
    KERNEL(dropout_##type##_##N, (const T *x, const unsigned *seeds, T *out, OF_MAPS, unsigned threshold, float scale), \
           (dropout<T, N>(x, seeds, out, MAPS, threshold, scale)))

DROPOUT(float, f32, 1)
DROPOUT(float, f32, 4)
DROPOUT(Bf16, bf16, 1)
DROPOUT(Bf16, bf16, 8)
