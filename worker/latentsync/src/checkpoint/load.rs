//! Loads each network from its weight file.

use std::path::Path;

use candle_core::{DType, Device};

use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::options::ExecutionOptions;
use crate::tensors::{LoadReport, TensorFile, VarBuilder, WeightsError};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// Loads the UNet from one file, onto `device` as `dtype`.
///
/// # Errors
/// [`WeightsError::Read`] if the file cannot be read, [`WeightsError::Mismatch`] if its tensors do not fit
/// `config`.
pub fn load_unet(
    path: &Path,
    config: &UNetConfig,
    device: &Device,
    dtype: DType,
    options: ExecutionOptions,
) -> Result<UNet3DConditionModel, WeightsError> {
    load(path, "", (device, dtype), options, |vb| {
        UNet3DConditionModel::load(vb, config)
    })
}

/// Loads the image autoencoder from one file, onto `device` as `dtype`; its attention may have the names of
/// older or of newer diffusers. In a half type the autoencoder keeps the file open, so that it can compute
/// again in `f32` what overflows.
///
/// # Errors
/// [`WeightsError::Read`] if the file cannot be read, [`WeightsError::Mismatch`] if its tensors do not fit
/// `config`.
pub fn load_vae(
    path: &Path,
    config: &VaeConfig,
    device: &Device,
    dtype: DType,
    options: ExecutionOptions,
) -> Result<AutoencoderKl, WeightsError> {
    let vae = load(path, "", (device, dtype), options, |vb| {
        AutoencoderKl::load(vb, config)
    })?;
    if matches!(dtype, DType::F16 | DType::BF16) {
        return Ok(vae.with_f32_fallback(TensorFile::open(path)?, device));
    }
    Ok(vae)
}

/// Loads Whisper's encoder from one file, onto `device` as `dtype`; a decoder in the file is ignored.
///
/// # Errors
/// [`WeightsError::Read`] if the file cannot be read, [`WeightsError::Mismatch`] if its tensors do not fit
/// `dims`.
pub fn load_whisper(
    path: &Path,
    dims: &WhisperDims,
    device: &Device,
    dtype: DType,
    options: ExecutionOptions,
) -> Result<WhisperEncoder, WeightsError> {
    load(path, "encoder.", (device, dtype), options, |vb| {
        WhisperEncoder::load(&vb.pp("encoder"), dims)
    })
}

/// Builds a network from the tensors of a file and checks that all of those under `prefix` are used.
fn load<T>(
    path: &Path,
    prefix: &str,
    (device, dtype): (&Device, DType),
    options: ExecutionOptions,
    build: impl FnOnce(&VarBuilder) -> candle_core::Result<T>,
) -> Result<T, WeightsError> {
    let file = TensorFile::open(path)?;
    let report = LoadReport::default();
    let vb = VarBuilder::root(&file, &report, device, dtype).with_options(options);
    let model = build(&vb).map_err(WeightsError::read(path))?;
    report.finish(&file, prefix, path)?;
    Ok(model)
}
