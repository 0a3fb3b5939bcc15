//! Pictures of which a half type made infinities are made again in `f32`, one at a time.

use candle_core::{DType, Device, Result, Tensor};

use super::{AutoencoderKl, Moments, ToMoments, ToPixels};
use crate::config::VaeConfig;
use crate::error::ModelError;
use crate::finite::is_finite;
use crate::trace::Trace;
use crate::weights::{Keys, Ledger, TensorFile};

/// The weight file that the networks were loaded from. It is mapped, so it costs no memory until it is read,
/// and stays what it was if another is put in its place.
pub(super) struct Original {
    file: TensorFile,
    device: Device,
}

impl AutoencoderKl {
    /// Lets `encode_frame` and `decode_frame` redo in `f32` what overflows.
    pub(crate) fn with_original(self, file: TensorFile, device: &Device) -> Self {
        let original = Some(Original {
            file,
            device: device.clone(),
        });
        Self { original, ..self }
    }

    /// As [`AutoencoderKl::encode`], for the picture of output frame `frame`; the moments are finite.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] where even `f32` gives values that are not.
    pub fn encode_frame(&self, pixels: &Tensor, frame: u64) -> std::result::Result<Moments, ModelError> {
        let failed = |source| ModelError::compute("encode a face", source);
        let moments = self.raw_moments(pixels, &Trace::off()).map_err(failed)?;
        let moments = self.finite_or_redone(moments, "encoding", frame, |keys, config| {
            ToMoments::load(keys, config)?.forward(pixels, &Trace::off())
        })?;
        Moments::from_tensor(&moments).map_err(failed)
    }

    /// As [`AutoencoderKl::decode`], for the latents of output frame `frame`; the pixels are finite.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] where even `f32` gives values that are not.
    pub fn decode_frame(&self, latents: &Tensor, frame: u64) -> std::result::Result<Tensor, ModelError> {
        let pixels = self
            .decode(latents, &Trace::off())
            .map_err(|source| ModelError::compute("decode a face", source))?;
        self.finite_or_redone(pixels, "decoding", frame, |keys, config| {
            ToPixels::load(keys, config)?.forward(latents, &Trace::off())
        })
    }

    /// The weights that `redo` loads are gone when it returns: they take twice the memory of the half type's.
    fn finite_or_redone(
        &self,
        first: Tensor,
        stage: &'static str,
        frame: u64,
        redo: impl FnOnce(&Keys, &VaeConfig) -> Result<Tensor>,
    ) -> std::result::Result<Tensor, ModelError> {
        let failed = |source| ModelError::compute("check a face", source);
        if is_finite(&first).map_err(failed)? {
            return Ok(first);
        }
        drop(first);
        if let Some(original) = &self.original {
            tracing::warn!(
                frame,
                stage,
                dtype = self.to_pixels.dtype.as_str(),
                "values left the type's range; the frame is done again in f32"
            );
            let ledger = Ledger::default();
            let keys = Keys::root(&original.file, &ledger, &original.device, DType::F32);
            let second = redo(&keys, &self.config)
                .map_err(|source| ModelError::compute("do a face again in f32", source))?;
            if is_finite(&second).map_err(failed)? {
                return Ok(second);
            }
        }
        Err(ModelError::NotFinite {
            stage,
            place: format!("frame {frame}"),
            dtype: DType::F32,
        })
    }
}
