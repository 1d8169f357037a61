// Pooling, space-to-depth, and the order of values.

// The first position that a cell covers along an axis, and the position after the last.
__device__ inline unsigned cell_first(unsigned cell, unsigned size, unsigned side) { return cell * size / side; }
__device__ inline unsigned cell_end(unsigned cell, unsigned size, unsigned side) { return ((cell + 1) * size + side - 1) / side; }

// Divides by one number over and over: by a product, and exactly.
struct Divisor {
    unsigned by;
    unsigned long long inverse;

    __device__ inline explicit Divisor(unsigned by) : by(by), inverse(~0ull / by + 1) {}

    __device__ inline unsigned quotient(unsigned x) const {
        unsigned long long low = (x * (inverse & 0xffffffffull)) >> 32;
        return by == 1 ? x : (unsigned)((x * (inverse >> 32) + low) >> 32);
    }
};

// A cell of an image: the pixels that are averaged.
struct Cell {
    unsigned rows, columns, width;
    Offset first;
    Divisor by_columns;

    // By its number among those of all images.
    __device__ static inline Cell numbered(unsigned number, unsigned height, unsigned width, unsigned side) {
        unsigned image = number / (side * side), row = number / side % side, column = number % side;
        unsigned top = cell_first(row, height, side), left = cell_first(column, width, side);
        unsigned columns = cell_end(column, width, side) - left;
        Offset first = ((Offset)image * height + top) * width + left;
        return Cell{cell_end(row, height, side) - top, columns, width, first, Divisor(columns)};
    }

    __device__ inline unsigned pixels() const { return rows * columns; }

    // Calls `use(at, values)` for N channels of the pixels of a thread; `at` is where they begin.
    template <class T, int N, int DEPTH, class Use>
    __device__ inline void read(const T *x, unsigned channels, const Place &p, Use use) const {
        auto at = [&](unsigned pixel) {
            unsigned row = by_columns.quotient(pixel);
            return (first + (Offset)row * width + (pixel - row * columns)) * channels + p.channel;
        };
        in_batches<DEPTH>(
            p.row, pixels(), p.rows, [&](unsigned pixel) { return fetch<T, N>(x + at(pixel)); },
            [&](unsigned pixel, const Vector<T, N> &vector) {
                float values[N];
                to_floats(vector, values);
                use(at(pixel), values);
            });
    }
};

// The mean of what the values of a cell come to, by a whole block.
template <class T, int N, class Change>
__device__ inline void average_cell(const T *x, float *y, unsigned number, unsigned height, unsigned width, unsigned channels,
                                    unsigned side, const Place &p, Change change) {
    Cell cell = Cell::numbered(number, height, width, side);
    float sums[1][N] = {};
    if (!p.idle) {
        cell.read<T, N, 8>(x, channels, p, [&](Offset, const float (&values)[N]) {
#pragma unroll
            for (int n = 0; n < N; n++) sums[0][n] += change(values[n], n);
        });
    }
    add_rows(p, sums);
    if (p.row > 0 || p.idle) return;
    float share = 1.f / (float)cell.pixels();
#pragma unroll
    for (int n = 0; n < N; n++) sums[0][n] *= share;
    store<float, N>(y + (Offset)number * channels + p.channel, sums[0]);
}

// A block has a cell.
template <class T, int N>
__device__ inline void pool(const T *x, float *y, unsigned height, unsigned width, unsigned channels, unsigned side, unsigned lanes) {
    average_cell<T, N>(x, y, blockIdx.x, height, width, channels, side, place<N>(channels, lanes), [](float x, int) { return x; });
}

// The gradients of all cells that cover a pixel: mostly one, and those beside it where cells overlap. SIDE is how many cells
// there are along an axis, where the compiler is to know it, else 0.
template <class T, int N, unsigned SIDE>
__device__ inline void pool_gradient(const float *grad, T *out, unsigned pixels, unsigned height, unsigned width, unsigned channels,
                                     unsigned cells, unsigned lanes) {
    const unsigned side = SIDE ? SIDE : cells;
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    Divisor by_height(height), by_width(width);
    for (unsigned pixel = blockIdx.x * p.rows + p.row; pixel < pixels; pixel += gridDim.x * p.rows) {
        unsigned line = by_width.quotient(pixel), column = pixel - line * width;
        unsigned image = by_height.quotient(line), row = line - image * height;
        float values[N] = {};
        for (unsigned y = by_height.quotient(row * side); y < side && cell_first(y, height, side) <= row; y++)
            for (unsigned x = by_width.quotient(column * side); x < side && cell_first(x, width, side) <= column; x++) {
                unsigned rows = cell_end(y, height, side) - cell_first(y, height, side);
                unsigned columns = cell_end(x, width, side) - cell_first(x, width, side);
                float share = 1.f / (float)(rows * columns), grads[N];
                load<float, N>(grad + (((Offset)image * side + y) * side + x) * channels + p.channel, grads);
#pragma unroll
                for (int n = 0; n < N; n++) values[n] += grads[n] * share;
            }
        store<T, N>(out + (Offset)pixel * channels + p.channel, values);
    }
}

// 2x2 squares into channels, in the order of PyTorch's pixel_unshuffle. A thread has one value of the result.
template <class T>
__device__ inline void space_to_depth(const T *x, T *y, unsigned count, unsigned width, unsigned channels) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned deep = at % (4 * channels), square = at / (4 * channels);
    unsigned channel = deep / 4, down = deep / 2 % 2, right = deep % 2;
    // Rows of squares follow each other over all images, since the height is even.
    unsigned row = square / (width / 2), column = square % (width / 2);
    y[at] = x[((Offset)(2 * row + down) * width + 2 * column + right) * channels + channel];
}

// Windows of max pooling. What lies outside the image counts for nothing.
struct Windows {
    unsigned height, width, channels, side, stride, padding, rows, columns;
};

// The place of the largest value of a window: the first of equal ones, the last that is not a number.
template <class T> __device__ inline Offset largest(const T *x, const Windows &w, unsigned image, unsigned row, unsigned column, unsigned channel) {
    unsigned top = max(row * w.stride, w.padding) - w.padding, bottom = min(row * w.stride + w.side - w.padding, w.height);
    unsigned left = max(column * w.stride, w.padding) - w.padding, right = min(column * w.stride + w.side - w.padding, w.width);
    Offset best = (((Offset)image * w.height + top) * w.width + left) * w.channels + channel;
    for (unsigned y_at = top; y_at < bottom; y_at++)
        for (unsigned x_at = left; x_at < right; x_at++) {
            Offset place = (((Offset)image * w.height + y_at) * w.width + x_at) * w.channels + channel;
            float value = to_float(x[place]);
            if (value > to_float(x[best]) || value != value) best = place;
        }
    return best;
}

template <class T> __device__ inline void max_pool(const T *x, T *y, unsigned count, Windows w) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned channel = at % w.channels, column = at / w.channels % w.columns;
    unsigned row = at / w.channels / w.columns % w.rows, image = at / w.channels / w.columns / w.rows;
    y[at] = x[largest(x, w, image, row, column, channel)];
}

// A thread has one value of the input and asks all windows that hold it.
template <class T> __device__ inline void max_pool_gradient(const T *x, const T *grad, T *out, unsigned count, Windows w) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned channel = at % w.channels, x_at = at / w.channels % w.width;
    unsigned y_at = at / w.channels / w.width % w.height, image = at / w.channels / w.width / w.height;
    y_at += w.padding, x_at += w.padding;
    float sum = 0.f;
    unsigned top = y_at < w.side ? 0 : (y_at - w.side) / w.stride + 1, left = x_at < w.side ? 0 : (x_at - w.side) / w.stride + 1;
    for (unsigned row = top; row < w.rows && row * w.stride <= y_at; row++)
        for (unsigned column = left; column < w.columns && column * w.stride <= x_at; column++)
            if (largest(x, w, image, row, column, channel) == at)
                sum += to_float(grad[(((Offset)image * w.rows + row) * w.columns + column) * w.channels + channel]);
    set(&out[at], sum);
}

// [batch, a, b] -> [batch, b, a]. A thread has one value of the result.
template <class T> __device__ inline void exchange(const T *x, T *y, unsigned count, unsigned a, unsigned b) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned inner = at % a, outer = at / a % b, image = at / a / b;
    y[at] = x[((Offset)image * a + inner) * b + outer];
}

// Pixels of other numbers of channels: those beyond get zeros, or are left out.
template <class T> __device__ inline void widen(const T *x, T *y, unsigned count, unsigned channels, unsigned wide) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned channel = at % wide;
    Offset from = (Offset)(at / wide) * channels + channel;
    if (channel < channels) y[at] = x[from];
    else set(&y[at], 0.f);
}

// Kernels that take N channels a thread; type and N are in their names.
#define POOL(T, type, N) \
    KERNEL(pool_##type##_##N, \
           (const T *x, float *y, unsigned height, unsigned width, unsigned channels, unsigned side, unsigned lanes), \
           (pool<T, N>(x, y, height, width, channels, side, lanes))) \
    KERNEL(pool_gradient_##type##_##N, \
           (const float *grad, T *out, unsigned height, unsigned width, OF_MAPS, unsigned side), \
           (pool_gradient<T, N, 0>(grad, out, pixels, height, width, channels, side, lanes))) \
    KERNEL(pool_gradient_2_##type##_##N, (const float *grad, T *out, unsigned height, unsigned width, OF_MAPS), \
           (pool_gradient<T, N, 2>(grad, out, pixels, height, width, channels, 2, lanes)))

POOL(float, f32, 1)
POOL(float, f32, 4)
POOL(Bf16, bf16, 1)
POOL(Bf16, bf16, 8)

// Kernels that take one value a thread; the type is in their names.
#define PIXELS(T, type) \
    KERNEL(space_to_depth_##type, (const T *x, T *y, unsigned count, unsigned width, unsigned channels), \
           (space_to_depth<T>(x, y, count, width, channels))) \
    KERNEL(max_pool_##type, \
           (const T *x, T *y, unsigned count, unsigned height, unsigned width, unsigned channels, unsigned side, unsigned stride, \
            unsigned padding, unsigned rows, unsigned columns), \
           (max_pool<T>(x, y, count, Windows{height, width, channels, side, stride, padding, rows, columns}))) \
    KERNEL(max_pool_gradient_##type, \
           (const T *x, const T *grad, T *out, unsigned count, unsigned height, unsigned width, unsigned channels, unsigned side, \
            unsigned stride, unsigned padding, unsigned rows, unsigned columns), \
           (max_pool_gradient<T>(x, grad, out, count, Windows{height, width, channels, side, stride, padding, rows, columns}))) \
    KERNEL(widen_##type, (const T *x, T *y, unsigned count, unsigned channels, unsigned wide), (widen<T>(x, y, count, channels, wide))) \
    KERNEL(exchange_##type, (const T *x, T *y, unsigned count, unsigned a, unsigned b), (exchange<T>(x, y, count, a, b)))

PIXELS(float, f32)
PIXELS(Bf16, bf16)
