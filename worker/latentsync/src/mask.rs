//! The fixed mask of the reference, which marks the part of the face crop that is rendered anew: 255 = keep,
//! 0 = replace. [`FaceMask`](super::preprocess::FaceMask) makes tensors of it.
//!
//! The mask is drawn at 256 px from run lengths and resized to other resolutions as the reference does: with
//! an eight-tap Lanczos filter in fixed point without antialiasing, which rings at the edges.

use serde::Deserialize;

/// The side in pixels at which the mask is drawn.
const NATIVE: usize = 256;

/// The shape of the mask, as `published/mask_geometry.json` holds it.
#[derive(Deserialize)]
struct Geometry {
    background_value: u8,
    zero_runs: Vec<ZeroRun>,
}

/// The columns that are 0 in a range of rows; all ranges are `[first, past last]`.
#[derive(Deserialize)]
struct ZeroRun {
    rows: [usize; 2],
    columns: Vec<[usize; 2]>,
}

/// Draws the mask at its own resolution: `256 x 256` bytes, row by row.
///
/// # Panics
/// It cannot panic, because the geometry is a part of the program.
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

/// Returns the mask at `side x side` pixels, 0..=255, row by row.
pub fn resized(side: usize) -> Vec<u8> {
    if side == NATIVE {
        return native();
    }
    lanczos(&native(), NATIVE, side)
}

/// The number of source pixels that each output pixel is computed from.
const TAPS: usize = 8;
/// The number of fractional bits of the fixed-point weights.
const WEIGHT_BITS: i32 = 11;

/// The first source position of one output position, and the weights from there on.
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

/// Computes `sinc(t) sinc(t / 4)` at the eight positions around `fraction`, scaled to the sum 1.
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

/// Resizes a square picture with one channel: first the rows, then the columns, rounded once at the end.
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
