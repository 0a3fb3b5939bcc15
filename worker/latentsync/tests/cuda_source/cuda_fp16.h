// The half type of CUDA on the host: IEEE 754 binary16, rounded to nearest, ties to even.
#pragma once

#include "emulate.h"

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1024.f + mantissa, exponent - 25)
                                      : std::ldexp(static_cast<float>(mantissa), -24);
    return x.bits >> 15 ? -size : size;
}

inline __half __float2half_rn(float x) {
    const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (std::isnan(x))
        return {static_cast<std::uint16_t>(sign | 0x7e00)};
    if (size >= 65520.f)
        return {static_cast<std::uint16_t>(sign | 0x7c00)};
    if (size == 0.f)
        return {sign};
    int exponent = 0;
    std::frexp(size, &exponent);
    // The value is rounded to eleven binary digits, or fewer if it is subnormal in this type.
    const int last = exponent - 11 < -24 ? -24 : exponent - 11;
    const float digits = std::nearbyint(std::ldexp(size, -last));
    const int count = static_cast<int>(digits);
    if (last == -24)
        return {static_cast<std::uint16_t>(sign | count)};
    return {static_cast<std::uint16_t>(sign + ((last + 24) << 10) + count)};
}
