// The loss, the update of the weights, and the order in which convolutions read them.

// [output, input, y, x] in f32 -> [output, y, x, input], what convolutions read; `area` is that of the kernel. There may be
// more outputs and `wide` inputs there: these get zeros.
template <class T>
__device__ inline void pack(const float *weight, T *packed, unsigned count, unsigned outputs, unsigned inputs, unsigned wide,
                            unsigned area) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned input = at % wide, place = at / wide % area, output = at / wide / area;
    set(&packed[at], input < inputs && output < outputs ? weight[(output * inputs + input) * area + place] : 0.f);
}

// And back.
template <class T>
__device__ inline void unpack(const T *packed, float *weight, unsigned count, unsigned inputs, unsigned wide, unsigned area) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    unsigned place = at % area, input = at / area % inputs, output = at / area / inputs;
    weight[at] = to_float(packed[(output * area + place) * wide + input]);
}

// Combines a value of each of the block's threads, always in the same order.
template <class Combine> __device__ inline float reduce(float value, Combine combine) {
    __shared__ float all[THREADS];
    all[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) all[threadIdx.x] = combine(all[threadIdx.x], all[threadIdx.x + half]);
        __syncthreads();
    }
    float result = all[0];
    __syncthreads();
    return result;
}

__device__ inline float sum_of(float value) {
    return reduce(value, [](float a, float b) { return a + b; });
}

// Who computes the loss of a sample: a block, whose threads take a class each, or a thread by itself.
struct Block {
    static __device__ inline unsigned first() { return threadIdx.x; }
    static __device__ inline unsigned step() { return THREADS; }
    static __device__ inline float sum(float value) { return sum_of(value); }
    static __device__ inline float most(float value) { return reduce(value, [](float a, float b) { return fmaxf(a, b); }); }
};
struct Thread {
    static __device__ inline unsigned first() { return 0; }
    static __device__ inline unsigned step() { return 1; }
    static __device__ inline float sum(float value) { return value; }
    static __device__ inline float most(float value) { return value; }
};

// Softmax cross entropy of a sample: its loss, whether its label has the largest logit (the first of equal ones), and the
// gradient of the mean loss. A label that is no class has no number for its loss.
template <class Who>
__device__ inline void entropy(const float *logits, unsigned label, float *gradient, unsigned sample, unsigned batch,
                               unsigned classes, float &loss, float &hit) {
    const float *own = logits + (Offset)sample * classes;
    float *out = gradient + (Offset)sample * classes;
    float labelled = label < classes ? own[label] : bits_to_float(0x7fffffffu);
    float largest = bits_to_float(0xff800000u), ahead = 0.f, sum = 0.f;
    for (unsigned at = Who::first(); at < classes; at += Who::step()) {
        largest = fmaxf(largest, own[at]);
        // Counts what is not a number on either side as ahead.
        ahead += at != label && !(own[at] < labelled || (own[at] == labelled && at > label)) ? 1.f : 0.f;
    }
    largest = Who::most(largest);
    ahead = Who::sum(ahead);
    for (unsigned at = Who::first(); at < classes; at += Who::step()) sum += expf(own[at] - largest);
    sum = Who::sum(sum);
    float scale = 1.f / (sum * (float)batch), share = 1.f / (float)batch;
    for (unsigned at = Who::first(); at < classes; at += Who::step())
        out[at] = expf(own[at] - largest) * scale - (at == label ? share : 0.f);
    loss = logf(sum) + (largest - labelled);
    hit = ahead == 0.f && labelled == labelled ? 1.f : 0.f;
}

// A sample for each block.
__device__ inline void cross_entropy(const float *logits, const unsigned *labels, float *gradient, float *losses, float *hits,
                                     unsigned batch, unsigned classes) {
    unsigned sample = blockIdx.x;
    float loss, hit;
    entropy<Block>(logits, labels[sample], gradient, sample, batch, classes, loss, hit);
    if (threadIdx.x == 0) {
        losses[sample] = loss;
        hits[sample] = hit;
    }
}

// The mean loss, and the number of correct answers, from what a block's threads have of them.
__device__ inline void end_entropy(float loss, float count, unsigned batch, float *mean, float *correct) {
    loss = sum_of(loss);
    count = sum_of(count);
    if (threadIdx.x == 0) {
        *mean = loss / (float)batch;
        *correct = count;
    }
}

// One block.
__device__ inline void end_cross_entropy(const float *losses, const float *hits, unsigned batch, float *mean, float *correct) {
    float loss = 0.f, count = 0.f;
    for (unsigned at = threadIdx.x; at < batch; at += THREADS) {
        loss += losses[at];
        count += hits[at];
    }
    end_entropy(loss, count, batch, mean, correct);
}

// All samples in one block, where they and their classes are few.
__device__ inline void cross_entropy_few(const float *logits, const unsigned *labels, float *gradient, unsigned batch, unsigned classes,
                                         float *mean, float *correct) {
    float losses = 0.f, count = 0.f;
    for (unsigned sample = threadIdx.x; sample < batch; sample += THREADS) {
        float loss, hit;
        entropy<Thread>(logits, labels[sample], gradient, sample, batch, classes, loss, hit);
        losses += loss;
        count += hit;
    }
    end_entropy(losses, count, batch, mean, correct);
}

// A gradient in the order of its weights, or in that of convolutions, which is 1 for f32 and 2 for bf16.
__device__ inline float gradient_of(const float *gradient, unsigned at, unsigned inputs, unsigned area, unsigned order) {
    if (order == 0) return gradient[at];
    unsigned place = at % area, input = at / area % inputs, output = at / area / inputs;
    unsigned packed = (output * area + place) * inputs + input;
    return order == 1 ? gradient[packed] : to_float(reinterpret_cast<const Bf16 *>(gradient)[packed]);
}

// velocity = momentum * velocity + gradient + decay * weight; weight = weight - rate * velocity.
__device__ inline void descend(float *weight, float *velocity, const float *gradient, unsigned count, unsigned inputs, unsigned area,
                               unsigned order, float rate, float momentum, float decay) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    float moved = momentum * velocity[at] + (gradient_of(gradient, at, inputs, area, order) + decay * weight[at]);
    velocity[at] = moved;
    weight[at] -= rate * moved;
}

// Up to eight weights in one launch, each with a row of blocks of its own; one of no values takes an unused place.
#define PACKED(T, n) \
    const float *weight##n, T *packed##n, unsigned count##n, unsigned outputs##n, unsigned inputs##n, unsigned wide##n, unsigned area##n
#define PACK(n) \
    case n: pack(weight##n, packed##n, count##n, outputs##n, inputs##n, wide##n, area##n); break;

// Kernels that take one value a thread; the type is in their names.
#define WEIGHTS(T, type) \
    KERNEL(pack_##type, (PACKED(T, 0), PACKED(T, 1), PACKED(T, 2), PACKED(T, 3), PACKED(T, 4), PACKED(T, 5), PACKED(T, 6), PACKED(T, 7)), \
           switch (blockIdx.y) { PACK(0) PACK(1) PACK(2) PACK(3) PACK(4) PACK(5) PACK(6) PACK(7) }) \
    KERNEL(unpack_##type, (const T *packed, float *weight, unsigned count, unsigned inputs, unsigned wide, unsigned area), \
           (unpack<T>(packed, weight, count, inputs, wide, area)))

WEIGHTS(float, f32)
WEIGHTS(Bf16, bf16)

KERNEL(cross_entropy_f32,
       (const float *logits, const unsigned *labels, float *gradient, float *losses, float *hits, unsigned batch, unsigned classes),
       (cross_entropy(logits, labels, gradient, losses, hits, batch, classes)))
KERNEL(cross_entropy_few_f32,
       (const float *logits, const unsigned *labels, float *gradient, unsigned batch, unsigned classes, float *mean, float *correct),
       (cross_entropy_few(logits, labels, gradient, batch, classes, mean, correct)))
KERNEL(end_cross_entropy_f32, (const float *losses, const float *hits, unsigned batch, float *mean, float *correct),
       (end_cross_entropy(losses, hits, batch, mean, correct)))
// As with packing.
#define OF_WEIGHT(n) \
    float *weight##n, float *velocity##n, const float *gradient##n, unsigned count##n, unsigned inputs##n, unsigned area##n, \
        unsigned order##n
#define DESCEND(n) \
    case n: \
        descend(weight##n, velocity##n, gradient##n, count##n, inputs##n, area##n, order##n, rate, momentum, decay); \
        break;

KERNEL(descend_f32,
       (OF_WEIGHT(0), OF_WEIGHT(1), OF_WEIGHT(2), OF_WEIGHT(3), OF_WEIGHT(4), OF_WEIGHT(5), OF_WEIGHT(6), OF_WEIGHT(7), float rate,
        float momentum, float decay),
       switch (blockIdx.y) { DESCEND(0) DESCEND(1) DESCEND(2) DESCEND(3) DESCEND(4) DESCEND(5) DESCEND(6) DESCEND(7) })
