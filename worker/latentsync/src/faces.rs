//! The faces of a window, as bytes.

use candle_core::{Result, Tensor};

use super::error::ModelError;
use super::preprocess;

/// The faces of one window and where they stand.
#[derive(Clone, Copy)]
pub struct Faces<'a> {
    /// Planar RGB, `frames x 3 x resolution x resolution`.
    pub bytes: &'a [u8],
    /// Side in pixels, a multiple of 64.
    pub resolution: usize,
    /// Output frame number of the first.
    pub first_frame: u64,
}

impl Faces<'_> {
    /// Output frame number of the face at `index`.
    pub(crate) fn frame(&self, index: usize) -> u64 {
        self.first_frame + index as u64
    }

    /// The number of faces.
    pub(crate) fn count(&self) -> std::result::Result<usize, ModelError> {
        let bad = |text: String| Err(ModelError::BadRequest(text));
        let resolution = self.resolution;
        if resolution == 0 || !resolution.is_multiple_of(64) {
            return bad(format!("a resolution of {resolution} px is not a multiple of 64"));
        }
        let count = self.bytes.len() / self.face_bytes();
        if count == 0 || !self.bytes.len().is_multiple_of(self.face_bytes()) {
            return bad(format!(
                "{} bytes are no faces of {resolution} px",
                self.bytes.len()
            ));
        }
        Ok(count)
    }

    /// The face at `index` as pixels.
    pub(crate) fn pixels(&self, index: usize) -> Result<Tensor> {
        let start = index * self.face_bytes();
        preprocess::pixels(&self.bytes[start..start + self.face_bytes()], self.resolution)
    }

    fn face_bytes(&self) -> usize {
        3 * self.resolution * self.resolution
    }
}
