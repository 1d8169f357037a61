// How blocks and threads share feature maps, and sums over them.

// The place of a thread in a block that works on some of the pixels and a tile of the channels: `lanes` threads side by
// side take N channels each of one pixel, and `rows` pixels are taken at once.
struct Place {
    unsigned lanes, rows, lane, row, channel;
    bool idle;
};

template <int N> __device__ inline Place place(unsigned channels, unsigned lanes) {
    Place p;
    p.lanes = lanes;
    p.rows = THREADS / lanes;
    p.lane = threadIdx.x % lanes;
    p.row = threadIdx.x / lanes;
    p.channel = (blockIdx.y * lanes + p.lane) * N;
    p.idle = p.row >= p.rows || p.channel >= channels;
    return p;
}

// Calls `use(at, read(at))` for every step from `first` on, in order. Some are read before the first of them is used, so
// that a thread waits for all of these at once.
template <int DEPTH, class Read, class Use>
__device__ inline void in_batches(unsigned first, unsigned last, unsigned step, Read read, Use use) {
    for (unsigned from = first; from < last; from += DEPTH * step) {
        decltype(read(0u)) batch[DEPTH];
#pragma unroll
        for (int n = 0; n < DEPTH; n++) batch[n] = read(min(from + n * step, last - 1));
#pragma unroll
        for (int n = 0; n < DEPTH; n++)
            if (from + n * step < last) use(from + n * step, batch[n]);
    }
}

// Feature maps of the same shape that are read together.
template <class T, int INPUTS> struct Inputs {
    const T *of[INPUTS];
};

// N channels of a pixel of each.
template <class T, int N, int INPUTS> struct Pixel {
    Vector<T, N> of[INPUTS];

    __device__ inline void to_floats(float (&values)[INPUTS][N]) const {
#pragma unroll
        for (int input = 0; input < INPUTS; input++) ::to_floats(of[input], values[input]);
    }
};

template <int N, class T, int INPUTS> __device__ inline Pixel<T, N, INPUTS> pixel_at(const Inputs<T, INPUTS> &inputs, Offset at) {
    Pixel<T, N, INPUTS> pixel;
#pragma unroll
    for (int input = 0; input < INPUTS; input++) pixel.of[input] = fetch<T, N>(inputs.of[input] + at);
    return pixel;
}

// Adds up what the rows of a block have, each K terms of N channels: the first row gets the sums of all.
template <int K, int N> __device__ inline void add_rows(const Place &p, float (&sums)[K][N]) {
    __shared__ float partial[K * N][THREADS];
    for (unsigned rows = p.rows; rows > 1;) {
        unsigned kept = (rows + 1) / 2;
        if (p.row >= kept && p.row < rows) {
#pragma unroll
            for (int at = 0; at < K * N; at++) partial[at][threadIdx.x] = sums[at / N][at % N];
        }
        __syncthreads();
        if (p.row + kept < rows) {
#pragma unroll
            for (int at = 0; at < K * N; at++) sums[at / N][at % N] += partial[at][threadIdx.x + kept * p.lanes];
        }
        rows = kept;
    }
}

// Sums K terms of each channel: `add(values, sums)` adds those of N channels of a pixel. Blocks side by side take turns at
// the pixels, and `finish(channel, sums)` gets what a block's come to.
template <int N, int K, int DEPTH, class T, int INPUTS, class Add, class Finish>
__device__ inline void sum_pixels(Inputs<T, INPUTS> inputs, unsigned pixels, unsigned channels, unsigned lanes, Add add, Finish finish) {
    Place p = place<N>(channels, lanes);
    float sums[K][N] = {};
    if (!p.idle) {
        in_batches<DEPTH>(
            blockIdx.x * p.rows + p.row, pixels, gridDim.x * p.rows,
            [&](unsigned pixel) { return pixel_at<N>(inputs, (Offset)pixel * channels + p.channel); },
            [&](unsigned, const Pixel<T, N, INPUTS> &pixel) {
                float values[INPUTS][N];
                pixel.to_floats(values);
                add(values, sums);
            });
    }
    add_rows(p, sums);
    if (p.row == 0 && !p.idle) finish(p.channel, sums);
}

// What a block's sums come to as [block, term, channel], for those who add up what all blocks have.
template <int K, int N> __device__ inline void store_sums(float *to, unsigned channels, unsigned channel, const float (&sums)[K][N]) {
#pragma unroll
    for (int k = 0; k < K; k++) store<float, N>(to + ((Offset)blockIdx.x * K + k) * channels + channel, sums[k]);
}

// Channels of a block that adds what others stored: as many f32 as memory is read of at least.
#define ADDED 8

// The channel of a thread of such a block, which may be beyond the last.
__device__ inline unsigned added_channel() { return blockIdx.x * ADDED + threadIdx.x % ADDED; }

// Adds what the blocks of another kernel stored: `finish(totals)` in one thread for each channel.
template <int K, class Finish>
__device__ inline void add_parts(const float *sums, unsigned parts, unsigned channels, Finish finish) {
    struct Terms {
        float of[K];
    };
    __shared__ double partial[K][THREADS];
    unsigned channel = added_channel(), row = threadIdx.x / ADDED;
    double totals[K] = {};
    if (channel < channels) {
        in_batches<8>(
            row, parts, THREADS / ADDED,
            [&](unsigned part) {
                Terms terms;
#pragma unroll
                for (int k = 0; k < K; k++) terms.of[k] = sums[((Offset)part * K + k) * channels + channel];
                return terms;
            },
            [&](unsigned, const Terms &terms) {
#pragma unroll
                for (int k = 0; k < K; k++) totals[k] += terms.of[k];
            });
    }
    for (int k = 0; k < K; k++) partial[k][threadIdx.x] = totals[k];
    for (unsigned half = THREADS / ADDED / 2; half > 0; half /= 2) {
        __syncthreads();
        if (row >= half) continue;
        for (int k = 0; k < K; k++) partial[k][threadIdx.x] = totals[k] += partial[k][threadIdx.x + half * ADDED];
    }
    if (row == 0 && channel < channels) finish(totals);
}

// Writes what `change(values)` leaves in the place of the first input's values, for N channels of every pixel. Blocks side
// by side take turns at the pixels, from the last to the first: what was summed just before was read in the other order,
// and the last of it may still be near.
template <int N, int DEPTH, class T, int INPUTS, class Change>
__device__ inline void map_pixels(Inputs<T, INPUTS> inputs, T *out, unsigned pixels, unsigned channels, unsigned lanes, Change change) {
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    auto at = [&](unsigned turn) { return (Offset)(pixels - 1 - turn) * channels + p.channel; };
    in_batches<DEPTH>(
        blockIdx.x * p.rows + p.row, pixels, gridDim.x * p.rows, [&](unsigned turn) { return pixel_at<N>(inputs, at(turn)); },
        [&](unsigned turn, const Pixel<T, N, INPUTS> &pixel) {
            float values[INPUTS][N];
            pixel.to_floats(values);
            change(values);
            store<T, N>(out + at(turn), values[0]);
        });
}
