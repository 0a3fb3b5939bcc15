//! Reads frames, points and matrices from golden files and compares them.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of this"
)]

pub mod restore;

use latentfarm_common::frame::Rgb;
use latentfarm_face::mask::SoftMask;

use crate::support::{Golden, Tolerance, assert_values_close};

/// Returns frame `index` of a `(frames, height, width, RGB)` tensor.
pub fn frame(golden: &Golden, name: &str, index: usize) -> Rgb {
    let (_, height, width, _) = golden.get(name).dims4().unwrap();
    let frame = golden.get(name).get(index).unwrap();
    Rgb {
        width,
        height,
        data: frame.flatten_all().unwrap().to_vec1().unwrap(),
    }
}

/// Returns the three points of every frame from a `(frames, 3, 2)` tensor.
pub fn points(golden: &Golden, name: &str) -> Vec<[[f32; 2]; 3]> {
    let values = golden.floats(name);
    let frames = values.chunks_exact(6);
    frames
        .map(|p| [[p[0], p[1]], [p[2], p[3]], [p[4], p[5]]])
        .collect()
}

/// Rounds landmarks to whole pixels, as the reference does before it aligns a face.
pub fn whole_pixels(points: &[[f32; 2]; 3]) -> [[f32; 2]; 3] {
    points.map(|point| point.map(f32::round_ties_even))
}

/// Returns the matrix of every frame from a `(frames, 2, 3)` tensor.
pub fn matrices(golden: &Golden, name: &str) -> Vec<[f32; 6]> {
    let values = golden.floats(name);
    let frames = values.chunks_exact(6);
    frames.map(|m| m.try_into().unwrap()).collect()
}

/// Asserts that matrices agree within 1e-3 in the last column and 1e-5 elsewhere.
pub fn assert_matrices_close(what: &str, got: &[[f32; 6]], want: &[[f32; 6]]) {
    assert_eq!(got.len(), want.len(), "number of {what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        for (place, (got, want)) in got.iter().zip(want).enumerate() {
            let most = if place % 3 == 2 { 1e-3 } else { 1e-5 };
            assert!(
                (got - want).abs() <= most,
                "{what}, matrix {index}, value {place}: {got} and not {want}"
            );
        }
    }
    let tolerance = Tolerance {
        max_abs: 1e-3,
        relative: 1e-5,
    };
    assert_values_close(what, &got.concat(), &want.concat(), tolerance);
}

/// Returns how far the product of two 2 x 3 matrices is from the identity: the largest difference of an
/// element.
pub fn composed_error(first: &[f32; 6], second: &[f32; 6]) -> f64 {
    let [a, b, tx, c, d, ty] = first.map(f64::from);
    let [e, f, sx, g, h, sy] = second.map(f64::from);
    let product = [
        a * e + b * g - 1.0,
        a * f + b * h,
        a * sx + b * sy + tx,
        c * e + d * g,
        c * f + d * h - 1.0,
        c * sx + d * sy + ty,
    ];
    product
        .into_iter()
        .fold(0.0, |worst, value| worst.max(value.abs()))
}

/// Marks the pixels of the frame on the sharp border of the face, and one to each side. There the fill colour
/// saturates, and the smallest difference of a position shows.
pub fn fringe(mask: &SoftMask, frame: &Rgb) -> Vec<bool> {
    let area = mask.area;
    let mut fringe = vec![false; frame.width * frame.height];
    for (at, value) in mask.inverse.iter().enumerate() {
        let (x, y) = (area.left + at % area.width, area.top + at / area.width);
        let near = |size: usize, at: usize| at.saturating_sub(1)..size.min(at + 2);
        if 0.0 < *value && *value < 1.0 {
            for y in near(frame.height, y) {
                for x in near(frame.width, x) {
                    fringe[y * frame.width + x] = true;
                }
            }
        }
    }
    fringe
}
