//! A checkpoint is three weight files that belong together. It is identified by their content, which jobs
//! refer to.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use latentfarm_common::digest::{Digest, DigestWriter};
use latentfarm_common::wire::job::WeightsKind;

use super::digest_cache::DigestCache;
use super::files::{CheckpointFiles, Network};
use super::metadata::{METADATA_FILE, PublishedModel};
use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::tensors::{TensorFile, WeightsError};

/// The side of the face crop if the folder's metadata does not give one.
const DEFAULT_RESOLUTION_PX: u32 = 256;

/// The checkpoint in a folder; see [`LatentSync::load`](crate::LatentSync::load).
#[derive(Clone, Debug)]
pub struct Checkpoint {
    files: CheckpointFiles,
    identity: Digest,
}

/// The bytes that a weight of each network takes of the host's memory if the CPU computes: those in the file
/// if it is mapped, else those of an `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesPerWeight {
    /// The bytes of a weight of the UNet.
    pub unet: usize,
    /// The bytes of a weight of the image autoencoder.
    pub vae: usize,
    /// The bytes of a weight of the audio encoder.
    pub whisper: usize,
}

impl BytesPerWeight {
    /// Mapped files in a half type, as `weights convert` and `weights synth` write them.
    pub const HALF: Self = Self {
        unet: 2,
        vae: 2,
        whisper: 2,
    };
}

/// The numbers of values in a checkpoint's networks, position tables included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterCounts {
    /// The values of the UNet.
    pub unet: u64,
    /// The values of the image autoencoder.
    pub vae: u64,
}

impl Checkpoint {
    /// Finds the files of a folder and reads their configurations. The first call for a folder reads every
    /// file to compute its digest; the digests are cached beside the weights if the folder is writable.
    ///
    /// # Errors
    /// Fails if a file is missing or unreadable, or if a configuration is not supported.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        let files = CheckpointFiles::in_dir(dir)?;
        // The parsed configurations are hashed, so that the published one in a file gives the same identity
        // as no file.
        let configs = format!("{:?} {:?} {:?}", files.unet_config, files.vae_config, files.dims);
        let mut hasher = DigestWriter::new();
        let mut digests = DigestCache::read(dir);
        for (_, path) in files.weight_files() {
            hasher.update(digests.of_file(path)?.as_bytes());
        }
        digests.save();
        hasher.update(configs.as_bytes());
        Ok(Self {
            files,
            identity: hasher.finish().0,
        })
    }

    /// Returns the checkpoint's identity, which is the digest of the weight files' digests and of the
    /// configurations.
    pub fn identity(&self) -> Digest {
        self.identity
    }

    /// Returns the weight files and their configurations.
    pub(crate) fn files(&self) -> &CheckpointFiles {
        &self.files
    }

    /// Returns the paths of all files that make up the checkpoint, in the folder that it was opened in: the weight
    /// files, their configurations, and the metadata, as far as they are there.
    pub fn file_names(&self, dir: &Path) -> Vec<String> {
        let CheckpointFiles {
            unet, vae, whisper, ..
        } = &self.files;
        let files = [
            unet.clone(),
            vae.clone(),
            whisper.clone(),
            dir.join("unet_config.json"),
            vae.with_file_name("config.json"),
            whisper.with_extension("json"),
            dir.join(METADATA_FILE),
        ];
        let name = |path: &PathBuf| {
            let inside = path.strip_prefix(dir).unwrap_or(path);
            inside.to_string_lossy().into_owned()
        };
        files.iter().filter(|path| path.is_file()).map(name).collect()
    }

    /// Returns what the weights are.
    pub fn kind(&self) -> WeightsKind {
        self.files.metadata.kind
    }

    /// Returns the number of denoising steps that the weights were trained for, if the folder states it.
    pub fn steps(&self) -> Option<u32> {
        self.files.metadata.steps
    }

    /// Returns the configuration of the UNet.
    pub fn unet_config(&self) -> &UNetConfig {
        &self.files.unet_config
    }

    /// Returns the configuration of the image autoencoder.
    pub fn vae_config(&self) -> &VaeConfig {
        &self.files.vae_config
    }

    /// Returns the dimensions of the audio encoder.
    pub fn whisper_dims(&self) -> WhisperDims {
        self.files.dims
    }

    /// Returns the published model whose memory a simulated GPU charges instead of that of these weights, if
    /// the folder's metadata names one.
    pub fn account_as(&self) -> Option<PublishedModel> {
        self.files.metadata.account_as
    }

    /// Returns the bytes that a weight takes of the host's memory if the CPU computes.
    pub(crate) fn host_bytes_per_weight(&self) -> BytesPerWeight {
        let of = |path: &Path| match TensorFile::open(path)
            .ok()
            .and_then(|file| file.bytes_per_value())
        {
            Some(bytes) => bytes,
            None => DType::F32.size_in_bytes(),
        };
        BytesPerWeight {
            unet: of(&self.files.unet),
            vae: of(&self.files.vae),
            whisper: of(&self.files.whisper),
        }
    }

    /// Returns the side in pixels of the face crop that the model was trained with.
    pub fn resolution_px(&self) -> u32 {
        self.files.metadata.resolution_px.unwrap_or(DEFAULT_RESOLUTION_PX)
    }

    /// Returns the size of the three weight files together.
    pub fn bytes(&self) -> u64 {
        self.files
            .weight_files()
            .iter()
            .filter_map(|(_, path)| fs::metadata(path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Compares the names and shapes of all tensors with the configurations, without reading any.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] names the missing, unexpected and misshaped tensors of a file.
    pub fn check_tensors(&self) -> Result<ParameterCounts, WeightsError> {
        let unet = self.files.check(Network::Unet)?;
        let vae = self.files.check(Network::Vae)?;
        self.files.check(Network::Whisper)?;
        Ok(ParameterCounts { unet, vae })
    }
}
