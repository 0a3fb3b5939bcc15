//! Decoded pictures are 8-bit planar 4:2:0, tightly packed, with the colour description that the conversion
//! to RGB and back needs. The module does not depend on FFmpeg, so that the worker's face code can use it
//! too.

use serde::{Deserialize, Serialize};

/// The matrix between a picture's YUV and RGB, named by the standard that defines its luma coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ColourMatrix {
    /// The matrix of ITU-R BT.601, usual for standard definition.
    Bt601,
    /// The matrix of ITU-R BT.709, usual for high definition.
    Bt709,
}

/// The quantisation range of a picture's YUV values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ColourRange {
    /// Luma is within 16..=235, chroma within 16..=240.
    Limited,
    /// Luma and chroma are within 0..=255.
    Full,
}

/// How YUV values become colours, and the source's colour tags, which the output carries unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Colour {
    /// The matrix that is used; if the source has no tag, the probe chose it by the picture's size.
    pub matrix: ColourMatrix,
    /// The range that is used; limited if the source does not state one.
    pub range: ColourRange,
    /// Colour primaries of the source as an ITU-T H.273 code point; 2 is "unspecified".
    pub primaries_tag: u8,
    /// Transfer characteristics of the source as an ITU-T H.273 code point; 2 is "unspecified".
    pub transfer_tag: u8,
    /// Matrix coefficients of the source as an ITU-T H.273 code point; 2 is "unspecified".
    pub matrix_tag: u8,
    /// Whether the source states its range.
    pub range_tagged: bool,
}

impl Colour {
    /// BT.709 in limited range with all tags set, as in most HD video.
    pub const BT709: Self = Self {
        matrix: ColourMatrix::Bt709,
        range: ColourRange::Limited,
        primaries_tag: 1,
        transfer_tag: 1,
        matrix_tag: 1,
        range_tagged: true,
    };
}

/// Size and colour description of all pictures of a video track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PictureFormat {
    /// Width in pixels, even, at least 64.
    pub width: u32,
    /// Height in pixels, even, at least 64.
    pub height: u32,
    /// Colour description of the pictures.
    pub colour: Colour,
    /// Sample aspect ratio (numerator, denominator); (1, 1) if the source states none.
    pub sample_aspect: (u32, u32),
}

/// A decoded picture in planar 8-bit 4:2:0; the planes have no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The size and the colour description of the picture.
    pub format: PictureFormat,
    /// The luma plane, `height x width`.
    pub y: Vec<u8>,
    /// The first chroma plane (Cb), `height/2 x width/2`.
    pub u: Vec<u8>,
    /// The second chroma plane (Cr), `height/2 x width/2`.
    pub v: Vec<u8>,
}

/// The first 16 bytes of the BLAKE3 hash over the planes Y, U, V of one picture. The media child hashes each
/// composited picture before the encoder takes it; of a lossless segment, the decoded pictures have the same
/// hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameHash(pub [u8; 16]);

impl Picture {
    /// Makes a black picture, with luma at the bottom of the range and chroma at 128.
    pub fn black(format: PictureFormat) -> Self {
        let luma = format.width as usize * format.height as usize;
        let floor = match format.colour.range {
            ColourRange::Limited => 16,
            ColourRange::Full => 0,
        };
        Self {
            format,
            y: vec![floor; luma],
            u: vec![128; luma / 4],
            v: vec![128; luma / 4],
        }
    }

    /// Hashes the planes Y, U, V in this order.
    pub fn hash(&self) -> FrameHash {
        FrameHash::of([&self.y[..], &self.u, &self.v])
    }
}

impl FrameHash {
    /// Hashes pieces of planes one after another. Together they must be the rows of Y, then U, then V,
    /// without padding; where the pieces begin and end does not matter.
    pub fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for piece in pieces {
            hasher.update(piece);
        }
        let mut head = [0_u8; 16];
        head.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(head)
    }
}

/// How much two pictures of one frame differ, in 8-bit luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureDifference {
    /// The sum of the squared differences of all samples.
    pub squared_error: u64,
    /// The number of samples.
    pub samples: u64,
    /// The largest difference of one sample, in 0..=255.
    pub largest: u8,
}

impl PictureDifference {
    /// Measures the difference of two planes of one size.
    pub fn between(one: &[u8], other: &[u8]) -> Self {
        let differences = one.iter().zip(other).map(|(a, b)| a.abs_diff(*b));
        let mut difference = Self {
            squared_error: 0,
            samples: one.len() as u64,
            largest: 0,
        };
        for sample in differences {
            difference.squared_error += u64::from(sample).pow(2);
            difference.largest = difference.largest.max(sample);
        }
        difference
    }

    /// Returns the peak signal-to-noise ratio in dB, for a peak of 255; `None` if the pictures are equal.
    pub fn psnr_db(&self) -> Option<f64> {
        let mean = self.squared_error as f64 / self.samples.max(1) as f64;
        (self.squared_error > 0).then(|| 10.0 * (255.0_f64.powi(2) / mean).log10())
    }
}

/// An RGB picture with three bytes a pixel and no padding between rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// The width of the picture in pixels.
    pub width: usize,
    /// The height of the picture in pixels.
    pub height: usize,
    /// The pixels, `height x width x 3`, in the order R, G, B.
    pub data: Vec<u8>,
}
