//! Warps the aligned face out of a frame, and makes the crop of it that the model is given.
//!
//! A matrix has the shape `2 x 3`, row by row, and maps frame pixels to face pixels, whose centres are at
//! whole numbers. A sample is bilinear; each of its four taps that lies outside the frame counts as
//! [`BORDER`].

use latentfarm_common::affine::{invert, transform};
use latentfarm_common::align::face_size;
use latentfarm_common::frame::Rgb;

use super::resize;

/// The colour outside a picture, as the reference has it.
pub const BORDER: f32 = 127.0;

/// Returns how far right and down of its first tap a bilinear sample lies, both in 0..1, and the indices of
/// its four taps by row, `None` for those outside.
#[inline]
pub fn bilinear_taps([x, y]: [f64; 2], width: usize, height: usize) -> ([f32; 2], [Option<usize>; 4]) {
    let ((column, dx), (row, dy)) = (floor(x), floor(y));
    let pixel = |column: i64, row: i64| {
        let column = usize::try_from(column).ok().filter(|&column| column < width)?;
        let row = usize::try_from(row).ok().filter(|&row| row < height)?;
        Some(row * width + column)
    };
    let (next, below) = (column.saturating_add(1), row.saturating_add(1));
    (
        [dx, dy],
        [
            pixel(column, row),
            pixel(next, row),
            pixel(column, below),
            pixel(next, below),
        ],
    )
}

/// Returns the whole number below a value, and how far the value is above it.
#[inline]
fn floor(value: f64) -> (i64, f32) {
    #[expect(clippy::cast_possible_truncation, reason = "far positions saturate")]
    let towards_zero = value as i64;
    let low = if towards_zero as f64 > value {
        towards_zero - 1
    } else {
        towards_zero
    };
    #[expect(clippy::cast_possible_truncation, reason = "0..1")]
    let fraction = (value - low as f64) as f32;
    (low, fraction)
}

/// Returns the bilinear mix of four taps.
#[inline]
pub fn bilinear([dx, dy]: [f32; 2], [a, b, c, d]: [f32; 4]) -> f32 {
    // In this form four equal values give exactly that value.
    let (upper, lower) = (a + (b - a) * dx, c + (d - c) * dx);
    upper + (lower - upper) * dy
}

/// Returns the aligned face, `face height x face width x 3` with fractions in 0..=255.
///
/// A matrix without an inverse gives the grey of the border.
pub fn warp_face(frame: &Rgb, matrix: &[f32; 6], resolution: usize) -> Vec<f32> {
    let (width, height) = aligned_size(resolution);
    let Some(to_frame) = invert(matrix) else {
        return vec![BORDER; width * height * 3];
    };
    let mut face = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let at = transform(&to_frame, x as f64, y as f64);
            let (fraction, taps) = bilinear_taps(at, frame.width, frame.height);
            face.extend((0..3).map(|channel| {
                bilinear(
                    fraction,
                    taps.map(|at| at.map_or(BORDER, |at| f32::from(frame.data[at * 3 + channel]))),
                )
            }));
        }
    }
    face
}

/// Returns the input of the model: the aligned face resized to a square, planar RGB
/// `3 x resolution x resolution`.
pub fn crop(frame: &Rgb, matrix: &[f32; 6], resolution: usize) -> Vec<u8> {
    let (width, height) = aligned_size(resolution);
    let face: Vec<u8> = warp_face(frame, matrix, resolution)
        .into_iter()
        .map(truncate)
        .collect();
    let square = resize::lanczos4(&face, [width, height], [resolution, resolution]);
    (0..3)
        .flat_map(|channel| square.iter().skip(channel).step_by(3).copied())
        .collect()
}

/// Drops the fraction; values outside 0..=255 are clipped.
pub fn truncate(value: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates at 0 and 255"
    )]
    {
        value as u8
    }
}

/// Returns the width and height of the aligned face for crops of `resolution`.
pub fn aligned_size(resolution: usize) -> (usize, usize) {
    face_size(u32::try_from(resolution).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_off_the_frame_is_grey() {
        let frame = Rgb {
            width: 8,
            height: 8,
            data: vec![255; 192],
        };
        let crop = crop(&frame, &[1.0, 0.0, 5000.0, 0.0, 1.0, 0.0], 64);
        assert_eq!(crop.len(), 3 * 64 * 64);
        assert!(crop.iter().all(|&value| value == 127));
    }
}
