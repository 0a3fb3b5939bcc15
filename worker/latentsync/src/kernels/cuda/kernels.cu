// The memory-bound operations of the networks. Each takes one pass over memory; candle's own operations take several.
//
// Values are T (float, __half or __nv_bfloat16); every sum and every function is computed in float and rounded once, when
// it is stored. Images are (images, channels, area), tokens are (rows, width), both contiguous. A kernel whose name ends in
// _v moves 16 bytes at a time, a pack of V values: the caller checks that rows and addresses are multiples of that. Each result
// depends on its inputs and the sizes alone: there are no atomics, and sums are taken in a fixed order.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned long long u64;

template <typename T> __device__ __forceinline__ float load(const T *p);
template <> __device__ __forceinline__ float load(const float *p) { return *p; }
template <> __device__ __forceinline__ float load(const __half *p) { return __half2float(*p); }
template <> __device__ __forceinline__ float load(const __nv_bfloat16 *p) { return __bfloat162float(*p); }

__device__ __forceinline__ void store(float *p, float x) { *p = x; }
__device__ __forceinline__ void store(__half *p, float x) { *p = __float2half_rn(x); }
__device__ __forceinline__ void store(__nv_bfloat16 *p, float x) { *p = __float2bfloat16_rn(x); }

// V adjacent values, which are moved together.
template <typename T, int V> struct alignas(V * sizeof(T)) Pack {
    T v[V];
};

template <typename T, int V> __device__ __forceinline__ Pack<T, V> fetch(const T *p) {
    return *reinterpret_cast<const Pack<T, V> *>(p);
}

template <typename T, int V> __device__ __forceinline__ void put(T *p, const Pack<T, V> &x) {
    *reinterpret_cast<Pack<T, V> *>(p) = x;
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int lane = 16; lane > 0; lane /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int lane = 16; lane > 0; lane /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Returns the sum or the maximum over the whole block, whose size is a multiple of 32. `scratch` has an element for each warp
// and one more.
template <bool MAX> __device__ __forceinline__ float block_reduce(float x, float *scratch) {
    const u32 warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    x = MAX ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (lane == 0)
        scratch[warp] = x;
    __syncthreads();
    if (warp == 0) {
        float y = lane < warps ? scratch[lane] : (MAX ? -INFINITY : 0.f);
        y = MAX ? warp_max(y) : warp_sum(y);
        if (lane == 0)
            scratch[32] = y;
    }
    __syncthreads();
    return scratch[32];
}

__device__ __forceinline__ float silu(float x) { return x / (1.f + expf(-x)); }
__device__ __forceinline__ float gelu_erf(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678118654752440f)); }

// Adds bias[channel], and shift[sample][channel] and residual if they are not null, to images y in place. The images have
// `packs` packs, a plane has `plane` packs, and a sample has `sample` packs.
template <typename T, int V>
__device__ void bias_planes(T *y, const T *bias, const T *shift, const T *residual, u32 packs, u32 plane, u32 channels,
                            u32 sample) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    const u32 channel = i / plane % channels;
    float add = bias ? load(bias + channel) : 0.f;
    if (shift)
        add += load(shift + (u64)(i / sample) * channels + channel);
    Pack<T, V> x = fetch<T, V>(y + (u64)i * V);
    if (residual) {
        const Pack<T, V> r = fetch<T, V>(residual + (u64)i * V);
#pragma unroll
        for (int j = 0; j < V; j++)
            store(&x.v[j], load(&x.v[j]) + add + load(&r.v[j]));
    } else {
#pragma unroll
        for (int j = 0; j < V; j++)
            store(&x.v[j], load(&x.v[j]) + add);
    }
    put<T, V>(y + (u64)i * V, x);
}

// Adds bias and residual, if they are not null, to tokens y in place. A row has `width` packs.
template <typename T, int V>
__device__ void bias_rows(T *y, const T *bias, const T *residual, u32 packs, u32 width) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    Pack<T, V> x = fetch<T, V>(y + (u64)i * V), b, r;
    if (bias)
        b = fetch<T, V>(bias + (u64)(i % width) * V);
    if (residual)
        r = fetch<T, V>(residual + (u64)i * V);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float sum = load(&x.v[j]);
        if (bias)
            sum += load(&b.v[j]);
        if (residual)
            sum += load(&r.v[j]);
        store(&x.v[j], sum);
    }
    put<T, V>(y + (u64)i * V, x);
}

// Writes the inputs of a convolution as a matrix, for the rows of its result from `first_row` on. The matrix has a row for each
// weight (channel, then kernel row, then kernel column) and a column for each place, which is a pixel of the result. Rows of the
// matrix are `step_weight` values apart, images `step_image`. Grid: (places / block, channels, images).
template <typename T>
__device__ void im2col(T *out, const T *x, u32 channels, u32 height, u32 width, u32 out_width, u32 first_row, u32 places,
                       u32 kernel, u32 stride, u32 padding, u64 step_weight, u64 step_image) {
    const u32 place = blockIdx.x * blockDim.x + threadIdx.x, channel = blockIdx.y, image = blockIdx.z;
    if (place >= places)
        return;
    const int top = (int)((first_row + place / out_width) * stride) - (int)padding;
    const int left = (int)(place % out_width * stride) - (int)padding;
    const T *plane = x + ((u64)image * channels + channel) * height * width;
    T *to = out + image * step_image + (u64)channel * kernel * kernel * step_weight + place;
    for (u32 ky = 0; ky < kernel; ky++) {
        const int row = top + (int)ky;
        for (u32 kx = 0; kx < kernel; kx++) {
            const int column = left + (int)kx;
            const bool inside = row >= 0 && row < (int)height && column >= 0 && column < (int)width;
            T value;
            if (inside)
                value = plane[(u64)row * width + column];
            else
                store(&value, 0.f);
            *to = value;
            to += step_weight;
        }
    }
}

// im2col for three by three weights, stride 1 and padding 1. A thread writes V adjacent places of one row and reads each input
// once for all three columns of weights.
template <typename T, int V>
__device__ void im2col_3x3(T *out, const T *x, u32 channels, u32 height, u32 width, u32 first_row, u32 packs,
                           u64 step_weight, u64 step_image) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, channel = blockIdx.y, image = blockIdx.z;
    if (i >= packs)
        return;
    const u32 place = i * V, column = place % width;
    const int top = (int)(first_row + place / width) - 1;
    const T *plane = x + ((u64)image * channels + channel) * height * width;
    T *to = out + image * step_image + (u64)channel * 9 * step_weight + place;
    T zero;
    store(&zero, 0.f);
    for (int ky = 0; ky < 3; ky++) {
        const int row = top + ky;
        const bool inside = row >= 0 && row < (int)height;
        const T *from = plane + (u64)(inside ? row : 0) * width + column;
        T v[V + 2];
        Pack<T, V> middle;
        if (inside)
            middle = fetch<T, V>(from);
        v[0] = inside && column > 0 ? from[-1] : zero;
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j + 1] = inside ? middle.v[j] : zero;
        v[V + 1] = inside && column + V < width ? from[V] : zero;
#pragma unroll
        for (int kx = 0; kx < 3; kx++) {
            Pack<T, V> y;
#pragma unroll
            for (int j = 0; j < V; j++)
                y.v[j] = v[j + kx];
            put<T, V>(to, y);
            to += step_weight;
        }
    }
}

// Computes the mean of one piece of one group of one image, and the sum of squared distances from the mean. Grid: (pieces, images x groups).
template <typename T, int V> __device__ void group_norm_pieces(float2 *out, const T *x, u32 group_values, u32 piece_values) {
    __shared__ float scratch[33];
    const u32 start = blockIdx.x * piece_values;
    const u32 count = min(piece_values, group_values - start);
    const T *values = x + (u64)blockIdx.y * group_values + start;
    float sum = 0.f;
    for (u32 i = threadIdx.x * V; i < count; i += blockDim.x * V) {
        const Pack<T, V> v = fetch<T, V>(values + i);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += load(&v.v[j]);
    }
    const float mean = block_reduce<false>(sum, scratch) / count;
    float squares = 0.f;
    for (u32 i = threadIdx.x * V; i < count; i += blockDim.x * V) {
        const Pack<T, V> v = fetch<T, V>(values + i);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float distance = load(&v.v[j]) - mean;
            squares += distance * distance;
        }
    }
    squares = block_reduce<false>(squares, scratch);
    if (threadIdx.x == 0)
        out[(u64)blockIdx.y * gridDim.x + blockIdx.x] = make_float2(mean, squares);
}

// Joins the pieces of each group over the `together` images of a sample into the mean and one over the standard deviation.
// Grid: (groups, samples), with one warp in a block.
extern "C" __global__ void group_norm_join(float2 *out, const float2 *pieces, u32 groups, u32 together, u32 piece_count,
                                           u32 group_values, u32 piece_values, float eps) {
    const u32 group = blockIdx.x, sample = blockIdx.y, all = together * piece_count;
    const double values = (double)group_values * together;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < all; i += 32) {
        const u32 image = sample * together + i / piece_count, piece = i % piece_count;
        const float2 p = pieces[((u64)image * groups + group) * piece_count + piece];
        const u32 count = min(piece_values, group_values - piece * piece_values);
        sum += (double)p.x * count;
    }
    for (int lane = 16; lane > 0; lane /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lane);
    const double mean = sum / values;
    double squares = 0.0;
    for (u32 i = threadIdx.x; i < all; i += 32) {
        const u32 image = sample * together + i / piece_count, piece = i % piece_count;
        const float2 p = pieces[((u64)image * groups + group) * piece_count + piece];
        const u32 count = min(piece_values, group_values - piece * piece_values);
        const double distance = (double)p.x - mean;
        squares += (double)p.y + distance * distance * count;
    }
    for (int lane = 16; lane > 0; lane /= 2)
        squares += __shfl_xor_sync(0xffffffffu, squares, lane);
    if (threadIdx.x == 0)
        out[sample * groups + group] = make_float2((float)mean, (float)(1.0 / sqrt(squares / values + (double)eps)));
}

// Normalises with the joined statistics, scales and shifts each channel, and applies SiLU if `with_silu` is not 0.
template <typename T, int V>
__device__ void group_norm_apply(T *y, const T *x, const float2 *stats, const T *weight, const T *bias, u32 packs,
                                 u32 plane, u32 channels, u32 groups, u32 together, u32 with_silu) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    const u32 row = i / plane, channel = row % channels, sample = row / channels / together;
    const float2 s = stats[sample * groups + channel / (channels / groups)];
    const float scale = s.y * load(weight + channel);
    const float shift = load(bias + channel) - s.x * scale;
    Pack<T, V> v = fetch<T, V>(x + (u64)i * V);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float value = load(&v.v[j]) * scale + shift;
        if (with_silu)
            value = silu(value);
        store(&v.v[j], value);
    }
    put<T, V>(y + (u64)i * V, v);
}

// Computes value x gelu(gate): rows of value and gate side by side become rows of half the width, which is `width` packs.
template <typename T, int V> __device__ void geglu(T *y, const T *x, u32 packs, u32 width) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    const u64 at = ((u64)(i / width) * 2 * width + i % width) * V;
    Pack<T, V> value = fetch<T, V>(x + at);
    const Pack<T, V> gate = fetch<T, V>(x + at + (u64)width * V);
#pragma unroll
    for (int j = 0; j < V; j++)
        store(&value.v[j], load(&value.v[j]) * gelu_erf(load(&gate.v[j])));
    put<T, V>(y + (u64)i * V, value);
}

template <typename T> __device__ void gelu(T *y, const T *x, u32 count) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        store(y + i, gelu_erf(load(x + i)));
}

// Softmax of rows of `width` values, in place. A row is computed by one warp, blockDim.y rows by a block.
template <typename T> __device__ void softmax_narrow(T *x, u32 rows, u32 width) {
    const u32 row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    T *values = x + (u64)row * width;
    float highest = -INFINITY, sum = 0.f;
    for (u32 i = threadIdx.x; i < width; i += 32)
        highest = fmaxf(highest, load(values + i));
    highest = warp_max(highest);
    for (u32 i = threadIdx.x; i < width; i += 32)
        sum += expf(load(values + i) - highest);
    const float scale = 1.f / warp_sum(sum);
    for (u32 i = threadIdx.x; i < width; i += 32)
        store(values + i, expf(load(values + i) - highest) * scale);
}

// Softmax of rows of `width` values, in place, with a block for each row.
template <typename T> __device__ void softmax_wide(T *x, u32 width) {
    __shared__ float scratch[33];
    T *values = x + (u64)blockIdx.x * width;
    float highest = -INFINITY, sum = 0.f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        highest = fmaxf(highest, load(values + i));
    highest = block_reduce<true>(highest, scratch);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        sum += expf(load(values + i) - highest);
    const float scale = 1.f / block_reduce<false>(sum, scratch);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        store(values + i, expf(load(values + i) - highest) * scale);
}

// Softmax of rows of at most blockDim.x x 4 packs, in place, with a block for each row. Each row is read once.
template <typename T, int V> __device__ void softmax_packs(T *x, u32 packs) {
    __shared__ float scratch[33];
    T *values = x + (u64)blockIdx.x * packs * V;
    float held[4][V], highest = -INFINITY, sum = 0.f;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const u32 i = threadIdx.x + k * blockDim.x;
        if (i < packs) {
            const Pack<T, V> v = fetch<T, V>(values + (u64)i * V);
#pragma unroll
            for (int j = 0; j < V; j++) {
                held[k][j] = load(&v.v[j]);
                highest = fmaxf(highest, held[k][j]);
            }
        }
    }
    highest = block_reduce<true>(highest, scratch);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (threadIdx.x + k * blockDim.x < packs) {
#pragma unroll
            for (int j = 0; j < V; j++) {
                held[k][j] = expf(held[k][j] - highest);
                sum += held[k][j];
            }
        }
    }
    const float scale = 1.f / block_reduce<false>(sum, scratch);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const u32 i = threadIdx.x + k * blockDim.x;
        if (i < packs) {
            Pack<T, V> v;
#pragma unroll
            for (int j = 0; j < V; j++)
                store(&v.v[j], held[k][j] * scale);
            put<T, V>(values + (u64)i * V, v);
        }
    }
}

// Adds `table`, (frames, width), to x: to every row the values of its frame. A frame has `rows` rows of `width` packs.
template <typename T, int V>
__device__ void add_to_frames(T *y, const T *x, const T *table, u32 packs, u32 rows, u32 width, u32 frames) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    const u32 frame = i / width / rows % frames;
    Pack<T, V> v = fetch<T, V>(x + (u64)i * V);
    const Pack<T, V> add = fetch<T, V>(table + ((u64)frame * width + i % width) * V);
#pragma unroll
    for (int j = 0; j < V; j++)
        store(&v.v[j], load(&v.v[j]) + load(&add.v[j]));
    put<T, V>(y + (u64)i * V, v);
}

// Layer norm of rows of `width` values. A row is computed by one warp, blockDim.y rows by a block.
template <typename T>
__device__ void layer_norm(T *y, const T *x, const T *weight, const T *bias, u32 rows, u32 width, float eps) {
    const u32 row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    const T *values = x + (u64)row * width;
    float sum = 0.f, squares = 0.f;
    for (u32 i = threadIdx.x; i < width; i += 32)
        sum += load(values + i);
    const float mean = warp_sum(sum) / width;
    for (u32 i = threadIdx.x; i < width; i += 32) {
        const float distance = load(values + i) - mean;
        squares += distance * distance;
    }
    const float scale = rsqrtf(warp_sum(squares) / width + eps);
    for (u32 i = threadIdx.x; i < width; i += 32)
        store(y + (u64)row * width + i, (load(values + i) - mean) * scale * load(weight + i) + load(bias + i));
}

// Layer norm of rows of at most 256 packs. Each row is read once.
template <typename T, int V>
__device__ void layer_norm_packs(T *y, const T *x, const T *weight, const T *bias, u32 rows, u32 packs, float eps) {
    const u32 row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    const float width = (float)(packs * V);
    Pack<T, V> held[8];
    float sum = 0.f, squares = 0.f;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const u32 i = threadIdx.x + k * 32;
        if (i < packs) {
            held[k] = fetch<T, V>(x + ((u64)row * packs + i) * V);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum += load(&held[k].v[j]);
        }
    }
    const float mean = warp_sum(sum) / width;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (threadIdx.x + k * 32 < packs) {
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float distance = load(&held[k].v[j]) - mean;
                squares += distance * distance;
            }
        }
    }
    const float scale = rsqrtf(warp_sum(squares) / width + eps);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const u32 i = threadIdx.x + k * 32;
        if (i < packs) {
            const Pack<T, V> w = fetch<T, V>(weight + (u64)i * V), b = fetch<T, V>(bias + (u64)i * V);
#pragma unroll
            for (int j = 0; j < V; j++)
                store(&held[k].v[j], (load(&held[k].v[j]) - mean) * scale * load(&w.v[j]) + load(&b.v[j]));
            put<T, V>(y + ((u64)row * packs + i) * V, held[k]);
        }
    }
}

// Copies rows into contiguous memory and multiplies each value with `scale`. In x the rows are `s0`, `s1` and `s2` values apart
// in three dimensions; the first needs no size.
template <typename T, int V>
__device__ void copy_rows(T *y, const T *x, u32 packs, u32 n1, u32 n2, u32 width, u64 s0, u64 s1, u64 s2, float scale) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    u32 row = i / width;
    u64 from = (u64)(i % width) * V;
    from += row % n2 * s2;
    row /= n2;
    from += row % n1 * s1 + row / n1 * s0;
    Pack<T, V> v = fetch<T, V>(x + from);
    if (scale != 1.f) {
#pragma unroll
        for (int j = 0; j < V; j++)
            store(&v.v[j], load(&v.v[j]) * scale);
    }
    put<T, V>(y + (u64)i * V, v);
}

// Transposes (rows, columns) to (columns, rows) for each of blockIdx.z matrices, and adds `residual`, which has the shape of the
// result. A block has 32 x 8 threads.
template <typename T> __device__ void transpose(T *y, const T *x, const T *residual, u32 rows, u32 columns) {
    __shared__ float tile[32][33];
    const u64 base = (u64)blockIdx.z * rows * columns;
    const u32 column = blockIdx.x * 32 + threadIdx.x;
    for (u32 j = threadIdx.y; j < 32; j += 8) {
        const u32 row = blockIdx.y * 32 + j;
        if (row < rows && column < columns)
            tile[j][threadIdx.x] = load(x + base + (u64)row * columns + column);
    }
    __syncthreads();
    const u32 to_column = blockIdx.y * 32 + threadIdx.x;
    for (u32 j = threadIdx.y; j < 32; j += 8) {
        const u32 to_row = blockIdx.x * 32 + j;
        if (to_row < columns && to_column < rows) {
            const u64 at = base + (u64)to_row * rows + to_column;
            float value = tile[threadIdx.x][j];
            if (residual)
                value += load(residual + at);
            store(y + at, value);
        }
    }
}

// Turns (channels, images, area) into (images, channels, area).
template <typename T, int V>
__device__ void planes_of_rows(T *y, const T *x, u32 packs, u32 plane, u32 channels, u32 images) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= packs)
        return;
    const u32 row = i / plane, channel = row % channels, image = row / channels;
    put<T, V>(y + (u64)i * V, fetch<T, V>(x + ((u64)(channel * images + image) * plane + i % plane) * V));
}

#define PACKED(T, NAME, V, END)                                                                                        \
    extern "C" __global__ void bias_planes_##NAME##END(T *y, const T *bias, const T *shift, const T *residual,         \
                                                       u32 packs, u32 plane, u32 channels, u32 sample) {               \
        bias_planes<T, V>(y, bias, shift, residual, packs, plane, channels, sample);                                   \
    }                                                                                                                  \
    extern "C" __global__ void bias_rows_##NAME##END(T *y, const T *bias, const T *residual, u32 packs, u32 width) {   \
        bias_rows<T, V>(y, bias, residual, packs, width);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void group_norm_apply_##NAME##END(T *y, const T *x, const float2 *stats, const T *weight,    \
                                                            const T *bias, u32 packs, u32 plane, u32 channels,         \
                                                            u32 groups, u32 together, u32 with_silu) {                 \
        group_norm_apply<T, V>(y, x, stats, weight, bias, packs, plane, channels, groups, together, with_silu);        \
    }                                                                                                                  \
    extern "C" __global__ void group_norm_pieces_##NAME##END(float2 *out, const T *x, u32 group_values,                \
                                                             u32 piece_values) {                                       \
        group_norm_pieces<T, V>(out, x, group_values, piece_values);                                                   \
    }                                                                                                                  \
    extern "C" __global__ void add_to_frames_##NAME##END(T *y, const T *x, const T *table, u32 packs, u32 rows,        \
                                                         u32 width, u32 frames) {                                      \
        add_to_frames<T, V>(y, x, table, packs, rows, width, frames);                                                  \
    }                                                                                                                  \
    extern "C" __global__ void geglu_##NAME##END(T *y, const T *x, u32 packs, u32 width) {                             \
        geglu<T, V>(y, x, packs, width);                                                                               \
    }                                                                                                                  \
    extern "C" __global__ void copy_rows_##NAME##END(T *y, const T *x, u32 packs, u32 n1, u32 n2, u32 width, u64 s0,   \
                                                     u64 s1, u64 s2, float scale) {                                    \
        copy_rows<T, V>(y, x, packs, n1, n2, width, s0, s1, s2, scale);                                                \
    }                                                                                                                  \
    extern "C" __global__ void planes_of_rows_##NAME##END(T *y, const T *x, u32 packs, u32 plane, u32 channels,       \
                                                          u32 images) {                                               \
        planes_of_rows<T, V>(y, x, packs, plane, channels, images);                                                   \
    }

#define KERNELS(T, NAME, V)                                                                                            \
    PACKED(T, NAME, 1, )                                                                                               \
    PACKED(T, NAME, V, _v)                                                                                             \
    extern "C" __global__ void im2col_##NAME(T *out, const T *x, u32 channels, u32 height, u32 width, u32 out_width,   \
                                             u32 first_row, u32 places, u32 kernel, u32 stride, u32 padding,           \
                                             u64 step_weight, u64 step_image) {                                        \
        im2col<T>(out, x, channels, height, width, out_width, first_row, places, kernel, stride, padding, step_weight, \
                  step_image);                                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void im2col_3x3_##NAME(T *out, const T *x, u32 channels, u32 height, u32 width,              \
                                                 u32 first_row, u32 packs, u64 step_weight, u64 step_image) {          \
        im2col_3x3<T, V>(out, x, channels, height, width, first_row, packs, step_weight, step_image);                  \
    }                                                                                                                  \
    extern "C" __global__ void softmax_packs_##NAME(T *x, u32 packs) { softmax_packs<T, V>(x, packs); }                \
    extern "C" __global__ void layer_norm_packs_##NAME(T *y, const T *x, const T *weight, const T *bias, u32 rows,     \
                                                       u32 packs, float eps) {                                         \
        layer_norm_packs<T, V>(y, x, weight, bias, rows, packs, eps);                                                  \
    }                                                                                                                  \
    extern "C" __global__ void gelu_##NAME(T *y, const T *x, u32 count) { gelu<T>(y, x, count); }                      \
    extern "C" __global__ void softmax_narrow_##NAME(T *x, u32 rows, u32 width) { softmax_narrow<T>(x, rows, width); } \
    extern "C" __global__ void softmax_wide_##NAME(T *x, u32 width) { softmax_wide<T>(x, width); }                     \
    extern "C" __global__ void layer_norm_##NAME(T *y, const T *x, const T *weight, const T *bias, u32 rows,           \
                                                 u32 width, float eps) {                                               \
        layer_norm<T>(y, x, weight, bias, rows, width, eps);                                                           \
    }                                                                                                                  \
    extern "C" __global__ void transpose_##NAME(T *y, const T *x, const T *residual, u32 rows, u32 columns) {          \
        transpose<T>(y, x, residual, rows, columns);                                                                   \
    }

KERNELS(float, f32, 4)
KERNELS(__half, f16, 8)
KERNELS(__nv_bfloat16, bf16, 8)
