//! The names and shapes of all tensors that a network has, without any of them in memory.

use std::collections::BTreeMap;

use candle_core::Result;

use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::tensors::{LoadReport, TensorFile, VarBuilder};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// Shapes by name.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;

/// Tensors of the UNet.
pub fn unet_tensors(config: &UNetConfig) -> Result<TensorShapes> {
    asked_for(|vb| UNet3DConditionModel::load(vb, config).map(drop))
}

/// Tensors of the image autoencoder, by the newer names of its attention layers.
pub fn vae_tensors(config: &VaeConfig) -> Result<TensorShapes> {
    asked_for(|vb| AutoencoderKl::load(vb, config).map(drop))
}

/// Tensors of Whisper's encoder.
pub fn whisper_tensors(dims: &WhisperDims) -> Result<TensorShapes> {
    asked_for(|vb| WhisperEncoder::load(&vb.pp("encoder"), dims).map(drop))
}

fn asked_for(build: impl FnOnce(&VarBuilder) -> Result<()>) -> Result<TensorShapes> {
    let (nothing, report) = (TensorFile::nothing(), LoadReport::default());
    build(&VarBuilder::shapes_of(&nothing, &report))?;
    Ok(report.into_wanted())
}
