//! The names and shapes of all tensors of a network, which are listed without loading any. `weights synth`
//! and the memory prediction need them.

use std::collections::BTreeMap;

use candle_core::Result;

use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::tensors::{LoadReport, TensorFile, VarBuilder};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// The shapes of tensors by name.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;

/// Returns the shapes of the tensors of a UNet.
///
/// # Errors
/// Fails if the network cannot be built from its configuration.
pub fn unet_tensors(config: &UNetConfig) -> Result<TensorShapes> {
    requested_shapes(|vb| UNet3DConditionModel::load(vb, config).map(drop))
}

/// Returns the shapes of the tensors of an image autoencoder, with the newer names of its attention layers.
///
/// # Errors
/// Fails if the network cannot be built from its configuration.
pub fn vae_tensors(config: &VaeConfig) -> Result<TensorShapes> {
    requested_shapes(|vb| AutoencoderKl::load(vb, config).map(drop))
}

/// Returns the shapes of the tensors of Whisper's encoder.
///
/// # Errors
/// Fails if the network cannot be built from its dimensions.
pub fn whisper_tensors(dims: &WhisperDims) -> Result<TensorShapes> {
    requested_shapes(|vb| WhisperEncoder::load(&vb.pp("encoder"), dims).map(drop))
}

/// Builds a network from a file without tensors, which records everything that the network requests.
fn requested_shapes(build: impl FnOnce(&VarBuilder) -> Result<()>) -> Result<TensorShapes> {
    let (empty, report) = (TensorFile::empty(), LoadReport::default());
    build(&VarBuilder::shapes_of(&empty, &report))?;
    Ok(report.into_shapes())
}
