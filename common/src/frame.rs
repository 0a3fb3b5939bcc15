//! One decoded picture: 8-bit planar 4:2:0, tightly packed, with the colour description that is needed to go
//! to RGB and back. No FFmpeg here, so that the face code can use it.

use serde::{Deserialize, Serialize};

/// Luma coefficients of the picture's YUV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Matrix {
    /// ITU-R BT.601.
    Bt601,
    /// ITU-R BT.709.
    Bt709,
}

/// Quantisation range of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Range {
    /// Luma 16..=235, chroma 16..=240.
    Limited,
    /// 0..=255.
    Full,
}

/// How samples become colours, and the tags that say so, which are carried to the output as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Colour {
    pub matrix: Matrix,
    pub range: Range,
    /// Tags as ITU-T H.273 code points, exactly as in the source: 2 is "unspecified".
    pub primaries_tag: u8,
    pub transfer_tag: u8,
    pub matrix_tag: u8,
    /// Whether the source states its range; `range` is limited where it does not.
    pub range_tagged: bool,
}

impl Colour {
    /// BT.709 in limited range, all of it tagged: what most HD video is.
    pub const BT709: Self = Self {
        matrix: Matrix::Bt709,
        range: Range::Limited,
        primaries_tag: 1,
        transfer_tag: 1,
        matrix_tag: 1,
        range_tagged: true,
    };
}

/// Size and colour of a video track's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PictureFormat {
    /// In pixels, even, at least 64.
    pub width: u32,
    /// In pixels, even, at least 64.
    pub height: u32,
    pub colour: Colour,
    /// Sample aspect ratio (numerator, denominator); (1, 1) where the source states none.
    pub sample_aspect: (u32, u32),
}

/// A 4:2:0 8-bit picture. Planes have no padding: `y` is `width x height`, `u` and `v` are a quarter of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub format: PictureFormat,
    pub y: Vec<u8>,
    pub u: Vec<u8>,
    pub v: Vec<u8>,
}

/// First 16 bytes of the BLAKE3 hash over the planes Y, U, V of one composited picture, before the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameHash(pub [u8; 16]);

impl Picture {
    /// A black picture (Y at the bottom of the range, chroma at 128).
    pub fn black(format: PictureFormat) -> Self {
        let luma = format.width as usize * format.height as usize;
        let floor = match format.colour.range {
            Range::Limited => 16,
            Range::Full => 0,
        };
        Self {
            format,
            y: vec![floor; luma],
            u: vec![128; luma / 4],
            v: vec![128; luma / 4],
        }
    }

    pub fn hash(&self) -> FrameHash {
        FrameHash::of([&self.y[..], &self.u, &self.v])
    }
}

impl FrameHash {
    /// Hash over the pieces one after another: the rows of Y, then U, then V, without padding.
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

/// An RGB picture, three bytes a pixel, rows without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    pub width: usize,
    pub height: usize,
    /// `height x width x 3`, in the order R, G, B.
    pub data: Vec<u8>,
}
