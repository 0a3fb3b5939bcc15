//! Pastes a rendered face back into its frame. The media child calls it for each frame that shows a rendered
//! mouth.

use latentfarm_common::affine::transform;
use latentfarm_common::frame::Picture;

use crate::colour::{RgbToYuv, quantize};
use crate::mask::{PixelRect, SoftMask};
use crate::resize::bicubic;
use crate::warp::aligned_size;

/// Pastes a rendered face, `3 x resolution x resolution` bytes of planar RGB, into the planes of a picture,
/// and returns the rectangle that it may have changed.
///
/// Luma is blended pixel by pixel with the soft mask of the reference, each chroma sample with the mask and
/// the colour of its 2 x 2 pixels. Samples whose mask is 0 keep every bit. The reference converts the whole
/// frame to RGB instead, and fills 127 in around the face, which shows as a bright rim where the soft mask
/// reaches beyond the face; here the edge pixels of the face are repeated. A matrix without an inverse, or a
/// face off the picture, changes nothing.
///
/// # Panics
/// If `face` does not hold `3 x resolution x resolution` bytes.
pub fn paste(picture: &mut Picture, matrix: &[f32; 6], face: &[u8], resolution: usize) -> PixelRect {
    assert_eq!(
        face.len(),
        3 * resolution * resolution,
        "a face of {resolution} x {resolution}"
    );
    let (width, height) = (picture.format.width as usize, picture.format.height as usize);
    let (face_width, face_height) = aligned_size(resolution);
    let area = PixelRect::of_face([width, height], matrix, [face_width, face_height]);
    if area.is_empty() {
        return PixelRect::default();
    }
    let floats: Vec<f32> = face.iter().copied().map(f32::from).collect();
    let aligned = AlignedFace {
        planes: bicubic(&floats, [resolution, resolution], [face_width, face_height]),
        width: face_width,
        height: face_height,
        to_face: matrix.map(f64::from),
    };
    let mask = SoftMask::new([width, height], area, matrix, [face_width, face_height]);
    let from_rgb = RgbToYuv::new(picture.format.colour);
    let weight = |x: usize, y: usize| -> f32 {
        let (Some(x), Some(y)) = (x.checked_sub(area.left), y.checked_sub(area.top)) else {
            return 0.0;
        };
        if x < area.width && y < area.height {
            mask.soft[y * area.width + x]
        } else {
            0.0
        }
    };
    for block_y in area.top / 2..(area.top + area.height).div_ceil(2) {
        for block_x in area.left / 2..(area.left + area.width).div_ceil(2) {
            let mut total = 0.0_f32;
            let mut sum = [0.0_f32; 3];
            for (x, y) in [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(x, y)| (2 * block_x + x, 2 * block_y + y)) {
                let share = weight(x, y);
                if share > 0.0 {
                    let colour = aligned.colour(x, y);
                    let luma = &mut picture.y[y * width + x];
                    *luma = blend(*luma, from_rgb.luma(colour), share);
                    total += share;
                    for (sum, colour) in sum.iter_mut().zip(colour) {
                        *sum += share * colour;
                    }
                }
            }
            if total > 0.0 {
                let [u, v] = from_rgb.chroma(sum.map(|sum| sum / total));
                let at = block_y * (width / 2) + block_x;
                picture.u[at] = blend(picture.u[at], u, total / 4.0);
                picture.v[at] = blend(picture.v[at], v, total / 4.0);
            }
        }
    }
    area
}

/// Blends `share` of the new value into a sample.
fn blend(old: u8, new: f32, share: f32) -> u8 {
    let old = f32::from(old);
    quantize(old + share * (new - old))
}

/// A rendered face at its aligned size: planar RGB floats, with the matrix from frame to face.
struct AlignedFace {
    planes: Vec<f32>,
    width: usize,
    height: usize,
    to_face: [f64; 6],
}

impl AlignedFace {
    /// Returns the colour of the face at a pixel of the frame, in 0..=255; outside the face its edge pixels
    /// are repeated.
    fn colour(&self, x: usize, y: usize) -> [f32; 3] {
        let [x, y] = transform(&self.to_face, x as f64, y as f64);
        let (right, bottom) = ((self.width - 1) as f64, (self.height - 1) as f64);
        let (x, y) = (x.clamp(0.0, right), y.clamp(0.0, bottom));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the face"
        )]
        let (column, row) = (x as usize, y as usize);
        #[expect(clippy::cast_possible_truncation, reason = "fractions of a pixel")]
        let (dx, dy) = ((x - column as f64) as f32, (y - row as f64) as f32);
        let next = usize::from(column + 1 < self.width);
        let below = if row + 1 < self.height { self.width } else { 0 };
        let at = row * self.width + column;
        std::array::from_fn(|channel| {
            let plane = &self.planes[channel * self.width * self.height..];
            let upper = plane[at] + (plane[at + next] - plane[at]) * dx;
            let lower = plane[at + below] + (plane[at + below + next] - plane[at + below]) * dx;
            (upper + (lower - upper) * dy).clamp(0.0, 255.0)
        })
    }
}

#[cfg(test)]
mod tests;
