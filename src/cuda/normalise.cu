// Batch norm with a ReLU, its gradients, and biases.
//
// Where pixels are few, a block sums all of those of some channels and goes on with the totals; else many blocks store
// sums, a second kernel adds them, and a third goes on.

// Where mean and biased variance of a batch are written, and the running ones, where these are `moved`: running = kept *
// running + share * new, with a share for each.
struct Moments {
    float *mean, *variance, *running_mean, *running_variance;
    unsigned moved;
    float kept, of_mean, of_variance;
};

// The running statistics of N channels as they are, read before anything has to be waited for.
template <int N> __device__ inline void read_running(const Moments &to, unsigned channel, float (&running)[2][N]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        running[0][n] = to.moved ? to.running_mean[channel + n] : 0.f;
        running[1][n] = to.moved ? to.running_variance[channel + n] : 0.f;
    }
}

// Writes the moments of N channels from the sums of distances from `centre`, and of their squares.
template <int N, class Sum>
__device__ inline void write_moments(const Moments &to, unsigned channel, unsigned pixels, const float (&centre)[N],
                                     const Sum (&sums)[2][N], const float (&running)[2][N]) {
    double share = 1. / pixels;
#pragma unroll
    for (int n = 0; n < N; n++) {
        double distance = sums[0][n] * share, squared = sums[1][n] * share - distance * distance;
        // Below zero is rounding; what is not a number stays so.
        float mean = (float)(centre[n] + distance), variance = squared < 0. ? 0.f : (float)squared;
        to.mean[channel + n] = mean;
        to.variance[channel + n] = variance;
        if (!to.moved) continue;
        to.running_mean[channel + n] = to.kept * running[0][n] + to.of_mean * mean;
        to.running_variance[channel + n] = to.kept * running[1][n] + to.of_variance * variance;
    }
}

// Sums the distances from the first pixel, which lies near enough to the mean that no digits are lost when the square of
// the mean distance is taken off; and their squares: `finish(channel, centre, sums)`.
template <class T, int N, class Finish>
__device__ inline void sum_distances(const T *x, unsigned pixels, unsigned channels, unsigned lanes, Finish finish) {
    Place p = place<N>(channels, lanes);
    float centre[N];
    load<T, N>(x + (p.idle ? 0 : p.channel), centre);
    sum_pixels<N, 2, 8>(
        Inputs<T, 1>{{x}}, pixels, channels, lanes,
        [&](const float (&values)[1][N], float (&sums)[2][N]) {
#pragma unroll
            for (int n = 0; n < N; n++) {
                float distance = values[0][n] - centre[n];
                sums[0][n] += distance;
                sums[1][n] += distance * distance;
            }
        },
        [&](unsigned channel, const float (&sums)[2][N]) { finish(channel, centre, sums); });
}

template <class T, int N>
__device__ inline void moments(const T *x, unsigned pixels, unsigned channels, unsigned lanes, float *to) {
    sum_distances<T, N>(x, pixels, channels, lanes, [&](unsigned channel, const float (&)[N], const float (&sums)[2][N]) {
        store_sums(to, channels, channel, sums);
    });
}

template <class T>
__device__ inline void end_moments(const T *x, const float *sums, unsigned parts, unsigned pixels, unsigned channels, Moments to) {
    unsigned channel = min(added_channel(), channels - 1);
    float centre[1] = {to_float(x[channel])}, running[2][1];
    read_running(to, channel, running);
    add_parts<2>(sums, parts, channels, [&](const double (&totals)[2]) {
        const double terms[2][1] = {{totals[0]}, {totals[1]}};
        write_moments(to, channel, pixels, centre, terms, running);
    });
}

// y = (x - mean) * scale + shift of N channels.
template <int N> struct Line {
    float mean[N], inverse[N], scale[N], shift[N];

    __device__ inline Line(const float *means, const float *variances, const float *gamma, const float *beta, float epsilon,
                           unsigned channel) {
        load<float, N>(means + channel, mean);
        load<float, N>(variances + channel, inverse);
        load<float, N>(gamma + channel, scale);
        load<float, N>(beta + channel, shift);
#pragma unroll
        for (int n = 0; n < N; n++) {
            inverse[n] = inverse_root(inverse[n] + epsilon);
            scale[n] *= inverse[n];
        }
    }

    __device__ inline float y(float x, int n) const { return fmaf(x - mean[n], scale[n], shift[n]); }
};

__device__ inline float relu(float x) { return x < 0.f ? 0.f : x; }

// Where the values of a line lie, and what belongs to it.
struct Norm {
    const float *means, *variances, *gamma, *beta;
    float epsilon;
    unsigned rectified;

    template <int N> __device__ inline Line<N> line(unsigned channel) const {
        return Line<N>(means, variances, gamma, beta, epsilon, channel);
    }
};

template <class T, int N>
__device__ inline void normalise(const T *x, const Norm &norm, T *y, unsigned pixels, unsigned channels, unsigned lanes) {
    Place p = place<N>(channels, lanes);
    Line<N> line = norm.line<N>(p.idle ? 0 : p.channel);
    map_pixels<N, 4>(Inputs<T, 1>{{x}}, y, pixels, channels, lanes, [&](float (&values)[1][N]) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            float result = line.y(values[0][n], n);
            values[0][n] = norm.rectified ? relu(result) : result;
        }
    });
}

// Moments and normalised maps of few pixels.
template <class T, int N>
__device__ inline void normalise_few(const T *x, const Norm &norm, T *y, unsigned pixels, unsigned channels, unsigned lanes, Moments to) {
    Place p = place<N>(channels, lanes);
    float running[2][N];
    read_running(to, p.idle ? 0 : p.channel, running);
    sum_distances<T, N>(x, pixels, channels, lanes, [&](unsigned channel, const float (&centre)[N], const float (&sums)[2][N]) {
        write_moments(to, channel, pixels, centre, sums, running);
    });
    __syncthreads();
    normalise<T, N>(x, norm, y, pixels, channels, lanes);
}

// The gradient of what went through a line, where the result passed the ReLU.
template <int N> __device__ inline float passed(const Line<N> &line, float x, float grad, unsigned rectified, int n) {
    return rectified && line.y(x, n) <= 0.f ? 0.f : grad;
}

// Sums the gradients that passed, and the same times the distance from the mean: `finish(channel, line, sums)`.
template <class T, int N, class Finish>
__device__ inline void sum_gradients(const T *x, const T *grad, const Norm &norm, unsigned pixels, unsigned channels, unsigned lanes,
                                     Finish finish) {
    Place p = place<N>(channels, lanes);
    Line<N> line = norm.line<N>(p.idle ? 0 : p.channel);
    sum_pixels<N, 2, 4>(
        Inputs<T, 2>{{x, grad}}, pixels, channels, lanes,
        [&](const float (&values)[2][N], float (&sums)[2][N]) {
#pragma unroll
            for (int n = 0; n < N; n++) {
                float own = passed(line, values[0][n], values[1][n], norm.rectified, n);
                sums[0][n] += own;
                sums[1][n] += own * (values[0][n] - line.mean[n]);
            }
        },
        [&](unsigned channel, const float (&sums)[2][N]) { finish(channel, line, sums); });
}

template <class T, int N>
__device__ inline void normalise_sums(const T *x, const T *grad, const Norm &norm, unsigned pixels, unsigned channels, unsigned lanes,
                                      float *to) {
    sum_gradients<T, N>(x, grad, norm, pixels, channels, lanes, [&](unsigned channel, const Line<N> &, const float (&sums)[2][N]) {
        store_sums(to, channels, channel, sums);
    });
}

// Gradients of scale and shift.
__device__ inline void end_normalise_sums(const float *sums, const float *variances, unsigned parts, unsigned channels, float epsilon,
                                          float *gamma, float *beta) {
    unsigned channel = min(added_channel(), channels - 1);
    float inverse = inverse_root(variances[channel] + epsilon);
    add_parts<2>(sums, parts, channels, [&](const double (&totals)[2]) {
        beta[channel] = (float)totals[0];
        gamma[channel] = (float)(totals[1] * inverse);
    });
}

// The gradient of N channels of the input, from those of scale and shift: what passed, freed of its mean, and of its slope
// along the distance from the mean.
template <int N> struct Slope {
    Line<N> line;
    float plain[N], slope[N];

    __device__ inline Slope(const Norm &norm, const float *of_gamma, const float *of_beta, unsigned pixels, unsigned channel)
        : line(norm.line<N>(channel)) {
        load<float, N>(of_beta + channel, plain);
        load<float, N>(of_gamma + channel, slope);
        float share = 1.f / (float)pixels;
#pragma unroll
        for (int n = 0; n < N; n++) {
            plain[n] *= share;
            slope[n] *= share * line.inverse[n];
        }
    }

    __device__ inline float gradient(float x, float grad, unsigned rectified, int n) const {
        return line.scale[n] * (passed(line, x, grad, rectified, n) - plain[n] - (x - line.mean[n]) * slope[n]);
    }
};

template <class T, int N>
__device__ inline void normalise_gradient(const T *x, const T *grad, const Norm &norm, const float *of_gamma, const float *of_beta,
                                          T *out, unsigned pixels, unsigned channels, unsigned lanes) {
    Place p = place<N>(channels, lanes);
    Slope<N> slope(norm, of_gamma, of_beta, pixels, p.idle ? 0 : p.channel);
    map_pixels<N, 4>(Inputs<T, 2>{{x, grad}}, out, pixels, channels, lanes, [&](float (&values)[2][N]) {
#pragma unroll
        for (int n = 0; n < N; n++) values[0][n] = slope.gradient(values[0][n], values[1][n], norm.rectified, n);
    });
}

// All three gradients of few pixels.
template <class T, int N>
__device__ inline void normalise_gradients_few(const T *x, const T *grad, const Norm &norm, T *out, float *gamma, float *beta,
                                               unsigned pixels, unsigned channels, unsigned lanes) {
    sum_gradients<T, N>(x, grad, norm, pixels, channels, lanes, [&](unsigned channel, const Line<N> &line, const float (&sums)[2][N]) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            beta[channel + n] = sums[0][n];
            gamma[channel + n] = sums[1][n] * line.inverse[n];
        }
    });
    __syncthreads();
    normalise_gradient<T, N>(x, grad, norm, gamma, beta, out, pixels, channels, lanes);
}

// sum = kept * sum + share * new
__device__ inline void blend(float *sum, const float *fresh, unsigned count, float kept, float share) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) sum[at] = kept * sum[at] + share * fresh[at];
}

template <class T, int N>
__device__ inline void add_bias(T *x, const float *bias, unsigned pixels, unsigned channels, unsigned lanes, unsigned rectified) {
    Place p = place<N>(channels, lanes);
    float own[N];
    load<float, N>(bias + (p.idle ? 0 : p.channel), own);
    map_pixels<N, 4>(Inputs<T, 1>{{x}}, x, pixels, channels, lanes, [&](float (&values)[1][N]) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            float result = values[0][n] + own[n];
            values[0][n] = rectified ? relu(result) : result;
        }
    });
}

template <class T, int N>
__device__ inline void relu(const T *x, T *out, unsigned pixels, unsigned channels, unsigned lanes) {
    map_pixels<N, 4>(Inputs<T, 1>{{x}}, out, pixels, channels, lanes, [&](float (&values)[1][N]) {
#pragma unroll
        for (int n = 0; n < N; n++) values[0][n] = relu(values[0][n]);
    });
}

// The gradient where y is positive.
template <class T, int N>
__device__ inline void relu_gradient(const T *y, const T *grad, T *out, unsigned pixels, unsigned channels, unsigned lanes) {
    map_pixels<N, 4>(Inputs<T, 2>{{grad, y}}, out, pixels, channels, lanes, [&](float (&values)[2][N]) {
#pragma unroll
        for (int n = 0; n < N; n++) values[0][n] = values[1][n] <= 0.f ? 0.f : values[0][n];
    });
}

// Sums of each block; where there is one, of all.
template <class T, int N>
__device__ inline void channel_sums(const T *x, unsigned pixels, unsigned channels, unsigned lanes, float *to) {
    sum_pixels<N, 1, 8>(
        Inputs<T, 1>{{x}}, pixels, channels, lanes,
        [&](const float (&values)[1][N], float (&sums)[1][N]) {
#pragma unroll
            for (int n = 0; n < N; n++) sums[0][n] += values[0][n];
        },
        [&](unsigned channel, const float (&sums)[1][N]) { store_sums(to, channels, channel, sums); });
}

__device__ inline void end_channel_sums(const float *sums, unsigned parts, unsigned channels, float *out) {
    add_parts<1>(sums, parts, channels, [&](const double (&totals)[1]) { out[added_channel()] = (float)totals[0]; });
}

#define OF_MOMENTS \
    float *mean, float *variance, float *running_mean, float *running_variance, unsigned moved, float kept, float of_mean, \
        float of_variance
#define MOMENTS (Moments{mean, variance, running_mean, running_variance, moved, kept, of_mean, of_variance})
#define OF_NORM \
    const float *means, const float *variances, const float *gamma, const float *beta, float epsilon, unsigned rectified
#define NORM (Norm{means, variances, gamma, beta, epsilon, rectified})
#define OF_MAPS unsigned pixels, unsigned channels, unsigned lanes
#define MAPS pixels, channels, lanes

// Kernels that take N channels a thread; type and N are in their names.
#define NORMALISE(T, type, N) \
    KERNEL(moments_##type##_##N, (const T *x, OF_MAPS, float *sums), (moments<T, N>(x, MAPS, sums))) \
    KERNEL(normalise_##type##_##N, (const T *x, OF_NORM, T *y, OF_MAPS), (normalise<T, N>(x, NORM, y, MAPS))) \
    KERNEL(normalise_few_##type##_##N, (const T *x, OF_NORM, T *y, OF_MAPS, OF_MOMENTS), \
           (normalise_few<T, N>(x, NORM, y, MAPS, MOMENTS))) \
    KERNEL(normalise_sums_##type##_##N, (const T *x, const T *grad, OF_NORM, OF_MAPS, float *sums), \
           (normalise_sums<T, N>(x, grad, NORM, MAPS, sums))) \
    KERNEL(normalise_gradient_##type##_##N, \
           (const T *x, const T *grad, OF_NORM, const float *of_gamma, const float *of_beta, T *out, OF_MAPS), \
           (normalise_gradient<T, N>(x, grad, NORM, of_gamma, of_beta, out, MAPS))) \
    KERNEL(normalise_gradients_few_##type##_##N, \
           (const T *x, const T *grad, OF_NORM, T *out, float *of_gamma, float *of_beta, OF_MAPS), \
           (normalise_gradients_few<T, N>(x, grad, NORM, out, of_gamma, of_beta, MAPS))) \
    KERNEL(add_bias_##type##_##N, (T *x, const float *bias, OF_MAPS, unsigned rectified), (add_bias<T, N>(x, bias, MAPS, rectified))) \
    KERNEL(relu_##type##_##N, (const T *x, T *out, OF_MAPS), (relu<T, N>(x, out, MAPS))) \
    KERNEL(relu_gradient_##type##_##N, (const T *y, const T *grad, T *out, OF_MAPS), (relu_gradient<T, N>(y, grad, out, MAPS))) \
    KERNEL(channel_sums_##type##_##N, (const T *x, OF_MAPS, float *sums), (channel_sums<T, N>(x, MAPS, sums)))

NORMALISE(float, f32, 1)
NORMALISE(float, f32, 4)
NORMALISE(Bf16, bf16, 1)
NORMALISE(Bf16, bf16, 8)

KERNEL(end_moments_f32, (const float *x, const float *sums, unsigned parts, unsigned pixels, unsigned channels, OF_MOMENTS),
       (end_moments<float>(x, sums, parts, pixels, channels, MOMENTS)))
KERNEL(end_moments_bf16, (const Bf16 *x, const float *sums, unsigned parts, unsigned pixels, unsigned channels, OF_MOMENTS),
       (end_moments<Bf16>(x, sums, parts, pixels, channels, MOMENTS)))
KERNEL(end_normalise_sums_f32,
       (const float *sums, const float *variances, unsigned parts, unsigned channels, float epsilon, float *gamma, float *beta),
       (end_normalise_sums(sums, variances, parts, channels, epsilon, gamma, beta)))
KERNEL(blend_f32,
       (float *first, const float *fresh_first, float *second, const float *fresh_second, unsigned count, float kept,
        float of_first, float of_second),
       (blend(first, fresh_first, count, kept, of_first), blend(second, fresh_second, count, kept, of_second)))
KERNEL(end_channel_sums_f32, (const float *sums, unsigned parts, unsigned channels, float *out),
       (end_channel_sums(sums, parts, channels, out)))
