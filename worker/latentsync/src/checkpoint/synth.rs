//! Small random weights in the published layout, for trying a farm without a download. They render noise in
//! place of the mouth, and every output that is made with them is marked as synthetic. `latentfarm-worker
//! weights synth` and the tests make them.

use std::path::Path;

use candle_core::{DType, Result};
use half::f16;
use latentfarm_common::digest::Digest;
use latentfarm_common::wire::job::WeightsKind;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::metadata::{FolderMetadata, MadeBy, prepare_folder};
use super::shapes::{TensorShapes, unet_tensors, vae_tensors, whisper_tensors};
use super::text::{dims_json, write_json};
use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::noise::{DrawPurpose, normals_from};
use crate::tensors::{TensorSpec, WeightsError, write_safetensors};

/// The size of the synthetic networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The size for tests, with which a window takes a fraction of a second.
    Tiny,
    /// The size for trying a farm, with which a window takes some seconds.
    Small,
    /// The sizes of the published model at 256 px, for measurements.
    Full,
}

/// The numbers that the configurations of the synthetic networks are made from.
struct SynthSizes {
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
    fn sizes(self) -> SynthSizes {
        let whisper = |width, heads, layers| WhisperDims {
            n_mels: 80,
            n_audio_ctx: 1500,
            n_audio_state: width,
            n_audio_head: heads,
            n_audio_layer: layers,
        };
        match self {
            Self::Full => SynthSizes {
                resolution_px: 256,
                layers_per_block: 2,
                unet_channels: [320, 640, 1280, 1280],
                unet_groups: 32,
                unet_heads: 8,
                vae_channels: [128, 256, 512, 512],
                vae_groups: 32,
                whisper: whisper(384, 6, 4),
            },
            Self::Tiny => SynthSizes {
                resolution_px: 64,
                layers_per_block: 1,
                unet_channels: [32; 4],
                unet_groups: 8,
                unet_heads: 8,
                vae_channels: [8, 16, 32, 16],
                vae_groups: 8,
                whisper: whisper(64, 2, 2),
            },
            Self::Small => SynthSizes {
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
/// [`WeightsError::Foreign`] if the folder holds anything but an earlier synthetic checkpoint; another error
/// if it cannot be written.
pub fn synthesize(dir: &Path, size: Size, seed: u64) -> std::result::Result<(), WeightsError> {
    synthesize_watched(dir, size, seed, &mut |_| ())
}

/// Does the same as [`synthesize`] and calls `progress` with the numbers of bytes that were written, in all
/// [`bytes_of`]. No more than one tensor is in memory.
///
/// # Errors
/// See [`synthesize`].
pub fn synthesize_watched(
    dir: &Path,
    size: Size,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> std::result::Result<(), WeightsError> {
    let sizes = size.sizes();
    let files = SynthFiles::of(&sizes)?;
    prepare_folder(dir, MadeBy::Synth)?;
    let mut metadata = FolderMetadata {
        kind: WeightsKind::Synthetic,
        resolution_px: Some(sizes.resolution_px),
        note: format!("random weights, {size:?}, seed {seed}: not a trained model"),
        made_by: Some(MadeBy::Synth),
        ..FolderMetadata::default()
    };
    // The metadata are written first, so that even an unfinished folder is marked as synthetic.
    metadata.write(dir)?;
    for sub_folder in ["vae", "whisper"] {
        let path = dir.join(sub_folder);
        std::fs::create_dir_all(&path).map_err(WeightsError::folder(&path))?;
    }
    write_json(&dir.join("unet_config.json"), &files.unet_config)?;
    write_json(&dir.join("vae/config.json"), &files.vae_config)?;
    write_json(&dir.join("whisper/tiny.json"), &dims_json(sizes.whisper))?;
    for (name, tensors) in files.files {
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
        metadata.files.insert(name.to_owned(), record);
    }
    metadata.write(dir)
}

/// Returns the bytes of all tensors of a synthetic checkpoint, for a progress bar.
///
/// # Errors
/// Fails only if this module's own sizes are not supported.
pub fn bytes_of(size: Size) -> std::result::Result<u64, WeightsError> {
    let files = SynthFiles::of(&size.sizes())?;
    let tensors = files.files.iter().flat_map(|(_, tensors)| tensors);
    Ok(tensors.map(|tensor| tensor.bytes() as u64).sum())
}

/// The configurations and the tensors of a synthetic checkpoint, by file.
struct SynthFiles {
    unet_config: Value,
    vae_config: Value,
    files: [(&'static str, Vec<TensorSpec>); 3],
}

impl SynthFiles {
    fn of(sizes: &SynthSizes) -> std::result::Result<Self, WeightsError> {
        let (unet_json, vae_json) = (unet_config(sizes), vae_config(sizes));
        let unet = UNetConfig::from_json(&unet_json.to_string())
            .map_err(WeightsError::config(Path::new("unet_config.json")))?;
        let vae = VaeConfig::from_json(&vae_json.to_string())
            .map_err(WeightsError::config(Path::new("vae/config.json")))?;
        let specs = |name: &'static str, shapes: Result<TensorShapes>| {
            let shapes = shapes.map_err(WeightsError::write(Path::new(name)))?;
            let tensors = shapes.into_iter().map(|(name, shape)| TensorSpec {
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
                specs("latentsync_unet.safetensors", unet_tensors(&unet))?,
                specs("vae/diffusion_pytorch_model.safetensors", vae_tensors(&vae))?,
                specs("whisper/tiny.safetensors", whisper_tensors(&sizes.whisper))?,
            ],
        })
    }
}

/// Returns the published configuration of the UNet with other sizes.
fn unet_config(sizes: &SynthSizes) -> Value {
    let mut config: Value = serde_json::from_str(UNetConfig::PUBLISHED).unwrap_or_default();
    config["block_out_channels"] = json!(sizes.unet_channels);
    config["layers_per_block"] = json!(sizes.layers_per_block);
    config["norm_num_groups"] = json!(sizes.unet_groups);
    config["attention_head_dim"] = json!(sizes.unet_heads);
    config["cross_attention_dim"] = json!(sizes.whisper.n_audio_state);
    config
}

/// Returns the published configuration of the image autoencoder with other sizes.
fn vae_config(sizes: &SynthSizes) -> Value {
    let mut config: Value = serde_json::from_str(VaeConfig::PUBLISHED).unwrap_or_default();
    config["block_out_channels"] = json!(sizes.vae_channels);
    config["layers_per_block"] = json!(sizes.layers_per_block);
    config["norm_num_groups"] = json!(sizes.vae_groups);
    config
}

/// Returns the name that published autoencoders have for a tensor: that of older diffusers for the attention,
/// which [`AutoencoderKl`](crate::vae::AutoencoderKl) reads as well as the newer one.
fn published_name(name: &str) -> String {
    if !name.contains("mid_block.attentions.0.") || name.contains("transformer_blocks") {
        return name.to_owned();
    }
    name.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn.")
}

/// Returns whether a tensor is a position table. Position tables are not random but the real sinusoids, and
/// are `f32`.
fn is_table(name: &str) -> bool {
    name.ends_with("pos_encoder.pe") || name.ends_with("positional_embedding")
}

/// The number of values that one thread draws at a time. It is a multiple of the four that the generator
/// draws at once.
const BLOCK: usize = 1 << 16;

/// Appends the values of a tensor, scaled so that signals keep about their size through a network.
fn random_tensor(seed: u64, tensor: &TensorSpec, bytes: &mut Vec<u8>) {
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
        let draws = normals_from(
            seed,
            DrawPurpose::SyntheticWeights,
            stream,
            first,
            block.len() / 2,
        );
        for (value, draw) in block.chunks_exact_mut(2).zip(draws) {
            value.copy_from_slice(&f16::from_f32(draw * spread + centre).to_le_bytes());
        }
    });
}

/// Returns the mean and the standard deviation of a tensor's values.
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

/// Returns the position table of the published motion modules: sines in even columns, cosines in odd ones.
fn interleaved_sinusoid(positions: usize, width: usize) -> Vec<f32> {
    sinusoid(positions, width, |column| {
        let frequency = (-(10_000.0_f64.ln()) * (column - column % 2) as f64 / width as f64).exp();
        (frequency, column % 2 == 1)
    })
}

/// Returns the position table of Whisper: sines in the first half of the columns, cosines in the second.
fn split_sinusoid(positions: usize, width: usize) -> Vec<f32> {
    let half = width / 2;
    sinusoid(positions, width, |column| {
        let frequency = (-(10_000.0_f64.ln()) * (column % half) as f64 / (half - 1) as f64).exp();
        (frequency, column >= half)
    })
}

/// Returns a table of sinusoids; `column` gives the frequency of a column and whether it is a cosine.
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
