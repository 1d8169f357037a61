// Batch norm with a ReLU and average pooling behind it, in one pass: the normalised maps are written nowhere, and their
// gradient is read from that of the cells. These fill an image without overlap.

// The means of cells of normalised maps. Blocks side by side take turns at the cells.
template <class T, int N>
__device__ inline void normalise_pool(const T *x, const Norm &norm, float *y, unsigned cells, unsigned height, unsigned width,
                                      unsigned channels, unsigned side, unsigned lanes) {
    Place p = place<N>(channels, lanes);
    Line<N> line = norm.line<N>(p.idle ? 0 : p.channel);
    for (unsigned number = blockIdx.x; number < cells; number += gridDim.x) {
        average_cell<T, N>(x, y, number, height, width, channels, side, p, [&](float x, int n) {
            float result = line.y(x, n);
            return norm.rectified ? relu(result) : result;
        });
        // The rows of the next cell are added in the same memory.
        __syncthreads();
    }
}

// The cells of a batch, how many there are along an axis, and their gradients [cell, channel].
struct Cells {
    const float *grad;
    unsigned count, side, height, width;

    // Calls `use(cell, grads)` for cells that blocks side by side take turns at, with N gradients for each of their pixels.
    template <int N, class Use> __device__ inline void for_each(unsigned channels, unsigned channel, bool from_last, Use use) const {
        for (unsigned turn = blockIdx.x; turn < count; turn += gridDim.x) {
            unsigned number = from_last ? count - 1 - turn : turn;
            Cell cell = Cell::numbered(number, height, width, side);
            float grads[N], share = 1.f / (float)cell.pixels();
            load<float, N>(grad + (Offset)number * channels + channel, grads);
#pragma unroll
            for (int n = 0; n < N; n++) grads[n] *= share;
            use(cell, grads);
        }
    }
};

// As normalise_sums.
template <class T, int N>
__device__ inline void pooled_sums(const T *x, const Cells &cells, const Norm &norm, unsigned channels, unsigned lanes, float *to) {
    Place p = place<N>(channels, lanes);
    float sums[2][N] = {};
    if (!p.idle) {
        Line<N> line = norm.line<N>(p.channel);
        cells.for_each<N>(channels, p.channel, false, [&](const Cell &cell, const float (&grads)[N]) {
            cell.read<T, N, 8>(x, channels, p, [&](Offset, const float (&values)[N]) {
#pragma unroll
                for (int n = 0; n < N; n++) {
                    float own = passed(line, values[n], grads[n], norm.rectified, n);
                    sums[0][n] += own;
                    sums[1][n] += own * (values[n] - line.mean[n]);
                }
            });
        });
    }
    add_rows(p, sums);
    if (p.row == 0 && !p.idle) store_sums(to, channels, p.channel, sums);
}

// As normalise_gradient.
template <class T, int N>
__device__ inline void pooled_gradient(const T *x, const Cells &cells, const Norm &norm, const float *of_gamma, const float *of_beta,
                                       T *out, unsigned pixels, unsigned channels, unsigned lanes) {
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    Slope<N> slope(norm, of_gamma, of_beta, pixels, p.channel);
    cells.for_each<N>(channels, p.channel, true, [&](const Cell &cell, const float (&grads)[N]) {
        cell.read<T, N, 4>(x, channels, p, [&](Offset at, const float (&values)[N]) {
            float own[N];
#pragma unroll
            for (int n = 0; n < N; n++) own[n] = slope.gradient(values[n], grads[n], norm.rectified, n);
            store<T, N>(out + at, own);
        });
    });
}

#define OF_CELLS const float *grad, unsigned count, unsigned side, unsigned height, unsigned width
#define CELLS (Cells{grad, count, side, height, width})

// Kernels that take N channels a thread; type and N are in their names.
#define POOLED(T, type, N) \
    KERNEL(normalise_pool_##type##_##N, \
           (const T *x, OF_NORM, float *y, unsigned cells, unsigned height, unsigned width, unsigned channels, unsigned side, \
            unsigned lanes), \
           (normalise_pool<T, N>(x, NORM, y, cells, height, width, channels, side, lanes))) \
    KERNEL(pooled_sums_##type##_##N, (const T *x, OF_CELLS, OF_NORM, OF_MAPS, float *sums), \
           (pooled_sums<T, N>(x, CELLS, NORM, channels, lanes, sums))) \
    KERNEL(pooled_gradient_##type##_##N, \
           (const T *x, OF_CELLS, OF_NORM, const float *of_gamma, const float *of_beta, T *out, OF_MAPS), \
           (pooled_gradient<T, N>(x, CELLS, NORM, of_gamma, of_beta, out, MAPS)))

POOLED(float, f32, 1)
POOLED(float, f32, 4)
POOLED(Bf16, bf16, 1)
POOLED(Bf16, bf16, 8)
