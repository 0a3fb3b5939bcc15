//! The input faces of a window as bytes, and their conversion to tensors for the pipeline.

use candle_core::{Result, Tensor};

use super::error::ModelError;
use super::preprocess;

/// The input faces of one window, and their place in the output.
#[derive(Clone, Copy)]
pub struct Faces<'a> {
    /// The pixels as planar RGB, `frames x 3 x resolution x resolution`.
    pub bytes: &'a [u8],
    /// The side of a face in pixels, a multiple of 64.
    pub resolution: usize,
    /// The output frame number of the first face.
    pub first_frame: u64,
}

impl Faces<'_> {
    /// Returns the output frame number of the face at `index`.
    pub(crate) fn frame(&self, index: usize) -> u64 {
        self.first_frame + index as u64
    }

    /// Returns the number of faces.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] if the resolution is not a multiple of 64, or if the bytes are no whole
    /// number of faces.
    pub(crate) fn count(&self) -> std::result::Result<usize, ModelError> {
        let bad = |text: String| Err(ModelError::BadRequest(text));
        let resolution = self.resolution;
        if resolution == 0 || !resolution.is_multiple_of(64) {
            return bad(format!("a resolution of {resolution} px is not a multiple of 64"));
        }
        let count = self.bytes.len() / self.face_bytes();
        if count == 0 || !self.bytes.len().is_multiple_of(self.face_bytes()) {
            return bad(format!(
                "{} bytes are not a whole number of faces of {resolution} px",
                self.bytes.len()
            ));
        }
        Ok(count)
    }

    /// Returns the face at `index` as pixels, `(1, 3, R, R)` in -1..1.
    pub(crate) fn pixels(&self, index: usize) -> Result<Tensor> {
        let start = index * self.face_bytes();
        preprocess::pixels(&self.bytes[start..start + self.face_bytes()], self.resolution)
    }

    fn face_bytes(&self) -> usize {
        3 * self.resolution * self.resolution
    }
}
