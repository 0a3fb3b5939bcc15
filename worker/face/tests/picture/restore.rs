//! Restores a rendered face into an RGB frame step by step as the reference does, so that every step can be
//! compared.

use latentfarm_common::affine::transform;
use latentfarm_common::frame::Rgb;
use latentfarm_face::mask::{PixelRect, SoftMask};
use latentfarm_face::resize::bicubic;
use latentfarm_face::warp::{BORDER, aligned_size, bilinear, bilinear_taps, truncate};

/// The result of every step of [`restore_rgb`]; planes cover `mask.area` only.
#[derive(Clone, Debug)]
pub struct Restored {
    pub mask: SoftMask,
    /// The face at its aligned size, `3 x face height x face width`.
    pub resized: Vec<f32>,
    /// The face warped into the frame, `3 x area`, with the value 127 outside the face.
    pub inverse: Vec<f32>,
    /// The blended colours, `area x 3`, with fractions in 0..=255.
    pub blend: Vec<f32>,
    /// The whole frame with the face in it.
    pub frame: Rgb,
}

/// Restores `face`, which is `3 x resolution x resolution` with values in about -1..=1, into a frame.
///
/// It differs from `face::paste` at the border of the face, where the 127 outside counts as white wherever
/// the soft mask reaches it, and in that it drops fractions.
pub fn restore_rgb(frame: &Rgb, matrix: &[f32; 6], face: &[f32], resolution: usize) -> Restored {
    let (width, height) = aligned_size(resolution);
    let resized = bicubic(face, [resolution, resolution], [width, height]);
    let size = [frame.width, frame.height];
    let area = PixelRect::of_face(size, matrix, [width, height]);
    let mask = SoftMask::new(size, area, matrix, [width, height]);
    let to_face = matrix.map(f64::from);
    let pixels = area.width * area.height;
    let mut inverse = vec![0.0_f32; 3 * pixels];
    let mut blend = Vec::with_capacity(3 * pixels);
    let mut restored = frame.clone();
    for at in 0..pixels {
        let (x, y) = (area.left + at % area.width, area.top + at / area.width);
        let (fraction, taps) = bilinear_taps(transform(&to_face, x as f64, y as f64), width, height);
        for channel in 0..3 {
            let plane = &resized[channel * width * height..][..width * height];
            let value = bilinear(fraction, taps.map(|at| at.map_or(BORDER, |at| plane[at])));
            inverse[channel * pixels + at] = value;
            let pasted = mask.eroded[at] * ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0);
            let out = &mut restored.data[(y * frame.width + x) * 3 + channel];
            let mixed = mask.soft[at] * pasted + (1.0 - mask.soft[at]) * f32::from(*out);
            *out = truncate(mixed);
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
