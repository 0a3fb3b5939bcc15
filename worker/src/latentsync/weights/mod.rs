//! A folder of weights as they are published, found, identified, checked and loaded.
//!
//! | part    | file, the first that exists                                                                   |
//! |---------|-----------------------------------------------------------------------------------------------|
//! | UNet    | `latentsync_unet.{pt,safetensors}`, configuration `unet_config.json` (published if missing)   |
//! | VAE     | `{vae,sd-vae-ft-mse,.}/diffusion_pytorch_model.safetensors`, `config.json` beside it          |
//! | Whisper | `{whisper,.}/tiny.{pt,safetensors}`, its `dims` inside a `.pt` or in `tiny.json` beside it    |
//! | note    | `latentfarm.json`, optional: `{"synthetic": bool, "resolution_px": int, "note": text}`        |

mod digests;
mod error;
mod file;
mod keys;
mod pickle_dims;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use latentfarm_common::digest::{Digest, DigestWriter};
use serde::{Deserialize, Serialize};

pub use error::WeightsError;
pub(super) use file::TensorFile;
pub(super) use keys::{Keys, Ledger};

use super::config::{ConfigError, UNetConfig, VaeConfig, WhisperDims};
use super::pipeline::LatentSync;
use super::unet::UNet3DConditionModel;
use super::vae::AutoencoderKl;
use super::whisper::WhisperEncoder;

/// Side of the face crop where the folder does not say.
const DEFAULT_RESOLUTION_PX: u32 = 256;

const UNET_FILES: &[&str] = &["latentsync_unet.pt", "latentsync_unet.safetensors"];
const VAE_FILES: &[&str] = &[
    "vae/diffusion_pytorch_model.safetensors",
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
];
const WHISPER_FILES: &[&str] = &[
    "whisper/tiny.pt",
    "whisper/tiny.safetensors",
    "tiny.pt",
    "tiny.safetensors",
];

/// The optional note in a folder of weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Random weights, for trying the farm.
    pub synthetic: bool,
    pub resolution_px: Option<u32>,
    pub note: String,
}

/// The weights found in a folder.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    unet: PathBuf,
    vae: PathBuf,
    whisper: PathBuf,
    unet_config: UNetConfig,
    vae_config: VaeConfig,
    dims: WhisperDims,
    note: Note,
    identity: Digest,
}

impl Checkpoint {
    /// Finds the files and reads the configurations. The first time in a folder it reads every file for its
    /// digest; digests are kept beside the weights where the folder can be written.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        let find = |wanted: &'static str, names: &[&str]| {
            names
                .iter()
                .map(|name| dir.join(name))
                .find(|path| path.is_file())
                .ok_or_else(|| WeightsError::NotFound {
                    dir: dir.to_owned(),
                    wanted,
                })
        };
        let unet = find("latentsync_unet.pt", UNET_FILES)?;
        let vae = find("vae/diffusion_pytorch_model.safetensors", VAE_FILES)?;
        let whisper = find("whisper/tiny.pt", WHISPER_FILES)?;

        let unet_config_path = dir.join("unet_config.json");
        let unet_text = read_text(&unet_config_path)?;
        let unet_config = parse(
            &unet_config_path,
            UNetConfig::from_json(unet_text.as_deref().unwrap_or(UNetConfig::PUBLISHED)),
        )?;
        let vae_config_path = vae.with_file_name("config.json");
        let vae_text = read_text(&vae_config_path)?;
        let vae_config = parse(
            &vae_config_path,
            VaeConfig::from_json(vae_text.as_deref().unwrap_or(VaeConfig::PUBLISHED)),
        )?;
        let dims = whisper_dims(&whisper)?;
        if dims.n_audio_state != unet_config.cross_attention_dim {
            return Err(WeightsError::Widths {
                whisper: dims.n_audio_state,
                unet: unet_config.cross_attention_dim,
            });
        }
        let note_path = dir.join("latentfarm.json");
        let note = match read_text(&note_path)? {
            Some(text) => parse(&note_path, serde_json::from_str(&text).map_err(ConfigError::Json))?,
            None => Note::default(),
        };

        // Parsed configurations count, not their text: the published one in a file is the same as none.
        let configs = format!("{unet_config:?} {vae_config:?} {dims:?}");
        let mut hasher = DigestWriter::new();
        for digest in digests::of_files(dir, &[&unet, &vae, &whisper])? {
            hasher.update(digest.as_bytes());
        }
        hasher.update(configs.as_bytes());
        Ok(Self {
            unet,
            vae,
            whisper,
            unet_config,
            vae_config,
            dims,
            note,
            identity: hasher.finish().0,
        })
    }

    /// Digest over the weight files' own digests and the configurations.
    pub fn identity(&self) -> Digest {
        self.identity
    }

    /// Whether these are random weights, for trying the farm.
    pub fn synthetic(&self) -> bool {
        self.note.synthetic
    }

    /// Side of the face crop that the model was made for.
    pub fn resolution_px(&self) -> u32 {
        self.note.resolution_px.unwrap_or(DEFAULT_RESOLUTION_PX)
    }

    /// Size of the three weight files.
    pub fn bytes(&self) -> u64 {
        [&self.unet, &self.vae, &self.whisper]
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Compares the names and shapes of all tensors with the configurations, without reading any.
    ///
    /// # Errors
    /// Every missing, unexpected and misshaped tensor of a file is named in one error.
    pub fn check_tensors(&self) -> Result<Parameters, WeightsError> {
        let unet = check(&self.unet, "", |keys| {
            UNet3DConditionModel::load(keys, &self.unet_config).map(drop)
        })?;
        let vae = check(&self.vae, "", |keys| {
            AutoencoderKl::load(keys, &self.vae_config).map(drop)
        })?;
        check(&self.whisper, "encoder.", |keys| {
            WhisperEncoder::load(&keys.pp("encoder"), &self.dims).map(drop)
        })?;
        Ok(Parameters { unet, vae })
    }

    pub(super) fn load(&self, device: &Device, dtype: DType) -> Result<LatentSync, WeightsError> {
        Ok(LatentSync::new(
            load_unet(&self.unet, &self.unet_config, device, dtype)?,
            load_vae(&self.vae, &self.vae_config, device, dtype)?,
            load_whisper(&self.whisper, &self.dims, device, dtype)?,
            self.dims,
            device,
            dtype,
        ))
    }
}

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

/// Loads the image autoencoder from one file, whichever of the two sets of names it has.
pub fn load_vae(
    path: &Path,
    config: &VaeConfig,
    device: &Device,
    dtype: DType,
) -> Result<AutoencoderKl, WeightsError> {
    load(path, "", device, dtype, |keys| AutoencoderKl::load(keys, config))
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

/// The dims of a Whisper checkpoint: from `NAME.json` beside it, else from inside it.
pub fn whisper_dims(path: &Path) -> Result<WhisperDims, WeightsError> {
    let json_path = path.with_extension("json");
    if let Some(text) = read_text(&json_path)? {
        return parse(&json_path, WhisperDims::from_json(&text));
    }
    let file = TensorFile::open(path)?;
    let shape = |name: &str, axis: usize| {
        file.shape(name)
            .and_then(|shape| shape.get(axis).copied())
            .unwrap_or_default()
    };
    let width = shape("encoder.positional_embedding", 1);
    let layers = (0..).take_while(|i| file.contains(&format!("encoder.blocks.{i}.attn.query.weight")));
    let heads = pickle_dims::read_int(path, "dims", "n_audio_head")
        .and_then(|heads| usize::try_from(heads).ok())
        // Heads of every published Whisper are 64 wide.
        .unwrap_or(width / 64);
    let dims = WhisperDims {
        n_mels: shape("encoder.conv1.weight", 1),
        n_audio_ctx: shape("encoder.positional_embedding", 0),
        n_audio_state: width,
        n_audio_head: heads,
        n_audio_layer: layers.count(),
    };
    parse(path, dims.validate().map(|()| dims))
}

/// Numbers of values in a checkpoint's networks, position tables included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub unet: u64,
    pub vae: u64,
}

/// Number of values that `build` asks for, if the file holds them all.
fn check(
    path: &Path,
    prefix: &str,
    build: impl FnOnce(&Keys) -> candle_core::Result<()>,
) -> Result<u64, WeightsError> {
    let file = TensorFile::open(path)?;
    let ledger = Ledger::default();
    settle(build(&Keys::shapes_of(&file, &ledger)), path)?;
    let values = ledger.values();
    match ledger.finish(&file, prefix) {
        None => Ok(values),
        Some(report) => Err(mismatch(path, report)),
    }
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
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(WeightsError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}
