//! Small random weights in the published layout, for trying a farm with no download. They render noise where
//! the mouth was; whatever is made with them says so.

use std::path::{Path, PathBuf};

use candle_core::{DType, Result};
use half::f16;
use latentfarm_common::digest::Digest;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::config::{ConfigError, UNetConfig, VaeConfig, WhisperDims};
use super::noise::{Purpose, normals_from};
use super::weights::{
    Maker, Note, Planned, TensorShapes, WeightsError, claim, unet_tensors, vae_tensors, whisper_tensors,
    write_json, write_safetensors,
};

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
/// Where the folder holds something that was not made so, or cannot be written.
pub fn synthesize(dir: &Path, size: Size, seed: u64) -> std::result::Result<(), WeightsError> {
    synthesize_watched(dir, size, seed, &mut |_| ())
}

/// As [`synthesize`]; `progress` hears of the bytes written, [`bytes_of`] in all. No more than one tensor is in
/// memory.
pub fn synthesize_watched(
    dir: &Path,
    size: Size,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<(), WeightsError> {
    let plan = size.plan();
    let layout = Layout::of(&plan)?;
    claim(dir, Maker::Synth)?;
    let mut note = Note {
        synthetic: true,
        resolution_px: Some(plan.resolution_px),
        note: format!("random weights, {size:?}, seed {seed}: not a trained model"),
        made_by: Some(Maker::Synth),
        ..Note::default()
    };
    // First of all: whatever of the folder is ever found is marked.
    note.write(dir)?;
    for sub_folder in ["vae", "whisper"] {
        let path = dir.join(sub_folder);
        std::fs::create_dir_all(&path).map_err(|source| WeightsError::Folder { path, source })?;
    }
    write_json(&dir.join("unet_config.json"), &layout.unet_config)?;
    write_json(&dir.join("vae/config.json"), &layout.vae_config)?;
    write_json(&dir.join("whisper/tiny.json"), &dims_json(plan.whisper))?;
    for (name, tensors) in layout.files {
        let mut record = write_safetensors(
            &dir.join(name),
            tensors,
            &mut |tensor, bytes| {
                random_tensor(seed, tensor, bytes);
                Ok(())
            },
            progress,
        )?;
        record.source.push_str("random");
        note.files.insert(name.to_owned(), record);
    }
    note.write(dir)
}

/// Bytes of all tensors of a size.
pub fn bytes_of(size: Size) -> std::result::Result<u64, WeightsError> {
    let layout = Layout::of(&size.plan())?;
    let tensors = layout.files.iter().flat_map(|(_, tensors)| tensors);
    Ok(tensors.map(|tensor| tensor.bytes() as u64).sum())
}

/// What the files hold.
struct Layout {
    unet_config: Value,
    vae_config: Value,
    files: [(&'static str, Vec<Planned>); 3],
}

impl Layout {
    fn of(plan: &Plan) -> std::result::Result<Self, WeightsError> {
        let (unet_json, vae_json) = (unet_config(plan), vae_config(plan));
        let unet = parsed("unet_config.json", UNetConfig::from_json(&unet_json.to_string()))?;
        let vae = parsed("vae/config.json", VaeConfig::from_json(&vae_json.to_string()))?;
        let planned = |name: &'static str, shapes: Result<TensorShapes>| {
            let shapes = shapes.map_err(|source| WeightsError::Write {
                path: PathBuf::from(name),
                source,
            })?;
            let tensors = shapes.into_iter().map(|(name, shape)| Planned {
                dtype: if is_table(&name) { DType::F32 } else { DType::F16 },
                name: published_name(&name),
                shape,
            });
            Ok((name, tensors.collect()))
        };
        Ok(Self {
            unet_config: unet_json,
            vae_config: vae_json,
            files: [
                planned("latentsync_unet.safetensors", unet_tensors(&unet))?,
                planned("vae/diffusion_pytorch_model.safetensors", vae_tensors(&vae))?,
                planned("whisper/tiny.safetensors", whisper_tensors(&plan.whisper))?,
            ],
        })
    }
}

fn parsed<T>(
    name: &str,
    result: std::result::Result<T, ConfigError>,
) -> std::result::Result<T, WeightsError> {
    result.map_err(|source| WeightsError::Config {
        path: PathBuf::from(name),
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

pub(super) fn dims_json(dims: WhisperDims) -> Value {
    json!({
        "n_mels": dims.n_mels,
        "n_audio_ctx": dims.n_audio_ctx,
        "n_audio_state": dims.n_audio_state,
        "n_audio_head": dims.n_audio_head,
        "n_audio_layer": dims.n_audio_layer,
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

/// Position tables are the real sinusoids, not random, and stay in `f32`.
fn is_table(name: &str) -> bool {
    name.ends_with("pos_encoder.pe") || name.ends_with("positional_embedding")
}

/// Values that one thread makes at a time; a multiple of the generator's four.
const BLOCK: usize = 1 << 16;

/// Appends a tensor's values, scaled so that signals keep about their size through a network.
fn random_tensor(seed: u64, tensor: &Planned, bytes: &mut Vec<u8>) {
    let (name, shape) = (tensor.name.as_str(), tensor.shape.as_slice());
    let width = shape.last().copied().unwrap_or(1);
    if is_table(name) {
        let table = if name.ends_with("pos_encoder.pe") {
            interleaved_sinusoid(shape[1], width)
        } else {
            split_sinusoid(shape[0], width)
        };
        bytes.extend(table.into_iter().flat_map(f32::to_le_bytes));
        return;
    }
    let mut hash = [0_u8; 8];
    hash.copy_from_slice(&Digest::of(name.as_bytes()).as_bytes()[..8]);
    let stream = u64::from_le_bytes(hash);
    let (centre, spread) = scale(name, shape);
    bytes.resize(tensor.bytes(), 0);
    let blocks = bytes.par_chunks_mut(BLOCK * size_of::<f16>()).enumerate();
    blocks.for_each(|(index, block)| {
        let first = u32::try_from(index * BLOCK / 4).unwrap_or(u32::MAX);
        let draws = normals_from(seed, Purpose::Weights, stream, first, block.len() / 2);
        for (value, draw) in block.chunks_exact_mut(2).zip(draws) {
            value.copy_from_slice(&f16::from_f32(draw * spread + centre).to_le_bytes());
        }
    });
}

/// Mean and standard deviation of a tensor's values.
fn scale(name: &str, shape: &[usize]) -> (f32, f32) {
    let is_weight = name.ends_with("weight");
    match shape {
        [_] if is_weight => (1.0, 0.1),
        [_] => (0.0, 0.05),
        [_, inputs @ ..] => {
            let fan_in = inputs.iter().product::<usize>() as f32;
            let ends_branch = [
                "conv2.",
                "to_out.",
                "proj_attn.",
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
    }
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
