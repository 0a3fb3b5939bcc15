//! The names and shapes of all tensors that a network has, without any of them in memory.

use std::collections::BTreeMap;

use candle_core::Result;

use super::{Keys, Ledger, TensorFile};
use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// Shapes by name.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;

/// Tensors of the UNet.
pub fn unet_tensors(config: &UNetConfig) -> Result<TensorShapes> {
    asked_for(|keys| UNet3DConditionModel::load(keys, config).map(drop))
}

/// Tensors of the image autoencoder, by the newer names of its attention layers.
pub fn vae_tensors(config: &VaeConfig) -> Result<TensorShapes> {
    asked_for(|keys| AutoencoderKl::load(keys, config).map(drop))
}

/// Tensors of Whisper's encoder.
pub fn whisper_tensors(dims: &WhisperDims) -> Result<TensorShapes> {
    asked_for(|keys| WhisperEncoder::load(&keys.pp("encoder"), dims).map(drop))
}

fn asked_for(build: impl FnOnce(&Keys) -> Result<()>) -> Result<TensorShapes> {
    let (nothing, ledger) = (TensorFile::nothing(), Ledger::default());
    build(&Keys::shapes_of(&nothing, &ledger))?;
    Ok(ledger.into_wanted())
}
