// Enough of CUDA C++ to compile `kernels.cu` for the host and run it, with a host thread for each CUDA thread of a block, one
// block after another. Sanitizers then check what a kernel reads and writes, and whether its threads race.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
// Blocks run one after another, so that they can share one copy.
#define __shared__ static

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
template <typename T> T min(T a, T b) { return a < b ? a : b; }

inline dim3 blockDim, gridDim;
inline thread_local dim3 threadIdx, blockIdx;

namespace emulated {
inline std::unique_ptr<std::barrier<>> block;
inline std::vector<std::unique_ptr<std::barrier<>>> warps;
// The values that the lanes of each warp exchange.
inline std::vector<std::vector<double>> handed;
inline unsigned thread() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
} // namespace emulated

inline void __syncthreads() { emulated::block->arrive_and_wait(); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
    const unsigned warp = emulated::thread() / 32, lane = emulated::thread() % 32;
    auto &handed = emulated::handed[warp];
    handed[lane] = value;
    emulated::warps[warp]->arrive_and_wait();
    const T other = static_cast<T>(handed[lane ^ static_cast<unsigned>(mask)]);
    emulated::warps[warp]->arrive_and_wait();
    return other;
}

// Runs `kernel` once for every thread of every block. The number of threads of a block must be a multiple of 32 if lanes
// exchange values.
inline void launch(dim3 grid, dim3 threads, const std::function<void()> &kernel) {
    const unsigned count = threads.x * threads.y * threads.z;
    gridDim = grid;
    blockDim = threads;
    emulated::block = std::make_unique<std::barrier<>>(count);
    emulated::warps.clear();
    for (unsigned first = 0; first < count; first += 32)
        emulated::warps.push_back(std::make_unique<std::barrier<>>(count - first < 32 ? count - first : 32));
    emulated::handed.assign(emulated::warps.size(), std::vector<double>(32));
    std::barrier<> next(count);
    std::vector<std::thread> running;
    for (unsigned thread = 0; thread < count; thread++)
        running.emplace_back([&, thread] {
            threadIdx = {thread % threads.x, thread / threads.x % threads.y, thread / threads.x / threads.y};
            for (unsigned z = 0; z < grid.z; z++)
                for (unsigned y = 0; y < grid.y; y++)
                    for (unsigned x = 0; x < grid.x; x++) {
                        blockIdx = {x, y, z};
                        kernel();
                        next.arrive_and_wait();
                    }
        });
    for (auto &thread : running)
        thread.join();
}
