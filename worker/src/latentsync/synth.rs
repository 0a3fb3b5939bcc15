//! Small random weights in the published layout, for trying a farm with no download. They render noise where
//! the mouth was; whatever is made with them says so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use latentfarm_common::digest::Digest;
use serde_json::{Value, json};

use super::config::{ConfigError, UNetConfig, VaeConfig, WhisperDims};
use super::noise::{Purpose, normals};
use super::unet::UNet3DConditionModel;
use super::vae::AutoencoderKl;
use super::weights::{Keys, Ledger, Note, TensorFile, WeightsError};
use super::whisper::WhisperEncoder;

/// How large the synthetic networks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// For tests: a window takes a fraction of a second.
    Tiny,
    /// For trying a farm: seconds a window.
    Small,
    /// The published sizes, 256 px: for measuring.
    Full,
}

struct Plan {
    resolution_px: u32,
    layers_per_block: usize,
    unet_channels: [usize; 4],
    unet_groups: usize,
    unet_heads: usize,
    vae_channels: [usize; 4],
    vae_groups: usize,
    whisper: WhisperDims,
}

impl Size {
    fn plan(self) -> Plan {
        let whisper = |width, heads, layers| WhisperDims {
            n_mels: 80,
            n_audio_ctx: 1500,
            n_audio_state: width,
            n_audio_head: heads,
            n_audio_layer: layers,
        };
        match self {
            Self::Full => Plan {
                resolution_px: 256,
                layers_per_block: 2,
                unet_channels: [320, 640, 1280, 1280],
                unet_groups: 32,
                unet_heads: 8,
                vae_channels: [128, 256, 512, 512],
                vae_groups: 32,
                whisper: whisper(384, 6, 4),
            },
            Self::Tiny => Plan {
                resolution_px: 64,
                layers_per_block: 1,
                unet_channels: [32; 4],
                unet_groups: 8,
                unet_heads: 8,
                vae_channels: [8, 16, 32, 16],
                vae_groups: 8,
                whisper: whisper(64, 2, 2),
            },
            Self::Small => Plan {
                resolution_px: 256,
                layers_per_block: 1,
                unet_channels: [32, 64, 128, 128],
                unet_groups: 32,
                unet_heads: 2,
                vae_channels: [16, 16, 32, 32],
                vae_groups: 16,
                whisper: whisper(128, 2, 4),
            },
        }
    }
}

/// Writes a random checkpoint into `dir`, which is made if it is missing. Equal seeds give equal files.
///
/// # Errors
/// Where the folder cannot be written.
pub fn synthesize(dir: &Path, size: Size, seed: u64) -> std::result::Result<(), WeightsError> {
    let plan = size.plan();
    for folder in [dir.to_owned(), dir.join("vae"), dir.join("whisper")] {
        std::fs::create_dir_all(&folder).map_err(|source| WeightsError::Io { path: folder, source })?;
    }

    let unet_path = dir.join("unet_config.json");
    let unet_json = unet_config(&plan);
    let unet_config = parsed(&unet_path, UNetConfig::from_json(&unet_json.to_string()))?;
    let vae_path = dir.join("vae/config.json");
    let vae_json = vae_config(&plan);
    let vae_config = parsed(&vae_path, VaeConfig::from_json(&vae_json.to_string()))?;
    let dims = plan.whisper;

    write_json(&unet_path, &unet_json)?;
    write_json(&vae_path, &vae_json)?;
    write_json(&dir.join("whisper/tiny.json"), &dims_json(dims))?;
    let note = Note {
        synthetic: true,
        resolution_px: Some(plan.resolution_px),
        note: format!("random weights, {size:?}, seed {seed}: not a trained model"),
    };
    write_json(&dir.join("latentfarm.json"), &json!(note))?;

    write_tensors(&dir.join("latentsync_unet.safetensors"), seed, |keys| {
        UNet3DConditionModel::load(keys, &unet_config).map(drop)
    })?;
    write_tensors(
        &dir.join("vae/diffusion_pytorch_model.safetensors"),
        seed,
        |keys| AutoencoderKl::load(keys, &vae_config).map(drop),
    )?;
    write_tensors(&dir.join("whisper/tiny.safetensors"), seed, |keys| {
        WhisperEncoder::load(&keys.pp("encoder"), &dims).map(drop)
    })
}

fn parsed<T>(
    path: &Path,
    result: std::result::Result<T, ConfigError>,
) -> std::result::Result<T, WeightsError> {
    result.map_err(|source| WeightsError::Config {
        path: path.to_owned(),
        source,
    })
}

/// The published configuration with other sizes.
fn unet_config(plan: &Plan) -> Value {
    let mut config: Value = serde_json::from_str(UNetConfig::PUBLISHED).unwrap_or_default();
    config["block_out_channels"] = json!(plan.unet_channels);
    config["layers_per_block"] = json!(plan.layers_per_block);
    config["norm_num_groups"] = json!(plan.unet_groups);
    config["attention_head_dim"] = json!(plan.unet_heads);
    config["cross_attention_dim"] = json!(plan.whisper.n_audio_state);
    config
}

fn vae_config(plan: &Plan) -> Value {
    let mut config: Value = serde_json::from_str(VaeConfig::PUBLISHED).unwrap_or_default();
    config["block_out_channels"] = json!(plan.vae_channels);
    config["layers_per_block"] = json!(plan.layers_per_block);
    config["norm_num_groups"] = json!(plan.vae_groups);
    config
}

fn dims_json(dims: WhisperDims) -> Value {
    json!({
        "n_mels": dims.n_mels,
        "n_audio_ctx": dims.n_audio_ctx,
        "n_audio_state": dims.n_audio_state,
        "n_audio_head": dims.n_audio_head,
        "n_audio_layer": dims.n_audio_layer,
    })
}

fn write_json(path: &Path, value: &Value) -> std::result::Result<(), WeightsError> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file with every tensor that `build` asks for.
fn write_tensors(
    path: &Path,
    seed: u64,
    build: impl FnOnce(&Keys) -> Result<()>,
) -> std::result::Result<(), WeightsError> {
    let save = || -> Result<()> {
        let (nothing, ledger) = (TensorFile::nothing(), Ledger::default());
        build(&Keys::root(&nothing, &ledger, &Device::Cpu, DType::F32))?;
        let tensors: HashMap<String, Tensor> = ledger
            .into_wanted()
            .into_iter()
            .map(|(name, shape)| Ok((published_name(&name), random_tensor(seed, &name, &shape)?)))
            .collect::<Result<_>>()?;
        candle_core::safetensors::save(&tensors, path)
    };
    save().map_err(|source| WeightsError::Write {
        path: PathBuf::from(path),
        source,
    })
}

/// Published autoencoders have older names for their attention than newer software uses.
fn published_name(name: &str) -> String {
    if !name.contains("mid_block.attentions.0.") || name.contains("transformer_blocks") {
        return name.to_owned();
    }
    name.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn.")
}

/// Scaled so that signals keep about their size through a network; position tables are the real sinusoids.
fn random_tensor(seed: u64, name: &str, shape: &[usize]) -> Result<Tensor> {
    let width = shape.last().copied().unwrap_or(1);
    if name.ends_with("pos_encoder.pe") {
        return Tensor::from_vec(interleaved_sinusoid(shape[1], width), shape, &Device::Cpu);
    }
    if name.ends_with("positional_embedding") {
        return Tensor::from_vec(split_sinusoid(shape[0], width), shape, &Device::Cpu);
    }
    let mut hash = [0_u8; 8];
    hash.copy_from_slice(&Digest::of(name.as_bytes()).as_bytes()[..8]);
    let draws = normals(
        seed,
        Purpose::Weights,
        u64::from_le_bytes(hash),
        shape.iter().product(),
    );
    let is_weight = name.ends_with("weight");
    let (centre, spread) = match shape {
        [_] if is_weight => (1.0, 0.1),
        [_] => (0.0, 0.05),
        [_, inputs @ ..] => {
            let fan_in = inputs.iter().product::<usize>() as f64;
            let ends_branch = [
                "conv2.",
                "to_out.",
                "ff.net.2.",
                "proj_out.",
                "attn.out.",
                "mlp.2.",
            ];
            let gain = if ends_branch.iter().any(|part| name.contains(part)) {
                0.5
            } else {
                1.0
            };
            (0.0, gain / fan_in.sqrt())
        }
        [] => (0.0, 1.0),
    };
    let tensor = (Tensor::from_vec(draws, shape, &Device::Cpu)? * spread)? + centre;
    tensor?.to_dtype(DType::F16)
}

/// Sines in even columns, cosines in odd ones, as in the published motion modules.
fn interleaved_sinusoid(positions: usize, width: usize) -> Vec<f32> {
    sinusoid(positions, width, |column| {
        let frequency = (-(10_000.0_f64.ln()) * (column - column % 2) as f64 / width as f64).exp();
        (frequency, column % 2 == 1)
    })
}

/// Sines in the first half of the columns, cosines in the second, as in Whisper.
fn split_sinusoid(positions: usize, width: usize) -> Vec<f32> {
    let half = width / 2;
    sinusoid(positions, width, |column| {
        let frequency = (-(10_000.0_f64.ln()) * (column % half) as f64 / (half - 1) as f64).exp();
        (frequency, column >= half)
    })
}

fn sinusoid(positions: usize, width: usize, column: impl Fn(usize) -> (f64, bool)) -> Vec<f32> {
    (0..positions * width)
        .map(|i| {
            let (frequency, is_cosine) = column(i % width);
            let angle = (i / width) as f64 * frequency;
            let value = if is_cosine { angle.cos() } else { angle.sin() };
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
            let rounded = value as f32;
            rounded
        })
        .collect()
}
