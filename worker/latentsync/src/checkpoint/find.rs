//! Where the files are in a folder of weights, and what their configurations say.

use std::path::{Path, PathBuf};

use super::load::{mismatch, settle};
use super::note::Note;
use super::pickle_dims;
use super::text::{parse, read_text};
use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::tensors::{LoadReport, TensorFile, VarBuilder, WeightsError};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

const UNET_FILES: &[&str] = &["latentsync_unet.pt", "latentsync_unet.safetensors"];
const VAE_FILES: &[&str] = &[
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
    "sd-vae-ft-mse/diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
];
/// Sizes of Whisper that the model was trained with.
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

/// The files of a folder and their configurations.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) unet: PathBuf,
    pub(super) vae: PathBuf,
    pub(super) whisper: PathBuf,
    pub(super) unet_config: UNetConfig,
    pub(super) vae_config: VaeConfig,
    pub(super) dims: WhisperDims,
    pub(super) note: Note,
}

impl Found {
    /// Number of values in a network, if its file holds them all.
    pub(super) fn check(&self, part: Part) -> Result<u64, WeightsError> {
        let path = match part {
            Part::Unet => &self.unet,
            Part::Vae => &self.vae,
            Part::Whisper => &self.whisper,
        };
        let file = TensorFile::open(path)?;
        let report = LoadReport::default();
        let vb = VarBuilder::shapes_of(&file, &report);
        let built = match part {
            Part::Unet => UNet3DConditionModel::load(&vb, &self.unet_config).map(drop),
            Part::Vae => AutoencoderKl::load(&vb, &self.vae_config).map(drop),
            Part::Whisper => WhisperEncoder::load(&vb.pp("encoder"), &self.dims).map(drop),
        };
        settle(built, path)?;
        let values = report.values();
        match report.finish(&file, part.prefix()) {
            None => Ok(values),
            Some(report) => Err(mismatch(path, report)),
        }
    }

    /// Finds the files and reads the configurations, but no weights.
    pub(super) fn in_dir(dir: &Path) -> Result<Self, WeightsError> {
        let present = |names: &[&str]| -> Vec<PathBuf> {
            names
                .iter()
                .map(|name| dir.join(name))
                .filter(|path| path.is_file())
                .collect()
        };
        let find = |wanted: &'static str, names: &[&str]| {
            present(names)
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
        let (whisper, dims) = fitting_whisper(present(WHISPER_FILES), unet_config.cross_attention_dim)?;
        Ok(Self {
            unet,
            vae,
            whisper,
            unet_config,
            vae_config,
            dims,
            note: Note::read(dir)?.unwrap_or_default(),
        })
    }

    /// The three weight files with the start of the names that are used of each.
    pub(super) fn files(&self) -> [(Part, &Path); 3] {
        [
            (Part::Unet, self.unet.as_path()),
            (Part::Vae, self.vae.as_path()),
            (Part::Whisper, self.whisper.as_path()),
        ]
    }
}

/// One of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Unet,
    Vae,
    Whisper,
}

impl Part {
    /// How the names of its tensors start. Whisper's decoder, in the same file, is left alone.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Unet | Self::Vae => "",
            Self::Whisper => "encoder.",
        }
    }
}

/// The first of the files that is as wide as the UNet wants.
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
