//! Sampling through a 2 x 3 matrix: the aligned face out of a frame.
//!
//! Pixels have their centres at whole numbers. A sample is bilinear; each of its four taps that lies outside
//! counts as `BORDER`.

use latentfarm_common::align::face_size;
use latentfarm_common::frame::Rgb;

use super::resize;

/// What the reference puts outside of a picture.
pub(super) const BORDER: f32 = 127.0;

/// Applies a matrix to a point.
#[inline]
pub(super) fn apply(matrix: &[f64; 6], x: f64, y: f64) -> [f64; 2] {
    [
        matrix[0] * x + matrix[1] * y + matrix[2],
        matrix[3] * x + matrix[4] * y + matrix[5],
    ]
}

/// The matrix that goes back; `None` where there is no way back.
pub(super) fn invert(matrix: &[f32; 6]) -> Option<[f64; 6]> {
    let [a, b, tx, c, d, ty] = matrix.map(f64::from);
    let determinant = a * d - b * c;
    if !matrix.iter().all(|value| value.is_finite()) || determinant.abs() < 1e-12 {
        return None;
    }
    let [a, b, c, d] = [
        d / determinant,
        -b / determinant,
        -c / determinant,
        a / determinant,
    ];
    Some([a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty)])
}

/// The four pixels of a bilinear sample, by row, `None` outside; and how far it lies right and down of the
/// first, 0..1.
#[inline]
pub(super) fn corners([x, y]: [f64; 2], width: usize, height: usize) -> ([f32; 2], [Option<usize>; 4]) {
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

/// The whole number below, and how far above it.
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
    let past = (value - low as f64) as f32;
    (low, past)
}

/// Bilinear mix of the four pixels.
#[inline]
pub(super) fn mix([dx, dy]: [f32; 2], [a, b, c, d]: [f32; 4]) -> f32 {
    // In this form flat colours stay what they are, to the last bit.
    let (upper, lower) = (a + (b - a) * dx, c + (d - c) * dx);
    upper + (lower - upper) * dy
}

/// The aligned face, `face height x face width x 3` in 0..=255, fractions kept.
///
/// A matrix that cannot be inverted gives the border's grey.
pub fn warp_face(frame: &Rgb, matrix: &[f32; 6], resolution: usize) -> Vec<f32> {
    let (width, height) = aligned_size(resolution);
    let Some(to_frame) = invert(matrix) else {
        return vec![BORDER; width * height * 3];
    };
    let mut face = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let at = apply(&to_frame, x as f64, y as f64);
            let (past, corners) = corners(at, frame.width, frame.height);
            face.extend((0..3).map(|channel| {
                mix(
                    past,
                    corners.map(|at| at.map_or(BORDER, |at| f32::from(frame.data[at * 3 + channel]))),
                )
            }));
        }
    }
    face
}

/// The model's input: the aligned face squeezed to a square, `3 x resolution x resolution`.
pub fn crop(frame: &Rgb, matrix: &[f32; 6], resolution: usize) -> Vec<u8> {
    let (width, height) = aligned_size(resolution);
    let face: Vec<u8> = warp_face(frame, matrix, resolution)
        .into_iter()
        .map(whole)
        .collect();
    let square = resize::lanczos4(&face, [width, height], [resolution, resolution]);
    (0..3)
        .flat_map(|channel| square.iter().skip(channel).step_by(3).copied())
        .collect()
}

/// Drops the fraction.
pub(super) fn whole(value: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates at 0 and 255"
    )]
    {
        value as u8
    }
}

/// Width and height of the aligned face.
pub(super) fn aligned_size(resolution: usize) -> (usize, usize) {
    face_size(u32::try_from(resolution).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverting_twice_gives_the_matrix_back() {
        let matrix = [1.5_f32, -0.3, 12.0, 0.3, 1.5, -7.0];
        let back = invert(&matrix).unwrap();
        let [x, y] = apply(&back, 20.0, 30.0);
        let [x, y] = apply(&matrix.map(f64::from), x, y);
        assert!((x - 20.0).abs() < 1e-9 && (y - 30.0).abs() < 1e-9);
        assert!(invert(&[0.0; 6]).is_none());
        assert!(invert(&[f32::NAN, 0.0, 0.0, 0.0, 1.0, 0.0]).is_none());
    }

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
