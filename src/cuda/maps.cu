// How blocks and threads share feature maps, and sums over them.

// The place of a thread in a block that works on a part of the pixels and a tile of the channels: `lanes` threads side by
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

// Sums K terms of each channel over the pixels first..last; `add(pixel, channel, sums)` adds those of a pixel, and
// `finish(term, channel, sum)` gets each sum once.
template <int N, int K, class Add, class Finish>
__device__ inline void sum_pixels(unsigned channels, unsigned lanes, unsigned first, unsigned last, Add add, Finish finish) {
    __shared__ float partial[K * N][THREADS];
    Place p = place<N>(channels, lanes);
    float sums[K][N];
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++) sums[k][n] = 0.f;
    if (!p.idle) {
#pragma unroll 4
        for (unsigned pixel = first + p.row; pixel < last; pixel += p.rows) add(pixel, p.channel, sums);
    }
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++) partial[k * N + n][threadIdx.x] = sums[k][n];
    __syncthreads();
    for (unsigned at = threadIdx.x; at < lanes * N * K; at += THREADS) {
        unsigned k = at / (lanes * N), own = at % (lanes * N);
        unsigned channel = blockIdx.y * lanes * N + own;
        if (channel >= channels) continue;
        float total = 0.f;
        for (unsigned row = 0; row < p.rows; row++) total += partial[k * N + own % N][row * lanes + own / N];
        finish(k, channel, total);
    }
}

// The same for a block that has a part of all pixels: sums of part, term and channel.
template <int N, int K, class Add>
__device__ inline void sum_part(unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float *sums, Add add) {
    unsigned first = blockIdx.x * in_part, last = min(pixels, first + in_part);
    sum_pixels<N, K>(channels, lanes, first, last, add, [&](unsigned k, unsigned channel, float sum) {
        sums[((Offset)blockIdx.x * K + k) * channels + channel] = sum;
    });
}

// Adds what the parts came to: `finish(channel, totals)`. A block has 32 channels.
template <int K, class Finish>
__device__ inline void add_parts(const float *sums, unsigned parts, unsigned channels, Finish finish) {
    __shared__ double partial[K][THREADS];
    unsigned channel = blockIdx.x * 32 + threadIdx.x % 32, row = threadIdx.x / 32;
    double totals[K];
    for (int k = 0; k < K; k++) totals[k] = 0.;
    if (channel < channels)
        for (unsigned part = row; part < parts; part += THREADS / 32)
            for (int k = 0; k < K; k++) totals[k] += sums[((Offset)part * K + k) * channels + channel];
    for (int k = 0; k < K; k++) partial[k][threadIdx.x] = totals[k];
    __syncthreads();
    if (row > 0 || channel >= channels) return;
    for (int k = 0; k < K; k++)
        for (unsigned other = 1; other < THREADS / 32; other++) totals[k] += partial[k][other * 32 + threadIdx.x];
    finish(channel, totals);
}

// Calls `change(at, pixel, channel)` for every N channels of each pixel of the block's part; `at` is where they begin.
template <int N, class Change>
__device__ inline void map_part(unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, Change change) {
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    unsigned first = blockIdx.x * in_part, last = min(pixels, first + in_part);
#pragma unroll 4
    for (unsigned pixel = first + p.row; pixel < last; pixel += p.rows) change((Offset)pixel * channels + p.channel, pixel, p.channel);
}
