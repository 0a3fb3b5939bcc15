//! Element-wise functions, and their compilation for the widest vector instructions of this machine.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Runs `work`, compiled for this machine's vector instructions. Only code that is inlined into `work` is
/// compiled for them, so helpers have to be marked `#[inline(always)]`. Results are the same on every
/// instruction set, because no operation is reordered or fused.
#[inline(always)]
pub(crate) fn dispatch_simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Number of interleaved partial sums.
const LANES: usize = 16;

/// Sums a term of every value, in [`LANES`] interleaved parts that the compiler can keep in one register.
#[inline(always)]
pub(crate) fn lane_sum<S>(values: &[f32], term: impl Fn(f32) -> S) -> S
where
    S: Copy + Default + AddAssign + Add<Output = S> + Sum,
{
    let mut lanes = [S::default(); LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: S = chunks.remainder().iter().map(|&value| term(value)).sum();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    lanes.into_iter().sum::<S>() + rest
}

/// `e^x` for `x <= 88`, with a relative error of about 2e-7, in a form that the compiler can vectorise. The
/// polynomial is that of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first exact in few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 x 2^23 leaves a whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let mut series = 1.987_569_1e-4;
    series = series * rest + 1.398_2e-3;
    series = series * rest + 8.333_452e-3;
    series = series * rest + 4.166_579_6e-2;
    series = series * rest + 1.666_666_5e-1;
    series = series * rest + 0.5;
    let mantissa = series * rest * rest + rest + 1.0;
    // This makes the exponent's field, biased by 127; the bits of `ROUND` are shifted out.
    mantissa * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// The error function, with an absolute error of about 4e-7: a quotient of polynomials in `x^2` on -4..4.
/// Beyond that the function rounds to 1 or -1 in `f32`. The coefficients are those of Eigen's `erf`.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_4e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329_3e-3,
        -1.426_473_9e-2,
    ];
    let x = if x > -4.0 { x } else { -4.0 };
    let x = if x < 4.0 { x } else { 4.0 };
    let square = x * x;
    let mut numerator = NUMERATOR[0];
    for term in &NUMERATOR[1..] {
        numerator = numerator * square + term;
    }
    let mut denominator = DENOMINATOR[0];
    for term in &DENOMINATOR[1..] {
        denominator = denominator * square + term;
    }
    x * numerator / denominator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate() {
        for i in -43_000_i32..=43_000 {
            let x = i as f32 / 500.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 4e-7 * exact, "exp({x})");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn error_function_is_accurate() {
        for i in -60_000_i32..=60_000 {
            let x = i as f32 / 10_000.0;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() <= 6e-7, "erf({x})");
        }
    }
}
