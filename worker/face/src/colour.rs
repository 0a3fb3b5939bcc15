//! Converts 4:2:0 pictures to RGB and back.
//!
//! A chroma sample is repeated over its block of 2 x 2 pixels, and the way back takes the mean of the block.
//! So a picture that goes both ways changes only by rounding; interpolation would blur its colours a little
//! each time.

use super::mask::PixelRect;
use latentfarm_common::frame::{Colour, ColourMatrix, ColourRange, Picture, Rgb};

/// Fraction bits of the fixed-point arithmetic.
const BITS: u32 = 16;

/// Returns the luma coefficients of red and blue.
fn luma_coefficients(matrix: ColourMatrix) -> [f32; 2] {
    match matrix {
        ColourMatrix::Bt601 => [0.299, 0.114],
        ColourMatrix::Bt709 => [0.2126, 0.0722],
    }
}

/// Returns the black level, and the sizes of the luma and chroma ranges.
fn levels(range: ColourRange) -> [f32; 3] {
    match range {
        ColourRange::Limited => [16.0, 219.0, 224.0],
        ColourRange::Full => [0.0, 255.0, 255.0],
    }
}

/// Converts a whole picture, on one thread. Values outside 0..=255 are clipped.
pub fn to_rgb(picture: &Picture) -> Rgb {
    let whole = PixelRect {
        left: 0,
        top: 0,
        width: picture.format.width as usize,
        height: picture.format.height as usize,
    };
    part_to_rgb(picture, whole)
}

/// Converts the part of a picture inside `area`, which lies within it, begins at even pixels and has an even
/// width.
pub(super) fn part_to_rgb(picture: &Picture, area: PixelRect) -> Rgb {
    let stride = picture.format.width as usize;
    let (width, height) = (area.width, area.height);
    let factors = YuvToRgb::new(picture.format.colour);
    let mut data = vec![0_u8; width * height * 3];
    for (row, out) in data.chunks_exact_mut((width * 3).max(1)).enumerate() {
        let y = area.top + row;
        let luma = &picture.y[y * stride + area.left..][..width];
        let at = y / 2 * (stride / 2) + area.left / 2;
        let (u, v) = (&picture.u[at..at + width / 2], &picture.v[at..at + width / 2]);
        let pairs = out
            .chunks_exact_mut(6)
            .zip(luma.chunks_exact(2))
            .zip(u.iter().zip(v));
        for ((out, luma), (&u, &v)) in pairs {
            let chroma = factors.chroma(u, v);
            out[..3].copy_from_slice(&factors.pixel(luma[0], chroma));
            out[3..].copy_from_slice(&factors.pixel(luma[1], chroma));
        }
    }
    Rgb { width, height, data }
}

/// Factors from YUV to RGB in fixed-point numbers.
struct YuvToRgb {
    black: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl YuvToRgb {
    fn new(colour: Colour) -> Self {
        let [red, blue] = luma_coefficients(colour.matrix);
        let green = 1.0 - red - blue;
        let [black, luma_span, chroma_span] = levels(colour.range);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "factors are below 3, black at most 16"
        )]
        let fixed = |value: f32| (value * 255.0 * (1_u32 << BITS) as f32).round() as i32;
        Self {
            black: if black > 0.0 { 16 } else { 0 },
            luma: fixed(1.0 / luma_span),
            red_v: fixed(2.0 * (1.0 - red) / chroma_span),
            green_u: fixed(-2.0 * (1.0 - blue) * blue / green / chroma_span),
            green_v: fixed(-2.0 * (1.0 - red) * red / green / chroma_span),
            blue_u: fixed(2.0 * (1.0 - blue) / chroma_span),
        }
    }

    /// Returns what the chroma adds to red, green and blue, with half a level for rounding.
    fn chroma(&self, u: u8, v: u8) -> [i32; 3] {
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let half = 1 << (BITS - 1);
        [
            self.red_v * v + half,
            self.green_u * u + self.green_v * v + half,
            self.blue_u * u + half,
        ]
    }

    fn pixel(&self, luma: u8, chroma: [i32; 3]) -> [u8; 3] {
        let luma = self.luma * (i32::from(luma) - self.black);
        #[expect(clippy::cast_sign_loss, reason = "clamped to 0..=255")]
        chroma.map(|chroma| ((luma + chroma) >> BITS).clamp(0, 255) as u8)
    }
}

/// Converts RGB to the Y, U and V of one colour description, all in 0..=255 and with fractions.
#[derive(Clone, Copy, Debug)]
pub struct RgbToYuv {
    coefficients: [f32; 3],
    black: f32,
    luma: f32,
    blue: f32,
    red: f32,
}

impl RgbToYuv {
    /// Computes the factors of a colour description.
    pub fn new(colour: Colour) -> Self {
        let [red, blue] = luma_coefficients(colour.matrix);
        let [black, luma_span, chroma_span] = levels(colour.range);
        Self {
            coefficients: [red, 1.0 - red - blue, blue],
            black,
            luma: luma_span / 255.0,
            blue: chroma_span / 255.0 / (2.0 * (1.0 - blue)),
            red: chroma_span / 255.0 / (2.0 * (1.0 - red)),
        }
    }

    /// Returns Y, with its fraction.
    pub fn luma(&self, rgb: [f32; 3]) -> f32 {
        self.black + self.luma * self.grey(rgb)
    }

    /// Returns U and V, with their fractions.
    pub fn chroma(&self, rgb: [f32; 3]) -> [f32; 2] {
        let grey = self.grey(rgb);
        [
            128.0 + self.blue * (rgb[2] - grey),
            128.0 + self.red * (rgb[0] - grey),
        ]
    }

    fn grey(&self, rgb: [f32; 3]) -> f32 {
        self.coefficients[0] * rgb[0] + self.coefficients[1] * rgb[1] + self.coefficients[2] * rgb[2]
    }
}

/// Rounds to the nearest level in 0..=255.
pub(super) fn quantize(value: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=255"
    )]
    {
        (value + 0.5).clamp(0.0, 255.0) as u8
    }
}

#[cfg(test)]
mod tests {
    use latentfarm_common::frame::PictureFormat;

    use super::*;

    fn colours() -> impl Iterator<Item = Colour> {
        [ColourMatrix::Bt601, ColourMatrix::Bt709]
            .into_iter()
            .flat_map(|matrix| {
                [ColourRange::Limited, ColourRange::Full].map(|range| Colour {
                    matrix,
                    range,
                    primaries_tag: 2,
                    transfer_tag: 2,
                    matrix_tag: 2,
                    range_tagged: false,
                })
            })
    }

    fn one_colour(colour: Colour, [y, u, v]: [u8; 3]) -> [u8; 3] {
        let mut picture = Picture::black(PictureFormat {
            width: 64,
            height: 64,
            colour,
            sample_aspect: (1, 1),
        });
        picture.y.fill(y);
        picture.u.fill(u);
        picture.v.fill(v);
        let rgb = to_rgb(&picture);
        rgb.data[..3].try_into().unwrap()
    }

    #[test]
    fn black_white_and_primaries_are_where_the_standards_put_them() {
        for colour in colours() {
            let (black, white) = match colour.range {
                ColourRange::Limited => (16, 235),
                ColourRange::Full => (0, 255),
            };
            assert_eq!(one_colour(colour, [black, 128, 128]), [0, 0, 0]);
            assert_eq!(one_colour(colour, [white, 128, 128]), [255, 255, 255]);
        }
        let limited = |matrix| {
            colours()
                .find(|c| c.matrix == matrix && c.range == ColourRange::Limited)
                .unwrap()
        };
        // Published code values of pure red at 8 bits.
        for (matrix, red) in [
            (ColourMatrix::Bt601, [81, 90, 240]),
            (ColourMatrix::Bt709, [63, 102, 240]),
        ] {
            let from = RgbToYuv::new(limited(matrix));
            let rgb = [255.0, 0.0, 0.0];
            let [u, v] = from.chroma(rgb);
            assert_eq!([from.luma(rgb), u, v].map(quantize), red);
        }
    }

    #[test]
    fn every_grid_colour_comes_back_within_two_levels() {
        for colour in colours() {
            let from = RgbToYuv::new(colour);
            let mut worst = 0;
            for (r, g, b) in (0..=5).flat_map(|r| (0..=5).flat_map(move |g| (0..=5).map(move |b| (r, g, b))))
            {
                let rgb = [r, g, b].map(|step: u8| f32::from(step * 51));
                let [u, v] = from.chroma(rgb);
                let stored = [from.luma(rgb), u, v].map(quantize);
                let back = one_colour(colour, stored);
                for (back, rgb) in back.iter().zip(rgb) {
                    worst = worst.max(back.abs_diff(quantize(rgb)));
                }
                let [u, v] = from.chroma(back.map(f32::from));
                let again = [from.luma(back.map(f32::from)), u, v].map(quantize);
                for (again, stored) in again.iter().zip(stored) {
                    assert!(
                        again.abs_diff(stored) <= 1,
                        "{colour:?} {rgb:?}: {stored:?} became {again:?}"
                    );
                }
            }
            assert!(worst <= 2, "{colour:?}: RGB is off by {worst}");
        }
    }
}
