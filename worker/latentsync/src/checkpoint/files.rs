//! Finds the weight files of a folder and reads their configurations. Opening, checking and converting a
//! checkpoint begin with it.

use std::io;
use std::path::{Path, PathBuf};

use super::metadata::FolderMetadata;
use super::text::read_text;
use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::tensors::{LoadReport, TensorFile, VarBuilder, WeightsError};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// The possible paths of each weight file in the folder; the first that exists is taken.
const UNET_FILES: &[&str] = &["latentsync_unet.pt", "latentsync_unet.safetensors"];
const VAE_FILES: &[&str] = &[
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
    "sd-vae-ft-mse/diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
];
/// The files of both sizes of Whisper that published models were trained with.
const WHISPER_FILES: &[&str] = &[
    "whisper/tiny.pt",
    "whisper/tiny.safetensors",
    "tiny.pt",
    "tiny.safetensors",
    "whisper/small.pt",
    "whisper/small.safetensors",
    "small.pt",
    "small.safetensors",
];

/// The weight files of a folder, their configurations, and the folder's metadata.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointFiles {
    pub(crate) unet: PathBuf,
    pub(crate) vae: PathBuf,
    pub(crate) whisper: PathBuf,
    pub(crate) unet_config: UNetConfig,
    pub(crate) vae_config: VaeConfig,
    pub(crate) dims: WhisperDims,
    pub(crate) metadata: FolderMetadata,
}

impl CheckpointFiles {
    /// Compares the names and shapes of a network's tensors with its configuration, and returns the number of
    /// values in them.
    pub(super) fn check(&self, network: Network) -> Result<u64, WeightsError> {
        let path = match network {
            Network::Unet => &self.unet,
            Network::Vae => &self.vae,
            Network::Whisper => &self.whisper,
        };
        let file = TensorFile::open(path)?;
        let report = LoadReport::default();
        let vb = VarBuilder::shapes_of(&file, &report);
        let built = match network {
            Network::Unet => UNet3DConditionModel::load(&vb, &self.unet_config).map(drop),
            Network::Vae => AutoencoderKl::load(&vb, &self.vae_config).map(drop),
            Network::Whisper => WhisperEncoder::load(&vb.pp("encoder"), &self.dims).map(drop),
        };
        built.map_err(WeightsError::read(path))?;
        let values = report.values();
        report.finish(&file, network.prefix(), path)?;
        Ok(values)
    }

    /// Finds the files and reads the configurations, but no weights.
    pub(super) fn in_dir(dir: &Path) -> Result<Self, WeightsError> {
        // A file that may not be looked at is not missing.
        let present = |names: &[&str]| -> Result<Vec<PathBuf>, WeightsError> {
            let mut files = Vec::new();
            for path in names.iter().map(|name| dir.join(name)) {
                match std::fs::metadata(&path) {
                    Ok(found) if found.is_file() => files.push(path),
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Err(WeightsError::io(&path)(error));
                    }
                    _ => {}
                }
            }
            Ok(files)
        };
        let find = |wanted: &'static str, names: &[&str]| {
            present(names)?
                .into_iter()
                .next()
                .ok_or_else(|| WeightsError::NotFound {
                    dir: dir.to_owned(),
                    wanted,
                })
        };
        let unet = find("latentsync_unet.pt", UNET_FILES)?;
        let vae = find("vae/diffusion_pytorch_model.safetensors", VAE_FILES)?;
        find("whisper/tiny.pt", WHISPER_FILES)?;

        let unet_config_path = dir.join("unet_config.json");
        let unet_text = read_text(&unet_config_path)?;
        let unet_config = UNetConfig::from_json(unet_text.as_deref().unwrap_or(UNetConfig::PUBLISHED))
            .map_err(WeightsError::config(&unet_config_path))?;
        let vae_config_path = vae.with_file_name("config.json");
        let vae_text = read_text(&vae_config_path)?;
        let vae_config = VaeConfig::from_json(vae_text.as_deref().unwrap_or(VaeConfig::PUBLISHED))
            .map_err(WeightsError::config(&vae_config_path))?;
        let (whisper, dims) = fitting_whisper(present(WHISPER_FILES)?, unet_config.cross_attention_dim)?;
        Ok(Self {
            unet,
            vae,
            whisper,
            unet_config,
            vae_config,
            dims,
            metadata: FolderMetadata::read(dir)?.unwrap_or_default(),
        })
    }

    /// Returns the three networks with their weight files.
    pub(super) fn weight_files(&self) -> [(Network, &Path); 3] {
        [
            (Network::Unet, self.unet.as_path()),
            (Network::Vae, self.vae.as_path()),
            (Network::Whisper, self.whisper.as_path()),
        ]
    }
}

/// One of the three networks of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Unet,
    Vae,
    Whisper,
}

impl Network {
    /// Returns the prefix of the network's tensor names. Whisper's decoder, which is in the same file, has
    /// another one.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Unet | Self::Vae => "",
            Self::Whisper => "encoder.",
        }
    }
}

/// Returns the first of the audio encoder's files whose states are as wide as the UNet's cross-attention.
fn fitting_whisper(files: Vec<PathBuf>, width: usize) -> Result<(PathBuf, WhisperDims), WeightsError> {
    let mut refused = None;
    for path in files {
        let error = match whisper_dims(&path) {
            Ok(dims) if dims.n_audio_state == width => return Ok((path, dims)),
            Ok(dims) => WeightsError::Widths {
                path,
                whisper: dims.n_audio_state,
                unet: width,
            },
            Err(error) => error,
        };
        refused.get_or_insert(error);
    }
    Err(refused.unwrap_or_else(|| WeightsError::NotFound {
        dir: PathBuf::new(),
        wanted: "whisper/tiny.pt",
    }))
}

/// Returns the dimensions of a Whisper checkpoint, from `NAME.json` beside it if there is one, else from the
/// file itself.
///
/// # Errors
/// [`WeightsError::Read`] or [`WeightsError::Io`] if a file cannot be read, [`WeightsError::Config`] if the
/// dimensions are not supported.
pub fn whisper_dims(path: &Path) -> Result<WhisperDims, WeightsError> {
    let json_path = path.with_extension("json");
    if let Some(text) = read_text(&json_path)? {
        return WhisperDims::from_json(&text).map_err(WeightsError::config(&json_path));
    }
    let file = TensorFile::open(path)?;
    let shape = |name: &str, axis: usize| {
        file.shape(name)
            .and_then(|shape| shape.get(axis).copied())
            .unwrap_or_default()
    };
    let width = shape("encoder.positional_embedding", 1);
    let layers = (0..).take_while(|i| file.contains(&format!("encoder.blocks.{i}.attn.query.weight")));
    let heads = file
        .dim("n_audio_head")
        // In every published Whisper, a head is 64 wide.
        .unwrap_or(width / 64);
    let dims = WhisperDims {
        n_mels: shape("encoder.conv1.weight", 1),
        n_audio_ctx: shape("encoder.positional_embedding", 0),
        n_audio_state: width,
        n_audio_head: heads,
        n_audio_layer: layers.count(),
    };
    dims.validate().map_err(WeightsError::config(path))?;
    Ok(dims)
}
