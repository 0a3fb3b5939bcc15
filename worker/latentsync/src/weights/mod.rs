//! A folder of weights as they are published, found, identified, checked and loaded.
//!
//! | part    | file, the first that exists                                                                   |
//! |---------|-----------------------------------------------------------------------------------------------|
//! | UNet    | `latentsync_unet.{pt,safetensors}`, configuration `unet_config.json` (published if missing)   |
//! | VAE     | `{vae,sd-vae-ft-mse,.}/diffusion_pytorch_model.{safetensors,bin}`, `config.json` beside it    |
//! | Whisper | `{whisper,.}/{tiny,small}.{pt,safetensors}`, as wide as the UNet's `cross_attention_dim`;     |
//! |         | its `dims` in `tiny.json` or `small.json` beside it, or inside the file                       |
//! | note    | `latentfarm.json`, optional: see [`Note`]                                                     |

mod checkpoint;
mod convert;
mod digests;
mod error;
mod file;
mod find;
mod keys;
mod mapped;
mod note;
mod pickle_dims;
mod residence;
mod verify;
mod wanted;
mod writer;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

pub use checkpoint::{Checkpoint, HostBytes, Parameters};
pub use convert::{StoredAs, convert, converted_bytes};
pub use error::WeightsError;
pub(super) use file::TensorFile;
pub use find::whisper_dims;
pub(super) use keys::{Keys, Ledger};
pub(super) use mapped::{MappedTensor, Values};
pub use note::{AccountAs, FileRecord, Maker, NOTE_FILE, Note};
pub(super) use note::{claim, write_json};
pub(super) use residence::{Residence, Slot};
pub use verify::{DigestVerdict, FileVerdict, verify};
pub use wanted::{TensorShapes, unet_tensors, vae_tensors, whisper_tensors};
pub(super) use writer::{Planned, write_safetensors};

use super::config::{ConfigError, UNetConfig, VaeConfig, WhisperDims};
use super::unet::UNet3DConditionModel;
use super::vae::AutoencoderKl;
use super::whisper::WhisperEncoder;

/// Loads the UNet from one file.
pub fn load_unet(
    path: &Path,
    config: &UNetConfig,
    device: &Device,
    dtype: DType,
) -> Result<UNet3DConditionModel, WeightsError> {
    load(path, "", device, dtype, |keys| {
        UNet3DConditionModel::load(keys, config)
    })
}

/// Loads the image autoencoder from one file, whichever of the two sets of names it has. As a half type it keeps
/// the file open, to redo in `f32` what overflows.
pub fn load_vae(
    path: &Path,
    config: &VaeConfig,
    device: &Device,
    dtype: DType,
) -> Result<AutoencoderKl, WeightsError> {
    let vae = load(path, "", device, dtype, |keys| AutoencoderKl::load(keys, config))?;
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
) -> Result<WhisperEncoder, WeightsError> {
    load(path, "encoder.", device, dtype, |keys| {
        WhisperEncoder::load(&keys.pp("encoder"), dims)
    })
}

/// Names and shapes of the tensors in a weight file, sorted.
pub fn list_tensors(path: &Path) -> Result<Vec<(String, Vec<usize>)>, WeightsError> {
    let file = TensorFile::open(path)?;
    let shaped = file.names().into_iter().map(|name| {
        let shape = file.shape(&name).unwrap_or_default();
        (name, shape)
    });
    Ok(shaped.collect())
}

/// One tensor of a weight file, as stored.
pub fn read_tensor(path: &Path, name: &str) -> Result<Tensor, WeightsError> {
    let loaded = TensorFile::open(path)?
        .load(name)
        .map_err(|source| WeightsError::Read {
            path: path.to_owned(),
            source,
        })?;
    loaded.ok_or_else(|| WeightsError::Mismatch {
        path: path.to_owned(),
        report: format!("1 missing: {name}"),
    })
}

fn settle<T>(built: candle_core::Result<T>, path: &Path) -> Result<T, WeightsError> {
    built.map_err(|source| WeightsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn mismatch(path: &Path, report: String) -> WeightsError {
    WeightsError::Mismatch {
        path: path.to_owned(),
        report,
    }
}

fn load<T>(
    path: &Path,
    prefix: &str,
    device: &Device,
    dtype: DType,
    build: impl FnOnce(&Keys) -> candle_core::Result<T>,
) -> Result<T, WeightsError> {
    let file = TensorFile::open(path)?;
    let ledger = Ledger::default();
    let model = settle(build(&Keys::root(&file, &ledger, device, dtype)), path)?;
    match ledger.finish(&file, prefix) {
        None => Ok(model),
        Some(report) => Err(mismatch(path, report)),
    }
}

fn parse<T>(path: &Path, parsed: Result<T, ConfigError>) -> Result<T, WeightsError> {
    parsed.map_err(|source| WeightsError::Config {
        path: path.to_owned(),
        source,
    })
}

/// The text of a file, `None` where there is none.
fn read_text(path: &Path) -> Result<Option<String>, WeightsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WeightsError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}
