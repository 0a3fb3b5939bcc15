// Runs every kernel of `kernels.cu` on the host and compares it with the same formula in double. It prints one line for each
// case, and exits with code 1 if any is wrong.

#include "emulate.h"

#include SOURCE

#include <cstdio>
#include <random>
#include <string>

namespace {

int failures = 0;
std::mt19937 generator(2026);

double value_of(float x) { return x; }
double value_of(__half x) { return __half2float(x); }
double value_of(__nv_bfloat16 x) { return __bfloat162float(x); }

// The largest relative error of one rounding, and the name of the type.
template <typename T> struct Type;
template <> struct Type<float> {
    static constexpr double rounding = 6e-8;
    static constexpr const char *name = "f32";
};
template <> struct Type<__half> {
    static constexpr double rounding = 4.9e-4;
    static constexpr const char *name = "f16";
};
template <> struct Type<__nv_bfloat16> {
    static constexpr double rounding = 3.9e-3;
    static constexpr const char *name = "bf16";
};

template <typename T> std::vector<T> values(std::size_t count, double mean = 0) {
    std::normal_distribution<float> normal(static_cast<float>(mean), 1.f);
    std::vector<T> out(count);
    for (auto &x : out)
        store(&x, normal(generator));
    return out;
}

// Compares a kernel's values with those of its formula. `terms` is the size of what cancels in a value; a distance passes if it
// is at most one rounding and `slack` float roundings of the value plus `terms`.
template <typename T>
void compare(const std::string &what, const std::vector<T> &ours, const std::vector<double> &expected, double terms,
             double slack = 4) {
    double worst = ours.size() == expected.size() ? 0 : INFINITY;
    for (std::size_t i = 0; i < ours.size() && std::isfinite(worst); i++) {
        const double difference = std::fabs(value_of(ours[i]) - expected[i]);
        const double apart = difference == 0 ? 0 : difference / (std::fabs(expected[i]) + terms);
        worst = apart <= worst ? worst : apart; // a value that is no number stays
    }
    // A function of float arithmetic on top of the type's own rounding.
    const bool right = worst <= Type<T>::rounding * 1.01 + slack * 6e-7;
    failures += !right;
    std::printf("%s %s %s: %.1e\n", right ? "ok" : "WRONG", Type<T>::name, what.c_str(), worst);
}

unsigned blocks(std::size_t count, unsigned threads) { return static_cast<unsigned>((count + threads - 1) / threads); }
double erf_gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

template <typename T, int V> void biases() {
    for (auto [images, samples, channels, area] : {std::array<unsigned, 4>{4, 2, 3, 2 * V}, {1, 1, 5, V}}) {
        const std::size_t count = std::size_t(images) * channels * area;
        auto y = values<T>(count);
        const auto x = y, residual = values<T>(count), bias = values<T>(channels),
                   shift = values<T>(std::size_t(samples) * channels);
        std::vector<double> expected(count);
        for (std::size_t i = 0; i < count; i++) {
            const std::size_t channel = i / area % channels, sample = i / area / channels / (images / samples);
            expected[i] = value_of(x[i]) + value_of(bias[channel]) + value_of(shift[sample * channels + channel]) +
                          value_of(residual[i]);
        }
        const unsigned packs = count / V;
        launch({blocks(packs, 32)}, {32}, [&] {
            bias_planes<T, V>(y.data(), bias.data(), shift.data(), residual.data(), packs, area / V, channels,
                              packs / samples);
        });
        compare("bias and shift of planes", y, expected, 1);

        auto rows = x;
        const unsigned width = area, row_count = count / width;
        const auto row_bias = values<T>(width);
        for (std::size_t i = 0; i < count; i++)
            expected[i] = value_of(x[i]) + value_of(row_bias[i % width]) + value_of(residual[i]);
        launch({blocks(packs, 32)}, {32}, [&] {
            bias_rows<T, V>(rows.data(), row_bias.data(), residual.data(), packs, width / V);
        });
        compare("bias of " + std::to_string(row_count) + " rows", rows, expected, 1);
        launch({blocks(packs, 32)}, {32}, [&] { bias_rows<T, V>(rows.data(), nullptr, nullptr, packs, width / V); });
        compare("no bias of rows", rows, expected, 1);
    }
}

// The columns of a convolution, weight by weight and place by place, rows `first` and after.
template <typename T>
std::vector<double> columns(const std::vector<T> &x, unsigned images, unsigned channels, unsigned side, unsigned kernel,
                            unsigned stride, unsigned padding, unsigned first, unsigned rows, bool weight_first) {
    const unsigned out_side = (side + 2 * padding - kernel) / stride + 1, places = rows * out_side;
    const unsigned depth = channels * kernel * kernel;
    std::vector<double> out(std::size_t(images) * depth * places);
    for (unsigned image = 0; image < images; image++)
        for (unsigned weight = 0; weight < depth; weight++)
            for (unsigned place = 0; place < places; place++) {
                const int row = int((first + place / out_side) * stride + weight / kernel % kernel) - int(padding);
                const int column = int(place % out_side * stride + weight % kernel) - int(padding);
                const bool inside = row >= 0 && column >= 0 && row < int(side) && column < int(side);
                const std::size_t plane = std::size_t(image) * channels + weight / kernel / kernel;
                const std::size_t at = weight_first ? (std::size_t(weight) * images + image) * places + place
                                                    : (std::size_t(image) * depth + weight) * places + place;
                out[at] = inside ? value_of(x[(plane * side + row) * side + column]) : 0;
            }
    return out;
}

template <typename T, int V> void convolutions() {
    struct Case {
        unsigned images, channels, side, kernel, stride, padding, first, rows;
        bool weight_first;
    };
    for (const Case &c : {Case{2, 3, 5, 3, 1, 1, 0, 5, false}, Case{2, 3, 5, 3, 1, 1, 2, 2, true},
                          Case{1, 2, 9, 3, 2, 0, 1, 3, false}, Case{3, 4, 6, 1, 1, 0, 0, 6, true},
                          Case{2, 2, 2 * V, 3, 1, 1, 0, 2 * V, false}, Case{2, 3, 3 * V, 3, 1, 1, 3 * V - 2, 2, true}}) {
        const auto x = values<T>(std::size_t(c.images) * c.channels * c.side * c.side);
        const auto expected = columns(x, c.images, c.channels, c.side, c.kernel, c.stride, c.padding, c.first, c.rows,
                                      c.weight_first);
        const unsigned out_side = (c.side + 2 * c.padding - c.kernel) / c.stride + 1, places = c.rows * out_side;
        const unsigned depth = c.channels * c.kernel * c.kernel;
        const u64 step_weight = c.weight_first ? u64(c.images) * places : places;
        const u64 step_image = c.weight_first ? places : u64(depth) * places;
        std::vector<T> y(expected.size());
        launch({blocks(places, 32), c.channels, c.images}, {32}, [&] {
            im2col<T>(y.data(), x.data(), c.channels, c.side, c.side, out_side, c.first, places, c.kernel, c.stride,
                      c.padding, step_weight, step_image);
        });
        compare("columns of " + std::to_string(c.side) + " px", y, expected, 0, 0);
        if (c.kernel == 3 && c.stride == 1 && c.side % V == 0) {
            std::vector<T> packed(expected.size());
            launch({blocks(places / V, 32), c.channels, c.images}, {32}, [&] {
                im2col_3x3<T, V>(packed.data(), x.data(), c.channels, c.side, c.side, c.first, places / V, step_weight,
                                 step_image);
            });
            compare("packed columns of " + std::to_string(c.side) + " px", packed, expected, 0, 0);
        }
        if (c.weight_first) {
            std::vector<T> planes(expected.size());
            std::vector<double> back(expected.size());
            const unsigned width = V * ((places + V - 1) / V) == places ? V : 1, packs = y.size() / width;
            for (std::size_t i = 0; i < y.size(); i++)
                back[i] = expected[(i / places % depth * c.images + i / places / depth) * places + i % places];
            launch({blocks(packs, 32)}, {32}, [&] {
                if (width == V)
                    planes_of_rows<T, V>(planes.data(), y.data(), packs, places / V, depth, c.images);
                else
                    planes_of_rows<T, 1>(planes.data(), y.data(), packs, places, depth, c.images);
            });
            compare("planes of rows", planes, back, 0, 0);
        }
    }
}

template <typename T, int V> void group_norms() {
    struct Case {
        unsigned total, together, channels, groups, area, piece;
    };
    for (const Case &c : {Case{4, 2, 6, 3, 5 * V, 8192}, Case{2, 2, 4, 2, 12 * V, 2 * V}, Case{1, 1, 8, 4, V, V}}) {
        const std::size_t count = std::size_t(c.total) * c.channels * c.area;
        const auto x = values<T>(count, 3), weight = values<T>(c.channels), bias = values<T>(c.channels);
        const unsigned of_group = c.channels / c.groups * c.area, pieces = blocks(of_group, c.piece);
        std::vector<double> expected(count);
        for (unsigned sample = 0; sample < c.total / c.together; sample++)
            for (unsigned group = 0; group < c.groups; group++) {
                const auto each = [&](const auto &visit) {
                    for (unsigned image = 0; image < c.together; image++)
                        for (unsigned i = 0; i < of_group; i++)
                            visit((std::size_t(sample * c.together + image) * c.groups + group) * of_group + i);
                };
                double sum = 0, squares = 0;
                each([&](std::size_t i) { sum += value_of(x[i]); });
                const double values = double(c.together) * of_group, mean = sum / values;
                each([&](std::size_t i) { squares += (value_of(x[i]) - mean) * (value_of(x[i]) - mean); });
                each([&](std::size_t i) {
                    const std::size_t channel = i / c.area % c.channels;
                    const double y = (value_of(x[i]) - mean) / std::sqrt(squares / values + 1e-5);
                    const double scaled = y * value_of(weight[channel]) + value_of(bias[channel]);
                    expected[i] = scaled / (1 + std::exp(-scaled));
                });
            }
        std::vector<float2> parts(std::size_t(c.total) * c.groups * pieces), stats(c.total / c.together * c.groups);
        std::vector<T> y(count);
        launch({pieces, c.total * c.groups}, {64},
               [&] { group_norm_pieces<T, V>(parts.data(), x.data(), of_group, c.piece); });
        launch({c.groups, c.total / c.together}, {32}, [&] {
            group_norm_join(stats.data(), parts.data(), c.groups, c.together, pieces, of_group, c.piece, 1e-5f);
        });
        launch({blocks(count / V, 32)}, {32}, [&] {
            group_norm_apply<T, V>(y.data(), x.data(), stats.data(), weight.data(), bias.data(), count / V, c.area / V,
                                   c.channels, c.groups, c.together, 1);
        });
        compare("group norm with SiLU", y, expected, 1, 20);
    }
}

template <typename T, int V> void rows_of_values() {
    for (unsigned width : {1u, 5u, 2u * V, 40u * V}) {
        const unsigned rows = 5;
        const auto x = values<T>(std::size_t(rows) * width, 2), weight = values<T>(width), bias = values<T>(width);
        // Large enough that an exponential overflows unless the largest is taken off before.
        auto scores = x;
        for (auto &score : scores)
            store(&score, static_cast<float>(100 * value_of(score)));
        std::vector<double> normed(x.size()), soft(x.size());
        for (unsigned row = 0; row < rows; row++) {
            double sum = 0, squares = 0, highest = -INFINITY, total = 0;
            const auto at = [&](unsigned i) { return value_of(x[std::size_t(row) * width + i]); };
            const auto score = [&](unsigned i) { return value_of(scores[std::size_t(row) * width + i]); };
            for (unsigned i = 0; i < width; i++)
                sum += at(i), highest = std::fmax(highest, score(i));
            for (unsigned i = 0; i < width; i++)
                squares += (at(i) - sum / width) * (at(i) - sum / width), total += std::exp(score(i) - highest);
            for (unsigned i = 0; i < width; i++) {
                const double y = (at(i) - sum / width) / std::sqrt(squares / width + 1e-5);
                normed[std::size_t(row) * width + i] = y * value_of(weight[i]) + value_of(bias[i]);
                soft[std::size_t(row) * width + i] = std::exp(score(i) - highest) / total;
            }
        }
        const std::string size = std::to_string(width) + " wide";
        std::vector<T> y(x.size());
        launch({blocks(rows, 4)}, {32, 4}, [&] {
            layer_norm<T>(y.data(), x.data(), weight.data(), bias.data(), rows, width, 1e-5f);
        });
        if (width > 1)
            compare("layer norm " + size, y, normed, 1, 20);
        auto narrow = scores, wide = scores;
        launch({blocks(rows, 4)}, {32, 4}, [&] { softmax_narrow<T>(narrow.data(), rows, width); });
        compare("softmax by warps " + size, narrow, soft, 0.01, 40);
        launch({rows}, {64}, [&] { softmax_wide<T>(wide.data(), width); });
        compare("softmax by blocks " + size, wide, soft, 0.01, 40);
        if (width % V)
            continue;
        auto packed = scores;
        launch({rows}, {32}, [&] { softmax_packs<T, V>(packed.data(), width / V); });
        compare("softmax by packs " + size, packed, soft, 0.01, 40);
        launch({blocks(rows, 4)}, {32, 4}, [&] {
            layer_norm_packs<T, V>(y.data(), x.data(), weight.data(), bias.data(), rows, width / V, 1e-5f);
        });
        compare("layer norm by packs " + size, y, normed, 1, 20);
    }
}

template <typename T, int V> void gates() {
    const unsigned rows = 3, width = 2 * V;
    const auto x = values<T>(std::size_t(rows) * 2 * width);
    std::vector<T> y(std::size_t(rows) * width), plain(x.size());
    std::vector<double> expected(y.size()), of_all(x.size());
    for (std::size_t i = 0; i < y.size(); i++) {
        const std::size_t at = i / width * 2 * width + i % width;
        expected[i] = value_of(x[at]) * erf_gelu(value_of(x[at + width]));
    }
    for (std::size_t i = 0; i < x.size(); i++)
        of_all[i] = erf_gelu(value_of(x[i]));
    launch({blocks(y.size() / V, 32)}, {32}, [&] { geglu<T, V>(y.data(), x.data(), y.size() / V, width / V); });
    compare("GEGLU", y, expected, 0.1);
    launch({blocks(x.size(), 32)}, {32}, [&] { gelu<T>(plain.data(), x.data(), x.size()); });
    compare("GELU", plain, of_all, 0.1);
}

template <typename T, int V> void copies() {
    const unsigned n0 = 2, n1 = 3, n2 = 5, width = 2 * V;
    const u64 s2 = width * n1, s1 = width, s0 = s2 * n2 + V;
    const auto x = values<T>(n0 * s0);
    std::vector<T> y(n0 * n1 * n2 * width);
    std::vector<double> expected(y.size());
    for (std::size_t i = 0; i < y.size(); i++) {
        const std::size_t row = i / width;
        expected[i] = 0.5 * value_of(x[row / n2 / n1 * s0 + row / n2 % n1 * s1 + row % n2 * s2 + i % width]);
    }
    launch({blocks(y.size() / V, 32)}, {32}, [&] {
        copy_rows<T, V>(y.data(), x.data(), y.size() / V, n1, n2, width / V, s0, s1, s2, 0.5f);
    });
    compare("copy of rows", y, expected, 0, 0);

    for (auto [images, rows, columns] : {std::array<unsigned, 3>{2, 33, 5}, {1, 1, 1}, {1, 70, 34}}) {
        const auto from = values<T>(std::size_t(images) * rows * columns), residual = values<T>(from.size());
        std::vector<T> to(from.size());
        std::vector<double> there(from.size());
        const std::size_t area = std::size_t(rows) * columns;
        for (std::size_t i = 0; i < to.size(); i++)
            there[i] = value_of(from[i / area * area + i % rows * columns + i % area / rows]) + value_of(residual[i]);
        launch({blocks(columns, 32), blocks(rows, 32), images}, {32, 8}, [&, rows = rows, columns = columns] {
            transpose<T>(to.data(), from.data(), residual.data(), rows, columns);
        });
        compare("transposition", to, there, 1);
    }

    const unsigned samples = 2, frames = 3, rows = 2;
    const auto video = values<T>(std::size_t(samples) * frames * rows * width), table = values<T>(frames * width);
    std::vector<T> moved(video.size());
    std::vector<double> there(video.size());
    for (std::size_t i = 0; i < video.size(); i++)
        there[i] = value_of(video[i]) + value_of(table[i / width / rows % frames * width + i % width]);
    launch({blocks(video.size() / V, 32)}, {32}, [&] {
        add_to_frames<T, V>(moved.data(), video.data(), table.data(), video.size() / V, rows, width / V, frames);
    });
    compare("positions of frames", moved, there, 1);
}

template <typename T, int V> void kernels() {
    biases<T, V>();
    convolutions<T, V>();
    group_norms<T, V>();
    rows_of_values<T, V>();
    gates<T, V>();
    copies<T, V>();
}

} // namespace

int main() {
    kernels<float, 1>();
    kernels<float, 4>();
    kernels<__half, 1>();
    kernels<__half, 8>();
    kernels<__nv_bfloat16, 8>();
    return failures ? 1 : 0;
}
