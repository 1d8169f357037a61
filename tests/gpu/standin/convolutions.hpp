// What is asked of cuDNN, and the loops that compute it.

#pragma once

#include <cstddef>
#include <cstdint>

namespace convolutions {

enum Pass { FORWARD, DATA, FILTER };

// A convolution of maps [n][h][w][c] with filters [k][r][s][c] to sums [n][p][q][k].
struct Problem {
    int n, h, w, c, k, r, s, p, q, pad_h, pad_w, stride_h, stride_w;
};

// Computes a pass in f32. `order` changes the order of sums, and with it their last bits; `rounded`: whether factors are
// rounded to the 10 bits of a tensor core's f32 first.
void compute(Pass pass, const Problem &problem, const float *first, const float *second, float *out, unsigned order, bool rounded);

} // namespace convolutions
