// Batch norm with a ReLU, its gradients, and biases.

// Distances from the first pixel, which lies near enough to the mean that no digits are lost when the square of the mean
// distance is taken off; and their squares.
template <class T, int N>
__device__ inline void moments(const T *x, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float *sums) {
    sum_part<N, 2>(pixels, channels, lanes, in_part, sums, [=](unsigned pixel, unsigned channel, float (&all)[2][N]) {
        float values[N], centre[N];
        load<T, N>(x + (Offset)pixel * channels + channel, values);
        load<T, N>(x + channel, centre);
#pragma unroll
        for (int n = 0; n < N; n++) {
            float distance = values[n] - centre[n];
            all[0][n] += distance;
            all[1][n] += distance * distance;
        }
    });
}

// Mean and biased variance.
template <class T>
__device__ inline void end_moments(const T *x, const float *sums, unsigned parts, unsigned pixels, unsigned channels, float *mean,
                                   float *variance) {
    add_parts<2>(sums, parts, channels, [=](unsigned channel, const double *totals) {
        double distance = totals[0] / pixels, own = totals[1] / pixels - distance * distance;
        mean[channel] = (float)(to_float(x[channel]) + distance);
        // Below zero is rounding; what is not a number stays so.
        variance[channel] = own < 0. ? 0.f : (float)own;
    });
}

// y = (x - mean) * scale + shift of N channels.
template <int N> struct Line {
    float mean[N], inverse[N], scale[N], shift[N];

    __device__ inline Line(const float *means, const float *variances, const float *gamma, const float *beta, float epsilon,
                           unsigned channel) {
#pragma unroll
        for (int n = 0; n < N; n++) {
            mean[n] = means[channel + n];
            inverse[n] = 1.f / sqrtf(variances[channel + n] + epsilon);
            scale[n] = gamma[channel + n] * inverse[n];
            shift[n] = beta[channel + n];
        }
    }

    __device__ inline float y(float x, int n) const { return fmaf(x - mean[n], scale[n], shift[n]); }
};

__device__ inline float relu(float x) { return x < 0.f ? 0.f : x; }

template <class T, int N>
__device__ inline void normalise(const T *x, const float *means, const float *variances, const float *gamma, const float *beta, T *y,
                                 unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float epsilon,
                                 unsigned rectified) {
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    Line<N> line(means, variances, gamma, beta, epsilon, p.channel);
    map_part<N>(pixels, channels, lanes, in_part, [&](Offset at, unsigned, unsigned) {
        float values[N];
        load<T, N>(x + at, values);
#pragma unroll
        for (int n = 0; n < N; n++) {
            float result = line.y(values[n], n);
            values[n] = rectified ? relu(result) : result;
        }
        store<T, N>(y + at, values);
    });
}

// The gradient, where the result passed the ReLU, and the same times the distance from the mean.
template <class T, int N>
__device__ inline void normalise_sums(const T *x, const T *grad, const float *means, const float *variances, const float *gamma,
                                      const float *beta, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part,
                                      float epsilon, unsigned rectified, float *sums) {
    Place p = place<N>(channels, lanes);
    Line<N> line(means, variances, gamma, beta, epsilon, p.idle ? 0 : p.channel);
    sum_part<N, 2>(pixels, channels, lanes, in_part, sums, [&](unsigned pixel, unsigned channel, float (&all)[2][N]) {
        float values[N], grads[N];
        load<T, N>(x + (Offset)pixel * channels + channel, values);
        load<T, N>(grad + (Offset)pixel * channels + channel, grads);
#pragma unroll
        for (int n = 0; n < N; n++) {
            float passed = rectified && line.y(values[n], n) <= 0.f ? 0.f : grads[n];
            all[0][n] += passed;
            all[1][n] += passed * (values[n] - line.mean[n]);
        }
    });
}

// Gradients of scale and shift, and what the input's gradient is freed of: its mean, and its slope along the distance
// from the mean.
__device__ inline void end_normalise_sums(const float *sums, const float *variances, unsigned parts, unsigned pixels, unsigned channels,
                                          float epsilon, float *gamma, float *beta, float *plain, float *slope) {
    add_parts<2>(sums, parts, channels, [=](unsigned channel, const double *totals) {
        double inverse = 1. / sqrt((double)variances[channel] + epsilon);
        beta[channel] = (float)totals[0];
        gamma[channel] = (float)(totals[1] * inverse);
        plain[channel] = (float)(totals[0] / pixels);
        slope[channel] = (float)(totals[1] / pixels * inverse * inverse);
    });
}

template <class T, int N>
__device__ inline void normalise_gradient(const T *x, const T *grad, const float *means, const float *variances, const float *gamma,
                                          const float *beta, const float *plains, const float *slopes, T *out, unsigned pixels,
                                          unsigned channels, unsigned lanes, unsigned in_part, float epsilon, unsigned rectified) {
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    Line<N> line(means, variances, gamma, beta, epsilon, p.channel);
    float plain[N], slope[N];
#pragma unroll
    for (int n = 0; n < N; n++) {
        plain[n] = plains[p.channel + n];
        slope[n] = slopes[p.channel + n];
    }
    map_part<N>(pixels, channels, lanes, in_part, [&](Offset at, unsigned, unsigned) {
        float values[N], grads[N];
        load<T, N>(x + at, values);
        load<T, N>(grad + at, grads);
#pragma unroll
        for (int n = 0; n < N; n++) {
            float passed = rectified && line.y(values[n], n) <= 0.f ? 0.f : grads[n];
            values[n] = line.scale[n] * (passed - plain[n] - (values[n] - line.mean[n]) * slope[n]);
        }
        store<T, N>(out + at, values);
    });
}

// running = kept * running + share * new
__device__ inline void blend(float *running, const float *fresh, unsigned count, float kept, float share) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) running[at] = kept * running[at] + share * fresh[at];
}

template <class T, int N>
__device__ inline void add_bias(T *x, const float *bias, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part,
                                unsigned rectified) {
    Place p = place<N>(channels, lanes);
    if (p.idle) return;
    float own[N];
#pragma unroll
    for (int n = 0; n < N; n++) own[n] = bias[p.channel + n];
    map_part<N>(pixels, channels, lanes, in_part, [&](Offset at, unsigned, unsigned) {
        float values[N];
        load<T, N>(x + at, values);
#pragma unroll
        for (int n = 0; n < N; n++) values[n] = rectified ? relu(values[n] + own[n]) : values[n] + own[n];
        store<T, N>(x + at, values);
    });
}

template <class T, int N>
__device__ inline void relu(const T *x, T *out, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part) {
    map_part<N>(pixels, channels, lanes, in_part, [=](Offset at, unsigned, unsigned) {
        float values[N];
        load<T, N>(x + at, values);
#pragma unroll
        for (int n = 0; n < N; n++) values[n] = relu(values[n]);
        store<T, N>(out + at, values);
    });
}

// The gradient where y is positive.
template <class T, int N>
__device__ inline void relu_gradient(const T *y, const T *grad, T *out, unsigned pixels, unsigned channels, unsigned lanes,
                                     unsigned in_part) {
    map_part<N>(pixels, channels, lanes, in_part, [=](Offset at, unsigned, unsigned) {
        float values[N], grads[N];
        load<T, N>(y + at, values);
        load<T, N>(grad + at, grads);
#pragma unroll
        for (int n = 0; n < N; n++) grads[n] = values[n] <= 0.f ? 0.f : grads[n];
        store<T, N>(out + at, grads);
    });
}

template <class T, int N>
__device__ inline void channel_sums(const T *x, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float *sums) {
    sum_part<N, 1>(pixels, channels, lanes, in_part, sums, [=](unsigned pixel, unsigned channel, float (&all)[1][N]) {
        float values[N];
        load<T, N>(x + (Offset)pixel * channels + channel, values);
#pragma unroll
        for (int n = 0; n < N; n++) all[0][n] += values[n];
    });
}

__device__ inline void end_channel_sums(const float *sums, unsigned parts, unsigned channels, float *out) {
    add_parts<1>(sums, parts, channels, [=](unsigned channel, const double *totals) { out[channel] = (float)totals[0]; });
}

// Kernels that take N channels a thread; type and N are in their names.
#define NORMALISE(T, type, N) \
    KERNEL(moments_##type##_##N, \
           (const T *x, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float *sums), \
           (moments<T, N>(x, pixels, channels, lanes, in_part, sums))) \
    KERNEL(normalise_##type##_##N, \
           (const T *x, const float *means, const float *variances, const float *gamma, const float *beta, T *y, unsigned pixels, \
            unsigned channels, unsigned lanes, unsigned in_part, float epsilon, unsigned rectified), \
           (normalise<T, N>(x, means, variances, gamma, beta, y, pixels, channels, lanes, in_part, epsilon, rectified))) \
    KERNEL(normalise_sums_##type##_##N, \
           (const T *x, const T *grad, const float *means, const float *variances, const float *gamma, const float *beta, \
            unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float epsilon, unsigned rectified, float *sums), \
           (normalise_sums<T, N>(x, grad, means, variances, gamma, beta, pixels, channels, lanes, in_part, epsilon, rectified, \
                                 sums))) \
    KERNEL(normalise_gradient_##type##_##N, \
           (const T *x, const T *grad, const float *means, const float *variances, const float *gamma, const float *beta, \
            const float *plains, const float *slopes, T *out, unsigned pixels, unsigned channels, unsigned lanes, \
            unsigned in_part, float epsilon, unsigned rectified), \
           (normalise_gradient<T, N>(x, grad, means, variances, gamma, beta, plains, slopes, out, pixels, channels, lanes, \
                                     in_part, epsilon, rectified))) \
    KERNEL(add_bias_##type##_##N, \
           (T *x, const float *bias, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, unsigned rectified), \
           (add_bias<T, N>(x, bias, pixels, channels, lanes, in_part, rectified))) \
    KERNEL(relu_##type##_##N, \
           (const T *x, T *out, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part), \
           (relu<T, N>(x, out, pixels, channels, lanes, in_part))) \
    KERNEL(relu_gradient_##type##_##N, \
           (const T *y, const T *grad, T *out, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part), \
           (relu_gradient<T, N>(y, grad, out, pixels, channels, lanes, in_part))) \
    KERNEL(channel_sums_##type##_##N, \
           (const T *x, unsigned pixels, unsigned channels, unsigned lanes, unsigned in_part, float *sums), \
           (channel_sums<T, N>(x, pixels, channels, lanes, in_part, sums)))

NORMALISE(float, f32, 1)
NORMALISE(float, f32, 4)
NORMALISE(Bf16, bf16, 1)
NORMALISE(Bf16, bf16, 8)

KERNEL(end_moments_f32,
       (const float *x, const float *sums, unsigned parts, unsigned pixels, unsigned channels, float *mean, float *variance),
       (end_moments<float>(x, sums, parts, pixels, channels, mean, variance)))
KERNEL(end_moments_bf16,
       (const Bf16 *x, const float *sums, unsigned parts, unsigned pixels, unsigned channels, float *mean, float *variance),
       (end_moments<Bf16>(x, sums, parts, pixels, channels, mean, variance)))
KERNEL(end_normalise_sums_f32,
       (const float *sums, const float *variances, unsigned parts, unsigned pixels, unsigned channels, float epsilon, float *gamma,
        float *beta, float *plain, float *slope),
       (end_normalise_sums(sums, variances, parts, pixels, channels, epsilon, gamma, beta, plain, slope)))
KERNEL(blend_f32,
       (float *mean, const float *fresh_mean, float *variance, const float *fresh_variance, unsigned count, float kept,
        float of_mean, float of_variance),
       (blend(mean, fresh_mean, count, kept, of_mean), blend(variance, fresh_variance, count, kept, of_variance)))
KERNEL(end_channel_sums_f32, (const float *sums, unsigned parts, unsigned channels, float *out),
       (end_channel_sums(sums, parts, channels, out)))
