// The three convolutions, pixel by pixel.

#include "convolutions.hpp"
#include <cstring>
#include <vector>

namespace convolutions {

static std::vector<float> rounded_to_ten_bits(const float *from, size_t count) {
    std::vector<float> all(from, from + count);
    for (float &x : all) {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if ((bits & 0x7f800000u) == 0x7f800000u) continue;
        bits = (bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu;
        memcpy(&x, &bits, 4);
    }
    return all;
}

// Calls `tap(input pixel, output pixel, tap)` for each pixel of sums and each tap of the filter, in an order of its own.
template <class Tap> static void each(const Problem &a, unsigned order, Tap tap) {
    int taps = a.r * a.s, pixels = a.n * a.p * a.q;
    for (int at = 0; at < pixels; at++) {
        int own = (int)((at + (uint64_t)order * 7) % pixels), n = own / (a.p * a.q), p = own / a.q % a.p, q = own % a.q;
        for (int t = 0; t < taps; t++) {
            int now = (t + (int)(order % taps)) % taps;
            int y = p * a.stride_h + now / a.s - a.pad_h, x = q * a.stride_w + now % a.s - a.pad_w;
            if (y >= 0 && y < a.h && x >= 0 && x < a.w) tap(((size_t)n * a.h + y) * a.w + x, (size_t)own, (size_t)now);
        }
    }
}

void compute(Pass pass, const Problem &a, const float *first, const float *second, float *out, unsigned order, bool rounded) {
    size_t c = a.c, k = a.k, taps = (size_t)a.r * a.s;
    size_t maps = (size_t)a.n * a.h * a.w * c, sums = (size_t)a.n * a.p * a.q * k, filters = k * taps * c;
    const size_t sizes[3][3] = {{maps, filters, sums}, {filters, sums, maps}, {maps, sums, filters}};
    std::vector<float> a_rounded, b_rounded;
    if (rounded) {
        a_rounded = rounded_to_ten_bits(first, sizes[pass][0]);
        b_rounded = rounded_to_ten_bits(second, sizes[pass][1]);
        first = a_rounded.data();
        second = b_rounded.data();
    }
    memset(out, 0, sizes[pass][2] * sizeof(float));
    if (pass == FORWARD)
        each(a, order, [=](size_t in, size_t at, size_t tap) {
            const float *x = first + in * c;
            for (size_t o = 0; o < k; o++) {
                const float *w = second + (o * taps + tap) * c;
                float sum = 0;
                for (size_t i = 0; i < c; i++) sum += x[i] * w[i];
                out[at * k + o] += sum;
            }
        });
    if (pass == DATA)
        each(a, order, [=](size_t in, size_t at, size_t tap) {
            float *x = out + in * c;
            for (size_t o = 0; o < k; o++) {
                const float *w = first + (o * taps + tap) * c;
                float g = second[at * k + o];
                for (size_t i = 0; i < c; i++) x[i] += g * w[i];
            }
        });
    if (pass == FILTER)
        each(a, order, [=](size_t in, size_t at, size_t tap) {
            const float *x = first + in * c;
            for (size_t o = 0; o < k; o++) {
                float *w = out + (o * taps + tap) * c, g = second[at * k + o];
                for (size_t i = 0; i < c; i++) w[i] += g * x[i];
            }
        });
}

} // namespace convolutions
