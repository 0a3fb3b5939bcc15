//! Which part of the face crop is rendered anew: the fixed mask of the reference, 1 = keep, 0 = replace.
//!
//! The mask is drawn at 256 px from run lengths and resized to other resolutions as the reference does, by
//! eight-tap Lanczos in fixed point without antialiasing, which rings at the edges.

use serde::Deserialize;

/// The mask's own side in pixels.
const NATIVE: usize = 256;

#[derive(Deserialize)]
struct Geometry {
    background_value: u8,
    zero_runs: Vec<ZeroRun>,
}

/// Columns `[first, past last]` that are 0 in the rows `[first, past last]`.
#[derive(Deserialize)]
struct ZeroRun {
    rows: [usize; 2],
    columns: Vec<[usize; 2]>,
}

/// The mask at its own resolution, `256 x 256`.
///
/// # Panics
/// Never: the geometry is part of the program.
pub fn native() -> Vec<u8> {
    let geometry: Geometry =
        serde_json::from_str(include_str!("published/mask_geometry.json")).expect("the geometry is valid");
    let mut mask = vec![geometry.background_value; NATIVE * NATIVE];
    for run in &geometry.zero_runs {
        for row in run.rows[0]..run.rows[1] {
            for [first, end] in &run.columns {
                mask[row * NATIVE + first..row * NATIVE + end].fill(0);
            }
        }
    }
    mask
}

/// The mask at `side x side`, 0..=255.
pub fn resized(side: usize) -> Vec<u8> {
    if side == NATIVE {
        return native();
    }
    lanczos(&native(), NATIVE, side)
}

/// Taps of the filter, around the two in the middle.
const TAPS: usize = 8;
/// Weights are fixed-point numbers with this many bits behind the point.
const WEIGHT_BITS: i32 = 11;

/// For one output position: the first source position and the weights from there.
struct Taps {
    first: isize,
    weights: [i32; TAPS],
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "fixed-point weights, as the reference's library rounds them"
)]
fn taps(source: usize, target: usize) -> Vec<Taps> {
    let scale = source as f64 / target as f64;
    (0..target)
        .map(|position| {
            let centre = ((position as f64 + 0.5) * scale - 0.5) as f32;
            let left = centre.floor();
            let weights = lanczos_weights(centre - left);
            Taps {
                first: left as isize - (TAPS as isize / 2 - 1),
                weights: weights.map(|weight| (weight * (1 << WEIGHT_BITS) as f32).round_ties_even() as i32),
            }
        })
        .collect()
}

/// `sinc(t) sinc(t / 4)` at the eight positions around `fraction`, scaled to the sum 1.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the reference's library keeps the weights in f32"
)]
fn lanczos_weights(fraction: f32) -> [f32; TAPS] {
    let mut weights = [0.0_f32; TAPS];
    if fraction < f32::EPSILON {
        weights[TAPS / 2 - 1] = 1.0;
        return weights;
    }
    for (i, weight) in weights.iter_mut().enumerate() {
        let distance = f64::from(fraction) + 3.0 - i as f64;
        let angle = distance * std::f64::consts::PI;
        *weight = (angle.sin() * (angle / 4.0).sin() / (angle * angle / 4.0)) as f32;
    }
    let sum: f32 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

/// Resizes a square one-channel picture; rows first, then columns, rounded once at the end.
fn lanczos(picture: &[u8], source: usize, target: usize) -> Vec<u8> {
    let taps = taps(source, target);
    let at = |first: isize, tap: usize| {
        first
            .saturating_add_unsigned(tap)
            .clamp(0, source.cast_signed() - 1)
    };
    let mut rows = vec![0_i32; source * target];
    for y in 0..source {
        for (x, Taps { first, weights }) in taps.iter().enumerate() {
            rows[y * target + x] = (0..TAPS)
                .map(|tap| i32::from(picture[y * source + at(*first, tap).unsigned_abs()]) * weights[tap])
                .sum();
        }
    }
    let mut out = Vec::with_capacity(target * target);
    for Taps { first, weights } in &taps {
        for x in 0..target {
            let sum: i32 = (0..TAPS)
                .map(|tap| rows[at(*first, tap).unsigned_abs() * target + x] * weights[tap])
                .sum();
            let rounded = (sum + (1 << (2 * WEIGHT_BITS - 1))) >> (2 * WEIGHT_BITS);
            out.push(u8::try_from(rounded.clamp(0, 255)).unwrap_or(0));
        }
    }
    out
}
