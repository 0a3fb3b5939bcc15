//! The rendered face's way back into its frame.

use latentfarm_common::frame::{Picture, Rgb};

use crate::face::colour::{FromRgb, level};
use crate::face::mask::{Area, SoftMask};
use crate::face::resize::bicubic;
use crate::face::warp::{BORDER, aligned_size, apply, corners, mix, whole};

/// What [`restore_rgb`] did, step by step; planes cover `mask.area` only.
#[derive(Clone, Debug)]
pub struct Restored {
    pub mask: SoftMask,
    /// `3 x face height x face width`: the face at the aligned size.
    pub resized: Vec<f32>,
    /// `3 x area`: that warped into the frame, outside 127.
    pub inverse: Vec<f32>,
    /// `area x 3`: the blend, 0..=255, fractions kept.
    pub blend: Vec<f32>,
    /// The whole frame.
    pub frame: Rgb,
}

/// The reference's way, step for step: `face` is `3 x resolution x resolution` in about -1..=1.
///
/// It differs from [`paste`] in what it does at the face's border (there the 127 outside counts as white
/// wherever the soft mask reaches it) and in dropping fractions.
pub fn restore_rgb(frame: &Rgb, matrix: &[f32; 6], face: &[f32], resolution: usize) -> Restored {
    let (width, height) = aligned_size(resolution);
    let resized = bicubic(face, [resolution, resolution], [width, height]);
    let size = [frame.width, frame.height];
    let area = Area::of_face(size, matrix, [width, height]);
    let mask = SoftMask::new(size, area, matrix, [width, height]);
    let to_face = matrix.map(f64::from);
    let pixels = area.width * area.height;
    let mut inverse = vec![0.0_f32; 3 * pixels];
    let mut blend = Vec::with_capacity(3 * pixels);
    let mut restored = frame.clone();
    for at in 0..pixels {
        let (x, y) = (area.left + at % area.width, area.top + at / area.width);
        let (past, corners) = corners(apply(&to_face, x as f64, y as f64), width, height);
        for channel in 0..3 {
            let plane = &resized[channel * width * height..][..width * height];
            let value = mix(past, corners.map(|at| at.map_or(BORDER, |at| plane[at])));
            inverse[channel * pixels + at] = value;
            let pasted = mask.eroded[at] * ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0);
            let out = &mut restored.data[(y * frame.width + x) * 3 + channel];
            let mixed = mask.soft[at] * pasted + (1.0 - mask.soft[at]) * f32::from(*out);
            *out = whole(mixed);
            blend.push(mixed);
        }
    }
    Restored {
        mask,
        resized,
        inverse,
        blend,
        frame: restored,
    }
}

/// Pastes a rendered face, `3 x resolution x resolution` bytes of RGB, into the picture's planes and gives
/// back the rectangle that it may have changed.
///
/// Luma is blended pixel by pixel with the reference's soft mask; chroma at its own sites, with the mask and
/// the colour of its 2 x 2 pixels. Samples where the mask is 0 stay as they are, bit for bit. Along the
/// face's border its edge pixels are repeated, so that nothing but the face shows. A matrix without an
/// inverse, and a face off the picture, change nothing.
///
/// # Panics
/// Where `face` does not hold `3 x resolution x resolution` bytes.
pub fn paste(picture: &mut Picture, matrix: &[f32; 6], face: &[u8], resolution: usize) -> Area {
    assert_eq!(
        face.len(),
        3 * resolution * resolution,
        "a face of {resolution} x {resolution}"
    );
    let (width, height) = (picture.format.width as usize, picture.format.height as usize);
    let (face_width, face_height) = aligned_size(resolution);
    let area = Area::of_face([width, height], matrix, [face_width, face_height]);
    if area.is_empty() {
        return Area::default();
    }
    let floats: Vec<f32> = face.iter().copied().map(f32::from).collect();
    let aligned = AlignedFace {
        planes: bicubic(&floats, [resolution, resolution], [face_width, face_height]),
        width: face_width,
        height: face_height,
        to_face: matrix.map(f64::from),
    };
    let mask = SoftMask::new([width, height], area, matrix, [face_width, face_height]);
    let from_rgb = FromRgb::new(picture.format.colour);
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

fn blend(old: u8, new: f32, share: f32) -> u8 {
    let old = f32::from(old);
    level(old + share * (new - old))
}

struct AlignedFace {
    planes: Vec<f32>,
    width: usize,
    height: usize,
    to_face: [f64; 6],
}

impl AlignedFace {
    /// Colour of a frame pixel, 0..=255; past the face's edge its edge pixels are repeated.
    fn colour(&self, x: usize, y: usize) -> [f32; 3] {
        let [x, y] = apply(&self.to_face, x as f64, y as f64);
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
