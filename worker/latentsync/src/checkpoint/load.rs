//! Each network from its weight file.

use std::path::Path;

use candle_core::{DType, Device};

use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::options::ExecutionOptions;
use crate::tensors::{LoadReport, TensorFile, VarBuilder, WeightsError};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// Loads the UNet from one file.
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

/// Loads the image autoencoder from one file, whichever of the two sets of names it has. As a half type it keeps
/// the file open, to redo in `f32` what overflows.
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
        return Ok(vae.with_original(TensorFile::open(path)?, device));
    }
    Ok(vae)
}

/// Loads Whisper's encoder from one file; the decoder in it is left alone.
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

pub(super) fn settle<T>(built: candle_core::Result<T>, path: &Path) -> Result<T, WeightsError> {
    built.map_err(|source| WeightsError::Read {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn mismatch(path: &Path, report: String) -> WeightsError {
    WeightsError::Mismatch {
        path: path.to_owned(),
        report,
    }
}

fn load<T>(
    path: &Path,
    prefix: &str,
    (device, dtype): (&Device, DType),
    options: ExecutionOptions,
    build: impl FnOnce(&VarBuilder) -> candle_core::Result<T>,
) -> Result<T, WeightsError> {
    let file = TensorFile::open(path)?;
    let report = LoadReport::default();
    let model = settle(
        build(&VarBuilder::root(&file, &report, device, dtype).with_options(options)),
        path,
    )?;
    match report.finish(&file, prefix) {
        None => Ok(model),
        Some(report) => Err(mismatch(path, report)),
    }
}
