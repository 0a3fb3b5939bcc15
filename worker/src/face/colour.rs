//! 4:2:0 pictures to RGB and back.
//!
//! Chroma is repeated over its block of 2 x 2 pixels and averaged over it on the way back, so that a picture
//! that goes both ways comes back within rounding; interpolating would blur its colours a little each time.

use latentfarm_common::frame::{Colour, Matrix, Picture, Range, Rgb};

/// Fraction bits of the integer arithmetic.
const BITS: u32 = 16;

/// Luma coefficients of red and blue.
fn luma_shares(matrix: Matrix) -> [f32; 2] {
    match matrix {
        Matrix::Bt601 => [0.299, 0.114],
        Matrix::Bt709 => [0.2126, 0.0722],
    }
}

/// Black level, and the sizes of the luma and chroma ranges.
fn levels(range: Range) -> [f32; 3] {
    match range {
        Range::Limited => [16.0, 219.0, 224.0],
        Range::Full => [0.0, 255.0, 255.0],
    }
}

/// The whole picture, in one thread. Values outside 0..=255 are clipped.
pub fn to_rgb(picture: &Picture) -> Rgb {
    let (width, height) = (picture.format.width as usize, picture.format.height as usize);
    let factors = Factors::new(picture.format.colour);
    let mut data = vec![0_u8; width * height * 3];
    let rows = data
        .chunks_exact_mut(width * 3)
        .zip(picture.y.chunks_exact(width))
        .enumerate();
    for (y, (out, luma)) in rows {
        let at = y / 2 * (width / 2);
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

struct Factors {
    black: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl Factors {
    fn new(colour: Colour) -> Self {
        let [red, blue] = luma_shares(colour.matrix);
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

    /// What chroma adds to red, green and blue, with half a level for rounding.
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

/// From RGB (0..=255, fractions allowed) to Y, U, V of one colour description, fractions kept.
#[derive(Clone, Copy, Debug)]
pub struct FromRgb {
    shares: [f32; 3],
    black: f32,
    luma: f32,
    blue: f32,
    red: f32,
}

impl FromRgb {
    pub fn new(colour: Colour) -> Self {
        let [red, blue] = luma_shares(colour.matrix);
        let [black, luma_span, chroma_span] = levels(colour.range);
        Self {
            shares: [red, 1.0 - red - blue, blue],
            black,
            luma: luma_span / 255.0,
            blue: chroma_span / 255.0 / (2.0 * (1.0 - blue)),
            red: chroma_span / 255.0 / (2.0 * (1.0 - red)),
        }
    }

    pub fn luma(&self, rgb: [f32; 3]) -> f32 {
        self.black + self.luma * self.grey(rgb)
    }

    /// U and V.
    pub fn chroma(&self, rgb: [f32; 3]) -> [f32; 2] {
        let grey = self.grey(rgb);
        [
            128.0 + self.blue * (rgb[2] - grey),
            128.0 + self.red * (rgb[0] - grey),
        ]
    }

    fn grey(&self, rgb: [f32; 3]) -> f32 {
        self.shares[0] * rgb[0] + self.shares[1] * rgb[1] + self.shares[2] * rgb[2]
    }
}

/// Rounds to the nearest level.
pub(super) fn level(value: f32) -> u8 {
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
        [Matrix::Bt601, Matrix::Bt709].into_iter().flat_map(|matrix| {
            [Range::Limited, Range::Full].map(|range| Colour {
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
                Range::Limited => (16, 235),
                Range::Full => (0, 255),
            };
            assert_eq!(one_colour(colour, [black, 128, 128]), [0, 0, 0]);
            assert_eq!(one_colour(colour, [white, 128, 128]), [255, 255, 255]);
        }
        let limited = |matrix| {
            colours()
                .find(|c| c.matrix == matrix && c.range == Range::Limited)
                .unwrap()
        };
        // Published code values of pure red at 8 bits.
        for (matrix, red) in [(Matrix::Bt601, [81, 90, 240]), (Matrix::Bt709, [63, 102, 240])] {
            let from = FromRgb::new(limited(matrix));
            let rgb = [255.0, 0.0, 0.0];
            let [u, v] = from.chroma(rgb);
            assert_eq!([from.luma(rgb), u, v].map(level), red);
        }
    }

    #[test]
    fn every_grid_colour_comes_back_within_one_level() {
        for colour in colours() {
            let from = FromRgb::new(colour);
            let mut worst = 0;
            for (r, g, b) in (0..=5).flat_map(|r| (0..=5).flat_map(move |g| (0..=5).map(move |b| (r, g, b))))
            {
                let rgb = [r, g, b].map(|step: u8| f32::from(step * 51));
                let [u, v] = from.chroma(rgb);
                let stored = [from.luma(rgb), u, v].map(level);
                let back = one_colour(colour, stored);
                for (back, rgb) in back.iter().zip(rgb) {
                    worst = worst.max(back.abs_diff(level(rgb)));
                }
                let [u, v] = from.chroma(back.map(f32::from));
                let again = [from.luma(back.map(f32::from)), u, v].map(level);
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
