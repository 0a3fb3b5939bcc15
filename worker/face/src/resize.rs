//! The two resizes of the reference: 8-tap Lanczos on bytes without antialiasing makes the square input of
//! the model, and bicubic on floats with antialiasing resizes its output.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_4};

/// Fraction bits of the Lanczos weights, as in `OpenCV`.
const BITS: u32 = 11;
const LANCZOS_TAPS: usize = 8;

/// Returns the weights of the 8 taps at offsets -3..=4, for a position `fraction` past the tap at 0. As in
/// `OpenCV`, they are f32 weights, normalised and then rounded to 11 bits.
fn lanczos_weights(fraction: f32) -> [i32; LANCZOS_TAPS] {
    const S: f64 = FRAC_1_SQRT_2;
    const TURNS: [[f64; 2]; LANCZOS_TAPS] = [
        [1.0, 0.0],
        [-S, -S],
        [0.0, 1.0],
        [S, -S],
        [-1.0, 0.0],
        [S, S],
        [0.0, -1.0],
        [-S, S],
    ];
    let (sin, cos) = (-f64::from(fraction + 3.0) * FRAC_PI_4).sin_cos();
    let mut weights = [0.0_f32; LANCZOS_TAPS];
    for (i, (weight, turn)) in weights.iter_mut().zip(TURNS).enumerate() {
        let distance = fraction + 3.0 - i as f32;
        let angle = -f64::from(distance) * FRAC_PI_4;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the weights are f32 by definition"
        )]
        let value = ((turn[0] * sin + turn[1] * cos) / (angle * angle)) as f32;
        // At a tap, the huge weight makes that tap alone count.
        *weight = if distance.abs() < 1e-6 { 1e30 } else { value };
    }
    let sum: f32 = weights.iter().sum();
    let scale = f32::from(1_u16 << BITS) / sum;
    #[expect(clippy::cast_possible_truncation, reason = "weights are at most 2048")]
    weights.map(|weight| (weight * scale).round_ties_even() as i32)
}

/// Returns for each output position the 8 source positions, with repeated edges, and their weights.
fn lanczos_axis(from: usize, to: usize) -> Vec<([usize; LANCZOS_TAPS], [i32; LANCZOS_TAPS])> {
    let scale = from as f64 / to as f64;
    let last = i64::try_from(from).unwrap_or(i64::MAX) - 1;
    (0..to)
        .map(|i| {
            #[expect(clippy::cast_possible_truncation, reason = "positions are f32 by definition")]
            let at = ((i as f64 + 0.5) * scale - 0.5) as f32;
            let low = at.floor();
            #[expect(clippy::cast_possible_truncation, reason = "a position within a picture")]
            let first = low as i64 - 3;
            let taps = std::array::from_fn(|tap| {
                let tap = i64::try_from(tap).unwrap_or_default();
                usize::try_from((first + tap).clamp(0, last)).unwrap_or_default()
            });
            (taps, lanczos_weights(at - low))
        })
        .collect()
}

/// Resizes a picture of `height x width x 3` bytes; sizes are (width, height).
///
/// Sums are integers, so their order does not matter. Values count from the middle level, so that every sum
/// fits into 32 bits: the absolute weights add up to less than 1.75 along each axis.
pub fn lanczos4(picture: &[u8], [width, height]: [usize; 2], [to_width, to_height]: [usize; 2]) -> Vec<u8> {
    const MIDDLE: i32 = 128;
    let columns = lanczos_axis(width, to_width);
    let stride = to_width * 3;
    let mut rows = vec![0_i32; height * stride];
    for (row, out) in picture.chunks_exact(width * 3).zip(rows.chunks_exact_mut(stride)) {
        for ((taps, weights), out) in columns.iter().zip(out.chunks_exact_mut(3)) {
            let mut sums = [0_i32; 3];
            for (tap, weight) in taps.iter().zip(weights) {
                let pixel = &row[tap * 3..tap * 3 + 3];
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += (i32::from(*value) - MIDDLE) * weight;
                }
            }
            out.copy_from_slice(&sums);
        }
    }
    let middles: Vec<i32> = columns
        .iter()
        .map(|(_, weights)| MIDDLE * weights.iter().sum::<i32>())
        .collect();
    let half = 1_i64 << (2 * BITS - 1);
    let mut out = Vec::with_capacity(to_height * stride);
    let mut sums = vec![0_i32; stride];
    for (taps, weights) in lanczos_axis(height, to_height) {
        sums.fill(0);
        for (tap, weight) in taps.iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(&rows[tap * stride..][..stride]) {
                *sum += value * weight;
            }
        }
        let total = i64::from(weights.iter().sum::<i32>());
        for (sums, middle) in sums.chunks_exact(3).zip(&middles) {
            let middle = i64::from(*middle) * total + half;
            let level = |sum: &i32| ((i64::from(*sum) + middle) >> (2 * BITS)).clamp(0, 255);
            out.extend(
                sums.iter()
                    .map(|sum| u8::try_from(level(sum)).unwrap_or_default()),
            );
        }
    }
    out
}

/// Returns the cubic kernel with a = -0.5.
fn cubic(distance: f64) -> f64 {
    let d = distance.abs();
    if d < 1.0 {
        (1.5 * d - 2.5) * d * d + 1.0
    } else if d < 2.0 {
        ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    } else {
        0.0
    }
}

/// Returns for each output position the first source position and the weights from there on.
fn cubic_axis(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    let widen = scale.max(1.0);
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clipped to 0..=from"
            )]
            let clip = |at: f64| (at + 0.5).clamp(0.0, from as f64) as usize;
            let (first, past) = (clip(centre - 2.0 * widen), clip(centre + 2.0 * widen));
            let weights: Vec<f64> = (first..past)
                .map(|at| cubic((at as f64 + 0.5 - centre) / widen))
                .collect();
            let sum: f64 = weights.iter().sum();
            #[expect(clippy::cast_possible_truncation, reason = "the weights are applied in f32")]
            let weights = weights.iter().map(|weight| (weight / sum) as f32).collect();
            (first, weights)
        })
        .collect()
}

/// Resizes planes of `height x width` floats, with antialiasing if they shrink and without clamping; sizes
/// are (width, height).
pub fn bicubic(planes: &[f32], [width, height]: [usize; 2], [to_width, to_height]: [usize; 2]) -> Vec<f32> {
    let (columns, lines) = (cubic_axis(width, to_width), cubic_axis(height, to_height));
    let mut out = Vec::with_capacity(planes.len() / (width * height) * to_width * to_height);
    for plane in planes.chunks_exact(width * height) {
        let mut rows = Vec::with_capacity(height * to_width);
        for row in plane.chunks_exact(width) {
            rows.extend(columns.iter().map(|(first, weights)| {
                row[*first..]
                    .iter()
                    .zip(weights)
                    .map(|(value, weight)| value * weight)
                    .sum::<f32>()
            }));
        }
        for (first, weights) in &lines {
            let start = out.len();
            out.resize(start + to_width, 0.0_f32);
            for (row, weight) in rows[first * to_width..].chunks_exact(to_width).zip(weights) {
                for (out, value) in out[start..].iter_mut().zip(row) {
                    *out += value * weight;
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_change_nothing() {
        let picture: Vec<u8> = (0..10 * 12 * 3)
            .map(|i| u8::try_from(i * 31 % 256).unwrap())
            .collect();
        assert_eq!(lanczos4(&picture, [12, 10], [12, 10]), picture);
        let floats: Vec<f32> = picture.iter().copied().map(f32::from).collect();
        assert_eq!(bicubic(&floats, [12, 10], [12, 10]), floats);
    }

    #[test]
    fn lanczos_weights_are_small_enough_for_sums_of_32_bits() {
        for step in 0..=1000_u16 {
            let weights = lanczos_weights(f32::from(step) / 1000.0);
            let size: i32 = weights.iter().map(|weight| weight.abs()).sum();
            assert!(f64::from(size) < 1.75 * 2048.0, "{weights:?}");
        }
    }

    #[test]
    fn the_sharpest_picture_is_clipped_and_not_wrapped() {
        // The columns and rows have the signs of the weights, which gives the largest sums.
        let picture: Vec<u8> = (0..64 * 64)
            .flat_map(|i| {
                [if (i % 64 / 2 + i / 64 / 2) % 2 == 0 {
                    255
                } else {
                    0
                }; 3]
            })
            .collect();
        let out = lanczos4(&picture, [64, 64], [128, 128]);
        let close = |at: usize| lanczos_reference(&picture, at % 128, at / 128).abs_diff(out[at * 3]) <= 1;
        assert!((0..128 * 128).all(close));
    }

    /// Computes one value of [`lanczos4`] from 64 x 64 to 128 x 128 in 64-bit numbers.
    fn lanczos_reference(picture: &[u8], x: usize, y: usize) -> u8 {
        let ((columns, across), (rows, down)) = (lanczos_axis(64, 128)[x], lanczos_axis(64, 128)[y]);
        let mut sum = 1_i64 << 21;
        for (row, down) in rows.iter().zip(down) {
            for (column, across) in columns.iter().zip(across) {
                let value = i64::from(picture[(row * 64 + column) * 3]);
                sum += value * i64::from(down) * i64::from(across);
            }
        }
        u8::try_from((sum >> 22).clamp(0, 255)).unwrap()
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        assert!(
            lanczos4(&[93; 20 * 30 * 3], [20, 30], [64, 64])
                .iter()
                .all(|&value| value == 93)
        );
        let flat = bicubic(&[0.25; 64 * 64], [64, 64], [21, 28]);
        assert!(flat.iter().all(|value| (value - 0.25).abs() < 1e-6));
    }
}
