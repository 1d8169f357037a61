// Samples as they are stored, [slot, byte]: decoded and encoded, copied into slots, and cut out of images and maps.
//
// `last` is the last slot there is: a number beyond it is taken for that one, so that nothing outside is touched.

// 16 bits, 11 of them precise.
struct Half {
    unsigned short bits;
};

__device__ inline float to_float(Half x) { return half_to_float(x.bits); }
__device__ inline float to_float(unsigned char x) { return (float)x; }

// The nearest value of a type to a multiple of its scale, of two the even one; says whether the value fits the type.
__device__ inline bool fit(float *out, float x, float) {
    *out = x;
    return (float_to_bits(x) & 0x7f800000u) != 0x7f800000u;
}
__device__ inline bool fit(Bf16 *out, float x, float) {
    set(out, x);
    return (out->bits & 0x7f80u) != 0x7f80u;
}
__device__ inline bool fit(Half *out, float x, float) {
    out->bits = float_to_half(x);
    return (out->bits & 0x7c00u) != 0x7c00u;
}
__device__ inline bool fit(unsigned char *out, float x, float scale) {
    float y = x / scale;
    // Below 256 the sum has no room for what is behind the point, and is rounded as all sums are.
    y = y >= 255.f ? 255.f : y > 0.f ? (y + 8388608.f) - 8388608.f : 0.f;
    *out = (unsigned char)y;
    return x >= 0.f && (float_to_bits(x) & 0x7f800000u) != 0x7f800000u;
}

// Where a value that is `at`-th in [pixel, channel] lies in [channel, pixel].
__device__ inline unsigned in_planes(unsigned at, unsigned pixels, unsigned channels) {
    return at % channels * pixels + at / channels;
}

// A thread has N values side by side.
template <class From, class T, int N>
__device__ inline void decode(const From *stored, const unsigned *slots, T *out, unsigned count, unsigned values, float scale,
                              unsigned last) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned sample = at / (values / N), first = at % (values / N) * N;
    float x[N];
    load<From, N>(stored + (Offset)min(slots[sample], last) * values + first, x);
#pragma unroll
    for (int n = 0; n < N; n++) x[n] *= scale;
    store<T, N>(out + (Offset)at * N, x);
}

template <class T, class To, int N>
__device__ inline void encode(const T *x, const unsigned *slots, To *stored, unsigned char *fault, unsigned count, unsigned values,
                              float scale, unsigned last) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned sample = at / (values / N), first = at % (values / N) * N;
    float own[N];
    load<T, N>(x + (Offset)at * N, own);
    Vector<To, N> vector;
    bool fits = true;
#pragma unroll
    for (int n = 0; n < N; n++) fits &= fit(&vector.at[n], own[n], scale);
    *reinterpret_cast<Vector<To, N> *>(stored + (Offset)min(slots[sample], last) * values + first) = vector;
    // Whoever finds a fault writes the same.
    if (!fits) *fault = 1;
}

// The same for samples that are [channel, pixel]. A thread has one value.
template <class From, class T>
__device__ inline void decode_planes(const From *stored, const unsigned *slots, T *out, unsigned count, unsigned pixels,
                                     unsigned channels, float scale, unsigned last) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned values = pixels * channels;
    Offset first = (Offset)min(slots[at / values], last) * values;
    set(&out[at], to_float(stored[first + in_planes(at % values, pixels, channels)]) * scale);
}

template <class T, class To>
__device__ inline void encode_planes(const T *x, const unsigned *slots, To *stored, unsigned char *fault, unsigned count,
                                     unsigned pixels, unsigned channels, float scale, unsigned last) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned values = pixels * channels;
    Offset first = (Offset)min(slots[at / values], last) * values;
    if (!fit(&stored[first + in_planes(at % values, pixels, channels)], to_float(x[at]), scale)) *fault = 1;
}

// Copies rows of bytes into slots. A thread has N bytes.
template <int N>
__device__ inline void put(const unsigned char *rows, const unsigned *slots, unsigned char *stored, unsigned count, unsigned bytes,
                           unsigned last) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned row = at / (bytes / N), first = at % (bytes / N) * N;
    unsigned char *to = stored + (Offset)min(slots[row], last) * bytes + first;
    *reinterpret_cast<Vector<unsigned char, N> *>(to) = *reinterpret_cast<const Vector<unsigned char, N> *>(rows + (Offset)at * N);
}

// Normalised windows of images [channel, side, side]: first row, first column, and whether it is mirrored, of each. What
// lies beyond the image is black.
template <class T>
__device__ inline void show(const unsigned char *images, const unsigned *slots, const int *offsets, const float *table, T *out,
                            unsigned count, unsigned size, unsigned side, unsigned channels, unsigned last) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned channel = at % channels, x = at / channels % size, y = at / channels / size % size;
    unsigned sample = at / channels / size / size;
    const int *offset = offsets + 3 * sample;
    int row = offset[0] + (int)y, column = offset[1] + (int)(offset[2] ? size - 1 - x : x);
    unsigned byte = 0;
    if (row >= 0 && row < (int)side && column >= 0 && column < (int)side)
        byte = images[((Offset)min(slots[sample], last) * channels + channel) * side * side + row * side + column];
    set(&out[at], table[channel * 256 + byte]);
}

// Squares out of maps [sample, height, width, channel], from their own first row and column on. A thread has N channels.
template <class T, int N>
__device__ inline void cut(const T *x, const unsigned *offsets, T *out, unsigned count, unsigned size, unsigned height, unsigned width,
                           unsigned channels) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned parts = channels / N, column = at / parts % size, row = at / parts / size % size, sample = at / parts / size / size;
    row += min(offsets[2 * sample], height - size);
    column += min(offsets[2 * sample + 1], width - size);
    const T *from = x + (((Offset)sample * height + row) * width + column) * channels + at % parts * N;
    *reinterpret_cast<Vector<T, N> *>(out + (Offset)at * N) = *reinterpret_cast<const Vector<T, N> *>(from);
}

// The types of stored values and of maps, and how many values a thread has, are in the names.
#define STORED_BY(S, stored, T, type, N) \
    KERNEL(decode_##stored##_##type##_##N, \
           (const S *from, const unsigned *slots, T *out, unsigned count, unsigned values, float scale, unsigned last), \
           (decode<S, T, N>(from, slots, out, count, values, scale, last))) \
    KERNEL(encode_##type##_##stored##_##N, \
           (const T *x, const unsigned *slots, S *to, unsigned char *fault, unsigned count, unsigned values, float scale, \
            unsigned last), \
           (encode<T, S, N>(x, slots, to, fault, count, values, scale, last)))

#define STORED(S, stored, T, type) \
    STORED_BY(S, stored, T, type, 1) \
    STORED_BY(S, stored, T, type, 8) \
    KERNEL(decode_planes_##stored##_##type, \
           (const S *from, const unsigned *slots, T *out, unsigned count, unsigned pixels, unsigned channels, float scale, \
            unsigned last), \
           (decode_planes<S, T>(from, slots, out, count, pixels, channels, scale, last))) \
    KERNEL(encode_planes_##type##_##stored, \
           (const T *x, const unsigned *slots, S *to, unsigned char *fault, unsigned count, unsigned pixels, unsigned channels, \
            float scale, unsigned last), \
           (encode_planes<T, S>(x, slots, to, fault, count, pixels, channels, scale, last)))

#define SHOWN(T, type, N) \
    STORED(unsigned char, u8, T, type) \
    STORED(Half, f16, T, type) \
    STORED(Bf16, bf16, T, type) \
    STORED(float, f32, T, type) \
    KERNEL(show_##type, \
           (const unsigned char *images, const unsigned *slots, const int *offsets, const float *table, T *out, unsigned count, \
            unsigned size, unsigned side, unsigned channels, unsigned last), \
           (show<T>(images, slots, offsets, table, out, count, size, side, channels, last))) \
    KERNEL(cut_##type##_1, \
           (const T *x, const unsigned *offsets, T *out, unsigned count, unsigned size, unsigned height, unsigned width, \
            unsigned channels), \
           (cut<T, 1>(x, offsets, out, count, size, height, width, channels))) \
    KERNEL(cut_##type##_##N, \
           (const T *x, const unsigned *offsets, T *out, unsigned count, unsigned size, unsigned height, unsigned width, \
            unsigned channels), \
           (cut<T, N>(x, offsets, out, count, size, height, width, channels)))

SHOWN(float, f32, 4)
SHOWN(Bf16, bf16, 8)

KERNEL(put_1, (const unsigned char *rows, const unsigned *slots, unsigned char *stored, unsigned count, unsigned bytes, unsigned last),
       (put<1>(rows, slots, stored, count, bytes, last)))
KERNEL(put_16, (const unsigned char *rows, const unsigned *slots, unsigned char *stored, unsigned count, unsigned bytes, unsigned last),
       (put<16>(rows, slots, stored, count, bytes, last)))
